"""Digests: the part of a value that answers a question, in the shape of the value and within a budget.

    {"findings": [200 of them], "log": "180 KB", "ok": true}
                       |  query "rate limit", at most 8,000 bytes
    {"findings": [the 9 best, best first], "log": "first passage\\n[…]\\nanother one", "ok": true}

What is kept is kept as it was: elements of a list whole, with their citations, texts in whole
passages. Scalars stay, and so do the keys of a dict; what is too large shares the room fairly with
its neighbours, so that one long text does not cost the others their place. Sizes are those of
the value packed as JSON in UTF-8, without spaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_actors.messages.passages import Passage, split_passages
from sage_actors.messages.ranking import PassageIndex, Seen
from sage_actors.messages.tokens import count_tokens, tokenizer_name

__all__ = ["CUT", "DigestCount", "digest_value"]

CUT = "[…]"
"""Stands in a text where passages were left out."""

_JOIN = f"\n{CUT}\n"
_CUT_BYTES = 7  # of CUT as a JSON string
_PASSAGE_CHARS = 700
_SHARES = 4  # an element of a long list gets at least this part of the list's room before it is cut
_DEPTH = 32  # deeper values are taken or left whole
_TEXT_CHARS = 4000  # of an element, looked at when it is ranked
_ROUNDS = 8  # attempts at finding the bytes that a number of tokens allows


@dataclass(frozen=True, slots=True)
class DigestCount:
    """What was there and what was kept, of the JSON form: bytes, and tokens as `tokenizer` counts them."""

    raw_bytes: int
    kept_bytes: int
    raw_tokens: int
    kept_tokens: int
    tokenizer: str


def digest_value(
    value: Any,
    query: str,
    *,
    max_tokens: int | None = None,
    max_bytes: int | None = None,
    top: int | None = None,
    threshold: float = 0.0,
) -> tuple[Any, DigestCount]:
    """The part of `value` (as JSON has them) that is most relevant to `query`, and how much it is.

    A value within its limits is returned as it is: the same object.

    max_tokens, max_bytes: of the result packed as JSON; None is no limit. top: elements at most of
    the outermost lists, best first. threshold: 0 to 1, share of the best element's score below which
    elements of those lists are left out, if any element has something to do with the query.

    A limit that nothing can meet gives the least that says what was there: `[…]` for a text, an empty
    list, a dict of as many of its entries as fit; scalars are never changed.
    """
    raw = _packed(value)
    kept = value
    if top is not None or threshold > 0:
        kept = _Digest(query, top, threshold).filtered(value)
    if max_bytes is not None and _size(kept) > max_bytes:
        kept = _Digest(query).within(kept, max_bytes)
    if max_tokens is not None:
        kept = _within_tokens(kept, _Digest(query), max_tokens)
    packed = raw if kept is value else _packed(kept)
    raw_tokens = count_tokens(raw)
    return kept, DigestCount(
        raw_bytes=_utf8(raw),
        kept_bytes=_utf8(packed),
        raw_tokens=raw_tokens,
        kept_tokens=raw_tokens if packed is raw else count_tokens(packed),
        tokenizer=tokenizer_name(len(raw)),
    )


def _within_tokens(value: Any, digest: _Digest, max_tokens: int) -> Any:
    """Tokens do not add up as bytes do: look for the largest number of bytes that holds few enough."""
    packed = _packed(value)
    tokens = count_tokens(packed)
    if tokens <= max_tokens:
        return value
    low, high = 0, _utf8(packed)
    guess = int(high * max_tokens / tokens)
    best: Any = digest.within(value, 0)
    for _ in range(_ROUNDS):
        kept = digest.within(value, guess)
        tokens = count_tokens(_packed(kept))
        if tokens <= max_tokens:
            best, low = kept, guess
            if tokens >= 0.9 * max_tokens:
                break
        else:
            high = guess
        if high - low < 8:
            break
        step = int(guess * max_tokens / max(1, tokens) * 0.98)
        guess = step if low < step < high else (low + high) // 2
    return best


class _Digest:
    """One query, put to every part of a value."""

    def __init__(self, query: str, top: int | None = None, threshold: float = 0.0) -> None:
        self._query, self._top, self._threshold = query, top, threshold

    def filtered(self, value: Any, depth: int = 0) -> Any:
        """`value` with its outermost lists cut to `top` and `threshold`; the same object if nothing was cut."""
        if isinstance(value, Mapping) and depth < _DEPTH:
            parts = {key: self.filtered(part, depth + 1) for key, part in value.items()}
            return value if all(parts[key] is part for key, part in value.items()) else parts
        if isinstance(value, list | tuple):
            return self._best_of(value)
        return value

    def _best_of(self, elements: Sequence[Any]) -> Sequence[Any]:
        if not self._threshold and (self._top is None or len(elements) <= self._top):
            return elements
        order, scores = self._ranked(elements)
        least = scores[order[0]] * self._threshold if order else 0.0
        chosen = [at for at in order if scores[at] >= least][: self._top]
        if len(chosen) == len(elements):
            return elements
        return _like(elements, [elements[at] for at in chosen])

    def within(self, value: Any, room: int, depth: int = 0) -> Any:
        """`value` in at most `room` bytes, or the least that it can be."""
        if _size(value) <= room:
            return value
        if isinstance(value, str):
            return self._text(value, room)
        if depth < _DEPTH:
            if isinstance(value, Mapping):
                return self._mapping(value, room, depth)
            if isinstance(value, list | tuple):
                return self._elements(value, room, depth)
        return _least(value)

    def _text(self, text: str, room: int) -> str:
        """The best passages in the order of the text, with marks where something is missing."""
        if room < _CUT_BYTES:
            return CUT if _size(text) > _CUT_BYTES else text
        room -= 2  # the quotes
        pieces = split_passages(text, "", max_chars=max(1, min(_PASSAGE_CHARS, room // 4)))
        order, _ = _order(pieces, self._query)
        mark = _size(_JOIN) - 2
        chosen: list[int] = []
        room -= mark
        seen = Seen()
        for at in order:
            size = _size(pieces[at].text) - 2 + mark
            if size <= room and seen.is_new(pieces[at].text):
                chosen.append(at)
                room -= size
            if room < mark + 16:
                break
        return _joined(pieces, sorted(chosen))

    def _mapping(self, value: Mapping[Any, Any], room: int, depth: int) -> dict[Any, Any]:
        """Every key, with its value in a fair share of the room; where the keys alone are too much, the best."""
        sizes = {key: _size(part) for key, part in value.items()}
        least = {key: min(sizes[key], _size(_least(part))) for key, part in value.items()}
        costs = {key: _key_size(key) + 2 for key in value}  # a colon and a comma
        room -= 1  # two braces, and one comma fewer than entries
        if sum(costs.values()) + sum(least.values()) > room:
            return self._entries(value, room, depth, {key: costs[key] + least[key] for key in value})
        room -= sum(costs.values())
        owed = sum(least.values())
        kept: dict[Any, Any] = {}
        waiting = sorted(value, key=lambda key: sizes[key])
        for done, key in enumerate(waiting):
            spare = room - owed
            allowed = least[key] + spare // (len(waiting) - done)
            kept[key] = self.within(value[key], allowed, depth + 1)
            room -= _size(kept[key])
            owed -= least[key]
        return {key: kept[key] for key in value}

    def _entries(
        self, value: Mapping[Any, Any], room: int, depth: int, costs: dict[Any, int]
    ) -> dict[Any, Any]:
        """The entries that have most to do with the query, as many as the room holds at their least."""
        keys = list(value)
        order, _ = self._ranked([[str(key), value[key]] for key in keys])
        chosen: set[Any] = set()
        for at in order:
            if costs[keys[at]] <= room:
                chosen.add(keys[at])
                room -= costs[keys[at]]
        return {key: _least(value[key]) for key in keys if key in chosen}

    def _elements(self, value: Sequence[Any], room: int, depth: int) -> Sequence[Any]:
        """The best elements, best first; one that is larger than its share is itself digested."""
        order, _ = self._ranked(value)
        room -= 1  # two brackets, and one comma fewer than elements
        share = room // min(len(value), _SHARES)
        kept: list[Any] = []
        seen = Seen()
        for at in order:
            if room < 2:
                break
            element, size = value[at], _size(value[at]) + 1
            if size > room or size > share:
                element = self.within(element, min(share, room) - 1, depth + 1)
                size = _size(element) + 1
            if size <= room and seen.is_new(_text_of(value[at])):
                kept.append(element)
                room -= size
        return _like(value, kept)

    def _ranked(self, elements: Sequence[Any]) -> tuple[list[int], list[float]]:
        return _order([Passage(_text_of(each), "") for each in elements], self._query)


def _order(passages: Sequence[Passage], query: str) -> tuple[list[int], list[float]]:
    """Positions, best first and what matches nothing behind in its order; and the score of each position."""
    scores = [0.0] * len(passages)
    places = {id(each): at for at, each in enumerate(passages)}
    for found in PassageIndex(passages).search(query, limit=len(passages)) if query.strip() else []:
        scores[places[id(found.passage)]] = found.score
    return sorted(range(len(passages)), key=lambda at: -scores[at]), scores


def _joined(pieces: Sequence[Passage], chosen: Sequence[int]) -> str:
    if not chosen:
        return CUT
    parts = [] if chosen[0] == 0 else [f"{CUT}\n"]
    for before, at in zip([chosen[0] - 1, *chosen], chosen, strict=False):
        parts += ["" if at == chosen[0] else "\n" if at == before + 1 else _JOIN, pieces[at].text]
    if chosen[-1] != len(pieces) - 1:
        parts.append(f"\n{CUT}")
    return "".join(parts)


def _least(value: Any) -> Any:
    """The smallest thing that says what was there: `[…]`, nothing in a list, scalars as they are."""
    if isinstance(value, str):
        return CUT if _size(value) > _CUT_BYTES else value
    if isinstance(value, Mapping):
        return {}
    if isinstance(value, list | tuple):
        return _like(value, [])
    return b"" if isinstance(value, bytes | bytearray) else value


def _like(value: Sequence[Any], elements: list[Any]) -> Sequence[Any]:
    return tuple(elements) if isinstance(value, tuple) else elements


def _text_of(element: Any) -> str:
    """What an element says: its texts and figures, without its keys."""
    if isinstance(element, str):
        return element[:_TEXT_CHARS]
    parts: list[str] = []
    length = 0
    for leaf in _leaves(element):
        parts.append(leaf[: _TEXT_CHARS - length])
        length += len(parts[-1])
        if length >= _TEXT_CHARS:
            break
    return "\n".join(parts)


def _leaves(element: Any) -> Iterator[str]:
    waiting = [element]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            waiting += reversed(each.values())
        elif isinstance(each, list | tuple):
            waiting += reversed(each)
        elif isinstance(each, int | float) and not isinstance(each, bool):
            yield f"{each:.6g}" if isinstance(each, float) or abs(each) > 1e15 else str(each)


def _packed(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_other)


def _size(value: Any) -> int:
    return _utf8(_packed(value))


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _key_size(key: Any) -> int:
    return _size(key if isinstance(key, str) else _packed(key))


def _other(value: Any) -> str:
    return str(value)

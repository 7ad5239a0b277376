"""Digests: the part of a value that answers a question, in the shape of the value and within a budget.

    {"findings": [200 of them], "log": "180 KB", "ok": true}
                       |  query "rate limit", at most 8,000 bytes
    {"findings": [the 9 best, best first], "log": "first passage\\n[…]\\nanother one", "ok": true}

What is kept is kept as it was: elements of a list whole, with their citations, texts in whole
passages; a list of citations has those of the elements that are kept. Scalars stay, and so do the
keys of a dict; what is too large shares the room fairly with its neighbours, so that one long text
does not cost the others their place. Sizes are those of the value packed as JSON in UTF-8, without
spaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sage_actors.messages.cited import CITATIONS, repeated_citations, still_cited
from sage_actors.messages.packing import key_size as _key_size
from sage_actors.messages.packing import packed, size_of, utf8_bytes
from sage_actors.messages.passages import Passage, split_passages
from sage_actors.messages.ranking import PassageIndex, Seen
from sage_actors.messages.tokens import count_tokens, tokenizer_name

__all__ = ["CUT", "DigestCount", "digest_value"]

CUT = "[…]"
"""Stands in a text where passages were left out."""

_JOIN = f"\n{CUT}\n"
_CUT_BYTES = 7  # of CUT as a JSON string
_SHORT_BYTES = 100  # a text up to here, such as a citation, is kept whole or not at all
_PASSAGE_CHARS = (120, 700)
_SHARES = 4  # elements of a list that are larger than this part of its room are cut to it,
_WHOLE_BYTES = 1500  # but not below this: smaller ones stay whole or are left out
_MISSES = 200  # elements in a row that do not fit, until no more are tried
_DEPTH = 16  # deeper values are taken or left whole
_TEXT_CHARS = 4000  # of an element, looked at when it is ranked
_FIGURE_BITS = 64  # larger integers are no words that anybody searches for
_ROUNDS = 8  # attempts at finding the bytes that a number of tokens allows
_SHINGLE_WORDS = 5  # a shorter element is never a near-duplicate


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
    raw = packed(value)
    limits = _Limits(max_tokens, max_bytes, top, threshold)
    kept = _limited(value, query, limits)
    if kept is not value and (listed := repeated_citations(value)):
        kept = _in_step(value, listed, query, limits)
    text = raw if kept is value else packed(kept)
    raw_tokens = count_tokens(raw)
    return kept, DigestCount(
        raw_bytes=utf8_bytes(raw),
        kept_bytes=utf8_bytes(text),
        raw_tokens=raw_tokens,
        kept_tokens=raw_tokens if text is raw else count_tokens(text),
        tokenizer=tokenizer_name(len(raw)),
    )


@dataclass(frozen=True, slots=True)
class _Limits:
    max_tokens: int | None
    max_bytes: int | None
    top: int | None
    threshold: float

    def without(self, part: Any) -> _Limits:
        """With room for `part` beside."""
        tokens = None if self.max_tokens is None else max(0, self.max_tokens - count_tokens(packed(part)))
        room = None if self.max_bytes is None else max(0, self.max_bytes - size_of(part))
        return replace(self, max_tokens=tokens, max_bytes=room)

    def hold(self, value: Any) -> bool:
        if self.max_bytes is not None and size_of(value) > self.max_bytes:
            return False
        return self.max_tokens is None or count_tokens(packed(value)) <= self.max_tokens


def _limited(value: Any, query: str, limits: _Limits) -> Any:
    kept = value
    if limits.top is not None or limits.threshold > 0:
        kept = _Digest(query, limits.top, limits.threshold).filtered(value)
    if limits.max_bytes is not None and size_of(kept) > limits.max_bytes:
        kept = _Digest(query).within(kept, limits.max_bytes)
    if limits.max_tokens is not None:
        kept = _within_tokens(kept, _Digest(query), limits.max_tokens)
    return kept


def _in_step(value: Mapping[Any, Any], listed: Sequence[str], query: str, limits: _Limits) -> Any:
    """The digest with the citations of what is kept, and no others.

    First without their list; if it does not fit behind that, once more with room for it: what is then kept has not
    more of them.
    """
    bare = {key: part for key, part in value.items() if key != CITATIONS}
    kept = _limited(bare, query, limits)
    whole = _with_citations(value, kept, listed)
    if limits.hold(whole):
        return whole
    smaller = limits.without({CITATIONS: whole[CITATIONS]})
    whole = _with_citations(value, _limited(bare, query, smaller), listed)
    return whole if limits.hold(whole) else kept


def _with_citations(value: Mapping[Any, Any], kept: Any, listed: Sequence[str]) -> dict[Any, Any]:
    """In the order of the keys that the value has."""
    return {
        key: still_cited(kept, listed) if key == CITATIONS else kept[key]
        for key in value
        if key == CITATIONS or key in kept
    }


def _within_tokens(value: Any, digest: _Digest, max_tokens: int) -> Any:
    """Tokens do not add up as bytes do: look for the largest number of bytes that holds few enough."""
    text = packed(value)
    tokens = count_tokens(text)
    if tokens <= max_tokens:
        return value
    low, high = 0, utf8_bytes(text)
    guess = int(high * max_tokens / tokens)
    best: Any = digest.within(value, 0)
    for _ in range(_ROUNDS):
        kept = digest.within(value, guess)
        tokens = count_tokens(packed(kept))
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
    """One query, put to every part of a value; a part is ranked once, however often its room changes."""

    def __init__(self, query: str, top: int | None = None, threshold: float = 0.0) -> None:
        self._query, self._top, self._threshold = query, top, threshold
        self._orders: dict[tuple[int, int], tuple[list[Passage], list[int], list[float]]] = {}

    def filtered(self, value: Any, depth: int = 0) -> Any:
        """`value` with its outermost lists cut to `top` and `threshold`; the same object if nothing was cut."""
        if isinstance(value, Mapping) and depth < _DEPTH:
            parts = {key: self.filtered(part, depth + 1) for key, part in value.items()}
            return value if all(parts[key] is part for key, part in value.items()) else parts
        if isinstance(value, list | tuple):
            return self._best_of(value)
        return value

    def _best_of(self, elements: Sequence[Any]) -> Sequence[Any]:
        if not elements or (not self._threshold and (self._top is None or len(elements) <= self._top)):
            return elements
        _, order, scores = self._ranked(elements)
        least = scores[order[0]] * self._threshold
        chosen = [at for at in order if scores[at] >= least][: self._top]
        if len(chosen) == len(elements):
            return elements
        return _like(elements, [elements[at] for at in chosen])

    def within(self, value: Any, room: int, depth: int = 0) -> Any:
        """`value` in at most `room` bytes, or the least that it can be."""
        if size_of(value) <= room:
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
        if room <= _CUT_BYTES:
            return _least_text(text)
        low, high = _PASSAGE_CHARS
        pieces, order, _ = self._pieces(text, max(low, min(high, room // 8)))
        mark = size_of(_JOIN) - 2
        room -= 2 + mark  # the quotes, and a mark at either end
        chosen: list[int] = []
        seen = Seen()
        for at in order:
            size = size_of(pieces[at].text) - 2 + mark
            if size <= room and seen.is_new(pieces[at].text):
                chosen.append(at)
                room -= size
            if room < 2 * mark:
                break
        if not chosen:
            return _beginning(pieces[order[0]].text if order else "", room + mark)
        return _joined(pieces, sorted(chosen))

    def _mapping(self, value: Mapping[Any, Any], room: int, depth: int) -> dict[Any, Any]:
        """Every key, with its value in a fair share of the room; where the keys alone are too much, the best."""
        room -= 1  # two braces, and one comma fewer than entries
        costs = {key: _key_size(key) + 2 for key in value}  # a colon and a comma
        sizes = {key: size_of(part) for key, part in value.items()}
        for least_of in (_least_kept, _least_at_all):
            least = {key: min(sizes[key], least_of(part)) for key, part in value.items()}
            spare = room - sum(costs.values()) - sum(least.values())
            if spare >= 0:
                return self._shared(value, sizes, least, spare, depth)
        return self._entries(value, room, {key: costs[key] + least[key] for key in value})

    def _shared(
        self, value: Mapping[Any, Any], sizes: dict[Any, int], least: dict[Any, int], spare: int, depth: int
    ) -> dict[Any, Any]:
        """Small values first: what they leave of their share goes to the larger ones."""
        kept: dict[Any, Any] = {}
        for done, key in enumerate(sorted(value, key=sizes.__getitem__)):
            kept[key] = self.within(value[key], least[key] + spare // (len(value) - done), depth + 1)
            spare -= size_of(kept[key]) - least[key]
        return {key: kept[key] for key in value}

    def _entries(self, value: Mapping[Any, Any], room: int, costs: dict[Any, int]) -> dict[Any, Any]:
        """The entries that have most to do with the query, as many as the room holds at their least."""
        keys = list(value)
        _, order, _ = _order([Passage(_text_of([str(key), value[key]]), "") for key in keys], self._query)
        chosen: set[Any] = set()
        for at in order:
            if costs[keys[at]] <= room:
                chosen.add(keys[at])
                room -= costs[keys[at]]
        return {key: _least(value[key]) for key in keys if key in chosen}

    def _elements(self, value: Sequence[Any], room: int, depth: int) -> Sequence[Any]:
        """The best elements, best first; of the large ones a few are themselves digested."""
        texts, order, _ = self._ranked(value)
        room -= 1  # two brackets, and one comma fewer than elements
        share = min(room, max(room // max(1, min(len(value), _SHARES)), _WHOLE_BYTES))
        kept: list[Any] = []
        seen = Seen()
        missed = 0
        for at in order:
            if room < 2 or missed > _MISSES:
                break
            element, size = value[at], size_of(value[at]) + 1
            if size > share <= room and _least_kept(element) < share:
                element = self.within(element, share - 1, depth + 1)
                size = size_of(element) + 1
            if size > room or not _is_new(texts[at].text, seen):
                missed += 1
                continue
            kept.append(element)
            room -= size
            missed = 0
        return _like(value, kept)

    def _ranked(self, elements: Sequence[Any]) -> tuple[list[Passage], list[int], list[float]]:
        """The elements' texts, their positions best first, their scores."""
        key = (id(elements), 0)
        if key not in self._orders:
            self._orders[key] = _order([Passage(_text_of(each), "") for each in elements], self._query)
        return self._orders[key]

    def _pieces(self, text: str, max_chars: int) -> tuple[list[Passage], list[int], list[float]]:
        key = (id(text), max_chars)
        if key not in self._orders:
            self._orders[key] = _order(split_passages(text, "", max_chars=max_chars), self._query)
        return self._orders[key]


def _order(passages: list[Passage], query: str) -> tuple[list[Passage], list[int], list[float]]:
    """The passages; their positions, best first and what matches nothing behind in its order; their scores."""
    scores = [0.0] * len(passages)
    places = {id(each): at for at, each in enumerate(passages)}
    for found in PassageIndex(passages).search(query, limit=len(passages)) if query.strip() else []:
        scores[places[id(found.passage)]] = found.score
    return passages, sorted(range(len(passages)), key=lambda at: -scores[at]), scores


def _joined(pieces: Sequence[Passage], chosen: Sequence[int]) -> str:
    parts = [] if chosen[0] == 0 else [f"{CUT}\n"]
    for at, after in zip(chosen, [*chosen[1:], None], strict=True):
        parts.append(pieces[at].text)
        if after is not None:
            parts.append(_between(pieces[at], pieces[after]) if after == at + 1 else _JOIN)
    if chosen[-1] != len(pieces) - 1:
        parts.append(f"\n{CUT}")
    return "".join(parts)


def _between(passage: Passage, following: Passage) -> str:
    """What stood between two neighbours: a space within a line, a line end, or a blank line."""
    lines = (following.line or 0) - (passage.line or 0) - passage.text.count("\n")
    return " " if lines == 0 else "\n" * min(lines, 2)


def _beginning(text: str, room: int) -> str:
    """The first words of a passage that is itself too long, and the mark; `room` without quotes."""
    room -= _CUT_BYTES - 1  # the mark and a space before it
    start = text[: max(0, room)]
    while start and size_of(start) - 2 > room:
        start = start[: -max(1, (size_of(start) - 2 - room) // 6)]
    words = start.rsplit(None, 1)[0] if len(start) < len(text) and len(start.split()) > 1 else start
    return f"{words.rstrip()} {CUT}" if words.strip() else CUT


def _is_new(text: str, seen: Seen) -> bool:
    return len(text.split(None, _SHINGLE_WORDS)) < _SHINGLE_WORDS or seen.is_new(text)


def _least(value: Any) -> Any:
    """The smallest thing that says what was there: `[…]`, nothing in a list, scalars as they are."""
    if isinstance(value, str):
        return _least_text(value)
    if isinstance(value, Mapping):
        return {}
    if isinstance(value, list | tuple):
        return _like(value, [])
    return b"" if isinstance(value, bytes | bytearray) else value


def _least_text(text: str) -> str:
    return CUT if size_of(text) > _CUT_BYTES else text


def _least_at_all(value: Any) -> int:
    return size_of(_least(value))


def _least_kept(value: Any, depth: int = 0) -> int:
    """Bytes of `value` with every key, scalar and short text in it (its citation among them), the rest cut."""
    if isinstance(value, str):
        size = size_of(value)
        return size if size <= _SHORT_BYTES else _CUT_BYTES
    if isinstance(value, Mapping) and depth < _DEPTH:
        entries = sum(_key_size(key) + 2 + _least_kept(part, depth + 1) for key, part in value.items())
        return 1 + max(1, entries)
    return _least_at_all(value)


def _like(value: Sequence[Any], elements: list[Any]) -> Sequence[Any]:
    return tuple(elements) if isinstance(value, tuple) else elements


def _text_of(element: Any) -> str:
    """What an element says: its texts and figures, without its keys."""
    parts: list[str] = []
    room = _TEXT_CHARS
    for leaf in _leaves(element):
        parts.append(leaf[:room])
        room -= len(parts[-1])
        if room <= 0:
            break
    return "\n".join(parts)


def _leaves(element: Any) -> Iterator[str]:
    waiting = [element]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            waiting += reversed(list(each.values()))
        elif isinstance(each, list | tuple):
            waiting += reversed(each)
        elif isinstance(each, float) or (type(each) is int and each.bit_length() < _FIGURE_BITS):
            yield str(each)

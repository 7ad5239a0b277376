"""Secrets whose value is known: found again in whatever form a program may have written them.

    raw, each long line of it | JSON-escaped | URL-encoded | hexadecimal | base64 and base64url at the three
    alignments that a value can have inside longer data | HTML-escaped | as Python and a shell quote it

Not found: a value that was reversed, split, compressed or encrypted; one of fewer than six characters, which would
match by chance.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Iterator

from sage_actors.messages.codec import pack, unpack

__all__ = ["LEAST_CHARS", "MARK", "KnownValues", "forms_of", "hand_over", "take_over"]

LEAST_CHARS = 6
_MOST = 256  # values
MARK = 0xC1  # begins arguments with secrets: the one byte that no msgpack value begins with
_LEAST_LINE = 16  # characters of one line of a longer value, such as a key in PEM
_LEAST_ENCODED = 7


class KnownValues:
    """The last 256 values, with the name of what each came from, such as `env.TOKEN`. False while there is none.

    One thread adds; others may look at the same time.
    """

    __slots__ = ("_bytes", "_forms", "_names", "_pattern", "_texts")

    def __init__(self) -> None:
        self._forms: dict[tuple[str, str], set[str]] = {}  # of each (name, value)
        self._names: dict[str, str] = {}  # of each form
        self._texts: tuple[str, ...] = ()
        self._bytes: tuple[bytes, ...] = ()
        self._pattern: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._texts)

    def add(self, values: Iterable[tuple[str, str]]) -> None:
        """From now on these (name, value) are known; those of fewer than six characters are not."""
        long_enough = dict.fromkeys(each for each in values if len(each[1].strip()) >= LEAST_CHARS)
        new = [each for each in long_enough if each not in self._forms]
        if not new:
            return
        for each in new:
            self._forms[each] = forms_of(each[1])
        while len(self._forms) > _MOST:
            del self._forms[next(iter(self._forms))]
        names = {form: name for (name, _), forms in self._forms.items() for form in forms}
        texts = sorted(names, key=len, reverse=True)
        self._names = names
        self._pattern = re.compile("|".join(map(re.escape, texts)))
        self._bytes = tuple(form.encode("utf-8", "surrogatepass") for form in texts)
        self._texts = tuple(texts)

    def is_in(self, data: bytes) -> bool:
        """Whether any form of any value stands in `data`, texts in UTF-8 inside of whatever."""
        return any(form in data for form in self._bytes)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Where they stand in `text`: (start, end, name)."""
        if self._pattern is None or not any(form in text for form in self._texts):
            return []
        return [
            (*match.span(), self._names.get(match[0], "secret")) for match in self._pattern.finditer(text)
        ]


def forms_of(value: str) -> set[str]:
    """`value` in every form that is looked for; all of at least six characters."""
    value = value.strip()
    forms = set(_texts_of(value))
    raw = value.encode("utf-8", "surrogatepass")
    encoded = {raw.hex(), raw.hex().upper(), *_base64_of(raw)}
    return forms | {form for form in encoded if len(form) >= _LEAST_ENCODED}


def _texts_of(value: str) -> Iterator[str]:
    yield value
    for escaped in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        yield escaped
        yield json.dumps(escaped)[1:-1]  # JSON as a text inside JSON
    for quoted in (
        urllib.parse.quote(value, safe=""),
        urllib.parse.quote(value),
        urllib.parse.quote_plus(value),
    ):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield html.escape(value)
    yield repr(value)[1:-1]
    yield repr(value.encode("utf-8", "surrogatepass"))[2:-1]
    yield shlex.quote(value)
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (
            line.strip() for line in lines if len(line.strip()) >= _LEAST_LINE and "-----" not in line
        )


def _base64_of(raw: bytes) -> Iterator[str]:
    """The characters that depend on `raw` alone, with 0, 1 or 2 bytes before it in its group of three."""
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(bytes(before) + raw).decode()
            first = (0, 2, 3)[before]
            full = (before + len(raw)) * 8 // 6
            yield whole[first:full]


def hand_over(packed: bytes, secrets: Iterable[tuple[str, str]]) -> bytes:
    """Packed arguments together with the (name, value) of the secrets that were put into them, for a worker."""
    return bytes((MARK,)) + pack([[list(each) for each in secrets], packed])


def take_over(data: bytes) -> tuple[bytes, list[tuple[str, str]]]:
    """The packed arguments, and the secrets in them: none, where `data` is arguments alone."""
    if data[:1] != bytes((MARK,)):
        return data, []
    secrets, packed = unpack(memoryview(data)[1:])
    return packed, [(name, value) for name, value in secrets]

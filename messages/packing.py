"""How large a value is: its JSON in UTF-8, without spaces, also for what JSON itself would refuse.

Values that came over a wire are JSON already. Others must not fail where only their size is asked
for: bytes count as base64, keys that are no text as the text of their JSON, nesting has no limit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["key_size", "packed", "size_of", "utf8_bytes"]


def packed(value: Any) -> str:
    """`value` as compact JSON. A value that contains itself is a ValueError."""
    try:
        return _ENCODER.encode(value)
    except (RecursionError, TypeError, ValueError) as error:  # too deep, other keys, endless integers
        if "Circular" in str(error):
            raise
        return "".join(_parts(value))


def size_of(value: Any) -> int:
    """Bytes of `packed(value)`."""
    return utf8_bytes(packed(value))


def key_size(key: Any) -> int:
    """Bytes of a key, with its quotes."""
    return size_of(_key(key))


def utf8_bytes(text: str) -> int:
    """Bytes of a text in UTF-8; half characters count as the three bytes they would be."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _key(key: Any) -> str:
    return key if isinstance(key, str) else packed(key)


def _other(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_other)


class _Text(str):
    """JSON that is ready, among values that are not."""


def _parts(value: Any) -> Iterator[str]:
    """The same JSON by a stack of its own."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, _Text):
            yield each
        elif isinstance(each, Mapping):
            inside = [part for key, one in each.items() for part in (_Text(f",{packed(_key(key))}:"), one)]
            waiting += reversed(_enclosed("{", inside, "}"))
        elif isinstance(each, list | tuple):
            inside = [part for one in each for part in (_Text(","), one)]
            waiting += reversed(_enclosed("[", inside, "]"))
        else:
            yield _scalar(each)


def _enclosed(opening: str, inside: list[Any], closing: str) -> list[Any]:
    first = [_Text(inside[0][1:])] if inside else []
    return [_Text(opening), *first, *inside[1:], _Text(closing)]


def _scalar(value: Any) -> str:
    try:
        return _ENCODER.encode(value)
    except ValueError:  # an integer of more digits than Python writes
        return hex(value)

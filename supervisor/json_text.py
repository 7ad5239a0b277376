"""Values as JSON text, for programs and for people: whatever a result may hold comes out as valid JSON."""

from __future__ import annotations

import base64
import json
import math
import re
from typing import Any

from sage_actors.messages.unseen import UNSEEN

__all__ = ["abbreviate", "finite", "from_json", "no_constant", "to_json", "to_line"]

BYTES_MARK = "$base64"
# What JSON leaves as it is, and terminals obey.
_DRIVING = re.compile(f"[\x7f-\x9f{UNSEEN}]")


def to_line(value: Any) -> str:
    """`value` on one line of ASCII, without the newline; what JSON does not know as in `to_json`."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        return json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))


def to_json(value: Any) -> str:
    """`value` indented, for reading. Bytes are {"$base64": "..."}; NaN and the infinities are null.

    >>> print(to_json({"key": b"hi", 2: float("nan")}))
    {
      "key": {
        "$base64": "aGk="
      },
      "2": null
    }
    """
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, indent=2)
    return _DRIVING.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return re.sub("(.{4})", r"\\u\1", match[0].encode("utf-16-be").hex())


def from_json(text: str) -> Any:
    """The value that a person's JSON says. ValueError for what is none: NaN and the infinities too."""
    try:
        return json.loads(text, parse_constant=no_constant, parse_float=finite)
    except RecursionError as cause:
        raise ValueError("nested too deep") from cause


def finite(text: str) -> float:
    """A number as JSON spells it. ValueError for what a float cannot hold, which is not taken for infinity."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def no_constant(name: str) -> Any:
    """For NaN and the infinities, which JSON does not have. Raises ValueError."""
    raise ValueError(f"{name} is no JSON value")


def abbreviate(value: Any, *, chars: int = 600, items: int = 20) -> Any:
    """`value` with long texts, lists and maps cut, each saying how much is left out.

    >>> abbreviate({"text": "abcdef", "list": [1, 2, 3]}, chars=4, items=2)
    {'text': 'abcd... (2 more characters)', 'list': [1, 2, '... (1 more)']}
    """
    if isinstance(value, str):
        rest = len(value) - chars
        return value if rest <= 0 else f"{value[:chars]}... ({rest:,} more characters)"
    if isinstance(value, bytes):
        rest = len(value) - chars
        return value if rest <= 0 else f"({len(value):,} bytes)"
    if isinstance(value, dict):
        cut = {key: abbreviate(value[key], chars=chars, items=items) for key in list(value)[:items]}
        return cut if len(value) <= items else cut | {"...": f"{len(value) - items:,} more"}
    if isinstance(value, (list, tuple)):
        some = [abbreviate(each, chars=chars, items=items) for each in value[:items]]
        return some if len(value) <= items else [*some, f"... ({len(value) - items:,} more)"]
    return value


def _plain(value: Any) -> Any:
    """`value` of JSON's own types only."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {BYTES_MARK: base64.b64encode(value).decode("ascii")}
    return str(value)


def _key(key: Any) -> str:
    if isinstance(key, bytes):
        return base64.b64encode(key).decode("ascii")
    return key if isinstance(key, str) else json.dumps(_plain(key))

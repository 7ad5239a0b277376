"""What a value is inside text: in a string with references, as a word of a command, as a variable, as input."""

from __future__ import annotations

import json
from typing import Any

from sage_actors.messages.errors import UsageError

__all__ = ["text_form", "text_of"]


def text_form(value: Any) -> str:
    """A text as it is, anything else as compact JSON.

    Raises:
        TypeError, ValueError, RecursionError: it has no JSON, as bytes have none.

    >>> text_form("a b"), text_form(True), text_form({"ä": [1, None]})
    ('a b', 'true', '{"ä":[1,null]}')
    """
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def text_of(place: str, value: Any) -> str:
    """The text of what stands at `place` of an operation. UsageError if it has none."""
    try:
        return text_form(value)
    except (TypeError, ValueError, RecursionError) as cause:
        raise UsageError(f"`{place}` is no text, and cannot be put into one: {cause}") from cause

"""Whether a value can be an argument of a tool, by the JSON Schema of a sage server's argument.

As lenient as the servers, which read the text "5" as a number and a text of JSON as what it says: what is wrong
here is refused there. A value with a reference in it is known only in the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["argument_problem"]


def argument_problem(schema: Mapping[str, Any], value: Any) -> str:
    """Why `value` is none, "" if it may be.

    >>> argument_problem({"type": "integer", "minimum": 1}, 0)
    'must be at least 1, not 0'
    >>> argument_problem({"enum": ["feature", "bugfix"], "type": "string"}, "bug")
    "must be 'feature' or 'bugfix', not 'bug'"
    >>> argument_problem({"type": "integer"}, "${inputs.top}")
    ''
    """
    if has_reference(value):
        return ""
    choices = schema.get("anyOf")
    if choices is None:
        return _problem(schema, value)
    reasons = [_problem(each, value) for each in choices]
    return "" if "" in reasons else reasons[0]


def has_reference(value: Any) -> bool:
    """Whether a text in `value` refers to something: what it will be is known only in the run."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(map(has_reference, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_reference, value))


def _problem(schema: Mapping[str, Any], value: Any) -> str:
    shown = _shown(value)
    if "enum" in schema and value not in schema["enum"]:
        return f"must be {' or '.join(map(repr, schema['enum']))}, not {shown}"
    kind = schema.get("type", "")
    read = _READ[kind](value) if kind in _READ else value
    if read is _NOTHING:
        return f"must be {_NAMES[kind]}, not {shown}"
    for key, is_wrong, said in _BOUNDS:
        if key in schema and is_wrong(read, schema[key]):
            return f"must {said.format(schema[key])}, not {shown}"
    if schema.get("minLength") and not read.strip():
        return "must not be blank"
    if "maxLength" in schema and len(read) > schema["maxLength"]:
        return f"must have at most {schema['maxLength']:,} characters"
    return ""


_NOTHING = object()


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, (str, int, float)) else _NOTHING
    except (ValueError, OverflowError):
        return _NOTHING


def _integer(value: Any) -> Any:
    number = _number(value)
    return number if number is _NOTHING or number.is_integer() else _NOTHING


def _boolean(value: Any) -> Any:
    text = str(value).lower()
    return (
        value
        if text in ("true", "false", "1", "0", "yes", "no", "on", "off", "y", "n", "t", "f")
        else _NOTHING
    )


def _json_of(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return _NOTHING
        return value if isinstance(value, kind) else _NOTHING

    return read


_READ: dict[str, Callable[[Any], Any]] = {
    "string": lambda value: value if isinstance(value, str) else _NOTHING,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _json_of(list),
    "object": _json_of(dict),
    "null": lambda value: value if value is None else _NOTHING,
}
_NAMES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("minimum", lambda value, bound: value < bound, "be at least {:g}"),
    ("exclusiveMinimum", lambda value, bound: value <= bound, "be more than {:g}"),
    ("maximum", lambda value, bound: value > bound, "be at most {:g}"),
)


def _shown(value: Any) -> str:
    text = (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, (dict, list, bool))
        else repr(value)
    )
    text = "null" if value is None else text
    return text if len(text) <= 60 else f"{text[:60]}..."

"""A value of a JSON Schema, taken from what a model or an agent said, and checked.

The schema is checked first; references in it that lead outside are refused, never fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sage_actors.messages.errors import UsageError

__all__ = ["check_schema", "extract_json", "is_strict", "schema_problem", "schema_request"]

# Places where an object may begin that are tried: reading each costs the length of the text.
_MAX_STARTS = 200
_MESSAGE_CHARS = 500


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises UsageError if `schema` is no JSON Schema of an object."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as cause:
        raise UsageError(f"`schema` is no JSON Schema: {cause.message[:_MESSAGE_CHARS]}") from cause
    if schema.get("type") != "object":
        raise UsageError('`schema` must describe an object: give it "type": "object"')


def schema_problem(value: Any, schema: Mapping[str, Any]) -> str:
    """What is wrong with `value` by `schema`, with its place; "" if nothing is."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # With a registry of its own the validator fetches nothing: the default one opens URLs.
    validator = Draft202012Validator(dict(schema), registry=Registry())
    try:
        worst = best_match(validator.iter_errors(value))
    except Unresolvable as cause:
        raise UsageError(f"`schema` refers to what it does not hold: {cause}") from cause
    if worst is None:
        return ""
    return f"{worst.json_path}: {worst.message[:_MESSAGE_CHARS]}"


def extract_json(text: str) -> dict[str, Any] | None:
    """The object that `text` gives as its answer: the whole text, the last fenced block that is one, or the
    last object that begins a line; None if there is none."""
    for candidate in _candidates(text):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return _last_object(text)


def _candidates(text: str) -> Iterator[str]:
    yield text
    yield from reversed(_fenced(text))


def _fenced(text: str) -> list[str]:
    """The blocks that are fenced as JSON, or as nothing in particular; by line, since a pattern would read the rest
    of the text once for each fence that has no end."""
    blocks: list[str] = []
    inside: list[str] | None = None
    for line in text.split("\n"):
        mark = line.strip()
        if inside is None:
            inside = [] if mark in ("```json", "```") else None
        elif mark == "```":
            blocks.append("\n".join(inside))
            inside = None
        else:
            inside.append(line)
    return blocks


def _last_object(text: str) -> dict[str, Any] | None:
    decoder = json.JSONDecoder()
    found = None
    position = 0
    starts = re.compile(r"^[ \t]*\{", re.MULTILINE)
    for _ in range(_MAX_STARTS):
        match = starts.search(text, position)
        if match is None:
            break
        try:
            found, position = decoder.raw_decode(text, match.end() - 1)
        except (ValueError, RecursionError):
            position = match.end()
    return found


def schema_request(schema: Mapping[str, Any]) -> str:
    """What is added to a prompt where no flag takes the schema."""
    said = json.dumps(schema, ensure_ascii=False, indent=1)
    return (
        "\n\nEnd your answer with one JSON object, in a block fenced by ```json and ```, that is valid by this "
        f"JSON Schema:\n\n{said}\n"
    )


def is_strict(schema: Any) -> bool:
    """Whether every object in `schema` requires all its properties and allows no others."""
    if isinstance(schema, list):
        return all(is_strict(each) for each in schema)
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" or isinstance(schema.get("properties"), Mapping):
        properties = schema.get("properties") or {}
        if schema.get("additionalProperties") is not False or set(schema.get("required") or ()) != set(
            properties
        ):
            return False
        if not all(is_strict(each) for each in properties.values()):
            return False
    return all(
        is_strict(each) for name, each in schema.items() if name not in ("properties", "enum", "const")
    )

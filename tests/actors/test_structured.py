"""Objects of a JSON Schema, in what was said."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sage_actors.actors.agents.structured import check_schema, extract_json, is_strict, schema_problem
from sage_actors.messages.errors import UsageError


def test_the_place_of_what_is_wrong_is_said() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    assert schema_problem({"a": [1, 2]}, schema) == ""
    assert schema_problem({"a": [1, "x"]}, schema).startswith("$.a[1]: 'x' is not of type")


def test_a_reference_that_leads_outside_is_refused_and_not_fetched() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    with pytest.raises(UsageError, match="refers to what it does not hold"):
        schema_problem({"a": 1}, schema)


def test_a_reference_inside_is_followed() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert schema_problem({"next": {"next": {}}}, node) == ""
    assert "$.next" in schema_problem({"next": {"x": 1}}, node)


@pytest.mark.parametrize(
    "schema", [{"type": "objekt"}, {"type": "array"}, {}, {"type": "object", "required": "a"}]
)
def test_what_is_no_schema_of_an_object_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="`schema`"):
        check_schema(schema)


def test_text_full_of_braces_is_read_in_useful_time() -> None:
    started = time.monotonic()
    assert extract_json("{\n" * 100_000) is None
    assert extract_json('{"a": ' * 50_000) is None
    assert extract_json("```json\n" * 20_000) is None
    assert time.monotonic() - started < 20  # quadratic would take minutes


def test_of_several_objects_the_last_is_the_answer() -> None:
    assert extract_json('{"n": 1}\ntext\n{"n": {"deep": 2}}\n') == {"n": {"deep": 2}}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "object"}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"anyOf": [{"type": "object"}]}, False),
        ({"enum": [{"type": "object"}]}, True),
    ],
)
def test_a_strict_schema_says_all_about_every_object(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict

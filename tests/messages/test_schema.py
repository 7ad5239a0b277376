"""The file format's models and the JSON Schema that editors use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from sage_actors.messages.definition import OperationSpec, RetryPolicy
from sage_actors.messages.schema import OPERATIONS, PythonOperation, RetryDefinition, WorkflowDefinition
from sage_actors.messages.units import parse_duration, parse_size
from sage_actors.supervisor.definitions.loading import json_schema, load_dict
from sage_actors.supervisor.definitions.specs import spec_from_dict
from sage_actors.supervisor.definitions.validation import TYPES


def maps_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from maps_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from maps_in(inner)


@pytest.mark.requirement("ORCH-003")
def test_every_field_of_the_schema_is_described() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, model in {**schema["$defs"], "workflow": schema}.items():
        assert model.get("description"), name
        assert model["additionalProperties"] is False, name
        for field, said in model["properties"].items():
            if "const" not in said:
                assert said.get("description"), (name, field)


def test_every_reference_inside_the_schema_leads_somewhere() -> None:
    schema = json_schema()
    targets = {each["$ref"] for each in maps_in(schema) if isinstance(each.get("$ref"), str)}
    assert targets
    assert all(target.removeprefix("#/$defs/") in schema["$defs"] for target in targets)


def test_the_schema_names_every_operation_type() -> None:
    assert set(OPERATIONS) == set(TYPES)
    consts = {each["const"] for each in maps_in(json_schema()) if "const" in each}
    assert consts == set(TYPES)


def test_every_policy_of_a_spec_can_be_written_in_a_file() -> None:
    written = set(PythonOperation.model_fields)
    internal = {"config", "has_fallback", "is_async", "lane"}
    assert {each.name for each in fields(OperationSpec)} - internal <= written


def test_defaults_of_the_file_format_are_those_of_the_specs() -> None:
    spec = OperationSpec(type="python")
    for each in ("on_failure", "trigger", "effect", "priority", "max_crashes", "timeout", "version"):
        assert PythonOperation.model_fields[each].default == getattr(spec, each), each
    policy = RetryPolicy()
    for each in ("backoff", "factor", "max_delay", "jitter"):
        assert RetryDefinition.model_fields[each].default == getattr(policy, each), each
    made = spec_from_dict({"name": "x", "nodes": [{"id": "a", "type": "python", "call": "m:f", "retry": {}}]})
    assert made.nodes[0].operation.retry.max_attempts == RetryDefinition.model_validate({}).max_attempts
    assert made.concurrency == WorkflowDefinition.model_fields["concurrency"].default


def test_a_schema_key_is_allowed_for_editors() -> None:
    node = {"id": "a", "type": "python", "call": "m:f"}
    assert load_dict({"$schema": "x.json", "name": "x", "nodes": [node]}).name == "x"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("30d", 2592000), ("500ms", 0.5), (" 1.5 h ", 5400)],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 weeks", "1e3s", "5s5s", "٣s", "9" * 50 + "s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 2**29), ("512MB", 512_000_000), ("10B", 10), ("1.5 KiB", 1536), ("2TB", 2 * 10**12)],
)
def test_a_size_is_read_as_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "5mb", "iB", "5iB", "-1KB", "5 PiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)

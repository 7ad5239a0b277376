"""A definition as the journal keeps it: rows instead of maps, packed and compressed, in as many records as needed.

    zlib( msgpack( {"name", ..., "operations": [{...}], "phases": [...], "nodes": [row, ...]} ) )
    row: [id, operation number, [numbers of needs], arguments, when, foreach, phase number]   (trailing nils cut)

A node that does nothing special costs about ten bytes here. `definition_from` gives back an equal WorkflowSpec.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.definition import (
    InputSpec,
    Limits,
    NodeSpec,
    OperationSpec,
    PhaseSpec,
    RetryPolicy,
    WorkflowSpec,
)
from sage_actors.messages.errors import StateCorruptedError
from sage_actors.messages.records import RunAdmitted

__all__ = ["Assembly", "admission_records", "definition_from", "pack_definition"]

_PART_BYTES = 16 * 1024 * 1024
_MOST_BYTES = 8 * 1024 * 1024 * 1024
_NO_ARGUMENTS: Mapping[str, Any] = {}


def pack_definition(spec: WorkflowSpec) -> bytes:
    """The body of an admission."""
    numbers = {node.id: i for i, node in enumerate(spec.nodes)}
    phases = {phase.id: i for i, phase in enumerate(spec.phases)}
    operations: dict[OperationSpec, int] = {}
    rows: list[list[Any]] = []
    for node in spec.nodes:
        number = operations.setdefault(node.operation, len(operations))
        row: list[Any] = [node.id, number, [numbers[each] for each in node.needs]]
        if node.arguments or node.when is not None or node.foreach is not None or node.phase is not None:
            row += [dict(node.arguments), node.when, node.foreach]
            if node.phase is not None:
                row.append(phases[node.phase])
        rows.append(row)
    whole = {
        "name": spec.name,
        "description": spec.description,
        "concurrency": spec.concurrency,
        "timeout": spec.timeout,
        "inputs": {name: _fields(each) for name, each in spec.inputs.items()},
        "phases": [_fields(phase) for phase in spec.phases],
        "operations": [_operation_fields(each) for each in operations],
        "nodes": rows,
    }
    return zlib.compress(pack(whole, what="the definition"), 1)


def admission_records(spec: WorkflowSpec, header: dict[str, Any], *, at: float) -> list[RunAdmitted]:
    """The records that make a run exist; only with the last one, which has the digest, does it."""
    body = pack_definition(spec)
    parts = [body[i : i + _PART_BYTES] for i in range(0, len(body), _PART_BYTES)] or [b""]
    last = len(parts) - 1
    digest = hashlib.sha256(body).digest()
    return [
        RunAdmitted(at, i, len(parts), part, digest if i == last else b"", header if i == last else {})
        for i, part in enumerate(parts)
    ]


class Assembly:
    """Puts admission records together again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, record: RunAdmitted) -> WorkflowSpec | None:
        """The definition, once its last part is there.

        Raises:
            StateCorruptedError: the parts do not make what their digest says.
        """
        if record.part == 0:
            self._parts = []
        self._parts.append(record.body)
        if record.part + 1 != record.parts:
            return None
        body = b"".join(self._parts)
        self._parts = []
        if hashlib.sha256(body).digest() != record.digest:
            raise StateCorruptedError("the admitted definition does not match its digest")
        return definition_from(body)


def definition_from(body: bytes) -> WorkflowSpec:
    """What `pack_definition` packed."""
    whole = unpack(zlib.decompressobj().decompress(body, _MOST_BYTES))
    operations = [_operation_from(each) for each in whole["operations"]]
    phases = [PhaseSpec(**_tuples(each, "dependencies")) for each in whole["phases"]]
    rows = whole["nodes"]
    ids = [row[0] for row in rows]
    nodes = []
    for row in rows:
        needs = tuple([ids[i] for i in row[2]]) if row[2] else ()
        if len(row) == 3:
            nodes.append(NodeSpec(row[0], operations[row[1]], _NO_ARGUMENTS, needs))
        else:
            phase = phases[row[6]].id if len(row) > 6 else None
            nodes.append(NodeSpec(row[0], operations[row[1]], row[3], needs, row[4], row[5], phase))
    return WorkflowSpec(
        name=whole["name"],
        nodes=nodes,
        description=whole["description"],
        inputs={name: InputSpec(**_tuples(each, "enum")) for name, each in whole["inputs"].items()},
        phases=phases,
        concurrency=whole["concurrency"],
        timeout=whole["timeout"],
    )


def _fields(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _operation_fields(operation: OperationSpec) -> dict[str, Any]:
    out = _fields(operation)
    out["config"] = dict(operation.config)
    out["retry"] = _fields(operation.retry)
    out["limits"] = None if operation.limits is None else _fields(operation.limits)
    return out


def _operation_from(data: dict[str, Any]) -> OperationSpec:
    data["retry"] = RetryPolicy(**_tuples(data["retry"], "on"))
    data["limits"] = None if data["limits"] is None else Limits(**data["limits"])
    known = {each.name for each in fields(OperationSpec)}
    return OperationSpec(**{name: value for name, value in data.items() if name in known})


def _tuples(data: dict[str, Any], name: str) -> dict[str, Any]:
    if data.get(name) is not None:
        data[name] = tuple(data[name])
    return data

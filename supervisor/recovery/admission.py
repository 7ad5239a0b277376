"""A definition as the journal keeps it: columns, packed and compressed, in as many records as needed.

    zlib( msgpack( {"name", ..., "operations": [{...}], "phases": [...],
                    "ids": [...], "ops": u32[], "ends": u32[], "needs": u32[], "data": {node: [...]}} ) )

Node i has operation ops[i] and needs the nodes needs[ends[i - 1] : ends[i]], each once where "distinct" says so;
`data` has arguments, `when`, `foreach` and the phase's number of those nodes that have any. u32[] is little-endian.
A node that does nothing special costs about six bytes. `definition_from` gives back an equal WorkflowSpec.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from array import array
from collections.abc import Iterable
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
from sage_actors.messages.node_columns import NodeColumns, operations_of
from sage_actors.messages.records import RunAdmitted
from sage_actors.supervisor.core.plan import Plan

__all__ = ["Assembly", "admission_records", "definition_from", "pack_definition"]

_PART_BYTES = 16 * 1024 * 1024
_MOST_BYTES = 8 * 1024 * 1024 * 1024


def pack_definition(spec: WorkflowSpec, plan: Plan | None = None) -> bytes:
    """The body of an admission. `plan`: of this very `spec`; where nodes are plain its columns are the same."""
    if plan is not None and plan.all_plain:
        columns = (plan.ids, plan.op_of, plan.parent_offsets[1:], plan.parents)
        return _compress(spec, operations_of(spec.nodes), *columns, {}, distinct=True)
    nodes = NodeColumns.of(spec.nodes)
    phases = {phase.id: i for i, phase in enumerate(spec.phases)}
    data = {
        i: [
            dict(node.arguments),
            node.when,
            node.foreach,
            None if node.phase is None else phases[node.phase],
        ]
        for i, node in nodes.data.items()
    }
    return _compress(
        spec,
        nodes.operations,
        nodes.ids,
        nodes.ops,
        nodes.ends,
        nodes.needs,
        data,
        distinct=nodes.distinct,
    )


def _compress(
    spec: WorkflowSpec,
    operations: Iterable[OperationSpec],
    ids: list[str],
    ops: array[int],
    ends: array[int],
    needs: array[int],
    data: dict[int, list[Any]],
    *,
    distinct: bool,
) -> bytes:
    whole = {
        "name": spec.name,
        "description": spec.description,
        "concurrency": spec.concurrency,
        "timeout": spec.timeout,
        **({} if spec.budget is None else {"budget": dict(spec.budget)}),
        "inputs": {name: _fields(each) for name, each in spec.inputs.items()},
        "phases": [_fields(phase) for phase in spec.phases],
        "operations": [_operation_fields(each) for each in operations],
        "ids": ids,
        "ops": _u32(ops),
        "ends": _u32(ends),
        "needs": _u32(needs),
        "data": data,
        **({"distinct": True} if distinct else {}),
    }
    return zlib.compress(pack(whole, what="the definition"), 1)


def admission_records(
    spec: WorkflowSpec, header: dict[str, Any], *, at: float, plan: Plan | None = None
) -> list[RunAdmitted]:
    """The records that make a run exist; only with the last one, which has the digest, does it."""
    body = pack_definition(spec, plan)
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
    nodes = NodeColumns(
        ids=whole["ids"],
        operations=operations,
        ops=_from_u32(whole["ops"]),
        ends=_from_u32(whole["ends"]),
        needs=_from_u32(whole["needs"]),
        data={},
        distinct=whole.get("distinct") is True,
    )
    for i, (arguments, when, foreach, number) in whole["data"].items():
        plain, phase = nodes[i], None if number is None else phases[number].id
        nodes.data[i] = NodeSpec(plain.id, plain.operation, arguments, plain.needs, when, foreach, phase)
    return WorkflowSpec(
        name=whole["name"],
        nodes=nodes,
        description=whole["description"],
        inputs={name: InputSpec(**_tuples(each, "enum")) for name, each in whole["inputs"].items()},
        phases=phases,
        concurrency=whole["concurrency"],
        timeout=whole["timeout"],
        budget=whole.get("budget"),
    )


def _u32(numbers: array[int]) -> bytes:
    assert numbers.itemsize == 4
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _from_u32(data: bytes) -> array[int]:
    numbers = array("I")
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


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

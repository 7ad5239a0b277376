"""A definition compiled for execution: nodes are numbers, edges are arrays, templates are parsed.

    children of node i:  targets[offsets[i] : offsets[i + 1]]      (compressed sparse rows)
    parents of node i:   parents[parent_offsets[i] : parent_offsets[i + 1]]

After the nodes of the definition come the *gates*, one for each phase: a gate depends on every node of its
phase, and every node of the phases that depend on it depends on the gate. So a phase of a thousand nodes
after one of a thousand costs two thousand edges, not a million; `min_success` is judged at the gate.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, repeat
from operator import lt, sub
from typing import Any, Final

from sage_actors.actors.operations.types import LANES, OPERATION_TYPES, worker_kind
from sage_actors.messages.codec import pack
from sage_actors.messages.definition import (
    NodeSpec,
    OperationSpec,
    PhaseSpec,
    WorkflowSpec,
    operation_to_dict,
)
from sage_actors.messages.errors import CycleError, DefinitionError, Problem
from sage_actors.messages.node_columns import NodeColumns
from sage_actors.supervisor.core.graph import (
    DependencyGraph,
    build_rows,
    kahn_levels,
    longest_path_to_end,
    nearest,
)
from sage_actors.supervisor.definitions.references import Template, parse_template

__all__ = ["ENGINE_TYPES", "Plan", "compile_plan", "fingerprint", "node_number", "wire_spec"]

ENGINE_TYPES: Final = frozenset(each.name for each in OPERATION_TYPES.values() if each.by_engine)
_EMPTY: Final = pack({})
_GATE: Final = OperationSpec(type="gate")


class Plan:
    """What `compile_plan` made of one definition; shared by all runs of it, and never changed.

    Nodes have the numbers 0 to visible - 1, in the order of the definition; then come the gates of phases.
    Arrays are by these numbers, edges one array behind the other: `targets[offsets[n] : offsets[n + 1]]`.
    """

    __slots__ = (
        "all_plain",
        "by_id",
        "compiled",
        "foreaches",
        "gates",
        "ids",
        "in_order",
        "indegree",
        "offsets",
        "op_of",
        "ops",
        "order",
        "parent_offsets",
        "parents",
        "payloads",
        "phase_of",
        "rank",
        "references",
        "simple",
        "size",
        "spec",
        "subplans",
        "targets",
        "value_uses",
        "visible",
        "whens",
    )

    def __init__(self, spec: WorkflowSpec, nodes: NodeColumns) -> None:
        self.spec = spec
        self.visible = len(nodes)
        self.size = self.visible  # gates included
        self.ids = list(nodes.ids)
        self.by_id = dict(zip(self.ids, range(self.visible), strict=True))
        self.ops: list[OperationSpec] = []  # each once
        self.op_of: array[int] = array("I")  # node -> its place in `ops`
        self.parents: array[int] = array("I")
        self.parent_offsets: array[int] = array("I", (0,))
        self.targets: array[int] = array("I")
        self.offsets: array[int] = array("I", (0,))
        self.indegree: array[int] = array("i")
        # Nodes by urgency: priority, then the longest path to the end, then the order of the definition.
        self.order: array[int] = array("I")
        self.rank: array[int] = array("I")  # its inverse: node -> place in `order`
        self.simple = bytearray()  # where a node needs nothing but a worker: 1 more than its lane, else 0
        self.all_plain = True  # no node has data, a condition or a phase: its parents are its needs
        self.in_order = True  # each node comes after those that it depends on
        self.payloads: list[bytes | Template] = []  # what a worker gets, packed, or a template of it
        self.whens: dict[int, Template] = {}
        self.foreaches: dict[int, Template] = {}
        self.gates: dict[int, PhaseSpec] = {}
        self.phase_of: dict[str, list[int]] = {}  # phase -> its members
        self.references: dict[int, tuple[int, ...]] = {}  # node -> whose values it refers to
        self.value_uses: dict[int, int] = {}  # node -> how many nodes refer to its value
        self.subplans: dict[int, Plan] = {}
        self.compiled: dict[bytes, Plan] = {}  # packed definition of a sub-workflow -> its plan

    def children(self, node: int) -> array[int]:
        return self.targets[self.offsets[node] : self.offsets[node + 1]]

    def parents_of(self, node: int) -> array[int]:
        return self.parents[self.parent_offsets[node] : self.parent_offsets[node + 1]]

    def topological(self) -> array[int]:
        """All nodes, each after those that it depends on."""
        return kahn_levels(self.indegree, self.offsets, self.targets)[0]

    def leaves(self) -> list[int]:
        """Nodes that nothing depends on (a gate is nothing)."""
        return [node for node in range(self.visible) if self.is_leaf(node)]

    def is_leaf(self, node: int) -> bool:
        """Whether nothing depends on `node`."""
        if self.offsets[node] == self.offsets[node + 1]:
            return node < self.visible
        return bool(self.gates) and self._leads_to_gates_only(node) and not self._gate_leads_on(node)

    def _leads_to_gates_only(self, node: int) -> bool:
        return all(target >= self.visible for target in self.children(node))

    def _gate_leads_on(self, node: int) -> bool:
        """Whether the phase of `node` has phases after it."""
        for target in self.children(node):
            if target >= self.visible and self.offsets[target + 1] > self.offsets[target]:
                return True
        return False


def compile_plan(spec: WorkflowSpec) -> Plan:
    """`spec` as a Plan. O(V + E), a few microseconds a node.

    Raises:
        DefinitionError: all that is wrong with it, where something makes a plan impossible; CycleError.
    """
    try:
        return _compile(spec)
    except CycleError:
        raise
    except DefinitionError:
        from sage_actors.supervisor.definitions.validation import check_spec

        check_spec(spec)  # all problems, each with its place
        raise


def _compile(spec: WorkflowSpec) -> Plan:
    nodes = NodeColumns.of(spec.nodes)
    plan = Plan(spec, nodes)
    parents, parent_offsets = plan.parents, plan.parent_offsets
    gate_of = {phase.id: plan.visible + i for i, phase in enumerate(spec.phases)}
    gates_before = {phase.id: tuple(gate_of[each] for each in phase.dependencies) for phase in spec.phases}
    _add_nodes(plan, nodes, gates_before)
    _add_gates(plan, parents, parent_offsets, gate_of)
    plan.size = plan.visible + len(spec.phases)
    plan.indegree = array("i", map(sub, parent_offsets[1:], parent_offsets))
    owners = array("I", chain.from_iterable(map(repeat, range(plan.size), plan.indegree)))
    plan.in_order = all(map(lt, parents, owners))
    plan.offsets, plan.targets = build_rows(plan.size, parents, owners)
    _rank(plan)
    _mark_simple(plan)
    return plan


def _add_nodes(plan: Plan, nodes: NodeColumns, gates_before: Mapping[str, tuple[int, ...]]) -> None:
    """What is plain is taken over in stretches."""
    numbered: dict[OperationSpec, tuple[int, bool]] = {}
    numbers = [numbered.get(each) or _number(plan, numbered, each) for each in nodes.operations]
    order = [number for number, _ in numbers]
    same = order == list(range(len(order)))
    plan.op_of.extend(nodes.ops if same else [order[each] for each in nodes.ops])
    plan.payloads += [_EMPTY] * len(nodes)
    parents, ends = plan.parents, nodes.ends
    start = 0
    for i in _not_plain(nodes, [is_plain for _, is_plain in numbers]):
        _take_over(plan, nodes, start, i)
        if i in nodes.data or not numbers[nodes.ops[i]][1]:
            plan.payloads[i], here = _data_of(plan, i, nodes[i], gates_before)
            parents.extend(here)
        else:
            parents.extend(dict.fromkeys(nodes.needs_of(i)))
        plan.parent_offsets.append(len(parents))
        start = i + 1
    _take_over(plan, nodes, start, len(ends))


def _not_plain(nodes: NodeColumns, is_plain: list[bool]) -> list[int]:
    """Nodes that have data, an operation that may refer to others, or say a need twice; in order."""
    ops, ends, needs = nodes.ops, nodes.ends, nodes.needs
    found = set(nodes.data)
    if not all(is_plain):
        found.update(i for i, op in enumerate(ops) if not is_plain[op])
    start = 0
    for i, end in enumerate(() if nodes.distinct else ends):
        if end - start > 1 and len(set(needs[start:end])) < end - start:
            found.add(i)
        start = end
    return sorted(found)


def _take_over(plan: Plan, nodes: NodeColumns, start: int, stop: int) -> None:
    """The needs of the plain nodes from `start` to `stop`, as they are."""
    if start == stop:
        return
    first = nodes.ends[start - 1] if start else 0
    shift = len(plan.parents) - first
    ends = nodes.ends[start:stop]
    plan.parents.extend(nodes.needs[first : ends[-1]])
    plan.parent_offsets.extend(ends if not shift else array("I", [each + shift for each in ends]))


def _data_of(
    plan: Plan, i: int, node: NodeSpec, gates_before: Mapping[str, tuple[int, ...]]
) -> tuple[bytes | Template, Iterable[int]]:
    """What the worker gets of a node that is not plain, and all that it depends on."""
    plan.all_plain = False
    payload, used = _compile_data(plan, i, node)
    here = dict.fromkeys([plan.by_id[each] for each in node.needs])
    here.update(dict.fromkeys(used))
    if node.phase:
        here.update(dict.fromkeys(gates_before[node.phase]))
        plan.phase_of.setdefault(node.phase, []).append(i)
    return payload, here


def _number(
    plan: Plan, numbered: dict[OperationSpec, tuple[int, bool]], operation: OperationSpec
) -> tuple[int, bool]:
    """The number of an operation in the plan, and whether it holds nothing that could refer to a node."""
    is_plain = operation.type == "python" and not operation.has_fallback
    numbered[operation] = found = (len(plan.ops), is_plain)
    plan.ops.append(_placed(operation))
    return found


def fingerprint(node: NodeSpec) -> bytes:
    """What decides whether a finished node still counts after its definition was edited (8 bytes).

    Type, call, arguments, `when`, `foreach` and declared `version`; not retry, timeout or priority.
    """
    operation = node.operation
    said = [
        operation.type,
        _plain(operation.config),
        _plain(node.arguments),
        node.when,
        _plain(node.foreach),
        operation.version,
        sorted(node.needs),
    ]
    return hashlib.blake2b(pack(said), digest_size=8).digest()


def _plain(value: Any) -> Any:
    """Maps in one order, so that equal data has equal bytes."""
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _compile_data(plan: Plan, i: int, node: NodeSpec) -> tuple[bytes | Template, Iterable[int]]:
    """What the worker will get, and the nodes whose values that takes."""
    operation = node.operation
    plain = node.when is None and node.foreach is None and not operation.has_fallback
    if plain and not node.arguments and operation.type == "python":
        return _EMPTY, ()
    payload = _payload(node)
    used: dict[int, None] = {}
    _note_references(plan, node, payload, used)
    if operation.type == "workflow":
        plan.subplans[i] = _subplan(plan, operation)
    if operation.has_fallback:
        _note_references(plan, node, parse_template(operation.fallback), used)
    for source, found in ((node.when, plan.whens), (node.foreach, plan.foreaches)):
        if source is not None:
            found[i] = parse_template(source)
            _note_references(plan, node, found[i], used)
    if used:
        plan.references[i] = tuple(used)
        for each in used:
            plan.value_uses[each] = plan.value_uses.get(each, 0) + 1
    if payload.references:
        return payload, used
    return pack(payload.value, what=f"the arguments of {node.id}"), used


def _payload(node: NodeSpec) -> Template:
    operation, arguments = node.operation, dict(node.arguments)
    if operation.type == "python":
        return parse_template(arguments, place="arguments")
    config = dict(operation.config)
    if operation.type == "workflow":
        return parse_template({"inputs": config.get("inputs") or {}, "arguments": arguments})
    quote_at = ("config", "command") if operation.type == "shell" else None
    return parse_template({"config": config, "arguments": arguments}, quote_at=quote_at)


def _subplan(plan: Plan, operation: OperationSpec) -> Plan:
    """One for all nodes with the same definition, so that they share its operations, too."""
    from sage_actors.supervisor.definitions.specs import spec_from_dict

    definition = operation.config["definition"]
    key = pack(definition)
    found = plan.compiled.get(key)
    if found is None:
        found = plan.compiled[key] = compile_plan(spec_from_dict(definition))
    return found


def _note_references(plan: Plan, node: NodeSpec, template: Template, used: dict[int, None]) -> None:
    for reference in template.references:
        if reference.kind == "node":
            used[node_number(plan, node.phase, reference.name)] = None
        elif reference.kind == "input" and reference.name not in plan.spec.inputs:
            hint = nearest(reference.name, plan.spec.inputs, otherwise="declare it in `inputs`")
            text = f"the workflow has no such input: {reference.name}"
            raise DefinitionError([Problem(node.id, text, hint)], source=plan.spec.name)
        elif reference.kind in ("item", "index") and node.foreach is None:
            text = f"${{{reference.kind}}} is there in a node with `foreach` only"
            raise DefinitionError([Problem(node.id, text)], source=plan.spec.name)


def node_number(plan: Plan, phase: str | None, name: str) -> int:
    """The node that `name` means when said in `phase`: its own phase first."""
    full = name if phase is None or "/" in name else f"{phase}/{name}"
    found = plan.by_id.get(full)
    if found is None:
        hint = nearest(full, plan.by_id)
        raise DefinitionError([Problem(full, "there is no such node", hint)], source=plan.spec.name)
    return found


def _add_gates(plan: Plan, parents: array[int], parent_offsets: array[int], gate_of: dict[str, int]) -> None:
    if not gate_of:
        return
    gate_op = len(plan.ops)
    plan.ops.append(_GATE)
    for phase in plan.spec.phases:
        number = gate_of[phase.id]
        plan.gates[number] = phase
        plan.ids.append(phase.id)
        plan.op_of.append(gate_op)
        plan.payloads.append(_EMPTY)
        parents.extend(plan.phase_of.get(phase.id, ()))
        parents.extend(gate_of[each] for each in phase.dependencies)
        parent_offsets.append(len(parents))


def _rank(plan: Plan) -> None:
    topological = range(plan.size) if plan.in_order else plan.topological()
    if len(topological) < plan.size:
        raise _cycle(plan)
    longest = longest_path_to_end(plan.offsets, plan.targets, topological)
    order = sorted(range(plan.size), key=longest.__getitem__, reverse=True)  # stable: definition order stays
    if any(op.priority for op in plan.ops):
        order.sort(key=lambda node: -plan.ops[plan.op_of[node]].priority)
    plan.order = array("I", order)
    plan.rank = array("I", bytes(4 * plan.size))
    for position, node in enumerate(order):
        plan.rank[node] = position


def _cycle(plan: Plan) -> CycleError:
    graph = DependencyGraph()
    for node_id in plan.ids:
        graph.add_node(node_id)
    for node in range(plan.size):
        for parent in plan.parents_of(node):
            graph.add_edge(plan.ids[node], plan.ids[parent])
    return CycleError(graph.find_cycle() or (), source=plan.spec.name)


def _mark_simple(plan: Plan) -> None:
    """Most nodes need nothing but a worker; one byte tells the engine so."""
    plain_op = bytes(_simplicity(op) for op in plan.ops)
    simple = bytearray(map(plain_op.__getitem__, plan.op_of))
    for node in (*plan.whens, *plan.foreaches):
        simple[node] = 0
    plan.simple = simple


def _placed(operation: OperationSpec) -> OperationSpec:
    """The operation, knowing which kind of worker it runs in."""
    alone = operation.limits is not None or operation.sandbox is not None
    kind = worker_kind(
        operation.type, is_async=operation.is_async, alone=alone, trusted=operation.sandbox == "trusted"
    )
    lane = 0 if kind == "engine" else LANES.index(kind)
    endpoint = operation.endpoint or _own_endpoint(operation)
    if operation.lane == lane and operation.endpoint == endpoint:
        return operation
    return replace(operation, lane=lane, endpoint=endpoint)


def _own_endpoint(operation: OperationSpec) -> str | None:
    """Every call of an MCP server goes through the breaker of that server."""
    server = operation.config.get("server") if operation.type == "mcp" else None
    return server if isinstance(server, str) and "${" not in server else None


def _simplicity(operation: OperationSpec) -> int:
    if operation.type in ENGINE_TYPES or operation.type == "gate":
        return 0
    if operation.endpoint is not None or operation.effect == "once":
        return 0
    if operation.cache is not None or operation.budget is not None:
        return 0
    return operation.lane + 1


_TOLD = {"http": ("url",), "agent": ("agent", "model", "command")}
"""What the sandbox's policy must know of an operation's config."""


def wire_spec(operation: OperationSpec) -> dict[str, Any]:
    """What a worker needs to know of an operation, once."""
    said: dict[str, Any] = {"type": operation.type}
    if operation.type == "python":
        said["call"] = operation.config["call"]
    elif operation.type in _TOLD:
        said |= {name: operation.config[name] for name in _TOLD[operation.type] if operation.config.get(name)}
    if operation.sandbox is not None:
        said["sandbox"] = operation.sandbox
    if operation.digest is not None:
        said["digest"] = dict(operation.digest)
    if operation.effect != "idempotent":
        said["effect"] = operation.effect
    if operation.limits is not None:
        said["limits"] = operation_to_dict(operation)["limits"]
    return said

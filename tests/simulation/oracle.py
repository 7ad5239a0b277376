"""What must come out of a run: the rules of the design said once more, without engine, plan, numbers or time.

A node ends as "succeeded", "failed", "tolerated", "dropped" or "skipped"; "stuck" is one that a phase below its
`min_success` keeps from ending.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.supervisor.definitions.references import Reference, find_references, parse_template, truthy
from sage_actors.supervisor.definitions.specs import spec_from_dict
from simulation.definitions import ERROR_NAMES, approval_of, fate_of, value_of

_BY_POLICY = {"fail": "failed", "continue": "tolerated", "skip": "dropped"}


@dataclass(slots=True)
class End:
    state: str
    value: Any = None
    excused: bool = False  # its own `when` was false


@dataclass(slots=True)
class _Scope:
    spec: WorkflowSpec
    inputs: dict[str, Any]
    prefix: str = ""
    item: Any = None
    index: int | None = None
    ends: dict[str, End] = field(default_factory=dict)  # by the id inside the scope
    phases: dict[str, str] = field(default_factory=dict)
    forgiven: set[str] = field(default_factory=set)  # failures that min_success made good


class Oracle:
    """seed: of the fates. fell_back: ids of nodes that took their fallback since their breaker was open."""

    def __init__(self, seed: str, fell_back: Collection[str] = ()) -> None:
        self.seed, self.fell_back = seed, fell_back
        self.ends: dict[str, End] = {}

    def solve(self, spec: WorkflowSpec, inputs: dict[str, Any]) -> str:
        """The run's status, "paused" where a phase is stuck; `ends` then has every node by its full id."""
        scope = _Scope(spec, inputs)
        self._scope(scope)
        if any(end.state == "stuck" for end in scope.ends.values()) or "stuck" in scope.phases.values():
            return "paused"
        return "failed" if self._failures(scope) else "succeeded"

    def _failures(self, scope: _Scope) -> list[str]:
        return [
            name for name, end in scope.ends.items() if end.state == "failed" and name not in scope.forgiven
        ]

    def _scope(self, scope: _Scope) -> None:
        for phase in scope.spec.phases:
            members = [node for node in scope.spec.nodes if node.phase == phase.id]
            for node in members:
                self._one(scope, node)
            scope.phases[phase.id] = self._judge(scope, phase, [scope.ends[node.id] for node in members])
            if phase.min_success is not None and scope.phases[phase.id] == "succeeded":
                scope.forgiven |= {node.id for node in members if scope.ends[node.id].state == "failed"}
        if not scope.spec.phases:
            for node in scope.spec.nodes:
                self._one(scope, node)

    def _judge(self, scope: _Scope, phase: Any, ends: list[End]) -> str:
        before = [scope.phases[each] for each in phase.dependencies]
        if "stuck" in before or any(end.state == "stuck" for end in ends):
            return "stuck"
        complete = all(each == "succeeded" for each in before)
        if not complete and (phase.min_success is None or not any(end.state == "succeeded" for end in ends)):
            return "failed"
        if phase.min_success is None:
            good = all(end.state in ("succeeded", "tolerated") or end.excused for end in ends)
            return "succeeded" if good else "failed"
        judged = [end for end in ends if not end.excused]
        share = sum(end.state == "succeeded" for end in judged)
        if share >= phase.min_success * len(judged) - 1e-9:
            return "succeeded"
        return "stuck" if complete else "failed"

    def _one(self, scope: _Scope, node: NodeSpec) -> None:
        end = self._end_of(scope, node)
        scope.ends[node.id] = end
        self.ends[scope.prefix + node.id] = end

    def _parents(self, scope: _Scope, node: NodeSpec) -> list[str]:
        operation = node.operation
        said = [dict(node.arguments), node.when, node.foreach, operation.config.get("message")]
        said += [operation.config.get("inputs"), operation.fallback if operation.has_fallback else None]
        named = [each.name for each in find_references(said) if each.kind == "node"]
        return list(dict.fromkeys([*node.needs, *(self._full(node, each) for each in named)]))

    def _full(self, node: NodeSpec, name: str) -> str:
        return name if node.phase is None or "/" in name else f"{node.phase}/{name}"

    def _end_of(self, scope: _Scope, node: NodeSpec) -> End:
        phases = {each.id: each for each in scope.spec.phases}
        before = phases[node.phase].dependencies if node.phase else ()
        gates = [scope.phases[each] for each in before]
        parents = [scope.ends[each] for each in self._parents(scope, node)]
        near = [
            end
            for name in self._parents(scope, node)
            if name.rpartition("/")[0] == (node.phase or "")
            for end in [scope.ends[name]]
        ]
        if "stuck" in gates or any(end.state == "stuck" for end in parents):
            return End("stuck")
        if not self._triggers(node.operation.trigger, gates, parents, near):
            return End("skipped")
        if node.when is not None and not truthy(self._evaluate(scope, node, node.when)):
            return End("skipped", excused=True)
        if node.foreach is not None:
            return self._foreach(scope, node)
        return self._carry_out(scope, node, scope.prefix + node.id)

    def _triggers(self, trigger: str, gates: list[str], parents: list[End], near: list[End]) -> bool:
        if trigger == "all_done":
            return True
        if trigger == "any_success":
            ends = [end.state for end in parents] + gates
            return not ends or "succeeded" in ends
        return (
            all(each == "succeeded" for each in gates)
            and not any(end.excused for end in parents)
            and all(end.state in ("succeeded", "tolerated") for end in near)
        )

    def _evaluate(self, scope: _Scope, node: NodeSpec, template: Any) -> Any:
        def find(reference: Reference) -> Any:
            if reference.kind == "node":
                return scope.ends[self._full(node, reference.name)].value
            if reference.kind == "input":
                return scope.inputs.get(reference.name)
            return scope.item if reference.kind == "item" else scope.index

        return parse_template(template).evaluate(find)

    def _foreach(self, scope: _Scope, node: NodeSpec) -> End:
        items = self._evaluate(scope, node, node.foreach)
        if not isinstance(items, list):
            return self._failed(scope, node)
        ends = []
        for i, item in enumerate(items):
            inside = _Scope(scope.spec, scope.inputs, scope.prefix, item, i, scope.ends, scope.phases)
            end = self._carry_out(inside, node, f"{scope.prefix}{node.id}[{i}]")
            self.ends[f"{scope.prefix}{node.id}[{i}]"] = end
            ends.append(end)
        states = {end.state for end in ends}
        if "stuck" in states:
            return End("stuck")
        if states & {"failed", "dropped"}:
            return self._failed(scope, node)
        return End("succeeded", [end.value for end in ends])

    def _carry_out(self, scope: _Scope, node: NodeSpec, node_id: str) -> End:
        operation = node.operation
        if operation.type == "wait":
            if operation.timeout is not None and operation.config["seconds"] > operation.timeout:
                return self._failed(scope, node)
            return End("succeeded", {"waited": True})
        if operation.type == "approval":
            approved, data = approval_of(self.seed, node_id)
            if approved:
                return End("succeeded", {"approved": True, "data": data, "by": "sim"})
            return self._failed(scope, node)
        if operation.type == "workflow":
            return self._workflow(scope, node, node_id)
        if node_id in self.fell_back or not self._succeeds(node_id, operation):
            return self._failed(scope, node)
        return End("succeeded", value_of(node_id, self._evaluate(scope, node, dict(node.arguments))))

    def _succeeds(self, node_id: str, operation: OperationSpec) -> bool:
        fate = fate_of(self.seed, node_id, operation)
        if fate.kind == "ok":
            return True
        if fate.kind == "crash":
            return fate.times < operation.max_crashes
        if operation.effect == "once" and fate.kind in ("hang", "limit"):
            return True  # in doubt: the person lets it be tried again
        wanted = not operation.retry.on or ERROR_NAMES[fate.kind] in operation.retry.on
        return wanted and fate.times < operation.retry.max_attempts

    def _failed(self, scope: _Scope, node: NodeSpec) -> End:
        operation = node.operation
        if operation.has_fallback:
            return End("succeeded", self._evaluate(scope, node, operation.fallback))
        return End(_BY_POLICY[operation.on_failure])

    def _workflow(self, scope: _Scope, node: NodeSpec, node_id: str) -> End:
        operation = node.operation
        inner_spec = spec_from_dict(operation.config["definition"])
        given = self._evaluate(scope, node, dict(operation.config.get("inputs") or {}))
        inputs = {name: given.get(name, each.default) for name, each in inner_spec.inputs.items()}
        inner = _Scope(inner_spec, inputs, f"{node_id}/", scope.item, scope.index)
        self._scope(inner)
        if any(end.state == "stuck" for end in inner.ends.values()) or "stuck" in inner.phases.values():
            return End("stuck")
        if self._failures(inner):
            return self._failed(scope, node)
        return End("succeeded", {name: inner.ends[name].value for name in self._leaves(inner)})

    def _leaves(self, scope: _Scope) -> list[str]:
        used = {name for node in scope.spec.nodes for name in self._parents(scope, node)}
        leading = {name for phase in scope.spec.phases for name in phase.dependencies}
        return [node.id for node in scope.spec.nodes if node.id not in used and node.phase not in leading]

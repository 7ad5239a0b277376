"""What a workflow means as a whole: ids, references, needs, cycles, phases. Finds everything, not the first.

Works on a WorkflowSpec, so that a workflow built in Python is held to the same rules as a file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sage_actors.actors.operations.types import OPERATION_TYPES
from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.messages.errors import CycleError, DefinitionError, Problem, SecretInStateError
from sage_actors.messages.secret_scan import is_secret_problem
from sage_actors.supervisor.core.graph import DependencyGraph, nearest
from sage_actors.supervisor.core.plan import ENGINE_TYPES
from sage_actors.supervisor.definitions.inputs import input_problem
from sage_actors.supervisor.definitions.literals import literal_problems
from sage_actors.supervisor.definitions.references import (
    RESERVED_IDS,
    Reference,
    is_single_reference,
    read_references,
)
from sage_actors.supervisor.definitions.specs import spec_from_dict

__all__ = [
    "AVAILABLE_TYPES",
    "TYPES",
    "Places",
    "check_spec",
    "code_of",
    "places_of",
    "raise_problems",
    "resolve_name",
    "templates_of",
    "type_hint",
    "validate_spec",
]

TYPES = ("python", "shell", "mcp", "http", "agent", "skill", "approval", "wait", "workflow")
AVAILABLE_TYPES = frozenset(OPERATION_TYPES)
_ID = re.compile(r"[A-Za-z0-9_-]+\Z")
_MAX_GUESSES = 100  # a guess compares a name with all others; a file that is wrong throughout gets no more
_NO_RETRY = {
    "workflow": "give the operations inside it a `retry`",
    "approval": "remove it; a `timeout` bounds how long it waits",
    "wait": "remove it",
}
_CYCLE = "cycle: "  # begins the message of a cycle
_ID_HINT = "ids are made of A-Z a-z 0-9 _ and -"


class Places(NamedTuple):
    """Where each node and each phase of a spec stands in its source."""

    nodes: Sequence[str]
    phases: Sequence[str]


def validate_spec(
    spec: WorkflowSpec, *, known_types: Collection[str] = AVAILABLE_TYPES, places: Places | None = None
) -> tuple[list[Problem], list[Problem]]:
    """(errors, warnings) of `spec`, each with its place in the file format; never raises for a bad one.

    places: where nodes and phases stand, if the source differs from what `spec.to_dict()` gives.
    A cycle is an error whose message begins with `cycle: `.
    """
    checker = _Checker(spec, known_types, places or places_of(spec))
    checker.check()
    return checker.errors, checker.warnings


def check_spec(spec: WorkflowSpec) -> None:
    """DefinitionError with all that is wrong with a workflow of the library, whose places are the ids of its nodes."""
    places = Places([node.id for node in spec.nodes], [phase.id for phase in spec.phases])
    raise_problems(validate_spec(spec, places=places)[0], spec.name)


def raise_problems(problems: Sequence[Problem], source: str) -> None:
    """The error for what was found, if anything was: of a cycle, of secrets alone, or of a definition."""
    cycles = [each for each in problems if each.message.startswith(_CYCLE)]
    if cycles:
        path = cycles[0].message.removeprefix(_CYCLE).split(" -> ")
        raise CycleError(path, problems=problems, source=source)
    if problems and all(map(is_secret_problem, problems)):
        raise SecretInStateError(problems, source=source)
    if problems:
        raise DefinitionError(problems, source=source)


def code_of(problem: Problem) -> str:
    """The code of one problem: that of the error which it would be alone."""
    if problem.message.startswith(_CYCLE):
        return CycleError.code
    return SecretInStateError.code if is_secret_problem(problem) else DefinitionError.code


def places_of(spec: WorkflowSpec) -> Places:
    """Where nodes and phases stand in the file format, such as `phases[0].operations[2]`."""
    return Places(list(_node_places(spec)), [f"phases[{number}]" for number in range(len(spec.phases))])


def _node_places(spec: WorkflowSpec) -> Iterator[str]:
    if not spec.phases:
        yield from (f"nodes[{number}]" for number in range(len(spec.nodes)))
        return
    phase_number = {phase.id: number for number, phase in enumerate(spec.phases)}
    counted: dict[str | None, int] = {}
    for node in spec.nodes:
        number = counted[node.phase] = counted.get(node.phase, -1) + 1
        yield f"phases[{phase_number.get(node.phase or '', 0)}].operations[{number}]"


def resolve_name(name: str, phase: str | None) -> str:
    """The full id that `name` means where it is said in `phase`."""
    return name if phase is None or "/" in name else f"{phase}/{name}"


def templates_of(operation: OperationSpec) -> Iterator[tuple[str, Any, tuple[str, ...] | None]]:
    """The parts of an operation's config that may hold references: (field, value, quote_at)."""
    config = operation.config
    if operation.type == "python":
        return
    if operation.type == "workflow":
        if "inputs" in config:
            yield "inputs", config["inputs"], None
        return
    for name, value in config.items():
        is_command = operation.type == "shell" and name == "command" and isinstance(value, str)
        yield name, value, (() if is_command else None)


@dataclass(slots=True)
class _Rules:
    """Which kinds of references a place may hold."""

    kinds: frozenset[str]
    where: str


_ANYWHERE = frozenset({"input", "node", "env", "keyring"})
_DATA = _Rules(_ANYWHERE, "here")
_DATA_OF_EACH = _Rules(_ANYWHERE | {"item", "index"}, "here")
_PLAIN = frozenset({"input", "node"})
_BY_ENGINE = _Rules(_PLAIN, "in an operation that the engine carries out itself: it would be written down")
_BY_ENGINE_OF_EACH = _Rules(_PLAIN | {"item", "index"}, _BY_ENGINE.where)
_WHEN = _Rules(_PLAIN, "in `when`")
_FOREACH = _Rules(_PLAIN, "in `foreach`")
_FALLBACK = _Rules(_PLAIN, "in a fallback")
_FALLBACK_OF_EACH = _Rules(_PLAIN | {"item", "index"}, "in a fallback")


@dataclass(slots=True)
class _Checker:
    """One validation: what is known, and what was found."""

    spec: WorkflowSpec
    known_types: Collection[str]
    places: Places
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    place_of: dict[str, str] = field(default_factory=dict)
    secret_ids: set[str] = field(default_factory=set)  # of nodes with secret outputs
    graph: DependencyGraph = field(default_factory=DependencyGraph)
    before: dict[str, set[str]] = field(default_factory=dict)

    def check(self) -> None:
        self._check_inputs()
        self._collect_ids()
        self._check_phases()
        for node, place in zip(self.spec.nodes, self.places.nodes, strict=True):
            self._check_needs(node, place)
            self._check_data(node, place)
        self.errors += literal_problems(self.spec, self.places.nodes)
        self._check_operations()
        self._check_graph()
        self.errors = list(dict.fromkeys(self.errors))  # a reference that stands twice in a text

    def _error(self, place: str, message: str, hint: str = "") -> None:
        self.errors.append(Problem(place, message, hint))

    # inputs and ids

    def _check_inputs(self) -> None:
        for name, declared in self.spec.inputs.items():
            if not _ID.match(name):
                self._error(f"inputs.{name[:80]}", f"bad name {name[:80]!r}", _ID_HINT)
            has_default = not declared.required and declared.default is not None
            if has_default and (wrong := input_problem(declared, declared.default)):
                self._error(f"inputs.{name}.default", wrong)

    def _collect_ids(self) -> None:
        if not self.spec.nodes and not self.spec.phases:
            self._error("", "the workflow has no nodes", "add `phases` with operations, or `nodes`")
        in_phases = bool(self.spec.phases)
        for node, place in zip(self.spec.nodes, self.places.nodes, strict=True):
            if node.id in self.place_of:
                self._error(
                    f"{place}.id", f"duplicate id {node.id!r}", f"it stands at {self.place_of[node.id]} too"
                )
                continue
            short = node.id.partition("/")[2] if in_phases else node.id
            if not _ID.match(short) or short in RESERVED_IDS:
                self._bad_id(f"{place}.id", short)
            self.place_of[node.id] = place
            if node.operation.secret_outputs:
                self.secret_ids.add(node.id)
                self._check_secret_outputs(node, place)
            self.graph.add_node(node.id)

    def _check_secret_outputs(self, node: NodeSpec, place: str) -> None:
        """Where a secret result would have to be written down, or made twice."""
        operation = node.operation
        for is_said, name, why in (
            (node.foreach is not None, "foreach", "put it on an operation that is one node"),
            (
                operation.type in ENGINE_TYPES,
                operation.type,
                "put it on an operation that a worker carries out",
            ),
            (operation.cache is not None, "cache", "the cache is on disk"),
            (operation.digest is not None, "digest", "the whole would be kept on disk"),
            (operation.effect == "once", "effect: once", "a resume may have to make the result again"),
        ):
            if is_said:
                self._error(f"{place}.secret_outputs", f"cannot be combined with {name}", why)

    def _bad_id(self, place: str, name: str) -> None:
        if name in RESERVED_IDS:
            self._error(place, f"the id {name!r} is reserved", "references begin with it; choose another")
        else:
            self._error(place, f"bad id {name[:80]!r}", _ID_HINT)

    # phases

    def _check_phases(self) -> None:
        phases = DependencyGraph()
        places: dict[str, str] = {}
        for phase, place in zip(self.spec.phases, self.places.phases, strict=True):
            if phase.id in places:
                self._error(
                    f"{place}.id", f"duplicate id {phase.id!r}", f"it stands at {places[phase.id]} too"
                )
                continue
            if not _ID.match(phase.id) or phase.id in RESERVED_IDS:
                self._bad_id(f"{place}.id", phase.id)
            places[phase.id] = place
            phases.add_node(phase.id)
        self._link_phases(phases, places)
        self._check_phase_sizes()
        for phase in self.spec.phases:
            self.before.setdefault(phase.id, _upstream(phases, phase.id))
        self._check_phase_graph(phases, places)

    def _link_phases(self, phases: DependencyGraph, places: Mapping[str, str]) -> None:
        for phase, place in zip(self.spec.phases, self.places.phases, strict=True):
            for at, name in enumerate(phase.dependencies):
                if name in places:
                    phases.add_edge(phase.id, name)
                else:
                    hint = nearest(name, places, otherwise="name a phase of this workflow")
                    self._error(f"{place}.dependencies[{at}]", f"unknown phase {name!r}", hint)

    def _check_phase_sizes(self) -> None:
        filled = {node.phase for node in self.spec.nodes}
        for phase, place in zip(self.spec.phases, self.places.phases, strict=True):
            if phase.id not in filled:
                hint = "add one, or remove the phase"
                self._error(f"{place}.operations", f"phase {phase.id!r} has no operations", hint)
            if phase.min_success is not None and not 0 <= phase.min_success <= 1:
                self._error(f"{place}.min_success", "must be a share from 0 to 1")

    def _check_phase_graph(self, phases: DependencyGraph, places: Mapping[str, str]) -> None:
        for problem in phases.validate():
            place = f"{places[problem.place]}.dependencies" if problem.place else "phases"
            message = problem.message.replace("every node", "every phase")
            self._error(place, message, problem.hint)
        parts = phases.components()
        if len(parts) < 2:
            return
        unsure = {phase.id for phase in self.spec.phases if not set(phase.dependencies) <= places.keys()}
        for part in sorted(parts, key=len, reverse=True)[1:]:
            if not unsure.isdisjoint(part):
                continue  # an unknown dependency was reported there
            what = (
                f"phase {part[0]!r} is" if len(part) == 1 else f"phases {', '.join(map(repr, part[:5]))} are"
            )
            message = f"{what} cut off from the graph: no dependency leads there or on from there"
            self._error(places[part[0]], message, "connect the phases with `dependencies`")

    # edges

    def _check_needs(self, node: NodeSpec, place: str) -> None:
        for at, name in enumerate(node.needs):
            self._check_edge(node, name, f"{place}.needs[{at}]", "needs")

    def _check_edge(self, node: NodeSpec, name: str, place: str, verb: str) -> None:
        full = resolve_name(name, node.phase)
        if full not in self.place_of:
            self._unknown_node(node, name, place, verb)
        elif full == node.id:
            self._error(place, f"node {node.id!r} {verb} itself", "a node cannot wait for itself")
        elif node.phase is None or full.startswith(f"{node.phase}/"):
            self.graph.add_edge(node.id, full)
        elif (phase := full.partition("/")[0]) not in self.before.get(node.phase, ()):
            message = f"{verb} {full!r}, but phase {node.phase!r} does not depend on phase {phase!r}"
            self._error(place, message, f"add {phase!r} to the dependencies of phase {node.phase!r}")

    def _unknown_node(self, node: NodeSpec, name: str, place: str, verb: str) -> None:
        if len(self.errors) > _MAX_GUESSES:
            self._error(place, f"{verb} an unknown node: {name!r}")
            return
        known = list(self.place_of)
        hint = nearest(name, known, otherwise="name a node of this workflow; a literal `${` is written `$${`")
        if node.phase is not None and "/" not in name and "mean" not in hint:
            hint = nearest(resolve_name(name, node.phase), known, otherwise=hint)
        if node.operation.type == "shell" and name.isupper():
            hint = f"for the shell's own variable write $${{{name}}}"
        parts = name.split("/")
        for cut in range(len(parts) - 1, 0, -1):
            if (owner := resolve_name("/".join(parts[:cut]), node.phase)) in self.place_of:
                hint = f"only the whole result can be referred to: ${{{owner} | ...}}"
        self._error(place, f"{verb} an unknown node: {name!r}", hint)

    # data

    def _check_data(self, node: NodeSpec, place: str) -> None:
        each = node.foreach is not None
        rules = _DATA_OF_EACH if each else _DATA
        if node.operation.type in ENGINE_TYPES:
            rules = _BY_ENGINE_OF_EACH if each else _BY_ENGINE
        self._check_value(node, node.arguments, f"{place}.arguments", rules)
        operation = node.operation
        for name, value, quote_at in templates_of(operation):
            self._check_value(node, value, f"{place}.{name}", rules, quote_at)
        if operation.has_fallback:
            rules = _FALLBACK_OF_EACH if each else _FALLBACK
            self._check_value(node, operation.fallback, f"{place}.fallback", rules)
        if node.when is not None:
            self._check_single(node, node.when, f"{place}.when", _WHEN)
        if each and not isinstance(node.foreach, list):
            self._check_single(node, node.foreach, f"{place}.foreach", _FOREACH)
        elif each:
            self._check_value(node, node.foreach, f"{place}.foreach", _FOREACH)

    def _check_single(self, node: NodeSpec, value: Any, place: str, rules: _Rules) -> None:
        if self._check_value(node, value, place, rules) and not is_single_reference(value):
            self._error(place, f"must be one reference, not {str(value)[:60]!r}", "write ${node | path}")

    def _check_value(
        self, node: NodeSpec, value: Any, place: str, rules: _Rules, quote_at: tuple[str, ...] | None = None
    ) -> bool:
        """Check the references in a value; whether they could be read."""
        if not value:
            return True
        references, problems = read_references(value, place=place, quote_at=quote_at)
        self.errors += problems
        for reference in references:
            self._check_reference(node, reference, rules)
        return not problems

    def _check_reference(self, node: NodeSpec, reference: Reference, rules: _Rules) -> None:
        kind, name, _, place, _ = reference
        if kind == "node":
            self._check_edge(node, name, place, "refers to")
            if resolve_name(name, node.phase) in self.secret_ids and rules is not _DATA:
                message = (
                    f"the output of {name!r} is secret: it cannot be used in a `foreach` or {rules.where}"
                )
                self._error(place, message, "use it in the `arguments` of an operation that is one node")
        elif kind == "input" and name not in self.spec.inputs:
            declare = f"declare it: inputs: {{{name}: {{}}}}"
            self._error(place, f"unknown input {name!r}", nearest(name, self.spec.inputs, otherwise=declare))
        if kind in rules.kinds:
            return
        if kind in ("item", "index") and node.foreach is None:
            self._error(place, f"${{{kind}}} has a value inside `foreach` only", "give the node a `foreach`")
        else:
            shown = f"${{{kind}}}" if kind in ("item", "index") else f"${{{kind}.{name}}}"
            self._error(place, f"{shown} cannot be used {rules.where}", "use it in `arguments`")

    # operations

    def _check_operations(self) -> None:
        checked: set[int] = set()
        for node, place in zip(self.spec.nodes, self.places.nodes, strict=True):
            operation = node.operation
            if operation.type == "workflow":
                self._check_sub_workflow(node, place)
            if operation.type in _NO_RETRY and operation.retry.max_attempts > 1:
                message = f"an operation of type {operation.type!r} is not tried again"
                self.warnings.append(Problem(f"{place}.retry", message, _NO_RETRY[operation.type]))
            if id(operation) not in checked:
                checked.add(id(operation))
                self._check_type(operation, place)

    def _check_type(self, operation: OperationSpec, place: str) -> None:
        if operation.type in self.known_types:
            return
        if operation.type in TYPES:
            usable = ", ".join(sorted(self.known_types))
            message = f"the operation type {operation.type!r} is not available yet in this version"
            self._error(f"{place}.type", message, f"usable are {usable}")
        else:
            self._error(
                f"{place}.type", f"unknown operation type {operation.type!r}", type_hint(operation.type)
            )

    def _check_sub_workflow(self, node: NodeSpec, place: str) -> None:
        definition = node.operation.config.get("definition")
        if not isinstance(definition, Mapping):
            return  # could not be loaded: reported there
        inputs = spec_from_dict({**definition, "nodes": [], "phases": []}).inputs
        given = dict.fromkeys(node.arguments, "arguments")
        given |= dict.fromkeys(node.operation.config.get("inputs") or (), "inputs")
        for name, where in given.items():
            if name not in inputs:
                otherwise = "remove it, or declare it there"
                if (name, where) == ("inputs", "arguments"):  # of `add`, where a file says `inputs`
                    otherwise = "its inputs are keywords of their own"
                hint = nearest(name, inputs, otherwise=otherwise)
                self._error(f"{place}.{where}.{name}", f"the sub-workflow has no input {name!r}", hint)
        for name, declared in inputs.items():
            if declared.required and name not in given:
                message = f"the sub-workflow needs its input {name!r}"
                self._error(f"{place}.inputs", message, f"add {name}: ... to `inputs`")

    # the graph as a whole

    def _check_graph(self) -> None:
        for problem in self.graph.validate():
            if problem.place or not self.spec.phases:
                self._error(self.place_of.get(problem.place, problem.place), problem.message, problem.hint)
        if not self.spec.phases and len(parts := self.graph.components()) > 1:
            heads = ", ".join(part[0] for part in parts[:3])
            more = ", ..." if len(parts) > 3 else ""
            message = f"the graph has {len(parts)} separate parts (of {heads}{more})"
            self.warnings.append(
                Problem("nodes", message, "this is allowed; connect them with `needs` if not meant")
            )


def type_hint(name: str) -> str:
    """Which operation type may have been meant."""
    return nearest(name, TYPES, otherwise=f"one of {', '.join(TYPES)}")


def _upstream(phases: DependencyGraph, phase: str) -> set[str]:
    """All phases that come before `phase`, directly or not."""
    seen: set[str] = set()
    stack = [phase] if phase in phases else []
    while stack:
        fresh = [each for each in phases.dependencies(stack.pop()) if each not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return seen

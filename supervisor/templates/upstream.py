"""Upstream's two shapes of templates, made into the file format of workflows.

    {"name": "research", "parallel": ["marketResearch", "patterns"], "dependencies": []}     names, or true / false
    {"id": "research", "name": "Research", "operations": [{"type": "marketResearch", "params": {}}],
     "dependencies": [], "timeout": 600000}                                     one operation or several; ms

Operations of a phase run at once in both; what one hands the next is left open. Here each step is given the
results of all research before it, and a specification and a plan are made first where one is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_actors.messages.errors import Problem
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.definitions.validation import TYPES
from sage_actors.supervisor.templates.tools import KINDS, REQUIRES, STEP_OF, ToolStep, named_tool, near_names

__all__ = ["Normalised", "from_upstream", "is_upstream"]

_TOPIC_WORDS = re.compile(
    r"\$\{\s*(?:feature|featureName|topic)\s*\}|\{\{\s*(?:feature|featureName|topic)\s*\}\}"
)
_PHASE_FIELDS = frozenset({"id", "name", "description", "operations", "parallel", "dependencies", "timeout"})
_TOP_FIELDS = frozenset({"$schema", "id", "name", "description", "version", "phases", "timeout"})


@dataclass(slots=True)
class Normalised:
    """data: the workflow in the file format; of no use where there are problems."""

    data: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def is_upstream(data: Any) -> bool:
    """Whether `data` has one of upstream's shapes rather than ours."""
    phases = data.get("phases") if isinstance(data, dict) else None
    if not isinstance(phases, list):
        return False
    return any(_is_upstream_phase(phase) for phase in phases if isinstance(phase, dict))


def _is_upstream_phase(phase: Mapping[str, Any]) -> bool:
    operations = phase.get("operations")
    if operations is None:
        return "parallel" in phase or "id" not in phase
    if isinstance(operations, dict):
        return True
    if not isinstance(operations, list):
        return False
    return any(
        isinstance(each, str) or (isinstance(each, dict) and not _is_ours(each)) for each in operations
    )


def _is_ours(operation: Mapping[str, Any]) -> bool:
    said = operation.get("type")
    return "params" not in operation and (said in TYPES or not (isinstance(said, str) and named_tool(said)))


def from_upstream(data: Mapping[str, Any]) -> Normalised:
    """`data`, which `is_upstream`, in the file format; each problem has its place in `data`."""
    return _Normaliser(data).normalise()


@dataclass(slots=True)
class _Step:
    """One operation on its way. `made` is what becomes of it."""

    made: dict[str, Any]
    step: ToolStep | None


class _Normaliser:
    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._result = Normalised({})
        self._ids: list[str] = []
        self._kind = KINDS.get(re.sub(r"[^a-z]", "", str(data.get("name", "")).lower()), "feature")

    def normalise(self) -> Normalised:
        phases = [each for each in enumerate(self._data["phases"]) if self._is_map(*each)]
        self._ids = [_phase_id(phase, number) for number, phase in phases]
        names = {
            _text(phase.get(key)): own
            for (_, phase), own in zip(phases, self._ids, strict=True)
            for key in ("name", "id")
            if _text(phase.get(key))
        }
        made = []
        for (number, phase), own in zip(phases, self._ids, strict=True):
            place = f"phases[{number}]"
            self._unknown(phase, _PHASE_FIELDS, place)
            made.append(
                {
                    "id": own,
                    "name": _text(phase.get("name")) or own,
                    "dependencies": self._dependencies(phase, names, place),
                    "operations": [each.made for each in self._operations(phase, own, place)],
                }
            )
        self._wire(made)
        self._result.data = self._top() | {"phases": made}
        return self._result

    def _is_map(self, number: int, phase: Any) -> bool:
        if not isinstance(phase, dict):
            self._problem(f"phases[{number}]", "a phase must be a map with `name` and `dependencies`")
        return isinstance(phase, dict)

    def _top(self) -> dict[str, Any]:
        self._unknown(self._data, _TOP_FIELDS, "")
        topic = {"type": "string", "description": "what the workflow is about"}
        top: dict[str, Any] = {"name": _text(self._data.get("name") or self._data.get("id")) or "workflow"}
        if description := _text(self._data.get("description")):
            top["description"] = description
        top["inputs"] = {"topic": topic}
        if (seconds := self._milliseconds(self._data, "timeout")) is not None:
            top["timeout"] = seconds
        return top

    def _dependencies(self, phase: Mapping[str, Any], names: Mapping[str, str], place: str) -> list[str]:
        said = phase.get("dependencies") or []
        if not isinstance(said, list) or not all(isinstance(each, str) for each in said):
            self._problem(f"{place}.dependencies", "must be a list of names of phases")
            return []
        found = []
        for number, name in enumerate(said):
            own = names.get(name)
            if own is None:
                hint = nearest(name, names, otherwise="name a phase of this template")
                self._problem(f"{place}.dependencies[{number}]", f"there is no phase {name!r}", hint)
            else:
                found.append(own)
        return list(dict.fromkeys(found))

    def _operations(self, phase: Mapping[str, Any], own: str, place: str) -> list[_Step]:
        timeout = self._milliseconds(phase, "timeout", place)
        steps: list[_Step] = []
        taken: set[str] = set()
        for where, raw in self._raw_operations(phase, own, place):
            step = self._operation(raw, where, taken)
            if step is not None and _is_repeated(step, steps):
                self._warn(
                    where, f"{step.made['tool']} does this already in the same phase; it is called once"
                )
            elif step is not None:
                if timeout is not None:
                    step.made["timeout"] = min(timeout, step.made.get("timeout", timeout))
                steps.append(step)
        return steps

    def _raw_operations(self, phase: Mapping[str, Any], own: str, place: str) -> Iterator[tuple[str, Any]]:
        """Each operation as it is said, with its place."""
        parallel, operations = phase.get("parallel"), phase.get("operations")
        if operations is not None:
            if isinstance(operations, dict):
                yield f"{place}.operations", operations
            elif isinstance(operations, list):
                yield from ((f"{place}.operations[{at}]", each) for at, each in enumerate(operations))
            else:
                self._problem(f"{place}.operations", "must be an operation or a list of them")
        elif isinstance(parallel, list):
            yield from ((f"{place}.parallel[{at}]", each) for at, each in enumerate(parallel))
        elif parallel is None or isinstance(parallel, bool):
            yield f"{place}.name", own  # a phase without a list is one operation of its name
        else:
            self._problem(f"{place}.parallel", "must be true, false or a list of operations")

    def _operation(self, raw: Any, place: str, taken: set[str]) -> _Step | None:
        if isinstance(raw, dict) and _is_ours(raw):
            return self._own_operation(raw, place, taken)
        name = raw if isinstance(raw, str) else raw.get("type") if isinstance(raw, dict) else None
        if not isinstance(name, str):
            self._problem(place, "an operation must be a name, or a map with `type`")
            return None
        step = named_tool(name)
        if step is None:
            self._problem(place, f"no operation is called {name!r}", near_names(name, TYPES))
            return None
        if step.inexact:
            self._warn(place, f"{name!r} becomes the tool {step.tool}: {step.inexact}")
        arguments = self._arguments(raw.get("params") if isinstance(raw, dict) else None, step, place)
        wanted = raw.get("id") if isinstance(raw, dict) else None
        made = _call(_free_id(_text(wanted) or name, taken), step)
        made["arguments"] |= arguments
        return _Step(made, step)

    def _own_operation(self, raw: Mapping[str, Any], place: str, taken: set[str]) -> _Step | None:
        """An operation that is in the file format already: kept as it is, and checked with the whole."""
        if not isinstance(raw.get("id"), str) or not isinstance(raw.get("needs", []), list):
            self._problem(place, "an operation needs an `id`, and `needs` is a list", "see docs/workflows.md")
            return None
        taken.add(raw["id"])
        return _Step(dict(raw), None)

    def _arguments(self, params: Any, step: ToolStep, place: str) -> dict[str, Any]:
        if params is None:
            return {}
        if not isinstance(params, dict):
            self._problem(f"{place}.params", "must be a map of arguments")
            return {}
        known = step.parameters | ({step.topic} if step.topic else set())
        arguments = {}
        for name, value in params.items():
            target = step.topic if name in ("topic", "feature", "query") and step.topic else name
            if target in known:
                arguments[target] = _with_topic(value)
            else:
                self._warn(f"{place}.params.{name}", f"{step.tool} takes no such argument; it was left out")
        return arguments

    # what a step is given by those before it

    def _wire(self, phases: list[dict[str, Any]]) -> None:
        before: dict[str, list[dict[str, Any]]] = {}
        for phase in _in_order(phases):
            upstream = _closure(phase["id"], phases)
            earlier = [
                ("${" + f"{other['id']}/{each['id']}" + "}", each)
                for other in phases
                if other["id"] in upstream
                for each in before.get(other["id"], ())
            ]
            phase["operations"] = _completed(phase["operations"], earlier)
            if any(_role(each) for each in phase["operations"]):
                phase["dependencies"] += [
                    each for each in _ordered(upstream, phases) if each not in phase["dependencies"]
                ]
            for operation in phase["operations"]:
                own = [
                    ("${" + each["id"] + "}", each)
                    for each in phase["operations"]
                    if each["id"] in operation.get("needs", ())
                ]
                self._feed(operation, [*earlier, *own])
            before[phase["id"]] = phase["operations"]

    def _feed(self, operation: dict[str, Any], earlier: list[tuple[str, dict[str, Any]]]) -> None:
        role = _role(operation)
        found = {
            wanted: [reference for reference, each in earlier if _role(each) == wanted]
            for wanted in ("research", "patterns", "skills", "specification", "planning", "implementation")
        }
        given: dict[str, Any] = {}
        if role in ("specification", "planning", "implementation"):
            given["kind"] = self._kind
            given |= {name: found[name][-1] for name in ("patterns", "skills") if found[name]}
        if role in ("specification", "planning") and found["research"]:
            given["research"] = found["research"]
        if role in ("planning", "implementation") and found["specification"]:
            given["specification"] = found["specification"][-1]
        if role == "implementation" and found["planning"]:
            given["plan"] = found["planning"][-1]
        if role == "validation" and found["specification"]:
            given["slug"] = found["specification"][-1][:-1] + " | slug}"
        if role == "validation" and found["implementation"]:
            given["work"] = found["implementation"][-1]
        own = operation.get("arguments", {})
        if given and isinstance(own, dict):
            operation["arguments"] = given | own

    # notes

    def _milliseconds(self, data: Mapping[str, Any], name: str, place: str = "") -> float | None:
        value = data.get(name)
        if value is None:
            return None
        where = f"{place}.{name}" if place else name
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
            self._problem(where, "must be a number of milliseconds greater than 0")
            return None
        return value / 1000

    def _unknown(self, data: Mapping[str, Any], known: frozenset[str], place: str) -> None:
        for name in data:
            if name not in known:
                where = f"{place}.{name}" if place else str(name)
                self._warn(where, "this field has no meaning here; it was left out")

    def _problem(self, place: str, message: str, hint: str = "") -> None:
        self._result.problems.append(Problem(place, message, hint))

    def _warn(self, place: str, message: str) -> None:
        self._result.warnings.append(Problem(place, message))


def _is_repeated(step: _Step, steps: list[_Step]) -> bool:
    """Upstream has `tests` and `regression` for what one run of the checks shows."""
    call = (step.step, step.made.get("arguments"))
    return step.step is not None and any(
        call == (each.step, each.made["arguments"]) for each in steps if each.step
    )


def _call(own: str, step: ToolStep) -> dict[str, Any]:
    """The operation that calls the tool, with the policies of the templates of this package."""
    made: dict[str, Any] = {"id": own, "type": "mcp", "server": step.server, "tool": step.tool}
    made["arguments"] = ({step.topic: "${inputs.topic}"} if step.topic else {}) | dict(step.defaults)
    made["timeout"] = step.timeout
    if step.is_research:
        made |= {"retry": {"max_attempts": 3, "backoff": 1.0}, "effect": "pure", "on_failure": "continue"}
        made["digest"] = {"max_tokens": 400, "top": 5}
        if step.role != "skills":  # they are files that change at any time, and are found in milliseconds
            made["cache"] = {"ttl": "30d"}
    return made


def _completed(
    operations: list[dict[str, Any]], earlier: list[tuple[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """`operations` with the steps before them that nobody made yet."""
    made = {_role(each) for _, each in earlier}
    out: list[dict[str, Any]] = []
    taken = {str(each.get("id")) for each in operations}
    for operation in operations:
        needs = list(operation.get("needs") or ())
        for role in REQUIRES.get(_role(operation), ()):  # type: ignore[call-overload]
            own = [each for each in [*out, *operations] if _role(each) == role]
            if role not in made and not own:
                step = _call(_free_id(role, taken), STEP_OF[role])
                if needs:
                    step["needs"] = list(needs)
                out.append(step)
                own = [step]
            needs += [each["id"] for each in own if each["id"] not in needs]
        out.append(operation | {"needs": needs} if needs else operation)
    return out


def _role(operation: Mapping[str, Any]) -> str:
    """What an operation's result is for; "" for one that is no tool of the table."""
    if operation.get("type") != "mcp":
        return ""
    step = named_tool(str(operation.get("tool")))
    return step.role if step is not None and step.server == operation.get("server") else ""


def _in_order(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Dependencies first; those in a cycle, which validation will name, last."""
    done: set[str] = set()
    out: list[dict[str, Any]] = []
    rest = list(phases)
    while ready := [each for each in rest if set(each["dependencies"]) <= done]:
        out += ready
        done |= {each["id"] for each in ready}
        rest = [each for each in rest if each["id"] not in done]
    return out + rest


def _closure(own: str, phases: list[dict[str, Any]]) -> set[str]:
    """All phases before `own`."""
    by_id = {phase["id"]: phase["dependencies"] for phase in phases}
    seen: set[str] = set()
    open_ = list(by_id[own])
    while open_:
        each = open_.pop()
        if each not in seen:
            seen.add(each)
            open_ += by_id.get(each, ())
    return seen


def _ordered(ids: set[str], phases: list[dict[str, Any]]) -> list[str]:
    return [phase["id"] for phase in phases if phase["id"] in ids]


def _phase_id(phase: Mapping[str, Any], number: int) -> str:
    return _slug(_text(phase.get("id")) or _text(phase.get("name"))) or f"phase-{number + 1}"


def _free_id(name: str, taken: set[str]) -> str:
    base = own = _slug(name) or "operation"
    number = 1
    while own in taken:
        number += 1
        own = f"{base}-{number}"
    taken.add(own)
    return own


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:100]


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _with_topic(value: Any) -> Any:
    """`value` with upstream's placeholders of the feature's name as a reference to the topic."""
    if isinstance(value, str):
        return _TOPIC_WORDS.sub("${inputs.topic}", value)
    if isinstance(value, list):
        return [_with_topic(each) for each in value]
    if isinstance(value, dict):
        return {name: _with_topic(each) for name, each in value.items()}
    return value

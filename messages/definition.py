"""A workflow as data: what a checked file becomes, and what the Python API builds directly.

These are light, slotted classes, because there may be a million nodes. What comes from outside is checked
by the pydantic models in `schema.py` first. `WorkflowSpec.to_dict` gives the file format back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from typing import Any, Literal

__all__ = [
    "CALL_PATTERN",
    "InputSpec",
    "Limits",
    "NodeSpec",
    "OperationSpec",
    "PhaseSpec",
    "RetryPolicy",
    "WorkflowSpec",
    "policy_in_file",
]

OnFailure = Literal["fail", "continue", "skip"]
Trigger = Literal["all_success", "all_done", "any_success"]
Effect = Literal["pure", "idempotent", "once"]

# Of a `call`: package.module:qualname
CALL_PATTERN = (
    r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is tried again.

    max_attempts: attempts in all, first one included, >= 1.
    backoff: seconds before the second attempt, >= 0. factor: multiplies it each time, >= 1.
    max_delay: seconds, the longest wait. jitter: share of the wait, 0 to 1, that is drawn at random.
    on: error names (`TimeoutExceeded`, `ValueError`, ...) that are retried; empty means every error
    that says a retry can help.
    """

    max_attempts: int = 1
    backoff: float = 1.0
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one operation's process tree. None: not limited, but for `result` (MAX_RESULT_BYTES).

    Of the whole tree: memory (bytes), cpu_seconds (seconds), processes (how many at once), output (bytes that it
    prints), tmp (bytes in its private temporary directory, where it has one). Of each process: files (open at
    once), file_size (bytes, of any file that it writes). Of the attempt: result (bytes, packed).
    """

    memory: int | None = None
    cpu_seconds: float | None = None
    processes: int | None = None
    files: int | None = None
    file_size: int | None = None
    output: int | None = None
    result: int | None = None
    tmp: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OperationSpec:
    """What a node executes and under which policies; shared by all nodes that say the same.

    `config` holds the fields of the type as written (`call`, `command`, `url`, ...), references unresolved.
    `timeout` is in seconds. `budget`: {tokens, cost}, the most that an attempt may use.
    `secret_outputs`: its result stays in memory, and the journal notes that there was one.
    `fallback` counts only if `has_fallback`. `lane` is the kind of worker, which the plan sets.
    """

    type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    retry: RetryPolicy = RetryPolicy()
    on_failure: OnFailure = "fail"
    trigger: Trigger = "all_success"
    effect: Effect = "idempotent"
    limits: Limits | None = None
    endpoint: str | None = None
    has_fallback: bool = False
    fallback: Any = None
    priority: int = 0
    version: str | None = None
    max_crashes: int = 3
    is_async: bool = False
    lane: int = 0
    cache: Mapping[str, Any] | None = None
    digest: Mapping[str, Any] | None = None
    budget: Mapping[str, Any] | None = None
    sandbox: Any = None
    secret_outputs: bool = False


@dataclass(slots=True, eq=False)
class NodeSpec:
    """One step: its id (`phase/operation` inside a phase), what it executes, and where its data comes from.

    `needs` are full node ids. References inside `arguments`, `when`, `foreach` and `operation.config` are
    edges too; they are not repeated in `needs`.
    """

    id: str
    operation: OperationSpec
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    when: str | None = None
    foreach: Any = None
    phase: str | None = None


@dataclass(frozen=True, slots=True)
class PhaseSpec:
    """A group of nodes. `min_success`: share (0 to 1) of its nodes that must succeed, or None."""

    id: str
    name: str = ""
    dependencies: tuple[str, ...] = ()
    min_success: float | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of a workflow. type: the name of a JSON type. required: it has no default, so a run must give it."""

    type: str = "any"
    description: str = ""
    required: bool = True
    default: Any = None
    enum: tuple[Any, ...] | None = None


@dataclass(slots=True, eq=False)
class WorkflowSpec:
    """A whole definition. `concurrency` counts executing nodes of the run, None is unlimited; `timeout`: s.

    `budget`: {tokens, cost} of a run.
    """

    name: str
    nodes: Sequence[NodeSpec]
    description: str = ""
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    phases: list[PhaseSpec] = field(default_factory=list)
    concurrency: int | None = None
    timeout: float | None = None
    budget: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The definition in the file format (phases where there are phases, else a flat `nodes` list)."""
        top: dict[str, Any] = {"name": self.name}
        if self.description:
            top["description"] = self.description
        if self.inputs:
            top["inputs"] = {name: _input_to_dict(each) for name, each in self.inputs.items()}
        top["concurrency"] = self.concurrency
        if self.timeout is not None:
            top["timeout"] = self.timeout
        if self.budget is not None:
            top["budget"] = dict(self.budget)
        if not self.phases:
            top["nodes"] = [_node_to_dict(node, node.id) for node in self.nodes]
            return top
        by_phase: dict[str, list[dict[str, Any]]] = {phase.id: [] for phase in self.phases}
        for node in self.nodes:
            assert node.phase is not None
            by_phase[node.phase].append(_node_to_dict(node, node.id.partition("/")[2]))
        top["phases"] = [_phase_to_dict(phase, by_phase[phase.id]) for phase in self.phases]
        return top


_POLICY_DEFAULTS = {
    each.name: each.default
    for each in fields(OperationSpec)
    if each.name not in ("type", "config", "has_fallback", "fallback", "is_async", "lane")
}


def operation_to_dict(operation: OperationSpec) -> dict[str, Any]:
    """The fields of an operation as a definition file has them; what equals its default is left out."""
    out: dict[str, Any] = {"type": operation.type, **operation.config}
    for name, default in _POLICY_DEFAULTS.items():
        value = getattr(operation, name)
        if value == default:
            continue
        if isinstance(value, RetryPolicy):
            value = {each.name: getattr(value, each.name) for each in fields(RetryPolicy)}
            value["on"] = list(value["on"])
        elif isinstance(value, Limits):
            value = {
                each.name: getattr(value, each.name)
                for each in fields(Limits)
                if getattr(value, each.name) is not None
            }
        out[name] = value
    if operation.has_fallback:
        out["fallback"] = operation.fallback
    return out


def _node_to_dict(node: NodeSpec, short_id: str) -> dict[str, Any]:
    out: dict[str, Any] = {"id": short_id, **operation_to_dict(node.operation)}
    if node.arguments:
        out["arguments"] = dict(node.arguments)
    if node.needs:
        out["needs"] = list(node.needs)
    if node.when is not None:
        out["when"] = node.when
    if node.foreach is not None:
        out["foreach"] = node.foreach
    return out


def _phase_to_dict(phase: PhaseSpec, operations: list[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {"id": phase.id}
    if phase.name:
        out["name"] = phase.name
    out["dependencies"] = list(phase.dependencies)
    if phase.min_success is not None:
        out["min_success"] = phase.min_success
    out["operations"] = operations
    return out


def _input_to_dict(each: InputSpec) -> dict[str, Any]:
    out: dict[str, Any] = {"type": each.type}
    if each.description:
        out["description"] = each.description
    if not each.required:
        out["default"] = each.default
    if each.enum is not None:
        out["enum"] = list(each.enum)
    return out


def policy_in_file(value: Any) -> Any:
    """A policy as a file says it: a RetryPolicy or Limits is a map, a timedelta its seconds.

    >>> policy_in_file({"ttl": timedelta(hours=1)}), policy_in_file(Limits(memory=1_000_000))
    ({'ttl': 3600.0}, {'memory': 1000000})
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        said = {each.name: getattr(value, each.name) for each in fields(value)}
        return {name: policy_in_file(each) for name, each in said.items() if each is not None}
    if isinstance(value, Mapping):
        return {name: policy_in_file(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value

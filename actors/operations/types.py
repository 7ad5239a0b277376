"""The operation types. This is the one file where a type is added.

A type is a name, where it runs, and the class that runs it, named by import path, so that a worker loads only
what it executes. The class is called as `Class(spec, settings)` once for each operation in a worker, and its
`run(task)` for each task; `run` returns the result, or a coroutine of it.

    worker     "blocking": in a worker's main thread, one at a time. "async": on an event loop with hundreds
               of others. "mcp": in the one worker that holds every MCP session, on its event loop.
               "own": in a worker that is confined for this one task, and ends with it.
               "trusted": as "blocking", but not confined; only where its user said so.
               "any": as the operation itself says (`def` or `async def`).
               "engine": the supervisor does it itself; there is no class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal, Protocol

from sage_actors.actors.operations.context import Task
from sage_actors.messages.errors import UsageError

__all__ = [
    "CROWDED",
    "LANES",
    "ON_A_LOOP",
    "OPERATION_TYPES",
    "QUEUED",
    "OperationType",
    "Runner",
    "RunnerSettings",
    "create_runner",
    "worker_kind",
]


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """project: its directory. main_path: the script (or dotted module) that `__main__:name` refers to."""

    project: str
    main_path: str | None = None


class Runner(Protocol):
    """Executes the tasks of one operation. `is_async`: `run` returns a coroutine."""

    is_async: bool

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None: ...

    def run(self, task: Task) -> Any: ...


@dataclass(frozen=True, slots=True)
class OperationType:
    name: str
    worker: Literal["blocking", "async", "mcp", "own", "any", "engine"]
    runner: str = ""

    @property
    def by_engine(self) -> bool:
        """Whether the supervisor handles it without a worker."""
        return self.worker == "engine"


LANES: Final = ("blocking", "async", "mcp", "own", "trusted")
"""The kinds of workers. The engine calls them by their position here."""

ON_A_LOOP: Final = ("async", "mcp")
"""The kinds of workers that execute many tasks at once, on an event loop."""

CROWDED: Final = frozenset(LANES.index(kind) for kind in ON_A_LOOP)
"""Their lanes."""

QUEUED: Final = frozenset({LANES.index("blocking"), LANES.index("trusted")})
"""Lanes whose workers execute one task after the other, and hold the next ones."""

OPERATION_TYPES: dict[str, OperationType] = {
    each.name: each
    for each in (
        OperationType("python", "any", "sage_actors.actors.operations.python:PythonRunner"),
        OperationType("shell", "own", "sage_actors.actors.operations.shell:ShellRunner"),
        OperationType("http", "async", "sage_actors.actors.operations.http:HttpRunner"),
        OperationType("mcp", "mcp", "sage_actors.actors.operations.mcp:McpRunner"),
        OperationType("agent", "own", "sage_actors.actors.operations.agent:AgentRunner"),
        OperationType("skill", "own", "sage_actors.actors.operations.skill:SkillRunner"),
        OperationType("approval", "engine"),
        OperationType("wait", "engine"),
        OperationType("workflow", "engine"),
    )
}


def worker_kind(
    type_name: str, *, is_async: bool = False, alone: bool = False, trusted: bool = False
) -> Literal["blocking", "async", "mcp", "own", "trusted", "engine"]:
    """The kind of worker for an operation. `alone`: it has `limits`, which count a worker's whole process tree,
    or a `sandbox` of its own, which cannot be taken off again: it gets a process of its own."""
    worker = OPERATION_TYPES[type_name].worker
    if worker == "engine":
        return "engine"
    if trusted and worker != "mcp":
        return "trusted"
    if alone and worker != "mcp":
        return "own"
    if worker == "any":
        return "async" if is_async else "blocking"
    return worker


def create_runner(spec: Mapping[str, Any], settings: RunnerSettings) -> Runner:
    """What executes the operation `spec`.

    Raises:
        UsageError: there is no such type, or the engine itself handles it.
        ImportError: its call cannot be imported.
    """
    found = OPERATION_TYPES.get(spec.get("type", ""))
    if found is None or found.by_engine:
        raise UsageError(f"no worker can execute an operation of type {spec.get('type')!r}")
    module, _, name = found.runner.partition(":")
    runner: Runner = getattr(import_module(module), name)(spec, settings)
    return runner

"""Run a graph of agent work in parallel, and never lose a finished step."""

# Every worker process imports this file, so nothing is loaded before it is asked for.

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_actors.actors.breaker.policy import BreakerPolicy
    from sage_actors.actors.operations.context import Context
    from sage_actors.messages.definition import InputSpec, Limits, RetryPolicy
    from sage_actors.messages.errors import (
        ActorDeadError,
        BreakerOpenError,
        BudgetExceeded,
        ChangedDefinitionError,
        CycleError,
        DefinitionError,
        KeyUnusableError,
        LimitExceeded,
        NoCheckpointError,
        OperationCancelled,
        OperationError,
        PoisonedError,
        Problem,
        RejectedError,
        ResultError,
        RunLockedError,
        RunPausedError,
        SageError,
        SecretInStateError,
        StateCorruptedError,
        StorageError,
        TimeoutExceeded,
        UsageError,
        WrongKeyError,
    )
    from sage_actors.messages.events import Event
    from sage_actors.supervisor.api import Supervisor, load
    from sage_actors.supervisor.definitions.operation import operation
    from sage_actors.supervisor.definitions.workflow import Node, Workflow
    from sage_actors.supervisor.handle import Outcome, Run, RunStatus
else:
    in_worker = False  # set by worker processes, which never need a Supervisor
    _HOME = {
        "BreakerPolicy": "actors.breaker.policy",
        "Context": "actors.operations.context",
        "InputSpec": "messages.definition",
        "Limits": "messages.definition",
        "RetryPolicy": "messages.definition",
        "Event": "messages.events",
        "Supervisor": "supervisor.api",
        "load": "supervisor.api",
        "Outcome": "supervisor.handle",
        "Run": "supervisor.handle",
        "RunStatus": "supervisor.handle",
        "Node": "supervisor.definitions.workflow",
        "Workflow": "supervisor.definitions.workflow",
        "operation": "supervisor.definitions.operation",
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = _HOME.get(name, "messages.errors")
        if home == "supervisor.api" and in_worker:
            home = "supervisor.absent"
        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value


__all__ = [
    "ActorDeadError",
    "BreakerOpenError",
    "BreakerPolicy",
    "BudgetExceeded",
    "ChangedDefinitionError",
    "Context",
    "CycleError",
    "DefinitionError",
    "Event",
    "InputSpec",
    "KeyUnusableError",
    "LimitExceeded",
    "Limits",
    "NoCheckpointError",
    "Node",
    "OperationCancelled",
    "OperationError",
    "Outcome",
    "PoisonedError",
    "Problem",
    "RejectedError",
    "ResultError",
    "RetryPolicy",
    "Run",
    "RunLockedError",
    "RunPausedError",
    "RunStatus",
    "SageError",
    "SecretInStateError",
    "StateCorruptedError",
    "StorageError",
    "Supervisor",
    "TimeoutExceeded",
    "UsageError",
    "Workflow",
    "WrongKeyError",
    "load",
    "operation",
]

"""The one tree of errors; a class knows its exit code and whether trying again can help.

SageError                       exit 70
 |- DefinitionError                  2   a workflow file or graph is invalid; carries all problems
 |   |- CycleError                   2
 |   `- SecretInStateError           2   a definition, an input or a result holds a secret itself
 |- UsageError                       2   wrong arguments, wrong moment
 |   |- NoCheckpointError            2   there is nothing under that run id
 |   |- ChangedDefinitionError       2   the run exists under another definition
 |   `- SandboxUnavailable           2   this machine cannot confine operations, and the policy demands it
 |- RunLockedError                   3   another live process owns the run
 |- StateError
 |   |- StateCorruptedError          4   damaged outside a torn tail
 |   |- WrongKeyError                4
 |   |- KeyUnusableError             4   set but malformed, or a key file that others can read
 |   |- AuditError                   4   the audit log does not prove itself
 |   `- StorageError                 5   disk full, I/O error: paused, resumable
 |- RunPausedError                   5
 |- BudgetExceeded                   5
 |- RestartIntensityError            5   idle workers died too often; the run stopped, resumable
 |- OperationError                   1   one attempt at a node failed
 |   |- TimeoutExceeded              1
 |   |- LimitExceeded                1   memory, CPU, processes, size of a result
 |   |- SandboxViolation             1   an operation reached for what its profile does not grant
 |   |- SandboxSetupError            1   a step of the confinement failed; the operation never ran
 |   |- PoisonedError                1   the node killed its worker max_crashes times
 |   |- BreakerOpenError             1
 |   |- RejectedError                1   a person said no
 |   |- ResultError                  1   a result that msgpack cannot carry
 |   |- ExpressionError              1   a reference that cannot be applied to the value it got
 |   `- OperationCancelled           1
 |- ActorDeadError                  70   who was asked has stopped
 `- ProtocolError                   70   a malformed frame: ends that peer, never the supervisor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sage_actors.messages.units import counted

__all__ = [
    "ActorDeadError",
    "AuditError",
    "BreakerOpenError",
    "BudgetExceeded",
    "ChangedDefinitionError",
    "CycleError",
    "DefinitionError",
    "ExpressionError",
    "KeyUnusableError",
    "LimitExceeded",
    "NoCheckpointError",
    "OperationCancelled",
    "OperationError",
    "PoisonedError",
    "Problem",
    "ProtocolError",
    "RejectedError",
    "RestartIntensityError",
    "ResultError",
    "RunLockedError",
    "RunPausedError",
    "SageError",
    "SandboxSetupError",
    "SandboxUnavailable",
    "SandboxViolation",
    "SecretInStateError",
    "StateCorruptedError",
    "StateError",
    "StorageError",
    "TimeoutExceeded",
    "UsageError",
    "WrongKeyError",
]


class SageError(Exception):
    """Base of all errors of this package. The text says what happened, where, and what to do next."""

    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False
    code: ClassVar[str] = "INTERNAL_ERROR"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a definition.

    `place` is a path such as `phases[0].operations[2].arguments.topic`, with `line` (1-based) where the
    source has lines; `hint` says what to do.
    """

    place: str
    message: str
    hint: str = ""
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}"
        text = ": ".join(part for part in (line, self.place, self.message) if part)
        return _visible(f"{text} ({self.hint})" if self.hint else text)


def _visible(text: str) -> str:
    """Names in a file can hold what drives a terminal, or turns the order of letters: shown as escapes."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


class DefinitionError(SageError):
    """A workflow cannot run as it is written. `problems` lists everything that was found, not the first."""

    exit_code = 2
    code = "WORKFLOW_VALIDATION_ERROR"

    def __init__(self, problems: Sequence[Problem] | str, *, source: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem("", problems)]
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source = source
        head = f"{source or 'the workflow'}: {counted(len(self.problems), 'problem')}"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


class CycleError(DefinitionError):
    """The graph has a cycle; `cycle` is its path, first node repeated at the end."""

    code = "CYCLE_DETECTED"

    def __init__(self, cycle: Sequence[str], *, problems: Sequence[Problem] = (), source: str = "") -> None:
        self.cycle: tuple[str, ...] = tuple(cycle)
        own = Problem("", f"cycle: {' -> '.join(self.cycle)}", "remove one of these dependencies")
        super().__init__([*(problems or [own])], source=source)


class SecretInStateError(DefinitionError):
    """What is about to be saved holds a secret itself: `problems` name the rule and the place, never the value."""

    code = "SECRET_IN_STATE"


class UsageError(SageError):
    """Asked for something that cannot be done as asked."""

    exit_code = 2
    code = "USAGE_ERROR"


class NoCheckpointError(UsageError):
    """There is no run of that id."""

    code = "NO_CHECKPOINT_FOUND"


class ChangedDefinitionError(UsageError):
    """The run exists under another definition, and nobody accepted the changes."""

    code = "DEFINITION_CHANGED"


class SandboxUnavailable(UsageError):
    """Operations must be confined here, and this machine cannot: says which check failed, and the ways out."""

    code = "SANDBOX_UNAVAILABLE"


class RunLockedError(SageError):
    """Another live process owns this run."""

    exit_code = 3
    code = "RUN_LOCKED"


class StateError(SageError):
    """Something about saved state."""

    exit_code = 4
    code = "STATE_ERROR"


class StateCorruptedError(StateError):
    """Saved state is damaged: says file, byte offset and reason. `--repair` keeps the longest valid prefix."""

    code = "STATE_CORRUPTED"


class WrongKeyError(StateError):
    """The state is sealed under another key."""

    code = "WRONG_KEY"


class KeyUnusableError(StateError):
    """A key was given, but it is malformed or not private. There is no fall back to another key."""

    code = "KEY_UNUSABLE"


class AuditError(StateError):
    """The audit log, or its counterpart in a journal, was changed or cut: says the first bad line."""

    code = "AUDIT_FAILED"


class StorageError(StateError):
    """A write failed. Nothing that was acknowledged is lost; the run is resumable."""

    exit_code = 5
    code = "STORAGE_ERROR"


class RunPausedError(SageError):
    """The run cannot go on without a person or a later moment."""

    exit_code = 5
    code = "RUN_PAUSED"


class BudgetExceeded(RunPausedError):
    """The next call would overshoot a budget."""

    code = "BUDGET_EXCEEDED"


class RestartIntensityError(RunPausedError):
    """Workers that executed nothing died more often than the restart intensity allows."""

    code = "RESTART_INTENSITY"


class OperationError(SageError):
    """An attempt at a node failed."""

    exit_code = 1
    retryable = True
    code = "OPERATION_ERROR"


class TimeoutExceeded(OperationError):
    """An attempt or a run took longer than its `timeout`."""

    code = "TIMEOUT_EXCEEDED"


class LimitExceeded(OperationError):
    """An operation used more than its limit; says which limit, its value and what was seen."""

    code = "LIMIT_EXCEEDED"


class SandboxViolation(OperationError):
    """An operation reached for what its profile does not grant. `hint`: what to add, if it should be granted.

    kind: "read", "write", "network" or "process". target: the path or `host:port`. Trying again cannot help.
    """

    retryable = False
    code = "SANDBOX_VIOLATION"

    def __init__(self, kind: str, target: str, hint: str = "") -> None:
        self.kind, self.target, self.hint = kind, target, hint
        self.details = {"kind": kind, "target": target, "hint": hint}
        super().__init__(
            f"the sandbox does not grant this operation to {kind} {target}" + (f": {hint}" if hint else "")
        )


class SandboxSetupError(OperationError):
    """A step of the confinement failed, so the operation never ran. `step` names it."""

    retryable = False
    code = "SANDBOX_SETUP_FAILED"

    def __init__(self, step: str, reason: str) -> None:
        self.step = step
        super().__init__(f"the sandbox could not be set up: {step}: {reason}")


class PoisonedError(OperationError):
    """The node killed its worker too often; carries the evidence."""

    retryable = False
    code = "POISONED"


class BreakerOpenError(OperationError):
    """The endpoint's circuit breaker is open."""

    code = "EXTERNAL_API_FAILURE"


class RejectedError(OperationError):
    """A person rejected an approval, or resolved an in-doubt node as failed."""

    retryable = False
    code = "REJECTED"


class ResultError(OperationError):
    """The result cannot be carried: names the type and the path inside the value."""

    retryable = False
    code = "RESULT_UNUSABLE"


class ExpressionError(OperationError):
    """A reference whose expression does not fit the value it got, or whose value has no text form."""

    retryable = False
    code = "EXPRESSION_FAILED"


class OperationCancelled(OperationError):
    """The attempt was cancelled."""

    retryable = False
    code = "CANCELLED"


class ActorDeadError(SageError):
    """Who was asked has stopped."""

    code = "ACTOR_DEAD"


class ProtocolError(SageError):
    """A peer sent what the protocol does not allow."""

    code = "PROTOCOL_ERROR"

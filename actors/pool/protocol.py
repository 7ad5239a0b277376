"""What a worker pool is: the methods the supervisor calls, and the events it gets back.

`LocalPool` (pool.py) is the default; anything with these methods can take its place (a simulation in a test,
a pool on another machine).

    supervisor's thread                                the pool's loop -> deliver(event)
    start_worker(kind)            ------------------>  WorkerReady | WorkerLost
    submit(worker, rows)          ------------------>  Results (one row for every task row, unless lost)
    give_back(worker)             ------------------>  GivenBack (what had not started; each key leaves once:
                                                       either here or in Results)
    cancel(worker, keys)          ------------------>  Results (the row: FAILED, type OperationCancelled)
    kill(worker, reason)          ------------------>  WorkerLost (evidence.reason is that reason)
    retire(worker)                ------------------>  Results of what it still holds, then WorkerLost with
                                                       exitcode 0 and reason "stopped"
    permit(worker, token, ...)    <------------------  GuardRequest ... GuardEnded
    inspect(calls, token)         ------------------>  Inspected

Every worker number that `start_worker` returned gets exactly one WorkerLost, whatever happens; after it no
event names that worker again. Events of one worker are delivered in the order in which it caused them.
`deliver` must not block and must not raise: it runs in the thread that reads the sockets, which is the supervisor's
own where that serves the pool's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sage_actors.messages.wire import Evidence, TaskRow

__all__ = [
    "Begun",
    "GivenBack",
    "GuardEnded",
    "GuardRequest",
    "Inspected",
    "KeeperStarted",
    "Key",
    "Logs",
    "PoolEvent",
    "PoolStatistics",
    "Progress",
    "Results",
    "WorkerKind",
    "WorkerLost",
    "WorkerPool",
    "WorkerReady",
]

WorkerKind = Literal["blocking", "async", "mcp", "own", "trusted"]
Key = tuple[int, int, int]  # run, node, attempt: the fencing token


@dataclass(slots=True)
class WorkerReady:
    """The worker has started. Tasks may be submitted before this too."""

    worker: int
    pid: int


@dataclass(slots=True)
class Results:
    """Checked rows [run, node, attempt, status, microseconds, payload, usage], see messages/wire.py."""

    worker: int
    rows: list[list[Any]]


@dataclass(slots=True)
class Begun:
    """A blocking worker has imported what the attempt needs: its time counts from here."""

    worker: int
    key: Key


@dataclass(slots=True)
class GivenBack:
    """The tasks that had not started when `give_back` reached the worker, in their order; perhaps none."""

    worker: int
    keys: list[Key]


@dataclass(slots=True)
class Logs:
    """Rows [run, node, attempt, stream, text]; stream is "stdout", "stderr" or "log".

    run is -1 where an async worker could not tell whose output it was.
    """

    worker: int
    rows: list[list[Any]]


@dataclass(slots=True)
class Progress:
    """Rows [run, node, attempt, data]: data is what the operation gave to `context.progress`, a map."""

    worker: int
    rows: list[list[Any]]


@dataclass(slots=True)
class GuardRequest:
    """An operation wants to call `endpoint` and waits until `permit(worker, token, ...)`."""

    worker: int
    token: int
    run: int
    node: int
    attempt: int
    endpoint: str


@dataclass(slots=True)
class GuardEnded:
    """The call that was permitted under this token ended, well or not."""

    worker: int
    endpoint: str
    token: int
    ok: bool


@dataclass(slots=True)
class Inspected:
    """Answer to `inspect`: for each call {call, ok, error, is_async, accepts_context, policy}."""

    token: int
    infos: list[dict[str, Any]]


@dataclass(slots=True)
class WorkerLost:
    """The worker and everything it had started are gone; no result of it comes any more.

    culprits: the attempts that caused it, where the pool knows them (a limit, a blocked event loop); empty:
    every attempt that was executing is a suspect.
    """

    worker: int
    evidence: Evidence
    culprits: tuple[Key, ...] = field(default=())


@dataclass(slots=True)
class KeeperStarted:
    """A keeper process took over (also at the first start). The lock file names it."""

    pid: int
    started_at: float


PoolEvent = (
    WorkerReady
    | Begun
    | Results
    | GivenBack
    | Logs
    | Progress
    | GuardRequest
    | GuardEnded
    | Inspected
    | WorkerLost
    | KeeperStarted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatistics:
    """workers: alive now. pids: of those that are ready. lost: since the start, retired ones not counted."""

    workers: int
    pids: tuple[int, ...]
    started: int
    lost: int
    keepers_started: int
    bytes_sent: int
    bytes_received: int


class WorkerPool(Protocol):
    """All methods may be called from any thread and return at once, `start` and `close` aside."""

    @property
    def keeper_identity(self) -> tuple[int, float] | None:
        """(pid, start time) of the process that outlives this one to clean up; see `watch.is_alive`."""

    def start(self) -> None: ...

    def close(self, timeout_s: float = 10.0) -> None:
        """Ends all workers (STOP, then kill at the timeout); afterwards no event is delivered. Twice is harmless."""

    def start_worker(self, kind: WorkerKind) -> int:  # pyright: ignore[reportReturnType]
        """Number of a new worker; numbers are never used again."""

    def define(self, op: int, spec: dict[str, Any]) -> None:
        """Says what operation number `op` is, before the first task that names it.

        `spec`: {"type": str, "call": str (python), "limits": {"memory": bytes, "cpu_seconds": float,
        "processes": int} or absent, ...}. Each worker is told before its first task of that operation.
        Tasks with limits should go to blocking workers: a limit counts the worker's whole process tree.
        """

    def forget(self, ops: Sequence[int]) -> None:
        """These numbers will not be used any more (a run ended)."""

    def submit(self, worker: int, rows: Sequence[TaskRow]) -> None:
        """Hands tasks to a worker, in order. For a worker that is lost already nothing happens: its
        WorkerLost is on its way, or was delivered.

        The sixth element of a row is the run id, best as "RUN_ID:UUID": the part before the first colon
        becomes `context.run_id`, and the whole with the node id appended `context.idempotency_key`.
        The seventh, the timeout, is enforced by async workers (a FAILED row of type TimeoutExceeded); in a
        blocking worker it only sets `context.deadline`: the supervisor must `kill(worker, "timeout")`.
        """

    def give_back(self, worker: int) -> None: ...

    def cancel(self, worker: int, keys: Sequence[Key]) -> None:
        """What has not started, and async operations, end with a FAILED row of type OperationCancelled.

        A blocking operation that executes is only told (`context.cancelled`); who cannot wait kills.
        """

    def kill(self, worker: int, reason: str, *, grace_s: float | None = None) -> None:
        """SIGTERM to the worker's process group, after the grace SIGKILL to it and every descendant."""

    def retire(self, worker: int) -> None:
        """The worker ends once it has done what it holds."""

    def permit(self, worker: int, token: int, granted: bool, error: dict[str, Any] | None = None) -> None:
        """Answers a GuardRequest; `error` is an error map (see `error_map`) where it is refused."""

    def inspect(self, calls: Sequence[str], token: int) -> None:
        """Imports each call in a worker of its own and reports what it is."""

    def call_at(self, when_monotonic: float, callback: Callable[[], None]) -> None:
        """Runs `callback` in the thread that delivers, at that moment of `time.monotonic()` or soon after."""

    def statistics(self) -> PoolStatistics: ...

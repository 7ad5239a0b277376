"""What a caller holds of a run: its events, its status, its outcome. Filled by the supervisor actor's thread."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sage_actors.messages.errors import (
    ActorDeadError,
    BreakerOpenError,
    LimitExceeded,
    OperationError,
    PoisonedError,
    RejectedError,
    ResultError,
    RunPausedError,
    SageError,
    StorageError,
    TimeoutExceeded,
    UsageError,
)
from sage_actors.messages.events import Event
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_waits import said_of

if TYPE_CHECKING:
    from sage_actors.messages.definition import WorkflowSpec
    from sage_actors.supervisor.core.run_core import RunCore

__all__ = ["Outcome", "Run", "RunStatus", "check_given", "finished_event", "outcome_of"]

_MOST_GIVEN_BYTES = 16 * 1024 * 1024
_KEPT_EVENTS = 100_000
_MOST_RUNNING = 200
_KEPT_CHARS = 64 * 1024 * 1024  # of what nodes print and report, in those
_SAID_BY_NODES = frozenset(("node_log", "node_progress"))
_ERRORS: dict[str, type[SageError]] = {
    each.__name__: each
    for each in (
        TimeoutExceeded,
        LimitExceeded,
        PoisonedError,
        BreakerOpenError,
        RejectedError,
        ResultError,
    )
}


class _Results(Mapping[str, Any]):
    """The results of the nodes that nothing depends on, by id; read from the journal when asked for."""

    def __init__(self, core: RunCore) -> None:
        self._core = core

    @cached_property
    def _ids(self) -> list[str]:
        return [self._core.plan.ids[node] for node in self._core.plan.leaves()]

    def __getitem__(self, node_id: str) -> Any:
        """None for one that did not succeed."""
        node = self._core.plan.by_id.get(node_id)
        if node is None:
            return _value(self._core, node_id)
        packed = self._core.value(node)
        return None if packed is None else _unpacked(packed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended.

    status: "succeeded", "failed", "cancelled" or "paused"; reason: why it did not succeed.
    results: those of the nodes that nothing depends on. errors: node id -> {"type", "message", ...}.
    fallbacks: the same for nodes that took their fallback and so succeeded: the error because of which they did.
    seconds: wall time of this process's part. busy_seconds: sum of all node times, earlier parts included.
    tokens: {"input_tokens", "output_tokens", "cost"}, earlier parts included.
    speedup: node times of this process's part over its wall time; None where nothing executed in it.
    measured: what was measured besides, earlier parts included: raw_bytes, kept_bytes, raw_tokens, kept_tokens
        (before and after digests, by the named tokenizer), saved_tokens (by cache hits), artifacts (files that
        were written, relative to the project), server_starts, context_reloads (starts of a server after its first).
    """

    run_id: str
    status: str
    reason: str
    results: Mapping[str, Any]
    errors: Mapping[str, dict[str, Any]]
    seconds: float
    busy_seconds: float = 0.0
    speedup: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    fallbacks: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    value_of: Callable[[str], Any] = field(repr=False, default=lambda node_id: None)

    def __getitem__(self, node_id: str) -> Any:
        """The result of any node that succeeded.

        Raises:
            KeyError: there is no such node, or it has no result.
        """
        return self.value_of(node_id)

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        if self.status == "paused":
            return 130 if self.reason == "interrupted" else 5
        return 0 if self.status == "succeeded" else 1

    def raise_for_status(self) -> Outcome:
        """This outcome if the run succeeded.

        Raises:
            OperationError: the run failed; of the class of the first node's error, TimeoutExceeded where the run itself
                took longer than its timeout.
            RunPausedError, StorageError: it paused and can be resumed.
        """
        if self.status == "succeeded":
            return self
        if self.status == "paused":
            kind = StorageError if self.reason.startswith("storage") else RunPausedError
            raise kind(f"run {self.run_id} paused: {self.reason}")
        if self.reason.startswith("the run took longer than its timeout"):
            raise TimeoutExceeded(f"run {self.run_id} {self.status}: {self.reason}")
        for node_id, error in self.errors.items():
            known = _ERRORS.get(error["type"], OperationError)
            raised = known(f"run {self.run_id} {self.status}: {node_id}: {error['type']}: {error['message']}")
            if traceback := error.get("traceback"):
                raised.add_note(f"In the worker:\n{traceback}".rstrip())
            raise raised
        raise OperationError(f"run {self.run_id} {self.status}: {self.reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is, or how it ended. counts: number of nodes by state. waiting: node id -> what it waits for.

    seconds: since this process began it.
    """

    run_id: str
    workflow: str
    status: str
    reason: str
    total: int
    counts: Mapping[str, int]
    running: tuple[str, ...]
    waiting: Mapping[str, str]
    seconds: float
    tokens: Mapping[str, float]
    breakers: Mapping[str, str]


class Run:
    """One run that this process carries out (or, if it had succeeded before, its outcome)."""

    def __init__(
        self, run_id: str, *, resumed: bool, completed: int, notices: list[str], listening: bool
    ) -> None:
        self.run_id, self.resumed, self.completed, self.notices = run_id, resumed, completed, notices
        # Definition and inputs, till the end.
        self.begun_with: tuple[WorkflowSpec, Mapping[str, Any]] | None = None
        self._ask: Callable[..., Any] | None = None
        self._outcome: Outcome | None = None
        self._core: RunCore | None = None  # once it has ended
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._waiters: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._listening = listening
        self._kept: deque[Event] = deque()
        self._kept_chars = 0
        self._queues: list[queue.SimpleQueue[Event | None]] = []

    def __repr__(self) -> str:
        state = self._outcome.status if self._outcome else "running"
        return f"<Run {self.run_id} {state}>"

    def events(self) -> Iterator[Event]:
        """Every event of this run from its start (of the last 100,000, with up to 64 MiB of what nodes printed and
        reported), until it ends. Any number may listen."""
        own: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with self._lock:
            for event in self._kept:
                own.put(event)
            if self._done.is_set():
                own.put(None)
            else:
                self._queues.append(own)
        try:
            while (event_or_end := own.get()) is not None:
                yield event_or_end
        finally:  # nobody listens here any more
            with self._lock:
                self._queues = [each for each in self._queues if each is not own]

    def status(self) -> RunStatus:
        """How far the run is, or how it ended.

        Raises:
            SageError: the supervisor failed underneath it.
        """
        try:
            status: RunStatus = self._request("status")
        except (ActorDeadError, UsageError):  # it has ended, perhaps while it was asked
            if not self._done.is_set():
                raise
            outcome = self.result(0)
            assert self._core is not None
            status = status_of(
                self._core, status=outcome.status, reason=outcome.reason, seconds=outcome.seconds, breakers={}
            )
        return status

    def cancel(self) -> None:
        """Stop it; the run ends as cancelled and can be continued later. Returns when that is on disk."""
        if not self._done.is_set():
            self._request("cancel")
            self._done.wait(60.0)

    def approve(self, node_id: str, *, approved: bool = True, data: Any = None, by: str = "") -> None:
        """Answer an approval node. Returns when the answer is on disk.

        Raises:
            UsageError: that node does not wait for an approval, or an argument is of another type.
            ResultError: `data` cannot be carried, or is too large.
            SecretInStateError: `data` holds a secret.
        """
        if not isinstance(approved, bool):
            raise UsageError(f"`approved` must be True or False, not {approved!r}")
        _check_words(node_id=node_id, by=by)
        check_given(data, "the given data")
        self._request("approve", node_id, approved, data, by)

    def resolve(self, node_id: str, how: str, *, result: Any = None, by: str = "") -> None:
        """Settle a node that is in doubt: how is "retry", "result" or "fail". Returns when that is on disk.

        Raises:
            UsageError: that node is not in doubt, or an argument is of another type.
            ResultError: `result` cannot be carried, or is too large.
            SecretInStateError: `result` holds a secret.
        """
        if how not in ("retry", "result", "fail"):
            raise UsageError(f"resolve needs retry, result or fail, not {how!r}")
        _check_words(node_id=node_id, by=by)
        check_given(result, "the given result")
        self._request("resolve", node_id, how, result, by)

    def result(self, timeout: float | None = None) -> Outcome:
        """Wait for the end.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds (it goes on).
            SageError: the supervisor failed underneath it.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"run {self.run_id} has not ended within {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._outcome is not None
        return self._outcome

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def __await__(self) -> Generator[Any, None, Outcome]:
        import asyncio  # 30 ms that only those who await pay

        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:
                pass  # the loop was closed: nobody waits any more

        with self._lock:
            if self._done.is_set():
                tell()
            else:
                self._waiters.append(tell)
        try:
            yield from ended.__await__()
        finally:  # cancelled: nobody waits here any more
            with self._lock:
                self._waiters = [each for each in self._waiters if each is not tell]
        return self.result(0)

    def _request(self, *request: Any) -> Any:
        if self._ask is None:
            raise ActorDeadError(f"run {self.run_id} has ended")
        return self._ask(self, *request)

    # ------------------------------------------------------------------ the supervisor's side

    def publish(self, event: Event) -> None:
        if not self._listening:
            return
        with self._lock:
            self._keep(event)
            for each in self._queues:
                each.put(event)

    def _keep(self, event: Event) -> None:
        kept = self._kept
        kept.append(event)
        if event.event in _SAID_BY_NODES:
            self._kept_chars += _chars(event)
        while len(kept) > _KEPT_EVENTS or self._kept_chars > _KEPT_CHARS:
            oldest = kept.popleft()
            if oldest.event in _SAID_BY_NODES:
                self._kept_chars -= _chars(oldest)

    def finish(
        self, outcome: Outcome | None, error: BaseException | None = None, core: RunCore | None = None
    ) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._outcome, self._error, self._core = outcome, error, core
            self._ask = self.begun_with = None
            self._done.set()
            waiters, queues = self._waiters, self._queues
            self._waiters, self._queues = [], []
        for each in queues:
            each.put(None)
        for wake in waiters:
            wake()


def _chars(event: Event) -> int:
    """About what it takes to keep it."""
    text = event.data.get("text")
    return len(text) if type(text) is str else len(repr(event.data))


def _check_words(**said: object) -> None:
    for name, text in said.items():
        if not isinstance(text, str):
            raise UsageError(f"`{name}` must be a text, not {text!r}")


def check_given(value: object, what: str) -> None:
    """In the caller's thread: looking for secrets in what is large takes seconds, and every run would wait.

    Raises:
        ResultError: it cannot be carried, or is too large: it is written twice, as a decision and as a result.
        SecretInStateError: it holds a secret.
    """
    from sage_actors.messages.codec import pack
    from sage_actors.messages.secret_scan import refuse_secrets

    if (size := len(pack(value, what=what))) > _MOST_GIVEN_BYTES:
        raise ResultError(
            f"{what} takes {size:,} bytes; the most is {_MOST_GIVEN_BYTES:,}: put it in a file and give the path"
        )
    refuse_secrets(value, what)


def status_of(
    core: RunCore, *, status: str, reason: str, seconds: float, breakers: Mapping[str, str]
) -> RunStatus:
    """How the run in `core` stands, node by node; of those that execute, the first 200."""
    counts: dict[str, int] = {}
    running: list[str] = []
    for node, state in enumerate(core.state):
        if core.is_gate(node):
            continue
        name = st.NAMES[state]
        counts[name] = counts.get(name, 0) + 1
        if state == st.RUNNING and len(running) < _MOST_RUNNING:
            running.append(core.id_of(node))
    waiting = {core.id_of(node): said_of(why) for node, why in core.held.items()}
    waiting |= {core.id_of(node): "in_doubt" for node in core.doubts}
    return RunStatus(
        run_id=core.run_id,
        workflow=core.plan.spec.name,
        status=status,
        reason=reason,
        total=sum(counts.values()),
        counts=counts,
        running=tuple(running),
        waiting=waiting,
        seconds=seconds,
        tokens=dict(core.usage),
        breakers=breakers,
    )


def outcome_of(core: RunCore, *, seconds: float, status: str, reason: str) -> Outcome:
    """The outcome of a run that ended in `core`."""
    errors = {core.id_of(node): error for node, error in core.errors.items()}
    fallbacks = {core.id_of(node): error for node, error in core.fallen_back.items()}
    return Outcome(
        run_id=core.run_id,
        status=status,
        reason=reason,
        results=_Results(core),
        errors=errors,
        fallbacks=fallbacks,
        seconds=seconds,
        busy_seconds=core.busy_us / 1e6,
        speedup=_speedup(core, seconds),
        measured=_measured(core),
        tokens=dict(core.usage),
        counts=dict(core.counts),
        value_of=lambda node_id: _value(core, node_id),
    )


def finished_event(outcome: Outcome, *, at: float, **more: Any) -> Event:
    """`run_finished`, which says how the run ended. at: seconds since the epoch; more: further fields."""
    data: dict[str, Any] = {
        "status": outcome.status,
        "seconds": round(outcome.seconds, 6),
        "tokens": dict(outcome.tokens),
        "results": dict(outcome.results) if outcome.status != "paused" else {},
        "reason": outcome.reason,
        "busy_seconds": round(outcome.busy_seconds, 6),
        "counts": dict(outcome.counts),
    }
    return Event("run_finished", outcome.run_id, at, None, data | more)


def _speedup(core: RunCore, seconds: float) -> float | None:
    busy = (core.busy_us - core.busy_before_us) / 1e6
    return round(busy / seconds, 3) if busy > 0 and seconds > 0 else None


def _measured(core: RunCore) -> dict[str, Any]:
    said: dict[str, Any] = dict(core.measured)
    if core.server_starts:
        said |= {"server_starts": dict(core.server_starts), "context_reloads": core.context_reloads}
    return said


def _value(core: RunCore, node_id: str) -> Any:
    node = core.find(node_id)
    if node is None:
        raise KeyError(f"{core.run_id} has no node {node_id!r}")
    packed = core.value(node)
    if packed is None:
        raise KeyError(f"{node_id!r} of {core.run_id} has no result")
    return _unpacked(packed)


def _unpacked(packed: bytes) -> Any:
    from sage_actors.messages.codec import reveal

    return reveal(packed)

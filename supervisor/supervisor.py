"""The supervisor actor: the mailbox around the engine, and the engine's hands.

    Committed, CommitFailed   from the state actor     \\
    Granted, Waiting, ...     from the breaker actor     >  one thread, one event at a time  ->  Engine
    Results, WorkerLost, ...  from the worker pool     /
    AddRun, Ask, Stop         from callers

The pool's sockets and timers are served by the same thread, while the mailbox is empty (`LoopInbox`).
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import pykka

from sage_actors.actors.audit.actor import RunAudit
from sage_actors.actors.cache import actor as ca
from sage_actors.actors.clock import Clock
from sage_actors.actors.faults import fault_point
from sage_actors.actors.mailbox import MailboxActor
from sage_actors.actors.pool import protocol as pp
from sage_actors.actors.pool.io_loop import IoLoop, LoopInbox
from sage_actors.actors.state.actor import Append, CloseRun, CommitFailed, Committed, OpenRun, Writer
from sage_actors.actors.state.journal_reader import FrameStore
from sage_actors.actors.state.locks import RunLock, process_start_time
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import ActorDeadError, SageError, StorageError, UsageError
from sage_actors.messages.events import Event
from sage_actors.messages.records import Record
from sage_actors.messages.secret_scan import SecretsPolicy, redact_text
from sage_actors.messages.wire import Evidence
from sage_actors.supervisor.appends import Appends, single_acks
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.engine import Engine
from sage_actors.supervisor.core.plan import wire_spec
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.handle import Outcome, Run, RunStatus, finished_event, outcome_of, status_of
from sage_actors.supervisor.outside_calls import OutsideCalls
from sage_actors.supervisor.sandboxing import with_inputs
from sage_actors.supervisor.stored_values import StoredValues, read_secret, read_value

__all__ = ["AddRun", "Ask", "Stop", "SupervisorActor"]

_log = logging.getLogger(__name__)
_TICK = object()
_MOST_EVENTS = 64  # that are told before the next dispatch
_EVIDENCE_CHARS = 500  # of each of the last lines of a worker that is gone


@dataclass(slots=True)
class AddRun:
    """Take a run over. `first`: records to write before anything else, in this order."""

    handle: Run
    core: RunCore
    writer: Writer | None
    store: FrameStore | None
    lock: RunLock | None
    first: list[Record]
    resumed: bool
    breakers: Mapping[str, tuple[str, float]]
    on_end: Callable[[str], None]
    audit: RunAudit | None = None


@dataclass(slots=True)
class Ask:
    """A request about one run; `answer` is called once with (value, error)."""

    handle: Run
    request: tuple[Any, ...]
    answer: Callable[[Any, BaseException | None], None]


@dataclass(slots=True)
class Stop:
    """No further dispatch; running nodes get the grace. 0 stops them at once."""

    grace_s: float


@dataclass(slots=True)
class _Entry:
    """One live run with everything that belongs to it."""

    message: AddRun
    answers: dict[int, Callable[[Any, BaseException | None], None]] = field(default_factory=dict)
    frames: OrderedDict[Any, list[Record]] = field(default_factory=OrderedDict)
    is_admitted: bool = False
    then: list[Callable[[], None]] = field(default_factory=list)  # what came before it was admitted


class SupervisorActor(MailboxActor):
    """Owns the dependency graph of every run. The only one who decides."""

    actor_inbox: LoopInbox  # pyright: ignore[reportIncompatibleVariableOverride]

    @staticmethod
    def _create_actor_inbox() -> Any:
        return LoopInbox()

    def __init__(
        self,
        *,
        clock: Clock,
        workers: int,
        state: pykka.ActorRef[Any],
        make_pool: Callable[[Callable[[Any], None], IoLoop], pp.WorkerPool],
        make_breaker: Callable[[Callable[[Any], None], Callable[..., None]], pykka.ActorRef[Any]],
        make_cache: Callable[[Callable[[Any], None]], pykka.ActorRef[Any]],
        random: Callable[[], float],
        environ: Mapping[str, str],
        secrets: SecretsPolicy = SecretsPolicy(),  # noqa: B008 - frozen
        grants_inputs: bool = True,
    ) -> None:
        super().__init__()
        self._secrets = secrets
        self._clock, self._random, self._environ = clock, random, environ
        self._state = state
        self.engine = Engine(self, clock, workers=workers)
        me = self.actor_ref
        self.pool = make_pool(lambda event: _tell(me, event), self.actor_inbox.loop)
        breaker = make_breaker(lambda event: _tell(me, event), self.pool.call_at)
        self._calls = OutsideCalls(self.engine, breaker, self.pool, clock)
        self._cache = make_cache(lambda event: _tell(me, event))
        self._entries: dict[int, _Entry] = {}
        self._search_paths: list[str] = []  # of the run whose operation is being numbered
        self._inputs: Mapping[str, Any] = {}  # of that run, as far as they may grant something
        self._grants_inputs = grants_inputs
        self._appends = Appends(state.tell)
        self._volatile: deque[tuple[RunCore, Any]] = deque()
        self._next_answer = 0
        self._keeper: tuple[int, int] | None = None
        self._handlers: dict[type, Callable[[Any], None]] = {
            **self._calls.handlers,
            pp.Results: self._results,
            Committed: self._committed,
            CommitFailed: self._commit_failed,
            pp.WorkerLost: self._worker_lost,
            pp.WorkerReady: lambda m: self.engine.ready(m.worker),
            pp.Begun: lambda m: self.engine.begun(m.worker, m.key),
            pp.GivenBack: lambda m: self.engine.given_back(m.worker, [tuple(key) for key in m.keys]),
            pp.Logs: self._logs,
            pp.Progress: self._progress,
            pp.Inspected: self._inspected,
            pp.KeeperStarted: self._keeper_started,
            ca.CacheAnswered: self._cache_answered,
            AddRun: self._add_run,
            Ask: self._ask,
            Stop: self._stop_runs,
        }
        self._inspections: dict[int, Callable[[Any, BaseException | None], None]] = {}

    def on_receive(self, message: Any) -> None:
        """Every event that waits, then one dispatch and one append for all of them."""
        self.engine.deferred = True
        waiting = deque(self._waiting_events())
        try:
            self._handle(message)
            while waiting:
                self._handle(waiting.popleft().message)
        finally:
            self.engine.deferred = False
            self.actor_inbox.put_back(list(waiting))
        self.engine.dispatch()
        self._acknowledge_volatile()
        self._appends.hand_over()

    def _waiting_events(self) -> list[Any]:
        """Our events at the head of the inbox, up to what Pykka must handle itself."""
        waiting = self.actor_inbox.take_all(_MOST_EVENTS)
        for i, envelope in enumerate(waiting):
            kind = type(envelope.message)
            if envelope.reply_to is not None or not (kind in self._handlers or envelope.message is _TICK):
                self.actor_inbox.put_back(waiting[i:])
                return waiting[:i]
        return waiting

    def _handle(self, message: Any) -> None:
        if message is _TICK:
            self.engine.tick()
        else:
            self._handlers[type(message)](message)
        self._acknowledge_volatile()

    def _acknowledge_volatile(self) -> None:
        """Runs that write nothing have their records acknowledged at once, though not within the call."""
        while self._volatile:
            core, token = self._volatile.popleft()
            self._acknowledge(core, [(token, None, 0)])

    def on_start(self) -> None:
        self.actor_inbox.loop.adopt()

    def on_stop(self) -> None:
        self._end(ActorDeadError("the supervisor was closed while the run was going on; it can be resumed"))

    def on_failure(
        self,
        exception_type: type[BaseException] | None,
        exception_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _log.critical("the supervisor actor failed", exc_info=exception_value)
        error = SageError(f"internal error in the supervisor: {exception_value!r}; the run can be resumed")
        error.__cause__ = exception_value
        self._end(error)

    def _end(self, error: BaseException) -> None:
        """Everyone who waits is answered."""
        for entry in list(self._entries.values()):
            for answer in entry.answers.values():
                answer(None, error)
            entry.message.handle.finish(None, error)
            if entry.message.lock is not None:
                entry.message.lock.release()
        self._entries.clear()
        for answer in self._inspections.values():
            answer(None, error)
        self.pool.close(0.0)  # nobody serves its loop from here on
        self.actor_inbox.loop.stop()

    # ------------------------------------------------------------------ runs

    def _add_run(self, message: AddRun) -> None:
        core = message.core
        core.ports = self
        self._entries[core.number] = _Entry(message)
        if self._keeper is not None and message.lock is not None:
            message.lock.set_keeper(*self._keeper)
        if message.writer is not None:
            me = self.actor_ref
            self._state.tell(
                OpenRun(
                    core.number,
                    message.writer,
                    lambda event: _tell(me, event),
                    secrets=core.secrets,
                    audit=message.audit,
                )
            )
            self._state.tell(Append(core.number, message.first, True, ("admitted", message.resumed)))
        else:
            self._volatile.append((core, ("admitted", message.resumed)))
        self._calls.restore(message.breakers)

    def _acknowledge(self, core: RunCore, acks: Sequence[tuple[Any, Any, int]]) -> None:
        rest = []
        for ack in single_acks(acks):
            token = ack[0]
            if token[0] == "admitted":
                fault_point("run.admitted")
                entry = self._entries[core.number]
                entry.is_admitted = True
                self.engine.add(core, resumed=token[1])
                for act in entry.then:
                    act()
            elif token[0] == "closed":
                self._closed(core)
            elif token[0] == "answer":
                self._answer(core, token[1], None)
                rest.append((("held",), None, 0))
            else:
                rest.append(ack)
        if rest:
            self.engine.acknowledged(core, rest)

    def _committed(self, message: Committed) -> None:
        fault_point("run.committed")
        entry = self._entries.get(message.run)
        if entry is not None:
            self._acknowledge(entry.message.core, message.acks)

    def _commit_failed(self, message: CommitFailed) -> None:
        entry = self._entries.get(message.run)
        if entry is None:
            return
        core = entry.message.core
        error = message.error if isinstance(message.error, StorageError) else StorageError(str(message.error))
        for number in list(entry.answers):
            self._answer(core, number, error)
        if core.number in self.engine.runs:
            core.unacknowledged = 0
            self.engine.storage_failed(core, error)
        elif core.status is None:
            core.status, core.paused = "paused", f"storage: {error}"
            self.ended(core)
        if any(token[0] == "closed" for token in message.tokens if isinstance(token, tuple)):
            self._closed(core)

    def ended(self, run: RunCore) -> None:
        """The engine is done with a run: close its journal, then tell its owner."""
        self.engine.remove(run)
        fault_point("run.ended")
        if run.volatile:
            self._volatile.append((run, ("closed",)))
        else:
            self._calls.settle(run, self._close_journal)

    def _close_journal(self, run: RunCore) -> None:
        self._appends.hand_over()
        self._state.tell(CloseRun(run.number, ("closed",)))

    def _closed(self, core: RunCore) -> None:
        entry = self._entries.pop(core.number, None)
        if entry is None:
            return
        message = entry.message
        self._calls.forget(core)
        if core.options.cache:
            self._cache.tell(ca.DropQuestions(core.number))
        status = core.status or "paused"
        outcome, problem = None, None
        try:
            outcome = self._outcome(core, message, status)
        except Exception as error:  # noqa: BLE001 - whatever its journal holds: whoever waits is answered
            _log.exception("the outcome of run %s cannot be told", core.run_id)
            problem = SageError(
                f"run {core.run_id} ended as {status}, and its outcome cannot be told: {error}"
            )
            problem.__cause__ = error
        if message.lock is not None:
            message.lock.release()
        fault_point("run.unlocked")
        with contextlib.suppress(SageError, OSError):
            message.on_end(status)
        message.handle.finish(outcome, problem, core)
        for answer in entry.answers.values():
            answer(None, ActorDeadError(f"run {core.run_id} ended first"))

    def _outcome(self, core: RunCore, message: AddRun, status: str) -> Outcome:
        """What is told of the end of a run, to those who listen to its events too."""
        seconds = self._clock.now() - core.started_at
        outcome = outcome_of(core, seconds=seconds, status=status, reason=core.reason(status))
        stored = StoredValues(message.store)
        core.ports = stored  # pyright: ignore[reportAttributeAccessIssue]
        with stored.kept_open():  # whoever reads a result later opens it again
            if core.options.listening:
                message.handle.publish(self._finished_event(outcome, message.audit))
        return outcome

    def _finished_event(self, outcome: Outcome, audit: RunAudit | None) -> Event:
        more = {"speedup": outcome.speedup, **outcome.measured}
        if audit is not None and (head := audit.head()) is not None:
            more["audit"] = {"seq": head.seq, "mac": head.mac}
        return finished_event(outcome, at=self._clock.now(), **more)

    # ------------------------------------------------------------------ requests

    def _stop_runs(self, message: Stop) -> None:
        def act() -> None:
            if message.grace_s > 0:
                self.engine.stop(message.grace_s)
            else:
                self.engine.abort()

        for entry in self._entries.values():
            if not entry.is_admitted:
                entry.then.append(act)
        act()

    def _ask(self, message: Ask) -> None:
        if message.request[0] == "inspect":
            number = self._next_answer = self._next_answer + 1
            self._inspections[number] = message.answer
            self.pool.inspect(message.request[1], number)
            return
        found = [e for e in self._entries.values() if e.message.handle is message.handle]
        if not found:
            message.answer(None, UsageError(f"run {message.handle.run_id} has ended"))
            return
        try:
            self._carry_out(found[0], message)
        except Exception as error:  # noqa: BLE001 - one caller's mistake must not cost all runs
            message.answer(None, error)

    def _carry_out(self, entry: _Entry, message: Ask) -> None:
        core, request = entry.message.core, message.request
        if request[0] == "status":
            message.answer(self._status(core), None)
        elif request[0] == "cancel":
            if entry.is_admitted:
                self.engine.cancel(core)
            else:
                entry.then.append(lambda: self.engine.cancel(core))
            message.answer(None, None)
        elif request[0] == "approve":
            _, node_id, approved, data, by = request
            node = self._waiting_node(core, node_id, "approval")
            core.decide(node, approved=approved, data=data, by=by, token=self._token(entry, message.answer))
            self.engine.dispatch()
        else:
            _, node_id, how, result, by = request
            node = self._waiting_node(core, node_id, "in_doubt")
            core.resolve(node, how=how, result=result, by=by, token=self._token(entry, message.answer))
            self.engine.dispatch()

    def _token(self, entry: _Entry, answer: Callable[[Any, BaseException | None], None]) -> tuple[str, int]:
        number = self._next_answer = self._next_answer + 1
        entry.answers[number] = answer
        return ("answer", number)

    def _answer(self, core: RunCore, number: int, error: BaseException | None) -> None:
        entry = self._entries.get(core.number)
        answer = entry.answers.pop(number, None) if entry is not None else None
        if answer is not None:
            answer(None, error)

    def _waiting_node(self, core: RunCore, node_id: str, why: str) -> int:
        node = core.find(node_id)
        if node is None:
            raise UsageError(f"run {core.run_id} has no node {node_id!r}; `sage-actors status` lists them")
        if why == "approval" and core.held.get(node) != "approval":
            raise UsageError(f"{node_id} does not wait for an approval: it is {st.NAMES[core.state[node]]}")
        if why == "in_doubt" and node not in core.doubts:
            raise UsageError(f"{node_id} is not in doubt: it is {st.NAMES[core.state[node]]}")
        return node

    def _status(self, core: RunCore) -> RunStatus:
        return status_of(
            core,
            status=core.status or "running",
            reason=core.paused or "",
            seconds=self._clock.now() - core.started_at if core.started_at else 0.0,
            breakers=dict(self._calls.states),
        )

    # ------------------------------------------------------------------ the engine's hands (EnginePorts)

    def persist(self, run: RunCore, records: list[Record], *, sync: bool, token: object | None) -> None:
        if run.volatile:
            if token is not None:
                self._volatile.append((run, token))
            return
        self._appends.add(run.number, records, sync=sync, token=token)

    def emit(self, run: RunCore, event: Event) -> None:
        entry = self._entries.get(run.number)
        if entry is not None:
            entry.message.handle.publish(event)

    def timer(self, run: RunCore, at: float, token: tuple[str, int, int]) -> None:
        self.engine.set_timer(run, at, token)

    def request_permit(self, run: RunCore, node: int, endpoint: str) -> None:
        self._calls.request(run, node, endpoint)

    def report_permit(
        self, run: RunCore, node: int, endpoint: str, ok: bool | None, retry_after: float | None
    ) -> None:
        self._calls.report(run, node, endpoint, ok, retry_after)

    def ask_cache(self, run: RunCore, node: int, question: ca.CacheQuestion, *, stale: bool) -> None:
        paths = tuple(run.search_paths)
        self._cache.tell(ca.AskCache((run.number, node), question, paths, stale))

    def keep_result(self, run: RunCore, node: int, value: bytes, micros: int, usage: dict[str, Any]) -> None:
        token = (run.number, node)
        self._cache.tell(ca.KeepResult(token, value, micros, dict(usage), f"{run.run_id} {run.id_of(node)}"))

    def keep_whole(self, run: RunCore, node: int, value: bytes) -> None:
        self._cache.tell(ca.KeepWhole(run.run_id, run.id_of(node), value))

    def _cache_answered(self, message: ca.CacheAnswered) -> None:
        run = self.engine.runs.get(message.token[0])
        if run is not None:
            run.cache_answered(message.token[1], message.entry)

    def stored_value(self, run: RunCore, location: tuple[Any, int, int]) -> bytes:
        entry = self._entries[run.number]
        assert entry.message.store is not None
        return read_value(entry.message.store, entry.frames, location)

    def secret(self, kind: str, name: str) -> str:
        return read_secret(kind, name, self._environ)

    def random(self) -> float:
        return self._random()

    def operation_number(self, run: RunCore, operation: OperationSpec) -> int:
        self._search_paths = run.search_paths
        self._inputs = run.root.inputs if self._grants_inputs else {}
        return self.engine.operation_number(run, operation)

    def start_worker(self, kind: str) -> int:
        return self.pool.start_worker(kind)  # type: ignore[arg-type]

    def submit(self, worker: int, rows: Sequence[Any]) -> None:
        # Their start is handed over to the state actor when all is told: the worker begins meanwhile.
        self.pool.submit(worker, rows)
        fault_point("run.dispatched")

    def define(self, op: int, operation: OperationSpec) -> None:
        said: dict[str, Any] = {"search_paths": self._search_paths}
        if operation.type == "http":
            said["url"] = with_inputs(operation.config.get("url"), self._inputs)
        if operation.secret_outputs:
            said["secret_outputs"] = True
        if self._secrets != SecretsPolicy():
            said["secrets"] = self._secrets.to_dict()
        self.pool.define(op, wire_spec(operation) | said)

    def forget(self, ops: Sequence[int]) -> None:
        self.pool.forget(ops)

    def give_back(self, worker: int) -> None:
        self.pool.give_back(worker)

    def cancel(self, worker: int, keys: Sequence[Any]) -> None:
        self.pool.cancel(worker, keys)

    def kill(self, worker: int, reason: str) -> None:
        self.pool.kill(worker, reason)

    def retire(self, worker: int) -> None:
        self.pool.retire(worker)

    def tick_at(self, when: float) -> None:
        me = self.actor_ref
        self.pool.call_at(when, lambda: _tell(me, _TICK))

    def worker_lost(self, run: RunCore, evidence: Evidence, nodes: list[str]) -> None:
        run.emit(
            "worker_lost",
            None,
            exitcode=evidence.exitcode,
            nodes=nodes,
            reason=evidence.reason,
            evidence=evidence.describe(),
        )

    # ------------------------------------------------------------------ the pool's events

    def _results(self, message: pp.Results) -> None:
        fault_point("run.results")
        self.engine.results(message.worker, message.rows)

    def _worker_lost(self, message: pp.WorkerLost) -> None:
        fault_point("run.worker_lost")
        self._calls.worker_lost(message.worker)
        self.engine.lost(message.worker, self._without_secrets(message.evidence), message.culprits)

    def _without_secrets(self, evidence: Evidence) -> Evidence:
        """What a dead worker left unread did not go through its own redaction."""
        text = redact_text("\n".join(evidence.last_lines))[0]
        for run in self.engine.runs.values():
            text = run.without_secrets(text)
        lines = tuple(line[:_EVIDENCE_CHARS] for line in text.split("\n")) if text else ()
        return replace(evidence, last_lines=lines)

    def _logs(self, message: pp.Logs) -> None:
        by_run: dict[int, list[list[Any]]] = {}
        for run, *rest in message.rows:
            by_run.setdefault(run, []).append(rest)
        for run_number, rows in by_run.items():
            run = self.engine.runs.get(run_number)
            if run is not None:
                run.log_lines(rows)

    def _progress(self, message: pp.Progress) -> None:
        for run_number, node, attempt, data in message.rows:
            run = self.engine.runs.get(run_number)
            if run is not None and 0 <= node < len(run.state):
                run.emit("node_progress", node, attempt=attempt, progress=run.without_secrets(data))

    def _inspected(self, message: pp.Inspected) -> None:
        answer = self._inspections.pop(message.token, None)
        if answer is not None:
            answer(message.infos, None)

    def _keeper_started(self, message: pp.KeeperStarted) -> None:
        started = process_start_time(message.pid)
        if started is None:
            return
        self._keeper = (message.pid, started)
        for entry in self._entries.values():
            if entry.message.lock is not None:
                entry.message.lock.set_keeper(*self._keeper)


def _tell(ref: pykka.ActorRef[Any], message: Any) -> None:
    with contextlib.suppress(pykka.ActorDeadError):
        ref.tell(message)

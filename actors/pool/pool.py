"""The local worker pool: worker processes of this machine, served by one I/O loop on selectors.

    any thread: submit, give_back, ...  -- non-blocking send --> worker sockets
                start_worker, kill, ... -- post(command) ------> the loop
    the loop:   worker sockets, the keeper's channel, timers, commands  -- deliver(event) --> supervisor

The supervisor actor serves the loop in its own thread while it waits for messages: a result is decided on by the
thread that read it. A pool that is given no loop serves one in a thread of its own.

The end of a worker is what the keeper reports, after it killed what that worker had left: first whatever the
socket still holds is delivered, then WorkerLost. Nothing is polled but limits and peak memory, and those only
while they matter.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_actors.actors.confinement.plan import Confinement, Words
from sage_actors.actors.operations.types import ON_A_LOOP
from sage_actors.actors.pool import keeper_wire
from sage_actors.actors.pool.frames import FrameHandlers
from sage_actors.actors.pool.inspection import Inspections, killed_by_import
from sage_actors.actors.pool.io_loop import READ, WRITE, IoLoop
from sage_actors.actors.pool.keeper_client import KeeperClient
from sage_actors.actors.pool.keepers import Keepers
from sage_actors.actors.pool.pool_worker import WorkerHandle
from sage_actors.actors.pool.protocol import (
    Inspected,
    KeeperStarted,
    Key,
    Logs,
    PoolEvent,
    PoolStatistics,
    Results,
    WorkerKind,
    WorkerLost,
    WorkerReady,
)
from sage_actors.actors.pool.watching import Watching
from sage_actors.actors.workers.output import UNKNOWN
from sage_actors.messages.codec import frame
from sage_actors.messages.errors import ActorDeadError, ProtocolError, UsageError
from sage_actors.messages.wire import FAILED, Evidence, Kind, TaskRow, error_map

__all__ = ["LocalPool"]

_READS_A_TURN = 8  # of one worker's socket, before the others have their turn
_EOF_GRACE_S = 1.0  # a worker that closed its socket should be reported as ended by then
_SPENT_GRACE_S = 1.0  # for a worker of one task to end, once that is answered
_ORPHAN_S = 1.0  # for reading what the workers of a dead keeper left in their sockets
_KEEPER_START_S = 30.0
_INSPECT_S = 60.0  # for importing what one question names
_LAST_S = 5.0  # for the end of what was killed


class LocalPool:
    """See WorkerPool for the methods.

    project: where workers run. deliver: takes events, in the loop's thread; must not block. loop: served by who
    has it, who closes this pool before the last turn; by default one with a thread of its own. environ: of workers
    (the state key is always taken out). main_path: the script that `__main__:name` refers to, or a dotted
    module name. sys_path: of workers, this process's by default. user_paths: searched before it, the project
    too, by a worker that is to call something there. grace_s: between SIGTERM and SIGKILL.
    heartbeat_s: an async worker whose event loop gives no sign of life for so long is replaced.
    confinement: what workers may touch; None confines nothing.
    """

    def __init__(
        self,
        *,
        project: Path,
        deliver: Callable[[PoolEvent], None],
        loop: IoLoop | None = None,
        environ: Mapping[str, str] | None = None,
        main_path: str | None = None,
        sys_path: Sequence[str] | None = None,
        user_paths: Sequence[str] = (),
        grace_s: float = 5.0,
        heartbeat_s: float = 10.0,
        confinement: Confinement | None = None,
    ) -> None:
        self._deliver_to = deliver
        self._grace_s = grace_s
        self._confinement = confinement if confinement is not None and confinement.active else None
        self._specs: dict[int, dict[str, Any]] = {}
        self._http_tokens: dict[int, str] = {}
        self._spare: int | None = None
        self._expected = b""  # what the spare prepares for: the profile of the last such worker
        self._spare_lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._workers: dict[int, WorkerHandle] = {}
        self._operations: dict[int, bytes] = {}
        self._limits: dict[int, dict[str, Any]] = {}
        self._inspections = Inspections()
        self._closing = False
        self._closed = False
        self._empty = threading.Event()
        self._started = self._lost = 0
        self._past_sent = self._past_received = 0
        self._loop, self._has_own_loop = loop or IoLoop(), loop is None
        self._keepers = Keepers(
            self._loop,
            project=project.resolve(),
            main_path=main_path,
            sys_path=[os.path.abspath(each) for each in (sys.path if sys_path is None else sys_path)],
            user_paths=tuple(user_paths),
            environ=environ,
            confinement=self._confinement,
            on_started=lambda keeper: self._deliver(KeeperStarted(*keeper.identity)),
            on_answer=self._on_answer,
            on_gone=self._on_keeper_gone,
        )
        self._watching = Watching(
            self._loop,
            self._workers,
            heartbeat_s=heartbeat_s,
            receive=self._receive_once,
            kill=lambda worker, reason: self._kill(worker, reason, 0.0),
            on_choking=self._read_for,
        )
        self._frames = FrameHandlers(
            deliver=self._deliver,
            on_ready=self._on_ready,
            on_executing=self._watching.limits,
            on_inspected=self._on_inspected,
        )

    # From any thread

    @property
    def keeper_identity(self) -> tuple[int, float] | None:
        return self._keepers.identity

    def start(self) -> None:
        """Starts the keeper and waits until it serves.

        Raises:
            ActorDeadError: it did not start; its own words are on stderr.
        """
        if self._has_own_loop:
            self._loop.start("sage-pool-io")
        is_ready = self._starts_keeper()
        if not is_ready and self._keepers.identity is None:  # it has died: of something that is over, perhaps
            is_ready = self._starts_keeper()
        if not is_ready:
            self.close(0.0)
            raise ActorDeadError("the keeper process did not start; what it printed on stderr says why")

    def _starts_keeper(self) -> bool:
        self._keepers.start()
        return self._keepers.wait_until_ready(_KEEPER_START_S)

    def close(self, timeout_s: float = 10.0) -> None:
        if self._closed or self._keepers.started == 0:
            return
        self._closing = True
        if self._loop.is_current():  # it will not be served any more: everything ends now
            self._leave_loop()
            self._end()
            return
        self._loop.post(self._close_all)
        if not self._empty.wait(timeout_s):
            for number in list(self._workers):
                self.kill(number, "stopped", grace_s=0.0)
            self._empty.wait(_LAST_S)
        if self._closed:
            return  # in the loop's thread, meanwhile
        left = threading.Event()
        self._loop.post(self._leave_loop)
        self._loop.post(left.set)
        left.wait(_LAST_S)
        if self._has_own_loop:
            self._loop.stop()
        self._end()

    def _leave_loop(self) -> None:
        self._closed = True
        for handle in self._workers.values():
            self._deafen(handle)
        self._keepers.leave_loop()

    def _end(self) -> None:
        for handle in list(self._workers.values()):
            handle.close()
        self._workers.clear()
        self._keepers.close(_LAST_S)
        if self._confinement is not None:
            self._confinement.close()
        self._empty.set()

    def start_worker(self, kind: WorkerKind) -> int:
        if kind != "own" or self._confinement is None:
            return self._new_worker(kind)
        with self._spare_lock:  # who needs one such worker will need another: the next is forked ahead
            number, self._spare = self._spare, None
            if number is None or number not in self._workers:
                number = self._new_worker(kind)
            if not self._closing:
                self._spare = self._new_worker(kind)
                if self._expected:
                    self._send_to(self._spare, self._expected)
        return number

    def define(self, op: int, spec: dict[str, Any]) -> None:
        if spec.get("limits"):
            self._limits[op] = spec["limits"]
        if self._confinement is not None:
            self._specs[op] = spec
            spec = self._with_proxy(op, spec)
        self._operations[op] = frame(Kind.OPERATIONS, [[op, spec]])

    def forget(self, ops: Sequence[int]) -> None:
        for op in ops:
            self._operations.pop(op, None)
            self._limits.pop(op, None)
            self._specs.pop(op, None)
            if self._confinement is not None:
                self._confinement.released(self._http_tokens.pop(op, None))
        for worker in list(self._workers.values()):
            known = [op for op in ops if op in worker.known_ops]
            if known:
                worker.known_ops.difference_update(known)
                self._send(worker, frame(Kind.OPERATIONS, [[op, None] for op in known]))

    def submit(self, worker: int, rows: Sequence[TaskRow]) -> None:
        """See WorkerPool.

        Raises:
            UsageError: a row names an operation that was not defined.
        """
        handle = self._workers.get(worker)
        if handle is None or not rows:
            return
        known = handle.known_ops
        ops = {row[3] for row in rows}
        new = ops - known
        if not new.issubset(self._operations.keys()):
            raise UsageError(f"operation {min(new - self._operations.keys())} was not defined")
        if self._limits and not ops.isdisjoint(self._limits):
            for row in rows:
                if row[3] in self._limits:
                    handle.limits[row[0], row[1], row[2]] = self._limits[row[3]]
        if self._confinement is not None and handle.kind in ("own", "trusted"):
            rows = [row for row in rows if self._may_run(handle, row)]
            if not rows:
                return
        definitions = [self._operations[op] for op in new]
        known |= new
        self._want_if(handle, handle.send(*definitions, frame(Kind.TASKS, rows), tasks=len(rows)))
        self._watching.memory()

    def give_back(self, worker: int) -> None:
        self._send_to(worker, frame(Kind.GIVE_BACK, None))

    def cancel(self, worker: int, keys: Sequence[Key]) -> None:
        self._send_to(worker, frame(Kind.CANCEL, list(keys)))

    def retire(self, worker: int) -> None:
        handle = self._workers.get(worker)
        if handle is not None:
            handle.ending = handle.ending or "stopped"
            self._send(handle, frame(Kind.STOP, None))
            if handle.kind == "own":  # it may have said itself that its operation was over
                until = time.monotonic() + _SPENT_GRACE_S
                self._loop.call_at(until, lambda: self._kill(worker, "stopped", 0.0))

    def permit(self, worker: int, token: int, granted: bool, error: dict[str, Any] | None = None) -> None:
        self._send_to(worker, frame(Kind.PERMIT, [token, granted, error]))

    def kill(self, worker: int, reason: str, *, grace_s: float | None = None) -> None:
        grace = self._grace_s if grace_s is None else grace_s
        self._loop.post(lambda: self._kill(worker, reason, grace))

    def call_at(self, when_monotonic: float, callback: Callable[[], None]) -> None:
        self._loop.call_at(when_monotonic, callback)

    def statistics(self) -> PoolStatistics:
        workers = list(self._workers.values())
        return PoolStatistics(
            workers=len(workers),
            pids=tuple(each.pid for each in workers if each.pid is not None and each.told),
            started=self._started,
            lost=self._lost,
            keepers_started=self._keepers.started,
            bytes_sent=self._past_sent + sum(each.bytes_sent for each in workers),
            bytes_received=self._past_received + sum(each.bytes_received for each in workers),
        )

    # Starting workers

    def _new_worker(self, kind: WorkerKind, inspecting: tuple[int, list[str]] | None = None) -> int:
        number = next(self._numbers)
        self._started += 1
        try:
            handle = WorkerHandle(number, kind)
        except OSError as cause:  # no descriptors left: the same as a worker that died at once
            evidence = Evidence(exitcode=None, last_lines=(f"the worker could not be started: {cause}",))
            self._loop.post(lambda: self._deliver(WorkerLost(number, evidence)))
            return number
        handle.inspecting = inspecting
        if self._confinement is not None and kind not in ("own", "trusted"):
            self._tell_profile(handle, self._confinement.first_words(kind))
        self._workers[number] = handle
        self._loop.post(lambda: self._launch(handle))
        return number

    def _launch(self, handle: WorkerHandle) -> None:
        self._loop.watch(handle.socket, READ, lambda mask: self._on_worker(handle, mask))
        try:
            handle.keeper = self._keepers.of(handle.kind)
            handle.keeper.fork(handle.number, handle.kind, handle.child_fds())
        except OSError as cause:
            self._finish(handle, None, f"the worker could not be started: {cause}")
            return
        handle.close_child_side()
        handle.launched = True
        if handle.kind in ON_A_LOOP:
            self._watching.heartbeat(handle)

    def _on_ready(self, handle: WorkerHandle) -> None:
        handle.ready = True
        self._tell_ready(handle)

    def _tell_ready(self, handle: WorkerHandle) -> None:
        if handle.told or not handle.ready or handle.pid is None:
            return
        handle.told = True
        handle.heartbeat_at = time.monotonic()
        if handle.inspecting is None:
            self._deliver(WorkerReady(handle.number, handle.pid))

    # The sandbox

    def note(self, label: str, text: str) -> None:
        """A line for the log of the node that has a worker for itself, by the label of its grant. Any thread."""
        for handle in list(self._workers.values()):
            if handle.label == label and handle.alone is not None:
                self._loop.post(lambda h=handle: self._deliver(Logs(h.number, [[*h.alone, "stderr", text]])))  # type: ignore[misc]

    def _tell_profile(self, handle: WorkerHandle, words: Words) -> None:
        handle.token = words.token
        self._want_if(handle, handle.send(words.data))

    def _may_run(self, handle: WorkerHandle, row: TaskRow) -> bool:
        """Tells a worker of one task what it may touch. False: the operation asks for more than the policy grants."""
        assert self._confinement is not None
        if handle.kind == "trusted":
            problems = self._confinement.policy.problems(self._specs[row[3]], row[4])
            if problems:
                self._refuse(handle, row, str(problems[0]))
            return not problems
        handle.label, handle.alone = f"{row[5].partition(':')[0]}/{row[4]}", (row[0], row[1], row[2])
        try:
            words = self._confinement.task_words(self._specs[row[3]], handle.label)
        except UsageError as error:
            self._refuse(handle, row, str(error))
            return False
        self._expected = words.expected
        self._tell_profile(handle, words)
        return True

    def _refuse(self, handle: WorkerHandle, row: TaskRow, why: str) -> None:
        failed = [*row[:3], FAILED, 0, error_map("SandboxViolation", why, retryable=False), None]
        self._loop.post(lambda: self._deliver(Results(handle.number, [failed])))

    def _with_proxy(self, op: int, spec: dict[str, Any]) -> dict[str, Any]:
        """An `http` operation goes through the proxy, by a right of its own."""
        assert self._confinement is not None
        granted = (
            self._confinement.http_proxy(spec, f"operation {op}") if spec.get("type") == "http" else None
        )
        if granted is None:
            return spec
        self._http_tokens[op] = granted[1]
        return {**spec, "egress": {"proxy": granted[0]}}

    # Worker sockets

    def _send_to(self, worker: int, data: bytes) -> None:
        handle = self._workers.get(worker)
        if handle is not None:
            self._send(handle, data)

    def _send(self, handle: WorkerHandle, data: bytes) -> None:
        self._want_if(handle, handle.send(data))

    def _want_if(self, handle: WorkerHandle, waits: bool) -> None:
        """Has the loop send the rest, where the socket did not take all at once."""
        if waits:
            self._loop.post(lambda: self._want(handle))

    def _want(self, handle: WorkerHandle) -> None:
        if not (handle.lost or handle.deaf):
            mask = READ | (WRITE if handle.backlog else 0)
            self._loop.watch(handle.socket, mask, lambda mask: self._on_worker(handle, mask))

    def _on_worker(self, handle: WorkerHandle, mask: int) -> None:
        if mask & WRITE and not handle.push():
            self._want(handle)
        if mask & READ and not handle.deaf:
            self._receive(handle, _READS_A_TURN)

    def _deliver(self, event: PoolEvent) -> None:
        if not self._closed:
            self._deliver_to(event)

    def _receive(self, handle: WorkerHandle, reads: int) -> None:
        """Delivers what the worker sent. Whatever breaks here is this worker's end, and nobody else's."""
        try:
            for _ in range(reads):
                for kind, payload in handle.frames():
                    handle.heard_at = time.monotonic()
                    self._frames.handle(handle, kind, payload)
                if not handle.has_more:
                    return
        except BlockingIOError:
            return
        except EOFError:
            self._deafen(handle)
            self._loop.call_at(
                time.monotonic() + _EOF_GRACE_S, lambda: self._kill(handle.number, "protocol", 0.0)
            )
        except ProtocolError as error:
            handle.remember_lines(UNKNOWN, f"the worker broke the protocol: {error}")
            self._deafen(handle)
            self._kill(handle.number, "protocol", 0.0)

    def _receive_once(self, handle: WorkerHandle) -> None:
        if not (handle.lost or handle.deaf):
            self._receive(handle, 1)

    def _read_for(self, handle: WorkerHandle) -> None:
        """The output that a worker cannot read itself, behind C code that prints and holds the interpreter."""
        self._deliver(Logs(handle.number, [[*UNKNOWN, "stdout", handle.take_unread()]]))

    def _deafen(self, handle: WorkerHandle) -> None:
        if not handle.deaf:
            handle.deaf = True
            self._loop.unwatch(handle.socket)

    # The end of workers

    def _kill(self, worker: int, reason: str, grace_s: float) -> None:
        handle = self._workers.get(worker)
        if handle is None:
            return
        if not handle.ending or (handle.ending == "stopped" and reason != "protocol"):
            handle.ending = reason
        if grace_s > 0:
            self._signal(handle, signal.SIGTERM)
            self._loop.call_at(time.monotonic() + grace_s, lambda: self._signal(handle, signal.SIGKILL))
        else:
            self._signal(handle, signal.SIGKILL)

    def _signal(self, handle: WorkerHandle, which: int) -> None:
        if handle.keeper is not None and not handle.lost:
            with contextlib.suppress(OSError):
                handle.keeper.signal(handle.number, which)

    def _on_answer(self, kind: int, payload: Any) -> None:
        handle = self._workers.get(payload[0])
        if handle is None:
            return
        if kind == keeper_wire.STARTED:
            handle.pid = payload[1]
            self._tell_ready(handle)
        elif kind == keeper_wire.EXITED:
            self._finish(handle, payload[1], payload[2])

    def _finish(self, handle: WorkerHandle, exitcode: int | None, text: str) -> None:
        """The worker and all it started are gone: what it left in its socket comes first, then the news."""
        while not handle.deaf:
            before = handle.bytes_received
            self._receive(handle, _READS_A_TURN)
            if handle.bytes_received == before:
                self._deafen(handle)
        handle.lost = True
        handle.remember_lines(UNKNOWN, handle.take_unread() + text)
        del self._workers[handle.number]
        if self._confinement is not None:
            self._confinement.released(handle.token)
        self._past_sent += handle.bytes_sent
        self._past_received += handle.bytes_received
        handle.close()
        if handle.inspecting is not None:
            self._inspection_lost(handle, exitcode)
        else:
            self._lost += handle.ending != "stopped"
            if handle.ready and not handle.told:  # it executed, though the keeper had not told its pid yet
                self._deliver(WorkerReady(handle.number, handle.pid or 0))
            self._deliver(WorkerLost(handle.number, _evidence(handle, exitcode), handle.culprits))
        if self._closing and not self._workers:
            self._empty.set()

    def _on_keeper_gone(self, keeper: KeeperClient) -> None:
        """Each of its workers is lost once its socket ends. A new keeper comes on demand."""
        until = time.monotonic() + _ORPHAN_S
        for handle in [each for each in self._workers.values() if each.launched and each.keeper is keeper]:
            while not handle.deaf and time.monotonic() < until:
                self._receive(handle, _READS_A_TURN)
                time.sleep(0.0005)
            handle.ending = handle.ending or "keeper"  # nobody's fault
            self._finish(handle, None, "the keeper process died, and its workers with it")

    # Inspection

    def inspect(self, calls: Sequence[str], token: int) -> None:
        self._inspections.ask(token, list(calls))
        if calls:
            self._inspect(token, list(calls))
        else:
            self._loop.post(lambda: self._answer(token, []))

    def _inspect(self, token: int, calls: list[str]) -> None:
        number = self._new_worker("blocking", (token, calls))
        self._send_to(number, frame(Kind.INSPECT, [token, calls]))
        self._loop.call_at(time.monotonic() + _INSPECT_S, lambda: self._kill(number, "timeout", 0.0))

    def _on_inspected(self, handle: WorkerHandle, infos: list[dict[str, Any]]) -> None:
        if handle.inspecting is None:
            raise ProtocolError("nobody asked this worker")
        token, calls = handle.inspecting
        if [info["call"] for info in infos] != calls:
            raise ProtocolError("an answer to another question")
        handle.inspecting = (token, [])
        self._kill(handle.number, "stopped", 0.0)
        self._answer(token, infos)

    def _answer(self, token: int, infos: list[dict[str, Any]]) -> None:
        complete = self._inspections.answer(token, infos)
        if complete is not None:
            self._deliver(Inspected(token, complete))

    def _inspection_lost(self, handle: WorkerHandle, exitcode: int | None) -> None:
        """Importing something killed the worker: asked one by one, the one to blame shows."""
        assert handle.inspecting is not None
        token, calls = handle.inspecting
        if len(calls) == 1 or self._closing:
            self._answer(token, [killed_by_import(call, exitcode, handle.ending) for call in calls])
            return
        for call in calls:
            self._inspect(token, [call])

    # Closing

    def _close_all(self) -> None:
        if not self._workers:
            self._empty.set()
        for number in list(self._workers):
            self.retire(number)


def _evidence(handle: WorkerHandle, exitcode: int | None) -> Evidence:
    return Evidence(
        exitcode=exitcode,
        reason=handle.ending,
        limit=handle.limit,
        peak_rss_bytes=handle.peak_bytes,
        last_lines=handle.last_lines(),
    )

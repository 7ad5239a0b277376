"""The decision core by hand: each event is told when a test says so, and everything it asks for is kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sage_actors.actors.cache.actor import CacheQuestion
from sage_actors.messages.codec import pack
from sage_actors.messages.definition import OperationSpec, WorkflowSpec
from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.messages.events import Event
from sage_actors.messages.records import Record, SegmentOpened, decode_records, encode_records
from sage_actors.messages.wire import FAILED, OK, Evidence, error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.engine import Engine
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions
from sage_actors.supervisor.definitions.specs import spec_from_dict
from sage_actors.supervisor.recovery.admission import admission_records
from sage_actors.supervisor.recovery.reopen import prepare
from sage_actors.supervisor.recovery.restore import Restored, replay
from sage_actors.testing import FakeClock

Row = tuple[Any, ...]


class Core:
    """An engine without a world. Records are on disk when `ack` says so; workers answer by `answer`."""

    def __init__(self, *, workers: int = 1) -> None:
        self.clock = FakeClock()
        self.clock.advance(100.0)
        self._workers = workers
        self.engine = Engine(cast("Any", self), self.clock, workers=workers)
        self.pending: deque[tuple[RunCore, list[Record], Any]] = deque()
        self.frames: dict[str, list[bytes]] = {}
        self.events: list[Event] = []
        self.submitted: list[tuple[int, Row]] = []
        self.asked_back: list[int] = []
        self.retired: list[int] = []
        self.killed: list[tuple[int, str]] = []
        self.cancelled: list[tuple[int, list[Any]]] = []
        self.forgotten: list[int] = []
        self.requested: list[tuple[int, int]] = []
        self.reported: list[tuple[int, int, bool | None]] = []
        self.ended_runs: list[RunCore] = []
        self.started: list[str] = []
        self.asked_cache: list[tuple[int, CacheQuestion, bool]] = []
        self.kept: dict[int, tuple[bytes, int, dict[str, Any]]] = {}
        self.wholes: dict[int, bytes] = {}
        self._runs = 0

    # What a test does

    def run(self, definition: Mapping[str, Any] | WorkflowSpec, **options: Any) -> RunCore:
        """Admit and begin; nodes of `definition` are in the file format."""
        spec = definition if isinstance(definition, WorkflowSpec) else flow(definition)
        run = self._new(spec, options)
        header = {"run_id": run.run_id, "inputs": {}, "project": "/"}
        opened = SegmentOpened(0.0, 1, "", "start")
        self.frames[run.run_id] = [encode_records([*admission_records(spec, header, at=0.0), opened])]
        self.engine.add(run, resumed=False)
        return run

    def resume(self, run: RunCore, *, keep: int | None = None, **options: Any) -> RunCore:
        """What a new process makes of the first `keep` frames that `run` left."""
        self.engine = Engine(cast("Any", self), self.clock, workers=self._workers)
        self.pending.clear()
        self.submitted.clear()
        frames = self.frames[run.run_id] = self.frames[run.run_id][:keep]
        restored = self.fold(run, **options)
        again = restored.run
        assert again is not None
        prepare(restored, now=self.clock.now())
        frames.append(encode_records([SegmentOpened(self.clock.now(), 1, "", "resume")]))
        self.engine.add(again, resumed=True)
        return again

    def fold(self, run: RunCore, **options: Any) -> Restored:
        return replay(
            enumerate(self.frames[run.run_id]),  # type: ignore[arg-type]
            lambda spec, _header: self._new(spec, options or {"durability": "strict"}, run.run_id),
        )

    def ack(self, times: int = 1_000) -> None:
        """Everything asked for so far, and what follows from it, is on disk; each append in a frame of its own."""
        for _ in range(times):
            if not self.pending:
                return
            run, records, token = self.pending.popleft()
            location = len(self.frames[run.run_id])
            if records:
                self.frames[run.run_id].append(encode_records(records))
            if token is not None:
                if token[0] == "answer":
                    run.unacknowledged -= 1
                    run.settle()
                else:
                    self.engine.acknowledged(run, [(token, location, 0)])

    def disk_fails(self, run: RunCore) -> None:
        self.pending.clear()
        run.unacknowledged = 0
        self.engine.storage_failed(run, StorageError("no space left"))

    def begin(self, worker: int, row: Row) -> None:
        """The worker has started, and has imported what the node needs."""
        self.engine.ready(worker)
        self.engine.begun(worker, row[:3])

    def take(self) -> list[tuple[int, Row]]:
        taken, self.submitted = self.submitted, []
        return taken

    def answer(self, worker: int, row: Row, value: Any = None, *, micros: int = 10) -> None:
        self.engine.results(worker, [[*row[:3], OK, micros, pack(value), None]])

    def fail(self, worker: int, row: Row, kind: str = "ValueError", **more: Any) -> None:
        self.engine.results(worker, [[*row[:3], FAILED, 10, error_map(kind, "no", **more), None]])

    def lose(self, worker: int, *, reason: str = "", culprits: Sequence[Any] = ()) -> None:
        self.engine.lost(worker, Evidence(exitcode=-9, reason=reason), culprits)

    def carry_out(self, value: Any = None) -> list[str]:
        """Answer everything well until nothing moves. Returns the ids that were executed."""
        done = []
        while self.submitted or self.pending:
            self.ack()
            for worker, row in self.take():
                self.engine.ready(worker)
                done.append(row[4])
                self.answer(worker, row, value)
        return done

    def state(self, run: RunCore, node_id: str) -> str:
        node = run.find(node_id)
        assert node is not None, f"no node {node_id}"
        return st.NAMES[run.state[node]]

    def records(self, run: RunCore, kind: type[Any] | None = None) -> list[Any]:
        everything = [record for frame in self.frames[run.run_id] for record in decode_records(frame)]
        return everything if kind is None else [each for each in everything if isinstance(each, kind)]

    def told(self, name: str) -> list[Event]:
        return [event for event in self.events if event.event == name]

    def _new(self, spec: WorkflowSpec, options: Mapping[str, Any], run_id: str | None = None) -> RunCore:
        self._runs += 1
        return RunCore(
            number=self._runs,
            run_id=run_id or f"run{self._runs}",
            run_key="key",
            plan=compile_plan(spec),
            inputs={},
            ports=cast("Any", self),
            clock=self.clock,
            options=RunOptions(**{"listening": True, "concurrency": spec.concurrency, **options}),
        )

    # EnginePorts

    def persist(self, run: RunCore, records: list[Record], *, sync: bool, token: Any) -> None:
        self.pending.append((run, list(records), token))

    def emit(self, run: RunCore, event: Event) -> None:
        self.events.append(event)

    def timer(self, run: RunCore, at: float, token: tuple[str, int, int]) -> None:
        self.engine.set_timer(run, at, token)

    def request_permit(self, run: RunCore, node: int, endpoint: str) -> None:
        self.requested.append((run.number, node))

    def report_permit(
        self, run: RunCore, node: int, endpoint: str, ok: bool | None, retry_after: Any
    ) -> None:
        self.reported.append((run.number, node, ok))

    def stored_value(self, run: RunCore, location: tuple[Any, int, int]) -> bytes:
        frame, record, row = location
        found: Any = decode_records(self.frames[run.run_id][frame])[record]
        return cast("bytes", found.rows[row][3])

    def secret(self, kind: str, name: str) -> str:
        raise UsageError(f"there is no {kind} {name}")

    def random(self) -> float:
        return 0.5

    def operation_number(self, run: RunCore, operation: OperationSpec) -> int:
        return self.engine.operation_number(run, operation)

    def ask_cache(self, run: RunCore, node: int, question: CacheQuestion, *, stale: bool) -> None:
        self.asked_cache.append((node, question, stale))

    def keep_result(self, run: RunCore, node: int, value: bytes, micros: int, usage: dict[str, Any]) -> None:
        self.kept[node] = (value, micros, usage)

    def keep_whole(self, run: RunCore, node: int, value: bytes) -> None:
        self.wholes[node] = value

    def ended(self, run: RunCore) -> None:
        self.ended_runs.append(run)
        self.engine.remove(run)

    def start_worker(self, kind: str) -> int:
        self.started.append(kind)
        return len(self.started)

    def submit(self, worker: int, rows: Sequence[Row]) -> None:
        self.submitted += [(worker, row) for row in rows]

    def define(self, op: int, operation: OperationSpec) -> None: ...

    def forget(self, ops: Sequence[int]) -> None:
        self.forgotten += ops

    def give_back(self, worker: int) -> None:
        self.asked_back.append(worker)

    def cancel(self, worker: int, keys: Sequence[Any]) -> None:
        self.cancelled.append((worker, list(keys)))

    def kill(self, worker: int, reason: str) -> None:
        self.killed.append((worker, reason))

    def retire(self, worker: int) -> None:
        self.retired.append(worker)

    def tick_at(self, when: float) -> None:
        self.clock.call_at(when, self.engine.tick)

    def worker_lost(self, run: RunCore, evidence: Evidence, nodes: list[str]) -> None: ...


def flow(definition: Mapping[str, Any]) -> WorkflowSpec:
    return spec_from_dict({"name": "flow", "concurrency": None, **definition})


def node(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    """A node that calls something, or what `more` says."""
    out: dict[str, Any] = {"id": name, "type": "python", "needs": list(needs), **more}
    if out["type"] == "python":
        out.setdefault("call", "module:function")
    return out

"""One life of a supervisor: the real engine, and fakes for everything it touches (see `EnginePorts`)."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sage_actors.actors.breaker.core import BreakerCore, Granted, State, Transition, Waiting
from sage_actors.actors.cache.store import CacheEntry
from sage_actors.actors.operations.types import LANES
from sage_actors.messages.codec import unpack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import UsageError
from sage_actors.messages.events import Event
from sage_actors.messages.records import BreakerChanged, Record, SegmentOpened
from sage_actors.messages.wire import Evidence
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.engine import Engine
from sage_actors.supervisor.core.plan import Plan, compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions
from sage_actors.supervisor.recovery.acting import _Decision
from sage_actors.supervisor.recovery.admission import admission_records
from sage_actors.supervisor.recovery.reopen import prepare
from sage_actors.supervisor.recovery.restore import DECIDED_OFFLINE, Restored, replay
from simulation.definitions import PATIENT, Fate, approval_of, fate_of
from simulation.journal import Disk
from simulation.ledger import Script, Violation, check_journal, check_restored, ensure, note_end
from simulation.pool import FakeWorker

__all__ = ["Life"]


class Life:
    """From the start of a supervisor to its end or death."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.rng, self.clock, self.trace = world.rng, world.clock, world.trace
        self.engine = Engine(self, self.clock, workers=world.workers)
        self.breaker = BreakerCore({}, world.policy)
        self.scripts: dict[int, Script] = {}
        self.cores: dict[int, RunCore] = {}
        self.disks: dict[int, Disk] = {}
        self.workers: dict[int, FakeWorker] = {}
        self.unused: set[int] = set()  # workers for one task that have had none
        self.operations: dict[int, OperationSpec] = {}
        self.breaker_in: deque[tuple[Any, ...]] = deque()
        self.cache_in: list[tuple[RunCore, int]] = []
        self.breaker_out: deque[Any] = deque()
        self.volatile: deque[tuple[RunCore, Any]] = deque()
        self.ticks: list[float] = []
        self.waited: dict[Any, int] = {}
        self.asked: dict[
            tuple[int, int], int
        ] = {}  # (run, node) -> its request, as SupervisorActor counts them
        self.requests = 0
        self.answered: deque[tuple[int, list[Any]]] = deque(maxlen=20)
        self.stopping = False

    # ------------------------------------------------------------------ runs

    def open(self, script: Script) -> None:
        """`run` or `resume`, by the user."""
        script.openings += 1
        script.status = script.reason = ""
        core, first, resumed = self._core(script)
        self.trace.append(("open", script.run_id, core.number, "resumed" if resumed else "new"))
        core.ports = self
        self.scripts[core.number], self.cores[core.number] = script, core
        if script.volatile:
            self.volatile.append((core, ("admitted", resumed)))
        else:
            fails = script.disk_fails_at.pop() if script.disk_fails_at else None
            disk = self.disks[core.number] = Disk(script.journal, fails)
            disk.queue.append((first, True, ("admitted", resumed)))
        self.after()

    def _core(self, script: Script) -> tuple[RunCore, list[Record], bool]:
        now = self.clock.now()
        restored = self._replay(script)
        if restored is None or restored.run is None:
            script.journal.frames.clear()
            script.journal.durable = 0
            core = self._new_core(script)
            header = {"run_id": script.run_id, "inputs": script.inputs, "project": "/"}
            return (
                core,
                [*admission_records(script.spec, header, at=now), SegmentOpened(now, 1, "", "start")],
                False,
            )
        core = restored.run
        script.journal.sync()
        check_restored(script, core)
        prepare(restored, now=now)
        for endpoint, (state, until) in restored.breakers.items():
            self.breaker_in.append(("restore", endpoint, State(state), until))
        return core, [SegmentOpened(now, 1, "", "resume")], True

    def _replay(self, script: Script) -> Restored | None:
        if script.volatile or not script.journal.frames:
            return None
        restored = self._fold(script)
        if restored.run is not None:
            for action in self._offline_decisions(script, restored):
                records = _Decision(restored, self.clock.now(), "sim").records(action)
                opened = SegmentOpened(self.clock.now(), 1, "", DECIDED_OFFLINE)
                script.journal.write([opened, *records])
                self.trace.append(("offline", script.run_id, action))
                restored = self._fold(script)
        return restored

    def _fold(self, script: Script) -> Restored:
        def make_run(spec: Any, header: Any) -> RunCore:
            core = self._new_core(script, spec, header["inputs"])
            self.scripts[core.number] = script
            return core

        return replay(enumerate(script.journal.frames), make_run)  # type: ignore[arg-type]

    def _new_core(self, script: Script, spec: Any = None, inputs: Any = None) -> RunCore:
        spec = spec or script.spec
        options = RunOptions(
            durability=script.durability,
            concurrency=spec.concurrency,
            waits_for_people=script.waits_for_people,
            listening=True,
            patience_s=script.patience_s,
            timeout=script.timeout if script.openings == 1 else None,
            cache=True,
        )
        return RunCore(
            number=self.world.next_number(),
            run_id=script.run_id,
            run_key=f"{script.run_id}:x",
            plan=self._plan(script, spec),
            inputs=script.inputs if inputs is None else inputs,
            ports=self,
            clock=self.clock,
            options=options,
        )

    def _plan(self, script: Script, spec: Any) -> Plan:
        """Compiled once from what was given, and once from what the journal says: plans never change."""
        source = "given" if spec is script.spec else "journaled"
        if source not in script.plans:
            script.plans[source] = _in_all_lanes(compile_plan(spec))
        return script.plans[source]

    def _offline_decisions(self, script: Script, restored: Restored) -> list[dict[str, Any]]:
        run = restored.run
        assert run is not None
        out: list[dict[str, Any]] = []
        for node, wait in restored.waits.items():
            if wait[0] == "approval" and (not script.waits_for_people or self.rng.random() < 0.3):
                approved, data = approval_of(script.seed, run.id_of(node))
                out.append(
                    {"action": "approve" if approved else "reject", "node": run.id_of(node), "data": data}
                )
        once = [node for node in restored.inflight if run.operation(node).effect == "once"]
        for node in dict.fromkeys([*run.doubts, *once]):
            if self.rng.random() < 0.8:
                how, result = self.settle_doubt(script, run.id_of(node))
                out.append({"action": "resolve", "node": run.id_of(node), "how": how, "result": result})
        return out

    def settle_doubt(self, script: Script, node_id: str) -> tuple[str, Any]:
        """The person looked: it had been done, or it had not."""
        script.executing_once.pop(node_id, None)
        if self.rng.random() < 0.03:
            script.tainted = True
            return "fail", None
        if node_id in script.values:
            return "result", script.values[node_id]
        return "retry", None

    # ------------------------------------------------------------------ what the supervisor actor does

    def after(self) -> None:
        """Each event ends with this: runs that write nothing are acknowledged at once."""
        while self.volatile:
            core, token = self.volatile.popleft()
            self._acknowledge(core, [(token, None, 0)])

    def _acknowledge(self, core: RunCore, acks: Sequence[tuple[Any, Any, int]]) -> None:
        rest: list[tuple[Any, Any, int]] = []
        for ack in acks:
            token = ack[0]
            if token[0] == "admitted":
                self.engine.add(core, resumed=token[1])
            elif token[0] == "closed":
                self._closed(core)
            elif token[0] == "answer":
                rest.append((("held",), None, 0))
            else:
                rest.append(ack)
        if rest:
            self.engine.acknowledged(core, rest)

    def take_from_disk(self, number: int) -> None:
        core = self.cores[number]
        what, payload = self.disks[number].out.popleft()
        self.trace.append(("disk", number, what))
        if what == "acks":
            self._acknowledge(core, payload)
        elif what == "closed":
            self._closed(core)
        elif core.number in self.engine.runs:
            core.unacknowledged = 0
            self.engine.storage_failed(core, payload[0])
        elif core.status is None:
            core.status, core.paused = "paused", f"storage: {payload[0]}"
            self.ended(core)
        self.after()

    def ask_cache(self, run: RunCore, node: int, question: Any, *, stale: bool) -> None:
        self.cache_in.append((run, node))

    def keep_result(self, run: RunCore, node: int, value: bytes, micros: int, usage: dict[str, Any]) -> None:
        self.world.cache[run.run_id, run.id_of(node)] = value

    def keep_whole(self, run: RunCore, node: int, value: bytes) -> None:
        raise AssertionError("nothing is digested here")

    def answer_cache(self) -> None:
        """Hits are what a life before kept, and the journal lost."""
        run, node = self.cache_in.pop(0)
        value = self.world.cache.get((run.run_id, run.id_of(node)))
        self.trace.append(("cache", run.run_id, run.id_of(node), "hit" if value else "miss"))
        entry = CacheEntry("", value, 0.0, 1e12) if value and self.rng.random() < 0.8 else None
        run.cache_answered(node, entry)
        self.engine.dispatch()
        self.after()

    def ended(self, run: RunCore) -> None:
        self.engine.remove(run)
        if run.volatile:
            self.volatile.append((run, ("closed",)))
        else:
            self.disks[run.number].closing = True

    def _closed(self, core: RunCore) -> None:
        script = self.scripts[core.number]
        script.status = core.status or "paused"
        script.reason = (core.stopping if core.timed_out else core.paused or core.stopping) or ""
        self.trace.append(("ended", script.run_id, script.status, script.reason))
        self.disks.pop(core.number, None)
        del self.cores[core.number]
        if not script.volatile:
            check_journal(script, core)
        if script.status != "paused" or not core.storage_error:
            note_end(script, core)

    # ------------------------------------------------------------------ EnginePorts

    def persist(self, run: RunCore, records: list[Record], *, sync: bool, token: Any) -> None:
        if run.volatile:
            if token is not None:
                self.volatile.append((run, token))
        else:
            disk = self.disks[run.number]
            ensure(not disk.closing, "G-12", f"{records} after the end of the run")
            disk.queue.append((list(records), sync, token))

    def emit(self, run: RunCore, event: Event) -> None:
        self.trace.append(("event", run.run_id, event.event, event.node, event.data))
        if event.event != "node_succeeded":
            return
        script = self.scripts[run.number]
        assert event.node is not None
        node = run.find(event.node)
        assert node is not None
        ensure(event.node not in script.emitted, "G-06", f"{event.node} succeeded twice")
        if not script.volatile:
            known = script.journal.safe if run.strict else script.journal.written
            ensure(node in known.succeeded, "G-12", f"{event.node} was acknowledged and is not on disk")
        packed = run.value(node)
        assert packed is not None
        script.emitted[event.node] = unpack(packed)
        if event.data.get("fallback") and run.operation(node).endpoint:
            script.fell_back.add(event.node)

    def timer(self, run: RunCore, at: float, token: tuple[str, int, int]) -> None:
        self.engine.set_timer(run, at, token)

    def request_permit(self, run: RunCore, node: int, endpoint: str) -> None:
        self.requests += 1
        self.asked[run.number, node] = self.requests
        self.breaker_in.append(("request", endpoint, (run.number, node, self.requests)))

    def report_permit(
        self, run: RunCore, node: int, endpoint: str, ok: bool | None, retry_after: Any
    ) -> None:
        token = (run.number, node, self.asked.pop((run.number, node), 0))
        if ok is None:
            self.breaker_in.append(("forget", token))
        else:
            self.breaker_in.append(("report", endpoint, token, ok, retry_after))

    def stored_value(self, run: RunCore, location: tuple[Any, int, int]) -> bytes:
        return self.scripts[run.number].journal.value(location)

    def secret(self, kind: str, name: str) -> str:
        raise UsageError("there are no secrets here")

    def random(self) -> float:
        value: float = self.rng.random()
        return value

    def operation_number(self, run: RunCore, operation: OperationSpec) -> int:
        return self.engine.operation_number(run, operation)

    def start_worker(self, kind: str) -> int:
        number: int = self.world.next_number()
        self.workers[number] = FakeWorker(number, kind in ("async", "mcp"), self)
        if kind == "own":
            self.unused.add(number)
        self.trace.append(("start worker", number, kind))
        return number

    def submit(self, worker: int, rows: Sequence[Any]) -> None:
        self.trace.append(("submit", worker, [(row[0], row[4], row[2]) for row in rows]))
        if any(
            self.operations[row[3]].lane == LANES.index("own") for row in rows if row[3] in self.operations
        ):
            ensure(worker in self.unused and len(rows) == 1, "G-17", f"worker {worker} is for one task only")
            self.unused.discard(worker)
        for row in rows:
            ensure(row[3] in self.operations, "G-13", f"operation {row[3]} of {row[4]} is not defined")
            core = self.cores[row[0]]
            ensure(core.storage_error is None, "G-12", f"{row[4]} was dispatched after a disk error")
        if self.workers[worker].lost:
            self._note_late(rows)
        self.workers[worker].tell("tasks", rows)

    def _note_late(self, rows: Sequence[Any]) -> None:
        """The worker died, and nobody knows yet: what it is given now cannot be told from what it executed."""
        for number, node, *_ in rows if len(rows) == 1 else ():
            script = self.scripts[number]
            script.died[node] = script.died.get(node, 0) + 1
            script.tainted = script.tainted or self.cores[number].operation(node).max_crashes < PATIENT

    def define(self, op: int, operation: OperationSpec) -> None:
        self.operations[op] = operation

    def forget(self, ops: Sequence[int]) -> None:
        for op in ops:
            del self.operations[op]

    def give_back(self, worker: int) -> None:
        self.workers[worker].tell("give_back")

    def cancel(self, worker: int, keys: Sequence[Any]) -> None:
        self.workers[worker].tell("cancel", list(keys))

    def kill(self, worker: int, reason: str) -> None:
        self.trace.append(("kill", worker, reason))
        self.workers[worker].ending = self.workers[worker].ending or reason

    def retire(self, worker: int) -> None:
        """It holds nothing any more, so that its end takes nothing along."""
        self.kill(worker, "stopped")

    def tick_at(self, when: float) -> None:
        heapq.heappush(self.ticks, when)

    def worker_lost(self, run: RunCore, evidence: Evidence, nodes: list[str]) -> None:
        self.trace.append(("lost", run.run_id, nodes, evidence.reason or evidence.exitcode))

    # ------------------------------------------------------------------ Judge

    def operation_of(self, number: int) -> OperationSpec:
        return self.operations[number]

    def begins(self, worker: FakeWorker, row: tuple[Any, ...]) -> Fate:
        """An operation starts to execute: everything that must hold by then."""
        number, node, attempt, op, node_id = row[:5]
        self.trace.append(("begin", number, node_id, attempt, worker.number))
        core, script = self.engine.runs.get(number), self.scripts[number]
        ensure(core is not None, "G-06", f"{node_id} begins for a run that has ended")
        assert core is not None
        ensure(op in self.operations, "G-13", f"operation {op} of {node_id} was forgotten")
        ensure(node_id not in script.emitted, "G-04", f"{node_id} had succeeded and runs again")
        self._check_durable(core, script, node)
        self._check_concurrency(core, worker)
        self._check_instances(core, node)
        operation = core.operation(node)
        if operation.endpoint is not None:
            token = (number, node, self.asked.get((number, node)))
            held = self.breaker._owners.get(token)
            ensure(held and token in held.held, "G-16", f"{node_id} executes without a permit")
        if operation.effect == "once":
            ensure(node_id not in script.executing_once, "G-07", f"{node_id} is executed again, unresolved")
            script.executing_once[node_id] = "begun"
            script.values.pop(node_id, None)
        fate = fate_of(script.seed, node_id, operation)
        struck = script.struck.get(node_id, 0)
        if fate.kind == "ok" or struck >= fate.times:
            return Fate("ok")
        script.struck[node_id] = struck + 1
        return fate

    def _check_durable(self, core: RunCore, script: Script, node: int) -> None:
        if script.volatile:
            return
        safe, node_id = script.journal.safe, core.id_of(node)
        ensure(script.journal.durable > 0, "G-01", f"{node_id} starts before its run is on disk")
        crashes = core.crashes.get(node, 0)
        ensure(safe.charged.get(node, 0) == crashes, "G-09", f"{node_id}: {crashes} crashes are not on disk")
        if not core.strict:
            return
        scope, local = core.where(node)
        if scope.owner >= 0:
            ensure(scope.owner in safe.expanded, "G-03", f"{node_id} starts, its expansion is not on disk")
        if scope.only < 0:
            for each in scope.plan.parents_of(local):
                parent = scope.base + each
                if not core.is_gate(parent) and core.state[parent] == st.SUCCEEDED:
                    ensure(
                        parent in safe.succeeded,
                        "G-03",
                        f"{node_id} starts, {core.id_of(parent)} is not on disk",
                    )

    def _check_concurrency(self, core: RunCore, worker: FakeWorker) -> None:
        limit = core.options.concurrency
        if limit is not None:
            now = sum(key[0] == core.number for each in self.workers.values() for key in each.executing)
            ensure(now < limit, "G-11", f"{now + 1} nodes of {core.run_id} execute, at most {limit}")

    def _check_instances(self, core: RunCore, node: int) -> None:
        executing = [
            key[1] for each in self.workers.values() for key in each.executing if key[0] == core.number
        ]
        for owner in core.owners_of(node):
            limit = core.inner[owner].plan.spec.concurrency if owner in core.inner else None
            if limit is not None:
                now = sum(owner in core.owners_of(each) for each in executing)
                ensure(
                    now < limit, "G-11", f"{now + 1} nodes in {core.id_of(owner)} execute, at most {limit}"
                )

    def finished(self, row: tuple[Any, ...], *, well: bool, value: Any = None) -> None:
        script, node_id = self.scripts[row[0]], row[4]
        if well:
            script.values[node_id] = value
        elif row[3] in self.operations and self.operations[row[3]].effect == "once":
            script.executing_once[node_id] = "failed"

    # ------------------------------------------------------------------ the breaker

    def breaker_reads(self) -> None:
        what, *rest = self.breaker_in.popleft()
        call: Callable[..., list[Any]] = getattr(self.breaker, what)
        now = self.clock.now()
        if what == "report":
            self.breaker_out.extend(call(rest[0], rest[1], rest[2], now, rest[3]))
        else:
            self.breaker_out.extend(call(*rest, now))

    def breaker_speaks(self) -> None:
        event = self.breaker_out.popleft()
        said = getattr(event, "token", None), getattr(event, "new", "")
        self.trace.append(("breaker", type(event).__name__, *said))
        if isinstance(event, Transition):
            self._breaker_changed(event)
        elif isinstance(event, Granted):
            self._granted(event)
        elif isinstance(event, Waiting):
            self._waits(event)
        else:
            raise Violation("G-13", f"refused: {event}")
        self.engine.dispatch()
        self.after()

    def _breaker_changed(self, event: Transition) -> None:
        now = self.clock.now()
        for run in list(self.engine.runs.values()):
            if run.uses_endpoint(event.endpoint):
                run.persist_records([BreakerChanged(now, event.endpoint, str(event.new), event.open_until)])

    def _granted(self, event: Granted) -> None:
        token: Any = event.token
        number, node, request = token
        before, run = self.waited.pop(event.token, None), self.engine.runs.get(number)
        if run is None or self.asked.get((number, node)) != request:  # it was taken back meanwhile
            self.breaker_in.append(("forget", event.token))
            return
        ensure(before in (None, run.attempts[node]), "G-16", f"{run.id_of(node)}: waiting burnt attempts")
        run.permit_granted(node, event.endpoint)

    def _waits(self, event: Waiting) -> None:
        token: Any = event.token
        number, node, request = token
        run = self.engine.runs.get(number)
        if self.asked.get((number, node)) != request:
            return
        if run is None or not run.permit_waits(node, event.endpoint, event.reason, event.until):
            self.asked.pop((number, node), None)
            self.breaker_in.append(("withdraw", event.token))
        else:
            self.waited[event.token] = run.attempts[node]

    # ------------------------------------------------------------------ workers

    def take_from_worker(self, worker: FakeWorker) -> None:
        what, *rest = worker.out.popleft()
        if what == "results":
            self.trace.append(("results", worker.number, [row[:4] for row in rest[0]]))
            for row in rest[0]:
                self.answered.append((worker.number, row))
                script = self.scripts[row[0]]
                node_id = self.cores[row[0]].id_of(row[1]) if row[0] in self.cores else ""
                if script.executing_once.get(node_id) == "failed":
                    self._once_failed(script, node_id, row)
            self.engine.results(worker.number, rest[0])
        elif what == "given_back":
            self.trace.append(("given back", worker.number, rest[0]))
            self.engine.given_back(worker.number, rest[0])
        elif what == "ready":
            self.engine.ready(worker.number)
        elif what == "begun":
            self.engine.begun(worker.number, rest[0])
        else:
            del self.workers[worker.number]
            self.engine.lost(worker.number, *rest)
        self.after()

    def _once_failed(self, script: Script, node_id: str, row: list[Any]) -> None:
        """An exception arrived: that is an answer, so it may be tried again."""
        if row[5]["type"] == "SimError":
            del script.executing_once[node_id]

    def dies(self, worker: FakeWorker, evidence: Evidence, culprits: tuple[Any, ...] = ()) -> None:
        self.trace.append(
            ("dies", worker.number, evidence.reason or evidence.exitcode, list(worker.executing))
        )
        if evidence.reason in ("", "heartbeat"):
            for number, node, _ in worker.in_hand():
                died = self.scripts[number].died
                died[node] = died.get(node, 0) + 1
        worker.die(evidence, culprits)


def _in_all_lanes(plan: Plan) -> Plan:
    """Some async operations go to the one worker that MCP sessions live in, some others to workers of one task;
    some ask the cache."""
    for at, operation in enumerate(plan.ops):
        if operation.is_async and at % 3 == 0:
            plan.ops[at] = operation = replace(operation, lane=LANES.index("mcp"))
        elif operation.type == "python" and not operation.is_async and at % 3 == 2:
            plan.ops[at] = operation = replace(operation, lane=LANES.index("own"))
        if at % 4 == 1:
            plan.ops[at] = replace(operation, cache={"enabled": True})
    for node, op in enumerate(plan.op_of):
        if plan.simple[node]:
            plan.simple[node] = 0 if plan.ops[op].cache else plan.ops[op].lane + 1
    return plan

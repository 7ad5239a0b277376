"""The engine's dealings with workers, event by event, without any."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import pytest

from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.messages.wire import OK
from sage_actors.supervisor.engine import Engine
from sage_actors.supervisor.plan import compile_plan
from sage_actors.supervisor.run_core import RunCore, RunOptions
from sage_actors.testing import FakeClock

pytestmark = pytest.mark.requirement("ORCH-011")

NIL = b"\xc0"


class Ports:
    """Remembers what the engine asks of workers; records are durable at once."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.submitted: list[tuple[int, tuple[Any, ...]]] = []
        self.asked_back: list[int] = []
        self.ended_runs: list[str | None] = []
        self.acknowledgements: deque[tuple[RunCore, Any]] = deque()
        self.engine: Engine | None = None

    def start_worker(self, kind: str) -> int:
        return 1

    def submit(self, worker: int, rows: Sequence[Any]) -> None:
        self.submitted += [(worker, row) for row in rows]

    def give_back(self, worker: int) -> None:
        self.asked_back.append(worker)

    def persist(self, run: RunCore, records: Any, *, sync: bool, token: Any) -> None:
        if token is not None:
            self.acknowledgements.append((run, token))

    def operation_number(self, run: RunCore, operation: OperationSpec) -> int:
        assert self.engine is not None
        return self.engine.operation_number(run, operation)

    def tick_at(self, when: float) -> None:
        assert self.engine is not None
        self.clock.call_at(when, self.engine.tick)

    def ended(self, run: RunCore) -> None:
        self.ended_runs.append(run.status)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **options: None


def start(nodes: int) -> tuple[Engine, Ports, FakeClock]:
    """One run of independent nodes, and one worker."""
    clock = FakeClock()
    ports = Ports(clock)
    engine = ports.engine = Engine(cast("Any", ports), clock, workers=1)
    operation = OperationSpec(type="python", config={"call": "module:function"})
    spec = WorkflowSpec(name="flow", nodes=[NodeSpec(f"n{i}", operation) for i in range(nodes)])
    run = RunCore(
        number=1,
        run_id="r",
        run_key="r:0",
        plan=compile_plan(spec),
        inputs={},
        ports=cast("Any", ports),
        clock=clock,
        options=RunOptions(durability="none"),
    )
    engine.add(run, resumed=False)
    return engine, ports, clock


def answer(engine: Engine, ports: Ports, worker: int, row: tuple[Any, ...]) -> None:
    """The worker did it in 10 microseconds."""
    engine.results(worker, [[row[0], row[1], row[2], OK, 10, NIL, None]])
    while ports.acknowledgements:
        run, token = ports.acknowledgements.popleft()
        engine.acknowledged(run, [(token, None, 0)])


def test_a_worker_that_gave_everything_back_gets_work_again() -> None:
    """It was not scheduled while its queue seemed to overrun: it had begun nothing, not even the head."""
    engine, ports, clock = start(10)
    answer(engine, ports, *ports.submitted.pop(0))  # now the operation is known to be short
    held = list(ports.submitted)
    assert len(held) == 9
    clock.advance(0.05)
    assert ports.asked_back == [1]
    ports.submitted.clear()
    engine.given_back(1, [(row[0], row[1], row[2]) for _, row in held])
    while ports.submitted:
        answer(engine, ports, *ports.submitted.pop(0))
    assert ports.ended_runs == ["succeeded"]

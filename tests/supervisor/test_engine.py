"""The engine's dealings with workers, event by event, without any."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest
from core_harness import Core, flow, node

from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.messages.wire import OK, Evidence
from sage_actors.supervisor.core.engine import Engine
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions
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


# What simulation found, event by event: see tests/core_harness.py


@pytest.mark.requirement("G-06")
def test_a_refused_answer_does_not_make_a_waiting_start_look_begun() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once")]})
    (worker,) = core.engine.workers.values()
    core.engine.results(worker.number, [[1, 0, 99, OK, 1, NIL, None]])
    core.lose(worker.number)
    assert core.engine.refused == 1
    assert not run.doubts  # it was never handed over
    assert core.carry_out() == ["a"]


@pytest.mark.requirement("G-13")
def test_a_run_that_stops_ends_though_the_worker_of_its_lone_node_is_gone() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once")]})
    core.lose(1)
    run.stop("interrupted")
    core.ack()
    assert run.status == "paused"


@pytest.mark.requirement("G-07")
def test_what_was_never_handed_over_is_not_in_doubt_after_a_resume() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once")]})
    run.stop("interrupted")
    core.ack()
    assert core.submitted == []
    again = core.resume(run)
    assert not again.doubts
    assert core.carry_out() == ["a"]
    assert again.status == "succeeded"


def test_a_near_timeout_is_seen_behind_a_check_for_a_far_one() -> None:
    core = Core()
    core.run({"nodes": [node("long", timeout=60, priority=1), node("short", timeout=1)]})
    ((worker, first),) = core.take()
    core.answer(worker, first, micros=1_000_000)
    ((_, second),) = core.take()
    assert second[4] == "short"
    core.begin(worker, second)
    core.clock.advance(1.5)
    assert core.killed == [(worker, "timeout")]


def test_a_worker_whose_head_overruns_gets_nothing_behind_it() -> None:
    core = Core()
    core.run({"nodes": [node(f"n{i}") for i in range(9)]})
    ((worker, first),) = core.take()
    core.answer(worker, first)
    rows = [row for _, row in core.take()]
    core.clock.advance(0.05)
    core.engine.given_back(worker, [row[:3] for row in rows[1:]])
    assert core.submitted == []
    core.clock.advance(10)
    assert core.asked_back == [worker]
    core.answer(worker, rows[0])
    assert core.submitted


def test_a_timeout_is_watched_when_its_node_began_before_it_could_be_given_back() -> None:
    core = Core()
    timed = {"timeout": 1, "priority": -1}
    nodes = [node("p"), node("q", **timed), node("r", "p", "q"), node("s", "p", "q", **timed)]
    core.run({"nodes": nodes})
    for _ in range(2):  # what both operations cost is known then
        core.answer(*core.take()[0])
    core.ack()
    (worker, head), (_, behind) = core.take()
    assert (head[4], behind[4]) == ("r", "s")
    core.clock.advance(0.05)
    assert core.asked_back == [worker]
    core.answer(worker, head)
    core.engine.given_back(worker, [])
    core.clock.advance(1.5)
    assert core.killed == [(worker, "timeout")]


@pytest.mark.requirement("G-08")
def test_who_comes_after_an_answer_at_the_last_moment_is_not_blamed_for_the_timeout() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", timeout=1, retry=1), node("b", timeout=1, retry=1)]})
    ((worker, first),) = core.take()
    core.engine.ready(worker)
    core.answer(worker, first)
    ((_, second),) = core.take()
    core.run({"nodes": [node("c", timeout=1), node("d", timeout=1)]})
    queued = core.take()
    core.clock.advance(1.5)
    assert core.killed == [(worker, "timeout")]
    core.answer(worker, second)
    core.lose(worker, reason="timeout")
    assert not core.told("node_failed")
    assert len(queued) == 1
    core.carry_out()
    assert run.status == "succeeded"
    assert {each.status for each in core.ended_runs} == {"succeeded"}


@pytest.mark.requirement("G-08")
def test_nobody_is_blamed_for_workers_that_do_not_start_and_the_run_stops() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", max_crashes=2)]})
    for worker in range(1, 7):
        core.ack()
        assert core.take()
        core.lose(worker)
    core.ack()
    assert run.crashes == {}
    assert run.status == "paused"
    assert "restart intensity" in str(run.paused)


@pytest.mark.requirement("G-08")
def test_keepers_that_never_get_as_far_as_a_worker_stop_the_run() -> None:
    core = Core()
    run = core.run({"nodes": [node("a"), node("b", type="wait", seconds=1)]})
    for worker in range(1, 7):
        assert run.status is None
        core.ack()
        core.take()
        core.lose(worker, reason="keeper")
    core.ack()
    assert run.status == "paused"
    assert "restart intensity" in str(run.paused)


@pytest.mark.requirement("G-08")
def test_a_keeper_that_dies_counts_once_and_not_at_all_where_a_worker_was_ready() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [node(f"n{number}") for number in range(8)], "concurrency": 8})
    core.ack()
    core.take()
    first = list(core.engine.workers)
    assert len(first) == 8
    for worker in first:
        core.lose(worker, reason="keeper")
    for _ in range(10):
        core.ack()
        core.take()
        ready = next(iter(core.engine.workers))
        core.engine.ready(ready)
        core.lose(ready, reason="keeper")
    assert run.status is None


@pytest.mark.requirement("G-08")
def test_a_worker_that_had_started_takes_its_blame_along() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", max_crashes=2)]})
    for worker in (1, 2):
        core.ack()
        assert core.take()
        core.engine.ready(worker)
        core.lose(worker)
    core.ack()
    assert run.crashes == {0: 2}
    assert run.errors[0]["type"] == "PoisonedError"
    assert run.status == "failed"


def test_two_runs_of_one_flow_do_not_share_operation_numbers() -> None:
    core = Core(workers=2)
    spec = flow({"nodes": [node("a")]})
    core.run(spec)
    core.run(spec)
    (one, first), (other, second) = core.take()
    assert first[3] != second[3]
    core.answer(one, first)
    core.ack()
    assert core.forgotten == [first[3]]
    core.answer(other, second)
    core.ack()
    assert [run.status for run in core.ended_runs] == ["succeeded"] * 2


def two_runs_in_one_worker() -> tuple[Core, RunCore, RunCore, int, list[tuple[Any, ...]]]:
    """The worker holds a node of the first run, and behind it one of the second."""
    core = Core()
    first = core.run({"nodes": [node("a"), node("b", "a")]})
    second = core.run({"nodes": [node("c"), node("d", "c")]})
    for _ in range(2):
        core.answer(*core.take()[0])
    core.ack()
    (worker, head), (_, behind) = core.take()
    assert (head[0], behind[0]) == (first.number, second.number)
    return core, first, second, worker, [head, behind]


def test_who_was_not_asked_gives_nothing_back() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", timeout=1)]})
    ((worker, row),) = core.take()
    core.begin(worker, row)
    core.engine.given_back(worker, [row[:3]])
    assert core.take() == []
    core.answer(worker, row)
    core.ack()
    assert run.status == "succeeded"


def test_who_says_again_that_it_begins_has_no_more_time() -> None:
    core = Core()
    core.run({"nodes": [node("a", timeout=1)]})
    ((worker, row),) = core.take()
    core.begin(worker, row)
    for _ in range(5):
        core.clock.advance(0.4)
        core.engine.begun(worker, row[:3])
    assert core.killed == [(worker, "timeout")]


@pytest.mark.requirement("G-06")
def test_a_cancelled_run_waits_until_its_queue_is_back() -> None:
    core, first, second, worker, (_, behind) = two_runs_in_one_worker()
    core.engine.cancel(second)
    core.ack()
    assert second.status is None
    assert core.asked_back == [worker]
    core.engine.given_back(worker, [behind[:3]])
    core.ack()
    assert second.status == "cancelled"
    assert core.killed == []
    assert first.status is None


@pytest.mark.requirement("G-06")
def test_a_task_of_a_cancelled_run_that_began_meanwhile_is_killed() -> None:
    core, first, second, worker, (head, _) = two_runs_in_one_worker()
    core.engine.ready(worker)
    core.engine.cancel(second)
    core.answer(worker, head)
    core.engine.given_back(worker, [])
    assert core.killed == [(worker, "cancelled")]
    core.lose(worker, reason="cancelled")
    core.ack()
    assert (first.status, second.status) == ("succeeded", "cancelled")
    assert second.crashes == {}


@pytest.mark.requirement("G-06")
def test_the_queue_of_a_killed_worker_counts_as_running_until_it_is_gone() -> None:
    core = Core()
    run = core.run({"nodes": [node("x"), node("y"), node("z")]})
    core.answer(*core.take()[0])
    (worker, _), _ = core.take()
    core.engine.ready(worker)
    core.engine.cancel(run)
    core.ack()
    assert core.killed == [(worker, "cancelled")]
    assert run.status is None
    core.lose(worker, reason="cancelled")
    core.ack()
    assert run.status == "cancelled"
    again = core.resume(run)
    assert sorted(core.carry_out()) == ["y", "z"]
    assert again.status == "succeeded"


def test_a_check_at_its_very_moment_ends() -> None:
    """head_since + timeout and now - head_since may round differently: then the check came due for ever."""
    core = Core()
    core.clock.advance(0.1 + 0.7 / 3)
    core.run({"nodes": [node("a", timeout=0.3)]})
    ((worker, row),) = core.take()
    core.begin(worker, row)
    held = core.engine.workers[worker]
    for ulps in range(64):
        held.head_since = 1_000.1 + ulps * 1.1e-13
        moment = held.head_since + 0.3
        core.clock.advance(max(0.0, moment - core.clock.monotonic()))
        core.engine._watch.check(held, moment)
        assert held.dying == "timeout"
        held.dying = ""


@pytest.mark.requirement("G-15")
def test_nodes_that_run_alone_and_others_take_turns() -> None:
    core = Core()
    core.run({"nodes": [node(f"n{i}") for i in range(3_000)]}, durability="none")
    core.answer(*core.take()[0])  # from here on the worker always has a queue
    alone = core.run({"nodes": [node(f"o{i}", effect="once") for i in range(12)]}, durability="none")
    order: list[int] = []
    while core.submitted or core.pending:
        core.ack()
        for worker, row in core.take():
            order.append(row[0])
            core.answer(worker, row)
    places = [place for place, number in enumerate(order) if number == alone.number]
    assert len(places) == 12
    assert places[-1] < len(order) - 500  # the short ones did not keep them waiting to the end,
    assert all(after - before > 1 for before, after in pairwise(places))  # nor they the short ones


@pytest.mark.requirement("G-15")
def test_two_runs_with_ready_nodes_share_a_worker() -> None:
    core = Core()
    core.run({"nodes": [node(f"n{i}") for i in range(2_000)]}, durability="none")
    core.run({"nodes": [node(f"m{i}") for i in range(2_000)]}, durability="none")
    first: dict[int, int] = {}
    for place in range(1_000):
        core.ack()
        if not core.submitted:
            break
        for worker, row in core.take():
            first.setdefault(row[0], place)
            core.answer(worker, row)
    assert len(first) == 2
    assert max(first.values()) < 10


@pytest.mark.requirement("G-12")
def test_a_lone_start_that_could_not_be_written_never_happens() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once"), node("b", "a")]})
    core.disk_fails(run)
    assert core.submitted == []
    assert run.status == "paused"
    assert not core.engine.workers[1].tasks


def test_an_async_task_that_swallows_its_cancellation_is_killed_after_a_grace() -> None:
    core = Core()
    spec = flow({"nodes": [node("a"), node("b")]})
    for each in spec.nodes:
        each.operation = replace(each.operation, is_async=True)
    run = core.run(spec)
    (worker, one), (_, other) = core.take()
    core.engine.ready(worker)
    core.engine.cancel(run)
    assert core.cancelled == [(worker, [one[:3], other[:3]])]
    core.fail(worker, one, "OperationCancelled")
    core.clock.advance(6)
    assert core.killed == [(worker, "cancelled")]
    core.lose(worker, reason="cancelled")
    core.ack()
    assert run.status == "cancelled"


def test_the_run_s_timeout_stops_what_executes() -> None:
    core = Core()
    run = core.run({"nodes": [node("a")]}, timeout=5)
    ((worker, _),) = core.take()
    core.engine.ready(worker)
    core.clock.advance(6)
    assert core.killed == [(worker, "cancelled")]
    core.lose(worker, reason="cancelled")
    core.ack()
    assert run.status == "failed"
    assert "timeout of 5 s" in str(run.stopping)


def test_a_run_that_is_cancelled_while_its_timeout_ends_it_is_cancelled() -> None:
    core = Core()
    run = core.run({"nodes": [node("a")]}, timeout=5)
    ((worker, row),) = core.take()
    core.begin(worker, row)
    core.clock.advance(6)
    core.engine.cancel(run)
    core.lose(worker, reason="cancelled")
    core.ack()
    assert (run.status, run.stopping) == ("cancelled", "cancelled")


def test_a_stop_gives_running_nodes_a_grace_then_ends_them() -> None:
    core = Core()
    run = core.run({"nodes": [node("a"), node("b")]})
    ((worker, _),) = core.take()
    core.engine.ready(worker)
    core.engine.stop(2.0)
    core.ack()
    assert run.status is None
    core.clock.advance(3)
    assert core.killed == [(worker, "cancelled")]
    core.lose(worker, reason="cancelled")
    core.ack()
    assert run.status == "paused"
    assert core.submitted == []


def test_events_about_workers_that_are_gone_do_nothing() -> None:
    core = Core()
    core.run({"nodes": [node("a")]})
    core.engine.given_back(99, [])
    core.engine.lost(99, Evidence(exitcode=1))
    core.engine.ready(99)
    core.engine.results(99, [[1, 0, 1, OK, 1, NIL, None]])
    assert core.engine.refused == 1
    assert core.carry_out() == ["a"]


def test_a_limit_is_the_failure_of_the_node_that_exceeded_it() -> None:
    core = Core()
    run = core.run({"nodes": [node("a")]})
    ((worker, row),) = core.take()
    core.engine.ready(worker)
    core.lose(worker, reason="limit", culprits=[row[:3]])
    core.ack()
    assert run.errors[0]["type"] == "LimitExceeded"
    assert run.crashes == {}

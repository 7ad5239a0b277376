"""Permits of a run: few ahead of need, in order, and taken back when a call fails."""

from __future__ import annotations

from pathlib import Path

import operations_engine as ops
import pytest

from sage_actors import Supervisor, Workflow
from sage_actors.supervisor.core.permits import AHEAD, PermitLine
from sage_actors.supervisor.core.ready_queue import ReadyQueue


def test_only_so_many_ask_and_the_others_follow_in_order() -> None:
    asked: list[int] = []
    line = PermitLine(lambda node, endpoint: asked.append(node))
    for node in range(AHEAD + 10):
        line.want(node, "api")
    assert asked == list(range(AHEAD))
    line.left(3, "api")
    line.left(3, "api")  # told twice: nobody jumps the line for it
    line.left(7, "elsewhere")
    assert asked == list(range(AHEAD + 1))
    assert line.asked("api") == [each for each in range(AHEAD + 1) if each != 3]


def test_endpoints_do_not_wait_for_one_another() -> None:
    asked: list[tuple[int, str]] = []
    line = PermitLine(lambda node, endpoint: asked.append((node, endpoint)))
    for node in range(AHEAD + 1):
        line.want(node, "slow")
    line.want(1000, "fast")
    assert asked[-1] == (1000, "fast")


def test_what_is_discarded_is_not_taken() -> None:
    queue = ReadyQueue()
    queue.extend([5, 1, 4])
    assert queue.take(1) == [1]
    queue.push(2)
    queue.discard({4, 99})
    assert (queue.take(9), len(queue)) == ([2, 5], 0)


def test_a_large_queue_gives_the_most_urgent_first() -> None:
    queue = ReadyQueue()
    queue.extend(range(20_000, 0, -1))
    assert queue.take(3) == [1, 2, 3]
    queue.push(0)
    assert queue.take(2) == [0, 4]
    rest = queue.take(100_000)
    assert rest == sorted(rest)
    assert len(rest) == 20_000 - 4


@pytest.mark.requirement("ORCH-005")
def test_one_operation_cannot_close_to_others_what_they_name(tmp_path: Path) -> None:
    """It did, by saying of any endpoint that it failed."""
    flow = Workflow("blame", concurrency=1)
    blamed = flow.add(ops.blame, endpoint_name="api", times=20)
    flow.add(ops.echo, id="named", value=1, endpoint="api", after=[blamed], timeout=20)
    again = flow.add(ops.blame, id="host", endpoint_name="api.example.com:443", times=20)
    flow.add(ops.blame, id="own", endpoint_name="only-in-code", times=20, after=[again])
    with Supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="blame", timeout=60)
    assert outcome.results == {"named": 1, "own": 5}
    assert (outcome["blame"], outcome["host"]) == (20, 20)


@pytest.mark.requirement("ORCH-005")
def test_each_attempt_that_says_so_counts_once(tmp_path: Path) -> None:
    flow = Workflow("blame", concurrency=1)
    flow.add(ops.blame, id="blame", foreach=list(range(7)), endpoint_name="api", times=20)
    flow.add(ops.echo, id="named", value=1, endpoint="api", after=["blame"], fallback="open")
    with Supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="blame", timeout=60)
    assert outcome["blame"] == [20, 20, 20, 20, 1, 0, 0]
    assert outcome["named"] == "open"


@pytest.mark.requirement("ORCH-005")
@pytest.mark.requirement("G-16")
def test_no_call_is_made_after_the_breaker_opened(tmp_path: Path) -> None:
    """Fifty nodes are ready at once; the endpoint fails. The five that open it are the last that execute."""
    log = tmp_path / "calls"
    flow = Workflow("gate", concurrency=1)
    flow.add(
        ops.note_and_fail,
        id="call",
        foreach=list(range(50)),
        endpoint="api",
        fallback=None,
        log=str(log),
        i="${item}",
    )
    with Supervisor(tmp_path, workers=4) as supervisor:
        outcome = supervisor.run(flow, run_id="gate", timeout=60)
    assert outcome.status == "succeeded"
    assert log.read_text().count("\n") == 5

"""An instance of a sub-workflow keeps to its own concurrency and timeout, whatever the run's are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from core_harness import Core, node
from engine_harness import history, lines, make_supervisor, states

from sage_actors.messages.records import NodeFailed, NodeSkipped
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.definitions.workflow import Workflow

pytestmark = pytest.mark.requirement("ORCH-011")


def sub(name: str, *nodes: dict[str, Any], needs: tuple[str, ...] = (), **said: Any) -> dict[str, Any]:
    """A node that is a workflow; `said`: its definition's concurrency and timeout, and the node's own fields."""
    limits = {"concurrency": said.pop("concurrency", None), "timeout": said.pop("timeout", None)}
    definition = {"name": name, "nodes": list(nodes), **limits}
    return node(name, *needs, type="workflow", definition=definition, **said)


def five() -> list[dict[str, Any]]:
    return [node(f"n{i}") for i in range(5)]


def most_at_once(core: Core) -> tuple[int, list[str]]:
    """Answer one node after another until nothing moves: the most that were with workers, and the ids of all."""
    held: list[Any] = []
    most = 0
    done: list[str] = []
    while True:
        core.ack()
        held += core.take()
        most = max(most, len(held))
        if not held:
            return most, done
        worker, row = held.pop(0)
        core.engine.ready(worker)
        done.append(row[4])
        core.answer(worker, row)


# ---------------------------------------------------------------------- concurrency


def test_no_more_nodes_of_an_instance_execute_than_its_definition_says() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [sub("sub", *five(), concurrency=2)]})
    assert most_at_once(core) == (2, [f"sub/n{i}" for i in range(5)])
    assert run.status == "succeeded"


def test_each_instance_has_places_of_its_own() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [sub("sub", *five(), concurrency=1, foreach=[1, 2, 3])]})
    assert most_at_once(core)[0] == 3
    assert run.status == "succeeded"


def test_nodes_of_an_inner_instance_count_for_the_outer_one() -> None:
    core = Core(workers=8)
    inner = sub("inner", *five(), concurrency=4)
    run = core.run(
        {"nodes": [sub("outer", inner, node("beside"), node("each", foreach=[1, 2]), concurrency=2)]}
    )
    most, done = most_at_once(core)
    assert (most, len(done)) == (2, 8)
    assert run.status == "succeeded"


def test_a_node_that_waits_for_a_retry_leaves_its_place_to_another() -> None:
    core = Core(workers=8)
    retry = {"max_attempts": 2, "backoff": 60.0, "jitter": 0.0}
    core.run({"nodes": [sub("sub", node("a", retry=retry), node("b"), concurrency=1)]})
    core.ack()
    [(worker, row)] = core.take()
    core.fail(worker, row)
    assert [row[4] for _, row in core.take()] == ["sub/b"]


def test_a_lost_worker_frees_the_place_of_what_it_executed() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [sub("sub", *five(), concurrency=1)]})
    core.ack()
    [(worker, row)] = core.take()
    core.begin(worker, row)
    core.lose(worker)
    assert len(most_at_once(core)[1]) == 5
    assert run.status == "succeeded"


@pytest.mark.requirement("ORCH-010")
def test_the_limit_of_an_instance_holds_after_a_resume() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [sub("sub", *five(), concurrency=2)]})
    core.ack()
    worker, row = core.take()[0]
    core.answer(worker, row)
    core.ack()
    again = core.resume(run)
    assert most_at_once(core)[0] == 2
    assert again.status == "succeeded"


# ---------------------------------------------------------------------- timeout


def overdue(core: Core, *nodes: dict[str, Any], **said: Any) -> tuple[RunCore, list[tuple[int, Any]]]:
    """A run whose sub-workflow `sub` has been at it for its 10 s; what was with workers then."""
    run = core.run({"nodes": [sub("sub", *nodes, timeout=10, **said), node("after", "sub"), node("beside")]})
    core.ack()
    held = core.take()
    for worker, row in held:
        core.begin(worker, row)
    core.clock.advance(10.0)
    return run, held


def end_what_was_killed(core: Core, held: Sequence[tuple[int, Any]] = ()) -> None:
    """The workers that the engine ends are gone; what else was `held` answers, and the run goes on to its end."""
    killed = [worker for worker, _ in core.killed]
    for worker, reason in core.killed:
        core.lose(worker, reason=reason)
    core.killed.clear()
    for worker, row in held:
        if worker not in killed:
            core.answer(worker, row)
    core.carry_out()


def test_a_sub_workflow_is_cut_off_at_its_timeout() -> None:
    core = Core(workers=8)
    run, held = overdue(core, node("slow"), node("next", "slow"), sub("deep", node("one"), needs=("slow",)))
    [slow] = [worker for worker, row in held if row[4] == "sub/slow"]
    assert core.killed == [(slow, "cancelled")], "what executes inside is ended, and nothing else"
    end_what_was_killed(core, held)
    assert run.status == "failed"
    [failure] = core.records(run, NodeFailed)
    assert (failure.error["type"], failure.node) == ("TimeoutExceeded", run.find("sub"))
    assert failure.error["message"] == "sub took longer than its timeout of 10 s; 0 of its 3 nodes were done"
    cut = [f"sub/{each}" for each in ("slow", "next", "deep")]
    assert {core.state(run, each) for each in (*cut, "after")} == {"skipped"}
    assert core.state(run, "beside") == "succeeded"
    reasons = {record.reason for record in core.records(run, NodeSkipped)}
    assert reasons == {"the timeout of sub was over", "sub failed"}


def test_nested_instances_and_the_children_of_a_foreach_are_cut_off_as_well() -> None:
    core = Core(workers=8)
    deep = sub("deep", node("one"), node("each", foreach=[1, 2]))
    run, held = overdue(core, deep, node("gone", "deep"))
    end_what_was_killed(core, held)
    assert run.status == "failed"
    assert {core.state(run, f"sub/deep{each}") for each in ("", "/one", "/each", "/each[1]")} == {"skipped"}


def test_a_sub_workflow_that_is_done_in_time_is_left_alone() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [sub("sub", *five(), timeout=10), node("long", "sub")]})
    core.ack()
    for worker, row in core.take():
        core.answer(worker, row)
    core.ack()
    core.clock.advance(60.0)
    assert core.carry_out() == ["long"]
    assert run.status == "succeeded"


def test_the_timeout_of_the_node_counts_as_its_workflows_own() -> None:
    core = Core(workers=8)
    definition = {"name": "sub", "concurrency": None, "timeout": 60, "nodes": five()}
    run = core.run({"nodes": [node("sub", type="workflow", definition=definition, timeout=2)]})
    core.ack()
    for worker, row in core.take():
        core.begin(worker, row)
    core.clock.advance(2.0)
    end_what_was_killed(core)
    assert "timeout of 2 s" in run.errors[0]["message"]


def test_a_sub_workflow_that_took_too_long_takes_its_fallback() -> None:
    core = Core(workers=8)
    run, held = overdue(core, node("slow"), fallback={"slow": "instead"})
    end_what_was_killed(core, held)
    assert run.status == "succeeded"
    assert core.state(run, "sub") == core.state(run, "after") == "succeeded"


def test_what_still_answers_after_the_cut_keeps_its_result_and_starts_nothing() -> None:
    core = Core(workers=8)
    run, held = overdue(core, node("slow"), node("next", "slow"))
    for worker, row in held:
        core.answer(worker, row)
    core.ack()
    assert core.take() == []
    assert (core.state(run, "sub/slow"), core.state(run, "sub/next")) == ("succeeded", "skipped")
    assert run.errors[0]["type"] == "TimeoutExceeded"


def test_a_once_node_that_is_cut_off_is_in_doubt_and_nothing_is_decided() -> None:
    core = Core(workers=8)
    run, held = overdue(core, node("pay", effect="once"), node("next", "pay"))
    end_what_was_killed(core, held)
    assert core.state(run, "sub/pay") == "in_doubt"
    assert (run.status, core.state(run, "sub")) == ("paused", "running")


def test_nodes_that_wait_for_their_place_are_cut_off_too() -> None:
    core = Core(workers=8)
    run, held = overdue(core, *five(), concurrency=2)
    end_what_was_killed(core, held)
    assert [core.state(run, f"sub/n{i}") for i in range(5)] == ["skipped"] * 5


# ---------------------------------------------------------------------- over a resume


@pytest.mark.requirement("ORCH-010")
def test_a_timeout_counts_what_earlier_processes_spent_and_not_the_time_between_them() -> None:
    core = Core(workers=8)
    run = core.run({"nodes": [sub("sub", node("a"), node("b"), node("c", "a"), timeout=10)]})
    core.ack()
    held = core.take()
    core.clock.advance(6.0)
    core.answer(*held[0])  # the last that this process wrote down
    core.ack()
    core.clock.advance(3600.0 - 6.0)
    core.killed.clear()
    again = core.resume(run)
    core.ack()
    for worker, row in core.take():
        core.begin(worker, row)
    core.clock.advance(3.9)
    assert core.killed == [], "4 s of its 10 are left"
    core.clock.advance(0.2)
    end_what_was_killed(core)
    assert again.status == "failed"
    assert "1 of its 3 nodes were done" in again.errors[0]["message"]


@pytest.mark.requirement("ORCH-010")
def test_a_sub_workflow_that_took_too_long_has_all_of_its_time_again_in_a_resume() -> None:
    core = Core(workers=8)
    run, held = overdue(core, node("slow"), node("next", "slow"))
    end_what_was_killed(core, held)
    again = core.resume(run)
    core.ack()
    for worker, row in core.take():
        core.begin(worker, row)
    core.clock.advance(9.9)
    assert core.killed == []
    core.clock.advance(0.2)
    assert [reason for _, reason in core.killed] == ["cancelled"]
    end_what_was_killed(core)
    assert again.errors[0]["type"] == "TimeoutExceeded"


# ---------------------------------------------------------------------- with real workers


@pytest.mark.parametrize("slow_call", ["mark_and_wait_for", "mark_and_wait_async"])
def test_a_real_sub_workflow_is_cut_off_and_a_second_run_does_the_rest(
    tmp_path: Path, slow_call: str
) -> None:
    call = f"{ops.__name__}:"
    quick = {"call": call + "mark", "arguments": {"path": str(tmp_path / "quick")}}
    slow = {
        "call": call + slow_call,
        "arguments": {"path": str(tmp_path / "slow"), "gate": str(tmp_path / "gate")},
    }
    nodes = [node("quick", **quick), node("slow", "quick", **slow), node("end", "slow", call=call + "echo")]
    flow = Workflow("top")
    before = flow.add(ops.echo, id="before", value=1)  # the worker has started when the time begins to count
    flow.add(
        "workflow",
        id="sub",
        definition={"name": "inner", "timeout": 3, "concurrency": 1, "nodes": nodes},
        after=[before],
    )
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=60)
    assert outcome.status == "failed"
    assert outcome.errors["sub"]["type"] == "TimeoutExceeded"
    found = states(tmp_path, "r")
    assert [found[f"sub/{each}"] for each in ("quick", "slow", "end")] == ["succeeded", "skipped", "skipped"]
    assert history(tmp_path, "r").node("sub/slow").reason == "the timeout of sub was over"
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        again = supervisor.run(flow, run_id="r", timeout=60)
    assert again.status == "succeeded"
    assert (lines(tmp_path / "quick"), lines(tmp_path / "slow")) == (1, 2), "what was done is not done again"

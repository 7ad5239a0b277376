"""A run's history, and decisions for a run that nobody carries out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import KEYS, Script, history, lines, make_supervisor, states, wait_until

from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.locks import RunLock
from sage_actors.messages.errors import NoCheckpointError, RunLockedError, UsageError, WrongKeyError
from sage_actors.supervisor.definitions.workflow import Node, Workflow
from sage_actors.supervisor.recovery.history import act_on_run, open_history

pytestmark = pytest.mark.requirement("ORCH-015")


def sample() -> Workflow:
    flow = Workflow("sample", inputs={"topic": "tea"})
    said = flow.add(ops.say, id="said", text="hello ${inputs.topic}")
    spent = flow.add(ops.spend, id="spent", tokens=5)
    count = flow.add(ops.numbers, id="count", count=3)
    each = flow.add(ops.echo, id="each", foreach=count, value="${item}")
    broken = flow.add(ops.boom, id="broken", retry={"max_attempts": 2, "backoff": 0})
    flow.add(ops.echo, id="after", value=[said, spent, each, broken])
    return flow


def approving(tmp_path: Path) -> Workflow:
    flow = Workflow("release")
    asked = flow.add("approval", id="asked", message="ship it?")
    flow.add(ops.mark, id="ship", path=str(tmp_path / "shipped"), value=asked)
    flow.add(ops.echo, id="told", value="${asked}", on_failure="continue", trigger="all_done")
    return flow


def pause_for_approval(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        outcome = supervisor.run(approving(tmp_path), run_id="r")
    assert outcome.status == "paused"


def act(tmp_path: Path, **action: Any) -> dict[str, Any]:
    return act_on_run(tmp_path, KEYS, "r", action, by="ann")


# ---------------------------------------------------------------------- looking


def test_a_failed_run_tells_what_ran_and_why_it_failed(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(sample(), run_id="r", inputs={"topic": "cake"})
    seen = history(tmp_path, "r")
    assert (seen.run_id, seen.workflow, seen.status) == ("r", "sample", "failed")
    assert seen.reason == outcome.reason
    assert "broken failed: ValueError" in seen.reason
    assert seen.inputs == {"topic": "cake"}
    assert [node.id for node in seen.definition.nodes] == [
        "said",
        "spent",
        "count",
        "each",
        "broken",
        "after",
    ]
    assert seen.ended_at is not None
    assert 0 < seen.seconds <= seen.ended_at - seen.started_at + 0.001
    assert seen.counts == {"succeeded": 7, "failed": 1, "skipped": 1}
    assert seen.tokens == outcome.tokens == {"input_tokens": 5, "output_tokens": 1, "cost": 0.5}


def test_nodes_are_listed_in_order_with_the_children_of_expansions(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(sample(), run_id="r")
    nodes = history(tmp_path, "r").nodes()
    ids = ["said", "spent", "count", "each", "each[0]", "each[1]", "each[2]", "broken", "after"]
    assert [node.id for node in nodes] == ids
    by_id = {node.id: node for node in nodes}
    broken, after = by_id["broken"], by_id["after"]
    assert (broken.state, broken.attempts, broken.error and broken.error["type"]) == (
        "failed",
        2,
        "ValueError",
    )
    assert (after.state, after.attempts, after.reason) == ("skipped", 0, "broken failed")
    assert by_id["spent"].tokens == 6
    for node in nodes[:7]:
        assert node.state == "succeeded", node
        assert node.error is None
        assert node.started_at is not None
        assert node.ended_at is not None
        assert node.started_at <= node.ended_at


def test_values_of_nodes_and_children_can_be_read(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(sample(), run_id="r")
    seen = history(tmp_path, "r")
    assert seen.value("each") == [0, 1, 2]
    assert seen.value("each[1]") == 1
    assert seen.value("said") == "hello tea"
    assert seen.results() == {"after": None}
    with pytest.raises(UsageError, match=r"after of run r has no result: it is skipped"):
        seen.value("after")
    with pytest.raises(UsageError, match="did you mean 'said'"):
        seen.value("sayd")


def test_records_are_plain_data_in_order_that_names_nodes_by_id(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(sample(), run_id="r")
        supervisor.run(sample(), run_id="r")
    told = list(history(tmp_path, "r").records())
    json.dumps(told)
    assert [each["seq"] for each in told] == list(range(1, len(told) + 1))
    assert [each["time"] for each in told] == sorted(each["time"] for each in told)
    assert told[0]["record"] == "run_admitted"
    assert told[0]["workflow"] == "sample"
    assert {each["segment"] for each in told} == {1, 2}
    started = [row["node"] for each in told if each["record"] == "nodes_started" for row in each["nodes"]]
    assert sorted(started) == sorted(
        ["said", "spent", "count", "each[0]", "each[1]", "each[2]"] + ["broken"] * 4
    )
    failed = [each for each in told if each["record"] == "node_failed"]
    assert {each["node"] for each in failed} == {"broken"}


def test_logs_are_what_operations_printed(tmp_path: Path) -> None:
    flow = Workflow("chatty")
    flow.add(ops.say, id="one", text="first")
    flow.add(ops.say, id="many", foreach=["a", "b"], text="${item}")
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(flow, run_id="r").raise_for_status()
    seen = history(tmp_path, "r")
    assert sorted((node, text) for _, node, _, _, text in seen.logs()) == [
        ("many[0]", "a\n"),
        ("many[1]", "b\n"),
        ("one", "first\n"),
    ]
    assert [(node, stream) for _, node, _, stream, _ in seen.logs("one")] == [("one", "stdout")]
    assert len(list(seen.logs("many"))) == 2
    with pytest.raises(UsageError):
        seen.logs("none")


def test_a_run_that_goes_on_is_running_and_one_whose_owner_was_killed_is_interrupted(tmp_path: Path) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    body = f"""
        flow = Workflow("long")
        flow.add(ops.echo, id="first", value=1)
        flow.add(ops.mark_and_wait_for, id="slow", path={str(mark)!r}, gate={str(gate)!r})
        with Supervisor({str(tmp_path)!r}, workers=2) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body) as script:
        wait_until(lambda: lines(mark), what="the slow node runs")
        wait_until(lambda: states(tmp_path, "r") == {"first": "succeeded", "slow": "running"})
        live = history(tmp_path, "r")
        assert (live.status, live.ended_at) == ("running", None)
        assert live.owner is not None
        assert live.owner["pid"] == script.process.pid
        with pytest.raises(RunLockedError, match=str(script.process.pid)):
            act(tmp_path, action="cancel")
    dead = history(tmp_path, "r")
    assert (dead.status, dead.owner) == ("interrupted", None)
    assert states(tmp_path, "r") == {"first": "succeeded", "slow": "interrupted"}
    assert dead.ended_at is not None


def test_a_run_can_be_read_again_and_again_while_it_is_written(tmp_path: Path) -> None:
    flow = Workflow("busy")
    before: list[Node] = []
    for layer in range(15):
        before = [flow.add(ops.echo, id=f"n{layer}-{i}", value=i, after=before[i : i + 1]) for i in range(40)]
    seen: list[int] = []
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="r")
        while not run.done:
            try:
                found = history(tmp_path, "r")
            except NoCheckpointError:
                continue  # it is just beginning
            if found.status == "running":
                seen.append(found.counts.get("succeeded", 0))
        run.result(30).raise_for_status()
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert history(tmp_path, "r").counts == {"succeeded": 600}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(sample(), run_id="r")
    root = StateDirectory(tmp_path).root
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    seen = history(tmp_path, "r")
    seen.nodes()
    list(seen.records())
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_an_unknown_run_and_a_wrong_key_are_told_apart(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(sample(), run_id="r")
    with pytest.raises(NoCheckpointError, match="no run 'q'"):
        history(tmp_path, "q")
    with pytest.raises(WrongKeyError):
        open_history(StateDirectory(tmp_path), KeyRing((MasterKey(bytes(32)),), "environment"), "r")


def test_an_edited_definition_is_read_with_the_names_it_had_when_it_was_written(tmp_path: Path) -> None:
    old, new = Workflow("edited"), Workflow("edited")
    old.add(ops.echo, id="a", value=1)
    old.add(ops.boom, id="b")
    new.add(ops.echo, id="z", value=0)
    new.add(ops.echo, id="a", value=1)
    new.add(ops.echo, id="b", value=2)
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(old, run_id="r")
        supervisor.run(new, run_id="r", accept_changes=True).raise_for_status()
    seen = history(tmp_path, "r")
    assert [(node.id, node.state) for node in seen.nodes()] == [
        ("z", "succeeded"),
        ("a", "succeeded"),
        ("b", "succeeded"),
    ]
    told = list(seen.records())
    ends = [row["node"] for each in told if each["record"] == "nodes_succeeded" for row in each["nodes"]] + [
        each["node"] for each in told if each["record"] == "node_failed"
    ]
    assert sorted(ends) == ["a", "b", "b", "z"]
    assert [each["kind"] for each in seen.decisions()] == ["accept-changes"]
    assert all(node.started_at is not None for node in seen.nodes())


# ---------------------------------------------------------------------- deciding


def test_an_approval_given_while_nobody_runs_counts_at_the_next_resume(tmp_path: Path) -> None:
    pause_for_approval(tmp_path)
    assert states(tmp_path, "r") == {"asked": "waiting", "ship": "pending", "told": "pending"}
    told = act(tmp_path, action="approve", node="asked", data={"version": 2})
    assert told == {"run_id": "r", "action": "approve", "node": "asked", "status": "paused"}
    assert history(tmp_path, "r").status == "paused"
    assert states(tmp_path, "r")["asked"] == "succeeded"
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        outcome = supervisor.resume("r").result(30).raise_for_status()
    assert outcome["ship"] == {"approved": True, "data": {"version": 2}, "by": "ann"}
    assert [(each["kind"], each["by"]) for each in history(tmp_path, "r").decisions()] == [("approve", "ann")]


def test_a_rejection_given_while_nobody_runs_is_not_asked_again_at_the_next_resume(tmp_path: Path) -> None:
    pause_for_approval(tmp_path)
    act(tmp_path, action="reject", node="asked", data="too early")
    assert states(tmp_path, "r")["asked"] == "failed"
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        outcome = supervisor.resume("r").result(30)
    assert outcome.status == "failed"
    assert outcome.errors["asked"]["type"] == "RejectedError"
    assert "too early" in outcome.errors["asked"]["message"]
    assert states(tmp_path, "r") == {"asked": "failed", "ship": "skipped", "told": "succeeded"}
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        assert supervisor.resume("r").result(30).status == "paused"  # tried again: asked again


def test_a_rejection_given_while_nobody_runs_leads_to_the_fallback(tmp_path: Path) -> None:
    flow = Workflow("asking")
    flow.add("approval", id="asked", fallback="no")
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        assert supervisor.start(flow, run_id="r").result(30).status == "paused"
    act(tmp_path, action="reject", node="asked")
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        assert supervisor.resume("r").result(30).raise_for_status()["asked"] == "no"


def test_an_expanded_node_of_a_run_that_nobody_carries_out_is_pending(tmp_path: Path) -> None:
    flow = Workflow("asking")
    flow.add("approval", id="asked", foreach=[1, 2])
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        assert supervisor.start(flow, run_id="r").result(30).status == "paused"
    assert states(tmp_path, "r")["asked"] == "pending"
    with pytest.raises(UsageError, match="asked does not wait for an approval: it is pending"):
        act(tmp_path, action="approve", node="asked")


def test_the_reason_of_a_failure_counts_what_the_outcome_counts(tmp_path: Path) -> None:
    flow = Workflow("failing")
    flow.add(ops.boom, id="a", foreach=[1])
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.start(flow, run_id="r").result(30)
    assert outcome.reason == history(tmp_path, "r").reason
    assert "more" not in outcome.reason


def test_what_is_not_waiting_cannot_be_decided(tmp_path: Path) -> None:
    pause_for_approval(tmp_path)
    before = len(list(StateDirectory(tmp_path).run_dir("r").iterdir()))
    for action, text in [
        ({"action": "approve", "node": "ship"}, "ship does not wait for an approval: it is pending"),
        ({"action": "resolve", "node": "asked", "how": "fail"}, "asked is not in doubt: it is waiting"),
        ({"action": "approve", "node": "nope"}, "no node 'nope'"),
        ({"action": "dance"}, "not 'dance'"),
    ]:
        with pytest.raises(UsageError, match=text):
            act(tmp_path, **action)
    assert len(list(StateDirectory(tmp_path).run_dir("r").iterdir())) == before
    act(tmp_path, action="approve", node="asked")
    with pytest.raises(UsageError, match="it is succeeded"):
        act(tmp_path, action="approve", node="asked")


def test_a_run_can_be_cancelled_while_nobody_runs_it_and_resumed_all_the_same(tmp_path: Path) -> None:
    pause_for_approval(tmp_path)
    assert act(tmp_path, action="cancel")["status"] == "cancelled"
    past = history(tmp_path, "r")
    assert (past.status, past.reason) == ("cancelled", "cancelled")  # as of one that its owner cancels
    with pytest.raises(UsageError, match="has ended: cancelled"):
        act(tmp_path, action="cancel")
    act(tmp_path, action="approve", node="asked")
    with make_supervisor(tmp_path) as supervisor:
        supervisor.resume("r").result(30).raise_for_status()


def test_a_run_that_somebody_owns_is_refused(tmp_path: Path) -> None:
    pause_for_approval(tmp_path)
    lock = RunLock.acquire(StateDirectory(tmp_path), "r")
    try:
        with pytest.raises(RunLockedError):
            act(tmp_path, action="approve", node="asked")
    finally:
        lock.release()
    act(tmp_path, action="approve", node="asked")


@pytest.mark.parametrize(
    ("action", "status", "calls"),
    [
        ({"how": "result", "result": "by hand"}, "succeeded", 1),
        ({"how": "retry"}, "succeeded", 2),
        ({"how": "fail"}, "failed", 1),
    ],
    ids=["result", "retry", "fail"],
)
def test_a_doubt_is_resolved_while_nobody_runs_the_run(
    tmp_path: Path, action: dict[str, Any], status: str, calls: int
) -> None:
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    body = f"""
        flow = Workflow("payment")
        paid = flow.add(ops.pay, id="pay", path={str(mark)!r}, gate={str(gate)!r})
        flow.add(ops.echo, id="receipt", value=paid)
        with Supervisor({str(tmp_path)!r}, workers=2) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body):
        wait_until(lambda: lines(mark), what="the payment runs")
    assert states(tmp_path, "r") == {"pay": "in_doubt", "receipt": "pending"}
    act(tmp_path, action="resolve", node="pay", **action)
    gate.touch()
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.resume("r").result(30)
    assert outcome.status == status
    assert lines(mark) == calls
    if status == "succeeded":
        assert outcome["receipt"] == action.get("result", "paid")
    assert [each["kind"] for each in history(tmp_path, "r").decisions()] == [f"resolve-{action['how']}"]

"""What a repeat means: `once` is never repeated silently, everything else runs again with the same key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import KEYS, Script, history, lines, make_supervisor, states, wait_until

from sage_actors.messages.errors import ChangedDefinitionError, UsageError
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.handle import Run
from sage_actors.supervisor.recovery.acting import act_on_run

pytestmark = [pytest.mark.requirement("ORCH-015"), pytest.mark.requirement("ORCH-017")]


def payment(tmp_path: Path, **policy: Any) -> Workflow:
    """pay -> receipt; the payment hangs until the file `gate` is there."""
    flow = Workflow("payment")
    paid = flow.add(ops.pay, id="pay", path=str(tmp_path / "paid"), gate=str(tmp_path / "gate"), **policy)
    flow.add(ops.mark, id="receipt", path=str(tmp_path / "receipt"), value=paid)
    return flow


def dies(tmp_path: Path) -> Workflow:
    flow = Workflow("payment")
    paid = flow.add(ops.pay_and_die, id="pay", path=str(tmp_path / "paid"))
    flow.add(ops.mark, id="receipt", path=str(tmp_path / "receipt"), value=paid)
    flow.add(ops.mark, id="beside", path=str(tmp_path / "beside"))
    return flow


def killed_while_paying(tmp_path: Path) -> None:
    body = f"""
        flow = Workflow("payment")
        paid = flow.add(ops.pay, id="pay", path={str(tmp_path / "paid")!r}, gate={str(tmp_path / "gate")!r})
        flow.add(ops.mark, id="receipt", path={str(tmp_path / "receipt")!r}, value=paid)
        with Supervisor({str(tmp_path)!r}, workers=2) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body):
        wait_until(lambda: lines(tmp_path / "paid"), what="the payment runs")


def wait_for_pause(run: Run) -> str:
    outcome = run.result(30)
    assert outcome.status == "paused"
    return outcome.reason


def test_a_once_node_whose_worker_died_is_in_doubt_and_the_run_pauses_with_the_rest_done(
    tmp_path: Path,
) -> None:
    with make_supervisor(tmp_path) as supervisor:
        reason = wait_for_pause(supervisor.start(dies(tmp_path), run_id="r"))
    assert "pay" in reason
    assert "resolve" in reason
    assert states(tmp_path, "r") == {"pay": "in_doubt", "receipt": "pending", "beside": "succeeded"}
    assert lines(tmp_path / "paid") == 1


def test_a_doubt_stays_over_any_number_of_resumes(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        for _ in range(3):
            wait_for_pause(supervisor.start(dies(tmp_path), run_id="r"))
        wait_for_pause(supervisor.resume("r"))
    with make_supervisor(tmp_path) as supervisor:
        wait_for_pause(supervisor.resume("r"))
    assert lines(tmp_path / "paid") == 1
    assert states(tmp_path, "r")["pay"] == "in_doubt"


@pytest.mark.parametrize("how", ["retry", "result", "fail"])
def test_a_live_run_goes_on_when_its_doubt_is_resolved(tmp_path: Path, how: str) -> None:
    flow = dies(tmp_path)
    hold = str(tmp_path / "hold")  # keeps the run alive
    flow.add(ops.mark_and_wait_for, id="hold", path=str(tmp_path / "holds"), gate=hold)
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="r")
        for event in run.events():
            if event.event == "node_waiting" and event.node == "pay":
                break
        run.resolve("pay", how, result={"by": "hand"}, by="ann")
        if how == "retry":
            wait_until(lambda: lines(tmp_path / "paid") == 2 and "pay" in run.status().waiting)
            run.resolve("pay", "result", result={"by": "hand"})
        with pytest.raises(UsageError, match="not in doubt"):
            run.resolve("pay", "retry")
        Path(hold).touch()
        outcome = run.result(30)
    assert outcome.status == ("failed" if how == "fail" else "succeeded")
    if how != "fail":
        assert outcome["receipt"] == {"by": "hand"}
    assert lines(tmp_path / "paid") == (2 if how == "retry" else 1)


@pytest.mark.chaos
def test_a_once_node_is_in_doubt_after_the_supervisor_was_killed(tmp_path: Path) -> None:
    killed_while_paying(tmp_path)
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        wait_for_pause(supervisor.resume("r"))
        wait_for_pause(supervisor.resume("r"))
    assert lines(tmp_path / "paid") == 1


@pytest.mark.chaos
def test_a_doubt_outlives_an_edit_of_the_definition(tmp_path: Path) -> None:
    killed_while_paying(tmp_path)
    (tmp_path / "gate").touch()
    edited = payment(tmp_path)
    edited.add(ops.mark, id="new", path=str(tmp_path / "new"))
    with make_supervisor(tmp_path) as supervisor:
        wait_for_pause(supervisor.start(edited, run_id="r", accept_changes=True))
        wait_for_pause(supervisor.resume("r"))
    assert lines(tmp_path / "paid") == 1
    assert states(tmp_path, "r") == {"pay": "in_doubt", "receipt": "pending", "new": "succeeded"}


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_once_child_is_not_repeated_by_an_edit_of_the_node_around_it(
    tmp_path: Path, succeeds: bool
) -> None:
    def flow(*, items: list[int], note: int) -> Workflow:
        made = Workflow("children")
        made.add(
            ops.pay if succeeds else ops.pay_and_die, id="each", foreach=items, path=str(tmp_path / "paid")
        )
        made.add(ops.echo, id="beside", value=note)
        made.add(ops.fail_while, id="gated", gate=str(tmp_path / "gate"))
        made.add(ops.fail_while, id="held", foreach=items, gate=str(tmp_path / "${item}"))
        return made

    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(flow(items=[1, 2], note=1), run_id="r", timeout=30)
        for path in ("gate", "1", "2"):
            (tmp_path / path).touch()
        beside = supervisor.run(flow(items=[1, 2], note=2), run_id="r", accept_changes=True, timeout=30)
        assert beside["beside"] == 2
        assert beside.status == ("succeeded" if succeeds else "paused")
        if not succeeds:
            with pytest.raises(ChangedDefinitionError, match=r"each\[0\] has effect `once`"):
                supervisor.run(flow(items=[1, 2, 3], note=2), run_id="r", accept_changes=True)
    assert lines(tmp_path / "paid") == 2


@pytest.mark.chaos
def test_a_fork_of_a_run_in_doubt_is_in_doubt(tmp_path: Path) -> None:
    killed_while_paying(tmp_path)
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        wait_for_pause(supervisor.resume("r", from_node="receipt", new_run_id="copy"))
    assert states(tmp_path, "copy")["pay"] == "in_doubt"
    assert lines(tmp_path / "paid") == 1


@pytest.mark.chaos
def test_what_is_not_once_runs_again_after_a_kill_with_the_same_key(tmp_path: Path) -> None:
    body = f"""
        flow = Workflow("again")
        flow.add(ops.note_key, id="note", path={str(tmp_path / "keys")!r}, gate={str(tmp_path / "gate")!r})
        with Supervisor({str(tmp_path)!r}, workers=2) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body):
        wait_until(lambda: lines(tmp_path / "keys"), what="the first attempt runs")
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        supervisor.resume("r").result(30).raise_for_status()
    first, second = (tmp_path / "keys").read_text().splitlines()
    assert first.split()[0] == second.split()[0]
    assert (first.split()[1], second.split()[1]) == ("1", "2")


def test_a_once_node_that_timed_out_is_in_doubt(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        wait_for_pause(supervisor.start(payment(tmp_path, timeout=2), run_id="r"))
    assert states(tmp_path, "r")["pay"] == "in_doubt"
    assert lines(tmp_path / "paid") == 1


def test_a_once_node_that_was_cancelled_without_an_answer_is_in_doubt(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(payment(tmp_path), run_id="r")
        wait_until(lambda: lines(tmp_path / "paid"))
        run.cancel()
        assert run.result(10).status == "cancelled"
        (tmp_path / "gate").touch()
        wait_for_pause(supervisor.resume("r"))
    assert lines(tmp_path / "paid") == 1


def test_a_once_node_that_raised_has_failed_and_is_not_in_doubt(tmp_path: Path) -> None:
    flow = Workflow("raises")
    flow.add(ops.fail_until, id="pay", path=str(tmp_path / "paid"), times=1, effect="once", value="ok")
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=30).status == "failed"
        assert supervisor.run(flow, run_id="r", timeout=30)["pay"] == "ok"
    assert lines(tmp_path / "paid") == 2


def test_a_once_node_is_not_repeated_when_its_definition_is_edited(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(payment(tmp_path), run_id="r", timeout=30).raise_for_status()
        edited = Workflow("payment")
        first = edited.add(ops.echo, id="first", value=1)
        paid = edited.add(ops.pay, id="pay", path=str(tmp_path / "paid"), after=[first], value="other")
        edited.add(ops.mark, id="receipt", path=str(tmp_path / "receipt"), value=[paid])
        outcome = supervisor.run(edited, run_id="r", timeout=30, accept_changes=True).raise_for_status()
    assert outcome["receipt"] == ["paid"]
    assert (lines(tmp_path / "paid"), lines(tmp_path / "receipt")) == (1, 2)


def test_a_once_node_is_not_repeated_when_it_was_removed_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    without = Workflow("payment")
    without.add(ops.echo, id="beside", value=1)
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(payment(tmp_path), run_id="r", timeout=30).raise_for_status()
        for number in range(2):
            supervisor.run(without, run_id="r", timeout=30, accept_changes=True).raise_for_status()
            edited = Workflow("payment")
            paid = edited.add(ops.pay, id="pay", path=str(tmp_path / "paid"), value=number)
            edited.add(ops.echo, id=f"receipt-{number}", value=[paid])
            outcome = supervisor.run(edited, run_id="r", timeout=30, accept_changes=True).raise_for_status()
            assert outcome[f"receipt-{number}"] == ["paid"]
    assert lines(tmp_path / "paid") == 1


@pytest.mark.parametrize("how", ["doubt", "fail"])
def test_what_was_said_of_a_once_node_outlives_its_removal(tmp_path: Path, how: str) -> None:
    without = Workflow("payment")
    without.add(ops.echo, id="other", value=1)
    with make_supervisor(tmp_path) as supervisor:
        wait_for_pause(supervisor.start(dies(tmp_path), run_id="r"))
    if how == "fail":
        act_on_run(tmp_path, KEYS, "r", {"action": "resolve", "node": "pay", "how": "fail"}, by="me")
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(without, run_id="r", timeout=30, accept_changes=True).raise_for_status()
        again = supervisor.start(dies(tmp_path), run_id="r", accept_changes=True)
        if how == "doubt":
            wait_for_pause(again)
        else:
            assert again.result(30).status == "failed"
    assert lines(tmp_path / "paid") == 1
    assert states(tmp_path, "r")["pay"] == ("in_doubt" if how == "doubt" else "failed")


@pytest.mark.parametrize("succeeds", [True, False])
def test_what_happened_once_in_an_expansion_that_was_removed_is_not_repeated(
    tmp_path: Path, succeeds: bool
) -> None:
    def flow(*, whole: bool) -> Workflow:
        made = Workflow("payments")
        made.add(ops.echo, id="beside", value=1)
        if whole:
            pay = ops.pay if succeeds else ops.pay_and_die
            made.add(pay, id="each", foreach=[1, 2], path=str(tmp_path / "paid"))
        return made

    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(flow(whole=True), run_id="r", timeout=30)
        paid = lines(tmp_path / "paid")
        assert paid
        supervisor.run(flow(whole=False), run_id="r", timeout=30).raise_for_status()
        with pytest.raises(ChangedDefinitionError, match=r"each\[\d\] has effect `once`"):
            supervisor.run(flow(whole=True), run_id="r", accept_changes=True)
    assert lines(tmp_path / "paid") == paid


def test_the_start_of_a_once_node_is_on_disk_before_it_runs(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(payment(tmp_path), run_id="r")
        wait_until(lambda: lines(tmp_path / "paid"))
        told = list(history(tmp_path, "r").records())
        assert [each["nodes"] for each in told if each["record"] == "nodes_started"] == [
            [{"node": "pay", "attempt": 1}]
        ]
        (tmp_path / "gate").touch()
        assert run.result(30).status == "succeeded"


def test_a_once_node_has_its_worker_to_itself(tmp_path: Path) -> None:
    """What would be queued with it could not be told apart from it if the worker died."""
    (tmp_path / "gate").touch()
    flow = Workflow("mixed")
    for i in range(40):
        flow.add(ops.mark, id=f"other-{i}", path=str(tmp_path / "other"), value=i)
    for i in range(5):
        flow.add(ops.pay_and_die, id=f"pay-{i}", path=str(tmp_path / "paid"))
    with make_supervisor(tmp_path) as supervisor:
        reason = wait_for_pause(supervisor.start(flow, run_id="r"))
    assert all(f"pay-{i}" in reason for i in range(5))
    assert lines(tmp_path / "other") == 40
    assert lines(tmp_path / "paid") == 5

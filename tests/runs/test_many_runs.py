"""Many runs at once: in one supervisor, in two of one process, and in two processes on one project."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import Script, history, lines, make_supervisor, states, wait_until

from sage_actors.actors.state.directory import Registry, StateDirectory
from sage_actors.messages.errors import ChangedDefinitionError, RunLockedError
from sage_actors.supervisor.definitions.workflow import Workflow

pytestmark = pytest.mark.requirement("ORCH-021")


def small(number: int) -> Workflow:
    """Four nodes, whose results tell which workflow they are of."""
    flow = Workflow(f"small-{number}")
    one = flow.add(ops.echo, id="one", value=number)
    two = flow.add(ops.echo_async, id="two", value=[one, number])
    three = flow.add(ops.add, id="three", left=one, right=1)
    flow.add(ops.echo, id="end", value={"two": two, "three": three})
    return flow


@pytest.mark.no_cover
def test_a_hundred_workflows_at_once_each_get_their_own_results(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        runs = [supervisor.start(small(i), run_id=f"run-{i}", listening=False) for i in range(100)]
        for i, run in enumerate(runs):
            outcome = run.result(60).raise_for_status()
            assert outcome["end"] == {"two": [i, i], "three": i + 1}
    for i in (0, 50, 99):
        assert history(tmp_path, f"run-{i}").counts == {"succeeded": 4}
    assert StateDirectory(tmp_path).run_ids() == sorted(f"run-{i}" for i in range(100))
    entries = Registry(StateDirectory(tmp_path)).read()
    assert {each["status"] for each in entries.values()} == {"succeeded"}
    assert len(entries) == 100


def test_one_workflow_object_may_be_run_many_times_at_once(tmp_path: Path) -> None:
    """The runs end at different moments: what one run no longer needs, the others still do."""
    flow = Workflow("shared", inputs={"n": 0})
    begun = flow.add(ops.echo, id="begun", value="${inputs.n}")
    slow = flow.add(ops.sleep, id="slow", seconds="${inputs.n}", after=[begun])
    flow.add(ops.echo, id="late", value=[slow, begun])
    with make_supervisor(tmp_path, workers=4) as supervisor:
        runs = [supervisor.start(flow, run_id=f"run-{i}", inputs={"n": i * 0.05}) for i in range(8)]
        for i, run in enumerate(runs):
            outcome = run.result(30)
            assert outcome.status == "succeeded", outcome.reason
            assert outcome["late"] == [i * 0.05, i * 0.05]


def test_a_long_run_does_not_hold_a_short_one_up(tmp_path: Path) -> None:
    long, short = Workflow("long"), Workflow("short")
    for i in range(3000):
        long.add(ops.sleep, id=f"n{i}", seconds=0.02)
    short.add(ops.echo, id="only", value=1)
    with make_supervisor(tmp_path, durability="none") as supervisor:
        slow = supervisor.start(long, run_id="long")
        next(each for each in slow.events() if each.event == "node_started")
        assert supervisor.run(short, run_id="short", timeout=20)["only"] == 1
        assert not slow.done
        slow.cancel()


def test_a_failure_in_one_run_leaves_the_others_alone(tmp_path: Path) -> None:
    bad = Workflow("bad")
    bad.add(ops.die_until, id="dies", path=str(tmp_path / "dies"), times=99)
    with make_supervisor(tmp_path) as supervisor:
        poisoned = supervisor.start(bad, run_id="bad")
        runs = [supervisor.start(small(i), run_id=f"run-{i}") for i in range(10)]
        assert [run.result(60).status for run in runs] == ["succeeded"] * 10
        assert poisoned.result(60).errors["dies"]["type"] == "PoisonedError"


def test_a_run_that_ends_by_itself_may_begin_again_at_once(tmp_path: Path) -> None:
    flow = Workflow("again")
    flow.add(ops.fail_until, id="flaky", path=str(tmp_path / "calls"), times=5)
    with make_supervisor(tmp_path) as supervisor:
        ended = [supervisor.run(flow, run_id="r", timeout=30).status for _ in range(6)]
    assert ended == ["failed"] * 5 + ["succeeded"]


def test_one_supervisor_refuses_a_run_that_it_carries_out_already(tmp_path: Path) -> None:
    flow = Workflow("slow")
    flow.add(ops.mark_and_wait_for, path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"))
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="r")
        for again in (supervisor.start, lambda *_, **__: supervisor.resume("r")):
            with pytest.raises(RunLockedError, match="already"):
                again(flow, run_id="r")
        (tmp_path / "gate").touch()
        run.result(30).raise_for_status()
    assert lines(tmp_path / "calls") == 1


@pytest.mark.parametrize("calling", [True, False])
def test_who_joins_gets_the_run_that_is_carried_out(tmp_path: Path, calling: bool) -> None:
    """However many ask in one moment: one begins it, and each has its outcome and its events."""
    flow = Workflow("slow", inputs={"n": 1})
    flow.add(
        ops.mark_and_wait_for, path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"), value="${inputs.n}"
    )
    told: list[list[str]] = [[] for _ in range(8)]

    def ask(number: int) -> Any:
        said = told[number]
        return supervisor.run(
            flow, run_id="r", join=True, timeout=60, on_event=lambda each: said.append(each.event)
        )

    with make_supervisor(tmp_path) as supervisor, ThreadPoolExecutor(8) as threads:
        if calling:  # it may have begun by other means, too
            supervisor.start(flow, run_id="r")
        asked = [threads.submit(ask, number) for number in range(8)]
        wait_until(lambda: lines(tmp_path / "calls"))
        with pytest.raises(ChangedDefinitionError, match="other inputs"):
            supervisor.start(flow, run_id="r", inputs={"n": 2}, join=True)
        with pytest.raises(RunLockedError, match="already"):
            supervisor.start(flow, run_id="r")
        (tmp_path / "gate").touch()
        outcomes = [each.result(60) for each in asked]
        assert supervisor.run(flow, run_id="r", join=True, timeout=30)["mark_and_wait_for"] == 1
    assert {(each.status, each["mark_and_wait_for"]) for each in outcomes} == {("succeeded", 1)}
    assert lines(tmp_path / "calls") == 1
    assert {each[-1] for each in told} == {"run_finished"}


def test_who_joins_begins_what_is_not_carried_out(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(small(1), run_id="r", timeout=30).raise_for_status()
        with pytest.raises(ChangedDefinitionError, match="will run again"):
            supervisor.start(small(2), run_id="r", join=True)
        again = supervisor.run(small(2), run_id="r", join=True, accept_changes=True, timeout=30)
        assert again["three"] == 3


def test_two_supervisors_of_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    projects = [tmp_path / name for name in ("one", "two")]
    for project in projects:
        project.mkdir()
    with make_supervisor(projects[0]) as one, make_supervisor(projects[1]) as two:
        runs = [each.start(small(i), run_id=f"run-{i}") for i in range(10) for each in (one, two)]
        two_outcomes = [run.result(30) for run in runs]
        assert {each.status for each in two_outcomes} == {"succeeded"}
        two.close()
        assert one.run(small(99), run_id="last", timeout=30)["three"] == 100


def test_two_supervisors_on_one_project_share_it_run_by_run(tmp_path: Path) -> None:
    flow = Workflow("slow")
    flow.add(ops.mark_and_wait_for, path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"))
    with make_supervisor(tmp_path) as one, make_supervisor(tmp_path) as two:
        run = one.start(flow, run_id="r")
        with pytest.raises(RunLockedError, match="owned by process"):
            two.start(flow, run_id="r")
        assert two.run(small(1), run_id="other", timeout=30).status == "succeeded"
        (tmp_path / "gate").touch()
        run.result(30).raise_for_status()
        assert two.run(flow, run_id="r", timeout=30).status == "succeeded"
    assert lines(tmp_path / "calls") == 1


@pytest.mark.requirement("ORCH-017")
def test_a_second_process_on_a_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    body = f"""
        flow = Workflow("slow")
        flow.add(ops.mark_and_wait_for, path={str(calls)!r}, gate={str(gate)!r}, value="done")
        with Supervisor({str(tmp_path)!r}, workers=1) as supervisor:
            print(supervisor.run(flow, run_id="r").status)
    """
    flow = Workflow("slow")
    flow.add(ops.mark_and_wait_for, path=str(calls), gate=str(gate), value="done")
    with Script(tmp_path, body) as script:
        wait_until(lambda: lines(calls))
        with make_supervisor(tmp_path) as supervisor:
            with pytest.raises(RunLockedError, match=str(script.process.pid)):
                supervisor.start(flow, run_id="r")
            assert history(tmp_path, "r").status == "running"
            gate.touch()
            assert script.finish()[1].strip() == "succeeded"
            assert supervisor.run(flow, run_id="r", timeout=30)["mark_and_wait_for"] == "done"
    assert lines(calls) == 1


@pytest.mark.chaos
def test_of_many_processes_that_want_a_run_one_gets_it(tmp_path: Path) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    body = f"""
        flow = Workflow("wanted")
        flow.add(ops.mark_and_wait_for, path={str(calls)!r}, gate={str(gate)!r})
        with Supervisor({str(tmp_path)!r}, workers=1) as supervisor:
            try:
                print(supervisor.run(flow, run_id="r").status)
            except RunLockedError:
                print("locked")
    """
    scripts = [Script(tmp_path, body, name=f"script-{i}.py") for i in range(3)]
    try:
        wait_until(lambda: lines(calls))
        wait_until(lambda: sum(each.process.poll() is not None for each in scripts) == 2)
        gate.touch()
        said = sorted(each.finish()[1].strip() for each in scripts)
    finally:
        for each in scripts:
            each.kill()
    assert said == ["locked", "locked", "succeeded"]
    assert lines(calls) == 1


def test_runs_may_be_started_from_many_threads(tmp_path: Path) -> None:
    outcomes: list[str] = []
    with make_supervisor(tmp_path) as supervisor:

        def carry_out(number: int) -> None:
            outcomes.append(supervisor.run(small(number), run_id=f"run-{number}", timeout=60).status)

        threads = [threading.Thread(target=carry_out, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert outcomes == ["succeeded"] * 12
    assert states(tmp_path, "run-11")["end"] == "succeeded"

"""The library's face: supervisors, runs and outcomes, through real workers and real journals."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import stat
import time
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import KEYS, journal_bytes, lines, make_supervisor, states, wait_until
from places import SUPPORT
from pool_harness import pid_exists

import sage_actors
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import (
    ActorDeadError,
    DefinitionError,
    KeyUnusableError,
    NoCheckpointError,
    OperationError,
    PoisonedError,
    RejectedError,
    RunPausedError,
    SageError,
    TimeoutExceeded,
    UsageError,
)
from sage_actors.messages.events import Event
from sage_actors.supervisor.api import Supervisor, load
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.handle import Run

pytestmark = pytest.mark.requirement("ORCH-011")


def sums() -> Workflow:
    """Two leaves: `total` of a list, and `beside`."""
    flow = Workflow("sums", inputs={"topic": "tea"})
    numbers = flow.add(ops.numbers, id="numbers", count=4)
    flow.add(ops.total, id="total", numbers=numbers)
    flow.add(ops.echo, id="beside", value="${inputs.topic}")
    return flow


# ---------------------------------------------------------------------- the face


@pytest.mark.requirement("ORCH-002")
def test_every_public_name_is_there() -> None:
    for name in sage_actors.__all__:
        assert getattr(sage_actors, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        getattr(sage_actors, "Nope")  # noqa: B009 - type checkers know that it is not there
    errors = [name for name in sage_actors.__all__ if _is_error(getattr(sage_actors, name))]
    assert len(errors) > 15


def _is_error(each: Any) -> bool:
    return isinstance(each, type) and issubclass(each, SageError)


@pytest.mark.parametrize("durability", ["strict", "relaxed", "none"])
def test_a_run_gives_its_outcome_under_any_durability(tmp_path: Path, durability: str) -> None:
    with make_supervisor(tmp_path, durability=durability) as supervisor:
        outcome = supervisor.run(sums(), run_id="r", timeout=30)
        assert repr(supervisor) == f"<Supervisor of {tmp_path}, {durability}>"
    assert (outcome.run_id, outcome.status, outcome.reason, outcome.exit_code) == ("r", "succeeded", "", 0)
    assert dict(outcome.results) == {"total": 6, "beside": "tea"}
    assert outcome["numbers"] == [0, 1, 2, 3]
    assert outcome.counts["succeeded"] == 3
    assert outcome.busy_seconds > 0
    assert 0 < outcome.seconds < 30
    assert outcome.raise_for_status() is outcome
    assert "total" in repr(outcome.results)
    assert (tmp_path / ".sage").exists() is (durability != "none")


def test_an_outcome_has_no_value_for_what_is_not_there(tmp_path: Path) -> None:
    flow = sums()
    bad = flow.add(ops.boom, id="bad")
    held = flow.add(ops.echo, id="held", value=bad)
    flow.add(ops.echo, id="end", value=held)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=30)
    with pytest.raises(KeyError, match="no node 'nope'"):
        outcome["nope"]
    for node in ("bad", "held"):
        with pytest.raises(KeyError, match="has no result"):
            outcome[node]
    assert dict(outcome.results) == {"total": 6, "beside": "tea", "end": None}


def test_results_are_read_from_the_journal_after_the_supervisor_is_closed(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(sums(), run_id="r", timeout=30)
    assert outcome["total"] == 6


@pytest.mark.parametrize(
    ("operation", "arguments", "kind"),
    [
        (ops.boom, {}, OperationError),
        (ops.sleep, {"seconds": 60, "timeout": 0.2}, TimeoutExceeded),
        (ops.die_until, {"path": "calls", "times": 9}, PoisonedError),
    ],
    ids=["exception", "timeout", "poison"],
)
def test_raise_for_status_raises_the_error_of_the_node(
    tmp_path: Path, operation: Any, arguments: dict[str, Any], kind: type[SageError]
) -> None:
    flow = Workflow("raises")
    flow.add(operation, id="bad", **arguments)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=30)
    with pytest.raises(kind, match="run r failed: bad: ") as caught:
        outcome.raise_for_status()
    assert type(caught.value) is kind
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert ("in boom" in notes) is (operation is ops.boom)  # where in the user's code


def test_a_run_that_exceeds_its_own_timeout_raises_that(tmp_path: Path) -> None:
    flow = Workflow("late", timeout=0.3)
    flow.add(ops.sleep, id="sleeps", seconds=60)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=30)
    with pytest.raises(TimeoutExceeded, match=r"run r .*the run took longer than its timeout of 0\.3 s"):
        outcome.raise_for_status()


def test_raise_for_status_tells_a_pause_and_a_rejection(tmp_path: Path) -> None:
    flow = Workflow("asks")
    flow.add("approval", id="asked")
    with make_supervisor(tmp_path, waits_for_people=False) as supervisor:
        paused = supervisor.run(flow, run_id="r", timeout=30)
    with pytest.raises(RunPausedError, match="asked"):
        paused.raise_for_status()
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.resume("r")
        run.approve("asked", approved=False)
        with pytest.raises(RejectedError):
            run.result(30).raise_for_status()


def test_an_operation_sees_who_it_is(tmp_path: Path) -> None:
    flow = Workflow("context")
    flow.add(ops.who, id="who")
    flow.add(ops.who, id="each", foreach=[1, 2])
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="my-run", timeout=30)
    who = outcome["who"]
    assert (who["run"], who["node"], who["attempt"], who["project"]) == ("my-run", "who", 1, str(tmp_path))
    assert [each["node"] for each in outcome["each"]] == ["each[0]", "each[1]"]
    keys = {who["key"], *(each["key"] for each in outcome["each"])}
    assert len(keys) == 3


def test_what_operations_spend_is_counted_over_failures_and_resumes(tmp_path: Path) -> None:
    flow = Workflow("spends")
    spent = flow.add(ops.spend, id="spent", tokens=10)
    flow.add(ops.spend_and_fail_while, id="more", tokens=5, gate=str(tmp_path / "gate"), after=[spent])
    with make_supervisor(tmp_path) as supervisor:
        first = supervisor.run(flow, run_id="r", timeout=30)
        (tmp_path / "gate").touch()
        second = supervisor.run(flow, run_id="r", timeout=30)
    assert first.tokens == {"input_tokens": 15, "output_tokens": 2, "cost": 1.0}
    assert second.tokens == {"input_tokens": 20, "output_tokens": 3, "cost": 1.5}


def test_status_tells_how_a_run_stands(tmp_path: Path) -> None:
    flow = sums()
    flow.add(ops.mark_and_wait_for, id="slow", path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"))
    flow.add("wait", id="pause", seconds=0.01)
    flow.add("approval", id="asked")
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="r")
        wait_until(lambda: run.status().counts.get("succeeded") == 4 and run.status().running)
        status = run.status()
        assert (status.run_id, status.workflow, status.status, status.total) == ("r", "sums", "running", 6)
        assert status.running == ("slow",)
        assert status.waiting == {"asked": "approval"}
        assert status.counts == {"succeeded": 4, "running": 1, "waiting": 1}
        assert repr(run) == "<Run r running>"
        run.approve("asked")
        (tmp_path / "gate").touch()
        run.result(30)
        assert repr(run) == "<Run r succeeded>"
        statistics = supervisor.statistics()
        assert statistics is not None


def test_waiting_for_a_result_times_out_and_the_run_goes_on(tmp_path: Path) -> None:
    flow = Workflow("slow")
    flow.add(ops.mark_and_wait_for, id="slow", path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"))
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="r")
        with pytest.raises(TimeoutError, match=re.escape("not ended within 0.05 s")):
            run.result(0.05)
        (tmp_path / "gate").touch()
        assert run.result(30).status == "succeeded"


# ---------------------------------------------------------------------- names and files


def test_run_ids_come_from_the_workflow_and_its_topic(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        names = [
            supervisor.run(sums(), inputs=inputs, timeout=30).run_id
            for inputs in ({}, {"topic": "Green Tea"})
        ]
        assert names == ["sums-tea", "sums-green-tea"]
        other = supervisor.run(sums(), inputs={"topic": "T/ä"}, timeout=30).run_id
    assert re.fullmatch(r"sums-t-[0-9a-f]{8}", other)
    assert StateDirectory(tmp_path).run_ids() == sorted([*names, other])


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", ".hidden", "-x", "a" * 129, "locks", "a\n"])
def test_bad_run_ids_are_refused(tmp_path: Path, run_id: str) -> None:
    with make_supervisor(tmp_path) as supervisor:
        if run_id:
            with pytest.raises(UsageError):
                supervisor.start(sums(), run_id=run_id)
        with pytest.raises(UsageError):
            supervisor.resume(run_id)
    assert not (tmp_path / ".sage").exists()


@pytest.mark.requirement("ORCH-023")
def test_state_is_private_and_sealed(tmp_path: Path) -> None:
    flow = Workflow("sealed")
    flow.add(ops.echo, id="said", value="a-sentence-that-nobody-else-may-read")
    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(flow, run_id="r", timeout=30).raise_for_status()
    for directory, _, files in os.walk(StateDirectory(tmp_path).root):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(directory, name)).st_mode) == 0o600
    assert b"a-sentence" not in journal_bytes(tmp_path, "r")
    registry = json.loads((StateDirectory(tmp_path).root / "ACTIVE_WORKFLOWS.json").read_text())
    assert registry["workflows"]["r"]["status"] == "succeeded"


def test_keys_are_made_when_first_needed_outside_the_project(tmp_path: Path, private_home: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    key_file = private_home / "config" / "sage-actors" / "state.key"
    with Supervisor(project, workers=1, search_paths=[SUPPORT]) as supervisor:
        assert not key_file.exists()
        supervisor.run(sums(), run_id="r", timeout=30).raise_for_status()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    with Supervisor(project, workers=1, search_paths=[SUPPORT]) as supervisor:
        assert supervisor.run(sums(), run_id="r", timeout=30)["total"] == 6


def test_a_bad_key_is_an_error_and_never_another_key(tmp_path: Path) -> None:
    with Supervisor(tmp_path, workers=1, environ={"SAGE_STATE_KEY": "sak1-short"}) as supervisor:
        with pytest.raises(KeyUnusableError):
            supervisor.run(sums(), run_id="r", timeout=30)
        assert supervisor._actors.supervisor.is_alive()
    assert not (StateDirectory(tmp_path).root / "r").exists()


def test_the_state_key_never_reaches_an_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sak1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    monkeypatch.setenv("SAGE_STATE_KEY", key)
    flow = Workflow("environment")
    flow.add(ops.environment, id="seen")
    with Supervisor(tmp_path, workers=1, search_paths=[SUPPORT]) as supervisor:
        seen = supervisor.run(flow, run_id="r", timeout=30)["seen"]
    assert "PATH" in seen
    assert key not in json.dumps(seen)


# ---------------------------------------------------------------------- arguments


def test_arguments_of_a_supervisor_are_checked(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [{"workers": 0}, {"workers": 1.5}, {"durability": "perhaps"}]
    for options in wrong:
        with pytest.raises(UsageError):
            Supervisor(tmp_path, **options)
    with pytest.raises(UsageError, match="does not exist"):
        Supervisor(tmp_path / "nowhere")
    with pytest.raises(DefinitionError):
        Supervisor(tmp_path, breakers={"api": {"failures": 0}})


@pytest.mark.parametrize("name", ["flow.json", "flow.yaml"])
def test_a_file_runs_as_the_workflow_that_it_was_made_of(tmp_path: Path, name: str) -> None:
    import yaml

    data = sums().to_dict()
    text = json.dumps(data) if name.endswith("json") else yaml.safe_dump(data)
    (tmp_path / name).write_text(text)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(load(tmp_path / name), timeout=30, inputs={"topic": "cake"})
    assert dict(outcome.results) == {"total": 6, "beside": "cake"}


@pytest.mark.requirement("ORCH-008")
def test_calls_that_cannot_be_imported_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "breaks.py").write_text("raise RuntimeError('at import')\n")
    calls = ["no_such_module:f", "operations_engine:nope", "breaks:f", "operations_engine:KEYS"]
    nodes = [{"id": f"n{i}", "type": "python", "call": call} for i, call in enumerate(calls)]
    good = {
        "id": "good",
        "type": "python",
        "call": "operations_engine:mark",
        "arguments": {"path": str(tmp_path / "ran")},
    }
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(DefinitionError) as caught:
            supervisor.run(load_dict({"name": "bad", "nodes": [*nodes, good]}), run_id="r", timeout=30)
        assert [each.place for each in caught.value.problems] == [f"n{i}.call" for i in range(4)]
        assert "at import" in str(caught.value)
        (tmp_path / "breaks.py").write_text("def f():\n    return 'mended'\n")
        mended = load_dict(
            {"name": "bad", "nodes": [{"id": "n", "type": "python", "call": "breaks:f"}, good]}
        )
        assert supervisor.run(mended, run_id="r", timeout=30)["n"] == "mended"
    assert lines(tmp_path / "ran") == 1


def test_a_function_that_workers_do_not_find_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "plugged.py").write_text("def f(x):\n    return x\n")
    (tmp_path / "project").mkdir()
    found = importlib.util.spec_from_file_location("plugged", tmp_path / "elsewhere" / "plugged.py")
    assert found is not None
    assert found.loader is not None
    plugged = importlib.util.module_from_spec(found)
    found.loader.exec_module(plugged)
    flow = Workflow("plugged")
    flow.add(plugged.f, x=1)
    with make_supervisor(tmp_path / "project") as supervisor:
        with pytest.raises(DefinitionError, match=r"(?s)f\.call: plugged:f: .*search_paths"):
            supervisor.run(flow, run_id="r", timeout=30)
        outer = Workflow("outer")
        outer.add(flow)
        with pytest.raises(DefinitionError, match="plugged:f"):
            supervisor.run(outer, run_id="r", timeout=30)
    with make_supervisor(tmp_path / "project", search_paths=[tmp_path / "elsewhere"]) as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=30)["f"] == 1


def test_a_call_by_name_has_the_policies_of_its_decorator(tmp_path: Path) -> None:
    flow = Workflow("named")
    flow.add("python", id="named", call="operations_engine:decorated", path=str(tmp_path / "calls"))
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=60)
    assert outcome["named"] == "second"  # it is tried twice


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"flow": "x.json"}, "load"),
        ({"flow": {"name": "x", "nodes": []}}, "load"),
        ({"flow": None}, "load"),
        ({"run_id": 5}, "run_id"),
        ({"inputs": [1]}, "inputs"),
    ],
    ids=str,
)
def test_what_is_no_workflow_no_id_and_no_inputs_is_refused(
    tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    given: dict[str, Any] = {"flow": sums(), **arguments}
    with make_supervisor(tmp_path) as supervisor, pytest.raises(UsageError, match=said):
        supervisor.run(**given)


def test_policies_of_a_decorator_count_for_files_unless_they_say_otherwise(tmp_path: Path) -> None:
    def node(name: str, **more: Any) -> dict[str, Any]:
        arguments = {"path": str(tmp_path / name)}
        return {
            "id": name,
            "type": "python",
            "call": "operations_engine:decorated",
            "arguments": arguments,
            **more,
        }

    spec = load_dict({"name": "policies", "nodes": [node("own"), node("said", retry=1, version="2")]})
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(spec, run_id="r", timeout=30)
    assert outcome.results["own"] == "second"
    assert lines(tmp_path / "own") == 2


def test_relaxed_runs_survive_in_order(tmp_path: Path) -> None:
    flow = Workflow("relaxed")
    before = None
    for i in range(30):
        before = flow.add(ops.echo, id=f"n{i}", value=[i], after=[before] if before else [])
    flow.add(ops.fail_while, id="gated", gate=str(tmp_path / "gate"), after=[before] if before else [])
    with make_supervisor(tmp_path, durability="relaxed") as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=30).status == "failed"
        (tmp_path / "gate").touch()
        run = supervisor.resume("r")
        assert run.completed == 30
        assert run.result(30).status == "succeeded"


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> bytes:
        raise AssertionError("pickled")

    with make_supervisor(tmp_path) as supervisor:
        supervisor.run(sums(), run_id="warm", timeout=30)
        monkeypatch.setattr(pickle, "dumps", refuse)
        monkeypatch.setattr(pickle, "loads", refuse)
        assert supervisor.run(sums(), run_id="r", timeout=30).status == "succeeded"


def test_large_results_go_through_and_too_large_ones_fail_their_node(tmp_path: Path) -> None:
    flow = Workflow("large")
    big = flow.add(ops.blob, id="big", size=20_000_000)
    flow.add(ops.length, id="length", value=big)
    flow.add(ops.blob, id="huge", size=80_000_000)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=60)
    assert outcome["length"] == 20_000_000
    assert outcome.status == "failed"
    assert outcome.errors.keys() == {"huge"}
    assert states(tmp_path, "r")["huge"] == "failed"


def test_a_run_without_anything_to_resume_is_told(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor, pytest.raises(NoCheckpointError):
        supervisor.run(sums(), run_id="r", must_exist=True)
    assert KEYS.source == "environment"


# ---------------------------------------------------------------------- endpoints


@pytest.mark.requirement("ORCH-005")
def test_an_open_breaker_makes_nodes_wait_without_burning_attempts(tmp_path: Path) -> None:
    flow = Workflow("api")
    first = flow.add(
        ops.boom, id="bad", endpoint="api", on_failure="continue", retry={"max_attempts": 2, "backoff": 0}
    )
    flow.add(ops.mark, id="good", path=str(tmp_path / "calls"), value="ok", endpoint="api", after=[first])
    policy = {"failures": 2, "open_s": 0.5, "successes": 1}
    with make_supervisor(tmp_path, breakers={"api": policy}) as supervisor:
        run = supervisor.start(flow, run_id="r")
        events = list(run.events())
        outcome = run.result(0)
    assert outcome.status == "succeeded"
    assert outcome["good"] == "ok"
    assert lines(tmp_path / "calls") == 1
    states_seen = [each.data["state"] for each in events if each.event == "breaker"]
    assert states_seen == ["open", "half_open", "closed"]
    waits = [each for each in events if each.event == "node_waiting" and each.node == "good"]
    assert [each.data["reason"] for each in waits][:1] == ["open breaker"]


@pytest.mark.requirement("ORCH-005")
def test_nodes_with_a_fallback_take_it_while_the_breaker_is_open(tmp_path: Path) -> None:
    flow = Workflow("api")
    first = flow.add(ops.boom, id="bad", endpoint="api", on_failure="continue")
    flow.add(
        ops.mark, id="saved", path=str(tmp_path / "calls"), endpoint="api", after=[first], fallback="cached"
    )
    with make_supervisor(tmp_path, breakers={"api": {"failures": 1, "open_s": 600}}) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=30)
    assert outcome.status == "succeeded"
    assert outcome["saved"] == "cached"
    assert not lines(tmp_path / "calls")


@pytest.mark.requirement("ORCH-005")
def test_an_open_breaker_stays_open_over_a_resume(tmp_path: Path) -> None:
    flow = Workflow("api")
    flow.add(ops.fail_while, id="first", gate=str(tmp_path / "gate"), endpoint="api")
    policy = {"failures": 1, "open_s": 4.0, "successes": 1}
    with make_supervisor(tmp_path, breakers={"api": policy}) as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=30).status == "failed"
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path, breakers={"api": policy}) as supervisor:
        run = supervisor.resume("r")
        waited = next(each for each in run.events() if each.event in ("node_waiting", "node_started"))
        assert (waited.event, waited.data["reason"]) == ("node_waiting", "open breaker")
        assert run.result(30).status == "succeeded"


@pytest.mark.requirement("ORCH-005")
def test_an_endpoint_is_called_by_no_more_than_its_limit(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    flow = Workflow("api")
    for i in range(8):
        flow.add(ops.overlap, id=f"n{i}", directory=str(tmp_path / "inside"), seconds=0.03, endpoint="api")
    with make_supervisor(tmp_path, workers=4, breakers={"api": {"max_concurrent": 2}}) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=30)
    assert max(outcome[f"n{i}"] for i in range(8)) <= 2


@pytest.mark.requirement("ORCH-005")
def test_a_guard_inside_an_operation_asks_the_same_breaker(tmp_path: Path) -> None:
    flow = Workflow("api")
    first = flow.add(ops.guarded, id="first", endpoint_name="api", fail=True, on_failure="continue")
    flow.add(ops.guarded, id="second", endpoint_name="api", fail=False, after=[first])
    with make_supervisor(tmp_path, breakers={"api": {"failures": 1, "open_s": 600}}) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=30)
    assert outcome.errors["first"]["type"] == "ValueError"
    assert outcome.errors["second"]["type"] == "BreakerOpenError"
    assert re.search(r"open until \d\d:\d\d:\d\d UTC; give", outcome.errors["second"]["message"])


def test_a_supervisor_that_fails_answers_its_runs_ends_its_workers_and_can_be_resumed(tmp_path: Path) -> None:
    """Its loop is served no more: nothing may wait for it."""
    flow = Workflow("long")
    first = flow.add(ops.echo, id="first", value=1)
    flow.add(ops.sleep, id="sleeps", after=[first], seconds=60)
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="fails")
        wait_until(lambda: "sleeps" in run.status().running)
        pids = supervisor.statistics().pids
        supervisor._actors.supervisor.tell(object())
        with pytest.raises(SageError, match="internal error in the supervisor"):
            run.result(timeout=10)
        wait_until(lambda: not any(map(pid_exists, pids)), timeout_s=5)
        began = time.monotonic()
        supervisor.close()
        assert time.monotonic() - began < 5
    assert states(tmp_path, "fails")["first"] == "succeeded"


def test_whoever_reads_results_leaves_no_file_open(tmp_path: Path) -> None:
    """A process that carries out runs for days has so many descriptors, and no more."""

    def opened() -> int:
        paths = (Path("/proc/self/fd") / each for each in os.listdir("/proc/self/fd"))
        return sum(str(tmp_path) in os.readlink(path) for path in paths if path.is_symlink())

    with make_supervisor(tmp_path) as supervisor:
        outcomes = [supervisor.run(sums(), run_id=f"r{number}") for number in range(4)]
        unread = opened()
        assert [each.results["total"] for each in outcomes] == [6] * 4
        assert opened() == unread  # while they are kept, too
    assert unread <= 3  # the audit log and its lock, which live as long as the supervisor


def test_what_nodes_print_is_kept_for_a_late_listener_up_to_a_size() -> None:
    run = Run("long", resumed=False, completed=0, notices=[], listening=True)
    run.publish(Event("run_started", "long", 0.0))
    for number in range(200):
        run.publish(Event("node_log", "long", float(number), "a", {"text": "x" * 1_000_000}))
        run.publish(Event("node_progress", "long", float(number), "a", {"progress": {"x": "y" * 100_000}}))
    run.publish(Event("run_finished", "long", 200.0))
    run.finish(None, ActorDeadError("over"))
    heard = list(run.events())
    assert heard[-1].event == "run_finished"
    assert 55 <= sum(event.event == "node_log" for event in heard) < 65

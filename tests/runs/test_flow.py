"""How a run flows: conditions, expansions, failures, retries, people, time. Real workers, real journals."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import (
    Script,
    history,
    journal_bytes,
    lines,
    make_supervisor,
    states,
    wait_until,
)

from sage_actors.messages.errors import UsageError
from sage_actors.messages.events import Event
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.handle import Outcome, Run

pytestmark = pytest.mark.requirement("ORCH-011")


def run(tmp_path: Path, flow: Any, **options: Any) -> Outcome:
    given = {key: options.pop(key) for key in list(options) if key in ("inputs", "on_event")}
    with make_supervisor(tmp_path, **options) as supervisor:
        return supervisor.run(flow, run_id="r", timeout=60, **given)


def collect(tmp_path: Path, flow: Any, **options: Any) -> tuple[Outcome, list[Event]]:
    with make_supervisor(tmp_path, **options) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        events = list(handle.events())
        return handle.result(0), events


def names(events: list[Event], event: str) -> list[str | None]:
    return [each.node for each in events if each.event == event]


# ---------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("value", "runs"),
    list(zip([True, 1, 0, "x", [0], False, None, "", [], {}], [True] * 5 + [False] * 5, strict=True)),
    ids=repr,
)
def test_a_condition_is_true_as_jmespath_has_it(tmp_path: Path, value: Any, runs: bool) -> None:
    flow = Workflow("when")
    given = flow.add(ops.echo, id="given", value=value)
    flow.add(ops.echo, id="node", value="ran", when=given)
    outcome = run(tmp_path, flow, durability="none")
    assert outcome.status == "succeeded"
    assert outcome.results["node"] == ("ran" if runs else None)


def test_a_skip_cascades_with_its_reason_and_does_not_fail_the_run(tmp_path: Path) -> None:
    flow = Workflow("when")
    given = flow.add(ops.echo, id="given", value={"go": False})
    skipped = flow.add(ops.mark, id="skipped", path=str(tmp_path / "ran"), when="${given | go}")
    flow.add(ops.mark, id="after", path=str(tmp_path / "ran"), value=skipped)
    flow.add(ops.echo, id="all_done", value=skipped, trigger="all_done")
    flow.add(ops.echo, id="any", value=[skipped, given], trigger="any_success")
    outcome, events = collect(tmp_path, flow)
    assert outcome.status == "succeeded"
    assert outcome["any"] == [None, {"go": False}]
    assert states(tmp_path, "r") == {
        "given": "succeeded",
        "skipped": "skipped",
        "after": "skipped",
        "all_done": "succeeded",
        "any": "succeeded",
    }
    reasons = {each.node: each.data["reason"] for each in events if each.event == "node_skipped"}
    assert reasons.keys() == {"skipped", "after"}
    assert "${given | go}" in reasons["skipped"]
    assert reasons["after"] == "skipped was skipped"
    assert not lines(tmp_path / "ran")


# ---------------------------------------------------------------------- foreach


@pytest.mark.parametrize("durability", ["strict", "relaxed", "none"])
def test_foreach_runs_a_node_per_item_and_gathers_the_results_in_order(
    tmp_path: Path, durability: str
) -> None:
    flow = Workflow("foreach")
    items = flow.add(ops.numbers, id="items", count=20)
    each = flow.add(ops.echo, id="each", foreach=items, value=["${item}", "${index}", "n${item}"])
    flow.add(ops.echo, id="end", value=each)
    outcome, events = collect(tmp_path, flow, durability=durability)
    assert outcome["end"] == [[i, i, f"n{i}"] for i in range(20)]
    assert outcome["each[7]"] == [7, 7, "n7"]
    assert sorted(filter(None, names(events, "node_succeeded"))) == sorted(
        ["items", "each", "end", *(f"each[{i}]" for i in range(20))]
    )


def test_an_empty_list_expands_to_an_empty_result(tmp_path: Path) -> None:
    flow = Workflow("foreach")
    items = flow.add(ops.numbers, id="items", count=0)
    each = flow.add(ops.mark, id="each", foreach=items, path=str(tmp_path / "ran"))
    flow.add(ops.echo, id="end", value=each)
    assert run(tmp_path, flow)["end"] == []
    assert not lines(tmp_path / "ran")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "null: there is nothing under that path"),
        ("text", "a text of 4 characters: make a list of it"),
        (3, "a number: name a list"),
        (True, "true or false: name a list"),
        ({"a": 1}, "a map of 1 key: name a list in it"),
        ({"a": 1, "found": [], "b": {}}, "a map, in which found is a list: write ${items | value.found}"),
    ],
    ids=repr,
)
def test_foreach_over_what_is_no_list_fails_the_node_and_says_so(
    tmp_path: Path, value: Any, said: str
) -> None:
    flow = Workflow("foreach")
    flow.add(ops.echo, id="items", value={"value": value})
    flow.add(ops.echo, id="each", foreach="${items | value}", value="${item}")
    outcome = run(tmp_path, flow, durability="none")
    assert outcome.status == "failed"
    assert f"foreach of each needs a list; ${{items | value}} is {said}" in outcome.errors["each"]["message"]


def test_tolerated_failures_of_children_are_null_in_the_list(tmp_path: Path) -> None:
    flow = Workflow("foreach")
    each = flow.add(ops.fail_if, id="each", foreach=[1, 2, 3], value="${item}", bad=2, on_failure="continue")
    flow.add(ops.echo, id="end", value=each)
    outcome = run(tmp_path, flow)
    assert outcome.status == "succeeded"
    assert outcome["end"] == [1, None, 3]


@pytest.mark.parametrize("on_failure", ["fail", "skip"])
def test_a_failed_child_fails_the_expansion_when_all_its_siblings_ended(
    tmp_path: Path, on_failure: str
) -> None:
    flow = Workflow("foreach")
    each = flow.add(ops.fail_if, id="each", foreach=[1, 2, 3], value="${item}", bad=2, on_failure=on_failure)
    flow.add(ops.echo, id="end", value=each)
    outcome = run(tmp_path, flow)
    assert outcome.status == ("failed" if on_failure == "fail" else "succeeded")
    found = states(tmp_path, "r")
    assert [found[f"each[{i}]"] for i in range(3)] == ["succeeded", "failed", "succeeded"]
    assert (found["each"], found["end"]) == ("failed", "skipped")
    assert outcome["each[2]"] == 3


def test_children_are_retried_one_by_one(tmp_path: Path) -> None:
    flow = Workflow("foreach")
    each = flow.add(
        ops.fail_until,
        id="each",
        foreach=[0, 1, 2],
        path=str(tmp_path / "calls-${item}"),
        times="${item}",
        value="${item}",
        retry={"max_attempts": 3, "backoff": 0},
    )
    flow.add(ops.total, id="sum", numbers=each)
    assert run(tmp_path, flow)["sum"] == 3
    assert [lines(tmp_path / f"calls-{i}") for i in range(3)] == [1, 2, 3]


# ---------------------------------------------------------------------- sub-workflows


def nested(tmp_path: Path, depth: int) -> Workflow:
    flow = Workflow(f"level-{depth}", inputs={"n": 0})
    if depth == 0:
        flow.add(ops.mark, id="leaf", path=str(tmp_path / "leaf"), value="${inputs.n}")
    else:
        inner = nested(tmp_path, depth - 1).to_dict()
        flow.add("workflow", id="sub", definition=inner, inputs={"n": "${inputs.n}"})
    return flow


def test_sub_workflows_nest_and_give_their_leaves_by_id(tmp_path: Path) -> None:
    flow = Workflow("top")
    three = flow.add(ops.echo, id="three", value=3)
    sub = flow.add("workflow", id="sub", definition=nested(tmp_path, 2).to_dict(), inputs={"n": three})
    flow.add(ops.echo, id="end", value="${sub | sub.sub.leaf}", after=[sub])
    outcome = run(tmp_path, flow)
    assert outcome["sub"] == {"sub": {"sub": {"leaf": 3}}}
    assert outcome["end"] == 3
    assert outcome["sub/sub/sub/leaf"] == 3


def test_a_sub_workflow_per_item(tmp_path: Path) -> None:
    flow = Workflow("top")
    inner = nested(tmp_path, 0)
    two = inner.add(ops.echo, id="two", value="${inputs.n}")
    inner.add(ops.echo, id="each", foreach=[1, 2], value=["${item}", two])
    subs = flow.add(
        "workflow", id="subs", foreach=["a", "b"], definition=inner.to_dict(), inputs={"n": "${item}"}
    )
    flow.add(ops.echo, id="end", value=subs)
    outcome = run(tmp_path, flow)
    assert outcome.status == "succeeded", outcome.reason
    assert outcome["end"] == [{"leaf": n, "each": [[1, n], [2, n]]} for n in ("a", "b")]
    assert outcome["subs[1]/each[0]"] == [1, "b"]


def test_the_failure_of_a_sub_workflow_is_its_nodes_failure(tmp_path: Path) -> None:
    inner = Workflow("inner")
    bad = inner.add(ops.boom, id="bad")
    inner.add(ops.echo, id="next", value=bad)
    flow = Workflow("top")
    failed = flow.add("workflow", id="failed", definition=inner.to_dict())
    tolerated = flow.add("workflow", id="tolerated", definition=inner.to_dict(), on_failure="continue")
    saved = flow.add("workflow", id="saved", definition=inner.to_dict(), fallback={"next": "instead"})
    flow.add(ops.echo, id="after-failed", value=failed)
    flow.add(ops.echo, id="after-tolerated", value=tolerated)
    flow.add(ops.echo, id="after-saved", value=saved)
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert "failed/bad" in outcome.errors["failed"]["message"]
    found = states(tmp_path, "r")
    assert (found["failed/next"], found["after-failed"]) == ("skipped", "skipped")
    assert outcome.results["after-tolerated"] is None
    assert found["after-tolerated"] == "succeeded"
    assert outcome.results["after-saved"] == {"next": "instead"}


def test_bad_inputs_of_a_sub_workflow_fail_its_node(tmp_path: Path) -> None:
    inner = Workflow("inner", inputs={"n": 0})
    inner.add(ops.echo, id="one", value="${inputs.n}")
    data = inner.to_dict()
    data["inputs"]["n"] = {"type": "integer"}
    flow = Workflow("top")
    text = flow.add(ops.echo, id="text", value="no number")
    flow.add("workflow", id="sub", definition=data, inputs={"n": text})
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert "integer" in outcome.errors["sub"]["message"]


# ---------------------------------------------------------------------- failures


def failing(on_failure: str, trigger: str) -> Workflow:
    flow = Workflow("failing")
    good = flow.add(ops.echo, id="good", value="good")
    bad = flow.add(ops.boom, id="bad", on_failure=on_failure)
    flow.add(ops.echo, id="both", value=[good, bad], trigger=trigger)
    flow.add(ops.echo, id="only-bad", value=bad, trigger=trigger)
    return flow


@pytest.mark.parametrize(
    ("on_failure", "trigger", "both", "only_bad"),
    [
        ("fail", "all_success", "skipped", "skipped"),
        ("fail", "all_done", "succeeded", "succeeded"),
        ("fail", "any_success", "succeeded", "skipped"),
        ("continue", "all_success", "succeeded", "succeeded"),
        ("continue", "all_done", "succeeded", "succeeded"),
        ("continue", "any_success", "succeeded", "skipped"),
        ("skip", "all_success", "skipped", "skipped"),
        ("skip", "all_done", "succeeded", "succeeded"),
        ("skip", "any_success", "succeeded", "skipped"),
    ],
)
def test_triggers_against_ways_to_fail(
    tmp_path: Path, on_failure: str, trigger: str, both: str, only_bad: str
) -> None:
    outcome = run(tmp_path, failing(on_failure, trigger))
    assert outcome.status == ("failed" if on_failure == "fail" else "succeeded")
    found = states(tmp_path, "r")
    assert (found["both"], found["only-bad"]) == (both, only_bad)
    assert outcome.results["both"] == (["good", None] if both == "succeeded" else None)
    assert outcome.errors["bad"]["type"] == "ValueError"


def test_a_failure_stops_only_what_depends_on_it(tmp_path: Path) -> None:
    flow = Workflow("partial")
    bad = flow.add(ops.boom, id="bad")
    flow.add(ops.echo, id="held", value=bad)
    before = None
    for i in range(5):
        before = flow.add(ops.echo, id=f"free-{i}", value=i, after=[before] if before else [])
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert outcome["free-4"] == 4
    assert outcome.exit_code == 1
    assert "bad failed: ValueError: broken" in outcome.reason


def test_a_fallback_takes_the_place_of_a_result(tmp_path: Path) -> None:
    flow = Workflow("fallback")
    good = flow.add(ops.echo, id="good", value={"old": [1]})
    saved = flow.add(ops.boom, id="saved", fallback="${good | old}", after=[good])
    null = flow.add(ops.boom, id="null", fallback=None)
    flow.add(ops.echo, id="end", value=[saved, null])
    outcome, events = collect(tmp_path, flow)
    assert outcome.status == "succeeded"
    assert outcome["end"] == [[1], None]
    taken = [each.node for each in events if each.event == "node_succeeded" and each.data.get("fallback")]
    assert sorted(filter(None, taken)) == ["null", "saved"]


def test_why_a_fallback_was_taken_is_told_at_the_end_and_later(tmp_path: Path) -> None:
    inner = Workflow("inner")
    inner.add(ops.boom, id="bad")
    flow = Workflow("fallback")
    flow.add(ops.fail_until, id="tried", path=str(tmp_path / "tried"), times=1, retry=2, fallback="unused")
    flow.add(ops.boom, id="saved", fallback="instead")
    flow.add(ops.echo, id="each", foreach="${saved | nothing}", value=1, fallback=[])
    flow.add("workflow", id="sub", definition=inner.to_dict(), fallback=0)
    outcome, events = collect(tmp_path, flow)
    assert outcome.status == "succeeded"
    whys = {
        "saved": "ValueError: broken",
        "each": "ResultError: foreach of each",
        "sub": "OperationError: 1 of 1",
    }
    for said in (outcome.fallbacks, run(tmp_path, flow).fallbacks):
        assert said.keys() == whys.keys()
        for name, error in said.items():
            assert f"{error['type']}: {error['message']}".startswith(whys[name])
    failed = [each.node for each in events if each.event == "node_failed" and each.data.get("fallback")]
    assert sorted(filter(None, failed)) == sorted(whys)
    past = history(tmp_path, "r")
    for name, why in whys.items():
        assert past.node(name).reason.startswith(f"took its fallback: {why}")
    assert past.node("tried").reason == ""


def test_results_that_cannot_be_carried_fail_their_node_with_the_path(tmp_path: Path) -> None:
    flow = Workflow("results")
    flow.add(ops.unpackable, id="bad", retry=3)
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert "value['rows'][1] is of type builtins.object" in outcome.errors["bad"]["message"]
    assert history(tmp_path, "r").node("bad").attempts == 1


# ---------------------------------------------------------------------- phases


def phased(tmp_path: Path, *, min_success: float | None, fails: int, of: int = 4) -> Any:
    operations = [
        {
            "id": f"op-{i}",
            "type": "python",
            "call": "operations_engine:fail_while",
            "arguments": {"gate": str(tmp_path / ("gate" if i < fails else ".")), "value": i},
        }
        for i in range(of)
    ]
    first: dict[str, Any] = {"id": "one", "operations": operations}
    if min_success is not None:
        first["min_success"] = min_success
    call = {"type": "python", "call": "operations_engine:echo"}
    second = {
        "id": "two",
        "dependencies": ["one"],
        "operations": [{"id": "join", **call, "arguments": {"value": ["${one/op-0}", "${one/op-3}"]}}],
    }
    return load_dict({"name": "phased", "phases": [first, second]})


def test_a_phase_waits_for_all_of_the_phase_before(tmp_path: Path) -> None:
    outcome, events = collect(tmp_path, phased(tmp_path, min_success=None, fails=0))
    assert outcome.status == "succeeded"
    assert outcome["two/join"] == [0, 3]
    done = [
        (each.data["phase"], each.data["succeeded"]) for each in events if each.event == "phase_completed"
    ]
    assert done == [("one", 4), ("two", 1)]
    order = [each.node for each in events if each.event in ("node_started", "node_succeeded")]
    assert order.index("two/join") > max(order.index(f"one/op-{i}") for i in range(4))


def test_a_phase_with_a_failure_holds_the_next_back(tmp_path: Path) -> None:
    outcome = run(tmp_path, phased(tmp_path, min_success=None, fails=1))
    assert outcome.status == "failed"
    assert states(tmp_path, "r")["two/join"] == "skipped"


def test_min_success_lets_the_next_phase_see_null_for_what_failed(tmp_path: Path) -> None:
    outcome = run(tmp_path, phased(tmp_path, min_success=0.75, fails=1))
    assert outcome.status == "succeeded"
    assert outcome["two/join"] == [None, 3]


def test_below_min_success_the_run_pauses_and_a_resume_tries_again(tmp_path: Path) -> None:
    flow = phased(tmp_path, min_success=0.75, fails=2)
    outcome = run(tmp_path, flow)
    assert (outcome.status, outcome.exit_code) == ("paused", 5)
    assert "2 of 4" in outcome.reason
    (tmp_path / "gate").touch()
    outcome = run(tmp_path, flow)
    assert outcome.status == "succeeded"
    assert outcome["two/join"] == [0, 3]
    assert [history(tmp_path, "r").node(f"one/op-{i}").attempts for i in range(4)] == [2, 2, 1, 1]


# ---------------------------------------------------------------------- retries


def test_retries_back_off_and_say_when(tmp_path: Path) -> None:
    flow = Workflow("retries")
    retry = {"max_attempts": 3, "backoff": 0.1, "factor": 3, "jitter": 0}
    flow.add(ops.fail_until, id="flaky", path=str(tmp_path / "calls"), times=2, value="ok", retry=retry)
    outcome, events = collect(tmp_path, flow)
    assert outcome["flaky"] == "ok"
    assert not outcome.errors
    failed = [each for each in events if each.event == "node_failed"]
    assert [each.data["retry_in"] for each in failed] == [0.1, 0.3]
    started = [each.time for each in events if each.event == "node_started"]
    waits = [again - end.time for again, end in zip(started[1:], failed, strict=True)]
    # The delay counts from the decision; its event is stamped when it is told, which may be later.
    assert waits[0] > 0.05
    assert waits[1] > 0.2


def test_retries_end_with_the_last_error(tmp_path: Path) -> None:
    flow = Workflow("retries")
    flow.add(
        ops.fail_until,
        id="flaky",
        path=str(tmp_path / "calls"),
        times=9,
        retry={"max_attempts": 3, "backoff": 0},
    )
    outcome = run(tmp_path, flow)
    assert outcome.errors["flaky"]["message"] == "call 3"
    assert lines(tmp_path / "calls") == 3


def test_only_errors_that_are_named_are_retried(tmp_path: Path) -> None:
    flow = Workflow("retries")
    for name, on in (("yes", ["RuntimeError"]), ("no", ["OSError"])):
        retry = {"max_attempts": 3, "backoff": 0, "on": on}
        flow.add(ops.fail_until, id=name, path=str(tmp_path / name), times=1, retry=retry)
    run(tmp_path, flow)
    assert (lines(tmp_path / "yes"), lines(tmp_path / "no")) == (2, 1)


def test_retry_after_of_the_other_side_is_waited_for(tmp_path: Path) -> None:
    flow = Workflow("busy")
    flow.add(ops.busy, path=str(tmp_path / "calls"), retry_after=0.4, retry={"max_attempts": 2, "backoff": 0})
    outcome, events = collect(tmp_path, flow)
    assert outcome["busy"] == "through"
    failed = next(each for each in events if each.event == "node_failed")
    second = [each for each in events if each.event == "node_started"][1]
    assert second.time - failed.time >= 0.4 - 0.01


def test_a_crashed_worker_costs_no_retry_and_its_node_runs_again(tmp_path: Path) -> None:
    flow = Workflow("crash")
    flow.add(ops.die_until, id="dies", path=str(tmp_path / "calls"), times=2, value="alive")
    outcome, events = collect(tmp_path, flow)
    assert outcome["dies"] == "alive"
    assert [each.data["nodes"] for each in events if each.event == "worker_lost"] == [["dies"]] * 2
    assert history(tmp_path, "r").node("dies").crashes == 2


def test_a_node_that_kills_every_worker_is_poisonous_and_others_are_not_blamed(tmp_path: Path) -> None:
    flow = Workflow("poison")
    flow.add(ops.die_until, id="poison", path=str(tmp_path / "calls"), times=99)
    for i in range(30):
        flow.add(ops.mark, id=f"good-{i}", path=str(tmp_path / "good"), value=i)
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert outcome.errors.keys() == {"poison"}
    assert outcome.errors["poison"]["type"] == "PoisonedError"
    assert "signal 9" in outcome.errors["poison"]["message"]
    assert lines(tmp_path / "calls") == 3
    assert outcome.counts["succeeded"] == 30


# ---------------------------------------------------------------------- order and width


def test_the_most_urgent_ready_node_goes_first(tmp_path: Path) -> None:
    flow = Workflow("priorities")
    path = str(tmp_path / "order")
    gate = flow.add(ops.echo, id="gate")
    for name, priority in (("low", -1), ("plain", 0), ("high", 5), ("higher", 9)):
        flow.add(ops.note_order, id=name, path=path, name=name, after=[gate], priority=priority)
    run(tmp_path, flow, workers=1)
    assert Path(path).read_text().split() == ["higher", "high", "plain", "low"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_concurrency_of_a_run_is_never_exceeded(tmp_path: Path, limit: int) -> None:
    flow = Workflow("width", concurrency=limit)
    (tmp_path / "inside").mkdir()
    for i in range(12):
        flow.add(ops.overlap, id=f"n{i}", directory=str(tmp_path / "inside"), seconds=0.03)
    outcome = run(tmp_path, flow, workers=6)
    seen = [outcome[f"n{i}"] for i in range(12)]
    assert max(seen) <= limit
    if limit > 1:
        assert max(seen) > 1  # and they do run at once


def test_async_nodes_count_towards_the_concurrency(tmp_path: Path) -> None:
    flow = Workflow("width", concurrency=3)
    (tmp_path / "inside").mkdir()
    for i in range(9):
        operation = ops.overlap_async if i % 2 else ops.overlap
        flow.add(operation, id=f"n{i}", directory=str(tmp_path / "inside"), seconds=0.05)
    outcome = run(tmp_path, flow, workers=4)
    assert outcome.status == "succeeded"
    assert max(outcome[f"n{i}"] for i in range(9)) <= 3


# ---------------------------------------------------------------------- people


def asking(tmp_path: Path) -> Workflow:
    flow = Workflow("asking")
    asked = flow.add("approval", id="asked", message="ship ${shown}?", timeout=None)
    flow.add(ops.echo, id="shown", value="v1")
    flow.add(ops.mark, id="ship", path=str(tmp_path / "shipped"), value=asked)
    flow.add(ops.echo, id="told", value=asked, trigger="all_done")
    return flow


def wait_until_asked(handle: Run) -> Event:
    return next(each for each in handle.events() if each.event == "node_waiting")


def test_an_approval_waits_for_a_person_and_hands_their_data_on(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(asking(tmp_path), run_id="r")
        event = wait_until_asked(handle)
        assert event.data["message"] == "ship v1?"
        assert handle.status().waiting == {"asked": "approval"}
        handle.approve("asked", data={"when": "now"}, by="ann")
        assert handle.result(30)["ship"] == {"approved": True, "data": {"when": "now"}, "by": "ann"}


def test_a_rejection_fails_the_node_and_what_depends_on_it_does_not_run(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(asking(tmp_path), run_id="r")
        wait_until_asked(handle)
        handle.approve("asked", approved=False, data="no", by="ann")
        outcome = handle.result(30)
    assert outcome.status == "failed"
    assert outcome.errors["asked"]["type"] == "RejectedError"
    assert outcome.results["told"] is None
    assert not lines(tmp_path / "shipped")


def test_an_answer_is_on_disk_when_approve_returns(tmp_path: Path) -> None:
    flow = asking(tmp_path)
    flow.add(ops.mark_and_wait_for, id="slow", path=str(tmp_path / "slow"), gate=str(tmp_path / "gate"))
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        wait_until_asked(handle)
        handle.approve("asked", by="ann")
        assert history(tmp_path, "r").decisions()[0]["by"] == "ann"
        assert history(tmp_path, "r").value("asked")["approved"] is True
        with pytest.raises(UsageError, match="does not wait for an approval"):
            handle.approve("asked")
        with pytest.raises(UsageError, match="no node 'nope'"):
            handle.approve("nope")
        (tmp_path / "gate").touch()
        handle.result(30).raise_for_status()


def test_where_nobody_waits_for_people_the_run_pauses_when_only_approvals_remain(tmp_path: Path) -> None:
    flow = asking(tmp_path)
    flow.add(ops.mark, id="beside", path=str(tmp_path / "beside"))
    outcome = run(tmp_path, flow, waits_for_people=False)
    assert (outcome.status, outcome.exit_code) == ("paused", 5)
    assert "approval: asked" in outcome.reason
    assert lines(tmp_path / "beside") == 1


# ---------------------------------------------------------------------- time


def test_a_wait_takes_its_time_and_no_worker(tmp_path: Path) -> None:
    flow = Workflow("waits")
    for i in range(10):
        flow.add("wait", id=f"wait-{i}", seconds=0.3)
    outcome, events = collect(tmp_path, flow, workers=1)
    assert outcome.status == "succeeded"
    assert 0.3 <= outcome.seconds < 3
    assert not names(events, "node_started")


@pytest.mark.chaos
def test_a_wait_survives_a_kill_and_is_not_begun_anew(tmp_path: Path) -> None:
    body = f"""
        flow = Workflow("waits")
        begun = flow.add(ops.mark, id="begun", path={str(tmp_path / "begun")!r})
        flow.add("wait", id="pause", seconds=4, after=[begun])
        with Supervisor({str(tmp_path)!r}, workers=1) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body):
        wait_until(lambda: lines(tmp_path / "begun"))
        wait_until(lambda: states(tmp_path, "r")["pause"] == "waiting")
        begun = time.time()
    with make_supervisor(tmp_path) as supervisor:
        supervisor.resume("r").result(30).raise_for_status()
    took = time.time() - begun
    assert took >= 3.8
    waiting = [each for each in history(tmp_path, "r").records() if each["record"] == "node_waiting"]
    assert len(waiting) == 1
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.resume("r").result(1).status == "succeeded"


@pytest.mark.chaos
def test_a_retry_that_was_waiting_when_the_supervisor_was_killed_waits_on(tmp_path: Path) -> None:
    body = f"""
        flow = Workflow("retries")
        flow.add(ops.fail_until, id="flaky", path={str(tmp_path / "calls")!r}, times=1, value="ok",
                 retry={{"max_attempts": 2, "backoff": 3, "jitter": 0}})
        with Supervisor({str(tmp_path)!r}, workers=1) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body):
        wait_until(lambda: lines(tmp_path / "calls"))
        wait_until(lambda: states(tmp_path, "r")["flaky"] == "waiting")
        failed = time.time()
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.resume("r")
        assert lines(tmp_path / "calls") == 1
        assert handle.result(30)["flaky"] == "ok"
    assert time.time() - failed >= 2.5


def test_a_node_that_takes_too_long_is_killed_and_retried(tmp_path: Path) -> None:
    flow = Workflow("timeouts")
    flow.add(
        ops.mark_and_wait_for,
        id="slow",
        path=str(tmp_path / "calls"),
        gate=str(tmp_path / "gate"),
        timeout=1.5,
        retry={"max_attempts": 2, "backoff": 0},
    )
    flow.add(
        ops.mark_and_wait_async,
        id="slow-async",
        path=str(tmp_path / "async"),
        gate=str(tmp_path / "gate"),
        timeout=1.5,
    )
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert {each["type"] for each in outcome.errors.values()} == {"TimeoutExceeded"}
    assert "1.5 s" in outcome.errors["slow"]["message"]
    assert (lines(tmp_path / "calls"), lines(tmp_path / "async")) == (2, 1)
    assert history(tmp_path, "r").node("slow").crashes == 0


def test_a_run_that_takes_too_long_fails_and_can_be_resumed(tmp_path: Path) -> None:
    flow = Workflow("timeouts", timeout=2.5)
    flow.add(ops.mark, id="quick", path=str(tmp_path / "quick"))
    flow.add(ops.mark_and_wait_for, id="slow", path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"))
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert "timeout of 2.5 s" in outcome.reason
    (tmp_path / "gate").touch()
    assert run(tmp_path, flow).status == "succeeded"
    assert (lines(tmp_path / "quick"), lines(tmp_path / "calls")) == (1, 2)


def test_a_run_times_out_while_it_only_waits(tmp_path: Path) -> None:
    flow = Workflow("timeouts", timeout=1.5)
    flow.add("wait", id="pause", seconds=60)
    outcome = run(tmp_path, flow)
    assert outcome.status == "failed"
    assert outcome.seconds < 10


# ---------------------------------------------------------------------- stopping


def slow(tmp_path: Path) -> Workflow:
    flow = Workflow("slow")
    first = flow.add(
        ops.mark_and_wait_for, id="first", path=str(tmp_path / "first"), gate=str(tmp_path / "gate")
    )
    flow.add(ops.mark, id="next", path=str(tmp_path / "next"), value=first)
    flow.add(ops.mark_and_wait_async, id="async", path=str(tmp_path / "async"), gate=str(tmp_path / "gate"))
    return flow


def wait_until_running(tmp_path: Path) -> None:
    wait_until(lambda: lines(tmp_path / "first") and lines(tmp_path / "async"), what="both nodes run")


def test_a_cancel_ends_what_runs_and_is_told(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(slow(tmp_path), run_id="r")
        wait_until_running(tmp_path)
        handle.cancel()
        outcome = handle.result(0.1)
        assert (outcome.status, outcome.exit_code) == ("cancelled", 1)
        handle.cancel()  # twice is harmless
    assert history(tmp_path, "r").status == "cancelled"
    assert not lines(tmp_path / "next")


def test_a_graceful_stop_lets_running_nodes_end_and_keeps_their_results(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(slow(tmp_path), run_id="r")
        wait_until_running(tmp_path)
        supervisor.stop(grace_s=30)
        threading.Timer(0.2, (tmp_path / "gate").touch).start()
        outcome = handle.result(20)
    assert (outcome.status, outcome.reason, outcome.exit_code) == ("paused", "interrupted", 130)
    assert states(tmp_path, "r") == {"first": "succeeded", "next": "pending", "async": "succeeded"}
    assert run(tmp_path, slow(tmp_path)).status == "succeeded"
    assert (lines(tmp_path / "first"), lines(tmp_path / "next")) == (1, 1)


def test_a_stop_ends_what_outlasts_the_grace(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(slow(tmp_path), run_id="r")
        wait_until_running(tmp_path)
        supervisor.stop(grace_s=0.2)
        assert handle.result(20).reason == "interrupted"
    (tmp_path / "gate").touch()
    assert run(tmp_path, slow(tmp_path)).status == "succeeded"
    assert (lines(tmp_path / "first"), lines(tmp_path / "next")) == (2, 1)


def test_an_abort_stops_at_once_and_the_run_is_resumable(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(slow(tmp_path), run_id="r")
        wait_until_running(tmp_path)
        supervisor.abort()
        assert handle.result(10).exit_code == 130
    (tmp_path / "gate").touch()
    assert run(tmp_path, slow(tmp_path)).status == "succeeded"


# ---------------------------------------------------------------------- secrets


@pytest.mark.requirement("ORCH-016")
def test_secrets_reach_the_operation_and_never_the_journal(tmp_path: Path) -> None:
    secret = "s3cr3t-5f0c9a1e-value"
    flow = Workflow("secrets")
    size = flow.add(ops.length_of, id="size", secret="Bearer ${env.API_TOKEN}")
    flow.add(ops.length_of, id="again", secret="${env.API_TOKEN}", after=[size])
    outcome = run(tmp_path, flow, environ={"API_TOKEN": secret, "PATH": "/usr/bin:/bin"})
    assert outcome.status == "succeeded", outcome.reason
    assert (outcome["size"], outcome["again"]) == (len("Bearer ") + len(secret), len(secret))
    told = "".join(map(str, history(tmp_path, "r").records()))
    assert secret not in told
    assert secret.encode() not in journal_bytes(tmp_path, "r")


def test_a_missing_secret_fails_its_node_and_names_it(tmp_path: Path) -> None:
    flow = Workflow("secrets")
    flow.add(ops.length_of, id="size", secret="${env.API_TOKEN}")
    flow.add(ops.length_of, id="key", secret="${env.SAGE_STATE_KEY}")
    outcome = run(tmp_path, flow, environ={"SAGE_STATE_KEY": "x"})
    assert outcome.status == "failed"
    assert "API_TOKEN" in outcome.errors["size"]["message"]
    assert "SAGE_STATE_KEY" in outcome.errors["key"]["message"]

"""One run's decisions, event by event: what simulation found, and the corners that it does not reach."""

from __future__ import annotations

from typing import Any

import pytest
from core_harness import Core, flow, node

from sage_actors.messages.errors import ResultError, StorageError
from sage_actors.messages.records import LogLines, NodeFailed, NodesSucceeded
from sage_actors.messages.wire import Evidence
from sage_actors.supervisor.core import run_core, run_expansions, run_values, run_waits

pytestmark = pytest.mark.requirement("ORCH-002")

ASK = {"type": "approval"}
WAIT = {"type": "wait", "seconds": 60}
TOKEN = ("answer", 1)


def ended(definition: dict[str, Any], value: Any = None, **options: Any) -> tuple[Core, run_core.RunCore]:
    """A run after all of its nodes were answered with `value`."""
    core = Core()
    run = core.run(definition, **options)
    core.carry_out(value)
    return core, run


# People


def test_an_answer_that_cannot_be_stored_changes_nothing() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **ASK)]})
    core.ack()
    with pytest.raises(ResultError, match="the given data"):
        run.decide(0, approved=True, data=object(), by="me", token=TOKEN)
    run.decide(0, approved=True, data=1, by="me", token=TOKEN)
    core.ack()
    assert run.status == "succeeded"
    assert run.results() == {"a": {"approved": True, "data": 1, "by": "me"}}


def test_a_resolution_that_cannot_be_stored_leaves_the_doubt() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once"), node("b", **WAIT)]})
    core.ack()
    core.engine.ready(1)
    core.lose(1)
    core.ack()
    with pytest.raises(ResultError, match="the given result"):
        run.resolve(0, how="result", result=object(), by="me", token=TOKEN)
    assert run.doubts == {0}
    run.resolve(0, how="result", result=7, by="me", token=TOKEN)
    core.clock.advance(61)
    core.ack()
    assert run.results()["a"] == 7


@pytest.mark.parametrize("how", ["fail", "retry"])
@pytest.mark.requirement("G-07")
def test_a_doubt_is_settled_by_a_person(how: str) -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once"), node("b", **WAIT)]})
    core.ack()
    core.engine.ready(1)
    core.take()
    core.lose(1)
    core.ack()
    assert core.submitted == []
    assert core.state(run, "a") == "in_doubt"
    run.resolve(0, how=how, result=None, by="me", token=TOKEN)
    core.engine.dispatch()
    assert core.carry_out() == (["a"] if how == "retry" else [])
    core.clock.advance(61)
    core.ack()
    assert core.state(run, "a") == ("succeeded" if how == "retry" else "failed")
    assert run.status == ("succeeded" if how == "retry" else "failed")


def test_a_rejection_is_a_failure_with_its_reason() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **ASK), node("b", "a")]})
    core.ack()
    run.decide(0, approved=False, data="too early", by="me", token=TOKEN)
    core.ack()
    assert "a was rejected by me: too early" in run.errors[0]["message"]
    assert core.state(run, "b") == "skipped"
    assert run.status == "failed"


def test_a_rejection_leads_to_the_fallback_where_there_is_one() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **ASK, fallback="no"), node("b", "a")]})
    core.ack()
    run.decide(0, approved=False, data=None, by="me", token=TOKEN)
    assert core.carry_out() == ["b"]
    assert run.status == "succeeded"
    assert core.told("node_failed")[0].data["fallback"]


def test_what_is_resolved_as_failed_takes_its_fallback() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once", fallback="no"), node("b", "a"), node("c")]})
    core.ack()
    worker = {row[4]: worker for worker, row in core.take()}["a"]
    core.engine.ready(worker)
    core.engine.lost(worker, Evidence(exitcode=-9))
    core.ack()
    assert core.state(run, "a") == "in_doubt"
    run.resolve(0, how="fail", result=None, by="me", token=TOKEN)
    core.ack()
    core.ack()
    assert (core.state(run, "a"), core.state(run, "b")) == ("succeeded", "ready")
    assert core.told("node_failed")[0].data["fallback"]


@pytest.mark.parametrize("more", [{}, {"fallback": 7}, {"on_failure": "continue"}])
def test_an_approval_that_nobody_answers_in_time_has_failed(more: dict[str, Any]) -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **ASK, timeout=60, **more), node("b", "a")]})
    core.ack()
    assert core.told("node_waiting")[0].data["until"] == core.clock.now() + 60
    core.clock.advance(59)
    core.ack()
    assert core.state(run, "a") == "waiting"
    core.clock.advance(1)
    core.carry_out()
    assert core.told("node_failed")[0].data["error"]["type"] == "TimeoutExceeded"
    assert core.state(run, "a") == ("succeeded" if "fallback" in more else "failed")
    assert core.state(run, "b") == ("succeeded" if more else "skipped")
    assert run.status == ("succeeded" if more else "failed")


@pytest.mark.parametrize("definition", [{**ASK, "timeout": 60}, {**WAIT, "seconds": 100, "timeout": 60}])
def test_a_timeout_counts_from_the_begin_of_the_wait_over_a_resume(definition: dict[str, Any]) -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **definition)]})
    core.ack()
    core.clock.advance(50)
    again = core.resume(run)
    core.clock.advance(9)
    core.ack()
    assert core.state(again, "a") == "waiting"
    core.clock.advance(1.5)
    core.ack()
    assert again.status == "failed"
    assert again.errors[0]["type"] == "TimeoutExceeded"


def test_an_approval_whose_time_was_over_before_a_resume_asks_nobody() -> None:
    core = Core()
    late = node("a", **{**ASK, "timeout": 60, "fallback": "late"})
    run = core.run({"nodes": [late]}, waits_for_people=False)
    core.ack()
    assert run.status == "paused"
    core.clock.advance(61)
    again = core.resume(run, waits_for_people=False)
    core.ack()
    assert (again.status, again.results()) == ("succeeded", {"a": "late"})


def test_an_answer_in_time_is_not_undone_by_the_timeout() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **ASK, timeout=60), node("b", **WAIT)]})
    core.ack()
    run.decide(0, approved=True, data=None, by="me", token=TOKEN)
    core.clock.advance(61)
    core.ack()
    assert run.status == "succeeded"


def test_a_wait_that_ends_before_its_timeout_succeeds() -> None:
    core = Core()
    run = core.run(
        {"nodes": [node("a", **WAIT, timeout=60), node("b", **{**WAIT, "seconds": 61}, timeout=60)]}
    )
    core.ack()
    core.clock.advance(62)
    core.ack()
    assert (core.state(run, "a"), core.state(run, "b")) == ("succeeded", "failed")
    assert [each.data["reason"] for each in core.told("node_waiting")] == ["wait", "wait"]


def test_a_pause_names_every_cause() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once"), node("b", **ASK)]})
    core.ack()
    core.engine.ready(1)
    core.lose(1)
    core.ack()
    doubt, question = str(run.paused).split("; and ")
    assert doubt.startswith("in doubt: a;")
    assert question == "approval: b; answer with `sage-actors approve`"


def test_a_budget_that_is_used_up_hides_no_question() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", **ASK), node("b", **WAIT)]}, max_tokens=5)
    core.ack()
    run.usage["input_tokens"] = 5
    run._mind_budget()
    core.ack()
    assert str(run.paused).startswith("budget: 5 tokens are used")
    assert "; and approval: a; " in str(run.paused)


def test_a_doubt_pauses_a_run_that_has_nothing_else_to_do() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once")]})
    core.ack()
    core.engine.ready(1)
    core.lose(1)
    core.ack()
    assert run.status == "paused"
    assert str(run.paused).startswith("in doubt: a; say what happened with `sage-actors resolve`")


# Ends


@pytest.mark.requirement("G-16")
def test_a_run_that_stops_gives_back_the_permits_that_it_did_not_use() -> None:
    core = Core()
    run = core.run({"nodes": [node("busy"), node("a", endpoint="api")]}, concurrency=1)
    ((worker, row),) = core.take()
    run.permit_granted(1, "api")
    run.stop("interrupted")
    core.answer(worker, row)
    core.ack()
    assert run.status == "paused"
    assert core.reported == [(run.number, 1, None)]


@pytest.mark.requirement("G-16")
def test_a_permit_that_comes_too_late_is_given_back() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", endpoint="api")]})
    run.stop("interrupted")
    run.permit_granted(0, "api")
    assert not run.permit_waits(0, "api", "open", None)
    core.ack()
    assert core.reported == [(run.number, 0, None)]
    assert core.submitted == []


@pytest.mark.requirement("G-12")
def test_a_run_whose_last_record_cannot_be_written_pauses() -> None:
    core = Core()
    run = core.run({"nodes": [node("a")]})
    core.answer(*core.take()[0])
    core.ack(2)  # the start and the result
    assert run.status is None
    core.disk_fails(run)
    assert run.status == "paused"
    assert run.paused == "storage: no space left"
    assert core.resume(run).status is None
    core.ack()
    assert core.ended_runs[-1].status == "succeeded"


@pytest.mark.requirement("G-12")
def test_after_a_disk_error_running_nodes_end_and_nothing_follows() -> None:
    core = Core()
    run = core.run({"nodes": [node("a"), node("b", "a")]}, durability="relaxed")
    ((worker, row),) = core.take()
    core.disk_fails(run)
    assert run.status is None
    core.answer(worker, row)
    core.ack()
    assert str(run.status) == "paused"
    assert core.submitted == []
    assert not core.told("node_succeeded")
    run.storage_failed(StorageError("once more"))
    assert run.paused == "storage: no space left"


def test_a_failure_during_a_cancel_keeps_its_retries() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", retry={"max_attempts": 2, "backoff": 0}, on_failure="continue")]})
    ((worker, row),) = core.take()
    core.engine.ready(worker)
    core.engine.cancel(run)
    core.fail(worker, row)
    core.lose(worker, reason="cancelled")
    core.ack()
    assert run.status == "cancelled"
    (failure,) = core.records(run, NodeFailed)
    assert failure.retry_at is not None
    again = core.resume(run)
    core.clock.advance(0.1)
    assert core.carry_out(5) == ["a"]
    assert again.results() == {"a": 5}


def test_a_timer_changes_nothing_in_a_run_that_writes_its_last_record() -> None:
    core = Core()
    run = core.run({"nodes": [node("w", type="wait", seconds=5)]})
    core.ack()
    run.stop("interrupted")
    core.clock.advance(6)
    core.ack()
    assert run.status == "paused"
    assert core.records(run, NodesSucceeded) == []
    again = core.resume(run)
    core.clock.advance(0.1)
    core.ack()
    assert again.status == "succeeded"


def test_acknowledgements_after_the_end_are_for_nobody() -> None:
    core = Core()
    run = core.run({"nodes": [node("a")]})
    core.carry_out()
    events = len(core.events)
    run.unacknowledged += 1
    run.acknowledged(("done", [(0, 1, 1, b"\xc0", None)], False), 3, 0)
    assert len(core.events) == events
    run.time_out()
    assert not run.timed_out


# Breakers


@pytest.mark.requirement("G-16")
def test_a_run_pauses_only_if_every_endpoint_that_it_waits_for_stays_open() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", endpoint="x"), node("b", endpoint="y")]}, patience_s=10)
    now = core.clock.now()
    assert run.permit_waits(1, "y", "open", now + 5)
    assert run.permit_waits(0, "x", "open", now + 1_000)
    core.ack()
    assert run.status is None  # y opens soon
    run.permit_granted(1, "y")
    core.engine.dispatch()
    assert core.carry_out() == ["b"]
    assert run.status == "paused"
    assert str(run.paused).startswith("open breaker")


def test_an_open_breaker_leads_to_the_fallback_where_there_is_one() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", endpoint="x", fallback={"instead": 1})]})
    assert not run.permit_waits(0, "x", "open", None)
    core.ack()
    assert run.results() == {"a": {"instead": 1}}
    assert core.told("node_succeeded")[0].data["fallback"]


def test_a_lost_call_says_nothing_about_its_endpoint_and_a_failed_one_does() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", endpoint="x", retry={"max_attempts": 2, "backoff": 0})]})
    run.permit_granted(0, "x")
    core.engine.dispatch()
    core.take()
    core.engine.ready(1)
    core.lose(1)
    run.permit_granted(0, "x")
    core.engine.dispatch()
    core.ack()
    core.fail(*core.take()[0], retry_after=3)
    assert [ok for _, _, ok in core.reported] == [None, False]
    core.clock.advance(2.9)
    assert len(core.requested) == 2
    core.clock.advance(0.2)
    assert len(core.requested) == 3


# Waits, delays


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"seconds": 3}, 3.0),
        ({"seconds": "2h"}, 7200.0),
        ({"until": 130.0}, 30.0),
        ({"until": 5}, 0.0),
        ({"until": "1970-01-01T00:03:20"}, 100.0),
        ({"until": "1970-01-01T01:03:20+01:00"}, 100.0),
        ({}, 0.0),
    ],
)
def test_a_wait_knows_how_long(given: dict[str, Any], seconds: float) -> None:
    assert run_waits._seconds_to_wait(given, 100.0) == seconds


@pytest.mark.parametrize(
    "given",
    [
        *({"seconds": each} for each in (-1, float("nan"), float("inf"), "3", True, None)),
        *({"until": each} for each in ("tomorrow", float("nan"), float("inf"))),
    ],
)
def test_a_wait_for_no_time_fails_its_node(given: dict[str, Any]) -> None:
    with pytest.raises(ResultError):
        run_waits._seconds_to_wait(given, 100.0)
    _, run = ended({"nodes": [node("w", type="wait", **given)]})
    assert run.status == "failed"


def test_a_wait_takes_a_duration_as_definitions_are_written_with() -> None:
    core = Core()
    run = core.run({"nodes": [node("w", type="wait", seconds="2h")]})
    core.ack()
    core.clock.advance(7_199)
    assert run.is_live
    core.clock.advance(2)
    core.ack()
    assert run.status == "succeeded"


def test_a_delay_beyond_all_numbers_is_the_longest_one() -> None:
    core = Core()
    retry = {"max_attempts": 1_000, "backoff": 1, "factor": 1e300, "max_delay": 7, "jitter": 0}
    run = core.run({"nodes": [node("a", retry=retry)]})
    for _ in range(5):
        core.ack()
        core.fail(*core.take()[0])
        core.clock.advance(7.01)
    assert run.tries[0] == 5
    assert len(core.submitted) == 1


# Values


def test_a_reopened_failure_has_a_value_once_it_has_one() -> None:
    """That it had none was remembered: who asked later saw null."""
    core = Core()
    definition = {
        "nodes": [
            node("a", on_failure="continue"),
            node("b", arguments={"x": "${a | n}"}, **ASK, message="${a | n}"),
            node("c", "b", arguments={"x": "${a | n}"}),
        ]
    }
    definition["nodes"][1].pop("arguments")
    run = core.run(definition)
    core.fail(*core.take()[0])
    core.ack()
    core.engine.cancel(run)
    core.ack()
    again = core.resume(run)
    assert again._decoded(0) is None
    core.answer(*core.take()[0], {"n": 5})
    core.ack()
    assert again._decoded(0) == {"n": 5}


def test_a_node_that_fails_has_no_value_while_that_is_written() -> None:
    core = Core()
    run = core.run({"nodes": [node("a")]})
    core.fail(*core.take()[0])
    assert run.value(0) is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"arguments": {"x": "${env.TOKEN}"}}, "there is no env TOKEN"),
        ({"foreach": "${inputs.topic}"}, "needs a list"),
        ({"foreach": "${env.TOKEN}"}, "there is no env TOKEN"),
        ({"when": "${env.TOKEN}"}, "there is no env TOKEN"),
        ({"effect": "once", "arguments": {"x": "${env.TOKEN}"}}, "there is no env TOKEN"),
    ],
)
def test_what_is_wrong_before_the_dispatch_fails_the_node(more: dict[str, Any], said: str) -> None:
    inputs = {"topic": {"type": "any", "default": 3}}
    core, run = ended({"inputs": inputs, "nodes": [node("a", **more), node("b", "a"), node("c")]})
    assert run.status == "failed"
    assert said in run.errors[0]["message"]
    assert core.state(run, "b") == "skipped"
    assert core.state(run, "c") == "succeeded"


def test_a_fallback_takes_the_place_of_what_cannot_be_dispatched() -> None:
    _, run = ended({"nodes": [node("a", arguments={"x": "${env.TOKEN}"}, fallback=3)]})
    assert run.results() == {"a": 3}


def test_a_fallback_that_cannot_be_made_is_a_failure() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", fallback="${env.TOKEN}")]})
    core.fail(*core.take()[0])
    core.ack()
    assert run.status == "failed"
    assert "there is no env TOKEN" in run.errors[0]["message"]


def test_too_many_items_fail_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_expansions, "_MAX_CHILDREN", 2)
    _, run = ended({"nodes": [node("a", foreach=[1, 2, 3])]})
    assert "3 items; the limit is 2" in run.errors[0]["message"]


def test_results_that_are_too_large_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_values, "MAX_RESULT_BYTES", 100)
    _, run = ended({"nodes": [node("a", foreach=[1, 2, 3]), node("b", arguments={"x": "${a}"})]}, "x" * 50)
    assert run.status == "failed"
    assert "together exceed 100 bytes" in run.errors[1]["message"]


EACH = node("each", foreach=[1, 2, 3])


@pytest.mark.parametrize(
    "last",
    [EACH, node("sub", type="workflow", definition={"name": "inner", "nodes": [EACH]})],
    ids=["foreach", "inside a sub-workflow"],
)
@pytest.mark.parametrize("frames", [None, -2], ids=["at once", "after a kill"])
def test_what_is_too_large_to_be_the_result_of_a_run_is_no_success(
    last: dict[str, Any], frames: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, run = ended({"nodes": [last]}, "x" * 50)
    assert run.status == "succeeded"
    monkeypatch.setattr(run_expansions, "MAX_RESULT_BYTES", 100)
    if frames is None:
        core, run = ended({"nodes": [last]}, "x" * 50)
    else:  # it was killed before the whole was written down
        run = core.resume(run, keep=frames if last is EACH else frames - 1)
        assert core.carry_out() == []
    assert run.status == "failed"
    error = run.errors[0]
    assert error["type"] == "ResultError"
    assert "together exceed" in error["message"]


def test_a_result_is_found_whatever_number_its_record_has() -> None:
    _, run = ended({"nodes": [node("a"), node("b")]})
    at = 1 << 16, 1 << 20  # of the records of a frame that holds 64 MiB
    for number, record in enumerate(at):
        run.note_location([[number, 1, 0, b"", None]], f"frame {number}", record)
        assert run._location(number) == (f"frame {number}", record, 0)


def test_a_sub_workflow_gets_no_unknown_inputs() -> None:
    inner = {"name": "inner", "inputs": {"x": {"type": "integer"}}, "nodes": [node("i")]}
    _, run = ended({"nodes": [node("a", type="workflow", definition=inner, inputs={"x": "seven"})]})
    assert run.status == "failed"
    assert "must be of type integer" in run.errors[0]["message"]


def test_nodes_inside_expansions_are_found_by_their_ids() -> None:
    inner = {"name": "inner", "phases": [{"id": "p", "dependencies": [], "operations": [node("i")]}]}
    core, run = ended({"nodes": [node("a", type="workflow", definition=inner, foreach=[1, 2])]}, 4)
    assert run.find("a[1]/p/i") is not None
    assert run.find("a[1]/p") is None  # a gate is no node
    assert run.find("a[2]") is None
    assert run.total == 5
    assert run.results() == {"a": [{"p/i": 4}, {"p/i": 4}]}
    assert [each.data["phase"] for each in core.told("phase_completed")] == ["a[0]/p", "a[1]/p"]


def test_output_is_kept_and_told() -> None:
    core = Core()
    run = core.run({"nodes": [node("a"), node("b", endpoint="api")]})
    run.log_lines([[0, 1, "stdout", "hello"]])
    assert core.told("node_log")[0].data == {"attempt": 1, "stream": "stdout", "text": "hello"}
    assert run.uses_endpoint("api")
    assert not run.uses_endpoint("other")


def test_output_without_end_is_not_kept_without_end() -> None:
    """A worker cuts it sooner; one that runs foreign code need not."""
    core = Core(workers=2)
    run = core.run({"nodes": [node("a"), node("b")]}, durability="strict")
    for _ in range(40):
        run.log_lines([[0, 1, "stdout", "x" * (1 << 20)], [1, 1, "stdout", "y"]])
    told = [each.data["text"] for each in core.told("node_log")]
    assert told.count("x" * (1 << 20)) == 7
    assert told.count("y") == 40
    records = [record for _, records, _ in core.pending for record in records]
    assert sum(len(row[3]) for each in records if type(each) is LogLines for row in each.rows) < 8 << 20


def test_output_of_an_attempt_that_never_was_is_dropped() -> None:
    core = Core()
    run = core.run({"nodes": [node("a"), node("b", "a")]})
    for where, attempt in ((0, 0), (0, -1), (0, 2), (0, 2**63), (1, 1), (2, 1), (-1, 1)):
        run.log_lines([[where, attempt, "stdout", "forged"]])
    run.log_lines([[0, 1, "stdout", ""]])
    assert core.told("node_log") == []


def test_what_is_counted_and_answered_for_a_lost_attempt() -> None:
    """An operation that reports usage on the way to its failure has spent it."""
    core = Core()
    run = core.run({"nodes": [node("a", retry=2)]})
    ((_, row),) = core.take()
    run.attempt_failed(0, {"type": "ValueError", "message": "x"}, micros=5, usage={"input_tokens": 3})
    assert run.usage["input_tokens"] == 3
    assert run.busy_us == 5
    assert row[2] == 1


def test_run_cores_need_no_listener() -> None:
    core, run = ended({"nodes": [node("a"), node("b", "a", when="${a}")]}, listening=False)
    assert core.events == []
    assert run.status == "succeeded"


def test_a_lost_once_node_is_in_doubt_and_never_charged() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", effect="once"), node("b", **ASK)]})
    core.ack()
    core.take()
    run.lost(0, Evidence(exitcode=-9), charged=True, suspect=False)
    assert run.crashes == {}
    assert run.doubts == {0}


@pytest.mark.parametrize("more", [{}, {"fallback": 7}])
def test_a_poisonous_node_has_failed_whatever_follows(more: dict[str, Any]) -> None:
    core = Core()
    run = core.run({"nodes": [node("a", max_crashes=1, **more)]})
    core.ack()
    core.take()
    run.lost(0, Evidence(exitcode=-9), charged=True, suspect=False)
    core.ack()
    (failed,) = core.told("node_failed")
    assert failed.data["error"]["type"] == "PoisonedError"
    assert "killed its worker once" in failed.data["error"]["message"]
    assert len(core.records(run, NodeFailed)) == 1
    assert run.status == ("succeeded" if more else "failed")


def _after_an_incomplete_phase(min_success: float) -> tuple[Core, run_core.RunCore]:
    operations = [node("x", "q/all"), node("y", trigger="all_done")]
    phases: list[dict[str, Any]] = [
        {"id": "p", "operations": [{**node("b"), "on_failure": "skip"}]},
        {"id": "q", "dependencies": ["p"], "operations": [node("all")]},
        {"id": "r", "dependencies": ["q"], "min_success": min_success, "operations": operations},
        {"id": "s", "dependencies": ["r"], "operations": [node("z")]},
    ]
    core = Core()
    run = core.run({"phases": phases})
    core.ack()
    ((worker, row),) = core.take()
    core.engine.ready(worker)
    core.fail(worker, row)
    core.carry_out()
    return core, run


@pytest.mark.parametrize(("share", "is_met"), [(0.3, True), (0.5, True), (0.75, False)])
def test_a_share_is_judged_also_if_an_earlier_phase_was_not_complete(share: float, is_met: bool) -> None:
    core, run = _after_an_incomplete_phase(share)
    assert core.state(run, "r/y") == "succeeded"
    assert core.told("phase_completed")[-1 if not is_met else 2].data["ok"] is (is_met)
    assert core.state(run, "s/z") == ("succeeded" if is_met else "skipped")
    assert run.status == "succeeded"  # nothing failed but what may


def test_a_flow_of_the_library_is_the_same_as_one_of_a_file() -> None:
    assert [each.id for each in flow({"nodes": [node("a")]}).nodes] == ["a"]

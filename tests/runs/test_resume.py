"""Continuing: after a kill, a failure, a cancel or a pause; under an edited definition; from a node on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import (
    KEYS,
    Script,
    history,
    lines,
    make_supervisor,
    states,
    wait_until,
)

from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import ChangedDefinitionError, NoCheckpointError, ResultError, UsageError
from sage_actors.supervisor.api import Supervisor, load
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.handle import Outcome
from sage_actors.supervisor.recovery.acting import act_on_run

pytestmark = pytest.mark.requirement("ORCH-017")


def chain(tmp_path: Path, *, middle: Any = None, last: Any = 3, side: bool = True) -> Workflow:
    """first -> middle -> last, and side beside them; each leaves a line."""
    flow = Workflow("chain")
    first = flow.add(ops.mark, id="first", path=str(tmp_path / "first"), value=1)
    if middle is None:
        second = flow.add(ops.mark, id="middle", path=str(tmp_path / "middle"), value=first)
    else:
        second = flow.add(ops.mark, id="middle", path=str(tmp_path / "middle"), value=middle, after=[first])
    flow.add(ops.mark, id="last", path=str(tmp_path / "last"), value=[second, last])
    if side:
        flow.add(ops.mark, id="side", path=str(tmp_path / "side"), value="side")
    return flow


def calls(tmp_path: Path) -> dict[str, int]:
    return {name: lines(tmp_path / name) for name in ("first", "middle", "last", "side")}


def run(tmp_path: Path, flow: Workflow, run_id: str = "r", **options: Any) -> Outcome:
    with make_supervisor(tmp_path) as supervisor:
        return supervisor.run(flow, run_id=run_id, timeout=60, **options)


# ---------------------------------------------------------------------- the same definition


@pytest.mark.requirement("ORCH-015")
def test_a_killed_run_continues_without_repeating_what_was_finished(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = f"""
        flow = Workflow("killed")
        done = [flow.add(ops.mark, id=f"done-{{i}}", path=f"{tmp_path}/done-{{i}}", value=i) for i in range(20)]
        slow = flow.add(ops.mark_and_wait_for, id="slow", after=done, path={str(tmp_path / "slow")!r},
                        gate={str(gate)!r}, value="slow")
        flow.add(ops.mark, id="end", path={str(tmp_path / "end")!r}, value=[slow, *done])
        with Supervisor({str(tmp_path)!r}, workers=2) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body):
        wait_until(lambda: lines(tmp_path / "slow"), what="the slow node runs")
    gate.touch()
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.resume("r")
        assert run.resumed
        assert run.completed == 20
        assert any("20 of 22 nodes are done" in each for each in run.notices)
        outcome = run.result(60).raise_for_status()
    assert outcome["end"] == ["slow", *range(20)]
    assert [lines(tmp_path / f"done-{i}") for i in range(20)] == [1] * 20
    assert (lines(tmp_path / "slow"), lines(tmp_path / "end")) == (2, 1)


def test_a_run_that_succeeded_gives_its_results_again_and_runs_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, chain(tmp_path))
    files = sorted(StateDirectory(tmp_path).run_dir("r").iterdir())
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(chain(tmp_path), run_id="r")
        assert (handle.resumed, handle.completed, handle.done) == (True, 4, True)
        again = handle.result()
    assert again.status == "succeeded"
    assert again["last"] == first["last"] == [1, 3]
    assert dict(again.results) == dict(first.results) == {"last": [1, 3], "side": "side"}
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 1, "side": 1}
    assert sorted(StateDirectory(tmp_path).run_dir("r").iterdir()) == files


def test_a_failed_run_tries_again_what_failed_and_what_it_held_back(tmp_path: Path) -> None:
    flow = Workflow("mends")
    kept = flow.add(ops.mark, id="first", path=str(tmp_path / "first"), value=1)
    mended = flow.add(ops.fail_while, id="mended", gate=str(tmp_path / "gate"), value=2, after=[kept])
    flow.add(ops.mark, id="last", path=str(tmp_path / "last"), value=[kept, mended])
    assert run(tmp_path, flow).status == "failed"
    assert states(tmp_path, "r") == {"first": "succeeded", "mended": "failed", "last": "skipped"}
    (tmp_path / "gate").touch()
    outcome = run(tmp_path, flow)
    assert outcome.status == "succeeded"
    assert outcome["last"] == [1, 2]
    assert not outcome.errors
    assert lines(tmp_path / "first") == 1


def test_a_failed_node_gets_a_fresh_retry_budget(tmp_path: Path) -> None:
    flow = Workflow("budget")
    path = str(tmp_path / "calls")
    flow.add(ops.fail_until, id="flaky", path=path, times=3, retry={"max_attempts": 2, "backoff": 0})
    assert run(tmp_path, flow).status == "failed"
    assert lines(tmp_path / "calls") == 2
    assert run(tmp_path, flow).status == "succeeded"
    assert lines(tmp_path / "calls") == 4
    assert history(tmp_path, "r").node("flaky").attempts == 4


def test_a_cancelled_run_continues(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = Workflow("cancelled")
    first = flow.add(ops.mark, id="first", path=str(tmp_path / "first"))
    flow.add(ops.mark_and_wait_for, id="slow", after=[first], path=str(tmp_path / "slow"), gate=str(gate))
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.start(flow, run_id="r")
        wait_until(lambda: lines(tmp_path / "slow"))
        handle.cancel()
        assert handle.result(10).status == "cancelled"
        gate.touch()
        assert supervisor.run(flow, run_id="r", timeout=30).status == "succeeded"
    assert (lines(tmp_path / "first"), lines(tmp_path / "slow")) == (1, 2)


def test_a_resume_works_with_the_journaled_definition_alone(tmp_path: Path) -> None:
    flow = chain(tmp_path)
    flow.add(ops.fail_while, id="gated", gate=str(tmp_path / "gate"), value="open")
    assert run(tmp_path, flow).status == "failed"
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.resume("r").result(30).raise_for_status()
    assert outcome["gated"] == "open"
    assert outcome["last"] == [1, 3]


def test_a_run_is_resumed_from_another_directory_and_after_the_project_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, moved, elsewhere = tmp_path / "project", tmp_path / "moved", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    flow = Workflow("moves")
    first = flow.add(ops.mark, id="first", path="first", value=1)
    flow.add(ops.fail_while, id="second", gate="gate", value=first)
    monkeypatch.chdir(project)
    assert run(Path("."), flow).status == "failed"
    shutil.move(project, moved)
    monkeypatch.chdir(elsewhere)
    (moved / "gate").touch()
    with make_supervisor(Path("../moved")) as supervisor:
        outcome = supervisor.resume("r").result(30).raise_for_status()
    assert outcome["second"] == 1
    assert lines(moved / "first") == 1
    assert not (elsewhere / ".sage").exists()


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(NoCheckpointError, match="no run 'r'"):
            supervisor.resume("r")
        with pytest.raises(NoCheckpointError):
            supervisor.start(chain(tmp_path), run_id="r", must_exist=True)
    assert not (StateDirectory(tmp_path).root / "r").exists()


def test_expanded_nodes_keep_the_children_that_succeeded(tmp_path: Path) -> None:
    flow = Workflow("children")
    items = [
        {"path": str(tmp_path / f"item-{i}"), "gate": str(tmp_path / ("gate" if i == 2 else "."))}
        for i in range(4)
    ]
    each = flow.add(
        ops.mark_then_fail_while,
        id="each",
        foreach=items,
        path="${item | path}",
        gate="${item | gate}",
        value="${index}",
    )
    flow.add(ops.total, id="sum", numbers=each)
    assert run(tmp_path, flow).status == "failed"
    (tmp_path / "gate").touch()
    outcome = run(tmp_path, flow)
    assert outcome.status == "succeeded"
    assert outcome["sum"] == 6
    assert [lines(tmp_path / f"item-{i}") for i in range(4)] == [1, 1, 2, 1]


# ---------------------------------------------------------------------- another definition


def test_an_edited_node_and_what_follows_run_again_and_the_rest_stays(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    asked: list[list[str]] = []

    def accept(text: list[str]) -> bool:
        asked.append(text)
        return True

    outcome = run(tmp_path, chain(tmp_path, middle="new"), accept_changes=accept)
    assert outcome["last"] == ["new", 3]
    assert calls(tmp_path) == {"first": 1, "middle": 2, "last": 2, "side": 1}
    assert asked == [["middle will run again", "last will run again"]]


def test_changes_that_cost_results_are_refused_until_accepted(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(ChangedDefinitionError, match=r"last will run again.*--accept-changes"):
            supervisor.run(chain(tmp_path, last=4), run_id="r")
        assert supervisor.resume("r").result(10)["last"] == [1, 3]
    assert calls(tmp_path)["last"] == 1
    assert history(tmp_path, "r").status == "succeeded"


def test_policies_may_be_edited_without_a_question(tmp_path: Path) -> None:
    flow = chain(tmp_path)
    flow.add(ops.fail_while, id="gated", gate=str(tmp_path / "gate"))
    assert run(tmp_path, flow).status == "failed"
    edited = chain(tmp_path)
    edited.add(ops.fail_while, id="gated", gate=str(tmp_path / "gate"), on_failure="continue", timeout=50)
    outcome = run(tmp_path, edited)
    assert outcome.status == "succeeded"
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 1, "side": 1}


def test_a_removed_node_takes_nothing_with_it(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    outcome = run(tmp_path, chain(tmp_path, side=False))
    assert outcome.status == "succeeded"
    assert dict(outcome.results) == {"last": [1, 3]}
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 1, "side": 1}


def test_a_removed_node_that_comes_back_has_its_result_still(tmp_path: Path) -> None:
    """With what depended on it, over any number of edits: a program may add to its graph step by step."""
    run(tmp_path, chain(tmp_path))
    only = Workflow("chain")
    only.add(ops.mark, id="first", path=str(tmp_path / "first"), value=1)
    for _ in range(2):
        assert dict(run(tmp_path, only).results) == {"first": 1}
        outcome = run(tmp_path, chain(tmp_path))
        assert dict(outcome.results) == {"last": [1, 3], "side": "side"}
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 1, "side": 1}
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.resume("r", from_node="last").result(30)["last"] == [1, 3]
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 2, "side": 1}


@pytest.mark.parametrize("what", ["itself", "parent", "parent meanwhile", "input"])
def test_a_removed_node_that_comes_back_otherwise_runs_again(tmp_path: Path, what: str) -> None:
    def flow(*, parent: int = 1, note: str | None = None) -> Workflow:
        made = Workflow("back", inputs={"topic": "tea"})
        first = made.add(ops.mark, id="first", path=str(tmp_path / "first"), value=parent)
        if note is not None:
            value = [first, note, "${inputs.topic}"]
            middle = made.add(ops.mark, id="middle", path=str(tmp_path / "middle"), value=value)
            made.add(ops.mark, id="last", path=str(tmp_path / "last"), value=middle)
        return made

    run(tmp_path, flow(note="a"))
    run(tmp_path, flow())
    if what == "parent meanwhile":  # it gives the same again, but it is another result
        run(tmp_path, flow(parent=2), accept_changes=True)
        run(tmp_path, flow(), accept_changes=True)
    edited = flow(parent=3 if what == "parent" else 1, note="b" if what == "itself" else "a")
    inputs = {"topic": "cake"} if what == "input" else {}
    with pytest.raises(ChangedDefinitionError, match=r"middle is new or was not done; last is new"):
        run(tmp_path, edited, inputs=inputs)
    outcome = run(tmp_path, edited, inputs=inputs, accept_changes=True)
    expected = [3 if what == "parent" else 1, "b" if what == "itself" else "a", inputs.get("topic", "tea")]
    assert outcome["last"] == expected
    assert (lines(tmp_path / "middle"), lines(tmp_path / "last")) == (2, 2)


def test_a_removed_node_counts_only_with_the_results_that_it_had(tmp_path: Path) -> None:
    """It was fed by a failure that was tolerated; now there is a result."""

    def flow(*, whole: bool) -> Workflow:
        made = Workflow("back")
        gate = str(tmp_path / "gate")
        first = made.add(ops.fail_while, id="first", gate=gate, value=1, on_failure="continue")
        made.add(ops.fail_while, id="bad", gate=str(tmp_path / "other"))
        if whole:
            made.add(ops.mark, id="middle", path=str(tmp_path / "middle"), value=[first])
        return made

    assert run(tmp_path, flow(whole=True))["middle"] == [None]
    (tmp_path / "gate").touch()
    assert run(tmp_path, flow(whole=False))["first"] == 1
    assert run(tmp_path, flow(whole=True), accept_changes=True)["middle"] == [1]


def test_an_added_node_runs_alone(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path, side=False))
    outcome = run(tmp_path, chain(tmp_path), accept_changes=True)
    assert dict(outcome.results) == {"last": [1, 3], "side": "side"}
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 1, "side": 1}


def test_another_input_runs_what_uses_it(tmp_path: Path) -> None:
    def flow() -> Workflow:
        made = Workflow("inputs", inputs={"topic": "tea", "size": 1})
        made.add(ops.mark, id="first", path=str(tmp_path / "first"), value="${inputs.size}")
        made.add(ops.mark, id="last", path=str(tmp_path / "last"), value="${inputs.topic}")
        return made

    run(tmp_path, flow())
    outcome = run(tmp_path, flow(), inputs={"topic": "cake"}, accept_changes=True)
    assert (outcome["first"], outcome["last"]) == (1, "cake")
    assert (lines(tmp_path / "first"), lines(tmp_path / "last")) == (1, 2)


def test_an_edit_is_repeated_by_every_later_resume(tmp_path: Path) -> None:
    """Expanded results go over whole; three processes with two definitions end with the same results."""

    def flow(*, tail: str) -> Workflow:
        made = Workflow("edits")
        first = made.add(ops.numbers, id="list", count=3)
        each = made.add(ops.mark, id="each", foreach=first, path=str(tmp_path / "each"), value="${item}")
        made.add(ops.fail_while, id="tail", gate=str(tmp_path / tail), value=each)
        return made

    assert run(tmp_path, flow(tail="one")).status == "failed"
    assert run(tmp_path, flow(tail="two"), accept_changes=True).status == "failed"
    (tmp_path / "two").touch()
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.resume("r").result(30).raise_for_status()
    assert outcome["tail"] == [0, 1, 2]
    assert outcome["each"] == [0, 1, 2]
    assert lines(tmp_path / "each") == 3


def test_children_that_succeeded_outlive_an_edit_of_another_node(tmp_path: Path) -> None:
    def flow(*, note: int) -> Workflow:
        inner = Workflow("inner")
        one = inner.add(ops.mark, id="one", path=str(tmp_path / "one"), value=1)
        inner.add(ops.fail_while, id="two", gate=str(tmp_path / "gate"), value=one)
        made = Workflow("outer")
        made.add(ops.mark, id=f"note-{note}", path=str(tmp_path / "note"), value=note)
        each = made.add(
            ops.mark_then_fail_while,
            id="each",
            foreach=["gate", "."],
            path=str(tmp_path / "child-${index}"),
            gate=str(tmp_path / "${item}"),
            value="${index}",
        )
        sub = made.add("workflow", id="sub", definition=inner.to_dict())
        made.add(ops.echo, id="end", value=[each, sub])
        return made

    for note in (1, 2, 3):
        assert run(tmp_path, flow(note=note), accept_changes=True).status == "failed"
    (tmp_path / "gate").touch()
    outcome = run(tmp_path, flow(note=4), accept_changes=True)
    assert outcome.status == "succeeded"
    assert outcome["end"] == [[0, 1], {"two": 1}]
    assert (lines(tmp_path / "one"), lines(tmp_path / "child-1"), lines(tmp_path / "note")) == (1, 1, 4)


@pytest.mark.parametrize("how", ["resume", "edit", "fork"])
def test_the_result_of_an_expansion_is_final_with_its_tolerated_failures(tmp_path: Path, how: str) -> None:
    def flow(*, note: int) -> Workflow:
        inner = Workflow("inner")
        bad = inner.add(ops.fail_while, id="bad", gate=str(tmp_path / "gate"))
        inner.add(ops.echo, id="after", value=bad)
        made = Workflow("outer")
        made.add(ops.echo, id="note", value=note)
        each = made.add(
            ops.mark_then_fail_while,
            id="each",
            foreach=["gate", "."],
            path=str(tmp_path / "child-${index}"),
            gate=str(tmp_path / "${item}"),
            value="${index}",
            on_failure="continue",
        )
        saved = made.add("workflow", id="saved", definition=inner.to_dict(), fallback="instead")
        made.add(ops.mark, id="seen", path=str(tmp_path / "seen"), value=[each, saved])
        made.add(ops.fail_while, id="gated", gate=str(tmp_path / "gate"), after=[each])
        return made

    first = run(tmp_path, flow(note=1))
    assert first.status == "failed"
    assert first["seen"] == [[None, 1], "instead"]
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as supervisor:
        if how == "resume":
            handle = supervisor.resume("r")
        elif how == "edit":
            handle = supervisor.start(flow(note=2), run_id="r", accept_changes=True)
        else:
            handle = supervisor.resume("r", from_node="gated")
        outcome = handle.result(30)
    assert outcome.status == "succeeded"
    assert outcome["seen"] == [[None, 1], "instead"]
    assert outcome["each"] == [None, 1]
    assert (outcome.counts["failed"], outcome.counts["skipped"]) == (2, 1)
    past = history(tmp_path, outcome.run_id)
    assert [past.node(each).state for each in ("each[0]", "saved/bad", "saved/after")] == [
        "failed",
        "failed",
        "skipped",
    ]
    assert (past.node("each[0]").error or {})["message"]
    assert past.node("saved/after").reason == "saved/bad failed"
    assert [lines(tmp_path / name) for name in ("child-0", "child-1", "seen")] == [1, 1, 1]


def test_fresh_archives_what_was_and_starts_anew(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    outcome = run(tmp_path, chain(tmp_path, last=9), fresh=True)
    assert outcome["last"] == [1, 9]
    assert calls(tmp_path) == {"first": 2, "middle": 2, "last": 2, "side": 2}
    archived = list(StateDirectory(tmp_path).archived.iterdir())
    assert [each.name.startswith("r-") for each in archived] == [True]


# ---------------------------------------------------------------------- from a node on


def test_a_fork_keeps_everything_that_is_not_downstream(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    with make_supervisor(tmp_path) as supervisor:
        handle = supervisor.resume("r", from_node="middle")
        outcome = handle.result(30).raise_for_status()
    assert handle.run_id == "r-from-middle"
    assert outcome["last"] == [1, 3]
    assert outcome["first"] == 1
    assert calls(tmp_path) == {"first": 1, "middle": 2, "last": 2, "side": 1}
    assert history(tmp_path, "r-from-middle").parent == "r"
    assert history(tmp_path, "r").status == "succeeded"


def test_a_fork_keeps_expansions_children_and_sub_workflows(tmp_path: Path) -> None:
    inner = Workflow("inner", inputs={"start": 0})
    one = inner.add(ops.mark, id="one", path=str(tmp_path / "one"), value="${inputs.start}")
    inner.add(ops.mark, id="two", foreach=[1, 2], path=str(tmp_path / "two"), value=[one, "${item}"])
    flow = Workflow("outer")
    each = flow.add(ops.mark, id="each", foreach=["a", "b"], path=str(tmp_path / "each"), value="${item}")
    sub = flow.add("workflow", id="sub", definition=inner.to_dict(), inputs={"start": 7})
    flow.add(ops.mark, id="last", path=str(tmp_path / "last"), value=[each, sub])
    first = run(tmp_path, flow)
    assert first.status == "succeeded", first.reason
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.resume("r", from_node="last", new_run_id="again").result(30).raise_for_status()
    assert outcome["last"] == first["last"] == [["a", "b"], {"two": [[7, 1], [7, 2]]}]
    assert outcome["sub/two[1]"] == [7, 2]
    assert outcome["each[1]"] == "b"
    names = ("each", "one", "two", "last")
    assert [lines(tmp_path / name) for name in names] == [2, 1, 2, 2]
    assert set(states(tmp_path, "again")) == set(states(tmp_path, "r"))


def test_a_fork_keeps_the_fallback_of_an_expansion(tmp_path: Path) -> None:
    flow = Workflow("outer")
    inner = Workflow("inner")
    inner.add(ops.boom, id="bad")
    sub = flow.add("workflow", id="sub", definition=inner.to_dict(), fallback="instead")
    flow.add(ops.mark, id="last", path=str(tmp_path / "last"), value=sub)
    assert run(tmp_path, flow)["last"] == "instead"
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.resume("r", from_node="last").result(30).raise_for_status()
    assert outcome["last"] == "instead"


def test_a_resume_counts_what_failed_inside_of_what_succeeded(tmp_path: Path) -> None:
    inner = Workflow("inner")
    bad = inner.add(ops.boom, id="bad")
    inner.add(ops.echo, id="after", value=bad)
    flow = Workflow("outer")
    sub = flow.add("workflow", id="sub", definition=inner.to_dict(), fallback="instead")
    flow.add(ops.fail_until, id="last", path=str(tmp_path / "last"), times=1, after=[sub])
    assert run(tmp_path, flow).counts["failed"] == 2
    resumed = run(tmp_path, flow)
    assert (resumed.counts["succeeded"], resumed.counts["failed"], resumed.counts["skipped"]) == (2, 1, 1)


def test_a_fork_of_a_fork_and_names_that_are_taken(tmp_path: Path) -> None:
    run(tmp_path, chain(tmp_path))
    with make_supervisor(tmp_path) as supervisor:
        names = [supervisor.resume("r", from_node="last") for _ in range(2)]
        assert [each.run_id for each in names] == ["r-from-last", "r-from-last-2"]
        assert all(each.result(30).status == "succeeded" for each in names)
        assert supervisor.resume("r-from-last", from_node="last").result(30)["last"] == [1, 3]
        with pytest.raises(UsageError, match="already"):
            supervisor.resume("r", from_node="last", new_run_id="r-from-last")
    assert calls(tmp_path) == {"first": 1, "middle": 1, "last": 4, "side": 1}
    hidden = [name for name in os.listdir(StateDirectory(tmp_path).root) if name.startswith(".")]
    assert not hidden


def test_a_fork_from_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    flow = chain(tmp_path)
    flow.add(ops.echo, id="each", foreach=[1, 2], value="${item}")
    run(tmp_path, flow)
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(UsageError, match="did you mean 'middle'"):
            supervisor.resume("r", from_node="midle")
        with pytest.raises(UsageError, match=r"use --from each"):
            supervisor.resume("r", from_node="each[0]")
        with pytest.raises(NoCheckpointError):
            supervisor.resume("q", from_node="middle")
    assert StateDirectory(tmp_path).run_ids() == ["r"]


def test_a_fork_never_repeats_what_may_happen_once_only(tmp_path: Path) -> None:
    flow = Workflow("payments")
    first = flow.add(ops.mark, id="first", path=str(tmp_path / "first"), value=1)
    paid = flow.add(ops.pay, id="pay", path=str(tmp_path / "pay"), after=[first])
    flow.add(ops.mark, id="last", path=str(tmp_path / "last"), value=paid)
    run(tmp_path, flow)
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.resume("r", from_node="first").result(30).raise_for_status()
        with pytest.raises(UsageError, match="pay has effect `once` and has succeeded"):
            supervisor.resume("r", from_node="pay")
    assert outcome["last"] == "paid"
    assert (lines(tmp_path / "first"), lines(tmp_path / "pay"), lines(tmp_path / "last")) == (2, 1, 2)


def test_an_answer_is_no_larger_than_a_journal_can_hold_twice(tmp_path: Path) -> None:
    flow = Workflow("asks")
    flow.add("approval", id="ok")
    large = "x" * (1 << 25)
    with make_supervisor(tmp_path) as supervisor:
        live = supervisor.start(flow, run_id="r")
        with pytest.raises(
            ResultError, match="the given data takes 33,554,437 bytes; the most is 16,777,216"
        ):
            live.approve("ok", data=large)
    action = {"action": "approve", "node": "ok", "data": large}
    with pytest.raises(ResultError, match="the most is 16,777,216"):
        act_on_run(tmp_path, KEYS, "r", action, by="me")
    assert states(tmp_path, "r") == {"ok": "waiting"}


@pytest.mark.requirement("G-07")
@pytest.mark.parametrize("how", ["in doubt", "resolved as failed"])
def test_a_fork_repeats_no_child_of_which_nobody_knows(how: str, tmp_path: Path) -> None:
    flow = Workflow("payments")
    flow.add(ops.pay_and_die, id="each", foreach=[1], path=str(tmp_path / "paid"))
    flow.add(ops.mark, id="last", path=str(tmp_path / "last"), value=1)
    assert run(tmp_path, flow).status == "paused"
    if how != "in doubt":
        action = {"action": "resolve", "node": "each[0]", "how": "fail"}
        act_on_run(tmp_path, KEYS, "r", action, by="me")
    with make_supervisor(tmp_path) as supervisor:
        with pytest.raises(UsageError, match=rf"each\[0\] has effect `once` and (is|was) {how}"):
            supervisor.resume("r", from_node="each")
        forked = supervisor.resume("r", from_node="last").result(30)
    assert lines(tmp_path / "paid") == 1
    assert forked.status == ("paused" if how == "in doubt" else "failed")


def test_what_others_succeeded_without_is_not_resolved_again(tmp_path: Path) -> None:
    flow = Workflow("payments")
    flow.add(ops.pay_and_die, id="each", foreach=[1], path=str(tmp_path / "paid"), on_failure="continue")
    run(tmp_path, flow)

    def resolve(how: str) -> None:
        act_on_run(tmp_path, KEYS, "r", {"action": "resolve", "node": "each[0]", "how": how}, by="me")

    resolve("fail")
    assert run(tmp_path, flow).results == {"each": [None]}
    with pytest.raises(UsageError, match="is not in doubt: it is failed"):
        resolve("retry")


@pytest.mark.requirement("G-07")
def test_what_was_resolved_as_failed_runs_again_only_when_somebody_says_so(tmp_path: Path) -> None:
    def flow(version: str) -> Workflow:
        made = Workflow("payments")
        paid = made.add(ops.pay_and_die, id="pay", path=str(tmp_path / "paid"), version=version)
        made.add(ops.mark, id="last", path=str(tmp_path / "last"), value=1, after=[paid])
        return made

    def resolve(how: str) -> None:
        act_on_run(tmp_path, KEYS, "r", {"action": "resolve", "node": "pay", "how": how}, by="me")

    assert run(tmp_path, flow("1")).status == "paused"
    resolve("fail")
    with pytest.raises(UsageError, match="pay is not in doubt: it is failed"):
        resolve("fail")
    for version in ("1", "1", "2"):  # an edit is no word about what happened
        outcome = run(tmp_path, flow(version), accept_changes=True)
        assert (outcome.status, lines(tmp_path / "paid")) == ("failed", 1)
        assert "sage-actors resolve r pay --retry" in outcome.errors["pay"]["message"]
    resolve("retry")
    assert run(tmp_path, flow("2")).reason.startswith("in doubt: pay")
    assert lines(tmp_path / "paid") == 2


@pytest.mark.requirement("G-07")
@pytest.mark.parametrize("fallback", ["unpaid", "${seven | length(@)}"])
def test_what_was_resolved_as_failed_takes_its_fallback(tmp_path: Path, fallback: str) -> None:
    """Where that cannot be made the node has failed; it is not executed again for that."""
    flow = Workflow("payments")
    seven = flow.add(ops.echo, id="seven", value=7)
    paid = flow.add(ops.pay_and_die, id="pay", path=str(tmp_path / "paid"), fallback=fallback, after=[seven])
    flow.add(ops.echo, id="last", value=paid)

    def resolve(how: str) -> None:
        act_on_run(tmp_path, KEYS, "r", {"action": "resolve", "node": "pay", "how": how}, by="me")

    assert run(tmp_path, flow).status == "paused"
    resolve("fail")
    if fallback == "unpaid":
        assert run(tmp_path, flow)["last"] == "unpaid"
        return
    for _ in range(2):
        assert run(tmp_path, flow).errors["pay"]["type"] == "ExpressionError"
    assert lines(tmp_path / "paid") == 1
    resolve("retry")
    run(tmp_path, flow)
    assert lines(tmp_path / "paid") == 2


def test_forked_runs_have_idempotency_keys_of_their_own(tmp_path: Path) -> None:
    flow = Workflow("keys")
    flow.add(ops.who, id="who")
    first = run(tmp_path, flow)
    with make_supervisor(tmp_path) as supervisor:
        second = supervisor.resume("r", from_node="who").result(30)
    assert first["who"]["key"] != second["who"]["key"]
    assert second["who"]["run"] == "r-from-who"


def test_supervisors_without_durability_have_nothing_to_resume(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, durability="none", workers=1)
    with supervisor, pytest.raises(UsageError, match="none"):
        supervisor.resume("r")
    assert not (tmp_path / ".sage").exists()


def test_a_resume_finds_the_modules_that_the_run_was_started_with(tmp_path: Path) -> None:
    """They lay beside the workflow file, outside the project; the journal says where."""
    beside, project = tmp_path / "flows", tmp_path / "project"
    beside.mkdir()
    project.mkdir()
    gate = project / "gate"
    (beside / "steps_beside.py").write_text(
        "import os\ndef step(gate):\n    if not os.path.exists(gate): raise RuntimeError('closed')\n    return 'done'\n"
    )
    node = {"id": "a", "type": "python", "call": "steps_beside:step", "arguments": {"gate": str(gate)}}
    (beside / "flow.json").write_text(json.dumps({"name": "flow", "nodes": [node]}))
    with Supervisor(project, search_paths=[beside]) as supervisor:
        assert supervisor.run(load(beside / "flow.json"), run_id="flow", timeout=60).status == "failed"
    gate.touch()
    with Supervisor(project) as supervisor:
        assert supervisor.resume("flow").result(60).raise_for_status()["a"] == "done"

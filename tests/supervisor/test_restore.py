"""What a resume makes of a journal, record by record; and of journals that contradict themselves."""

from __future__ import annotations

from typing import Any

import pytest
from core_harness import Core, flow, node

from sage_actors.messages.codec import pack
from sage_actors.messages.errors import DefinitionError, StateCorruptedError
from sage_actors.messages.records import (
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesStarted,
    NodesSucceeded,
    NodeWaiting,
    Record,
    RunAdmitted,
    encode_records,
)
from sage_actors.messages.wire import error_map
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.recovery import admission
from sage_actors.supervisor.recovery.admission import (
    Assembly,
    admission_records,
    definition_from,
    pack_definition,
)

pytestmark = pytest.mark.requirement("ORCH-011")

NOW = 1_700_000_000.0


def journal(*records: Record, nodes: list[dict[str, Any]]) -> tuple[Core, RunCore]:
    """A run of `nodes` whose journal then says `records`."""
    core = Core()
    run = core.run({"nodes": nodes})
    core.engine.remove(run)
    core.pending.clear()
    core.submitted.clear()
    core.events.clear()
    core.frames[run.run_id].append(encode_records(list(records)))
    return core, run


def failed(
    number: int, *, final: str = "fail", retry_at: float | None = None, attempt: int = 1
) -> NodeFailed:
    return NodeFailed(NOW, number, attempt, error_map("ValueError", "no"), retry_at, final, 5, {"cost": 1.0})


def succeeded(number: int, value: Any = None) -> NodesSucceeded:
    return NodesSucceeded(NOW, [[number, 1, 5, pack(value), {"input_tokens": 2}]])


def started(*numbers: int) -> NodesStarted:
    return NodesStarted(NOW, [[number, 1] for number in numbers])


# What succeeded stays


@pytest.mark.requirement("G-04")
def test_what_went_on_without_a_failed_dependency_is_not_started_by_it() -> None:
    """It was executed again when the dependency succeeded on the resume."""
    nodes = [node("a", on_failure="continue"), node("b", "a"), node("c", "b")]
    core, run = journal(started(0), failed(0, final="continue"), started(1), succeeded(1, 7), nodes=nodes)
    again = core.resume(run)
    assert sorted(core.carry_out(8)) == ["a", "c"]
    assert again.status == "succeeded"
    assert again.results() == {"c": 8}
    assert len(core.told("node_succeeded")) == 2


@pytest.mark.requirement("G-10")
def test_a_waiting_retry_is_not_started_early_by_a_dependency_that_is_tried_again() -> None:
    nodes = [node("a", on_failure="continue"), node("b", "a", retry=3)]
    retry = failed(1, final="", retry_at=NOW + 30)
    core, run = journal(started(0), failed(0, final="continue"), started(1), retry, nodes=nodes)
    core.clock.set(NOW)
    core.resume(run)
    assert core.carry_out() == ["a"]
    core.clock.advance(31)
    assert core.carry_out() == ["b"]


@pytest.mark.requirement("G-02")
@pytest.mark.parametrize("final", ["continue", "skip"])
def test_the_result_of_an_expansion_stays_as_its_children_ended(final: str) -> None:
    """Tolerated failures inside it were tried again, and changed what others had used."""
    inner = {"name": "i", "nodes": [node("x", on_failure=final), node("y", "x"), node("z")]}
    core = Core()
    run = core.run({"nodes": [node("a", type="workflow", definition=inner), node("b", "a")]})
    core.ack()
    while any(row[4] != "b" for _, row in core.submitted):
        for worker, row in core.take():
            if row[4] == "a/x":
                core.fail(worker, row)
            else:
                core.answer(worker, row, row[4])
        core.ack()
    core.engine.cancel(run)
    core.lose(1, reason="cancelled")
    core.ack()
    assert run.status == "cancelled"
    core.take()
    again = core.resume(run)
    assert core.carry_out() == ["b"]
    assert again.status == "succeeded"
    expected = {"y": "a/y" if final == "continue" else None, "z": "a/z"}
    assert again._decoded(0) == expected


@pytest.mark.requirement("G-04")
def test_a_failed_expansion_keeps_its_children_and_their_numbers() -> None:
    core = Core()
    run = core.run({"nodes": [node("a", foreach=[1, 2])]})
    core.ack()
    core.answer(*core.take()[0], "one")
    core.ack()
    core.fail(*core.take()[0])
    core.ack()
    assert run.status == "failed"
    again = core.resume(run)
    assert core.carry_out("two") == ["a[1]"]
    assert again.results() == {"a": ["one", "two"]}


# Budgets, fallbacks


@pytest.mark.requirement("G-10")
def test_tries_stay_when_the_worker_died_before_the_supervisor_did() -> None:
    lost = NodeLost(NOW, 0, 1, {}, True, False)
    core, run = journal(
        started(0), failed(0, final="", retry_at=NOW), started(0), lost, nodes=[node("a", retry=2)]
    )
    again = core.resume(run)
    core.ack()
    core.fail(*core.take()[0])
    core.ack()
    assert again.status == "failed"
    assert again.crashes == {0: 1}


@pytest.mark.requirement("G-10")
def test_a_failed_node_has_a_fresh_budget() -> None:
    core, run = journal(started(0), failed(0, final="", retry_at=NOW), failed(0), nodes=[node("a", retry=2)])
    again = core.resume(run)
    core.ack()
    core.fail(*core.take()[0])
    core.ack()
    assert again.status is None


@pytest.mark.requirement("G-10")
def test_a_fallback_that_was_due_is_taken_and_nothing_executed() -> None:
    nodes = [node("a", fallback="instead", effect="once"), node("b", "a")]
    core, run = journal(started(0), failed(0, final=""), nodes=nodes)
    again = core.resume(run)
    assert core.carry_out() == ["b"]
    assert again._decoded(0) == "instead"
    assert not again.doubts


# Phases


@pytest.mark.requirement("G-14")
def test_a_phase_behind_a_failed_one_is_not_complete_because_its_nodes_succeeded() -> None:
    phases = [
        {"id": "p", "dependencies": [], "operations": [node("a")]},
        {"id": "q", "dependencies": ["p"], "operations": [node("b", trigger="all_done")]},
        {"id": "r", "dependencies": ["q"], "operations": [node("c")]},
    ]
    core = Core()
    run = core.run({"phases": phases})
    core.fail(*core.take()[0])
    core.ack()
    core.answer(*core.take()[0])
    core.ack()
    assert run.status == "failed"
    again = core.resume(run)
    core.ack()
    core.fail(*core.take()[0])
    core.ack()
    assert again.status == "failed"
    assert core.state(again, "r/c") == "skipped"
    assert core.submitted == []


def test_a_complete_phase_is_announced_once() -> None:
    phases = [
        {"id": "p", "dependencies": [], "operations": [node("a")]},
        {"id": "q", "dependencies": ["p"], "operations": [node("b")]},
    ]
    core = Core()
    run = core.run({"phases": phases})
    core.answer(*core.take()[0])
    core.ack()
    core.take()
    again = core.resume(run)
    core.carry_out()
    assert again.status == "succeeded"
    assert [event.data["phase"] for event in core.told("phase_completed")] == ["p", "q"]


# Deaths


@pytest.mark.requirement("G-07")
def test_what_executed_once_only_is_in_doubt_and_the_rest_runs_alone() -> None:
    nodes = [node("a", effect="once"), node("b"), node("c")]
    core, run = journal(started(0, 1, 2), succeeded(2), nodes=nodes)
    again = core.resume(run)
    assert again.doubts == {0}
    assert again.alone == {1}
    assert core.carry_out() == ["b"]
    assert again.status == "paused"
    assert core.fold(run).run.doubts == {0}  # type: ignore[union-attr]


@pytest.mark.requirement("G-09")
def test_crash_counts_and_waits_outlive_the_supervisor() -> None:
    nodes = [node("a"), node("w", type="wait", seconds=60), node("s", type="approval")]
    waits = [NodeWaiting(NOW, 1, "wait", NOW + 60), NodeWaiting(NOW, 2, "approval", None)]
    core, run = journal(started(0), NodeLost(NOW, 0, 1, {}, True, False), *waits, nodes=nodes)
    core.clock.set(NOW - 1_000)  # a clock that was set back extends no wait
    again = core.resume(run)
    assert again.crashes == {0: 1}
    assert core.carry_out() == ["a"]
    core.clock.advance(61)
    core.ack()
    assert core.state(again, "w") == "succeeded"
    assert core.state(again, "s") == "waiting"


def test_a_skipped_node_is_considered_again() -> None:
    core, run = journal(
        started(0), failed(0), NodeSkipped(NOW, 1, "a failed"), nodes=[node("a"), node("b", "a")]
    )
    again = core.resume(run)
    assert core.carry_out() == ["a", "b"]
    assert again.counts["succeeded"] == 2
    assert again.usage["cost"] == 1.0


# Journals that cannot be


def test_a_journal_without_its_admission_has_no_run() -> None:
    core, run = journal(nodes=[node("a")])
    core.frames[run.run_id] = []
    assert core.fold(run).run is None


@pytest.mark.parametrize(
    "record",
    [
        started(9),
        succeeded(9),
        NodesStarted(NOW, [["x", 1]]),
        NodesStarted(NOW, [[0]]),
        NodesSucceeded(NOW, [[0, 1]]),
        failed(9),
        NodeSkipped(NOW, -1, ""),
        NodeExpanded(NOW, 0, 2, 1, b"other", pack([1])),
        NodeExpanded(NOW, 0, 7, 1, b"", pack([1])),
    ],
)
def test_records_that_contradict_the_definition_are_refused(record: Record) -> None:
    core, run = journal(record, nodes=[node("a", foreach=[1]), node("b")])
    with pytest.raises(StateCorruptedError):
        core.fold(run)


def test_a_record_before_the_admission_is_refused() -> None:
    core, run = journal(nodes=[node("a")])
    core.frames[run.run_id].insert(0, encode_records([started(0)]))
    with pytest.raises(StateCorruptedError, match="before the run was admitted"):
        core.fold(run)


# Admissions


def test_an_admission_in_parts_exists_with_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_PART_BYTES", 40)
    spec = flow(
        {
            "inputs": {"t": {"type": "string", "enum": ["a", "b"], "default": "a"}},
            "phases": [
                {
                    "id": "p",
                    "dependencies": [],
                    "operations": [node("a", limits={"memory": 5}), node("b", "p/a")],
                },
                {"id": "q", "dependencies": ["p"], "min_success": 0.5, "operations": [node("c", retry=2)]},
            ],
        }
    )
    records = admission_records(spec, {"run_id": "r", "inputs": {}}, at=NOW)
    assert len(records) > 2
    assembly = Assembly()
    found = [assembly.add(record) for record in records]
    assert found[:-1] == [None] * (len(records) - 1)
    assert found[-1] is not None
    assert pack_definition(found[-1]) == pack_definition(spec)
    assert definition_from(pack_definition(spec)).to_dict() == spec.to_dict()


def test_an_admission_that_does_not_match_its_digest_is_refused() -> None:
    (record,) = admission_records(flow({"nodes": [node("a")]}), {}, at=NOW)
    broken = RunAdmitted(NOW, 0, 1, record.body + b"x", record.digest, {})
    with pytest.raises(StateCorruptedError, match="digest"):
        Assembly().add(broken)


# Plans


def test_a_plan_names_what_is_not_there_and_cycles() -> None:
    with pytest.raises(DefinitionError, match=r"a\.arguments\.x: refers to an unknown node"):
        Core().run({"nodes": [node("a", arguments={"x": "${missing}"})]})
    with pytest.raises(DefinitionError, match=r"a -> b -> a|b -> a -> b"):
        Core().run({"nodes": [node("a", "b"), node("b", "a")]})

"""Workflows of many phases, through a file, real workers and a real journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from places import SUPPORT

from sage_actors import Outcome, Supervisor, load

CALL = f"{ops.__name__}:"


def operation(name: str, call: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "type": "python", "call": CALL + call, **fields}


def phase(name: str, *dependencies: str, operations: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"id": name, "dependencies": list(dependencies), "operations": operations, **fields}


def carry_out(project: Path, phases: list[dict[str, Any]]) -> tuple[Outcome, list[str]]:
    path = project / "flow.json"
    path.write_text(json.dumps({"name": "flow", "phases": phases}))
    with Supervisor(project, search_paths=[SUPPORT]) as supervisor:
        run = supervisor.start(load(path), run_id="flow")
        completed = [event.data["phase"] for event in run.events() if event.event == "phase_completed"]
        return run.result(60), completed


@pytest.mark.requirement("ORCH-014")
def test_six_phases_run_in_the_order_of_their_dependencies(tmp_path: Path) -> None:
    phases = [
        phase("gather", operations=[operation(f"n{i}", "echo", arguments={"value": i}) for i in range(4)]),
        phase(
            "left",
            "gather",
            operations=[operation("sum", "add", arguments={"left": "${gather/n1}", "right": "${gather/n3}"})],
        ),
        phase("right", "gather", operations=[operation("all", "numbers", arguments={"count": 3})]),
        phase(
            "each",
            "right",
            operations=[operation("one", "echo", foreach="${right/all}", arguments={"value": "${item}"})],
        ),
        phase(
            "join",
            "left",
            "each",
            operations=[operation("total", "total", arguments={"numbers": "${each/one}"})],
        ),
        phase(
            "end",
            "join",
            "left",
            operations=[
                operation("done", "add", arguments={"left": "${join/total}", "right": "${left/sum}"})
            ],
        ),
    ]
    outcome, completed = carry_out(tmp_path, phases)
    assert outcome.raise_for_status().results == {"end/done": 3 + 4}
    assert set(completed) == {"gather", "left", "right", "each", "join", "end"}
    assert completed[0] == "gather"
    assert completed[-1] == "end"
    assert completed.index("right") < completed.index("each") < completed.index("join")


@pytest.mark.requirement("ORCH-014")
@pytest.mark.requirement("ORCH-006")
def test_three_of_four_are_enough_where_the_phase_says_so(tmp_path: Path) -> None:
    research = [operation(f"source{i}", "fail_if", arguments={"value": i, "bad": 2}) for i in range(4)]
    phases = [
        phase("research", operations=research, min_success=0.75),
        phase(
            "write",
            "research",
            operations=[
                operation("spec", "echo", arguments={"value": [f"${{research/source{i}}}" for i in range(4)]})
            ],
        ),
    ]
    outcome, _ = carry_out(tmp_path, phases)
    assert outcome.status == "succeeded"
    values = outcome["write/spec"]
    assert values[2] is None
    assert None not in (values[0], values[1], values[3])
    assert set(outcome.errors) == {"research/source2"}


@pytest.mark.requirement("ORCH-014")
def test_too_few_pause_the_run_and_a_resume_tries_only_the_failed_ones(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ran = tmp_path / "ran"
    phases = [
        phase(
            "research",
            operations=[
                operation("good", "mark", arguments={"path": str(ran)}),
                operation("bad", "fail_while", arguments={"gate": str(gate), "value": 1}),
            ],
            min_success=1.0,
        ),
        phase(
            "write",
            "research",
            operations=[operation("spec", "echo", arguments={"value": "${research/bad}"})],
        ),
    ]
    outcome, _ = carry_out(tmp_path, phases)
    assert outcome.status == "paused"
    assert "min_success" in outcome.reason
    gate.touch()
    with Supervisor(tmp_path) as supervisor:
        assert supervisor.resume("flow").result(60).raise_for_status()["write/spec"] == 1
    assert ran.read_text().count("\n") == 1

"""The picture of the execution order: batches and what depends on what."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import CycleError
from sage_actors.supervisor.cli.picture import describe_batches, graph_as_json, render
from sage_actors.supervisor.definitions.specs import spec_from_dict

PY = {"type": "python", "call": "m:f"}


def flat(**needs: list[str]) -> WorkflowSpec:
    return spec_from_dict(
        {"name": "flow", "nodes": [{"id": name, "needs": each, **PY} for name, each in needs.items()]}
    )


def two_phases(width: int) -> WorkflowSpec:
    operations: list[dict[str, Any]] = [{"id": f"n{i}", **PY} for i in range(width)]
    join = {"id": "join", **PY, "arguments": {"x": "${first/n0}"}}
    phases = [
        {"id": "first", "operations": operations},
        {"id": "second", "dependencies": ["first"], "operations": [join]},
    ]
    return spec_from_dict({"name": "flow", "phases": phases})


@pytest.mark.requirement("ORCH-010")
def test_the_picture_has_the_lines_of_the_design() -> None:
    assert render(flat(A=[], B=[], C=["A", "B"])) == "Batch 1: [A, B]\nBatch 2: [C]  C depends on [A, B]"


def test_nodes_that_wait_for_the_same_are_said_together() -> None:
    picture = render(flat(A=[], B=["A"], C=["A"], D=["B"], E=["C", "B"]))
    assert picture.splitlines() == [
        "Batch 1: [A]",
        "Batch 2: [B, C]  B, C depend on [A]",
        "Batch 3: [D, E]  D depends on [B]; E depends on [C, B]",
    ]


@pytest.mark.requirement("ORCH-010")
def test_a_console_gets_the_same_words_in_colours() -> None:
    spec = flat(A=[], B=["A"])
    out = io.StringIO()
    text = render(spec, Console(file=out, force_terminal=True, color_system="standard", width=20))
    assert "\x1b[" in out.getvalue()
    plain = io.StringIO()
    render(spec, Console(file=plain, width=20))
    assert plain.getvalue() == text + "\n"


def test_long_batches_say_how_many_they_are() -> None:
    first, second = render(two_phases(100)).splitlines()
    assert first.endswith("first/n9, ... 90 more]")
    assert second.startswith("Batch 2: [second/join]  second/join depends on [first/n0, ")
    assert second.endswith("... 90 more]")


def test_an_edge_that_is_said_twice_is_one_edge() -> None:
    said = graph_as_json(two_phases(3))
    assert said["edges"] == 3
    assert said["nodes"][-1]["needs"] == ["first/n0", "first/n1", "first/n2"]
    assert said["nodes"][-1]["direct"] == ["first/n0"]


def test_the_graph_as_json_is_json_and_complete() -> None:
    said = graph_as_json(flat(A=[], B=["A"], C=["B"], D=["A"]))
    assert json.loads(json.dumps(said)) == said
    assert [node["batch"] for node in said["nodes"]] == [1, 2, 3, 2]
    assert said["batches"] == [["A"], ["B", "D"], ["C"]]
    assert said["edges"] == 3
    assert said["critical_path"] == ["A", "B", "C"]


def test_references_are_edges_wherever_they_stand() -> None:
    nodes: list[dict[str, Any]] = [{"id": name, **PY} for name in "abcdef"]
    nodes.append(
        {
            "id": "z",
            "type": "shell",
            "command": "echo ${a}",
            "stdin": "${b | x}",
            "when": "${c}",
            "foreach": "${d}",
            "fallback": {"was": "${e}"},
            "arguments": {"deep": [{"x": "see ${f} and ${a}"}]},
        }
    )
    said = graph_as_json(spec_from_dict({"name": "x", "nodes": nodes}))
    assert sorted(said["nodes"][-1]["needs"]) == list("abcdef")


def test_a_cycle_has_no_picture() -> None:
    with pytest.raises(CycleError):
        describe_batches(flat(A=["B"], B=["A"]))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_node_stands_one_batch_after_the_last_it_depends_on(sample: list[int]) -> None:
    needs = {
        f"n{i}": [f"n{j}" for j in range(i) if (i * 7 + j * 3 + extra) % 4 == 0]
        for i, extra in enumerate(sample)
    }
    batches = describe_batches(flat(**needs))
    at = {node: batch.number for batch in batches for node in batch.nodes}
    for batch in batches:
        for node, depends_on in zip(batch.nodes, batch.depends_on, strict=True):
            assert set(depends_on) == set(needs[node])
            assert at[node] == max((at[each] for each in depends_on), default=0) + 1

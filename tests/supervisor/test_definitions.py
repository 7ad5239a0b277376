"""Workflow files: what is accepted, what it means, and every kind of problem with its place and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.messages.definition import InputSpec, RetryPolicy, WorkflowSpec
from sage_actors.messages.errors import CycleError, DefinitionError, Problem
from sage_actors.supervisor.definitions.loading import (
    AVAILABLE_TYPES,
    default_run_id,
    edges_of,
    load_dict,
    load_file,
    resolve_inputs,
    spec_from_dict,
    validate_spec,
)
from sage_actors.supervisor.definitions.source import parse_json, parse_yaml
from sage_actors.supervisor.definitions.validation import TYPES

FILES = Path(__file__).parent / "definitions"
PY = {"type": "python", "call": "m:f"}


def flat(*nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "flow", "nodes": [{**PY, **node} for node in nodes], **more}


def phased(*phases: tuple[str, list[str], list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    made = [
        {"id": name, "dependencies": needs, "operations": [{**PY, **each} for each in operations]}
        for name, needs, operations in phases
    ]
    return {"name": "flow", "phases": made, **more}


def problems_of(data: Any, **options: Any) -> list[Problem]:
    with pytest.raises(DefinitionError) as caught:
        load_dict(data, **options)
    return list(caught.value.problems)


def the_problem(data: Any, **options: Any) -> Problem:
    found = problems_of(data, **options)
    assert len(found) == 1, found
    return found[0]


# what is accepted


@pytest.mark.requirement("ORCH-003")
def test_the_example_of_the_design_is_valid_once_mcp_is_known() -> None:
    spec = load_file(FILES / "feature.json", known_types=TYPES)
    assert [node.id for node in spec.nodes] == ["research/market", "specification/write"]
    market = spec.nodes[0].operation
    assert market.config == {"server": "sage-research", "tool": "market_research"}
    assert market.retry == RetryPolicy(max_attempts=3, backoff=1.0)
    assert market.cache == {"ttl": 30 * 86400.0}
    assert spec.phases[0].min_success == 0.75
    assert list(edges_of(spec)) == [("specification/write", "research/market")]


def test_types_that_nothing_executes_are_refused() -> None:
    with pytest.raises(DefinitionError) as caught:
        load_file(FILES / "feature.json", known_types={"python", "shell"})
    (problem,) = caught.value.problems
    assert problem.place == "phases[0].operations[0].type"
    assert "not available yet" in problem.message
    assert problem.line == 10


def test_every_field_of_every_type_arrives() -> None:
    spec = load_file(FILES / "everything.yaml")
    nodes = {node.id: node for node in spec.nodes}
    assert spec.concurrency is None
    assert spec.timeout == 7200
    assert spec.inputs["depth"] == InputSpec("integer", "", False, 3, (1, 2, 3))
    listing = nodes["list"].operation
    assert (listing.timeout, listing.retry.max_attempts, listing.priority) == (1.5, 4, -5)
    assert listing.limits is not None
    assert listing.limits.memory == 512 * 2**20
    each = nodes["each"].operation
    assert each.retry == RetryPolicy(2, 0.5, 3, 60, 0, ("TimeoutExceeded",))
    assert each.has_fallback
    assert each.fallback is None
    assert each.config == {"command": "echo ${item} ${index} $${HOME}", "check": False}
    assert nodes["night"].operation.config["until"] == "2030-01-31T02:00:00Z"
    inner = nodes["deeper"].operation.config["definition"]
    assert spec_from_dict(inner).nodes[0].operation.config["command"] == ["echo", "${inputs.topic}"]


@pytest.mark.parametrize("name", ["everything.yaml", "feature.json", "sub/inner.yaml"])
def test_a_spec_survives_the_way_through_the_file_format(name: str) -> None:
    spec = load_file(FILES / name, known_types=TYPES)
    said = spec.to_dict()
    assert json.loads(json.dumps(said)) == said
    assert load_dict(said, known_types=TYPES).to_dict() == said
    assert spec_from_dict(said).to_dict() == said


def test_json_and_yaml_mean_the_same(tmp_path: Path) -> None:
    data = flat({"id": "a"}, {"id": "b", "needs": ["a"]})
    (tmp_path / "w.json").write_text(json.dumps(data))
    (tmp_path / "w.yaml").write_text("# YAML reads JSON too\n" + json.dumps(data, indent=2))
    assert load_file(tmp_path / "w.json").to_dict() == load_file(tmp_path / "w.yaml").to_dict()


def test_nodes_that_say_the_same_share_one_operation() -> None:
    spec = spec_from_dict(
        flat(*({"id": f"n{i}", "arguments": {"i": i}} for i in range(50)), {"id": "x", "retry": 2})
    )
    assert len({id(node.operation) for node in spec.nodes}) == 2


def test_true_one_and_one_point_zero_are_not_the_same_fallback() -> None:
    spec = spec_from_dict(flat(*({"id": f"n{i}", "fallback": v} for i, v in enumerate([1, True, 1.0, None]))))
    assert [type(node.operation.fallback) for node in spec.nodes] == [int, bool, float, type(None)]


def test_ids_inside_a_phase_may_be_short_or_full() -> None:
    spec = load_dict(
        phased(
            ("p", [], [{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["p/b"]}]),
            (
                "q",
                ["p"],
                [{"id": "d", "arguments": {"x": "${p/c}"}}, {"id": "e", "arguments": {"x": "${d}"}}],
            ),
        )
    )
    assert [node.needs for node in spec.nodes[:3]] == [(), ("p/a",), ("p/b",)]
    assert ("q/e", "q/d") in set(edges_of(spec))
    assert {name for node, name in edges_of(spec) if node == "q/d"} == {"p/a", "p/b", "p/c"}


def test_a_phase_may_refer_to_what_it_depends_on_through_another() -> None:
    load_dict(
        phased(
            ("p", [], [{"id": "a"}]),
            ("q", ["p"], [{"id": "b"}]),
            ("r", ["q"], [{"id": "c", "arguments": {"x": "${p/a}"}}]),
        )
    )


@pytest.mark.parametrize(
    "data",
    [
        {"name": "x", "nodes": []},
        {"name": "x", "nodes": None},
        {**flat({"id": "a", **PY}), "phases": [{"id": "p", "operations": [{"id": "a", **PY}]}]},
    ],
    ids=["none", "null", "both"],
)
def test_what_is_wrong_with_a_shape_is_said_once(data: Any) -> None:
    assert len(problems_of(data)) == 1


@pytest.mark.parametrize(
    ("value", "place", "said"),
    [
        ({"arguments": {"x": [1 << 64]}}, "nodes[0].arguments.x[0]", "more than 64 bits"),
        ({"fallback": -(1 << 63) - 1}, "nodes[0].fallback", "more than 64 bits"),
        ({"version": "\ud800"}, "nodes[0].version", "no Unicode"),
    ],
)
def test_what_no_run_could_write_down_is_no_definition(value: Any, place: str, said: str) -> None:
    assert [(each.place, said in each.message) for each in problems_of(flat({"id": "a", **PY, **value}))] == [
        (place, True)
    ]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("json", '{"name": "x", "timeout": 1e400, "nodes": []}'),
        ("json", '{"name": "x", "timeout": ' + "9" * 5000 + ', "nodes": []}'),
        ("yaml", "name: x\ntimeout: 1e400\nnodes: []"),
    ],
)
def test_a_number_that_is_too_large_is_not_taken_for_infinity(suffix: str, text: str, tmp_path: Path) -> None:
    (tmp_path / f"f.{suffix}").write_text(text)
    with pytest.raises(DefinitionError, match=r"too large for a (whole )?number"):
        load_file(tmp_path / f"f.{suffix}")


def test_separate_parts_of_a_flat_graph_are_a_warning() -> None:
    warnings: list[Problem] = []
    load_dict(flat({"id": "a"}, {"id": "b"}), warn=warnings.append)
    assert "2 separate parts" in warnings[0].message
    errors, found = validate_spec(spec_from_dict(flat({"id": "a"}, {"id": "b"})))
    assert (errors, len(found)) == ([], 1)


# every kind of problem


@pytest.mark.requirement("ORCH-008")
@pytest.mark.parametrize(
    ("data", "place", "message", "hint"),
    [
        (flat(), "nodes", "no nodes", "add an operation"),
        ({"name": "x"}, "", "neither `phases` nor `nodes`", "add"),
        ({**flat({"id": "a"}), "phases": []}, "nodes", "both `phases` and `nodes`", "one"),
        ({"nodes": [{"id": "a", **PY}]}, "name", "is missing", "add `name`"),
        ([], "", "a workflow is a map", ""),
        (flat({"id": "a"}, inptus={}), "inptus", "unknown field", "did you mean 'inputs'?"),
        (
            flat({"id": "a", "depends_on": []}),
            "nodes[0].depends_on",
            "unknown field",
            "did you mean 'needs'?",
        ),
        (flat({"id": "a", "timeotu": 3}), "nodes[0].timeotu", "unknown field", "did you mean 'timeout'?"),
        (flat({"id": "a", "retry": {"bakoff": 3}}), "nodes[0].retry.bakoff", "unknown field", "'backoff'"),
        (flat({"id": "a", "limits": {"mem": 3}}), "nodes[0].limits.mem", "unknown field", "'memory'"),
        (flat({"id": "a"}, inputs={"t": {"typ": "any"}}), "inputs.t.typ", "unknown field", "'type'"),
        (flat({"id": "a", "timeout": "60"}), "nodes[0].timeout", "is no duration", ""),
        (flat({"id": "a", "timeout": 0}), "nodes[0].timeout", "greater than 0", ""),
        (flat({"id": "a", "timeout": True}), "nodes[0].timeout", "must be a number, but is true", ""),
        (flat({"id": "a", "timeout": float("inf")}), "nodes[0].timeout", "finite", ""),
        (flat({"id": "a", "retry": 0}), "nodes[0].retry.max_attempts", "greater than or equal to 1", ""),
        (flat({"id": "a", "retry": {"jitter": 2}}), "nodes[0].retry.jitter", "less than or equal to 1", ""),
        (flat({"id": "a", "limits": {"memory": "5 cows"}}), "nodes[0].limits.memory", "is no size", ""),
        (flat({"id": "a", "cache": {"ttl": "soon"}}), "nodes[0].cache.ttl", "is no duration", ""),
        (flat({"id": "a", "on_failure": "stop"}), "nodes[0].on_failure", "'fail', 'continue' or 'skip'", ""),
        (flat({"id": "a", "trigger": "any"}), "nodes[0].trigger", "'all_success'", ""),
        (flat({"id": "a", "effect": "never"}), "nodes[0].effect", "'pure'", ""),
        (flat({"id": "a", "priority": 1.5}), "nodes[0].priority", "but is 1.5", ""),
        (flat({"id": "a", "needs": "b"}), "nodes[0].needs", "must be a list", ""),
        (flat({"id": "a", "arguments": []}), "nodes[0].arguments", "must be a map", ""),
        (flat({"id": "a"}, concurrency=0), "concurrency", "greater than or equal to 1", ""),
        (
            flat({"id": "a", "type": "pyhton"}),
            "nodes[0].type",
            "unknown operation type",
            "did you mean 'python'?",
        ),
        (flat({"id": "a", "type": None}), "nodes[0].type", "unknown operation type", "one of"),
        (flat({"id": "a", "call": "nope"}), "nodes[0].call", "must be package.module:function", "lambdas"),
        (flat({"id": "a", "call": "m:<lambda>"}), "nodes[0].call", "must be package.module:function", ""),
        (flat({"id": "a b"}), "nodes[0].id", "bad id", "A-Z"),
        (flat({"id": "a/b"}), "nodes[0].id", "bad id", "A-Z"),
        (flat({"id": "item"}), "nodes[0].id", "reserved", "choose another"),
        (flat({"id": "a"}, {"id": "a"}), "nodes[1].id", "duplicate id", "nodes[0]"),
        (
            flat({"id": "alpha"}, {"id": "b", "needs": ["alpah"]}),
            "nodes[1].needs[0]",
            "unknown node",
            "'alpha'",
        ),
        (flat({"id": "a", "needs": ["a"]}), "nodes[0].needs[0]", "needs itself", "wait"),
        (flat({"id": "a", "when": "${a}"}), "nodes[0].when", "refers to itself", ""),
        (
            flat({"id": "a", "arguments": {"x": ["${zz}"]}}),
            "nodes[0].arguments.x[0]",
            "unknown node: 'zz'",
            "name",
        ),
        (
            flat({"id": "a", "arguments": {"x": "${inputs.t}"}}),
            "nodes[0].arguments.x",
            "unknown input",
            "declare",
        ),
        (
            flat({"id": "a", "arguments": {"x": "${item}"}}),
            "nodes[0].arguments.x",
            "inside `foreach` only",
            "foreach",
        ),
        (
            flat({"id": "a", "arguments": {"x": "${b | [?}"}}),
            "nodes[0].arguments.x",
            "bad JMESPath",
            "jmespath.org",
        ),
        (flat({"id": "a", "arguments": {"x": "${b"}}), "nodes[0].arguments.x", "not closed", "$${"),
        (flat({"id": "a", "when": "${env.X}"}), "nodes[0].when", "cannot be used in `when`", "`arguments`"),
        (flat({"id": "a", "foreach": "${env.X}"}), "nodes[0].foreach", "cannot be used in `foreach`", ""),
        (flat({"id": "a", "fallback": "${env.X}"}), "nodes[0].fallback", "cannot be used in a fallback", ""),
        (flat({"id": "a", "when": "yes"}), "nodes[0].when", "must be one reference", "write"),
        (flat({"id": "a", "foreach": "1,2"}), "nodes[0].foreach", "must be one reference", "write"),
        (flat({"id": "a"}, inputs={"x y": {}}), "inputs.x y", "bad name", "A-Z"),
        (
            flat({"id": "a"}, inputs={"t": {"type": "integer", "default": "x"}}),
            "inputs.t.default",
            "must be of type integer",
            "",
        ),
        (
            flat({"id": "a", "type": "mcp", "server": "s", "tool": "t"} | {"call": None}),
            "nodes[0].call",
            "unknown",
            "",
        ),
        (phased(("p", [], [])), "phases[0].operations", "no operations", "add one"),
        (
            phased(("p", ["q"], [{"id": "a"}])),
            "phases[0].dependencies[0]",
            "unknown phase 'q'",
            "name a phase",
        ),
        (
            phased(("p", [], [{"id": "a"}]), ("p", [], [{"id": "b"}])),
            "phases[1].id",
            "duplicate id",
            "phases[0]",
        ),
        (
            phased(("p", [], [{"id": "a"}]), ("q", [], [{"id": "b"}])),
            "phases[1]",
            "cut off from the graph",
            "connect",
        ),
        (phased(("env", [], [{"id": "a"}])), "phases[0].id", "reserved", ""),
        (
            phased(
                ("p", [], [{"id": "a"}]),
                ("q", ["p"], [{"id": "b"}]),
                ("r", ["p"], [{"id": "c", "needs": ["q/b"]}]),
            ),
            "phases[2].operations[0].needs[0]",
            "phase 'r' does not depend on phase 'q'",
            "add 'q'",
        ),
        (
            phased(
                ("p", [], [{"id": "market"}]), ("q", ["p"], [{"id": "b", "arguments": {"x": "${market}"}}])
            ),
            "phases[1].operations[0].arguments.x",
            "unknown node: 'market'",
            "did you mean 'p/market'?",
        ),
        (
            {"name": "x", "phases": [{"id": "p", "min_success": 75, "operations": [{"id": "a", **PY}]}]},
            "phases[0].min_success",
            "less than or equal to 1",
            "",
        ),
        (
            {"name": "x", "nodes": [{"id": "a", "type": "shell", "command": "echo $${A} ${HOME}"}]},
            "nodes[0].command",
            "unknown node: 'HOME'",
            "write $${HOME}",
        ),
        (
            {
                "name": "x",
                "nodes": [{"id": "a", "type": "shell", "command": "ls"}, {"id": "b", **PY, "when": "${a/c}"}],
            },
            "nodes[1].when",
            "unknown node: 'a/c'",
            "only the whole result",
        ),
        ({"name": "x", "nodes": [{"id": "a", "type": "wait"}]}, "nodes[0]", "`seconds` or `until`", ""),
        (
            {"name": "x", "nodes": [{"id": "a", "type": "wait", "until": "soon"}]},
            "nodes[0]",
            "must be a moment",
            "",
        ),
        ({"name": "x", "nodes": [{"id": "a", "type": "http"}]}, "nodes[0].url", "is missing", "add `url`"),
        (
            {"name": "x", "nodes": [{"id": "a", "type": "shell", "command": []}]},
            "nodes[0].command",
            "must not be empty",
            "",
        ),
        ({"name": "x", "nodes": [{"id": "a", "call": "m:f"}]}, "nodes[0].type", "is missing", "one of"),
        (
            {"name": "x", "nodes": [{"type": "python", "call": "m:f"}]},
            "nodes[0].id",
            "is missing",
            "add `id`",
        ),
        ({"name": "x", "nodes": [3]}, "nodes[0]", "must be a map, but is 3", ""),
    ],
)
def test_a_problem_is_named_with_its_place_and_what_to_do(
    data: Any, place: str, message: str, hint: str
) -> None:
    found = problems_of(data, known_types=TYPES)
    matching = [each for each in found if each.place == place and message in each.message]
    assert matching, found
    assert hint in matching[0].hint


@pytest.mark.requirement("ORCH-008")
def test_a_cycle_is_printed_and_is_a_cycle_error() -> None:
    with pytest.raises(CycleError, match="cycle: a -> b -> c -> a") as caught:
        load_dict(
            flat(
                {"id": "a", "needs": ["b"]},
                {"id": "b", "when": "${c}"},
                {"id": "c", "arguments": {"x": "${a}"}},
            )
        )
    assert caught.value.cycle == ("a", "b", "c", "a")
    assert any("no entry point" in each.message for each in caught.value.problems)


def test_a_cycle_of_phases_is_printed() -> None:
    data = phased(("p", ["r"], [{"id": "a"}]), ("q", ["p"], [{"id": "a"}]), ("r", ["q"], [{"id": "a"}]))
    with pytest.raises(CycleError) as caught:
        load_dict(data)
    assert caught.value.cycle == ("p", "r", "q", "p")
    assert caught.value.problems[0].place == "phases[0].dependencies"


@pytest.mark.requirement("ORCH-008")
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_all_problems_come_at_once_each_with_its_line(suffix: str, tmp_path: Path) -> None:
    data = {
        "name": "bad",
        "phases": [
            {
                "id": "one",
                "operations": [{"id": "a", **PY, "timeout": -1}, {"id": "b", **PY, "needs": ["a", "c"]}],
            },
            {
                "id": "two",
                "dependencies": ["one"],
                "operations": [{"type": "python"}, {"id": "d", **PY, "retry": "x"}],
            },
            {"oops": 1},
            {
                "id": "three",
                "dependencies": ["oen"],
                "operations": [{"id": "e", **PY, "when": "${two/d | [}"}],
            },
        ],
    }
    text = json.dumps(data, indent=1)
    path = tmp_path / f"bad.{suffix}"
    path.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_file(path)
    lines = text.splitlines()
    found = {each.place: each for each in caught.value.problems}
    for place, word in {
        "phases[0].operations[0].timeout": '"timeout"',
        "phases[0].operations[1].needs[1]": '"c"',
        "phases[1].operations[1].retry": '"retry"',
        "phases[2].oops": '"oops"',
        "phases[3].dependencies[0]": '"oen"',
        "phases[3].operations[0].when": '"when"',
    }.items():
        line = found[place].line
        assert line is not None
        assert word in lines[line - 1]
    assert {"phases[1].operations[0].id", "phases[1].operations[0].call", "phases[2].id"} <= found.keys()
    assert str(path) in str(caught.value)
    assert [each.line for each in caught.value.problems] == sorted(
        each.line or 0 for each in caught.value.problems
    )


def test_a_faulty_definition_is_left_as_it_was() -> None:
    data = flat(
        {"id": "a", "timeout": -1, "retry": {"jitter": 5}},
        {"id": "b", "type": "zzz"},
        {"id": "c", "needs": [1]},
    )
    before = json.dumps(data)
    problems_of(data)
    assert json.dumps(data) == before


@pytest.mark.parametrize(
    ("name", "text", "message", "line"),
    [
        ("w.json", '{"name": "x",\n "nodes": [,]}', "bad JSON at column 12", 2),
        ("w.json", '{"name": "x",\n "name": "y"}', "stands twice", 2),
        ("w.json", '{"name": NaN}', "NaN is no JSON value", None),
        ("w.json", "[" * 100_000, "nested too deep", None),
        ("w.json", "[" * 400 + "]" * 400, "a workflow is a map", 1),
        ("w.json", '{"name":' + "[" * 400 + "]" * 400 + "}", "levels deep", 1),
        ("w.json", "", "bad JSON", 1),
        ("w.yaml", "name: x\nnodes: [\n", "bad YAML", 3),
        ("w.yaml", "name: x\nname: y\n", "stands twice", 2),
        ("w.yaml", "name: !!python/object/apply:os.system [id]\n", "the tag", 1),
        ("w.yaml", "name: !secret x\n", "the tag '!secret'", 1),
        ("w.yaml", "name: !!str 5\n", "the tag '!!str'", 1),
        ("w.yaml", "name: ! x\n", "the tag '!'", 1),
        ("w.yaml", "!!str name: x\n", "the tag '!!str'", 1),
        ("w.yaml", "name: x\nnodes: !!seq []\n", "the tag '!!seq'", 2),
        ("w.yaml", "name: x\nnodes: [{n: .inf}, -.INF]\n", ".inf is no JSON value", 2),
        ("w.yaml", "name: .nan\n", ".nan is no JSON value", 1),
        ("w.yaml", "a: &a [*a]\n", "alias", 1),
        ("w.yaml", "? [a]\n: b\n", "a key that is no text", 1),
        ("w.yaml", "a: 1\n---\nb: 2\n", "a second document", 2),
        ("w.yaml", "[" * 5000, "nested too deep", 1),
        ("w.yaml", "\x00", "bad YAML", None),
        ("w.yaml", "", "a workflow is a map", None),
        ("w.yaml", "<<: 3\n", "merges maps only", 1),
    ],
)
def test_bad_syntax_is_a_definition_error_with_its_line(
    name: str, text: str, message: str, line: int | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DefinitionError) as caught:
        load_file(tmp_path / name)
    problem = caught.value.problems[0]
    assert message in problem.message
    assert problem.line == line


def test_a_quoted_infinity_is_a_text() -> None:
    assert parse_yaml("a: '.inf'\nb: \".nan\"\nc: .info\nd: 1.0")[0] == {
        "a": ".inf",
        "b": ".nan",
        "c": ".info",
        "d": 1.0,
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"command": {"a": 1}}, {"command": "must be a text or a list, but is a map"}),
        (
            {"command": ["a", ["b"], 1]},
            {"command[1]": "must be a text, but is a list", "command[2]": "must be a text, but is 1"},
        ),
        ({"command": "a", "foreach": 5}, {"foreach": "must be a text or a list, but is 5"}),
        ({"command": "a", "sandbox": 5}, {"sandbox": "must be a text or a map, but is 5"}),
        ({"command": "a", "env": {"str": 5}}, {"env.str": "must be a text, but is 5"}),
        (
            {"type": "agent", "prompt": "a", "checks": 5},
            {"checks": "must be true, false or a list, but is 5"},
        ),
        ({"type": "nothing", "foreach": 5}, {"type": None, "foreach": "must be a text or a list, but is 5"}),
    ],
)
def test_a_field_of_several_types_has_one_problem(fields: dict[str, Any], said: dict[str, Any]) -> None:
    operation = {"id": "a", "type": "shell", **fields}
    for data, place in (
        ({"name": "f", "nodes": [operation]}, "nodes[0]."),
        ({"name": "f", "phases": [{"id": "p", "operations": [operation]}]}, "phases[0].operations[0]."),
    ):
        found = problems_of(data)
        assert {each.place for each in found} == {place + name for name in said}
        assert len(found) == len(said)
        for each in found:
            wanted = said[each.place.removeprefix(place)]
            assert wanted is None or each.message == wanted


def test_every_problem_with_references_is_said_exactly_once() -> None:
    words = ["echo", "${b | [}", "${zzz}", "${inputs.q}", "${each[0]}", "${s/c}", "${x} ${x} ${inputs.q"]
    text = "echo ${y} '${b | [}' ${b | [} ${inputs.q}"
    nodes = [{"id": "a", "type": "shell", "command": words}, {"id": "b", "type": "shell", "command": text}]
    found = sorted(
        (each.place, each.message.partition(":")[0]) for each in problems_of({"name": "f", "nodes": nodes})
    )
    assert found == sorted(
        [
            ("nodes[0].command[1]", "bad JMESPath '['"),
            ("nodes[0].command[2]", "refers to an unknown node"),
            ("nodes[0].command[3]", "unknown input 'q'"),
            ("nodes[0].command[4]", "${each[0]}"),
            ("nodes[0].command[5]", "refers to an unknown node"),
            ("nodes[0].command[6]", "refers to an unknown node"),
            ("nodes[0].command[6]", "a reference that is not closed"),
            ("nodes[1].command", "a reference inside quotes"),
            ("nodes[1].command", "bad JMESPath '['"),
            ("nodes[1].command", "refers to an unknown node"),
            ("nodes[1].command", "unknown input 'q'"),
        ]
    )


@pytest.mark.parametrize(
    "operation",
    [
        {"type": "approval"},
        {"type": "wait", "seconds": 1},
        {"type": "workflow", "definition": flat({"id": "b"})},
    ],
)
def test_what_is_not_tried_again_is_warned_of_a_retry(operation: dict[str, Any]) -> None:
    node, warnings = {"id": "a", **operation}, list[Any]()
    load_dict({"name": "f", "nodes": [{**node, "retry": 2}]}, warn=warnings.append)
    (warning,) = warnings
    assert "not tried again" in str(warning)
    load_dict({"name": "f", "nodes": [{**node, "retry": 1, "timeout": 5}]}, warn=warnings.append)
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "url", ["ftp://x", "ftp://${inputs.h}/", "example.org", "file:///etc/passwd", "http://"]
)
def test_a_url_that_is_not_of_the_web_is_refused(url: str) -> None:
    data = {"name": "f", "inputs": {"h": {}}, "nodes": [{"id": "a", "type": "http", "url": url}]}
    problem = the_problem(data)
    assert (problem.place, problem.message) == ("nodes[0].url", "must begin with http:// or https://")


@pytest.mark.parametrize(
    "url", ["https://x", "HTTP://x/", "${inputs.h}/path", "${inputs.h}", "https://${inputs.h}"]
)
def test_a_url_of_the_web_or_of_a_reference_is_good(url: str) -> None:
    load_dict({"name": "f", "inputs": {"h": {}}, "nodes": [{"id": "a", "type": "http", "url": url}]})


def test_aliases_cannot_multiply_without_bound(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(DefinitionError, match="aliases repeat more than"):
        load_file(tmp_path / "bomb.yaml")


def test_yaml_reads_words_as_people_mean_them() -> None:
    data, lines = parse_yaml(
        "base: &base {retry: {on: [x]}}\nother: {<<: *base, a: no}\n"
        "list: [on, off, yes, 22:22, 2024-01-01, 010, 0x10, 1e3, 1.5, .5, null, ~, true, "
        "'1', \"true\", 1_000]\n"
    )
    assert data["other"] == {"a": "no", "retry": {"on": ["x"]}}
    assert data["list"] == [
        *("on", "off", "yes", "22:22", "2024-01-01", 10, 16, 1000.0, 1.5, 0.5, None, None, True),
        *("1", "true", "1_000"),
    ]
    assert lines("list[3]") == 3
    assert lines("other.nothing.at.all") == 2


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=15,
)


@given(json_values)
def test_the_reader_gives_back_what_json_wrote(value: Any) -> None:
    for indent in (None, 1):
        text = json.dumps(value, indent=indent)
        assert parse_json(text)[0] == value


# files


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "no file"),
        (Path("a\0b.json"), "cannot be read"),
    ]:
        with pytest.raises(DefinitionError, match=message):
            load_file(path)
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe9"}')
    with pytest.raises(DefinitionError, match="cannot be read"):
        load_file(tmp_path / "latin.json")


def test_workflows_that_contain_each_other_are_refused_with_the_chain(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        node = {"id": "n", "type": "workflow", "workflow": f"{other}.json"}
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "nodes": [node]}))
    with pytest.raises(DefinitionError, match=r"a\.json -> b\.json -> c\.json -> a\.json"):
        load_file(tmp_path / "a.json")


def test_a_problem_of_a_sub_workflow_names_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "in.yaml").write_text("name: in\nnodes:\n  - {id: a, type: shell}\n")
    node = {"id": "n", "type": "workflow", "workflow": "in.yaml"}
    (tmp_path / "out.json").write_text(json.dumps({"name": "out", "nodes": [node]}))
    with pytest.raises(DefinitionError) as caught:
        load_file(tmp_path / "out.json")
    (problem,) = caught.value.problems
    assert problem.place == "nodes[0].workflow"
    assert "in.yaml: line 3: nodes[0].command: is missing" in problem.message


def test_the_inputs_of_a_sub_workflow_are_checked() -> None:
    inner = flat({"id": "a"}, inputs={"topic": {}})
    node = {"id": "n", "type": "workflow", "definition": inner, "inputs": {"topc": 1}, "arguments": {"x": 1}}
    found = problems_of({"name": "x", "nodes": [node]})
    assert {each.place for each in found} == {
        "nodes[0].inputs.topc",
        "nodes[0].arguments.x",
        "nodes[0].inputs",
    }
    assert any(each.hint == "did you mean 'topic'?" for each in found)
    node |= {"inputs": {}, "arguments": {"topic": 1}}
    load_dict({"name": "x", "nodes": [node]})


def test_a_path_without_a_file_to_start_from_is_refused() -> None:
    problem = the_problem({"name": "x", "nodes": [{"id": "n", "type": "workflow", "workflow": "a.json"}]})
    assert "relative to a file" in problem.message


# robustness


words = st.sampled_from(
    [
        "a",
        "b",
        "python",
        "m:f",
        "shell",
        "${a}",
        "${b | x}",
        "${item}",
        "item",
        "5m",
        "x/y",
        "",
        "wait",
        "workflow",
        "${",
    ]
)
scalars = st.none() | st.booleans() | st.integers(-2, 3) | words | st.text(max_size=3)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
names = [
    "id",
    "type",
    "call",
    "needs",
    "arguments",
    "when",
    "foreach",
    "retry",
    "timeout",
    "command",
    "fallback",
]
names += ["limits", "cache", "seconds", "until", "workflow", "definition", "inputs", "oops", "env"]
operations = st.lists(
    st.fixed_dictionaries(
        {"id": words | anything, "type": st.sampled_from(TYPES) | scalars},
        optional=dict.fromkeys(names[2:], anything),
    )
    | anything,
    max_size=4,
)
wild_phases = st.lists(
    st.fixed_dictionaries(
        {"id": words | anything, "operations": operations | anything},
        optional={
            "dependencies": st.lists(words, max_size=2) | anything,
            "min_success": anything,
            "name": anything,
        },
    )
    | anything,
    max_size=3,
)
wild = st.fixed_dictionaries(
    {"name": st.just("x") | anything},
    optional={
        "nodes": operations | anything,
        "phases": wild_phases | anything,
        "inputs": anything,
        "timeout": anything,
    },
)


def test_an_empty_inline_sub_workflow_is_a_problem_with_a_place() -> None:
    with pytest.raises(DefinitionError) as caught:
        load_dict({"name": "x", "nodes": [{"id": "a", "type": "workflow", "definition": {}}]})
    assert any(each.place.startswith("nodes[0].definition") for each in caught.value.problems)


@given(wild | anything)
@settings(deadline=None, max_examples=300)
def test_whatever_a_file_says_it_is_loaded_or_refused_as_a_definition(data: Any) -> None:
    try:
        spec = load_dict(data, base=FILES, known_types=TYPES)
    except DefinitionError:
        with pytest.raises(DefinitionError, match="problem"):
            load_dict(data, base=FILES, known_types=TYPES)
    else:
        assert load_dict(spec.to_dict(), known_types=TYPES).to_dict() == spec.to_dict()


@settings(deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:,\"'&*!|>-# \n\tab1", max_size=60))
def test_whatever_text_a_file_holds_it_is_read_or_refused(text: str) -> None:
    for reader in (parse_json, parse_yaml):
        try:
            _, lines = reader(text)
        except DefinitionError:
            continue
        assert isinstance(lines("nodes[0].id"), int | None)


@pytest.mark.no_cover
def test_a_graph_of_twenty_thousand_nodes_is_validated_from_a_file(tmp_path: Path) -> None:
    nodes = [{"id": f"n{i}", "needs": [f"n{i - 1}"] if i else []} for i in range(20_000)]
    (tmp_path / "big.json").write_text(json.dumps(flat(*nodes)))
    assert len(load_file(tmp_path / "big.json").nodes) == 20_000


# inputs and run ids


def spec_with(**inputs: Any) -> WorkflowSpec:
    return spec_from_dict(flat({"id": "a"}, inputs=inputs))


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        ("string", "5", "5"),
        ("integer", "5", 5),
        ("number", "5", 5),
        ("number", "2.5", 2.5),
        ("boolean", "yes", True),
        ("boolean", "False", False),
        ("array", "[1, 2]", [1, 2]),
        ("object", '{"a": 1}', {"a": 1}),
        ("any", "5", "5"),
    ],
)
def test_text_from_the_command_line_is_read_as_the_declared_type(
    declared: str, text: str, value: Any
) -> None:
    result = resolve_inputs(spec_with(x={"type": declared}), {"x": text})["x"]
    assert result == value
    assert type(result) is type(value)


def test_defaults_fill_in_what_is_not_given() -> None:
    spec = spec_with(a={"default": [1]}, b={"type": "string", "required": False}, c={})
    assert resolve_inputs(spec, {"c": 1}) == {"a": [1], "b": None, "c": 1}


def test_all_that_is_wrong_with_inputs_is_said_at_once() -> None:
    spec = spec_with(topic={}, depth={"type": "integer"}, mode={"enum": ["fast", "slow"]}, one={"enum": [1]})
    with pytest.raises(DefinitionError) as caught:
        resolve_inputs(spec, {"topci": 1, "depth": "deep", "mode": "medium", "one": True})
    said = {each.place: each for each in caught.value.problems}
    assert said["inputs.topci"].hint == "did you mean 'topic'?"
    assert "-i topic=VALUE" in said["inputs.topic"].message
    assert "of type integer" in said["inputs.depth"].message
    assert 'one of "fast", "slow"' in said["inputs.mode"].message
    assert "one of 1, but is true" in said["inputs.one"].message


@pytest.mark.parametrize("declared", ["string", "integer", "number", "boolean", "array", "object", "any"])
def test_an_input_that_may_be_left_out_may_be_null(declared: str) -> None:
    """The run hands its own inputs on, resolved once, to the supervisor and to sub-workflows."""
    spec = spec_with(n={"type": declared, "required": False})
    once = resolve_inputs(spec, {})
    assert once == resolve_inputs(spec, once) == {"n": None}


def test_an_input_that_must_be_given_may_not_be_null() -> None:
    for said in ({"type": "integer"}, {"type": "integer", "default": 1}):
        with pytest.raises(DefinitionError, match="must be of type integer, but is null"):
            resolve_inputs(spec_with(n=said), {"n": None})


@pytest.mark.parametrize(
    ("declared", "value", "why"),
    [
        ("integer", "99999999999999999999999", "64 bits"),
        ("any", "\udcff", "not valid Unicode"),
        ("array", "[NaN]", "must be of type array"),
    ],
)
def test_an_input_that_cannot_be_stored_is_a_problem_of_the_input(
    declared: str, value: str, why: str
) -> None:
    with pytest.raises(DefinitionError, match=why) as caught:
        resolve_inputs(spec_with(x={"type": declared}), {"x": value})
    assert [each.place for each in caught.value.problems] == ["inputs.x"]


@pytest.mark.parametrize(
    ("topic", "inputs", "run_id"),
    [
        (None, {}, "flow"),
        ("payment processing", {"topic": "payment processing"}, "flow-payment-processing"),
        ("Payment  Processing ", {}, "flow-payment-processing"),
        (None, {"topic": "tea", "depth": 3}, "flow-tea"),
    ],
)
def test_a_run_id_is_the_workflow_and_the_topic(
    topic: str | None, inputs: dict[str, Any], run_id: str
) -> None:
    spec = spec_with(topic={"default": None}, depth={"default": 3})
    assert default_run_id(spec, inputs, topic) == run_id


def test_the_run_id_of_an_error_text_names_the_error() -> None:
    traceback = """Traceback (most recent call last):
  File "/srv/shop/stock.py", line 3, in level
    return LEVELS[name]
           ~~~~~~^^^^^^
KeyError: 'tea'
"""
    ids = [default_run_id(spec_with(), {}, text) for text in (traceback, traceback.replace("3", "4"))]
    assert all(re.fullmatch(r"flow-keyerror-tea-[0-9a-f]{8}", each) for each in ids)
    assert len(set(ids)) == 2
    assert default_run_id(spec_with(), {}, "two\nlines").startswith("flow-two-")
    assert default_run_id(spec_with(), {}, "one line\n") == "flow-one-line"


def test_topics_that_lose_characters_and_further_inputs_keep_run_ids_apart() -> None:
    spec = spec_with(topic={}, depth={"default": 3})
    topics = ["a/b", "a:b", "a b!", "ä b", "ö b", "日本", "中国", "x" * 200, "x" * 201, "..", "-"]
    ids = [default_run_id(spec, {}, topic) for topic in topics]
    ids += [default_run_id(spec, {"depth": depth}, "a b") for depth in (1, 2)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", each) for each in ids)
    assert re.fullmatch(r"flow-a-b-[0-9a-f]{8}", ids[0])


def test_names_that_lose_characters_keep_run_ids_apart() -> None:
    names = ["日本語", "Привет", "flow!", "flow?", "..", "-"]
    ids = [default_run_id(spec_from_dict({"name": name, "nodes": []}), {}) for name in names]
    assert len(set(ids)) == len(ids)
    assert "workflow" not in ids
    plain = ["flow", "My Flow", "v1.2_x-y", "n" * 99]
    ids = [default_run_id(spec_from_dict({"name": name, "nodes": []}), {}) for name in plain]
    assert ids == ["flow", "my-flow", "v1.2_x-y", "n" * 40]


@given(st.text(min_size=1, max_size=200), st.text(max_size=300))
def test_any_name_and_topic_make_a_run_id_that_is_allowed(name: str, topic: str) -> None:
    spec = spec_from_dict({"name": name, "nodes": []})
    run_id = default_run_id(spec, {"more": 1}, topic)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", run_id)
    assert default_run_id(spec, {"more": 1}, topic) == run_id


def test_what_is_available_is_among_the_types() -> None:
    assert set(TYPES) >= AVAILABLE_TYPES

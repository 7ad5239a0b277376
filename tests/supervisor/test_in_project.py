"""What a definition takes from its project: unknown servers, tools and skills are told, nothing is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_actors import Supervisor
from sage_actors.messages.errors import DefinitionError
from sage_actors.supervisor.definitions.arguments import argument_problem
from sage_actors.supervisor.definitions.in_project import project_problems
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.templates.library import list_templates, load_workflow

SPECIFY = {"type": "mcp", "server": "sage-specification", "tool": "specification_create"}


def problems(project: Path, *nodes: dict[str, Any]) -> list[str]:
    spec = load_dict({"name": "x", "nodes": [{"id": f"n{at}", **node} for at, node in enumerate(nodes)]})
    return [f"{each.place}: {each.message}" for each in project_problems(spec, project)]


def servers(project: Path, **entries: Any) -> None:
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": entries}))


def call(server: str, tool: str = "x", **arguments: Any) -> dict[str, Any]:
    return {"type": "mcp", "server": server, "tool": tool, "arguments": arguments}


def test_the_built_in_templates_name_only_what_is_there(tmp_path: Path) -> None:
    for template in list_templates(tmp_path):
        assert load_workflow(template.path, project=tmp_path).nodes


def test_a_server_of_the_project_is_known_by_its_name_and_never_started(tmp_path: Path) -> None:
    servers(tmp_path, files={"command": "sh", "args": ["-c", "touch started"]})
    assert problems(tmp_path, call("files", "anything", any_argument=1)) == []
    assert problems(tmp_path, call("filse")) == ["nodes[0].server: there is no server 'filse'"]
    assert not (tmp_path / "started").exists()


def test_a_server_that_takes_a_built_in_ones_place_may_have_other_tools(tmp_path: Path) -> None:
    servers(tmp_path, **{"sage-research": {"command": "mine"}})
    assert problems(tmp_path, call("sage-research", "mine")) == []


def test_a_disabled_server_is_told_and_one_of_a_built_in_name_is_as_if_it_were_not_there(
    tmp_path: Path,
) -> None:
    off = {"command": "x", "disabled": True}
    servers(tmp_path, **{"files": off, "sage-research": off})
    found = problems(tmp_path, call("files"), call("sage-research", "no_such"))
    assert found == [
        "nodes[0].server: the server 'files' is disabled in .mcp.json",
        "nodes[1].tool: sage-research has no tool 'no_such'",
    ]


def test_an_entry_and_a_file_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    servers(tmp_path, ok=5)
    (problem,) = problems(tmp_path, call("ok"))
    assert "must be an object" in problem
    (tmp_path / ".mcp.json").write_text("{")
    (problem,) = problems(tmp_path, call("ok"), call("sage-research", "best_practices", topic="x"))
    assert problem.startswith(".mcp.json: line 1: is not JSON")


def test_what_is_known_in_the_run_only_is_not_judged(tmp_path: Path) -> None:
    spec = load_dict(
        {
            "name": "x",
            "inputs": {"it": {"type": "string"}},
            "nodes": [
                {"id": "a", **call("${inputs.it}")},
                {"id": "b", **call("sage-research", "${inputs.it}")},
                {"id": "c", **call("sage-research", "best_practices", topic="x", top="${inputs.it}")},
                {"id": "d", "type": "skill", "skill": "${inputs.it}"},
            ],
        }
    )
    assert project_problems(spec, tmp_path) == []


def test_wrong_values_are_told_with_what_is_allowed(tmp_path: Path) -> None:
    found = problems(tmp_path, {**SPECIFY, "arguments": {"topic": 5, "kind": "bug", "slug": None}})
    assert found == [
        "nodes[0].arguments.topic: must be a text, not 5",
        "nodes[0].arguments.kind: must be 'feature' or 'bugfix' or 'enhancement', not 'bug'",
    ]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer", "minimum": 1}, "5"),
        ({"type": "number"}, 1),
        ({"type": "boolean"}, "yes"),
        ({"type": "array"}, "[1]"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"type": "string"}, "${a}"),
        ({"type": "object"}, {"a": ["${b}"]}),
        ({}, object()),
    ],
)
def test_what_a_server_would_take_is_no_problem(schema: dict[str, Any], value: Any) -> None:
    assert argument_problem(schema, value) == ""


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({"type": "integer"}, 1.5, "a whole number"),
        ({"type": "integer"}, "many", "a whole number"),
        ({"type": "number", "maximum": 1}, 2, "at most 1"),
        ({"type": "number", "exclusiveMinimum": 0}, 0, "more than 0"),
        ({"type": "number"}, 10**400, "a number"),
        ({"type": "boolean"}, "perhaps", "true or false"),
        ({"type": "array"}, "[1", "a list"),
        ({"type": "object"}, "[1]", "an object"),
        ({"type": "string", "minLength": 1}, " ", "not be blank"),
        ({"type": "string", "maxLength": 2}, "abc", "at most 2 characters"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, 5, "a text"),
    ],
)
def test_what_no_server_would_take_is_told(schema: dict[str, Any], value: Any, said: str) -> None:
    assert said in argument_problem(schema, value)


def test_sub_workflows_are_looked_into(tmp_path: Path) -> None:
    inner = {"name": "in", "nodes": [{"id": "a", **call("nowhere")}]}
    (problem,) = problems(tmp_path, {"type": "workflow", "definition": inner})
    assert problem == "nodes[0].definition: nodes[0].server: there is no server 'nowhere'"


def test_a_library_user_is_told_before_anything_runs(tmp_path: Path) -> None:
    spec = load_dict({"name": "x", "nodes": [{"id": "a", **call("nowhere")}]})
    with (
        Supervisor(tmp_path, durability="none", sandbox="off") as supervisor,
        pytest.raises(DefinitionError, match="there is no server 'nowhere'"),
    ):
        supervisor.start(spec)

"""Templates: the three of the package, a project's own, and both of upstream's shapes."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.messages.errors import DefinitionError, StorageError, UsageError
from sage_actors.servers.catalog import SAGE_SERVERS
from sage_actors.supervisor.consent import required_items
from sage_actors.supervisor.definitions.loading import edges_of, load_dict
from sage_actors.supervisor.templates.library import (
    add_template,
    check_template,
    find_template,
    list_templates,
    load_workflow,
    project_folder,
)
from sage_actors.supervisor.templates.tools import named_tool
from sage_actors.supervisor.templates.upstream import from_upstream, is_upstream

PHASES = {
    "feature": ["research", "specification", "planning", "implementation"],
    "bugfix": ["analysis", "research", "implementation", "validation"],
    "enhancement": ["detection", "research", "planning", "implementation"],
}
OWN = {"name": "mine", "nodes": [{"id": "a", "type": "wait", "seconds": 0}]}


def built_in(name: str, project: Path) -> WorkflowSpec:
    template = find_template(name, project)
    assert template is not None
    return load_workflow(template.path)


def tokens_of(node: NodeSpec) -> int:
    assert node.operation.digest is not None
    return int(node.operation.digest["max_tokens"])


def write(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


# ------------------------------------------------------------------ those of the package


@pytest.mark.requirement("ORCH-012")
@pytest.mark.parametrize("name", PHASES)
def test_the_package_has_the_templates_with_the_phases_that_were_asked_for(name: str, project: Path) -> None:
    spec = built_in(name, project)
    assert spec.name == name
    assert [phase.id for phase in spec.phases] == PHASES[name]
    assert list(spec.inputs) == ["topic"]
    assert spec.inputs["topic"].required


@pytest.mark.parametrize("name", PHASES)
def test_a_built_in_template_uses_the_sage_servers_alone(name: str, project: Path) -> None:
    spec = built_in(name, project)
    calls = [node.operation for node in spec.nodes if node.operation.type == "mcp"]
    assert {operation.config["server"] for operation in calls} <= set(SAGE_SERVERS)
    (agent,) = [node for node in spec.nodes if node.operation.type != "mcp"]
    assert (agent.id, agent.operation.type) == ("implementation/agent", "agent")
    assert agent.operation.config["optional"] is True
    assert required_items(spec, project, None) == []


@pytest.mark.requirement("ORCH-004")
@pytest.mark.parametrize("name", PHASES)
def test_research_is_cached_digested_and_may_fail(name: str, project: Path) -> None:
    looks = [node for node in built_in(name, project).nodes if node.operation.effect == "pure"]
    assert len(looks) >= 5
    for node in looks:
        operation = node.operation
        assert operation.on_failure == "continue", node.id
        assert tokens_of(node) <= 1000, node.id
        assert operation.retry.max_attempts == 3, node.id
        assert operation.timeout is not None, node.id
        if operation.config["tool"] != "skills_search":
            assert operation.cache == {"ttl": 30 * 86400.0}, node.id


@pytest.mark.requirement("ORCH-004")
def test_all_of_a_features_research_fits_into_eight_kilobytes(project: Path) -> None:
    research = [node for node in built_in("feature", project).nodes if node.phase == "research"]
    tokens = sum(map(tokens_of, research))
    assert tokens * 4 <= 8000  # the usual four characters a token
    assert {"market", "competitive", "best_practices", "patterns"} <= {
        node.id.partition("/")[2] for node in research
    }


@pytest.mark.requirement("ORCH-020")
@pytest.mark.parametrize("name", PHASES)
def test_skills_that_research_found_reach_every_later_step_that_takes_them(name: str, project: Path) -> None:
    spec = built_in(name, project)
    edges = set(edges_of(spec))
    (skills,) = [node.id for node in spec.nodes if node.operation.config.get("tool") == "skills_search"]
    takers = ("specification_create", "planning_generate", "implementation_execute")
    later = [node for node in spec.nodes if node.operation.config.get("tool") in takers]
    assert len(later) == 3
    for node in later:
        assert (node.id, skills) in edges
        assert node.arguments["kind"] == name


# ------------------------------------------------------------------ a project's own


def test_a_projects_template_takes_the_place_of_the_packages(project: Path) -> None:
    path = write(project_folder(project) / "feature.json", OWN)
    write(project_folder(project) / "mine.yaml", "name: mine\nnodes: [{id: a, type: wait, seconds: 0}]\n")
    found = {each.name: each for each in list_templates(project)}
    assert list(found) == ["bugfix", "enhancement", "feature", "mine"]
    assert (found["feature"].path, found["feature"].origin, found["feature"].overrides) == (
        path,
        "project",
        True,
    )
    assert (found["mine"].origin, found["mine"].overrides) == ("project", False)
    assert found["bugfix"].origin == "built-in"


@pytest.mark.parametrize(
    "name", ["", "./feature", "feature.json", "../feature", "a/b", "x" * 101, "fe\0ature"]
)
def test_what_is_no_name_is_no_template(name: str, project: Path) -> None:
    assert find_template(name, project) is None


def test_odd_files_among_templates_are_passed_over(project: Path) -> None:
    folder = project_folder(project)
    folder.mkdir(parents=True)
    (folder / "folder.json").mkdir()
    (folder / "with space.json").write_text("{}")
    (folder / "notes.txt").write_text("")
    with open(os.fsencode(folder) + b"/caf\xe9.json", "wb") as file:
        file.write(b"{}")
    (folder / "gone.json").symlink_to(folder / "nowhere")
    assert {each.origin for each in list_templates(project)} == {"built-in"}


def test_adding_keeps_the_text_and_the_name(project: Path, tmp_path: Path) -> None:
    text = "# my own\nname: x\nnodes: [{id: a, type: wait, seconds: 0}]\n"
    added = add_template(write(tmp_path / "mine.yaml", text), project)
    assert added.path == project / ".sage/templates/mine.yaml"
    assert added.path.read_text() == text
    assert find_template("mine", project) == added


def test_adding_refuses_what_is_there_unless_told(project: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "mine.json", OWN)
    add_template(write(tmp_path / "mine.yaml", json.dumps(OWN)), project)
    with pytest.raises(UsageError, match="--replace"):
        add_template(source, project)
    add_template(source, project, replace=True)
    assert os.listdir(project_folder(project)) == ["mine.json"]
    assert not add_template(source, project, name="other").overrides
    assert add_template(source, project, name="bugfix").overrides


def test_adding_refuses_what_cannot_run_and_writes_nothing(project: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "bad.json", {"name": "x", "nodes": [{"id": "a", "type": "nope"}]})
    with pytest.raises(DefinitionError, match="nope"):
        add_template(source, project)
    with pytest.raises(DefinitionError, match="no such file"):
        add_template(tmp_path / "missing.json", project)
    with pytest.raises(UsageError, match="cannot be a template's name"):
        add_template(write(tmp_path / "my flow.json", OWN), project)
    assert not (project / ".sage").exists()


def test_adding_takes_sub_workflows_along(project: Path, tmp_path: Path) -> None:
    write(tmp_path / "inner.json", OWN)
    outer = {"name": "outer", "nodes": [{"id": "w", "type": "workflow", "workflow": "inner.json"}]}
    added = add_template(write(tmp_path / "outer.json", outer), project)
    (tmp_path / "inner.json").unlink()
    assert load_workflow(added.path).nodes[0].operation.config["definition"]["name"] == "mine"


def test_a_place_that_cannot_be_written_is_an_error(project: Path, tmp_path: Path) -> None:
    (project / ".sage").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        add_template(write(tmp_path / "mine.json", OWN), project)


def test_a_check_gives_all_problems_with_their_places(project: Path, tmp_path: Path) -> None:
    bad = {"name": "x", "nodes": [{"id": "a", "type": "wait"}, {"id": "b", "type": "python", "nope": 1}]}
    places = [problem.place for problem in check_template(write(tmp_path / "bad.json", bad)).problems]
    assert "nodes[0]" in places
    assert any(place.startswith("nodes[1]") for place in places)
    good = check_template(write(tmp_path / "good.json", OWN))
    assert good.spec is not None
    assert not good.problems


# ------------------------------------------------------------------ upstream's shapes

BUGFIX = {
    "name": "bugFix",
    "phases": [
        {"name": "Code analysis", "parallel": ["codeAnalysis", "errorTracking", "patterns"]},
        {"name": "research", "parallel": ["solutions", "similarBugs"], "dependencies": ["Code analysis"]},
        {"name": "implementation", "parallel": False, "dependencies": ["research"]},
        {"name": "validation", "parallel": ["tests", "regression"], "dependencies": ["implementation"]},
    ],
}
FEATURE = {
    "name": "Payments",
    "timeout": 600000,
    "phases": [
        {
            "id": "research",
            "name": "Research",
            "operations": [
                {"type": "marketResearch", "params": {"topic": "${feature} in Europe", "depth": 3}},
                {"type": "skillDiscovery", "params": {"query": "{{feature}}"}},
                {"type": "patterns", "params": {}},
            ],
            "dependencies": [],
            "timeout": 20000,
        },
        {"id": "spec", "name": "Spec", "operations": {"type": "spec"}, "dependencies": ["research"]},
        {"id": "plan", "name": "Plan", "operations": [{"type": "plan"}], "dependencies": ["spec"]},
        {
            "id": "code",
            "name": "Code",
            "operations": [{"type": "implement"}, {"id": "say", "type": "shell", "command": "echo"}],
            "dependencies": ["plan"],
        },
    ],
}
SHAPES = {"mcp", "shell"}


def upstream(data: dict[str, Any]) -> WorkflowSpec:
    assert is_upstream(data)
    found = from_upstream(data)
    assert found.problems == []
    return load_dict(found.data, known_types=SHAPES)


@pytest.mark.requirement("ORCH-012")
def test_the_shape_with_parallel_lists_becomes_operations() -> None:
    spec = upstream(BUGFIX)
    tools = {node.id: node.operation.config["tool"] for node in spec.nodes}
    assert tools == {
        "Code-analysis/codeAnalysis": "code_search",
        "Code-analysis/errorTracking": "error_analysis",
        "Code-analysis/patterns": "relevant_patterns",
        "research/solutions": "best_practices",
        "research/similarBugs": "similar_changes",
        "implementation/specification": "specification_create",
        "implementation/planning": "planning_generate",
        "implementation/implementation": "implementation_execute",
        "validation/tests": "validation_run",
    }
    nodes = {node.id: node for node in spec.nodes}
    assert nodes["Code-analysis/errorTracking"].arguments == {"error": "${inputs.topic}"}
    assert nodes["validation/tests"].arguments == {
        "slug": "${implementation/specification | slug}",
        "work": "${implementation/implementation}",
    }
    assert nodes["implementation/planning"].arguments["kind"] == "bugfix"
    assert nodes["implementation/planning"].arguments["research"] == [
        "${Code-analysis/codeAnalysis}",
        "${Code-analysis/errorTracking}",
        "${research/solutions}",
        "${research/similarBugs}",
    ]


@pytest.mark.requirement("ORCH-012")
def test_the_shape_with_operations_keeps_its_parameters_and_times() -> None:
    spec = upstream(FEATURE)
    nodes = {node.id: node for node in spec.nodes}
    assert spec.timeout == 600.0
    market = nodes["research/marketResearch"]
    assert market.operation.timeout == 20.0
    assert market.arguments == {"topic": "${inputs.topic} in Europe", "top": 5}
    assert nodes["research/skillDiscovery"].arguments["topic"] == "${inputs.topic}"
    code = nodes["code/implement"].arguments
    assert (code["plan"], code["specification"]) == ("${plan/plan}", "${spec/spec}")
    assert code["skills"] == "${research/skillDiscovery}"
    assert nodes["code/say"].operation.type == "shell"


def test_what_was_left_out_or_is_not_the_same_is_a_warning() -> None:
    data = {
        "name": "x",
        "author": "me",
        "phases": [
            {"name": "look", "parallel": ["performanceProfile", {"type": "market", "params": {"z": 1}}]}
        ],
    }
    found = from_upstream(data)
    assert [warning.place for warning in found.warnings] == [
        "phases[0].parallel[0]",
        "phases[0].parallel[1].params.z",
        "author",
    ]
    assert "no run time is measured" in found.warnings[0].message


def test_all_problems_of_an_upstream_template_have_places() -> None:
    data = {
        "name": "x",
        "timeout": "soon",
        "phases": [
            {"name": "research", "parallel": ["marketReserch", 7], "dependencies": ["reserch"]},
            {"name": "plan", "parallel": "yes", "dependencies": "research"},
            {"id": "spec", "operations": {"type": "spec", "params": []}},
            "phase",
        ],
    }
    problems = {problem.place: problem for problem in from_upstream(data).problems}
    assert set(problems) == {
        "timeout",
        "phases[0].parallel[0]",
        "phases[0].parallel[1]",
        "phases[0].dependencies[0]",
        "phases[1].parallel",
        "phases[1].dependencies",
        "phases[2].operations.params",
        "phases[3]",
    }
    assert "marketResearch" in problems["phases[0].parallel[0]"].hint


def test_cycles_of_an_upstream_template_are_found_by_name(tmp_path: Path) -> None:
    phases = [
        {"name": "a", "parallel": ["market"], "dependencies": ["b"]},
        {"name": "b", "parallel": ["patterns"], "dependencies": ["a"]},
    ]
    with pytest.raises(DefinitionError, match="cycle: "):
        load_workflow(write(tmp_path / "x.json", {"name": "x", "phases": phases}))


def test_an_upstream_file_is_added_in_the_file_format(project: Path, tmp_path: Path) -> None:
    added = add_template(write(tmp_path / "fix.json", BUGFIX), project)
    assert not is_upstream(json.loads(added.path.read_text()))
    before, after = load_workflow(tmp_path / "fix.json"), load_workflow(added.path)
    assert before.to_dict() == after.to_dict()


@pytest.mark.parametrize("name", PHASES)
def test_our_own_format_is_not_taken_for_upstreams(name: str, project: Path) -> None:
    template = find_template(name, project)
    assert template is not None
    assert not is_upstream(json.loads(template.path.read_text()))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"phases": 7},
        {"phases": [7]},
        {"phases": []},
        {"phases": [{"id": "a", "operations": 7}]},
        {"phases": [{"id": "a", "operations": [{"id": "b", "type": "nope"}]}]},
    ],
)
def test_a_broken_file_is_left_to_the_format_check(data: Any) -> None:
    assert not is_upstream(data)


def test_names_are_compared_without_case_and_punctuation() -> None:
    for name in ("bestPractices", "best-practices", "best_practices", "BEST PRACTICES"):
        step = named_tool(name)
        assert step is not None
        assert step.tool == "best_practices"
    assert named_tool("deploy") is None


WORDS = st.sampled_from(
    ["research", "plan", "spec", "implement", "tests", "a b", "é", "", "shell", 7, None, True]
)
VALUES = st.one_of(
    WORDS, st.lists(WORDS, max_size=2), st.dictionaries(st.sampled_from(["topic", "slug", ""]), WORDS)
)
STEPS = st.one_of(
    WORDS,
    st.fixed_dictionaries(
        {}, optional={"type": WORDS, "id": WORDS, "params": VALUES, "needs": VALUES, "command": WORDS}
    ),
)
MANY_STEPS = st.one_of(STEPS, st.lists(STEPS, max_size=3))
ODD_PHASES = st.one_of(
    WORDS,
    st.fixed_dictionaries(
        {},
        optional={
            "name": WORDS,
            "id": WORDS,
            "parallel": MANY_STEPS,
            "operations": MANY_STEPS,
            "dependencies": VALUES,
            "timeout": st.one_of(WORDS, st.floats()),
        },
    ),
)


@settings(max_examples=300, deadline=None)
@given(phases=st.lists(ODD_PHASES, max_size=4), name=WORDS, timeout=WORDS)
def test_any_file_is_a_workflow_or_has_problems_with_places(
    phases: list[Any], name: Any, timeout: Any
) -> None:
    data = {"name": name, "timeout": timeout, "phases": phases}
    if not is_upstream(data):
        return
    found = from_upstream(data)
    assert all(problem.place for problem in found.problems)
    if not found.problems:
        with suppress(DefinitionError):
            assert load_dict(found.data, known_types=SHAPES).nodes

"""What counts as offered and as used, from what a run's journal says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.skills_usage import RunSkills, skills_of_project, skills_of_run

SEARCH = {"id": "look", "type": "mcp", "server": "sage-research", "tool": "skills_search"}
STEP = {
    "id": "plan",
    "type": "mcp",
    "server": "sage-planning",
    "tool": "x",
    "arguments": {"skills": "${look}"},
}
FOUND = {
    "skills": [
        {"name": "rate", "path": ".sage/skills/rate/SKILL.md"},
        {"name": "flaky", "path": "/h/flaky.md"},
    ]
}


def run(nodes: list[dict[str, Any]], values: dict[str, Any]) -> RunSkills | None:
    """A run in which the nodes with values succeeded."""
    past: Any = SimpleNamespace(
        definition=load_dict({"name": "flow", "nodes": nodes}, known_types={"mcp", "skill", "shell"}),
        nodes=lambda: [
            SimpleNamespace(id=node["id"], state="succeeded" if node["id"] in values else "failed")
            for node in nodes
        ],
        value=values.__getitem__,
    )
    return skills_of_run(past)


def test_a_definition_without_skills_does_not_count() -> None:
    assert run([{"id": "a", "type": "shell", "command": "true"}], {"a": {}}) is None


@pytest.mark.parametrize(
    ("result", "used"),
    [
        ({"tasks": [{"title": "Do it", "skill": "rate"}]}, {"rate"}),
        ({"skills": ["flaky", 7], "notes": {"skills": [{"name": "rate"}]}}, {"rate", "flaky"}),
        ({"citations": [".sage/skills/rate/SKILL.md:3"]}, {"rate"}),
        ({"skill": "never-offered", "text": "rate"}, set()),
        ({"skill": None, "skills": None}, set()),
        ("text", set()),
        (None, set()),
    ],
)
@pytest.mark.requirement("ORCH-020")
def test_a_later_step_uses_the_skills_that_its_result_names(result: Any, used: set[str]) -> None:
    assert run([SEARCH, STEP], {"look": FOUND, "plan": result}) == RunSkills(
        frozenset({"rate", "flaky"}), frozenset(used)
    )


def test_a_step_that_was_given_nothing_or_failed_uses_nothing() -> None:
    other = {"id": "other", "type": "shell", "command": "true"}
    assert run([SEARCH, STEP, other], {"look": FOUND, "other": {"skill": "rate"}}) == RunSkills(
        frozenset({"rate", "flaky"})
    )


def test_an_executed_skill_is_used_though_nobody_searched() -> None:
    nodes = [{"id": "do", "type": "skill", "skill": "notes"}]
    assert run(nodes, {"do": {"skill": "notes"}}) == RunSkills(frozenset(), frozenset({"notes"}))
    assert run(nodes, {"do": [{"skill": "notes"}, None]}) == RunSkills(frozenset(), frozenset({"notes"}))
    assert run(nodes, {}) == RunSkills()


@pytest.mark.parametrize("value", [None, "text", {"skills": 7}, {"skills": [7, {"name": 7}]}, [None]])
def test_what_another_server_answers_does_not_break_the_count(value: Any) -> None:
    assert run([SEARCH, STEP], {"look": value, "plan": {"skill": "rate"}}) == RunSkills()


def test_a_project_without_runs_has_no_rate_and_needs_no_key(tmp_path: Path) -> None:
    assert skills_of_project(tmp_path).rate is None
    assert not (tmp_path / ".sage").exists()

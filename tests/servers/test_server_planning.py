"""Plans: tasks in an order that holds, resting on the specification as it is now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from spec_projects import (
    assert_citations_exist,
    commit_all,
    go_project,
    python_project,
    rust_project,
    ts_project,
    write,
)
from test_server_specification import TOPIC, TRACEBACK, Drafter

from sage_actors.servers.planning.server import create_server
from sage_actors.servers.planning.tasks import check_order
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.specification.models import Task
from sage_actors.servers.specification.server import create_specification


def specify(project: Path, topic: str = TOPIC, kind: Any = "feature") -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        result, _ = await create_specification(ServerSettings(project), topic, kind=kind)
        return result.model_dump(mode="json")

    specification: dict[str, Any] = anyio.run(run)
    return specification


def plan(project: Path, backend: Drafter | None = None, **arguments: Any) -> tuple[dict[str, Any], str]:
    async def run() -> dict[str, Any]:
        async with Client(create_server(ServerSettings(project, backend))) as client:
            result = await client.call_tool("planning_generate", {"topic": TOPIC, **arguments})
        assert not result.is_error, result.content
        structured: dict[str, Any] | None = result.structured_content
        assert structured is not None
        return structured

    result: dict[str, Any] = anyio.run(run)
    return result, (project / result["path"]).read_text(encoding="utf-8")


def assert_ordered(tasks: list[dict[str, Any]]) -> None:
    done: set[str] = set()
    for task in tasks:
        assert set(task["needs"]) <= done, task
        done.add(task["id"])


@pytest.mark.requirement("ORCH-018")
@pytest.mark.parametrize("make", [python_project, ts_project, go_project, rust_project])
@pytest.mark.parametrize("kind", ["feature", "bugfix", "enhancement"])
def test_tasks_are_ordered_and_every_citation_leads_to_a_line(
    tmp_path: Path, make: Callable[[Path], Path], kind: str
) -> None:
    project = make(tmp_path)
    result, text = plan(project, specification=specify(project, kind=kind), kind=kind)
    assert_ordered(result["tasks"])
    assert len(result["tasks"]) >= 3
    assert_citations_exist(project, text)
    assert result["path"] == "docs/specs/rate-limiting-for-the-public-api/plan.md"


def test_a_feature_begins_with_a_failing_test_and_ends_with_all_checks(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    result, _ = plan(project, specification=specify(project))
    titles = [task["title"] for task in result["tasks"]]
    assert titles[0].startswith("Answer the open questions")
    assert titles[1].startswith("Write a failing test")
    assert titles[-1] == "Run all checks"
    test = result["tasks"][1]
    assert test["files"] == ["tests/test_client.py"]
    assert test["checked_by"] == "it fails: python -m pytest -q tests/test_client.py"
    assert result["commands"] == ["python -m pytest -q", "ruff check ."]
    work = next(task for task in result["tasks"] if task["title"].startswith("Implement it"))
    assert "FR-1" in work["why"]
    assert "Client.add_middleware" in work["title"]
    assert work["files"] == ["src/shop/client.py:16"]
    errors = next(task for task in result["tasks"] if "subclass of ShopError" in task["title"])
    assert errors["files"] == ["src/shop/errors.py:1"]
    assert errors["id"] in work["needs"]


def test_places_are_worked_on_in_the_order_of_their_imports_and_pinned_down_first(tmp_path: Path) -> None:
    project = write(
        tmp_path,
        {
            "src/net/client.py": "from net.rate_limit import RateLimit\n\n\ndef rate_limit_client(): ...\n",
            "src/net/rate_limit.py": "class RateLimit: ...\n\n\nclass SlowRateLimit(RateLimit): ...\n",
            "tests/test_other.py": "import pytest\n",
        },
    )
    tasks = plan(project, topic="rate limit for uploads")[0]["tasks"]
    assert_ordered(tasks)
    work = [task for task in tasks if task["title"].startswith("Implement it")]
    assert [task["files"][0].rpartition(":")[0] for task in work] == [
        "src/net/rate_limit.py",
        "src/net/client.py",
    ]
    assert "as SlowRateLimit do" in work[0]["title"]
    assert work[1]["needs"] == [work[0]["id"]]
    pinned = [task for task in tasks if task["title"].startswith("Pin down")]
    assert {task["files"][0] for task in pinned} == {"tests/test_rate_limit.py", "tests/test_client.py"}
    assert {task["id"] for task in pinned} < set(work[0]["needs"])


def test_of_several_places_each_is_worked_on_if_the_answer_names_it(tmp_path: Path) -> None:
    files = {
        "src/shop/pause.py": "def pause_job():\n    pass\n",
        "src/shop/job.py": "class PauseJob:\n    pass\n",
        "src/index.js": "function x() {}\n",
    }
    result, _ = plan(write(tmp_path, files), topic="pause job")
    titles = [task["title"] for task in result["tasks"] if task["title"].startswith("Implement")]
    assert len(titles) == 2
    assert all(title.endswith(", if the open question on the place decides for it") for title in titles)
    whys = [task["why"] for task in result["tasks"]]
    assert not any("found by" in why for why in whys)
    assert all("" not in task["files"] for task in result["tasks"])


def test_a_bugfix_reproduces_before_it_mends(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    result, _ = plan(
        project, topic=TRACEBACK, specification=specify(project, TRACEBACK, "bugfix"), kind="bugfix"
    )
    titles = [task["title"] for task in result["tasks"]]
    assert titles.index("Reproduce the error with a test that fails") < titles.index("Mend the cause")
    suspects = [task for task in result["tasks"] if task["title"].startswith("Rule in or out as the cause: ")]
    assert suspects[0]["files"] == ["src/shop/client.py:13"]
    assert {task["id"] for task in suspects} == set(result["tasks"][titles.index("Mend the cause")]["needs"])
    assert next(t for t in result["tasks"] if t["title"] == "Mend the cause")["files"] == [
        "src/shop/client.py:13"
    ]


def test_what_a_person_changed_in_the_specification_counts(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    specification = specify(project)
    path = project / specification["path"]
    text = path.read_text()
    head, _, _ = text.partition("## Open questions")
    path.write_text(
        head.replace(
            "- **NFR-1** (from evidence)", "- **FR-9** (asked) Ten a second.\n- **NFR-1** (from evidence)"
        )
    )
    result, text = plan(project, specification={**specification, "open_questions": []})
    assert "FR-9" in text
    assert not any(task["title"].startswith("Answer") for task in result["tasks"])


@pytest.mark.parametrize(
    "specification",
    [None, {}, "text", {"path": "../x.md", "requirements": [1, {}]}, {"slug": 3, "open_questions": "?"}],
)
def test_a_specification_that_is_missing_or_garbage_still_gives_a_plan(
    tmp_path: Path, specification: Any
) -> None:
    project = python_project(tmp_path)
    result, text = plan(project, specification=specification)
    assert_ordered(result["tasks"])
    assert "no specification yet" in text
    assert any("is not there" in note for note in result["notes"])


def test_an_empty_project_gets_a_plan_without_claims(tmp_path: Path) -> None:
    result, text = plan(tmp_path)
    assert result["citations"] == []
    assert "Not determined: no test, lint or type check is declared" in text


def test_files_that_change_often_and_together_are_risks(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    for number in range(10):
        for path in ("src/shop/client.py", ".github/workflows/ci.yml"):
            (project / path).write_text((project / path).read_text() + f"\n# {number}\n")
        commit_all(project, f"Change {number}")
    result, _ = plan(project, specification=specify(project))
    said = " ".join(result["risks"])
    assert "`src/shop/client.py:1` changes often: in 12 of the 12 commits" in said
    assert "changed with it: `.github/workflows/ci.yml` (11 times)" in said


def test_tasks_in_a_circle_or_with_unknown_needs_are_refused() -> None:
    def task(id: str, *needs: str) -> Task:
        return Task(id=id, title=id, needs=list(needs))

    assert [t.id for t in check_order([task("T2", "T1"), task("T1"), task("T3")])] == ["T1", "T2", "T3"]
    with pytest.raises(ValueError, match="need each other: "):
        check_order([task("T1", "T2"), task("T2", "T1")])
    with pytest.raises(ValueError, match="not in the plan: T9"):
        check_order([task("T1", "T9")])
    with pytest.raises(ValueError, match="stands twice"):
        check_order([task("T1"), task("T1")])


def test_a_drafted_plan_is_held_to_the_project(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    tasks = [
        {
            "title": "Limit",
            "files": [
                "src/shop/client.py:10",
                "src/shop/none.py:3",
                "/etc/passwd",
                "../x.py",
                "src/shop/limits.py",
            ],
        },
        {"title": "Export", "needs": [1], "why": "as src/shop/none.py:9 says", "checked_by": "pytest"},
    ]
    result, text = plan(project, Drafter({"tasks": tasks}), specification=specify(project))
    assert [task["files"] for task in result["tasks"]] == [
        ["src/shop/client.py:10", "src/shop/limits.py"],
        [],
    ]
    assert result["provenance"] == "llm:test"
    assert "none.py" not in text
    assert any(note.startswith("4 places of the draft were removed") for note in result["notes"])


def test_a_drafted_plan_that_goes_in_circles_is_left_aside(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    specification = specify(project)
    own, _ = plan(project, specification=specification)
    circle = [{"title": "a", "needs": [2]}, {"title": "b", "needs": [1]}]
    result, _ = plan(project, Drafter({"tasks": circle}), specification=specification)
    assert result["tasks"] == own["tasks"]
    assert result["provenance"] == "local"
    assert any("left aside" in note for note in result["notes"])

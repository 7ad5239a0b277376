"""Implementation: a complete work order, no code without an agent, and checks only with consent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from spec_projects import assert_citations_exist, python_project, write
from test_server_planning import specify
from test_server_specification import TOPIC, Drafter

from sage_actors.messages.errors import OperationError
from sage_actors.servers.implementation.server import create_server
from sage_actors.servers.planning.server import generate_plan
from sage_actors.servers.settings import ServerSettings


def call(settings: ServerSettings, tool: str, **arguments: Any) -> tuple[dict[str, Any], Any]:
    async def run() -> tuple[dict[str, Any], Any]:
        async with Client(create_server(settings)) as client:
            result = await client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        assert result.structured_content is not None
        return result.structured_content, result.meta

    return anyio.run(run)


def prepared(project: Path) -> dict[str, Any]:
    """Arguments of implementation_execute after the phases before it."""
    specification = specify(project)

    async def run() -> dict[str, Any]:
        result, _ = await generate_plan(ServerSettings(project), TOPIC, specification)
        return result.model_dump(mode="json")

    return {"topic": TOPIC, "specification": specification, "plan": anyio.run(run)}


def trusted_project(root: Path) -> Path:
    """Its only check is a script that fails when a file `broken` is there."""
    write(root, {"check": "#!/bin/sh\necho checked\ntest ! -e broken\n", "pkg.py": "def use(): pass\n"})
    (root / "check").chmod(0o755)
    return root


@pytest.mark.requirement("ORCH-018")
def test_without_an_agent_the_work_order_is_complete_and_no_code_is_written(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    before = {path: path.read_bytes() for path in project.rglob("src/**/*.py")}
    result, meta = call(ServerSettings(project), "implementation_execute", **prepared(project))
    text = (project / result["path"]).read_text(encoding="utf-8")
    assert result["status"] == "needs_agent"
    assert "src/shop/client.py:16" in result["read_first"]
    for part in (
        "## Read first",
        "## Follow",
        "## Checks",
        "## Done when",
        "FR-1",
        "T1. Answer",
        "#### Open questions",
    ):
        assert part in text
    assert "python -m pytest -q\nruff check ." in text
    assert_citations_exist(project, text)
    assert {path: path.read_bytes() for path in project.rglob("src/**/*.py")} == before
    assert not (meta or {}).get("sage/usage")


def test_checks_do_not_run_without_consent_and_the_order_says_how(tmp_path: Path) -> None:
    project = trusted_project(tmp_path)
    result, _ = call(ServerSettings(project), "implementation_execute", topic=TOPIC)
    assert [check["status"] for check in result["baseline"]] == ["not_run"]
    assert any("--trust" in note for note in result["notes"])
    assert "--trust" in (project / result["path"]).read_text()


def test_with_consent_the_order_holds_how_the_checks_ended_before(tmp_path: Path) -> None:
    project = trusted_project(tmp_path)
    (project / "broken").touch()
    result, _ = call(ServerSettings(project, trusts_checks=True), "implementation_execute", topic=TOPIC)
    assert [(check["status"], check["exit_code"]) for check in result["baseline"]] == [("failed", 1)]
    text = (project / result["path"]).read_text()
    assert "| `./check` | failed (exit code 1) |" in text
    assert "checked" in text
    assert result["evidence_level"] == "measured"


@pytest.mark.parametrize(
    "given",
    [None, {}, "x", {"path": "/etc/passwd", "tasks": [1, {"id": 2}]}, {"path": "../../x.md"}, {"path": 5}],
)
def test_missing_or_false_documents_do_not_stop_the_order(tmp_path: Path, given: Any) -> None:
    project = python_project(tmp_path)
    result, _ = call(
        ServerSettings(project), "implementation_execute", topic=TOPIC, plan=given, specification=given
    )
    text = (project / result["path"]).read_text()
    assert "root:" not in text
    assert len(result["notes"]) >= 2
    assert result["read_first"]
    assert_citations_exist(project, text)


def test_a_backends_answer_is_kept_and_its_usage_reported(tmp_path: Path) -> None:
    project = trusted_project(tmp_path)
    result, meta = call(
        ServerSettings(project, Drafter("diff --git <b>")), "implementation_execute", topic=TOPIC
    )
    assert (result["status"], result["provenance"]) == ("drafted", "llm:test")
    assert "diff --git &lt;b>" in (project / result["path"]).read_text()
    assert meta["sage/usage"]["input_tokens"] == 100


def test_a_backend_that_fails_leaves_the_order(tmp_path: Path) -> None:
    project = trusted_project(tmp_path)
    result, _ = call(
        ServerSettings(project, Drafter(OperationError("quota"))), "implementation_execute", topic=TOPIC
    )
    assert result["status"] == "needs_agent"
    assert any("quota" in note for note in result["notes"])


def test_validation_says_when_nobody_has_done_the_work(tmp_path: Path) -> None:
    project = python_project(tmp_path)
    waiting = {"status": "needs_agent", "agent": None, "work_order": "docs/specs/a/work-order.md"}
    result, _ = call(ServerSettings(project), "validation_run", work=waiting)
    assert (result["status"], result["work_order"]) == ("needs_agent", "docs/specs/a/work-order.md")
    assert any("nobody has carried the work order out" in note for note in result["notes"])
    result, _ = call(
        ServerSettings(project), "validation_run", work={"status": "changed", "branch": "sage/a/b"}
    )
    assert (result["status"], result["work_order"]) == (None, None)
    assert any("sage/a/b" in note for note in result["notes"])


def test_validation_runs_nothing_without_consent(tmp_path: Path) -> None:
    project = trusted_project(tmp_path)
    write(project, {"check": "#!/bin/sh\ntouch ran\n"})
    result, _ = call(ServerSettings(project), "validation_run")
    assert (result["passed"], result["summary"]) == (None, "1 not_run")
    assert not (project / "ran").exists()


def test_validation_tells_passed_from_failed(tmp_path: Path) -> None:
    project = trusted_project(tmp_path)
    settings = ServerSettings(project, trusts_checks=True)
    result, _ = call(settings, "validation_run", slug="one")
    assert (result["slug"], result["passed"], result["evidence_level"]) == ("one", True, "measured")
    assert result["checks"][0]["source"] == "check:1"
    (project / "broken").touch()
    result, _ = call(settings, "validation_run")
    assert (result["passed"], result["summary"]) == (False, "1 failed")


def test_a_project_without_checks_is_neither_passed_nor_failed(tmp_path: Path) -> None:
    result, _ = call(ServerSettings(tmp_path, trusts_checks=True), "validation_run")
    assert (result["passed"], result["checks"]) == (None, [])
    assert result["notes"] == ["no check is declared in a file that is known here"]

"""Calls of MCP servers that nobody here wrote: those of the protocol's own project, from npm.

They are installed once, into pytest's cache or $SAGE_TEST_NPM; without node or a registry the tests skip.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp_harness import McpProject, eventually, with_sessions

pytestmark = [pytest.mark.slow, pytest.mark.requirement("ORCH-018")]


@pytest.fixture
def mcp(tmp_path: Path, installed: Path) -> McpProject:
    project = McpProject(tmp_path)
    (tmp_path / "shown").mkdir()

    def entry(name: str, *arguments: str, **more: Any) -> dict[str, Any]:
        return {
            "type": "stdio",
            "command": str(installed / f"mcp-server-{name}"),
            "args": list(arguments),
            **more,
        }

    project.configure(
        {
            "everything": entry("everything"),
            "filesystem": entry("filesystem", "shown"),
            "memory": entry(
                "memory", env={"MEMORY_FILE_PATH": "${NOT_SET:-}" + str(tmp_path / "graph.jsonl")}
            ),
        }
    )
    return project


def test_the_server_that_has_everything(mcp: McpProject) -> None:
    async def body() -> dict[str, Any]:
        return {
            "echo": await mcp.call("everything", "echo", message="hello"),
            "structured": await mcp.call("everything", "get-structured-content", location="Chicago"),
            "image": await mcp.call("everything", "get-tiny-image"),
            "links": await mcp.call("everything", "get-resource-links", count=2),
            "blob": await mcp.call("everything", "get-resource-reference", resourceType="Blob", resourceId=1),
            "env": await mcp.call("everything", "get-env"),
            "arguments": await mcp.error("everything", "get-sum", a="x"),
            "unknown": await mcp.error("everything", "get-some", a=1, b=2),
        }

    got = with_sessions(mcp.project, body)
    assert got["echo"] == "Echo: hello"
    assert set(got["structured"]) == {"temperature", "conditions", "humidity"}
    assert got["image"][1]["mime_type"] == "image/png"
    assert got["image"][1]["data"].startswith(b"\x89PNG")
    assert [block["type"] for block in got["links"]] == ["text", "resource_link", "resource_link"]
    assert isinstance(got["blob"][1]["data"], bytes)
    assert set(got["env"]) <= {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
    for name in ("arguments", "unknown"):
        assert (type(got[name]).__name__, got[name].retryable) == ("ToolUnusable", False)
    assert "it takes a (required), b (required)" in str(got["arguments"])
    assert "did you mean 'get-sum'?" in str(got["unknown"])


def test_progress_and_cancel_reach_a_server_of_another_sdk(mcp: McpProject) -> None:
    async def body() -> Any:
        tool = "trigger-long-running-operation"
        done = await mcp.call("everything", tool, duration=0.4, steps=4)
        fractions = [report["fraction"] for report in mcp.services.reports]
        mcp.services.reports.clear()
        call = asyncio.create_task(mcp.call("everything", tool, duration=60, steps=600))
        await eventually(lambda: mcp.services.reports)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return done, fractions, await mcp.call("everything", "echo", message="still here")

    done, fractions, echo = with_sessions(mcp.project, body)
    assert "completed" in done
    assert fractions == sorted(set(fractions))
    assert len(fractions) >= 3
    assert echo == "Echo: still here"


def test_forty_calls_at_once_share_the_server(mcp: McpProject) -> None:
    async def body() -> list[Any]:
        return await asyncio.gather(*(mcp.call("everything", "echo", message=str(n)) for n in range(40)))

    assert with_sessions(mcp.project, body) == [f"Echo: {n}" for n in range(40)]


def test_files_are_written_read_and_kept_to_the_allowed_directory(mcp: McpProject) -> None:
    path = str(mcp.project / "shown" / "a.txt")

    async def body() -> tuple[Any, Any]:
        await mcp.call("filesystem", "write_file", path=path, content='{"a": 1}')
        read = await mcp.call("filesystem", "read_text_file", path=path)
        return read, await mcp.error("filesystem", "read_text_file", path="/etc/hostname")

    read, error = with_sessions(mcp.project, body)
    assert read == {"content": '{"a": 1}'}
    assert type(error).__name__ == "ToolError"
    assert "outside allowed directories" in str(error)


def test_a_graph_in_memory_is_one_for_all_calls(mcp: McpProject) -> None:
    entity = {"name": "engine", "entityType": "part", "observations": ["decides"]}

    async def body() -> Any:
        await mcp.call("memory", "create_entities", entities=[entity])
        return await mcp.call("memory", "search_nodes", query="decides")

    assert with_sessions(mcp.project, body) == {"entities": [entity], "relations": []}

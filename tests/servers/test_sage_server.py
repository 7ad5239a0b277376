"""What every sage server does: it says its version, and what is wrong with arguments, a line each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from sage_actors.servers.catalog import SAGE_SERVERS, create_server
from sage_actors.servers.sage_server import package_version
from sage_actors.servers.settings import ServerSettings


def call(project: Path, server: str, tool: str, **arguments: Any) -> Any:
    async def main() -> Any:
        async with Client(create_server(server, ServerSettings(project))) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(main())


@pytest.mark.parametrize("name", SAGE_SERVERS)
def test_a_server_says_the_version_of_the_package(tmp_path: Path, name: str) -> None:
    async def main() -> str:
        async with Client(create_server(name, ServerSettings(tmp_path))) as client:
            assert client.server_info is not None
            return client.server_info.version

    assert asyncio.run(main()) == package_version() != ""


@pytest.mark.parametrize("name", SAGE_SERVERS)
def test_what_a_model_reads_of_a_tool_is_not_indented(tmp_path: Path, name: str) -> None:
    tools = asyncio.run(create_server(name, ServerSettings(tmp_path)).list_tools())
    assert [tool.name for tool in tools if not tool.description or "\n  " in tool.description] == []


def test_a_tool_that_there_is_not_gets_the_nearest_name(tmp_path: Path) -> None:
    result = call(tmp_path, "sage-planning", "planing_generate", topic="x")
    assert result.is_error
    assert result.content[0].text == "there is no tool 'planing_generate'; did you mean 'planning_generate'?"
    other = call(tmp_path, "sage-planning", "paint")
    assert other.content[0].text == "there is no tool 'paint'; there are planning_generate"


def test_each_wrong_argument_is_a_line_with_what_is_allowed(tmp_path: Path) -> None:
    result = call(tmp_path, "sage-research", "best_practices", topik="x", top="many", max_bytes=1)
    assert result.is_error
    head, *lines = result.content[0].text.splitlines()
    assert head == "wrong arguments for best_practices:"
    assert lines == [
        "  - topic: is missing",
        "  - top: must be a valid integer, unable to parse string as an integer, not 'many'",
        "  - max_bytes: must be greater than or equal to 200, not 1",
        "  - topik: there is no such argument; did you mean 'topic'?",
    ]


@pytest.mark.parametrize(
    ("server", "tool"),
    [
        ("sage-specification", "specification_create"),
        ("sage-planning", "planning_generate"),
        ("sage-implementation", "implementation_execute"),
        ("sage-patterns", "relevant_patterns"),
    ],
)
def test_a_blank_topic_is_refused_and_nothing_is_written(tmp_path: Path, server: str, tool: str) -> None:
    result = call(tmp_path, server, tool, topic=" \n")
    assert result.is_error
    assert "topic: is blank" in result.content[0].text
    assert not list(tmp_path.iterdir())


def test_a_blank_text_that_nobody_needs_is_taken(tmp_path: Path) -> None:
    assert not call(tmp_path, "sage-patterns", "code_quality", topic=" ").is_error

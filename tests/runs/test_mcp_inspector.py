"""The official MCP inspector's command line, a client that nobody here wrote, against `sage-actors mcp`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine
from mcp_harness import npm_programs
from orchestration_harness import operation, phases, trusted_template

# What OpenAI's, Google's and Anthropic's tool calls all accept: no references across documents, no tuples.
_NOT_PORTABLE = {
    "$dynamicRef",
    "prefixItems",
    "if",
    "then",
    "else",
    "patternProperties",
    "unevaluatedProperties",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    shared = ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
    command_line.environ |= {name: os.environ[name] for name in shared}
    yield command_line
    command_line.close()


@pytest.fixture(scope="module")
def inspector(pytestconfig: pytest.Config) -> str:
    """The program."""
    return str(npm_programs(pytestconfig) / "mcp-inspector")


def inspect(sage: CommandLine, inspector: str, method: str, *arguments: str) -> dict[str, Any]:
    """The inspector's answer to one request."""
    server = [sys.executable, "-m", "sage_actors", "mcp"]
    done = subprocess.run(
        [inspector, "--cli", *server, "--method", method, *arguments],
        cwd=sage.project,
        env=sage.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def keywords(schema: Any) -> set[str]:
    """Every key of a schema, at any depth, that is not the name of a property."""
    if isinstance(schema, list):
        return {each for item in schema for each in keywords(item)}
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for key, value in schema.items():
        found |= keywords(list(value.values()) if key in ("properties", "$defs") else value)
    return found


@pytest.mark.requirement("ORCH-002")
def test_the_inspector_lists_the_tools_with_schemas_that_travel(sage: CommandLine, inspector: str) -> None:
    tools = {tool["name"]: tool for tool in inspect(sage, inspector, "tools/list")["tools"]}
    assert set(tools) >= {"sage_workflow_execute", "sage_workflow_status", "sage_workflow_validate"}
    for tool in tools.values():
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"
        assert not keywords(tool["inputSchema"]) & _NOT_PORTABLE
    assert set(tools["sage_workflow_execute"]["inputSchema"]["required"]) == {"feature"}


@pytest.mark.requirement("ORCH-013")
def test_the_inspector_runs_a_workflow_and_finds_its_resources(sage: CommandLine, inspector: str) -> None:
    trusted_template(sage.project, "hello", phases([operation("one", "echo ${inputs.topic}")]))
    arguments = ("feature=rate limits", "template=hello", "wait=true")
    call = [word for argument in arguments for word in ("--tool-arg", argument)]
    result = inspect(sage, inspector, "tools/call", "--tool-name", "sage_workflow_execute", *call)
    assert result["structuredContent"]["status"] == "completed"
    assert result["structuredContent"]["results"]["outputs"]["p1/one"]["stdout"] == "rate limits\n"
    uris = {each["uri"] for each in inspect(sage, inspector, "resources/list")["resources"]}
    assert {"workflow://hello-rate-limits/state", "skill://sage-workflow/SKILL.md"} <= uris

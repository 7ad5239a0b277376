"""The official MCP inspector's command line, a client that nobody here wrote, against `sage-actors mcp`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine
from orchestration_harness import operation, phases, trusted_template

_INSPECTOR = "@modelcontextprotocol/inspector@0.15.0"  # the last one for node 20
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


@cache
def _missing() -> str:
    """Why the inspector cannot run here; "" if it can. Fetched once, into npm's own cache."""
    if shutil.which("npx") is None:
        return "there is no npx"
    try:
        with tempfile.TemporaryDirectory() as empty:
            tried = subprocess.run(
                ["npx", "--yes", _INSPECTOR, "--help"],
                cwd=empty,
                capture_output=True,
                timeout=120,
                check=False,
            )
    except subprocess.TimeoutExpired:
        return "the inspector could not be fetched within 120 s"
    return "" if tried.returncode == 0 else f"the inspector does not start: {tried.stderr.decode()[-300:]}"


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    if reason := _missing():
        pytest.skip(reason)
    command_line = CommandLine(tmp_path)
    shared = ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
    command_line.environ |= {name: os.environ[name] for name in shared}
    yield command_line
    command_line.close()


def inspect(sage: CommandLine, method: str, *arguments: str) -> dict[str, Any]:
    """The inspector's answer to one request."""
    server = [sys.executable, "-m", "sage_actors", "mcp"]
    done = subprocess.run(
        ["npx", "--yes", _INSPECTOR, "--cli", *server, "--method", method, *arguments],
        cwd=sage.project,
        env={**sage.environ, "HOME": os.environ.get("HOME", "")},  # npm's cache
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
def test_the_inspector_lists_the_tools_with_schemas_that_travel(sage: CommandLine) -> None:
    tools = {tool["name"]: tool for tool in inspect(sage, "tools/list")["tools"]}
    assert set(tools) >= {"sage_workflow_execute", "sage_workflow_status", "sage_workflow_validate"}
    for tool in tools.values():
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"
        assert not keywords(tool["inputSchema"]) & _NOT_PORTABLE
    assert set(tools["sage_workflow_execute"]["inputSchema"]["required"]) == {"feature"}


@pytest.mark.requirement("ORCH-013")
def test_the_inspector_runs_a_workflow_and_finds_its_resources(sage: CommandLine) -> None:
    trusted_template(sage.project, "hello", phases([operation("one", "echo ${inputs.topic}")]))
    arguments = ("feature=rate limits", "template=hello", "wait=true")
    call = [word for argument in arguments for word in ("--tool-arg", argument)]
    result = inspect(sage, "tools/call", "--tool-name", "sage_workflow_execute", *call)
    assert result["structuredContent"]["status"] == "completed"
    assert result["structuredContent"]["results"]["outputs"]["p1/one"]["stdout"] == "rate limits\n"
    uris = {each["uri"] for each in inspect(sage, "resources/list")["resources"]}
    assert {"workflow://hello-rate-limits/state", "skill://sage-workflow/SKILL.md"} <= uris

"""Real MCP servers and real tasks for tests: a project with a `.mcp.json`, calls through the runner."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from npm_servers import VERSION, install
from places import SUPPORT

from sage_actors.actors.mcp.config import load_servers
from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.mcp import McpRunner, sessions_of
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.actors.trust.consents import TrustStore
from sage_actors.messages.codec import pack

SERVERS = SUPPORT / "mcp_servers"
RAW = [str(SERVERS / "raw.py")]
MODERN = str(SERVERS / "modern.py")


class Recorder:
    """A worker's services to a task, remembered."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.logged: list[str] = []
        self.reports: list[dict[str, Any]] = []

    def log(self, key: Any, text: str, stream: str = "log") -> None:
        self.logged.append(text)

    def progress(self, key: Any, data: dict[str, Any]) -> None:
        self.reports.append(data)

    def ask_guard(self, key: Any, endpoint: str, answer: Any) -> int:
        raise NotImplementedError

    def abandon_guard(self, token: int, endpoint: str) -> bool:
        raise NotImplementedError

    def end_guard(self, token: int, endpoint: str, ok: bool) -> None:
        raise NotImplementedError


class McpProject:
    """A project with servers, and calls as nodes make them."""

    def __init__(self, project: Path, *, effect: str = "idempotent") -> None:
        self.project = project
        self.services = Recorder(project)
        self._runner = McpRunner({"type": "mcp", "effect": effect}, RunnerSettings(str(project)))
        self._next = 0

    def configure(self, servers: dict[str, Any], *, trust: bool = True) -> None:
        """Writes `.mcp.json`; with `trust` the user consents to all of it."""
        path = self.project / ".mcp.json"
        path.write_text(json.dumps({"mcpServers": servers}))
        if trust:
            items = [entry.trust_item() for entry in load_servers(self.project).values()]
            TrustStore().consent(self.project, items)

    def add_raw(self, *arguments: str, **fields: Any) -> None:
        """A server `raw` of tests/mcp_servers/raw.py."""
        self.configure({"raw": {"command": sys.executable, "args": [*RAW, *arguments], **fields}})

    def task(self, server: str, tool: str, *, timeout: float | None = None, **arguments: Any) -> Task:
        self._next += 1
        packed = pack({"config": {"server": server, "tool": tool}, "arguments": arguments})
        row = (7, self._next, 1, 0, f"node-{self._next}", "run-1:uuid", timeout, packed)
        return Task(row, self.services, 0.0)

    async def call(self, server: str, tool: str, **arguments: Any) -> Any:
        return await self._runner.run(self.task(server, tool, **arguments))

    async def run(self, task: Task) -> Any:
        return await self._runner.run(task)

    async def error(self, server: str, tool: str, **arguments: Any) -> Any:
        """The error that a call ends with."""
        try:
            value = await self.call(server, tool, **arguments)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            return error
        raise AssertionError(f"no error, but {value!r}")


def with_sessions(project: Path, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What `body` returns, run in a loop whose sessions are closed afterwards."""

    async def main() -> Any:
        try:
            async with asyncio.timeout(30):
                return await body()
        finally:
            await sessions_of(project).close()

    return asyncio.run(main())


def npm_programs(config: pytest.Config) -> Path:
    """Where the commands of `npm_servers` are; skips where they cannot be had."""
    place = Path(os.environ.get("SAGE_TEST_NPM") or config.cache.mkdir(f"npm-{VERSION}"))
    if why := install(place):
        pytest.skip(why)
    return place / "node_modules" / ".bin"


async def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Returns when `condition` is true, or fails."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)

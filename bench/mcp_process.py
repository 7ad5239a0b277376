"""A process with the five sage servers, each greeted and asked for its tools; prints its memory in bytes.

    python bench/mcp_process.py PROJECT -> {"before": n, "five": n, "researched": n}

before: with the client imported. five: with all servers. researched: after one research of the project.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psutil

from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.mcp import McpRunner, sessions_of
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import OperationError
from sage_actors.servers.catalog import SAGE_SERVERS


class _Quiet:
    """A worker's services, for nobody."""

    def __init__(self, project: Path) -> None:
        self.project = project

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


async def _call(project: Path, server: str, tool: str, **arguments: object) -> None:
    packed = pack({"config": {"server": server, "tool": tool}, "arguments": arguments})
    row = (1, 1, 1, 0, "node", "run:uuid", None, packed)
    await McpRunner({"type": "mcp"}, RunnerSettings(str(project))).run(Task(row, _Quiet(project), 0.0))  # type: ignore[arg-type]


async def main(project: Path) -> dict[str, int]:
    process = psutil.Process()
    before = process.memory_info().rss
    for server in SAGE_SERVERS:
        try:
            await _call(project, server, "no-such-tool")
        except OperationError as refused:  # it is greeted, and its tools are listed to say so
            if "has no tool" not in str(refused):
                raise
    five = process.memory_info().rss
    await _call(project, "sage-research", "best_practices", topic="rate limiting")
    researched = process.memory_info().rss
    await sessions_of(project).close()
    return {"before": before, "five": five, "researched": researched}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))

"""An orchestration server in a project of its own, in this process or in one of its own, and a client for it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeVar

from cli_harness import CommandLine
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server import MCPServer

from sage_actors.supervisor.consent import obtain_consent, required_items
from sage_actors.supervisor.templates.library import load_workflow

_Value = TypeVar("_Value")
TOPIC = {"topic": {"type": "string"}}


class Answer:
    """The structured result of a tool, and whether it is an error."""

    def __init__(self, result: Any) -> None:
        self.is_error: bool = result.is_error
        self.map: dict[str, Any] = result.structured_content
        assert json.loads(result.content[0].text) == self.map

    def __getitem__(self, name: str) -> Any:
        return self.map[name]

    @property
    def code(self) -> str:
        """Of its first error."""
        return str(self.map["errors"][0]["code"])


class Talk:
    """One client's connection. `call` is a tool without its prefix."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Answer:
        return Answer(await self.client.call_tool(f"sage_workflow_{tool}", arguments))

    async def end_of(self, feature: str) -> Answer:
        """The status of a run when it has ended."""
        for _ in range(200):
            answer = await self.call("status", feature=feature, wait_seconds=20)
            if answer.map.get("status") != "running":
                return answer
        raise AssertionError(f"{feature} does not end")

    async def text(self, uri: str) -> str:
        content: Any = (await self.client.read_resource(uri)).contents[0]
        return str(content.text)


def in_process(
    server: MCPServer[Any], say: Callable[[Talk], Awaitable[_Value]], *, extensions: Any = ()
) -> _Value:
    """What `say` returns, with a client of `server`."""

    async def main() -> Callable[[], _Value]:
        async with Client(server, extensions=list(extensions), read_timeout_seconds=60) as client:
            return await _outcome(say(Talk(client)))

    return asyncio.run(main())()


def over_stdio(
    sage: CommandLine,
    say: Callable[[Talk], Awaitable[_Value]],
    *,
    extensions: Any = (),
    arguments: tuple[str, ...] = (),
    log: TextIO = sys.stderr,
) -> _Value:
    """What `say` returns, with a client of `sage-actors mcp` as a process of its own."""
    command = ["-m", "sage_actors", "mcp", *arguments]
    started = StdioServerParameters(
        command=sys.executable, args=command, cwd=str(sage.project), env=sage.environ
    )

    async def main() -> Callable[[], _Value]:
        transport = stdio_client(started, errlog=log)
        async with Client(transport, extensions=list(extensions), read_timeout_seconds=60) as client:
            return await _outcome(say(Talk(client)))

    return asyncio.run(main())()


async def _outcome(said: Awaitable[_Value]) -> Callable[[], _Value]:
    """Its value or its error, for when the client is closed: on the way out it would become a group."""
    try:
        value = await said
    except Exception as error:  # noqa: BLE001
        caught = error
    else:
        return lambda: value

    def fail() -> _Value:
        raise caught

    return fail


def write_template(project: Path, name: str, definition: Mapping[str, Any]) -> Path:
    """A template of the project that nobody has consented to."""
    path = project / ".sage" / "templates" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": name, **definition}), encoding="utf-8")
    return path


def trusted_template(project: Path, name: str, definition: Mapping[str, Any]) -> Path:
    """A template of the project that its user consented to."""
    path = write_template(project, name, definition)
    obtain_consent(required_items(load_workflow(path), project, path), (), project, trust=True)
    return path


def operation(name: str, command: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "type": "shell", "command": command, **fields}


def phases(*members: list[dict[str, Any]], **top: Any) -> dict[str, Any]:
    """A workflow of phases p1, p2, ... one after another, with an input `topic`."""
    return {
        "inputs": TOPIC,
        "phases": [
            {"id": f"p{number}", "dependencies": [f"p{number - 1}"] if number > 1 else [], "operations": each}
            for number, each in enumerate(members, 1)
        ],
        **top,
    }


def lines(path: Path) -> int:
    """How often something wrote a line there."""
    return len(path.read_text().splitlines()) if path.exists() else 0

"""A server as the SDK makes it: protocol 2026-07-28 on stdio, HTTP or in this process."""

import sys
from pathlib import Path
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Elicit, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel


class Answer(BaseModel):
    topic: str
    count: int


class Consent(BaseModel):
    yes: bool


def create(folder: Path) -> MCPServer:
    """`folder`: where it notes what happened to it."""
    server = MCPServer("modern")

    @server.tool()
    def look(topic: str, count: int = 1) -> Answer:
        """A structured answer."""
        return Answer(topic=topic, count=count)

    @server.tool()
    def broken(text: str) -> str:
        """Always fails."""
        raise ToolError(f"cannot do {text}")

    @server.tool()
    async def steps(context: Context[Any, Any]) -> str:
        """Reports how far it is, and logs."""
        for step in (1, 2, 3):
            await context.report_progress(step, 3, f"step {step}")
            await anyio.sleep(0.06)
        return "done"

    @server.tool()
    async def wait(seconds: float) -> str:
        """Waits; notes when it is cancelled."""
        (folder / "started").touch()
        try:
            await anyio.sleep(seconds)
        except anyio.get_cancelled_exc_class():
            (folder / "cancelled").touch()
            raise
        return "waited"

    @server.tool()
    async def costly() -> CallToolResult:
        """Says what it used."""
        usage = {"input_tokens": 100, "output_tokens": 20, "cost": 0.5}
        return CallToolResult(content=[TextContent(type="text", text="ok")], _meta={"sage/usage": usage})

    async def ask() -> Elicit[Consent]:
        return Elicit("Really?", Consent)

    @server.tool()
    async def asks(consent: Annotated[Consent, Resolve(ask)]) -> str:
        """Asks its user."""
        return str(consent.yes)

    return server


if __name__ == "__main__":
    made = create(Path(sys.argv[1]))
    if len(sys.argv) > 2:
        made.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        made.run()

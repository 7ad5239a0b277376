"""A stand-in for a server that waits for others: an MCP server on stdio whose only tool takes as long as it is told."""

from typing import Any

import anyio
from mcp.server import MCPServer
from pydantic import BaseModel

server = MCPServer("stand-in")


class Waited(BaseModel):
    seconds: float
    given: int


@server.tool()
async def operation(seconds: float, given: dict[str, Any] | None = None) -> Waited:
    """Waits; says how long, and how many values it was given."""
    await anyio.sleep(seconds)
    return Waited(seconds=seconds, given=len(given or {}))


if __name__ == "__main__":
    server.run()

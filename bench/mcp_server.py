"""A small MCP server on stdio, as anyone would write it with the SDK."""

from mcp.server import MCPServer
from pydantic import BaseModel

server = MCPServer("bench")


class Echo(BaseModel):
    text: str


@server.tool()
async def echo(text: str) -> Echo:
    """What it was given."""
    return Echo(text=text)


if __name__ == "__main__":
    server.run()

"""The sage servers by name. A server is made in the process that asks, or served on stdio."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sage_actors.messages.errors import UsageError
from sage_actors.servers.settings import ServerSettings

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ["SAGE_SERVERS", "create_server"]

SAGE_SERVERS: dict[str, str] = {
    "sage-research": "sage_actors.servers.research.server",
    "sage-patterns": "sage_actors.servers.patterns.server",
    "sage-specification": "sage_actors.servers.specification.server",
    "sage-planning": "sage_actors.servers.planning.server",
    "sage-implementation": "sage_actors.servers.implementation.server",
}


def create_server(name: str, settings: ServerSettings) -> MCPServer:
    """The sage server `name`, ready for an in-process client or for stdio.

    Raises:
        UsageError: there is none of that name.
    """
    module = SAGE_SERVERS.get(name)
    if module is None:
        raise UsageError(f"there is no sage server {name!r}; there are {', '.join(SAGE_SERVERS)}")
    server: MCPServer = import_module(module).create_server(settings)
    return server

"""The sage servers by name. A server is made in the process that asks, or served on stdio.

What tools they have is in `tools.json` as well, so that a definition can be checked without loading them, which
takes a second. A test holds the table against the servers, and `python tests/servers/test_catalog.py` writes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_actors.messages.errors import UsageError
from sage_actors.servers.settings import ServerSettings

if TYPE_CHECKING:
    from mcp.server import MCPServer

__all__ = ["IMPLEMENTATION", "SAGE_SERVERS", "TOOLS_PATH", "create_server", "tools_of"]

TOOLS_PATH = Path(__file__).with_name("tools.json")

IMPLEMENTATION = "sage-implementation"
"""The one that runs something: the project's own checks, where the user consented."""

SAGE_SERVERS: dict[str, str] = {
    "sage-research": "sage_actors.servers.research.server",
    "sage-patterns": "sage_actors.servers.patterns.server",
    "sage-specification": "sage_actors.servers.specification.server",
    "sage-planning": "sage_actors.servers.planning.server",
    IMPLEMENTATION: "sage_actors.servers.implementation.server",
}


def create_server(name: str, settings: ServerSettings) -> MCPServer:
    """The sage server `name`, ready for an in-process client or for stdio.

    Raises:
        UsageError: there is no server of that name.
    """
    module = SAGE_SERVERS.get(name)
    if module is None:
        raise UsageError(f"there is no sage server {name!r}; there are {', '.join(SAGE_SERVERS)}")
    server: MCPServer = import_module(module).create_server(settings)
    return server


def tools_of(name: str) -> Mapping[str, Mapping[str, Any]]:
    """The tools of the sage server `name`: of each `properties`, the JSON Schema of its arguments, and `required`."""
    tools: Mapping[str, Mapping[str, Any]] = _table()[name]
    return tools


@cache
def _table() -> Any:
    return json.loads(TOOLS_PATH.read_text(encoding="utf-8"))

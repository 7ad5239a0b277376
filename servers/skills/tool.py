"""The tool `skills_search`: skills for a topic, which every later step of a workflow is offered."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from sage_actors.servers.skills import search
from sage_actors.servers.skills.search import SkillsFound

__all__ = ["add_skills_tool"]

_READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

Topic = Annotated[str, Field(min_length=1, max_length=200_000, description="what the work is about")]
Top = Annotated[int, Field(ge=1, le=100, description="skills at most")]


def add_skills_tool(server: MCPServer, project: Path) -> None:
    """Adds `skills_search` for the skills of `project` and of its user."""

    async def skills_search(topic: Topic, top: Top = 5) -> SkillsFound:
        """Skills (SKILL.md) of the project and its user for a topic, best first, with what each needs. Nothing of
        them is executed."""
        clean = topic.encode("utf-8", "replace").decode()
        if not clean.strip():
            raise ToolError("the topic is blank: say what the work is about")
        look = partial(search.skills_search, project, clean, top)
        return await anyio.to_thread.run_sync(look, abandon_on_cancel=True)

    server.add_tool(skills_search, annotations=_READS)

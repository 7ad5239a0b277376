"""The MCP server sage-research: what the project knows about a topic, cited; and upstream's store of research.

All tools but the store's look only at files of the project and of installed packages. With a backend in the settings
the findings are also summarised; without one nothing is said that does not stand at its citation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from sage_actors.messages.errors import SageError
from sage_actors.messages.findings import ResearchResult
from sage_actors.servers.research.code import code_search, similar_changes
from sage_actors.servers.research.errors import error_analysis
from sage_actors.servers.research.local import best_practices, competitive_analysis, market_research
from sage_actors.servers.research.result import Limits
from sage_actors.servers.research.store_tools import add_store_tools
from sage_actors.servers.research.summary import summarised
from sage_actors.servers.sage_server import SageServer
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.skills.tool import add_skills_tool

__all__ = ["create_server"]

USAGE_META = "sage/usage"
_INSTRUCTIONS = """Research in the current project without a network: every finding is cited as file:line, git:commit or
package:name, and an empty result says what was looked at. For a new feature use best_practices, code_search,
market_research and competitive_analysis with the feature as topic; for a fault give error_analysis the error text,
the traceback or the failing test, and similar_changes its subject. research_store and research_query keep findings
of your own for 30 days."""

_READS = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

Topic = Annotated[
    str, Field(min_length=1, max_length=200_000, description="what to look for, in plain words or names")
]
ErrorText = Annotated[
    str, Field(min_length=1, max_length=200_000, description="an error text, traceback, panic or test")
]
Top = Annotated[int, Field(ge=1, le=100, description="findings at most")]
MaxBytes = Annotated[int, Field(ge=200, le=1_000_000, description="bytes of all findings' texts at most")]
Answer = Annotated[CallToolResult, ResearchResult]
_Operation = Callable[[Path, str, Limits], ResearchResult]


def create_server(settings: ServerSettings) -> MCPServer:
    """The server for the project of `settings`."""
    server = SageServer("sage-research", instructions=_INSTRUCTIONS, log_level="ERROR")
    research = _Research(settings)
    for tool in (
        research.market_research,
        research.competitive_analysis,
        research.best_practices,
        research.code_search,
        research.error_analysis,
        research.similar_changes,
    ):
        server.add_tool(tool, annotations=_READS)
    add_store_tools(server, settings.project)
    add_skills_tool(server, settings.project)
    return server


class _Research:
    """The tools. Each looks on a worker thread and lets the backend, where there is one, sum up."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings

    async def market_research(self, topic: Topic, top: Top = 5, max_bytes: MaxBytes = 8000) -> Answer:
        """Signs of demand for a topic in the project: notes, open items, history, changelog, documents.

        Local evidence only, each cited; never market figures.
        """
        return await self._answer(market_research, topic, Limits(top, max_bytes))

    async def competitive_analysis(self, topic: Topic, top: Top = 3, max_bytes: MaxBytes = 8000) -> Answer:
        """What is there already: declared and installed packages on the topic (version, licence, summary, where
        declared), and passages of the project's documents that compare alternatives."""
        return await self._answer(competitive_analysis, topic, Limits(top, max_bytes))

    async def best_practices(self, topic: Topic, top: Top = 5, max_bytes: MaxBytes = 8000) -> Answer:
        """How this project does it: skills that fit (SKILL.md), standards, guides, documents and comments."""
        return await self._answer(best_practices, topic, Limits(top, max_bytes))

    async def code_search(self, topic: Topic, top: Top = 10, max_bytes: MaxBytes = 8000) -> Answer:
        """Where the code is that matters to a topic: definitions with their names, best first, and who calls them."""
        return await self._answer(code_search, topic, Limits(top, max_bytes, per_source=3, threshold=0.15))

    async def error_analysis(self, error: ErrorText, top: Top = 10, max_bytes: MaxBytes = 8000) -> Answer:
        """From an error to the code: frames of a traceback or panic (Python, JavaScript, Go, Rust, Java), the named
        tests, where the message is written, and related code and commits. `>` marks the cited line."""
        limits = Limits(top, max_bytes, per_source=4, threshold=0.08)
        return await self._answer(error_analysis, error, limits)

    async def similar_changes(self, topic: Topic, top: Top = 5, max_bytes: MaxBytes = 8000) -> Answer:
        """Commits like the one wanted, by message and files: date, files, and for the best what they changed."""
        return await self._answer(similar_changes, topic, Limits(top, max_bytes))

    async def _answer(self, operation: _Operation, topic: str, limits: Limits) -> CallToolResult:
        clean = topic.encode("utf-8", "replace").decode()
        if not clean.strip():
            raise ToolError("the topic is blank: say what to look for")
        look = partial(operation, self._settings.project, clean, limits)
        try:
            result = await anyio.to_thread.run_sync(look, abandon_on_cancel=True)
        except SageError as error:
            raise ToolError(str(error)) from error
        usage = None
        if self._settings.backend is not None:
            result, usage = await summarised(result, self._settings.backend)
        meta: dict[str, Any] = {}
        if usage is not None:
            meta[USAGE_META] = {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cost": usage.cost,
            }
        return _tool_result(result, meta)


def _tool_result(result: BaseModel, meta: dict[str, Any]) -> CallToolResult:
    data = result.model_dump(mode="json")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=data, _meta=meta or None
    )

"""Upstream's five tools for stored research: the same names, arguments and answers, byte for byte."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from sage_actors.messages.errors import SageError
from sage_actors.messages.units import counted
from sage_actors.servers.research.store import ResearchStore

__all__ = ["add_store_tools"]

_LOOKS = ToolAnnotations(read_only_hint=True, destructive_hint=False, open_world_hint=False)
_WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_REMOVES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

StoredTopic = Annotated[str, Field(min_length=1, description="The research topic")]
Findings = Annotated[str, Field(min_length=1, description="The research findings to cache")]
Source = Annotated[str, Field(description="Source of the research (e.g., web, documentation)")]
Confidence = Annotated[float, Field(ge=0, le=1, description="Confidence score of the findings (0-1)")]


class QueryAnswer(BaseModel):
    """`message` without a stored entry; the other fields with one."""

    cached: bool
    topic: str
    message: str | None = None
    findings: str | None = None
    age: str | None = None
    metadata: dict[str, Any] | None = None
    accessCount: int | None = None


class ChangeAnswer(BaseModel):
    success: bool
    topic: str
    message: str


class StatisticsAnswer(BaseModel):
    """`hitRate` counts the queries of all processes."""

    totalEntries: int
    totalSize: str
    hitRate: str
    oldestEntry: str | None
    newestEntry: str | None


class CleanupAnswer(BaseModel):
    success: bool
    removedEntries: int
    message: str


def add_store_tools(server: MCPServer, project: Path) -> None:
    """Add research_query, research_store, research_invalidate, research_stats and research_cleanup."""
    tools = _StoreTools(ResearchStore(project))
    server.add_tool(tools.research_query, annotations=_LOOKS)
    server.add_tool(tools.research_store, annotations=_WRITES)
    server.add_tool(tools.research_invalidate, annotations=_REMOVES)
    server.add_tool(tools.research_stats, annotations=_LOOKS)
    server.add_tool(tools.research_cleanup, annotations=_REMOVES)


class _StoreTools:
    """Plain functions: the SDK runs each call on a worker thread."""

    def __init__(self, store: ResearchStore) -> None:
        self._store = store

    def research_query(self, topic: StoredTopic) -> Annotated[CallToolResult, QueryAnswer]:
        """Query cached research findings for a topic. Returns what was stored for exactly this topic, if anything."""
        with _refusing():
            entry = self._store.get(topic)
        if entry is None:
            return _json(cached=False, topic=topic, message="No cached research found for this topic")
        return _json(
            cached=True,
            topic=entry.topic,
            findings=entry.findings,
            age=_age(entry.timestamp),
            metadata=entry.metadata,
            accessCount=entry.accessCount,
        )

    def research_store(
        self, topic: StoredTopic, findings: Findings, source: Source = "web", confidence: Confidence = 0.8
    ) -> Annotated[CallToolResult, ChangeAnswer]:
        """Store research findings in the cache for future retrieval, for 30 days."""
        with _refusing():
            self._store.put(topic, findings, source=source, confidence=confidence)
        return _json(success=True, topic=topic, message=f"Research cached successfully for topic: {topic}")

    def research_invalidate(self, topic: StoredTopic) -> Annotated[CallToolResult, ChangeAnswer]:
        """Invalidate cached research for a specific topic: removes its entry."""
        with _refusing():
            removed = self._store.invalidate(topic)
        said = "Cache invalidated for topic" if removed else "No cache entry found for topic"
        return _json(success=removed, topic=topic, message=f"{said}: {topic}")

    def research_stats(self) -> Annotated[CallToolResult, StatisticsAnswer]:
        """Get cache statistics including hit rate, total entries, and storage usage."""
        with _refusing():
            found = self._store.statistics()
        asked = found.hits + found.misses
        return _json(
            totalEntries=found.entries,
            totalSize=_size(found.size_bytes),
            hitRate=f"{100 * found.hits / asked if asked else 0:.1f}%",
            oldestEntry=_iso(found.oldest_ms),
            newestEntry=_iso(found.newest_ms),
        )

    def research_cleanup(self) -> Annotated[CallToolResult, CleanupAnswer]:
        """Remove expired cache entries older than their TTL (30 days). Damaged ones are set aside, not removed."""
        with _refusing():
            removed = self._store.cleanup()
        return _json(
            success=True, removedEntries=removed, message=f"Cleaned up {removed} expired cache entries"
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """What cannot be done becomes a tool error that says why."""
    try:
        yield
    except SageError as error:
        raise ToolError(str(error)) from error
    except OSError as error:
        raise ToolError(f"the research cache could not be used: {error.strerror}") from error


def _json(**fields: Any) -> CallToolResult:
    """As `JSON.stringify` writes it: no spaces, 1 for 1.0, text as it is."""
    text = json.dumps(_plain(fields), ensure_ascii=False, separators=(",", ":"))
    safe = text.encode("utf-8", "replace").decode()
    return CallToolResult(content=[TextContent(type="text", text=safe)], structured_content=json.loads(safe))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _age(timestamp_ms: int) -> str:
    seconds = int(time.time() - timestamp_ms / 1000)
    if seconds < 60:
        return "Cached just now"
    units = ((3600, 60, "minute"), (86400, 3600, "hour"), (604800, 86400, "day"))
    size, unit = next(((size, unit) for limit, size, unit in units if seconds < limit), (604800, "week"))
    return f"Cached {counted(seconds // size, unit)} ago"


def _size(size_bytes: int) -> str:
    for limit, unit in ((1024, "B"), (1024**2, "KB"), (1024**3, "MB")):
        if size_bytes < limit:
            return f"{size_bytes} B" if unit == "B" else f"{size_bytes / (limit / 1024):.2f} {unit}"
    return f"{size_bytes / 1024**3:.2f} GB"


def _iso(moment_ms: int | None) -> str | None:
    if moment_ms is None:
        return None
    return (
        datetime.fromtimestamp(moment_ms / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )

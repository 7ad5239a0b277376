"""Operations of type `mcp`: one call of a tool of an MCP server.

config: server (a name in `.mcp.json`, or a sage server), tool. arguments: the tool's. What comes back is told in
`mcp/results.py`, what can go wrong in `mcp/errors.py`. All operations of a worker share one session for each server.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sage_actors.actors.mcp.connect import ServerFinder
from sage_actors.actors.mcp.results import error_text, tokens_of, usage_of, value_of
from sage_actors.actors.mcp.sessions import DEFAULT_CALL_S, McpSessions
from sage_actors.actors.operations.context import Context, Task
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import unpack
from sage_actors.messages.errors import UsageError
from sage_actors.servers.catalog import SAGE_SERVERS

__all__ = ["McpRunner", "sessions_of"]

_PROGRESS_S = 0.05  # reports that come faster are left out
_YOUNG = 50_000  # objects that are new before garbage is looked for, 700 otherwise


class McpRunner:
    """Calls tools through the worker's sessions."""

    is_async = True

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._project = Path(settings.project)
        self._may_repeat = spec.get("effect", "idempotent") != "once"

    async def run(self, task: Task) -> Any:
        said = unpack(task.packed)
        config = said.get("config") or {}
        server, tool = _text(config, "server"), _text(config, "tool")
        arguments = said.get("arguments") or {}
        if not isinstance(arguments, dict):
            raise UsageError("`arguments` of an mcp operation must be an object")
        listener = _CallListener(task)
        try:
            return await self._call(task, listener, server, tool, arguments)
        finally:
            listener.end()

    async def _call(
        self, task: Task, listener: _CallListener, server: str, tool: str, arguments: dict[str, Any]
    ) -> Any:
        sessions = sessions_of(self._project)
        result = await sessions.call(
            server,
            tool,
            arguments,
            listener=listener,
            may_repeat=self._may_repeat,
            timeout_s=DEFAULT_CALL_S if task.timeout is None else None,
            on_start=lambda: _count_start(task, server),
        )
        if (usage := usage_of(result)) is not None:
            task.context().usage(**usage)
        if result.is_error:
            raise await sessions.refusal(server, tool, error_text(result))
        value = value_of(result)
        if (tokens := tokens_of(value)) is not None:
            _used(task).update(tokens)
        if server in SAGE_SERVERS and (written := _written(value)):
            _used(task)["artifacts"] = written
        return value


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, McpSessions] = WeakKeyDictionary()


def sessions_of(project: Path) -> McpSessions:
    """The sessions of the running event loop, which serves one project."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None:
        _look_less_for_garbage()
        found = _sessions[loop] = McpSessions(ServerFinder(project))
    return found


def _look_less_for_garbage() -> None:
    """The SDK's modules are 80,000 objects that stay, and research makes as many that live long: looking through
    them again and again would be a tenth of its time."""
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)


class _CallListener:
    """Passes a server's progress and words on to the task, while the call lasts."""

    def __init__(self, task: Task) -> None:
        self._context: Context | None = task.context()
        self._furthest = -math.inf
        self._reported_at = -math.inf

    def end(self) -> None:
        """The SDK may still deliver what came before the answer; it is too late then."""
        self._context = None

    def hear(self, level: str, text: str) -> None:
        if self._context is None:
            return
        log = self._context.log
        if level in ("error", "critical", "alert", "emergency"):
            log.error("%s", text)
        elif level in ("warning", "note"):
            log.warning("%s", text)
        else:
            log.info("%s", text)

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Passes on what is further than before; a server may not go backwards."""
        now = time.monotonic()
        if self._context is None or not self._furthest < progress < math.inf:
            return
        self._furthest = progress
        done = total is not None and progress >= total
        if now - self._reported_at < _PROGRESS_S and not done:
            return
        self._reported_at = now
        if total is not None and 0 < total < math.inf:
            fraction = min(1.0, max(0.0, progress / total))
            self._context.progress(fraction, message or "")
        else:
            self._context.progress(None, message or "", progress=progress)


def _text(config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"`{name}` of an mcp operation must be a text")
    return value


def _written(value: Any) -> list[str]:
    """The document that a sage server says it wrote, and where what stood there was kept.

    Its other results' `path` is what it looked at.
    """
    if not isinstance(value, dict) or "document" not in value:
        return []
    return [path for path in (value.get("path"), value.get("backup")) if isinstance(path, str)]


def _used(task: Task) -> dict[str, Any]:
    task.context().usage()  # makes the map where there is none
    assert task.used is not None
    return task.used


def _count_start(task: Task, server: str) -> None:
    starts = _used(task).setdefault("server_starts", {})
    starts[server] = starts.get(server, 0) + 1

"""Finds the MCP server that has a name, and makes a client for it.

    a server of that name in `.mcp.json`, with the user's consent -> that one
    else a sage server of that name                               -> in this process
    else                                                          -> an error that says what to do

So a project cannot put its own program in the place of a built-in server unless its user agreed.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from anyio import to_thread
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import get_default_environment
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from mcp_types import (
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    LoggingMessageNotificationParams,
)

from sage_actors.actors.egress.client import explain_response, explain_tunnel
from sage_actors.actors.mcp.config import CONFIG_NAME, ServerEntry, load_servers
from sage_actors.actors.mcp.errors import LIMIT_TEXT
from sage_actors.actors.mcp.server_sandbox import is_confined, sandbox_of
from sage_actors.actors.mcp.stdio import MAX_MESSAGE_BYTES, StdioServer
from sage_actors.actors.trust.consents import TrustStore, checks_item
from sage_actors.messages.backend import Backend
from sage_actors.messages.errors import DefinitionError, OperationError, UsageError
from sage_actors.servers.catalog import IMPLEMENTATION, SAGE_SERVERS, create_server
from sage_actors.servers.settings import ServerSettings

__all__ = ["Hear", "OpenServer", "ServerFinder"]

Hear = Callable[[str, str], None]
"""Gets what a server says beside its answers: a level or source, and a line."""

_STARTUP_S = 30.0
# Tools of built-in servers compute under one interpreter lock: of few, the first is done sooner.
_TOOL_THREADS = 3
_CONNECT_S = 30.0
_SILENCE_S = 600.0  # between two bytes of an HTTP answer


@dataclass(slots=True)
class OpenServer:
    """A server that can be entered.

    ended: set by whoever knows that it is over; whoever holds the client then leaves it. epitaph: how it ended.
    last_words: the last lines of its stderr, or "". note: what may explain a failed start. refused: what the egress
    proxy said last in place of the server, if it did. is_own: a built-in server, whose answers are made by the models
    that its tools' schemas are made of; to check them again, and the schemas first, would cost 50 ms for each tool.
    """

    client: Client
    ended: asyncio.Event
    epitaph: Callable[[], str]
    last_words: Callable[[], str] = str
    refused: Callable[[], OperationError | None] = lambda: None
    startup_s: float = _STARTUP_S
    timeout_s: float | None = None
    note: str = ""
    is_own: bool = False

    async def call(
        self, tool: str, arguments: dict[str, Any], *, timeout_s: float | None, progress: ProgressFnT
    ) -> CallToolResult:
        """Calls a tool; raises what the SDK raises."""
        if not self.is_own:
            return await self.client.call_tool(
                tool, arguments, read_timeout_seconds=timeout_s, progress_callback=progress
            )
        request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=arguments))
        return await self.client.session.send_request(
            request, CallToolResult, request_read_timeout_seconds=timeout_s, progress_callback=progress
        )


class ServerFinder:
    """Finds servers for one project. The file and the consents are read anew for each start."""

    def __init__(self, project: Path, trust: TrustStore | None = None) -> None:
        self._project = project
        self._trust = trust or TrustStore()

    def __call__(self, name: str, hear: Hear) -> OpenServer:
        """The server `name`, not yet started.

        Raises:
            UsageError: there is no server of that name, it is disabled, the user did not consent to it, or the backend
                that was chosen for built-in servers cannot be used.
            DefinitionError: its entry, or the whole file, cannot be used.
        """
        entry = self._entry(name, hear)
        if entry is None:
            return self._built_in(name, hear)
        return _stdio(entry, hear) if entry.transport == "stdio" else _remote(entry, hear)

    def _entry(self, name: str, hear: Hear) -> ServerEntry | None:
        """The entry to use, None for the built-in server."""
        try:
            entries = load_servers(self._project)
        except DefinitionError as cause:
            if name not in SAGE_SERVERS:
                raise
            hear("warning", f"using the built-in {name}: {cause}")
            return None
        entry = entries.get(name)
        if name in SAGE_SERVERS:
            if entry is not None and (why := self._why_not(entry)):
                hear("warning", f"using the built-in {name}: {why}")
                return None
            return entry
        if entry is None:
            raise _unknown(name, entries)
        entry.check()
        if why := self._why_not(entry):
            raise UsageError(why)
        return entry

    def _why_not(self, entry: ServerEntry) -> str:
        """Why it is not started; "" if it may be."""
        if entry.disabled:
            return entry.why_disabled
        if entry.problems:
            return "; ".join(map(str, entry.problems))
        return "" if self._trust.trusts(self._project, entry.trust_item()) else _no_consent(entry)

    def _built_in(self, name: str, hear: Hear) -> OpenServer:
        # To look at what configures the checks takes as long as to list the project.
        runs_checks = name == IMPLEMENTATION
        trusts_checks = runs_checks and self._trust.trusts(self._project, checks_item(self._project))
        settings = ServerSettings(self._project, _load_backend(self._project), trusts_checks)
        client = _client(create_server(name, settings), hear)
        to_thread.current_default_thread_limiter().total_tokens = _TOOL_THREADS
        return OpenServer(client, asyncio.Event(), lambda: "it was stopped", is_own=True)


def _no_consent(entry: ServerEntry) -> str:
    item = entry.trust_item()
    seen = (
        ""
        if not is_confined()
        else " (a consent that was given since this process started counts when it has ended)"
    )
    return (
        f"{CONFIG_NAME} brings a server {entry.name!r} that nobody consented to, or that has changed since: "
        f"{item.description}; look at it, then run with --trust{seen}"
    )


def _unknown(name: str, entries: dict[str, ServerEntry]) -> UsageError:
    known = [*entries, *(each for each in SAGE_SERVERS if each not in entries)]
    near = difflib.get_close_matches(name[:200], known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(
        f"there is no MCP server {name!r}; {hint}known are {', '.join(known[:30])}; "
        f"more can be added to `mcpServers` in {CONFIG_NAME}"
    )


def _load_backend(project: Path) -> Backend | None:
    from sage_actors.actors.agents.backends import load_backend  # only where a built-in server starts

    return load_backend(os.environ, project)


def _client(server: Any, hear: Hear) -> Client:
    async def log(params: LoggingMessageNotificationParams) -> None:
        data = params.data if isinstance(params.data, str) else repr(params.data)
        hear(str(params.level), data[:4000])

    return Client(server, logging_callback=log, log_level="info", cache=None)


def _stdio(entry: ServerEntry, hear: Hear) -> OpenServer:
    sandbox = sandbox_of(entry.name, entry.written)
    if sandbox is not None and sandbox.note:
        hear("note", sandbox.note)
    server = StdioServer(
        entry.command,
        entry.args,
        env=entry.env if sandbox is not None else get_default_environment() | dict(entry.env),
        cwd=entry.directory,
        hear=hear,
        sandbox=sandbox,
    )
    return OpenServer(
        _client(server, hear),
        server.ended,
        server.epitaph,
        server.last_words,
        startup_s=entry.startup_s or _STARTUP_S,
        timeout_s=entry.timeout_s,
        note=_note(entry),
    )


def _remote(entry: ServerEntry, hear: Hear) -> OpenServer:
    refusals: deque[OperationError] = deque(maxlen=1)
    transport = _streamable(entry, refusals) if entry.transport == "http" else _sse(entry, refusals)
    return OpenServer(
        _client(transport, hear),
        asyncio.Event(),
        lambda: "the connection ended",
        refused=lambda: refusals.pop() if refusals else None,
        startup_s=entry.startup_s or _STARTUP_S,
        timeout_s=entry.timeout_s,
        note=_note(entry),
    )


def _note(entry: ServerEntry) -> str:
    """What may explain a failure."""
    if not entry.unset:
        return ""
    names = ", ".join(entry.unset)
    return f"{CONFIG_NAME} names variables that are not set: {names}"


@asynccontextmanager
async def _streamable(entry: ServerEntry, refusals: deque[OperationError]) -> AsyncIterator[Any]:
    async with (
        _HttpClient(dict(entry.headers), refusals) as client,
        streamable_http_client(
            entry.url, http_client=client, max_sse_event_size=MAX_MESSAGE_BYTES
        ) as streams,
    ):
        yield streams


@asynccontextmanager
async def _sse(entry: ServerEntry, refusals: deque[OperationError]) -> AsyncIterator[Any]:
    def client(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return _HttpClient(headers or {}, refusals)

    async with sse_client(entry.url, dict(entry.headers), httpx_client_factory=client) as streams:
        yield streams


class _HttpClient(httpx2.AsyncClient):
    """Goes the way that the environment's proxies say, and bounds what comes back.

    Event streams are bounded by event instead: they may last for days. refusals: gets what the egress proxy answers
    in place of the server, since the SDK drops errors of its transport.
    """

    def __init__(self, headers: dict[str, str], refusals: deque[OperationError]) -> None:
        # A compressed answer could be small on the wire and without bounds in memory
        super().__init__(
            headers={**headers, "accept-encoding": "identity"},
            timeout=httpx2.Timeout(_CONNECT_S, read=_SILENCE_S),
            event_hooks={"response": [self._bound]},
            trust_env=True,
        )
        self._refusals = refusals

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As httpx2's, but notes what the egress proxy refuses."""
        try:
            return await super().send(request, **options)
        except httpx2.ProxyError as error:
            if (refused := explain_tunnel(error, request.url)) is not None:
                self._refusals.append(refused)
            raise

    async def _bound(self, response: httpx2.Response) -> None:
        if (refused := explain_response(response)) is not None:
            self._refusals.append(refused)
        if "text/event-stream" not in response.headers.get("content-type", ""):
            response.stream = _BoundedStream(response.stream, response.headers.get("content-encoding", ""))


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._encoding not in ("", "identity"):
            raise httpx2.StreamError(f"the answer is compressed ({self._encoding}), which was not asked for")
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_MESSAGE_BYTES:
                raise httpx2.StreamError(f"the answer {LIMIT_TEXT}")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()

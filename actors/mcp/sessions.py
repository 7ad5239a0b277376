"""One session for each MCP server, shared by all calls of all runs; each is kept by a task of its own.

    idle --first call--> starting --handshake--> live --its process or connection ends--> idle
              ^             |  fails: all who wait are told
              `- backoff ---'  after failures in a row: 0, 0.5, 1, 2 ... 30 s

A client must be left by the task that entered it (anyio's rule), and calls come and go; so a lifetime task
enters it, waits for the end, and leaves it. Everything here runs in one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult, PaginatedRequestParams, Tool

from sage_actors.actors.mcp.backoff import Backoff
from sage_actors.actors.mcp.connect import Hear, OpenServer
from sage_actors.actors.mcp.errors import (
    ServerDied,
    ServerStartFailed,
    ToolError,
    bad_arguments,
    explain,
    protocol_error,
    unusable,
    unwrap,
)
from sage_actors.actors.workers.output import safe_text
from sage_actors.messages.errors import DefinitionError, OperationError, SandboxViolation, UsageError

__all__ = ["DEFAULT_CALL_S", "Listener", "McpSessions"]

DEFAULT_CALL_S = 600.0  # where neither the node nor the server's entry says how long a call may take
_PATIENCE_S = 1.0  # a call waits as long for a server that failed
_STOP_S = 10.0
_LIST_S = 5.0
_PAGES = 20
_UNANSWERED = 3  # calls in a row that a server left without an answer: it hangs
_OUTPUT_CHARS = 1024 * 1024  # of a server, of what belongs to no call


class Listener(Protocol):
    """Whoever made a call: is told of its progress and of what the server says meanwhile."""

    def hear(self, level: str, text: str) -> None: ...

    async def progress(self, progress: float, total: float | None, message: str | None) -> None: ...


_caller: contextvars.ContextVar[Listener | None] = contextvars.ContextVar("sage_mcp_caller", default=None)


class McpSessions:
    """The sessions of one event loop. `find` gives a server by name, ready to be entered."""

    def __init__(
        self, find: Callable[[str, Hear], OpenServer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find = find
        self._clock = clock
        self._servers: dict[str, _Server] = {}

    async def call(
        self,
        server: str,
        tool: str,
        arguments: dict[str, Any],
        *,
        listener: Listener,
        may_repeat: bool,
        timeout_s: float | None = None,
        on_start: Callable[[], None] = lambda: None,
    ) -> CallToolResult:
        """Calls a tool. Cancelling this cancels the call at the server.

        may_repeat: whether the call may be made again when the server ends in the middle of it. timeout_s: longest
        wait for the answer, if the caller itself does not end it. on_start: called when this started the server.

        Raises:
            UsageError, DefinitionError: there is no such server, or it cannot be used as it is.
            ServerStartFailed, ServerDied, ToolUnusable, ToolError, TimeoutExceeded, BadAnswer, InputNeeded,
            LimitExceeded: see errors.py.
        """
        found = self._servers.get(server)
        if found is None:
            found = self._servers[server] = _Server(server, self._find, self._clock)
        connection = await found.connection(listener)
        connection.claim(on_start)
        try:
            return await connection.call(tool, arguments, listener, timeout_s)
        except ServerDied:
            if not may_repeat and not connection.refused:
                raise
        connection = await found.connection(listener)
        connection.claim(on_start)
        return await connection.call(tool, arguments, listener, timeout_s)

    async def refusal(self, server: str, tool: str, text: str) -> OperationError:
        """The error for a result that says it is one: perhaps there is no such tool."""
        found = self._servers.get(server)
        tools = await found.tools_now() if found is not None else []
        return (
            unusable(protocol_error(text), tool, server, tools)
            or bad_arguments(text, tool, server, tools)
            or ToolError(f"{tool!r} of {server!r} failed: {text}")
        )

    async def close(self) -> None:
        """Ends all servers."""
        servers, self._servers = self._servers, {}
        await asyncio.gather(*(each.close() for each in servers.values()))


class _Server:
    """One name: its connection, if there is one, and when it may be started again."""

    def __init__(
        self, name: str, find: Callable[[str, Hear], OpenServer], clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._find = find
        self._clock = clock
        self._backoff = Backoff(clock)
        self._connection: _Connection | None = None
        self._ended: _Connection | None = None
        self._starting: asyncio.Task[_Connection] | None = None
        self._last_failure = ""

    async def connection(self, listener: Listener) -> _Connection:
        """The live connection; whoever asks while it starts waits for the same start."""
        current = self._connection
        if current is not None:
            if not current.is_over:
                return current
            self._connection, self._ended = None, current
            self._backoff.failed(self._clock() - current.since)
            self._last_failure = current.epitaph()
        while self._starting is None and (wait_s := self._backoff.wait_s) > 0:
            self._refuse_to_wait(wait_s)
            await asyncio.sleep(wait_s)
        if self._connection is not None:  # another one started it meanwhile
            return self._connection
        if self._starting is None:
            # Not in the caller's context: what the server prints later is not this caller's
            self._starting = asyncio.get_running_loop().create_task(
                self._start(listener), context=contextvars.Context()
            )
            self._starting.add_done_callback(self._started)
        return await asyncio.shield(self._starting)  # one who gives up does not take the others' start along

    def _refuse_to_wait(self, wait_s: float) -> None:
        """A short while is waited out; for longer the node is told, and may be retried."""
        if wait_s > _PATIENCE_S:
            raise ServerStartFailed(
                f"the MCP server {self._name!r} ended or failed {self._backoff.failures} times in a row and is left "
                f"alone for {wait_s:.1f} s more; the last time: {self._last_failure}",
                retry_after=wait_s,
            )

    def _started(self, task: asyncio.Task[_Connection]) -> None:
        self._starting = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._connection = task.result()
        elif not isinstance(error, UsageError | DefinitionError | SandboxViolation):
            self._backoff.failed()
            self._last_failure = str(error)

    async def _start(self, listener: Listener) -> _Connection:
        if self._ended is not None:  # what it holds, such as a lock, is free before the next one starts
            await self._ended.close()
            self._ended = None
        hear: list[Hear] = [listener.hear]
        opened = self._find(self._name, lambda level, text: hear[0](level, text))
        connection = _Connection(self._name, opened, self._clock())
        hear[0] = connection.hear
        await connection.open(listener)
        return connection

    async def tools_now(self) -> list[Tool]:
        return [] if self._connection is None else await self._connection.tools_now()

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting}, timeout=_STOP_S)
        for each in (self._connection, self._ended):
            if each is not None:
                await each.close()


class _Connection:
    """An entered client, from its handshake to its end."""

    def __init__(self, name: str, opened: OpenServer, since: float) -> None:
        self.name = name
        self.since = since
        self.refused = False  # the last call was not executed: the server did not know the session any more
        self._opened = opened
        self._listeners: list[Listener] = []
        self._said = 0
        self._claimed = False
        self._unanswered = 0
        self._hangs = False
        self._lifetime: asyncio.Task[None]

    @property
    def is_over(self) -> bool:
        return self._opened.ended.is_set()

    def epitaph(self) -> str:
        """How it ended, and the last that it said."""
        how = f"it left {_UNANSWERED} calls without an answer" if self._hangs else self._opened.epitaph()
        return how + self._opened.last_words()

    def claim(self, on_start: Callable[[], None]) -> None:
        """Counts this start for the first call that uses it."""
        if not self._claimed:
            self._claimed = True
            on_start()

    # Its life

    async def open(self, listener: Listener) -> None:
        """Starts the server and greets it; `listener` hears what it says meanwhile.

        Raises:
            ServerStartFailed: it did not start, or did not answer in time.
            SandboxViolation, EgressFailed, BreakerOpenError: the egress proxy answered in its place.
        """
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._lifetime = loop.create_task(self._live(ready), context=contextvars.Context())
        with self.heard_by(listener):
            try:
                await asyncio.wait({ready}, timeout=self._opened.startup_s)
            finally:
                if not ready.done():
                    await self._abort()
        if not ready.done():
            raise self._start_failed(f"it did not answer within {self._opened.startup_s:g} s")
        if (error := ready.exception()) is not None:
            raise self._refused() or self._start_failed(error) from unwrap(error)
        # The client checks results by the schemas in the listing, and would fetch it behind the first answer: a
        # server that answers and ends would have failed the call
        with self.heard_by(listener):
            await self.tools_now()

    async def _live(self, ready: asyncio.Future[None]) -> None:
        """The lifetime task: enters the client, and leaves it."""
        try:
            async with self._opened.client:
                if not ready.done():
                    ready.set_result(None)
                await self._opened.ended.wait()
        except Exception as error:  # noqa: BLE001 - the border: whatever a server causes ends its session alone
            if not ready.done():
                ready.set_exception(error)
        finally:
            self._opened.ended.set()

    async def _abort(self) -> None:
        if not self._lifetime.done():
            self._lifetime.cancel()
            await asyncio.wait({self._lifetime}, timeout=_STOP_S)

    async def close(self) -> None:
        self._opened.ended.set()
        await asyncio.wait({self._lifetime}, timeout=_STOP_S)
        await self._abort()

    def _refused(self) -> OperationError | None:
        """What the egress proxy said in place of the server, with the server's name: it knows the host alone."""
        refused = self._opened.refused()
        if refused is not None:
            refused.args = (f"the MCP server {self.name!r} was not reached: {refused}",)
        return refused

    def _start_failed(self, cause: BaseException | str) -> ServerStartFailed:
        retryable = True
        if isinstance(cause, BaseException):
            error = unwrap(cause)
            retryable = not isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
            if retryable:
                told = explain(error, "the handshake") or f"{type(error).__name__}: {error}"
                said = f"{told}; {self._opened.epitaph()}"
            else:
                said = f"its program cannot be started: {error}"
        else:
            said = cause
        note = f"; {self._opened.note}" if self._opened.note else ""
        text = f"the MCP server {self.name!r} did not start: {said}{self._opened.last_words()}{note}"
        return ServerStartFailed(text, retryable=retryable)

    # Calls

    async def call(
        self, tool: str, arguments: dict[str, Any], listener: Listener, timeout_s: float | None
    ) -> CallToolResult:
        limit_s = self._opened.timeout_s or timeout_s
        with self.heard_by(listener):
            try:
                result = await self._opened.call(
                    tool, arguments, timeout_s=limit_s, progress=listener.progress
                )
            except asyncio.CancelledError:
                self._note_unanswered()
                raise
            except Exception as error:  # noqa: BLE001 - the border: what a server causes is its error
                raise await self._explain(error, tool) from unwrap(error)
        self._unanswered = 0
        return result

    def _note_unanswered(self) -> None:
        """A server that answers nobody any more is started anew for the next call."""
        self._unanswered += 1
        if self._unanswered >= _UNANSWERED and len(self._listeners) == 1:
            self._hangs = True
            self._opened.ended.set()

    async def _explain(self, error: Exception, tool: str) -> Exception:
        cause = unwrap(error)
        if (refused := self._refused()) is not None:
            return refused
        if isinstance(cause, MCPError) and cause.code == REQUEST_TIMEOUT:
            self._note_unanswered()
        elif await self._ended_by(cause):
            return ServerDied(
                f"the MCP server {self.name!r} ended while it worked on {tool!r}: {self.epitaph()}"
            )
        else:
            self._unanswered = 0
        told = explain(cause, f"{tool!r} of {self.name!r}")
        if isinstance(told, ToolError) and isinstance(cause, MCPError):
            return unusable(cause, tool, self.name, await self.tools_now()) or told
        return told or error

    async def _ended_by(self, error: BaseException) -> bool:
        """Whether the connection ended. A server may itself answer with the code that says so."""
        if isinstance(error, MCPError):
            if error.message == "Session terminated":  # HTTP 404: the server never saw the call
                self.refused = True
                self._opened.ended.set()
            elif error.code == CONNECTION_CLOSED and error.message.startswith("SSE stream ended"):
                self._opened.ended.set()
            elif error.code == CONNECTION_CLOSED and error.message == "Connection closed":
                await asyncio.wait({self._lifetime}, timeout=_STOP_S)
        return self.is_over

    async def tools_now(self) -> list[Tool]:
        """The tools that the server offers; none where it does not say so soon."""
        try:
            return await asyncio.wait_for(self._tools(), _LIST_S)
        except Exception:  # noqa: BLE001 - asked to explain an error, which is the one to tell
            return []

    async def _tools(self) -> list[Tool]:
        found: list[Tool] = []
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await self._opened.client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            found += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return found

    # What it says

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        token = _caller.set(listener)
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)
            _caller.reset(token)

    def hear(self, level: str, text: str) -> None:
        """To the call that it belongs to, where that is beyond doubt; else to the worker's own output."""
        listener = _caller.get() or (self._listeners[0] if len(self._listeners) == 1 else None)
        if listener is not None:
            listener.hear(level, f"[{self.name}] {text}")
            return
        if self._said < _OUTPUT_CHARS:
            self._said += len(text) + 1
            more = "" if self._said < _OUTPUT_CHARS else " [more is not shown]"
            print(f"[{self.name}] {safe_text(text)}{more}", file=sys.stderr)

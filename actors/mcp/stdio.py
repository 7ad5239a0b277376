"""The stdio transport of an MCP server that is not trusted to behave: bounded in memory, loud about its end.

    server's stdout -> lines of at most MAX_MESSAGE_BYTES -> the SDK's client
    server's stderr -> lines, cut -> `hear`
    server's exit   -> `ended` is set, with the exit code and its last words in `epitaph()`

The SDK's own transport keeps a line of any length in memory, and copies it anew with each chunk that arrives;
it cannot say why a server ended. This one serves the SDK's client in its place (`mcp.client.Transport`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import INTERNAL_ERROR, ErrorData, JSONRPCError, jsonrpc_message_adapter

from sage_actors.actors.mcp.lines import LineSplitter, LongLine
from sage_actors.actors.mcp.process import StartedProcess
from sage_actors.actors.mcp.server_sandbox import ServerSandbox

_Process: TypeAlias = Process | StartedProcess

__all__ = ["MAX_MESSAGE_BYTES", "TOO_LARGE", "StdioServer"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
TOO_LARGE = "sage/message-too-large"  # in the data of the error that stands for such an answer
_CHUNK_BYTES = 64 * 1024
_LINE_BYTES = 4 * 1024  # of the server's stderr
_LAST_LINES = 5
_OUTBOX = 256  # messages on their way to a server
_GARBAGE_LINES = 5  # of stdout; more is not repeated
_FLUSH_S = 0.5
_GRACE_S = 1.0
_POLL_S = 0.01
_WATCH_S = 1.0


class StdioServer:
    """A server's process, as a transport: `async with server as (read, write)`, once.

    hear: gets what it says beside the protocol: ("stderr" or "note", a line). sandbox: what it is to be started in;
    `env` is then added to the variables of that, otherwise it is all that the server gets.
    """

    def __init__(
        self,
        command: str,
        args: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        hear: Callable[[str, str], None],
        sandbox: ServerSandbox | None = None,
    ) -> None:
        self._command = command
        self._args = args
        self._env = env
        self._cwd = cwd
        self._hear = hear
        self._sandbox = sandbox
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._garbage = 0
        self._process: _Process | None = None
        self._fault = ""
        self.ended = asyncio.Event()
        self._heard = asyncio.Event()  # all of its stderr
        self._stack = contextlib.AsyncExitStack()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def epitaph(self) -> str:
        """How it ended."""
        code = None if self._process is None else self._process.returncode
        if self._fault:
            return self._fault
        if code is None:
            return "it closed its output"
        return f"it was killed by signal {-code}" if code < 0 else f"it exited with code {code}"

    def last_words(self) -> str:
        """The last lines that it wrote beside the protocol."""
        return f"; its last words: {' | '.join(self._last)}" if self._last else ""

    async def __aenter__(self) -> Any:
        return await self._stack.enter_async_context(self._connect())

    async def __aexit__(self, *exception: Any) -> Any:
        return await self._stack.__aexit__(*exception)

    async def _start(self, place: str) -> _Process:
        """The process. place: its own folder, if it has a sandbox of its own.

        Raises:
            OSError: there is no such program, or no such directory to start it in.
        """
        argv = [self._command, *self._args]
        if self._sandbox is not None:
            return await self._sandbox.start(argv, self._env, cwd=self._cwd, place=place)
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(self._env),
            cwd=self._cwd,
            start_new_session=True,
        )

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[str]:
        """The folder for as long as it runs; removed in a thread, as a server may have left much."""
        if self._sandbox is None:
            yield ""
            return
        place = self._sandbox.make_place()
        try:
            yield place
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Any]:
        async with self._place() as place:
            process = self._process = await self._start(place)
            async with self._talk(process) as streams:
                yield streams

    @contextlib.asynccontextmanager
    async def _talk(self, process: _Process) -> AsyncIterator[Any]:
        try:
            to_client, read = anyio.create_memory_object_stream[Any](0)
            # Room, so that the cancel of a call to a server that reads no more does not have to wait for it
            write, from_client = anyio.create_memory_object_stream[Any](_OUTBOX)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read, process, to_client)
                tasks.start_soon(self._write, process, from_client)
                tasks.start_soon(self._listen, process)
                tasks.start_soon(self._watch, process)
                try:
                    yield read, write
                finally:
                    read.close()  # a server that is stuck writing is drained, so that it can end
                    write.close()
                    with anyio.CancelScope(shield=True):
                        await _end(process)
                    tasks.cancel_scope.cancel()
        finally:
            _kill(process)
            _close(process)

    async def _read(self, process: _Process, to_client: MemoryObjectSendStream[Any]) -> None:
        """Lines of its stdout as messages for the client, until it closes that."""
        assert process.stdout is not None
        splitter = LineSplitter(MAX_MESSAGE_BYTES)
        try:
            async with to_client:
                while chunk := await process.stdout.read(_CHUNK_BYTES):
                    for line in splitter.feed(chunk):
                        message = self._parse(line)
                        if message is not None:
                            await to_client.send(message)
                await self._wait_for_exit(process)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._heard.wait(), _FLUSH_S)
                self.ended.set()  # before the client sees the end, so that whoever it tells can ask why
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            while await process.stdout.read(_CHUNK_BYTES):
                pass
        except _UnusableError as cause:
            self._fault = str(cause)
        finally:
            self.ended.set()

    async def _watch(self, process: _Process) -> None:
        """Ends the session when the server has exited: what it started may hold its output open for ever."""
        while process.returncode is None:
            await asyncio.sleep(_WATCH_S)
        await asyncio.sleep(_WATCH_S)  # what it answered last is still read
        self.ended.set()

    async def _wait_for_exit(self, process: _Process) -> None:
        """Its exit code is known a moment after its output ended."""
        for _ in range(int(_FLUSH_S / _POLL_S)):
            if process.returncode is not None:
                return
            await asyncio.sleep(_POLL_S)

    def _parse(self, line: bytes | LongLine) -> SessionMessage | None:
        if isinstance(line, LongLine):
            return _refusal(line)
        if not line.strip():
            return None
        try:
            return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValueError:
            self._note_garbage(line)
            return None

    def _note_garbage(self, line: bytes) -> None:
        self._garbage += 1
        if self._garbage <= _GARBAGE_LINES:
            shown = line[:200].decode("utf-8", "backslashreplace")
            note = f"wrote to stdout what is no JSON-RPC message: {shown!r}"
            self._last.append(note)
            self._hear("note", note)

    async def _write(self, process: _Process, from_client: MemoryObjectReceiveStream[Any]) -> None:
        """The client's messages to its stdin."""
        assert process.stdin is not None
        try:
            async with from_client:
                async for item in from_client:
                    text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                    process.stdin.write(text.encode("utf-8") + b"\n")
                    await process.stdin.drain()
        except OSError:  # it reads no more: what waits for an answer would wait without end
            await self._wait_for_exit(process)
            if process.returncode is None:
                self._fault = "it closed its input"
            self.ended.set()

    async def _listen(self, process: _Process) -> None:
        """Lines of its stderr."""
        assert process.stderr is not None
        splitter = LineSplitter(_LINE_BYTES)
        with contextlib.suppress(OSError):
            while chunk := await process.stderr.read(_CHUNK_BYTES):
                for line in splitter.feed(chunk):
                    self._hear_line(line)
            for line in splitter.end():
                self._hear_line(line)
        self._heard.set()

    def _hear_line(self, line: bytes | LongLine) -> None:
        data = line.head + b" [cut]" if isinstance(line, LongLine) else line
        text = data.decode("utf-8", "backslashreplace").rstrip("\r")
        if text:
            self._last.append(text[:500])
            self._hear("stderr", text)


class _UnusableError(Exception):
    """Why a server's output cannot be read any further."""


def _refusal(line: LongLine) -> SessionMessage:
    """An error in place of an answer that is too large.

    Raises:
        _UnusableError: it does not say whose answer it is, so that its caller would wait without end.
    """
    said = f"a message of {line.size_bytes} bytes; the limit is {MAX_MESSAGE_BYTES}"
    if line.message_id is None:
        raise _UnusableError(f"it sent {said}, and no id in it")
    error = ErrorData(code=INTERNAL_ERROR, message=said, data=TOO_LARGE)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=line.message_id, error=error))


async def _end(process: _Process) -> None:
    """The end that the specification asks for: close its stdin, then SIGTERM, then SIGKILL."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    for number in (0, signal.SIGTERM):
        if number:
            _kill(process, number)
        deadline = asyncio.get_running_loop().time() + _GRACE_S
        while process.returncode is None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
        if process.returncode is not None:
            return


def _close(process: _Process) -> None:
    """Its streams."""
    if isinstance(process, StartedProcess):
        process.close()
    else:
        with contextlib.suppress(AttributeError):
            process._transport.close()  # type: ignore[attr-defined]


def _kill(process: _Process, number: int = signal.SIGKILL) -> None:
    """The process and what it started; harmless when they are gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)

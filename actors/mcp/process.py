"""A server's process that was not started by asyncio: its pipes as streams, and its end found out by polling."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

__all__ = ["StartedProcess"]

_LOST = 255  # its exit code, if somebody else took it
_REAP_S = 1.0


@dataclass(slots=True)
class StartedProcess:
    """What `asyncio.subprocess.Process` has, as far as it is needed here. It must be a child of this process."""

    pid: int
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    _transports: tuple[asyncio.BaseTransport, ...]
    _code: int | None = None

    @classmethod
    async def start(cls, begin: Callable[[tuple[int, int, int]], int]) -> StartedProcess:
        """begin: starts it with these descriptors as its 0, 1 and 2, and returns its number. It may raise OSError."""
        with ExitStack() as theirs, ExitStack() as ours:
            in_ours, in_theirs = socket.socketpair()
            ours.callback(in_ours.close)
            theirs.callback(in_theirs.close)
            pipes = [os.pipe(), os.pipe()]
            for read, write in pipes:
                ours.callback(os.close, read)
                theirs.callback(os.close, write)
            pid = begin((in_theirs.fileno(), pipes[0][1], pipes[1][1]))
            ours.pop_all()  # of the streams from here on
        try:
            _, stdin = await asyncio.open_connection(sock=in_ours)
            (stdout, out), (stderr, err) = [await _reader(read) for read, _ in pipes]
        except BaseException:  # cancelled: nobody else knows of it
            os.killpg(pid, signal.SIGKILL)
            raise
        return cls(pid, stdin, stdout, stderr, (stdin.transport, out, err))

    @property
    def returncode(self) -> int | None:
        """As that of `Process`; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = _LOST
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def close(self) -> None:
        """Closes the streams. Whoever killed it just now need not wait for its end."""
        for each in self._transports:
            each.close()
        if self.returncode is None:
            asyncio.get_running_loop().call_later(_REAP_S, lambda: self.returncode)


async def _reader(fd: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    reader = asyncio.StreamReader()
    file = open(fd, "rb", buffering=0)  # noqa: SIM115 - the transport closes it
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
    return reader, transport

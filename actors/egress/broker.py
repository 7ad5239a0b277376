"""The way to the egress proxy where a worker may make no sockets: connected streams, handed over one by one.

In the tier without namespaces a rule cannot tell the proxy from another host on the same port, so workers get no
sockets at all, but one end of a SEQPACKET pair:

    worker: any message --------> proxy: makes a pair of stream sockets, serves one end as it serves any client
    worker: <-- the other end ---

A stream carries no right of its own: what is asked over it needs a token as everywhere, so that it does not matter
which of several workers that share the broker gets which stream. The worker's end is no TCP socket, and cannot be
connected to somewhere else.

`install` leads Python's own ways to open a connection to the proxy's address there: asyncio (and so httpx, MCP and
the models' clients) and `socket.create_connection` (http.client, urllib, httpx). Other programs have no network.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["hand_over", "install", "open_stream", "serve_asks"]

_ASK = b"?"
_TAKE = b"!"
_MESSAGE_BYTES = 16
_AGAIN_S = 0.1
_PATIENCE_S = 10.0
_OF_ADDRESSES = frozenset(
    {"family", "proto", "flags", "local_addr", "happy_eyeballs_delay", "interleave", "all_errors"}
)


def hand_over(broker: socket.socket) -> socket.socket:
    """Answers one message with a stream; returns the proxy's end of it.

    Raises:
        OSError: the worker cannot take it now.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with theirs:
            socket.send_fds(broker, [_TAKE], [theirs.fileno()], socket.MSG_DONTWAIT)
    except OSError:
        ours.close()
        raise
    return ours


async def serve_asks(broker: socket.socket, begin: Callable[[socket.socket], None]) -> None:
    """Hands out streams until the last worker that holds the other end is gone. begin: gets the proxy's ends."""
    loop = asyncio.get_running_loop()
    with broker, suppress(ConnectionError):
        while await loop.sock_recv(broker, _MESSAGE_BYTES) or not _is_hung_up(broker):
            try:
                begin(hand_over(broker))
            except OSError:  # no descriptor is left, or nobody takes what was handed out before
                await asyncio.sleep(_AGAIN_S)


def _is_hung_up(broker: socket.socket) -> bool:
    """Whether nobody holds the other end: an empty message reads as the end does."""
    poll = select.poll()
    poll.register(broker, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


class _Stream(socket.socket):
    """Takes the options that clients set on TCP sockets, which mean nothing here."""

    def setsockopt(self, level: int, *rest: Any) -> None:
        """As socket.setsockopt, but for TCP's."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *rest)


def open_stream(broker: socket.socket, patience_s: float = _PATIENCE_S) -> socket.socket:
    """A stream to the proxy. The broker may be shared with other processes, so its mode is left alone.

    Raises:
        OSError: the proxy is gone, or does not answer in time.
    """
    deadline = time.monotonic() + patience_s
    while True:
        broker.send(_ASK)
        stream = _receive(broker, deadline)
        if not _is_over(stream):
            return stream
        stream.close()  # asked for by a worker that died since


def _receive(broker: socket.socket, deadline: float) -> socket.socket:
    poll = select.poll()
    poll.register(broker, select.POLLIN)
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("the egress proxy handed out no connection in time")
        try:
            data, descriptors, _, _ = socket.recv_fds(broker, _MESSAGE_BYTES, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue  # another worker took it
        if descriptors:
            os.set_inheritable(descriptors[0], False)
            return _Stream(fileno=descriptors[0])
        if not data:
            raise ConnectionResetError("the egress proxy has ended")


def _is_over(stream: socket.socket) -> bool:
    try:
        return stream.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


def install(broker: socket.socket, proxy_port: int) -> None:
    """From here on, this process reaches 127.0.0.1:proxy_port, the proxy of its environment, through the broker.

    For a worker, once, at its start: it replaces `BaseEventLoop.create_connection` and `socket.create_connection`.
    """
    _install_asyncio(broker, proxy_port)
    _install_blocking(broker, proxy_port)


def _install_asyncio(broker: socket.socket, proxy_port: int) -> None:
    original = asyncio.BaseEventLoop.create_connection

    async def create_connection(
        self: asyncio.BaseEventLoop, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        if not _is_proxy(host, port, proxy_port):
            return await original(self, protocol_factory, host, port, **options)
        stream = await self.run_in_executor(None, open_stream, broker)
        stream.setblocking(False)
        kept = {name: value for name, value in options.items() if name not in _OF_ADDRESSES}
        return await original(self, protocol_factory, sock=stream, **kept)

    asyncio.BaseEventLoop.create_connection = create_connection  # type: ignore[method-assign]


def _install_blocking(broker: socket.socket, proxy_port: int) -> None:
    original = socket.create_connection

    def create_connection(address: Any, timeout: Any = ..., *rest: Any, **options: Any) -> socket.socket:
        host, port = address[:2]
        if not _is_proxy(host, port, proxy_port):
            return original(address, *(() if timeout is ... else (timeout, *rest)), **options)
        stream = open_stream(broker)
        said = timeout is None or isinstance(timeout, (int, float))
        stream.settimeout(timeout if said else socket.getdefaulttimeout())
        return stream

    socket.create_connection = create_connection


def _is_proxy(host: Any, port: Any, proxy_port: int) -> bool:
    return host in ("127.0.0.1", b"127.0.0.1") and port == proxy_port

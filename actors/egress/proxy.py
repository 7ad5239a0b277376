"""The egress proxy: the only way out for confined processes, one token each.

It serves listening sockets that were made where the confined processes are (in their network namespace), and
connects from here. A child gets `HTTPS_PROXY=http://sage:TOKEN@127.0.0.1:PORT`. It speaks CONNECT, and plain HTTP
to hosts of this network; see connection.py for the way of a request, rules.py for what is allowed.

    proxy = EgressProxy(report)
    stop = proxy.serve(listener)
    token = proxy.grant(rules, "run-1/fetch")
    ...
    proxy.revoke(token)         # its open tunnels are cut
    proxy.close()
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from sage_actors.actors.clock import Clock, SystemClock
from sage_actors.actors.egress.broker import serve_asks
from sage_actors.actors.egress.connection import Connection, Grant, Timeouts
from sage_actors.actors.egress.decisions import Decision, DecisionLog, Report
from sage_actors.actors.egress.doorman import new_token
from sage_actors.actors.egress.gate import Gate
from sage_actors.actors.egress.http import Refusal, Streams
from sage_actors.actors.egress.lookups import Lookups
from sage_actors.actors.egress.rules import Rule

__all__ = ["Decision", "EgressProxy", "Rule", "resolve_all"]

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 1024  # with two descriptors each
_MAX_PER_GRANT = 256
_MAX_WITHOUT_REQUEST = 256  # above, the oldest is dropped: whoever means it sends its request at once
_BUFFER_BYTES = 64 * 1024  # of each direction, before its sender is held back
_ACCEPT_AGAIN_S = 0.1
_JOIN_S = 5.0
_RETRY_S = 1.0


def resolve_all(host: str, port: int) -> list[str]:
    """Every address of a name, as the system resolves it.

    Raises:
        OSError: it cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def open_stream(address: str, port: int) -> Streams:
    """A connection to an address; no name is resolved here."""
    return await asyncio.open_connection(address, port, limit=_BUFFER_BYTES)


class EgressProxy:
    """One thread with an event loop of its own, from the first `serve` to `close`. Methods: from any thread.

    Args:
        on_decision: gets every `Decision` in the proxy's thread, and must not block. A connection whose "allow" it
            could not take (it raised) is refused.
        resolve: the addresses of a host and port; it may block, and raises OSError. It is called for hosts that a
            rule names only.
        gate: the breaker and its rate limits; None lets all through.
        connect: opens a stream to a checked address.
    """

    def __init__(
        self,
        on_decision: Report,
        *,
        resolve: Callable[[str, int], Sequence[str]] = resolve_all,
        gate: Gate | None = None,
        clock: Clock | None = None,
        timeouts: Timeouts | None = None,
        connect: Callable[[str, int], Awaitable[Streams]] = open_stream,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.gate = gate
        self.connect = connect
        self.log = DecisionLog(on_decision, (clock or SystemClock()).monotonic)
        self.lookups = Lookups(resolve)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._grants: dict[str, tuple[str, Grant]] = {}  # name -> (secret, grant)
        self._max_connections = min(_MAX_CONNECTIONS, _descriptors() // 4)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unheard: dict[
            asyncio.Task[Any], None
        ] = {}  # in order of arrival; their request is not read yet
        self._listeners: dict[int, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    # Grants

    def grant(self, rules: Iterable[Rule], label: str) -> str:
        """A token that opens these rules, and no others, until it is revoked. label: of its decisions."""
        token = new_token()
        self.adopt(token, rules, label)
        return token

    def adopt(self, token: str, rules: Iterable[Rule], label: str) -> None:
        """Opens these rules for a token that somebody else made, as `new_token` makes them."""
        name, _, secret = token.partition("-")
        with self._lock:
            self._grants[name] = (secret, Grant(tuple(rules), label))

    def revoke(self, token: str) -> None:
        """Ends a grant, and soon all connections under it. One that is not known does nothing."""
        with self._lock:
            found = self._find(token)
            if found is None:
                return
            del self._grants[token.partition("-")[0]]
        self._post(self._cut, found)

    def _find(self, token: str) -> Grant | None:
        """Under the lock. Only the secret is secret: it is compared in constant time."""
        name, _, secret = token.partition("-")
        known, grant = self._grants.get(name, ("", None))
        same = hmac.compare_digest(known.encode(), secret.encode("utf-8", "replace"))
        return grant if same and known else None

    def _cut(self, grant: Grant) -> None:
        for task in grant.tasks:
            task.cancel()
        self.log.forget(grant.label)

    # Serving

    def serve(self, listener: socket.socket) -> Callable[[], None]:
        """Serves a listening stream socket, which is the proxy's from here on. The answer ends that again.

        Raises:
            RuntimeError: the proxy was closed.
            ValueError: the socket does not listen.
        """
        if self._closed:
            raise RuntimeError("the egress proxy was closed")
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("the socket does not listen")
        return self._serve_by(listener, self._accept)

    def serve_broker(self, broker: socket.socket) -> Callable[[], None]:
        """Hands streams out to workers that may make no sockets (see broker.py). As `serve` otherwise."""
        if self._closed:
            raise RuntimeError("the egress proxy was closed")
        return self._serve_by(broker, self._hand_out)

    def _serve_by(
        self, source: socket.socket, serve: Callable[[socket.socket], Coroutine[Any, Any, None]]
    ) -> Callable[[], None]:
        key = next(self._numbers)
        self._listeners[key] = self._ask(self._start(source, serve))
        return lambda: self._post(self._stop_accepting, key)

    def close(self) -> None:
        """Cuts everything, and ends the thread. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None and self._thread is not None:
            with suppress(TimeoutError):
                self._ask(self._shut_down())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_JOIN_S)

    async def _start(
        self, source: socket.socket, serve: Callable[[socket.socket], Coroutine[Any, Any, None]]
    ) -> asyncio.Task[None]:
        source.setblocking(False)
        return asyncio.create_task(serve(source))

    def _stop_accepting(self, key: int) -> None:
        task = self._listeners.pop(key, None)
        if task is not None:
            task.cancel()

    async def _shut_down(self) -> None:
        listeners = list(self._listeners.values())
        for key in list(self._listeners):
            self._stop_accepting(key)
        await asyncio.gather(*listeners, return_exceptions=True)
        await asyncio.sleep(0)  # a task that was cancelled before it began would not close its socket
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ask(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs it in the proxy's thread, which is started for the first."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="egress", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_JOIN_S)

    def _post(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._closed:
            self._loop.call_soon_threadsafe(call, *arguments)

    # In the proxy's thread

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    client, _ = await loop.sock_accept(listener)
                except OSError:  # no descriptor is left, or that client is gone already
                    await asyncio.sleep(_ACCEPT_AGAIN_S)
                    continue
                self._begin(client)

    async def _hand_out(self, broker: socket.socket) -> None:
        await serve_asks(broker, self._begin)

    def _begin(self, client: socket.socket) -> None:
        task = asyncio.create_task(self._serve(client))
        self._tasks.add(task)
        self._unheard[task] = None
        task.add_done_callback(self._ended)
        if len(self._unheard) > _MAX_WITHOUT_REQUEST:
            oldest = next(iter(self._unheard))
            del self._unheard[oldest]
            oldest.cancel()

    async def _serve(self, client: socket.socket) -> None:
        streams = await asyncio.open_connection(sock=client, limit=_BUFFER_BYTES)
        await Connection(self, *streams).serve()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._unheard.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection of the egress proxy failed", exc_info=error)

    def admit(self, token: str) -> Grant:
        """See `Services`."""
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            grant = self._find(token)
        if grant is None:
            raise Refusal(407, "the proxy knows no such token: it was revoked, or never given", kind="denied")
        self._unheard.pop(task, None)
        heard = len(self._tasks) - len(self._unheard)
        if len(grant.tasks) >= _MAX_PER_GRANT or heard > self._max_connections:
            raise Refusal(503, "too many connections at once", kind="waiting", retry_after_s=_RETRY_S)
        grant.tasks.add(task)
        task.add_done_callback(grant.tasks.discard)
        return grant


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _descriptors() -> int:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MAX_CONNECTIONS * 4 if soft == resource.RLIM_INFINITY else soft

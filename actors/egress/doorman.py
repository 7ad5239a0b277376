"""Opens the egress proxy at the first connection: most runs never go out, and asyncio alone takes long to load."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from sage_actors.actors.egress.rules import Rule

__all__ = ["PROXY_PORT", "Doorman", "Proxy", "broker_pair", "new_token", "proxy_url"]

PROXY_PORT = 3128
"""Of the proxy, inside the network namespace, where nothing else listens."""


def new_token() -> str:
    """NAME-SECRET: the first part finds a grant, the second is compared in constant time."""
    return f"{secrets.token_hex(8)}-{secrets.token_hex(24)}"


def proxy_url(token: str, port: int = PROXY_PORT) -> str:
    """What goes into `HTTP_PROXY` and `HTTPS_PROXY` of the holder of this token."""
    return f"http://sage:{token}@127.0.0.1:{port}"


def broker_pair() -> tuple[socket.socket, socket.socket]:
    """(the proxy's end, for `serve_broker`; the end that workers inherit): see broker.py."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Proxy(Protocol):
    """What is opened: see proxy.py."""

    def adopt(self, token: str, rules: Sequence[Rule], label: str) -> None: ...
    def revoke(self, token: str) -> None: ...
    def serve(self, listener: socket.socket) -> Callable[[], None]: ...
    def serve_broker(self, broker: socket.socket) -> Callable[[], None]: ...
    def close(self) -> None: ...


class Doorman:
    """Makes tokens, and remembers them for the proxy that `make` makes when the first listener is `knocked` at."""

    def __init__(self, make: Callable[[], Proxy]) -> None:
        self._make = make
        self._proxy: Proxy | None = None
        self._grants: dict[str, tuple[tuple[Rule, ...], str]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def grant(self, rules: Sequence[Rule], label: str) -> str:
        """A token that opens these rules until it is revoked. label: of its decisions in the audit log."""
        token = new_token()
        with self._lock:
            if self._proxy is None:
                self._grants[token] = tuple(rules), label
            else:
                self._proxy.adopt(token, rules, label)
        return token

    def revoke(self, token: str) -> None:
        """Ends a grant, and the connections under it. One that is not known does nothing."""
        with self._lock:
            self._grants.pop(token, None)
            if self._proxy is not None:
                self._proxy.revoke(token)

    def knocked(self, listener: socket.socket) -> None:
        """Somebody wants to go out at this listener or broker: it is the proxy's from here on."""
        with self._lock:
            if self._closed:
                listener.close()
                return
            if self._proxy is None:
                self._proxy = self._make()
                for token, (rules, label) in self._grants.items():
                    self._proxy.adopt(token, rules, label)
                self._grants.clear()
            if listener.type == socket.SOCK_SEQPACKET:
                self._proxy.serve_broker(listener)
            else:
                self._proxy.serve(listener)

    def close(self) -> None:
        """Cuts everything. A second call does nothing."""
        with self._lock:
            self._closed = True
            if self._proxy is not None:
                self._proxy.close()

"""A worker that may make no sockets, as a program: `egress_broker_worker.py DESCRIPTOR PROXY_URL CA URL...`.

Prints one JSON line for each way of asking for each URL: [way, URL, status or error].
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import httpx
import httpx2

from sage_actors.actors.egress.broker import install
from sage_actors.sandbox import kernel, seccomp

_NO_NEW_PRIVS = 38


def confine() -> None:
    """No sockets for this thread, nor for those that it starts."""
    kernel.prctl(_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.program(sockets=False, namespaces=False, own_pids=False))


def with_httpx(url: str, proxy: str, context: ssl.SSLContext) -> int:
    return httpx.get(url, proxy=proxy, verify=context, trust_env=False).status_code


def with_async_httpx(url: str, proxy: str, context: ssl.SSLContext) -> int:
    async def ask() -> int:
        async with httpx.AsyncClient(proxy=proxy, verify=context, trust_env=False) as client:
            return (await client.get(url)).status_code

    return asyncio.run(ask())


def with_async_httpx2(url: str, proxy: str, context: ssl.SSLContext) -> int:
    async def ask() -> int:
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        transport = httpx2.AsyncHTTPTransport(
            proxy=httpx2.Proxy(proxy), verify=context, socket_options=options
        )
        async with httpx2.AsyncClient(transport=transport) as client:
            return (await client.get(url)).status_code

    return asyncio.run(ask())


def with_urllib(url: str, proxy: str, context: ssl.SSLContext) -> int:
    handlers = [urllib.request.ProxyHandler({"http": proxy, "https": proxy})]
    opener = urllib.request.build_opener(*handlers, urllib.request.HTTPSHandler(context=context))
    return int(opener.open(url, timeout=10).status)


def with_a_socket(url: str, proxy: str, context: ssl.SSLContext) -> int:
    socket.socket().close()
    return 0


def with_a_direct_connection(url: str, proxy: str, context: ssl.SSLContext) -> int:
    parts = httpx.URL(url)
    socket.create_connection(("127.0.0.1", parts.port or 443)).close()
    return 0


def with_curl(url: str, proxy: str, context: ssl.SSLContext) -> int:
    return subprocess.run(["curl", "-s", "-o", "/dev/null", "-x", proxy, url], check=True).returncode


WAYS: list[Callable[[str, str, ssl.SSLContext], int]] = [
    with_httpx, with_async_httpx, with_async_httpx2, with_urllib,
    with_a_socket, with_a_direct_connection, with_curl,
]  # fmt: skip


def main() -> None:
    descriptor, proxy, certificates, *urls = sys.argv[1:]
    context = ssl.create_default_context(cafile=certificates)
    confine()
    port = httpx.URL(proxy).port
    assert port is not None
    install(socket.socket(fileno=int(descriptor)), port)
    for url in urls:
        for way in WAYS:
            answer: Any
            try:
                answer = way(url, proxy, context)
            except Exception as error:  # noqa: BLE001  whatever it is, it is what this way leads to
                answer = f"{type(error).__name__}: {error}"
            print(json.dumps([way.__name__, url, answer]), flush=True)


if __name__ == "__main__":
    main()

"""HTTP servers that misbehave: bodies without bounds, compressed ones, redirects to somewhere else."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mcp_harness import McpProject, with_sessions

INITIALIZED = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "odd", "version": "1"},
}


class Odd(BaseHTTPRequestHandler):
    """Answers with JSON; the tool's name says how it misbehaves."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})  # type: ignore[attr-defined]
        method, number = message["method"], message.get("id")
        if number is None:
            self._send(202, b"")
        elif method == "initialize":
            self._answer(number, INITIALIZED)
        elif method == "tools/list":
            self._answer(number, {"tools": []})
        elif method == "tools/call":
            getattr(self, message["params"]["name"])(number)
        else:
            error = {"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "no"}}
            self._send(200, json.dumps(error).encode())

    def do_GET(self) -> None:
        self._send(405, b"")

    do_DELETE = do_GET

    def fine(self, number: int) -> None:
        self._answer(number, {"content": [{"type": "text", "text": "fine"}]})

    def endless(self, number: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" " * (1 << 20))
        except OSError:
            pass
        self.close_connection = True

    def bomb(self, number: int) -> None:
        self._send(200, gzip.compress(b" " * (64 << 20)), "content-encoding", "gzip")

    def event(self, number: int) -> None:
        self._send(200, b"data: " + b"x" * (18 << 20) + b"\n\n", kind="text/event-stream")

    def elsewhere(self, number: int) -> None:
        url = self.server.other  # type: ignore[attr-defined]
        self._send(307, b"", "location", url)

    def _answer(self, number: int, result: Any) -> None:
        self._send(200, json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode())

    def _send(self, status: int, body: bytes, *header: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if header:
            self.send_header(*header)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # the client had enough
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def serving() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.daemon_threads = True
    server.seen = []
    server.url = f"http://127.0.0.1:{server.server_port}/mcp"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def odd() -> Iterator[Any]:
    with serving() as server:
        yield server


def errors(mcp: McpProject, server: Any, *tools: str) -> list[Any]:
    """The error of each tool, and that the server is still of use."""
    mcp.configure({"odd": {"type": "http", "url": server.url, "headers": {"X-Key": "secret"}}})

    async def body() -> list[Any]:
        found = [await mcp.error("odd", tool) for tool in tools]
        assert await mcp.call("odd", "fine") == "fine"
        return found

    found: list[Any] = with_sessions(mcp.project, body)
    return found


@pytest.mark.parametrize("tool", ["endless", "event"])
def test_a_body_without_bounds_is_refused(tmp_path: Path, odd: Any, tool: str) -> None:
    (error,) = errors(McpProject(tmp_path), odd, tool)
    assert (type(error).__name__, error.retryable) == ("LimitExceeded", False)
    assert "16777216 byte limit" in str(error)


def test_a_compressed_body_that_nobody_asked_for_is_refused(tmp_path: Path, odd: Any) -> None:
    (error,) = errors(McpProject(tmp_path), odd, "bomb")
    assert "compressed (gzip)" in str(error)


def test_headers_do_not_follow_a_redirect_to_another_server(tmp_path: Path, odd: Any) -> None:
    with serving() as other:
        odd.other = other.url
        (error,) = errors(McpProject(tmp_path), odd, "elsewhere")
        assert "not followed" in str(error)
        assert not other.seen
    assert all(headers["x-key"] == "secret" for headers in odd.seen)
    assert {headers["accept-encoding"] for headers in odd.seen} == {"identity"}

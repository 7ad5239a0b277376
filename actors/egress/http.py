"""HTTP/1.1 as the egress proxy speaks it: a request's head, the answer of the proxy itself, one plain exchange.

Messages are parsed and written anew by h11, so that what the proxy checked is what the other side reads. A client
connection carries one request; the answer says `Connection: close`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import h11

from sage_actors.actors.egress.rules import join_authority, split_authority

__all__ = [
    "MARK",
    "READ_BYTES",
    "Headers",
    "Refusal",
    "Streams",
    "exchange",
    "flush",
    "new_parser",
    "read_request",
    "target_of",
    "token_of",
]

Headers: TypeAlias = list[tuple[bytes, bytes]]
Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MARK = "X-Sage-Egress"
"""The header by which the proxy's own answers are told from those of the hosts behind it."""

READ_BYTES = 64 * 1024
_HEAD_READ_BYTES = 4 * 1024
_HEAD_BYTES = 12 * 1024  # and what one read adds: 16 KB at most
_ANSWER_HEAD_BYTES = 64 * 1024
_ABSOLUTE = re.compile(rb"http://([^/?#]*)([^#]*)", re.IGNORECASE)
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", MARK.lower().encode()}
)


class Refusal(Exception):
    """What the proxy answers in place of the host.

    kind: "denied" for what rules forbid (then `hint` says what to add), "failed" for what did not work.
    """

    def __init__(
        self,
        status: int,
        why: str,
        *,
        kind: str = "failed",
        hint: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(why)
        self.status, self.why, self.kind, self.hint, self.retry_after_s = (
            status,
            why,
            kind,
            hint,
            retry_after_s,
        )

    def answer(self, host: str, port: int) -> bytes:
        """The whole response. Its reason phrase is what most clients show of a refused CONNECT."""
        told = {
            "error": f"egress_{self.kind}",
            "why": self.why,
            "host": host,
            "port": port,
            "hint": self.hint,
        }
        body = json.dumps(told).encode() + b"\n"
        said = "; ".join(filter(None, (self.why, self.hint)))
        phrase = re.sub(
            r"[^ -~]",
            "?",
            f"egress {self.kind}: " + (f"{join_authority(host, port)}: {said}" if host else said),
        )
        lines = [
            f"HTTP/1.1 {self.status} {phrase[:500]}",
            f"{MARK}: {self.kind}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        if self.status == 407:
            lines.append('Proxy-Authenticate: Basic realm="sage-actors"')
        if self.retry_after_s is not None:
            lines.append(f"Retry-After: {max(1, round(self.retry_after_s))}")
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def new_parser() -> h11.Connection:
    """The proxy's side of a connection with a client."""
    return h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)


async def read_request(parser: h11.Connection, reader: asyncio.StreamReader) -> h11.Request:
    """The head of a client's request.

    Raises:
        Refusal: it is malformed, or too large.
        ConnectionError: the client left without a request.
    """
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as cause:
            raise Refusal(cause.error_status_hint, str(cause)) from cause
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            raise ConnectionResetError("the client left")
        parser.receive_data(await reader.read(_HEAD_READ_BYTES))


def token_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The password of the one `Proxy-Authorization: Basic`; "" if there is none, or anything else."""
    said = [value for name, value in headers if name == b"proxy-authorization"]
    scheme, _, encoded = said[0].partition(b" ") if len(said) == 1 else (b"", b"", b"")
    if scheme.lower() != b"basic":
        return ""
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return text.partition(":")[2]


def target_of(request: h11.Request) -> tuple[str, int, bytes]:
    """(host, port, path) of a request; the path is b"" for CONNECT.

    Raises:
        Refusal: it is neither CONNECT nor in absolute form, or says its host in an odd way.
    """
    if request.method == b"CONNECT":
        return *_authority(request.target, None), b""
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None:
        raise Refusal(400, "this is a proxy: say CONNECT host:port, or a whole http:// URL")
    path = match[2] if match[2].startswith(b"/") else b"/" + match[2]
    return *_authority(_with_brackets(match[1], request.headers), 80), path


def _with_brackets(authority: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """httpcore writes `http://::1:8080/` for an IPv6 address, with brackets in its Host header only."""
    host = dict(headers).get(b"host", b"")
    return host if host.replace(b"[", b"").replace(b"]", b"") == authority else authority


def _authority(text: bytes, default_port: int | None) -> tuple[str, int]:
    try:
        return split_authority(text.decode("ascii"), default_port=default_port)
    except ValueError as cause:  # also for bytes that are not ASCII
        raise Refusal(400, str(cause)) from cause


async def exchange(
    parser: h11.Connection,
    request: h11.Request,
    path: bytes,
    authority: bytes,
    client: Streams,
    upstream: Streams,
    progress: Callable[[int, int], None],
) -> None:
    """Passes one request on, and its response back. path, authority: what the host gets as its target and `Host`.
    progress: bytes sent and received, as they pass.

    Raises:
        OSError, h11.ProtocolError: either side broke off, or broke the protocol.
    """
    side = h11.Connection(h11.CLIENT, max_incomplete_event_size=_ANSWER_HEAD_BYTES)
    asked = [each for each in request.headers if each[0] not in (b"host", b"proxy-authorization")]
    head = h11.Request(method=request.method, target=path, headers=[(b"host", authority), *_passed_on(asked)])
    await _send(upstream[1], side.send(head), lambda count: progress(count, 0))
    sending = asyncio.create_task(_pass_request(parser, side, client[0], upstream[1], progress))
    receiving = asyncio.create_task(_pass_response(parser, side, client[1], upstream[0], progress))
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            receiving.result()
        else:
            sending.result()  # it only ever ends by an error
    finally:
        for task in (sending, receiving):
            task.cancel()
            with suppress(asyncio.CancelledError, OSError, h11.ProtocolError):
                await task


async def _pass_request(
    parser: h11.Connection,
    side: h11.Connection,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    progress: Callable[[int, int], None],
) -> None:
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, (h11.Data, h11.EndOfMessage)):
            await _send(writer, side.send(event), lambda count: progress(count, 0))
        else:
            break
    while await reader.read(READ_BYTES):
        pass  # a second request on this connection: it was told that there will be no answer
    raise ConnectionResetError("the client left before the answer")


async def _pass_response(
    parser: h11.Connection,
    side: h11.Connection,
    writer: asyncio.StreamWriter,
    reader: asyncio.StreamReader,
    progress: Callable[[int, int], None],
) -> None:
    while True:
        event: Any = side.next_event()
        if event is h11.NEED_DATA:
            side.receive_data(await reader.read(READ_BYTES))
            continue
        if isinstance(event, h11.Response):
            event = h11.Response(
                status_code=event.status_code, reason=event.reason, headers=_passed_on(event.headers)
            )
        elif not isinstance(event, (h11.InformationalResponse, h11.Data, h11.EndOfMessage)):
            raise ConnectionResetError("the host left before its answer was complete")
        await _send(writer, parser.send(event), lambda count: progress(0, count))
        if isinstance(event, h11.EndOfMessage):
            return


def _passed_on(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """End-to-end headers (RFC 9110, 7.6.1) only."""
    headers = list(headers)
    named = {
        each.strip().lower() for name, value in headers if name == b"connection" for each in value.split(b",")
    }
    named -= {b"content-length", b"transfer-encoding", b"host"}
    if any(name == b"transfer-encoding" for name, _ in headers):
        named.add(b"content-length")  # who heeds this one would end the message elsewhere (RFC 9112, 6.3)
    kept = [(name, value) for name, value in headers if name not in _HOP_BY_HOP and name not in named]
    return [*kept, (b"connection", b"close")]


async def flush(writer: asyncio.StreamWriter) -> None:
    """Waits until all is with the kernel: what is left when a connection is aborted is lost."""
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


async def _send(writer: asyncio.StreamWriter, data: bytes | None, count: Callable[[int], None]) -> None:
    if data:
        writer.write(data)
        count(len(data))
        await writer.drain()

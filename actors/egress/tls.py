"""The server name in a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3). Pure.

    record:  16 | version 2 | length 2 | fragment of a handshake message
    message: 01 | length 3 | version 2 | random 32 | session <1> | suites <2> | compressions <1> | extensions <2>
    extension 0: list <2> of: type 00 | name <2>            <n>: that many bytes of length before it

A client may spread the message over many records, and records over many segments.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HANDSHAKE", "MAX_HELLO_BYTES", "ClientHello", "NotTls", "read_hello"]

HANDSHAKE = 0x16
MAX_HELLO_BYTES = 16 * 1024  # with post-quantum key shares they have 2 KB
_MAX_RECORDS = 64  # so that a byte at a time is no work
_MAX_RECORD_BYTES = 2**14
_CLIENT_HELLO = 1
_SERVER_NAME = 0


class NotTls(ValueError):
    """These bytes begin no well-formed ClientHello."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """server_name: as sent, None without one."""

    server_name: str | None


def read_hello(data: bytes) -> ClientHello | None:
    """The ClientHello that `data` begins with; None while it is not complete.

    Raises:
        NotTls: it will never be one, or is longer than `MAX_HELLO_BYTES`.
    """
    message = _handshake(data)
    if message[:1] and message[0] != _CLIENT_HELLO:
        raise NotTls("the first message is no ClientHello")
    size = 4 + int.from_bytes(message[1:4], "big") if len(message) >= 4 else None
    if len(data) > MAX_HELLO_BYTES or (size or 0) > MAX_HELLO_BYTES:
        raise NotTls("the ClientHello is too long")
    if size is None or len(message) < size:
        return None
    return ClientHello(_server_name(_Fields(message[4:size])))


def _handshake(data: bytes) -> bytes:
    """The fragments of all complete handshake records at the start of `data`."""
    message, position, records = bytearray(), 0, 0
    while position < len(data):
        records += 1
        if records > _MAX_RECORDS:
            raise NotTls("the ClientHello has too many records")
        if data[position] != HANDSHAKE or data[position + 1 : position + 2] not in (b"", b"\x03"):
            raise NotTls("this is no TLS handshake")
        header = data[position : position + 5]
        length = int.from_bytes(header[3:], "big")
        if len(header) == 5 and not 0 < length <= _MAX_RECORD_BYTES:
            raise NotTls("a record has an impossible length")
        end = position + 5 + length
        if len(header) < 5 or len(data) < end:
            break
        message += data[position + 5 : end]
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            break
        position = end
    return bytes(message)


class _Fields:
    """Reads fields off the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        start, self._position = self._position, self._position + count
        if self._position > len(self._data):
            raise NotTls("the ClientHello ends within a field")
        return self._data[start : self._position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> _Fields:
        return _Fields(self.take(self.number(size)))


def _server_name(hello: _Fields) -> str | None:
    hello.take(2 + 32)
    for size in (1, 2, 1):  # session, cipher suites, compressions
        hello.vector(size)
    found: list[str] = []
    extensions = hello.vector(2) if hello else _Fields(b"")
    while extensions:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind == _SERVER_NAME:
            found += _names(body)
    if len(found) > 1:
        raise NotTls("the ClientHello has several server names")
    return found[0] if found else None


def _names(extension: _Fields) -> list[str]:
    names, out = extension.vector(2), []
    while names:
        if names.number(1) != 0:
            raise NotTls("the ClientHello has a server name of an unknown kind")
        out.append(names.take(names.number(2)).decode("latin-1"))
    return out

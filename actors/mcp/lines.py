"""A stream of bytes cut into lines, with bounded memory: a line that is too long keeps its two ends only.

JSON-RPC over stdio is one message a line. A server may send a line of any length; what is too long is skipped
while it arrives, and its ends still tell whose answer it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["LineSplitter", "LongLine"]

_END_BYTES = 256
_MEMBER = rb'"jsonrpc"\s*:\s*"2\.0"\s*,\s*'
_ID_FIRST = re.compile(rb"\s*\{\s*(?:" + _MEMBER + rb')?"id"\s*:\s*(\d{1,18})\s*,')
# One brace at the end of the line closes the message itself, so this is the message's own id.
_ID_LAST = re.compile(rb'"id"\s*:\s*(\d{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line of `size_bytes` of which only the first and last bytes were kept."""

    head: bytes
    tail: bytes
    size_bytes: int

    @property
    def message_id(self) -> int | None:
        """The id of the JSON-RPC message that it was, where one of its ends says it."""
        match = _ID_FIRST.match(self.head) or _ID_LAST.search(self.tail)
        return None if match is None else int(match.group(1))


class LineSplitter:
    """`feed` it chunks; it gives the lines that they complete, without their ends."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._head: bytes | None = None  # of a line that is beyond the limit
        self._tail = b""

    def feed(self, chunk: bytes) -> list[bytes | LongLine]:
        *ended, rest = chunk.split(b"\n")
        lines: list[bytes | LongLine] = []
        for part in ended:
            self._add(part)
            lines.append(self._take())
        self._add(rest)
        return lines

    def end(self) -> list[bytes | LongLine]:
        """What came after the last line's end."""
        return [self._take()] if self._size else []

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._head is not None:
            self._tail = (self._tail + part)[-_END_BYTES:]
            return
        self._parts.append(part)
        if self._size > self._limit:
            line = b"".join(self._parts)
            self._head, self._tail = line[:_END_BYTES], line[-_END_BYTES:]
            self._parts = []

    def _take(self) -> bytes | LongLine:
        if self._head is not None:
            line: bytes | LongLine = LongLine(self._head, self._tail, self._size)
        else:
            line = b"".join(self._parts)
        self._parts, self._size, self._head, self._tail = [], 0, None, b""
        return line

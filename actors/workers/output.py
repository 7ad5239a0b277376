"""What operations print: captured at the descriptors, told apart by attempt, limited in size.

In a worker the descriptors 1 and 2 are pipes whose other ends the worker holds itself (and the pool, as
duplicates: what a crashed worker left unread is evidence). So Python, C code and child processes are all
caught, and a line is out of the process before the next statement can crash it.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import select
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sage_actors.actors.workers.redaction import Redactor

__all__ = ["ATTEMPT_CAP_BYTES", "UNKNOWN", "AttributedStream", "LogBook", "OutputPipes", "safe_text"]

Key = tuple[int, int, int]
UNKNOWN: Key = (-1, -1, -1)
ATTEMPT_CAP_BYTES = 1024 * 1024
_CHUNK = 65536
_GAP = re.compile(r"[\s\"',;&|<>()]")
_GAP_CHARS = 4096  # beyond the cap, until the next gap


def safe_text(text: str) -> str:
    """`text` without lone surrogates, which msgpack cannot carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class LogBook:
    """Rows for LOGS frames, at most `cap_bytes` of text an attempt; then one line says so. They hold no secrets."""

    def __init__(self, redactor: Redactor | None = None, *, cap_bytes: int = ATTEMPT_CAP_BYTES) -> None:
        self.rows: list[list[Any]] = []
        self.redactor = redactor or Redactor()
        self._cap = cap_bytes
        self._sizes: dict[Key, int] = {}

    def add(self, key: Key, stream: str, text: str) -> None:
        before = self._sizes.get(key, 0)
        if before > self._cap + _GAP_CHARS:
            return
        after = before + len(text)
        self._sizes[key] = after
        if after > self._cap and (end := self._end(text, self._cap - before)) is not None:
            self._sizes[key] = self._cap + _GAP_CHARS + 1
            text = text[:end] + f"\n[output cut: more than {self._cap} characters]\n"
        self.rows.append([*key, stream, text])

    def _end(self, text: str, most: int) -> int | None:
        """Where to cut a text that is longer than `most`: between two words, as half a secret would not be known for
        one. None: that is not in it."""
        gap = _GAP.search(text, max(0, most))
        last = most + _GAP_CHARS
        return min(gap.start(), last) if gap else last if len(text) > last else None

    def end(self, key: Key) -> None:
        """The attempt is over: its count is not needed any more, and no line of it waits for its end."""
        if self._sizes and self._sizes.pop(key, None) is not None:
            self.rows.append([*key, "", ""])

    def take(self) -> list[list[Any]]:
        """All rows so far, redacted; the book is empty afterwards. Safe beside `add`, not beside itself."""
        count = len(self.rows)
        rows = self.rows[:count]
        del self.rows[:count]
        return self.redactor.rows(rows)


class OutputPipes:
    """The read ends of this process's own standard output and error."""

    def __init__(self, out_fd: int, err_fd: int, book: LogBook) -> None:
        self.fds = (out_fd, err_fd)
        self._book = book
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._streams: dict[int, tuple[str, codecs.IncrementalDecoder]] = {}
        for fd, name in ((out_fd, "stdout"), (err_fd, "stderr")):
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLIN)
            self._streams[fd] = (name, codecs.getincrementaldecoder("utf-8")("replace"))

    def install(self) -> None:
        """Makes sys.stdout and sys.stderr write to the pipes line by line."""
        self._stdout = _MarkedStream(1)
        self._stderr = _MarkedStream(2)
        sys.stdout = sys.__stdout__ = self._stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._stderr  # type: ignore[misc]

    @property
    def is_marked(self) -> bool:
        """Whether Python code printed since the last `settle`. Costs no system call."""
        return self._stdout.marked or self._stderr.marked

    def settle(self, key: Key) -> None:
        """Books everything that was printed until now under `key`."""
        if self.is_marked:
            try:
                self._stdout.flush()
                self._stderr.flush()
                self._stdout.marked = self._stderr.marked = False
            except (OSError, ValueError):  # the operation closed it
                self.install()
        with self._lock:
            if self._poll.poll(0):
                self._read_all(lambda: key)

    def drain(self, key_now: Callable[[], Key]) -> None:
        """Books what can be read now, under what executes; called in another thread than `settle`.

        Asked after each read: who printed cannot end before its `settle` gets the lock.
        """
        with self._lock:
            self._read_all(key_now)

    def _read_all(self, key_now: Callable[[], Key]) -> None:
        for fd, (name, decoder) in self._streams.items():
            while data := _read(fd):
                text = decoder.decode(data)
                if text:
                    self._book.add(key_now(), name, text)


class AttributedStream(io.TextIOBase):
    """A text stream for async workers: each write is booked under the attempt whose task writes."""

    def __init__(
        self, name: str, fd: int, key: ContextVar[Key], book: LogBook, wake: Callable[[], None]
    ) -> None:
        self._name = name
        self._fd = fd
        self._key = key
        self._book = book
        self._wake = wake
        self.buffer = _AttributedBytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        key = self._key.get(UNKNOWN)
        if key is UNKNOWN:
            os.write(self._fd, text.encode("utf-8", "backslashreplace"))
        elif text:
            first = not self._book.rows
            self._book.add(key, self._name, safe_text(text))
            if first:
                self._wake()
        return len(text)


class _AttributedBytes(io.RawIOBase):
    """The `buffer` of an AttributedStream."""

    def __init__(self, stream: AttributedStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data).decode("utf-8", "replace"))
        return len(data)


class _MarkedStream(io.TextIOWrapper):
    """Text to a descriptor line by line; remembers that something was written."""

    def __init__(self, fd: int) -> None:
        raw = io.BufferedWriter(io.FileIO(fd, "w", closefd=False))
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.marked = False

    def write(self, text: str) -> int:
        self.marked = True
        return super().write(text)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except (BlockingIOError, InterruptedError):
        return b""

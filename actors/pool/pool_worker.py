"""One worker as the pool sees it: its socket, what waits to be sent, and what is known about its state."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from sage_actors.actors.pool.keeper_client import KeeperClient
from sage_actors.actors.pool.protocol import Key, WorkerKind
from sage_actors.actors.pool.watch import LimitWatch
from sage_actors.messages.codec import FrameReader

__all__ = ["WorkerHandle"]

_CHUNK = 64 * 1024  # more is got from the system for each read anew: ten microseconds
_TAIL_LINES = 40
_TAIL_LINE_CHARS = 4000  # the supervisor cuts them, when it has looked for secrets in them
_FATAL = "Fatal Python error"  # the first line of faulthandler
_UNREAD_BYTES = 65536
_CHOKING_BYTES = 32768


class WorkerHandle:
    """Methods that say so are called from any thread, the others in the loop's thread only."""

    def __init__(self, number: int, kind: WorkerKind) -> None:
        self.number = number
        self.kind = kind
        self.pid: int | None = None
        self.ready = False
        self.told = False  # WorkerReady was delivered
        self.lost = False
        self.deaf = False  # its socket is not read any more
        self.launched = False
        self.keeper: KeeperClient | None = None  # which forked it
        self.token: str | None = None  # its right to use the proxy
        self.label = ""  # of its grant
        self.alone: Key | None = None  # the one task that it is for
        self.ending = ""  # why the pool ends it
        self.limit: dict[str, Any] | None = None
        self.culprits: tuple[Key, ...] = ()
        self.blockers: tuple[Key, ...] = ()
        self.heard_at = 0.0  # any frame, monotonic
        self.heartbeat_at = 0.0
        self.overdue = False
        self.peak_bytes = 0
        self.submitted = 0
        self.answered = 0
        self.known_ops: set[int] = set()
        self.limits: dict[Key, dict[str, Any]] = {}
        self.watches: dict[Key, LimitWatch] = {}
        self.inspecting: tuple[int, list[str]] | None = None
        self.bytes_sent = 0
        self.bytes_received = 0
        self.has_more = False  # the last read took all that it was allowed to
        self._tail: deque[tuple[Key, str]] = deque(maxlen=_TAIL_LINES)
        self._reader = FrameReader()
        self._lock = threading.Lock()
        self._outbox = bytearray()
        self._closed = False
        self.socket, self._theirs = socket.socketpair()
        self.socket.setblocking(False)
        self._pipes: list[int] = []
        try:
            for _ in range(2):
                self._pipes.extend(os.pipe())
        except OSError:
            self.close()
            raise
        for fd in self._pipes:
            os.set_blocking(fd, fd in self._pipes[1::2])

    @property
    def busy(self) -> bool:
        """Whether it holds tasks."""
        return self.submitted > self.answered

    @property
    def backlog(self) -> bool:
        """Whether something waits to be sent (any thread)."""
        return bool(self._outbox)

    def child_fds(self) -> list[int]:
        """What the worker owns: socket, write ends, read ends."""
        out_read, out_write, err_read, err_write = self._pipes
        return [self._theirs.fileno(), out_write, err_write, out_read, err_read]

    def close_child_side(self) -> None:
        """Once the keeper has them."""
        self._theirs.close()
        for fd in self._pipes[1::2]:
            os.close(fd)
        self._pipes = self._pipes[0::2]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._outbox.clear()
            self.socket.close()
            self._theirs.close()
            for fd in self._pipes:
                os.close(fd)
            self._pipes = []

    # Sending: any thread

    def send(self, *frames: bytes, tasks: int = 0) -> bool:
        """Sends what the socket takes at once; True if the rest waits for the loop."""
        with self._lock:
            if self._closed:
                return False
            before = bool(self._outbox)
            for data in frames:
                self.bytes_sent += len(data)
                self._outbox += data
            self.submitted += tasks
            return not before and self._push()

    def push(self) -> bool:
        """Sends more of what waits; True if something still does."""
        with self._lock:
            return not self._closed and self._push()

    def _push(self) -> bool:
        try:
            while self._outbox:
                sent = self.socket.send(self._outbox)
                del self._outbox[:sent]
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:  # the worker died: its end is reported by the keeper
            self._outbox.clear()
        return False

    # Receiving

    def frames(self) -> Iterator[tuple[int, Any]]:
        """The frames of one read.

        Raises:
            BlockingIOError: nothing is there. EOFError: the worker closed its end. ProtocolError: see codec.
        """
        try:
            data = self.socket.recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self.bytes_received += len(data)
        self.has_more = len(data) == _CHUNK
        yield from self._reader.feed(data)

    # Evidence

    def remember_lines(self, key: Key, text: str) -> None:
        lines = text.splitlines()
        # A long stack follows such a line: it is said at the end too.
        fatal = [line for line in lines if line.startswith(_FATAL)]
        for line in (*lines[-_TAIL_LINES:], *fatal):
            self._tail.append((key, line[:_TAIL_LINE_CHARS]))

    def settle(self, rows: Sequence[Sequence[Any]]) -> None:
        """These attempts are answered: they are out of any suspicion."""
        self.answered += len(rows)
        if not (self._tail or self.limits):
            return
        keys = {(row[0], row[1], row[2]) for row in rows}
        for key in keys if self.kind != "own" else ():  # the limits of that one hold until it is gone
            self.limits.pop(key, None)
            self.watches.pop(key, None)
        if self._tail:
            self._tail = deque((each for each in self._tail if each[0] not in keys), _TAIL_LINES)

    def is_choking(self) -> bool:
        """Whether an output pipe is nearly full: the worker's own reader is stuck, say behind C code that
        prints without letting go of the interpreter lock, and would never be freed."""
        for fd in self._pipes[:2]:
            waiting = fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0")
            if int.from_bytes(waiting, sys.byteorder) > _CHOKING_BYTES:
                return True
        return False

    def take_unread(self) -> str:
        """What the worker's output pipes hold; read only when the worker itself cannot."""
        texts = []
        for fd in self._pipes[:2]:
            data = b""
            try:
                while chunk := os.read(fd, _UNREAD_BYTES):
                    data = (data + chunk)[-_UNREAD_BYTES:]
            except (BlockingIOError, OSError):
                pass
            texts.append(data.decode("utf-8", "replace"))
        return "".join(texts)

    def last_lines(self) -> tuple[str, ...]:
        return tuple(line for _, line in self._tail)

"""The worker's end of the socket: one thread reads at all times, whatever the operation does.

I/O thread                                       main thread (or event loop)
reads frames, hands tasks over ---------------->  executes
answers GIVE_BACK, PERMIT itself                  adds results; sends them when it runs out of work or
reads the output pipes                            a millisecond has passed
sends results that wait longer than 2 ms <-------
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sage_actors.actors.faults import fault_point
from sage_actors.actors.workers.output import LogBook, OutputPipes
from sage_actors.messages.codec import FrameReader, frame
from sage_actors.messages.errors import ProtocolError
from sage_actors.messages.wire import Kind

__all__ = ["Handler", "Link"]

Key = tuple[int, int, int]
_CHUNK = 64 * 1024  # more is got from the system for each read anew: ten microseconds
_FLUSH_BYTES = 1024 * 1024  # of results that wait to be sent
_FLUSH_AFTER_S = 0.001  # a result that comes later than this after the last flush is sent at once
_HELD_S = 0.002  # how long results and output wait for more
_MAX_ARGUMENTS = (1 << 32) - 1  # the supervisor is trusted: only the length field limits its frames


class Handler(Protocol):
    """Who works. Called in the I/O thread."""

    def operations(self, rows: list[Any]) -> None: ...
    def tasks(self, rows: list[Any]) -> None: ...
    def give_back(self) -> list[Key]: ...
    def cancel(self, keys: list[Key]) -> None: ...
    def inspect(self, token: int, calls: list[str]) -> None: ...
    def stop(self) -> None: ...
    def current_key(self) -> Key: ...
    def tick(self) -> None: ...


class Link:
    """Frames in and out. `tick_s`: how often `handler.tick` is called, None for never."""

    def __init__(
        self,
        sock: socket.socket,
        pipes: OutputPipes,
        book: LogBook,
        project: Path,
        *,
        tick_s: float | None = None,
    ) -> None:
        self.project = project
        self.results: list[list[Any]] = []
        self.flushed_at = time.monotonic()
        self._result_bytes = 0
        self._sock = sock
        self._pipes = pipes
        self._book = book
        self._tick_s = tick_s
        self._lock = threading.RLock()
        self._torn = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._guards: dict[int, Callable[[bool, Any], None]] = {}
        self._abandoned: dict[int, str] = {}
        self._next_token = 0

    def start(self, handler: Handler) -> None:
        self._handler = handler
        threading.Thread(target=self._serve_or_end, name="sage-worker-io", daemon=True).start()

    # Sending: any thread

    def send(self, kind: int, payload: object) -> None:
        """Sends one frame, after what was logged before it. A gone supervisor ends this process."""
        data = frame(kind, payload)
        with self._lock:
            if self._torn:
                return
            # A signal handler may raise inside sendall: the stream then ends in a torn frame, for good.
            self._torn = True
            try:
                self._sock.sendall(data)
            except OSError:
                os._exit(1)
            self._torn = False

    def is_due(self, now: float) -> bool:
        """Whether the next result would leave at once."""
        return now - self.flushed_at > _FLUSH_AFTER_S

    def add_result(self, row: list[Any], size: int, *, more: bool, now: float, wakes: bool = True) -> None:
        """Keeps a result for the next flush; `more`: other tasks wait, so that a flush may wait too. wakes: the I/O
        thread sees to one within two milliseconds; False for who flushes at the end of its turn."""
        self.results.append(row)
        self._result_bytes += size
        if not more or now - self.flushed_at > _FLUSH_AFTER_S or self._result_bytes > _FLUSH_BYTES:
            self.flush()
        elif wakes and len(self.results) == 1:
            self.wake()

    def flush(self) -> None:
        """Sends waiting log rows, then waiting results: an attempt's output is there before its result."""
        with self._lock:
            # Counted before the logs leave: the output of what is added from here on may not be among them.
            count = len(self.results)
            self.flush_logs()
            self.flushed_at = time.monotonic()
            self._result_bytes = 0
            if count:
                rows = self.results[:count]
                del self.results[:count]
                fault_point("worker.before_result")
                self.send(Kind.RESULTS, rows)
                fault_point("worker.after_result")
            if self.results:  # added meanwhile by the other thread, which saw no need to wake anyone
                self.wake()

    def flush_logs(self) -> None:
        if self._book.rows:
            with self._lock:
                if rows := self._book.take():
                    self.send(Kind.LOGS, rows)

    def wake(self) -> None:
        """Has the I/O thread look after what waits."""
        try:
            os.write(self._wake_write, b"w")
        except BlockingIOError:
            pass

    # What contexts use

    def log(self, key: Key, text: str, stream: str = "log") -> None:
        first = not self._book.rows
        self._book.add(key, stream, text)
        if first:
            self.wake()

    def progress(self, key: Key, data: dict[str, Any]) -> None:
        self.send(Kind.PROGRESS, [[*key, self._book.redactor.value(data)[0]]])

    def ask_guard(self, key: Key, endpoint: str, answer: Callable[[bool, Any], None]) -> int:
        with self._lock:
            self._next_token += 1
            token = self._next_token
            self._guards[token] = answer
        self.send(Kind.GUARD, [token, *key, endpoint])
        return token

    def abandon_guard(self, token: int, endpoint: str) -> bool:
        """Nobody waits any more: a permit that still comes is handed back unused. False: it came already."""
        with self._lock:
            if self._guards.pop(token, None) is None:
                return False
            self._abandoned[token] = endpoint
            return True

    def end_guard(self, token: int, endpoint: str, ok: bool) -> None:
        self.send(Kind.GUARDED, [endpoint, token, ok])

    # The I/O thread

    def _serve_or_end(self) -> None:
        try:
            self._serve()
        except BaseException:  # noqa: BLE001 - without this thread the worker would be deaf, and not known to be
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
            os._exit(70)

    def _serve(self) -> None:
        reader = FrameReader(limit=_MAX_ARGUMENTS)
        poll = select.poll()
        for fd in (self._sock.fileno(), self._wake_read, *self._pipes.fds):
            poll.register(fd, select.POLLIN)
        next_tick = math.inf if self._tick_s is None else time.monotonic() + self._tick_s
        flush_at = math.inf
        while True:
            until = min(next_tick, flush_at)
            for fd, _ in poll.poll(None if until == math.inf else max(0.0, until - time.monotonic()) * 1000):
                if fd == self._sock.fileno():
                    self._read(reader)
                    continue
                if fd == self._wake_read:
                    os.read(fd, 4096)
                else:
                    poll.unregister(fd)  # until then it stays in the pipe, where a crash cannot lose it
                flush_at = min(flush_at, time.monotonic() + _HELD_S)
            now = time.monotonic()
            if now >= flush_at:
                flush_at = math.inf
                self._pipes.drain(self._handler.current_key)
                self.flush()
                for fd in self._pipes.fds:
                    poll.register(fd, select.POLLIN)
            if now >= next_tick:
                next_tick = now + (self._tick_s or 0.0)
                self._handler.tick()

    def _read(self, reader: FrameReader) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            os._exit(1)  # the pool has gone: so does this; the keeper sees to the rest
        try:
            for kind, payload in reader.feed(data):
                self._dispatch(kind, payload)
        except ProtocolError:
            os._exit(70)

    def _dispatch(self, kind: int, payload: Any) -> None:
        handler = self._handler
        if kind == Kind.TASKS:
            handler.tasks(payload)
        elif kind == Kind.OPERATIONS:
            handler.operations(payload)
        elif kind == Kind.GIVE_BACK:
            keys = handler.give_back()
            with self._lock:
                self.flush()
                self.send(Kind.GIVEN_BACK, keys)
        elif kind == Kind.CANCEL:
            handler.cancel([(run, node, attempt) for run, node, attempt in payload])
        elif kind == Kind.PERMIT:
            self._permit(*payload)
        elif kind == Kind.INSPECT:
            handler.inspect(payload[0], payload[1])
        elif kind == Kind.STOP:
            handler.stop()

    def _permit(self, token: int, granted: bool, error: Any) -> None:
        with self._lock:
            answer = self._guards.pop(token, None)
            endpoint = self._abandoned.pop(token, None)
        if answer is not None:
            answer(granted, error)
        elif endpoint is not None and granted:
            self.end_guard(token, endpoint, True)

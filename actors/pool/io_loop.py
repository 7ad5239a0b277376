"""One loop that serves descriptors, timers and commands, and the inbox of an actor that lives in it."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from sage_actors.actors.mailbox import Inbox

__all__ = ["IoLoop", "LoopInbox"]

_LONGEST_WAIT_S = 3600.0  # the system takes no month
READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class IoLoop:
    """Served by whoever calls `turn` again and again: a thread of its own after `start`, or a `LoopInbox`.

    `post` and `call_at` may be called from any thread, `watch` and `unwatch` in the loop's thread only (or before
    it is served). An exception in a callback is reported by threading.excepthook, and the loop goes on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], Any]]] = []
        self._commands: deque[Callable[[], Any]] = deque()
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, Callable[[int], Any]] = {}  # by descriptor
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._asleep = False
        self.stopped = False
        self._thread: threading.Thread | None = None
        self.watch(self._wake_read, READ, self._on_wake)

    def start(self, name: str) -> None:
        """Serves the loop in a thread of its own."""
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends that thread after the callback that runs now, and waits for it. Nothing is served any more."""
        self.stopped = True
        self.wake()
        if self._thread is not None and not self.is_current():
            self._thread.join()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def is_current(self) -> bool:
        """Whether the caller runs in the loop's thread."""
        return threading.current_thread() is self._thread

    def post(self, command: Callable[[], Any]) -> None:
        """Runs `command` in the loop's thread, soon and in order."""
        self._commands.append(command)
        self.wake()

    def call_at(self, when_monotonic: float, callback: Callable[[], Any]) -> None:
        """Runs `callback` in the loop's thread at that moment of `time.monotonic()` or soon after. ValueError: NaN."""
        if when_monotonic != when_monotonic:  # it would be neither before nor after any other timer
            raise ValueError("a timer must be set to a moment")
        entry = (when_monotonic, next(self._order), callback)
        with self._lock:
            heapq.heappush(self._timers, entry)
            is_first = self._timers[0] is entry
        if is_first:
            self.wake()

    def watch(self, fileobj: Any, mask: int, callback: Callable[[int], Any]) -> None:
        """Calls `callback(mask of what is ready)`; a second call for the same file replaces the first."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if fd in self._watched:
            self._selector.modify(fd, mask)
        else:
            self._selector.register(fd, mask)
        self._watched[fd] = callback

    def unwatch(self, fileobj: Any) -> None:
        """Before it is closed."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if self._watched.pop(fd, None) is not None:
            self._selector.unregister(fd)

    def turn(self, is_done: Callable[[], Any]) -> None:
        """Serve what is ready; where nothing is, and not `is_done()`, wait for the next thing."""
        self._asleep = True  # from here on whoever has something for the loop wakes it
        ready = self._selector.select(0.0 if is_done() else self._timeout())
        self._asleep = False
        for key, mask in ready:
            callback = self._watched.get(key.fd)
            if callback is not None:  # else an earlier one of this turn put an end to it
                self._run(callback, mask)
        for _ in range(len(self._commands)):
            self._run(self._commands.popleft())
        if self._timers:
            self._run_timers()

    def adopt(self) -> None:
        """The calling thread is the one that serves it."""
        self._thread = threading.current_thread()

    def wake(self) -> None:
        """Ends the wait of `turn`. Any thread."""
        if self._asleep:
            self._asleep = False
            try:
                os.write(self._wake_write, b"w")
            except OSError:
                pass  # full: it wakes anyway; closed: it has stopped

    def _serve(self) -> None:
        while not self.stopped:
            self.turn(lambda: self.stopped)

    def _timeout(self) -> float | None:
        with self._lock:
            if self._commands:
                return 0.0
            if not self._timers:
                return None
            return min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST_WAIT_S)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while not self.stopped:
            with self._lock:
                if not self._timers or self._timers[0][0] > now:
                    return
                callback = heapq.heappop(self._timers)[2]
            self._run(callback)

    def _run(self, callback: Callable[..., Any], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:  # noqa: BLE001 - the border: one broken callback must not end the others
            kind, error, trace = sys.exc_info()
            assert kind is not None
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))

    def _on_wake(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 65536)


class LoopInbox(Inbox):
    """The inbox of an actor that serves `loop` while it waits: what arrives there needs no thread of its own.

    A message that a callback of the loop sends to this actor wakes nobody.
    """

    __slots__ = ("loop",)

    def __init__(self) -> None:
        super().__init__()
        self.loop = IoLoop()
        self.put = self._put

    def get(self) -> Any:
        """The next message. Serves the loop once, and for as long as there is none."""
        while not self.loop.stopped:
            self.loop.turn(self._holds_some)
            if self._holds_some():
                break
        return super().get()

    def _put(self, message: Any) -> None:
        self._queue.put(message)
        self.loop.wake()

    def _holds_some(self) -> bool:
        return bool(self._front) or not self._queue.empty()

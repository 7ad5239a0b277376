"""One thread that serves descriptors, timers and commands."""

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

__all__ = ["IoLoop"]

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class IoLoop:
    """`post` and `call_at` may be called from any thread, `watch` and `unwatch` in the loop's thread only
    (or before `start`). An exception in a callback is reported by threading.excepthook, and the loop goes on.
    """

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._timers: list[tuple[float, int, Callable[[], Any]]] = []
        self._commands: deque[Callable[[], Any]] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self.watch(self._wake_read, READ, self._on_wake)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the callback that runs now, and waits for that."""
        self._stopped = True
        self._wake()
        if self._thread.is_alive():
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
        self._wake()

    def call_at(self, when_monotonic: float, callback: Callable[[], Any]) -> None:
        """Runs `callback` in the loop's thread at that moment of `time.monotonic()` or soon after."""
        entry = (when_monotonic, next(self._order), callback)
        with self._lock:
            heapq.heappush(self._timers, entry)
            is_first = self._timers[0] is entry
        if is_first and not self.is_current():
            self._wake()

    def watch(self, fileobj: Any, mask: int, callback: Callable[[int], Any]) -> None:
        """Calls `callback(mask of what is ready)`; a second call for the same file replaces the first."""
        if fileobj in self._selector.get_map():
            self._selector.modify(fileobj, mask, callback)
        else:
            self._selector.register(fileobj, mask, callback)

    def unwatch(self, fileobj: Any) -> None:
        if fileobj in self._selector.get_map():
            self._selector.unregister(fileobj)

    def _serve(self) -> None:
        while not self._stopped:
            for key, mask in self._selector.select(self._timeout()):
                if (
                    self._selector.get_map().get(key.fd) == key
                ):  # an earlier one of this turn may have closed it
                    self._run(lambda key=key, mask=mask: key.data(mask))  # type: ignore[misc]
            for _ in range(len(self._commands)):
                self._run(self._commands.popleft())
            self._run_timers()

    def _timeout(self) -> float | None:
        with self._lock:
            if self._commands:
                return 0.0
            if not self._timers:
                return None
            return max(0.0, self._timers[0][0] - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while not self._stopped:
            with self._lock:
                if not self._timers or self._timers[0][0] > now:
                    return
                callback = heapq.heappop(self._timers)[2]
            self._run(callback)

    def _run(self, callback: Callable[[], Any]) -> None:
        try:
            callback()
        except Exception:  # noqa: BLE001 - the border: one broken callback must not end the others
            kind, error, trace = sys.exc_info()
            assert kind is not None
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: it has stopped
            os.write(self._wake_write, b"w")

    def _on_wake(self, _: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 65536)

"""What tests of workflows and operations need: time that moves only when it is told to.

>>> clock = FakeClock(now=1_000.0)
>>> clock.call_at(clock.monotonic() + 30, lambda: print("half a minute later:", clock.now()))
>>> clock.advance(60)
half a minute later: 1030.0
>>> clock.now()
1060.0
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable

__all__ = ["FakeClock"]


class FakeClock:
    """A clock that stands still until `advance`; may be used from several threads.

    now: Unix time in seconds to begin with. `monotonic()` begins at 0.0.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 0.0
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """Unix time in seconds."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the clock was made, whatever was set meanwhile."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Lets time pass. What is due is called in its order, each at its moment, by this thread.

        Raises:
            ValueError: seconds is negative; to change the time of day, use `set`.
        """
        if seconds < 0:
            raise ValueError(f"time does not pass backwards: {seconds}")
        until = self._monotonic + seconds
        while (callback := self._next_due(until)) is not None:
            callback()
        self._move_to(until)

    def set(self, now: float) -> None:
        """Changes the time of day, as a person or NTP does: `monotonic()` and what is due stay."""
        self._now = now

    def call_at(self, deadline: float, callback: Callable[[], None]) -> None:
        """Calls back once, when `monotonic()` reaches the deadline; at the next `advance` if that is past."""
        with self._lock:
            heapq.heappush(self._calls, (deadline, next(self._numbers), callback))

    def pending(self) -> int:
        """How many callbacks are still to come."""
        return len(self._calls)

    def _next_due(self, until: float) -> Callable[[], None] | None:
        with self._lock:
            if not self._calls or self._calls[0][0] > until:
                return None
            deadline, _, callback = heapq.heappop(self._calls)
        self._move_to(deadline)
        return callback

    def _move_to(self, monotonic: float) -> None:
        if monotonic > self._monotonic:
            self._now += monotonic - self._monotonic
            self._monotonic = monotonic

"""What is to be done later. What time it is, others say: seconds, monotonic."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

__all__ = ["Timers"]


class Timers:
    """`wake_at` is called with the moment at which `run_due` should be called next.

    >>> done = []
    >>> timers = Timers(wake_at=lambda when: None)
    >>> timers.at(2.0, lambda now: done.append("later"))
    >>> timers.at(1.0, lambda now: done.append("soon"))
    >>> timers.run_due(1.5)
    >>> done
    ['soon']
    """

    def __init__(self, wake_at: Callable[[float], None]) -> None:
        self._wake_at = wake_at
        self._heap: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()  # of those that are due at the same moment
        self._asked_for = math.inf

    def at(self, when: float, act: Callable[[float], None]) -> None:
        """Have `act` called with the time, at `when` or soon after."""
        heapq.heappush(self._heap, (when, next(self._order), act))
        self._arm()

    def run_due(self, now: float) -> None:
        """Do all whose time has come, also what that adds."""
        self._asked_for = math.inf
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2](now)
        self._arm()

    def _arm(self) -> None:
        if self._heap and self._heap[0][0] < self._asked_for:
            self._asked_for = self._heap[0][0]
            self._wake_at(self._asked_for)

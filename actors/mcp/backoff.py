"""How long to wait before starting a server again that keeps failing: 0, 0.5, 1, 2 ... 30 s."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Backoff"]

_STEADY_S = 10.0  # a session that lived as long did not fail at its start
_LONGEST_DELAY_S = 30.0


class Backoff:
    """How long to wait after failures in a row. Plain arithmetic: the clock is handed in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._not_before = 0.0

    @property
    def failures(self) -> int:
        return self._failures

    @property
    def wait_s(self) -> float:
        return max(0.0, self._not_before - self._clock())

    def failed(self, lived_s: float = 0.0) -> None:
        """It did not start, or ended after `lived_s`."""
        self._failures = 1 if lived_s >= _STEADY_S else self._failures + 1
        delay = 0.0 if self._failures == 1 else min(_LONGEST_DELAY_S, 0.5 * 2 ** min(self._failures - 2, 10))
        self._not_before = self._clock() + delay

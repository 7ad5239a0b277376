"""Restart intensity: how often workers that executed nothing may die before the supervisor gives up.

a worker died while it ...            counts?   what follows
executed nothing                      yes       restarted; above the intensity every run stops, resumable
executed a node, by itself            no        the node is charged (or suspected), see run_core.lost
was killed: timeout, limit, cancel    no        the node's policy decides
was retired                           no        -
was not ready when its keeper died    yes       as in the first row; once for all workers of that keeper
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["RestartIntensity", "RestartPolicy"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """max_restarts: deaths allowed in `window_s` seconds. The default is OTP's idea: 5 in 60 s."""

    max_restarts: int = 5
    window_s: float = 60.0


class RestartIntensity:
    """Counts deaths; time is an argument (seconds, monotonic)."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self._deaths: deque[float] = deque()

    def died(self, now: float) -> bool:
        """Note one death. Returns True if that is more than the policy allows."""
        deaths = self._deaths
        deaths.append(now)
        while deaths and now - deaths[0] > self.policy.window_s:
            deaths.popleft()
        return len(deaths) > self.policy.max_restarts

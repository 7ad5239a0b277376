"""One endpoint behind its circuit breaker: state machine, slots, token bucket, queue; and what it says.

What each state does with calls (defaults of `BreakerPolicy`):

                     5 consecutive failures
      +--------+ ------------------------------> +------+
      | CLOSED |                                 | OPEN | grants nothing
      +--------+                                 +------+
          ^                                       |    ^
          | 2 successes      60 s have passed     |    | 1 failure
          |                                       v    |
          |                                    +-----------+
          +----------------------------------- | HALF_OPEN | one call at a time
                                               +-----------+

In CLOSED and HALF_OPEN a call also needs a slot (`max_concurrent`) and a permit of the token bucket (`rate`,
`burst`). Who cannot be served waits in one queue per endpoint, oldest first.

Every transition starts a new era. A call belongs to the era that granted it, and its report counts in no
other: what was begun before the breaker opened says nothing about the endpoint's recovery.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from sage_actors.actors.breaker.policy import BreakerPolicy

__all__ = [
    "NEVER",
    "Command",
    "Endpoint",
    "EndpointStatus",
    "Granted",
    "Reason",
    "Refused",
    "State",
    "Token",
    "Transition",
    "Waiting",
]

Token: TypeAlias = Hashable
Reason: TypeAlias = Literal["open", "concurrency", "rate"]

NEVER: Final = -math.inf


class State(StrEnum):
    """As in the drawing above; the values are what the journal holds."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Granted:
    """The holder of `token` may call now, and must report or be forgotten afterwards."""

    token: Token
    endpoint: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request is queued. Told once per reason; wait on, withdraw, or withdraw and take a fallback.

    until: Unix time, the earliest moment at which that may change by itself; None: it depends on others.
    """

    token: Token
    endpoint: str
    reason: Reason
    until: float | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request will never be granted. `reason` is for a person."""

    token: Token
    endpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class Transition:
    """The state changed. open_until: Unix time, 0.0 if `new` is not open. failures: consecutive, so far."""

    endpoint: str
    old: State
    new: State
    open_until: float
    failures: int


Command: TypeAlias = Granted | Waiting | Refused | Transition


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One endpoint now. open_until: Unix time, 0.0 if not open. in_use, waiting: calls."""

    endpoint: str
    state: State
    failures: int
    open_until: float
    in_use: int
    waiting: int


class Endpoint:
    """One endpoint: state machine, slots, token bucket, queue."""

    __slots__ = (
        "era",
        "failures",
        "full_at",
        "held",
        "in_era",
        "name",
        "not_before",
        "open_until",
        "policy",
        "seq",
        "state",
        "successes",
        "told",
        "used",
        "waiting",
    )

    def __init__(self, name: str, policy: BreakerPolicy) -> None:
        self.name = name
        self.policy = policy
        self.state = State.CLOSED
        self.open_until = 0.0
        self.failures = 0
        self.successes = 0
        self.used = False  # a call of this process was counted: newer than any journal
        self.era = 0
        self.in_era = 0  # calls in flight that this era granted
        self.held: dict[Token, int] = {}  # the era of each call in flight
        # An OrderedDict gives its first in O(1); a dict whose first ones were removed walks over the holes.
        self.waiting: OrderedDict[Token, int] = OrderedDict()  # -> sequence number
        self.seq = 0
        self.told: dict[Reason, int] = {}  # the last sequence number that was told this reason
        self.full_at = NEVER  # when the bucket is full again (GCRA's theoretical arrival time)
        self.not_before = NEVER  # a pause that the other side asked for

    # What `BreakerCore` calls

    def enqueue(self, token: Token) -> None:
        self.seq += 1
        self.waiting[token] = self.seq

    def answer_again(self, endpoint: str, token: Token) -> list[Command]:
        if endpoint != self.name:
            return [Refused(token, endpoint, f"the token is in use for endpoint {self.name!r}")]
        return [Granted(token, self.name)] if token in self.held else []

    def end(
        self, token: Token, ok: bool, now: float, retry_after_s: float | None, out: list[Command]
    ) -> None:
        counts = self.held[token] == self.era
        self.drop(token)
        if retry_after_s is not None and retry_after_s > 0:  # false for NaN
            pause = min(retry_after_s, self.policy.retry_after_max_s)
            self.not_before = max(self.not_before, now + pause)
        if counts:
            self.used = True
            self._count(ok, now, out)

    def drop(self, token: Token) -> None:
        if self.waiting.pop(token, None) is None and self.held.pop(token, None) == self.era:
            self.in_era -= 1

    def serve(self, now: float, out: list[Command]) -> None:
        """Grants what may be granted, oldest first; tells those who must wait why."""
        if self.state is State.OPEN and now >= self.open_until:
            self.move(State.HALF_OPEN, out)
        while self.waiting:
            blocked = self._blocked(now)
            if blocked is not None:
                self._tell(blocked, out)
                return
            token, _ = self.waiting.popitem(last=False)
            self._take_permit(now)
            self.held[token] = self.era
            self.in_era += 1
            out.append(Granted(token, self.name))

    def wakeup(self, now: float) -> float | None:
        if self.state is State.OPEN:
            return self.open_until
        if self.waiting and self._blocked(now) == "rate":
            return self._permitted_at(0)
        return None

    def move(self, new: State, out: list[Command], open_until: float = 0.0) -> None:
        old, self.state, self.open_until = self.state, new, open_until
        self.era += 1
        self.in_era = self.successes = 0
        if new is State.CLOSED:
            self.failures = 0
        out.append(Transition(self.name, old, new, open_until, self.failures))

    def restore_open(self, open_until: float, now: float, out: list[Command]) -> None:
        latest = now + self.policy.open_s
        until = min(open_until, latest) if math.isfinite(open_until) else latest
        if self.used or self.state is State.HALF_OPEN:
            return
        if self.state is State.OPEN:  # of two journals, the later word
            self.open_until = max(self.open_until, until)
        elif until > now:
            self.move(State.OPEN, out, until)
        else:
            self.move(State.HALF_OPEN, out)

    def configure(self, policy: BreakerPolicy, now: float) -> None:
        self.policy = policy
        self.open_until = min(self.open_until, now + policy.open_s)
        self.not_before = min(self.not_before, now + policy.retry_after_max_s)
        bucket_s = 0.0 if policy.rate is None else policy.burst / policy.rate
        self.full_at = min(self.full_at, now + bucket_s)

    def shift(self, seconds: float) -> None:
        self.not_before += seconds
        self.full_at += seconds
        if self.state is State.OPEN:
            self.open_until += seconds

    def is_idle(self, now: float) -> bool:
        calm = self.state is State.CLOSED and not self.failures
        return calm and not self.held and not self.waiting and max(self.full_at, self.not_before) <= now

    def status(self) -> EndpointStatus:
        return EndpointStatus(
            self.name, self.state, self.failures, self.open_until, len(self.held), len(self.waiting)
        )

    # How it decides

    def _count(self, ok: bool, now: float, out: list[Command]) -> None:
        if not ok:
            self.failures += 1
            if self.state is State.HALF_OPEN or self.failures >= self.policy.failures:
                self.move(State.OPEN, out, now + self.policy.open_s)
        elif self.state is State.CLOSED:
            self.failures = 0
        else:
            self.successes += 1
            if self.successes >= self.policy.successes:
                self.move(State.CLOSED, out)

    def _blocked(self, now: float) -> Reason | None:
        if self.state is State.OPEN:
            return "open"
        if self.state is State.HALF_OPEN and self.in_era >= self.policy.half_open_calls:
            return "open"
        most = self.policy.max_concurrent
        if most is not None and len(self.held) >= most:
            return "concurrency"
        return "rate" if now < self._permitted_at(0) else None

    def _permitted_at(self, position: int) -> float:
        """When the bucket lets the waiter at this position go, if nothing else holds it.

        The token bucket as the generic cell rate algorithm (ITU-T I.371): two additions, no refill timer.
        In any window of T seconds it lets at most `burst + rate * T` go.
        """
        if self.policy.rate is None:
            return self.not_before
        ahead = (position + 1 - self.policy.burst) / self.policy.rate
        return max(self.not_before, max(self.full_at, self.not_before) + ahead)

    def _take_permit(self, now: float) -> None:
        if self.policy.rate is not None:
            self.full_at = max(self.full_at, now) + 1 / self.policy.rate

    def _tell(self, reason: Reason, out: list[Command]) -> None:
        """Tells all who were not told this reason: the youngest ones, since each time all are told."""
        told, fresh = self.told.get(reason, 0), []
        for position, (token, seq) in enumerate(reversed(self.waiting.items()), 1):
            if seq <= told:
                break
            until = self._until(reason, len(self.waiting) - position)
            fresh.append(Waiting(token, self.name, reason, until))
        self.told[reason] = self.seq
        out.extend(reversed(fresh))

    def _until(self, reason: Reason, position: int) -> float | None:
        if reason == "rate":
            return self._permitted_at(position)
        return self.open_until if self.state is State.OPEN else None

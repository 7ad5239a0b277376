"""The circuit breaker's decisions: may this endpoint be called now? No clock, thread or randomness in here.

`endpoint.py` draws the states of one endpoint; this file has all of them, who holds which call, and time.

`now` is Unix time in seconds. When it goes back, all that is waited for moves back with it, so that a changed
clock extends no wait. When it goes forward, waits end early: from here that looks like a machine that slept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sage_actors.actors.breaker.endpoint import (
    NEVER,
    Command,
    Endpoint,
    EndpointStatus,
    Granted,
    Reason,
    Refused,
    State,
    Token,
    Transition,
    Waiting,
)
from sage_actors.actors.breaker.policy import BreakerPolicy

__all__ = [
    "BreakerCore",
    "BreakerPolicy",
    "Command",
    "EndpointStatus",
    "Granted",
    "Reason",
    "Refused",
    "State",
    "Token",
    "Transition",
    "Waiting",
]

# Names may be made up by operations: past so many, idle ones are dropped, and past so many any that nobody calls.
_IDLE_ENDPOINTS: Final = 1_000
_ENDPOINTS: Final = 10_000


class BreakerCore:
    """The state of all endpoints: events in, commands out.

    A token names one request for as long as it waits or is held; afterwards it may be used again. Messages
    about tokens that are not known (reported, forgotten, withdrawn) are late ones, and do nothing.

    >>> core = BreakerCore({}, BreakerPolicy(max_concurrent=1))
    >>> core.request("api", 1, now=0.0)
    [Granted(token=1, endpoint='api')]
    >>> core.request("api", 2, now=0.0)
    [Waiting(token=2, endpoint='api', reason='concurrency', until=None)]
    >>> core.report("api", 1, True, now=1.0)
    [Granted(token=2, endpoint='api')]
    """

    def __init__(self, policies: Mapping[str, BreakerPolicy], default: BreakerPolicy) -> None:
        self._policies = dict(policies)
        self._default = default
        self._endpoints: dict[str, Endpoint] = {}
        self._owners: dict[Token, Endpoint] = {}  # of waiting and of granted tokens
        self._wakeups: dict[str, float] = {}  # endpoints that time alone changes
        self._last = NEVER
        self._sweep_above = _IDLE_ENDPOINTS

    def request(self, endpoint: str, token: Token, now: float) -> list[Command]:
        """Asks for one call. Asking again with the same token is answered, but takes no second place."""
        self._observe(now)
        owner = self._owners.get(token)
        if owner is not None:
            return owner.answer_again(endpoint, token)
        one = self._owners[token] = self._endpoint(endpoint, now)
        one.enqueue(token)
        return self._settle(one, now, [])

    def report(
        self, endpoint: str, token: Token, ok: bool, now: float, retry_after_s: float | None = None
    ) -> list[Command]:
        """The call ended. retry_after_s: the other side asked for a pause; it holds whatever the era.

        A report that names another endpoint than was granted frees the slot and counts for neither.
        """
        self._observe(now)
        one = self._owners.get(token)
        if one is None or token not in one.held:
            return []
        if one.name != endpoint:
            return self.forget(token, now)
        del self._owners[token]
        out: list[Command] = []
        one.end(token, ok, now, retry_after_s, out)
        return self._settle(one, now, out)

    def forget(self, token: Token, now: float) -> list[Command]:
        """The holder died or was cancelled: frees the slot, or the place in the queue, and counts nothing."""
        self._observe(now)
        one = self._owners.pop(token, None)
        if one is None:
            return []
        one.drop(token)
        return self._settle(one, now, [])

    def withdraw(self, token: Token, now: float) -> list[Command]:
        """A request is given up. One whose grant is just on its way frees its slot (its permit is spent)."""
        return self.forget(token, now)

    def restore(self, endpoint: str, state: str, open_until: float, now: float) -> list[Command]:
        """Takes over what a journal says, unless something newer is known from calls of this process.

        An open period ends at `open_until` (Unix time), at most the policy's `open_s` from now. A state that
        is not known (written by a later version) is left aside.
        """
        self._observe(now)
        out: list[Command] = []
        one = self._endpoint(endpoint, now)
        if state == State.OPEN:
            one.restore_open(open_until, now, out)
        elif state == State.HALF_OPEN:
            one.restore_open(now, now, out)
        return self._settle(one, now, out)

    def configure(self, endpoint: str, policy: BreakerPolicy, now: float) -> list[Command]:
        """Another policy from now on; what is counted, held and queued stays."""
        self._observe(now)
        self._policies[endpoint] = policy
        one = self._endpoint(endpoint, now)
        one.configure(policy, now)
        return self._settle(one, now, [])

    def tick(self, now: float) -> list[Command]:
        """What time alone brings; to be called at `next_wakeup()`. Too early or too often does no harm."""
        self._observe(now)
        out: list[Command] = []
        for name in [name for name, at in self._wakeups.items() if at <= now]:
            self._settle(self._endpoints[name], now, out)
        return out

    def next_wakeup(self) -> float | None:
        """Unix time of the next `tick` that changes something; None: only messages can."""
        return min(self._wakeups.values(), default=None)

    def shift(self, seconds: float) -> None:
        """The wall clock was set by so much, apart from the time that passed: all deadlines move with it."""
        self._last += seconds
        for one in self._endpoints.values():
            one.shift(seconds)
        for name in self._wakeups:
            self._wakeups[name] += seconds

    def refuse_all(self, reason: str) -> list[Command]:
        """Empties every queue; each waiter is told. Granted calls are left to end."""
        out: list[Command] = []
        for one in self._endpoints.values():
            for token in one.waiting:
                self._owners.pop(token, None)
                out.append(Refused(token, one.name, reason))
            one.waiting.clear()
        return out

    def status(self) -> dict[str, EndpointStatus]:
        """All endpoints that were asked for, restored or configured, by name."""
        return {name: one.status() for name, one in sorted(self._endpoints.items())}

    def _observe(self, now: float) -> None:
        if now < self._last:
            self.shift(now - self._last)
        self._last = now

    def _settle(self, one: Endpoint, now: float, out: list[Command]) -> list[Command]:
        one.serve(now, out)
        wakeup = one.wakeup(now)
        if wakeup is None:
            self._wakeups.pop(one.name, None)
        else:
            self._wakeups[one.name] = wakeup
        return out

    def _endpoint(self, name: str, now: float) -> Endpoint:
        one = self._endpoints.get(name)
        if one is None:
            if len(self._endpoints) >= self._sweep_above:
                self._sweep(now)
            one = self._endpoints[name] = Endpoint(name, self._policies.get(name, self._default))
        return one

    def _sweep(self, now: float) -> None:
        """Drops endpoints that are as good as new, so that a million names do not stay for ever; if too many are not,
        all that have no policy of their own and that nobody calls."""
        everything = len(self._endpoints) >= _ENDPOINTS
        for name, one in list(self._endpoints.items()):
            unused = not (one.held or one.waiting or name in self._policies)
            if one.is_idle(now) or (everything and unused):
                del self._endpoints[name]
                self._wakeups.pop(name, None)
        self._sweep_above = max(_IDLE_ENDPOINTS, 2 * len(self._endpoints))

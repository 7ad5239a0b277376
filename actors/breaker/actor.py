"""The breaker actor: the only one who says whether an endpoint may be called now. Decisions: `BreakerCore`.

Messages are told, and answered by events through `deliver`; only `Snapshot` is asked. Whoever asked for a
call hears of it again: granted, waiting, or refused when the breaker stops, for whatever reason it stops.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias, assert_never

import pykka

from sage_actors.actors.breaker.core import (
    BreakerCore,
    BreakerPolicy,
    Command,
    EndpointStatus,
    Granted,
    Refused,
    State,
    Token,
    Transition,
    Waiting,
)
from sage_actors.actors.clock import Clock
from sage_actors.actors.mailbox import MailboxActor

__all__ = [
    "BreakerActor",
    "BreakerPolicy",
    "CallAt",
    "Configure",
    "EndpointStatus",
    "Event",
    "Forget",
    "Granted",
    "Message",
    "Refused",
    "Report",
    "Request",
    "Restore",
    "Settle",
    "Settled",
    "Snapshot",
    "State",
    "Token",
    "Transition",
    "Waiting",
    "Withdraw",
]

_log = logging.getLogger(__name__)

CallAt: TypeAlias = Callable[[float, Callable[[], None]], None]  # (monotonic deadline, callback)

_SET_BACK_S = 1.0  # a wall clock that is behind by more was set; by less, it was slewed
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """May I call this endpoint? `token` is unique among requests in use, and names the call from here on."""

    endpoint: str
    token: Token


@dataclass(frozen=True, slots=True)
class Report:
    """A granted call ended. retry_after_s: seconds for which the other side asked not to be called."""

    endpoint: str
    token: Token
    ok: bool
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Forget:
    """Whoever held or awaited this call is gone; how the call ended says nothing about the endpoint."""

    token: Token


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The request is given up, perhaps for a fallback."""

    token: Token


@dataclass(frozen=True, slots=True)
class Restore:
    """What the journal of a run says. open_until: Unix time."""

    endpoint: str
    state: str
    open_until: float


@dataclass(frozen=True, slots=True)
class Configure:
    """Another policy for this endpoint from now on."""

    endpoint: str
    policy: BreakerPolicy


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Ask: answered with `dict[str, EndpointStatus]`, by endpoint."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Answered with a Settled, after the events of every earlier message. run: handed back as it is."""

    run: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Every message before the Settle of this run has had its effect, and its events were delivered."""

    run: int


@dataclass(frozen=True, slots=True)
class _Tick:
    deadline: float  # monotonic


Event: TypeAlias = Command | Settled
Message: TypeAlias = Request | Report | Forget | Withdraw | Restore | Configure | Snapshot | Settle | _Tick


class BreakerActor(MailboxActor):
    """A mailbox around `BreakerCore`.

    policies: by endpoint; `default` is that of all others. deliver: gets every event, in order, in this
    actor's thread; must not block. What it raises is logged and goes no further; a grant that was lost so
    frees its slot. call_at: calls back once at a monotonic deadline, from any thread; None is a timer thread
    of the actor's own.

    A message that is told at the very moment of the stop may be lost; stop the requesters first.
    """

    def __init__(
        self,
        policies: Mapping[str, BreakerPolicy],
        default: BreakerPolicy,
        clock: Clock,
        deliver: Callable[[Event], None],
        call_at: CallAt | None = None,
    ) -> None:
        super().__init__()
        self._core = BreakerCore(policies, default)
        self._clock = clock
        self._deliver = deliver
        self._timer = _Timer(clock)
        self._call_at = call_at or self._timer.call_at
        self._wakeups: list[float] = []  # deadlines that were asked for and not reached; seldom more than one
        self._seen = (clock.now(), clock.monotonic())

    def on_receive(self, message: Message) -> Any:
        now = self._now()
        answer = None
        match message:
            case Request(endpoint, token):
                events = self._core.request(endpoint, token, now)
            case Report(endpoint, token, ok, retry_after_s):
                events = self._core.report(endpoint, token, ok, now, retry_after_s)
            case Forget(token):
                events = self._core.forget(token, now)
            case Withdraw(token):
                events = self._core.withdraw(token, now)
            case Restore(endpoint, state, open_until):
                events = self._core.restore(endpoint, state, open_until, now)
            case Configure(endpoint, policy):
                events = self._core.configure(endpoint, policy, now)
            case Settle(run):
                self._emit([Settled(run)])
                return None
            case Snapshot():
                events = self._core.tick(now)
                answer = self._core.status()
            case _Tick(deadline):
                self._wakeups.remove(deadline)
                events = self._core.tick(now)
            case _:
                assert_never(message)
        self._emit(events)
        self._plan_wakeup(now)
        return answer

    def on_stop(self) -> None:
        self._close("the breaker was stopped")

    def on_failure(self, exception_type: Any, exception_value: Any, traceback: Any) -> None:
        self._close(f"the breaker failed: {exception_value!r}")

    def _now(self) -> float:
        """Unix time; tells the core when the wall clock went back against the time that really passed."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        was, then = self._seen
        set_back = was + (monotonic - then) - now
        if set_back > _SET_BACK_S:
            _log.warning("the clock was set back by %.0f s; waits keep their length", set_back)
            self._core.shift(-set_back)
        self._seen = (now, monotonic)
        return now

    def _plan_wakeup(self, now: float) -> None:
        wakeup = self._core.next_wakeup()
        if wakeup is None:
            return
        deadline = self._seen[1] + max(0.0, wakeup - now)
        if any(earlier <= deadline for earlier in self._wakeups):
            return  # that one plans the next
        self._wakeups.append(deadline)
        self._call_at(deadline, lambda: self._wake(deadline))

    def _wake(self, deadline: float) -> None:
        try:
            self.actor_ref.tell(_Tick(deadline))
        except pykka.ActorDeadError:
            pass  # stopped meanwhile: nobody waits any more

    def _emit(self, events: Iterable[Event]) -> None:
        left = deque(events)
        while left:
            event = left.popleft()
            if isinstance(event, Transition):
                _log_transition(event)
            try:
                self._deliver(event)
            except Exception:  # noqa: BLE001  one event that finds no listener must not take the others along
                _log.exception("an event of the breaker could not be delivered: %r", event)
                if isinstance(event, Granted):  # nobody would ever report it
                    left.extend(self._core.forget(event.token, self._seen[0]))

    def _close(self, reason: str) -> None:
        self._timer.stop()
        self._emit(self._core.refuse_all(reason))
        for message in self._unread():
            match message:
                case Request(endpoint, token):
                    self._emit([Refused(token, endpoint, reason)])
                case Settle(run):
                    self._emit([Settled(run)])

    def _unread(self) -> list[Any]:
        """Messages behind the stop. What was asked goes back into the inbox, where Pykka answers it."""
        envelopes = self.actor_inbox.take_all()
        self.actor_inbox.put_back([each for each in envelopes if each.reply_to is not None])
        return [one.message for one in envelopes]


def _log_transition(event: Transition) -> None:
    if event.new is State.OPEN:
        until = datetime.fromtimestamp(event.open_until, UTC).isoformat(timespec="seconds")
        why = f"after {event.failures} consecutive failures" if event.failures else "as its run had left it"
        _log.warning("endpoint %r: %s -> open until %s, %s", event.endpoint, event.old, until, why)
    else:
        _log.info("endpoint %r: %s -> %s", event.endpoint, event.old, event.new)


class _Timer:
    """A daemon thread that calls back at monotonic deadlines; it starts with the first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._stopped = False
        self._thread: threading.Thread | None = None

    def call_at(self, deadline: float, callback: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._calls, (deadline, next(self._numbers), callback))
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="breaker-timer", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread; what is pending is not called."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while (callback := self._next()) is not None:
            callback()

    def _next(self) -> Callable[[], None] | None:
        """Waits for the next deadline; None once stopped."""
        with self._changed:
            while not self._stopped:
                wait_s = self._calls[0][0] - self._clock.monotonic() if self._calls else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._calls)[2]
                self._changed.wait(None if wait_s is None else min(wait_s, threading.TIMEOUT_MAX))
            return None

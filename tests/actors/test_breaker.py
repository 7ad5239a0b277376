"""The breaker actor: its messages, its wake-ups, and that everyone who waits is answered."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pykka
import pytest

from sage_actors.actors.breaker.actor import (
    BreakerActor,
    BreakerPolicy,
    Configure,
    EndpointStatus,
    Event,
    Forget,
    Granted,
    Message,
    Refused,
    Report,
    Request,
    Restore,
    Settle,
    Settled,
    Snapshot,
    State,
    Transition,
    Waiting,
    Withdraw,
)
from sage_actors.actors.clock import SystemClock
from sage_actors.testing import FakeClock

pytestmark = pytest.mark.requirement("ORCH-005")

API = "api"
DEADLINE_S = 10.0


class Harness:
    """A running actor, its events, and a clock that stands still."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.start = self.clock.now()
        self.events: list[Event] = []
        options = {"policies": {}, "default": BreakerPolicy(), "deliver": self.events.append} | options
        self.ref = BreakerActor.start(**({"clock": self.clock, "call_at": self.clock.call_at} | options))

    def tell(self, *messages: Message) -> list[Event]:
        """What these messages bring, once all are handled."""
        self.events.clear()
        for message in messages:
            self.ref.tell(message)
        self.status()
        return [*self.events]

    def advance(self, seconds: float) -> list[Event]:
        self.events.clear()
        self.clock.advance(seconds)
        self.status()
        return [*self.events]

    def status(self) -> dict[str, EndpointStatus]:
        return cast(dict[str, EndpointStatus], self.ref.ask(Snapshot(), timeout=DEADLINE_S))

    def open(self) -> None:
        for number in range(5):
            self.tell(Request(API, number), Report(API, number, ok=False))
        assert self.status()[API].state == "open"


@pytest.fixture
def harness() -> Iterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        made.append(Harness(**options))
        return made[-1]

    yield make
    for each in made:
        each.ref.stop(timeout=DEADLINE_S)


def test_calls_are_granted_in_turn(harness: Callable[..., Harness]) -> None:
    one = harness(policies={API: BreakerPolicy(max_concurrent=1)})
    assert one.tell(Request(API, "a"), Request(API, "b")) == [
        Granted("a", API),
        Waiting("b", API, "concurrency", None),
    ]
    assert one.tell(Report(API, "a", ok=True)) == [Granted("b", API)]
    assert one.tell(Request(API, "c"), Request(API, "d"), Withdraw("c"), Forget("b"))[-1] == Granted("d", API)


def test_an_open_breaker_wakes_by_itself_and_lets_the_oldest_waiter_try(
    harness: Callable[..., Harness],
) -> None:
    one = harness()
    one.open()
    until = one.start + 60
    assert one.tell(Request(API, "w")) == [Waiting("w", API, "open", until)]
    assert one.advance(59.9) == []
    assert one.advance(0.2) == [Transition(API, State.OPEN, State.HALF_OPEN, 0.0, 5), Granted("w", API)]


def test_a_rate_wakes_each_waiter_when_its_turn_comes(harness: Callable[..., Harness]) -> None:
    one = harness(default=BreakerPolicy(rate=0.5))
    one.tell(*(Request(API, number) for number in range(4)))
    assert [one.advance(2.0) for _ in range(3)] == [[Granted(number, API)] for number in (1, 2, 3)]
    assert one.clock.pending() == 0


def test_wakeups_do_not_pile_up(harness: Callable[..., Harness]) -> None:
    one = harness(policies={"slow": BreakerPolicy(rate=0.001)}, default=BreakerPolicy(rate=1.0))
    one.tell(*(Request("slow", number) for number in range(3)))
    one.tell(*(Request(API, f"fast {number}") for number in range(300)))
    for _ in range(200):
        one.advance(1)
    assert one.clock.pending() <= 2


def test_the_snapshot_shows_each_endpoint(harness: Callable[..., Harness]) -> None:
    one = harness(policies={"mcp": BreakerPolicy(max_concurrent=1)})
    one.tell(Request("mcp", "a"), Request("mcp", "b"), Request("mcp", "c"))
    one.open()
    assert one.status() == {
        API: EndpointStatus(API, State.OPEN, 5, one.start + 60, 0, 0),
        "mcp": EndpointStatus("mcp", State.CLOSED, 0, 0.0, 1, 2),
    }


def test_restoring_and_configuring_take_effect_at_once(harness: Callable[..., Harness]) -> None:
    one = harness()
    assert one.tell(Restore(API, "open", one.start + 30)) == [
        Transition(API, State.CLOSED, State.OPEN, one.start + 30, 0)
    ]
    one.tell(Configure(API, BreakerPolicy(open_s=5.0)))
    assert one.advance(5.0) == [Transition(API, State.OPEN, State.HALF_OPEN, 0.0, 0)]


def test_retry_after_is_passed_on(harness: Callable[..., Harness]) -> None:
    one = harness()
    one.tell(Request(API, "a"), Report(API, "a", ok=False, retry_after_s=12.0))
    assert one.tell(Request(API, "b")) == [Waiting("b", API, "rate", one.start + 12)]
    assert one.advance(12.0) == [Granted("b", API)]


@pytest.mark.parametrize("set_back", [500.0, 86_400.0])
def test_a_clock_set_back_changes_nothing_about_how_long_a_breaker_is_open(
    harness: Callable[..., Harness], set_back: float
) -> None:
    one = harness()
    one.open()
    one.advance(20.0)
    one.clock.set(one.clock.now() - set_back)
    assert one.advance(39.9) == []
    assert one.advance(0.2) == [Transition(API, State.OPEN, State.HALF_OPEN, 0.0, 5)]


def test_a_clock_set_forward_does_not_lengthen_the_wait(harness: Callable[..., Harness]) -> None:
    one = harness()
    one.open()
    one.clock.set(one.clock.now() + 86_400)
    assert one.advance(60.0)[0] == Transition(API, State.OPEN, State.HALF_OPEN, 0.0, 5)


def test_transitions_are_logged(harness: Callable[..., Harness], caplog: pytest.LogCaptureFixture) -> None:
    one = harness(default=BreakerPolicy(successes=1))
    with caplog.at_level(logging.INFO, logger="sage_actors.actors.breaker.actor"):
        one.open()
        one.advance(60.0)
        one.tell(Request(API, "probe"), Report(API, "probe", ok=True))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "endpoint 'api': closed -> open until 2023-11-14T22:14:20+00:00, after 5 consecutive failures",
        ),
        ("INFO", "endpoint 'api': open -> half_open"),
        ("INFO", "endpoint 'api': half_open -> closed"),
    ]


def test_an_endpoint_that_a_run_had_left_open_is_logged_as_that(
    harness: Callable[..., Harness], caplog: pytest.LogCaptureFixture
) -> None:
    one = harness()
    one.tell(Restore(API, "open", one.start + 30))
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint 'api': closed -> open until 2023-11-14T22:13:50+00:00, as its run had left it"
    ]


def test_stopping_answers_everyone_who_waits(harness: Callable[..., Harness]) -> None:
    one = harness(default=BreakerPolicy(max_concurrent=1))
    one.tell(Request(API, "held"), Request(API, "w1"), Request(API, "w2"))
    one.ref.stop(timeout=DEADLINE_S)
    assert one.events[-2:] == [
        Refused("w1", API, "the breaker was stopped"),
        Refused("w2", API, "the breaker was stopped"),
    ]


def test_requests_behind_the_stop_are_answered_too(harness: Callable[..., Harness]) -> None:
    at_it, go = threading.Event(), threading.Event()
    seen: list[Event] = []

    def deliver(event: Event) -> None:
        seen.append(event)
        if event == Granted("first", API):
            at_it.set()
            assert go.wait(DEADLINE_S)

    one = harness(deliver=deliver)
    one.ref.tell(Request(API, "first"))
    assert at_it.wait(DEADLINE_S)
    stopped = one.ref.stop(block=False)
    one.ref.tell(Request(API, "late"))
    asked = one.ref.ask(Snapshot(), block=False)
    go.set()
    stopped.get(timeout=DEADLINE_S)
    with pytest.raises(pykka.ActorDeadError):
        asked.get(timeout=DEADLINE_S)
    assert seen[-1] == Refused("late", API, "the breaker was stopped")


def test_a_settle_is_answered_behind_what_went_before_even_behind_the_stop() -> None:
    """A run waits for it: without an answer its journal would never be closed."""
    at_it, go = threading.Event(), threading.Event()
    seen: list[Event] = []

    def deliver(event: Event) -> None:
        seen.append(event)
        if event == Granted("first", API):
            at_it.set()
            assert go.wait(DEADLINE_S)

    one = BreakerActor.start({}, BreakerPolicy(failures=1), FakeClock(), deliver)
    one.tell(Request(API, "first"))
    one.tell(Report(API, "first", ok=False))
    one.tell(Settle(7))
    assert at_it.wait(DEADLINE_S)
    stopped = one.stop(block=False)
    one.tell(Settle(8))
    go.set()
    stopped.get(timeout=DEADLINE_S)
    assert [type(each) for each in seen] == [Granted, Transition, Settled, Settled]
    assert [each.run for each in seen if isinstance(each, Settled)] == [7, 8]


def test_a_failing_breaker_answers_everyone_who_waits(
    harness: Callable[..., Harness], caplog: pytest.LogCaptureFixture
) -> None:
    answers: queue.Queue[Event] = queue.Queue()
    one = harness(default=BreakerPolicy(max_concurrent=1), deliver=answers.put)
    for token in ("held", "waiter"):
        one.ref.tell(Request(API, token))
    one.ref.tell(Request(API, []))  # type: ignore[arg-type]  # no token: unhashable
    last = [answers.get(timeout=DEADLINE_S) for _ in range(3)][-1]
    assert isinstance(last, Refused)
    assert (last.token, "unhashable" in last.reason) == ("waiter", True)


def test_a_listener_that_fails_takes_no_slot_and_no_other_answer_with_it(
    harness: Callable[..., Harness], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []

    def deliver(event: Event) -> None:
        if event == Granted("unlucky", API):
            raise RuntimeError("no such run")
        seen.append(event)

    one = harness(default=BreakerPolicy(max_concurrent=1), deliver=deliver)
    one.tell(Request(API, "a"), Request(API, "unlucky"), Request(API, "c"), Report(API, "a", ok=True))
    assert seen[-1] == Granted("c", API)
    assert "could not be delivered" in caplog.text


def test_with_the_machines_clock_its_own_timer_wakes_it_and_ends_with_it(
    harness: Callable[..., Harness],
) -> None:
    events: queue.Queue[Event] = queue.Queue()
    policy = BreakerPolicy(failures=1, open_s=0.05)
    one = harness(default=policy, deliver=events.put, clock=SystemClock(), call_at=None)
    one.ref.tell(Request(API, "a"))
    one.ref.tell(Report(API, "a", ok=False))
    one.ref.tell(Request(API, "b"))
    seen = [events.get(timeout=DEADLINE_S) for _ in range(5)]
    assert [type(event) for event in seen] == [Granted, Transition, Waiting, Transition, Granted]
    one.ref.tell(Report(API, "b", ok=False))  # open again: the timer waits
    timers = [thread for thread in threading.enumerate() if thread.name == "breaker-timer"]
    assert timers
    one.ref.stop(timeout=DEADLINE_S)
    assert not any(thread.is_alive() for thread in timers)


def test_many_askers_at_once_never_hold_more_than_the_limit(harness: Callable[..., Harness]) -> None:
    limit, each, askers = 3, 200, 4
    holding, most, ended = set[object](), [0], threading.Semaphore(0)
    one: Harness

    def deliver(event: Event) -> None:
        if isinstance(event, Granted):
            holding.add(event.token)
            most[0] = max(most[0], len(holding))
            work.put(event.token)

    def caller() -> None:
        while (token := work.get(timeout=DEADLINE_S)) is not None:
            holding.discard(token)
            one.ref.tell(Report(API, token, ok=True))
            ended.release()

    def asker(number: int) -> None:
        for count in range(each):
            one.ref.tell(Request(API, (number, count)))

    work: queue.Queue[Any] = queue.Queue()
    one = harness(default=BreakerPolicy(max_concurrent=limit), deliver=deliver)
    callers = [threading.Thread(target=caller, daemon=True) for _ in range(limit)]
    for thread in callers:
        thread.start()
    for number in range(askers):
        threading.Thread(target=asker, args=(number,), daemon=True).start()
    assert all(ended.acquire(timeout=DEADLINE_S) for _ in range(each * askers))
    for _ in callers:
        work.put(None)
    for thread in callers:
        thread.join(DEADLINE_S)
    assert most[0] <= limit
    assert (one.status()[API].in_use, one.status()[API].waiting) == (0, 0)

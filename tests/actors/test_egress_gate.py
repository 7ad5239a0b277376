"""The breaker in front of the egress proxy: the real breaker actor, and a proxy that asks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pykka
import pytest
from egress_harness import Origin, status, world

from sage_actors.actors.breaker.actor import (
    BreakerActor,
    BreakerPolicy,
    EndpointStatus,
    Event,
    Granted,
    Request,
    Snapshot,
)
from sage_actors.actors.clock import SystemClock
from sage_actors.actors.egress.gate import BreakerGate

pytestmark = pytest.mark.requirement("ORCH-023")


class Breaker:
    """The actor, with its events led to the gate."""

    def __init__(self, policy: BreakerPolicy, **options: Any) -> None:
        self.others: list[Event] = []
        self.gate = BreakerGate(lambda message: self.ref.tell(message), **options)
        self.ref = BreakerActor.start({}, policy, SystemClock(), self._deliver)

    def _deliver(self, event: Event) -> None:
        if not self.gate.deliver(event):
            self.others.append(event)

    def endpoints(self) -> dict[str, EndpointStatus]:
        found: Any = self.ref.ask(Snapshot(), timeout=5)
        return dict(found)

    def in_use(self) -> int:
        return sum(each.in_use + each.waiting for each in self.endpoints().values())


@pytest.fixture
def started() -> Iterator[list[Breaker]]:
    found: list[Breaker] = []
    yield found
    pykka.ActorRegistry.stop_all(timeout=5)


def make(started: list[Breaker], policy: BreakerPolicy, **options: Any) -> Breaker:
    started.append(Breaker(policy, **options))
    return started[-1]


def test_a_permit_is_held_until_the_call_ends(started: list[Breaker]) -> None:
    breaker = make(started, BreakerPolicy(max_concurrent=1), patience_s=0.2)

    async def calls() -> None:
        first = await breaker.gate.ask("a.test:443")
        assert callable(first)
        assert await breaker.gate.ask("a.test:443") == 1.0  # not within our patience
        waiting = asyncio.create_task(breaker.gate.ask("a.test:443"))
        await asyncio.sleep(0)
        first(True)
        second = await waiting
        assert callable(second)
        second(None)

    asyncio.run(calls())
    assert breaker.in_use() == 0


def test_failures_open_it_and_it_says_for_how_long(started: list[Breaker]) -> None:
    breaker = make(started, BreakerPolicy(failures=2, open_s=60.0))

    async def calls() -> float:
        for _ in range(2):
            permit = await breaker.gate.ask("a.test:443")
            assert callable(permit)
            permit(False)
        refused = await breaker.gate.ask("a.test:443")
        assert isinstance(refused, float)
        other = await breaker.gate.ask("b.test:443")
        assert callable(other)
        other(True)
        return refused

    started_at = time.monotonic()
    assert 50 < asyncio.run(calls()) <= 60
    assert time.monotonic() - started_at < 5  # it did not wait for that
    assert breaker.in_use() == 0


def test_what_is_cancelled_leaves_the_line(started: list[Breaker]) -> None:
    breaker = make(started, BreakerPolicy(max_concurrent=1))

    async def calls() -> None:
        first = await breaker.gate.ask("a.test:443")
        waiting = asyncio.create_task(breaker.gate.ask("a.test:443"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert callable(first)
        first(True)

    asyncio.run(calls())
    assert breaker.in_use() == 0


def test_events_for_others_are_not_taken(started: list[Breaker]) -> None:
    breaker = make(started, BreakerPolicy())
    breaker.ref.tell(Request("a.test:443", ("run", 1)))
    breaker.in_use()
    assert [type(each) for each in breaker.others] == [Granted]


def test_a_proxy_asks_before_it_connects_and_counts_hosts_that_are_gone(started: list[Breaker]) -> None:
    breaker = make(started, BreakerPolicy(failures=2, open_s=60.0))
    with world(gate=breaker.gate) as net, Origin() as origin:
        there = {"host": "127.0.0.1", "port": origin.port, "private": True}
        token = net.grant(there, "gone.test:443")
        assert [status(net.connect(token, "gone.test:443")) for _ in range(2)] == [502, 502]
        answer = net.connect(token, "gone.test:443")
        assert status(answer) == 503
        assert b"X-Sage-Egress: waiting" in answer
        assert b"Retry-After: " in answer
        assert status(net.ask(token, f"GET http://127.0.0.1:{origin.port}/ HTTP/1.1\r\nHost: a\r\n")) == 200
        assert status(net.connect(token, "evil.test:443")) == 403  # the breaker is not asked about those
        assert "evil.test:443" not in breaker.endpoints()


def test_a_breaker_that_stopped_lets_nothing_through(started: list[Breaker]) -> None:
    breaker = make(started, BreakerPolicy())
    with world(gate=breaker.gate) as net, Origin() as origin:
        token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
        breaker.ref.stop()
        assert status(net.ask(token, f"GET http://127.0.0.1:{origin.port}/ HTTP/1.1\r\nHost: a\r\n")) == 500
        assert origin.seen == []

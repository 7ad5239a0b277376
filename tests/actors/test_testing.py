"""The fake clock keeps the contract of the real one, and time moves only when told."""

from __future__ import annotations

import pytest

from sage_actors.actors.clock import Clock
from sage_actors.testing import FakeClock


def test_time_stands_still_until_it_is_advanced() -> None:
    clock: Clock = FakeClock(now=100.0)
    assert (clock.now(), clock.monotonic()) == (100.0, 0.0)
    assert isinstance(clock, FakeClock)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 2.5)


def test_setting_the_time_of_day_leaves_monotonic_time() -> None:
    clock = FakeClock(now=100.0)
    clock.advance(1)
    clock.set(50.0)
    clock.advance(1)
    assert (clock.now(), clock.monotonic()) == (51.0, 2.0)


def test_what_is_due_is_called_in_order_each_at_its_moment() -> None:
    clock, seen = FakeClock(now=0.0), list[tuple[str, float]]()
    clock.call_at(3.0, lambda: seen.append(("third", clock.monotonic())))
    clock.call_at(1.0, lambda: seen.append(("first", clock.monotonic())))
    clock.call_at(1.0, lambda: seen.append(("second", clock.monotonic())))
    clock.call_at(9.0, lambda: seen.append(("never", clock.monotonic())))
    clock.advance(5)
    assert seen == [("first", 1.0), ("second", 1.0), ("third", 3.0)]
    assert (clock.monotonic(), clock.pending()) == (5.0, 1)


def test_a_callback_may_ask_to_be_called_again() -> None:
    clock, seen = FakeClock(), list[float]()

    def again() -> None:
        seen.append(clock.monotonic())
        clock.call_at(clock.monotonic() + 1, again)

    clock.call_at(1.0, again)
    clock.advance(3.5)
    assert seen == [1.0, 2.0, 3.0]


def test_a_deadline_that_is_past_is_called_at_the_next_advance() -> None:
    clock, seen = FakeClock(), list[float]()
    clock.advance(10)
    clock.call_at(4.0, lambda: seen.append(clock.monotonic()))
    clock.advance(0)
    assert seen == [10.0]


def test_time_does_not_pass_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        FakeClock().advance(-1)

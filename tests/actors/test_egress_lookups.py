"""Names that are looked up in threads: each once at a time, and a few for each who asks."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from sage_actors.actors.egress.lookups import Lookups, NoRoom, new_room

pytestmark = pytest.mark.requirement("ORCH-023")
PATIENCE_S = 10.0


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Names:
    """Answers "10.0.0.N" to the Nth question, once it is released."""

    def __init__(self, *, released: bool = False) -> None:
        self.asked: list[tuple[str, int]] = []
        self.released = threading.Event()
        if released:
            self.released.set()

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        number = len(self.asked)
        assert self.released.wait(PATIENCE_S)
        if host == "missing":
            raise OSError("no such name")
        return [f"10.0.0.{number}"]


@in_a_loop
async def test_a_name_is_looked_up_once_for_all_who_ask_at_the_same_time() -> None:
    names = Names()
    lookups = Lookups(names.resolve)
    asked = [asyncio.create_task(lookups.ask("a", 443, new_room(), PATIENCE_S)) for _ in range(100)]
    other = asyncio.create_task(lookups.ask("a", 80, new_room(), PATIENCE_S))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    names.released.set()
    assert {tuple(each) for each in await asyncio.gather(*asked)} == {("10.0.0.1",)}
    assert await other == ["10.0.0.2"]
    assert names.asked == [("a", 443), ("a", 80)]


@in_a_loop
async def test_it_is_looked_up_anew_afterwards() -> None:
    names = Names(released=True)
    lookups = Lookups(names.resolve)
    room = new_room()
    assert [await lookups.ask("a", 443, room, PATIENCE_S) for _ in range(9)][-1] == ["10.0.0.9"]
    for _ in range(9):
        with pytest.raises(OSError, match="no such name"):
            await lookups.ask("missing", 443, room, PATIENCE_S)


@in_a_loop
async def test_who_has_no_room_waits_alone() -> None:
    names = Names()
    lookups = Lookups(names.resolve)
    room = new_room()
    hanging = [asyncio.create_task(lookups.ask(f"h{i}", 443, room, PATIENCE_S)) for i in range(9)]
    await asyncio.sleep(0)
    with pytest.raises(NoRoom):
        await lookups.ask("a", 443, room, 0.05)
    with pytest.raises(TimeoutError):  # a room of its own
        await lookups.ask("a", 443, new_room(), 0.05)
    assert len(names.asked) == 5
    names.released.set()
    await asyncio.gather(*hanging)
    assert await lookups.ask("a", 443, room, PATIENCE_S)


@in_a_loop
async def test_what_hung_for_one_is_tried_anew_for_the_next() -> None:
    names = Names()
    lookups = Lookups(names.resolve)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await lookups.ask("a", 443, new_room(), 0.05)
    names.released.set()
    assert await lookups.ask("a", 443, new_room(), PATIENCE_S)
    assert len(names.asked) == 3


@in_a_loop
async def test_rooms_of_many_are_bounded_together() -> None:
    names = Names()
    lookups = Lookups(names.resolve)
    rooms = [new_room() for _ in range(100)]
    asked = [asyncio.create_task(lookups.ask(f"h{i}", 443, room, PATIENCE_S)) for i, room in enumerate(rooms)]
    await asyncio.sleep(0)
    with pytest.raises(NoRoom):
        await lookups.ask("a", 443, new_room(), 0.05)
    assert len(names.asked) == 64
    names.released.set()
    await asyncio.gather(*asked)
    assert len(names.asked) == 100


@in_a_loop
async def test_who_leaves_keeps_nothing_but_the_thread() -> None:
    names = Names()
    lookups = Lookups(names.resolve)
    room = new_room()
    asked = [asyncio.create_task(lookups.ask(f"h{i}", 443, room, PATIENCE_S)) for i in range(9)]
    await asyncio.sleep(0.05)
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    names.released.set()
    for _ in range(5):
        assert await lookups.ask("a", 443, room, PATIENCE_S)
    assert len(names.asked) == 9

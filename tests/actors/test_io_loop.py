"""The loop that an actor serves while its mailbox is empty."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest
from pool_harness import wait_until

from sage_actors.actors.mailbox import MailboxActor
from sage_actors.actors.pool.io_loop import READ, LoopInbox


class Served(MailboxActor):
    """Notes its messages, and in which thread it got them."""

    actor_inbox: LoopInbox  # pyright: ignore[reportIncompatibleVariableOverride]

    @staticmethod
    def _create_actor_inbox() -> Any:
        return LoopInbox()

    def __init__(self, seen: list[Any]) -> None:
        super().__init__()
        self.seen = seen

    def on_start(self) -> None:
        self.actor_inbox.loop.adopt()

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, Callable):  # type: ignore[arg-type]
            return message(self)
        self.seen.append((message, threading.current_thread().name))
        return message

    def on_stop(self) -> None:
        self.actor_inbox.loop.stop()


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def actor(seen: list[Any]) -> Iterator[pykka.ActorRef[Served]]:
    ref = Served.start(seen)
    yield ref
    if ref.is_alive():
        ref.stop(timeout=10)


def loop_of(actor: pykka.ActorRef[Served]) -> Any:
    return actor.ask(lambda me: me.actor_inbox.loop, timeout=10)


def test_a_message_wakes_an_actor_that_waits_for_descriptors(
    actor: pykka.ActorRef[Served], seen: list[Any]
) -> None:
    time.sleep(0.05)  # it waits by now
    assert actor.ask("one", timeout=10) == "one"


def test_many_senders_lose_nothing(actor: pykka.ActorRef[Served], seen: list[Any]) -> None:
    def send(sender: int) -> None:
        for number in range(2_000):
            actor.tell((sender, number))
            if number % 97 == 0:
                time.sleep(0.0005)  # so that the actor falls asleep now and then

    threads = [threading.Thread(target=send, args=(each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    wait_until(lambda: len(seen) == 8_000)
    for sender in range(4):
        assert [message[1] for message, _ in seen if message[0] == sender] == list(range(2_000))


def test_descriptors_timers_and_commands_are_served_in_the_actors_thread_while_it_waits(
    actor: pykka.ActorRef[Served], seen: list[Any]
) -> None:
    loop = loop_of(actor)
    read, write = os.pipe()

    def readable(_: int) -> None:
        actor.tell(os.read(read, 10))

    loop.post(lambda: loop.watch(read, READ, readable))
    loop.call_at(time.monotonic() + 0.05, lambda: actor.tell("timer"))
    os.write(write, b"x")
    wait_until(lambda: len(seen) == 2)
    loop.post(lambda: loop.unwatch(read))
    assert {message for message, _ in seen} == {b"x", "timer"}
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.current_thread().name
    os.close(read)
    os.close(write)


def test_a_full_mailbox_does_not_starve_descriptors(actor: pykka.ActorRef[Served]) -> None:
    """An actor that sends itself a message with each message still serves its loop."""
    loop, served, going = loop_of(actor), threading.Event(), [True]

    def again(me: Served) -> None:
        if going[0]:
            me.actor_ref.tell(again)

    actor.tell(again)
    loop.post(served.set)
    try:
        assert served.wait(10)
    finally:
        going[0] = False


def test_a_broken_callback_ends_neither_the_loop_nor_the_actor(
    actor: pykka.ActorRef[Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    loop_of(actor).post(lambda: 1 / 0)
    assert actor.ask("alive", timeout=10) == "alive"
    wait_until(lambda: reported)
    assert reported[0].exc_type is ZeroDivisionError


def test_an_actor_that_ended_leaves_no_descriptor_open_and_answers_who_still_asks(seen: list[Any]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ref = Served.start(seen)
    blocked = threading.Event()
    ref.tell(lambda me: blocked.wait(10))
    asked = ref.ask("late", block=False)
    stopped = ref.stop(block=False)
    unanswered = ref.ask("after the stop", block=False)
    blocked.set()
    assert asked.get(timeout=10) == "late"
    assert stopped.get(timeout=10)
    with pytest.raises(pykka.ActorDeadError):
        unanswered.get(timeout=10)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)

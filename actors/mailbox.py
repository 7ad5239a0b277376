"""The inbox of our actors: Pykka's contract on the interpreter's own queue, much faster than `queue.Queue`.

Pykka's actor loop takes one message at a time. Whoever takes more at once (the state actor's group commit)
puts back, in front, what it must not handle itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import pykka

__all__ = ["Inbox", "MailboxActor"]


class Inbox:
    """Many producers, one consumer. Only the consumer calls anything but `put`."""

    __slots__ = ("_front", "_queue", "put")

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._front: deque[Any] = deque()
        self.put: Callable[[Any], None] = self._queue.put

    def get(self) -> Any:
        """The next message; waits for one."""
        return self._front.popleft() if self._front else self._queue.get()

    def get_nowait(self) -> Any:
        """The next message. queue.Empty if there is none."""
        return self._front.popleft() if self._front else self._queue.get_nowait()

    def put_back(self, messages: list[Any]) -> None:
        """These come next, in this order."""
        self._front.extendleft(reversed(messages))

    def take_all(self, most: float = math.inf) -> list[Any]:
        """Everything that waits, or the first `most` of it."""
        taken: list[Any] = []
        try:
            while len(taken) < most:
                taken.append(self.get_nowait())
        except Empty:
            pass
        return taken

    def empty(self) -> bool:
        return not self._front and self._queue.empty()

    def qsize(self) -> int:
        return len(self._front) + self._queue.qsize()


class MailboxActor(pykka.ThreadingActor):
    """A Pykka actor with that inbox, in a daemon thread: a program that forgets to stop it can still end."""

    use_daemon_thread = True
    actor_inbox: Inbox  # pyright: ignore[reportIncompatibleVariableOverride]

    @staticmethod
    def _create_actor_inbox() -> Any:
        return Inbox()

"""A worker as the engine sees it: what it holds, and whether it may have more."""

from __future__ import annotations

import math

from sage_actors.actors.operations.types import CROWDED, LANES

__all__ = ["AHEAD_US", "ASYNC_ROWS", "MOST_ROWS", "OWN", "Key", "Worker"]

Key = tuple[int, int, int]  # run, node, attempt: the fencing token

OWN = LANES.index("own")  # a worker takes one task, and ends with it
AHEAD_US = 1000.0  # work that is handed to a worker ahead of time
MOST_ROWS = 512  # tasks in one worker's queue
ASYNC_ROWS = 1024  # coroutines in one async worker


class Worker:
    """One worker as the engine sees it. tasks: what it holds, in order, with the operation's number."""

    __slots__ = (
        "check_at",
        "doomed",
        "dying",
        "giving_back",
        "head_since",
        "is_async",
        "lane",
        "load_us",
        "loaded",
        "number",
        "overrun",
        "ready",
        "solo",
        "tasks",
        "was_solo",
    )

    def __init__(self, number: int, lane: int) -> None:
        self.number, self.lane = number, lane
        self.is_async = lane in CROWDED
        self.tasks: dict[Key, int] = {}
        self.load_us = 0.0
        self.head_since = 0.0
        self.solo = False
        self.was_solo = False  # what it did last ran alone
        self.giving_back = False
        self.check_at = math.inf
        self.overrun = False  # its head takes long: nothing is queued behind it
        self.dying = ""
        self.ready = False
        self.loaded: set[int] = set()  # operations that it has imported
        self.doomed: Key | None = None  # the attempt that it is killed for

    def accepts(self) -> bool:
        if self.dying or self.solo or self.giving_back or self.overrun:
            return False
        if self.is_async:
            return len(self.tasks) < ASYNC_ROWS
        if self.lane == OWN:
            return not self.tasks
        return self.load_us < AHEAD_US / 2 and len(self.tasks) < MOST_ROWS

    def is_idle(self) -> bool:
        return not (self.tasks or self.dying or self.giving_back)

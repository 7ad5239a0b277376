"""Fake workers: they begin, finish, hang, crash and answer when the seed says so, as the pool protocol allows.

What a real worker promises is kept: commands arrive in order, events leave in order, a result is flushed before
any other event of its worker, what had not left when the worker died never does, and WorkerLost comes last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.wire import FAILED, OK, Evidence, error_map
from simulation.definitions import Fate, value_of

__all__ = ["FakeWorker", "Judge"]

Key = tuple[int, int, int]


class Judge(Protocol):
    """Who knows the fates, and watches what is executed."""

    def begins(self, worker: FakeWorker, row: tuple[Any, ...]) -> Fate: ...
    def finished(self, row: tuple[Any, ...], *, well: bool, value: Any = None) -> None: ...
    def operation_of(self, number: int) -> OperationSpec: ...


@dataclass(slots=True)
class Task:
    row: tuple[Any, ...]
    how: str  # what happens next: ok, error, limit, hang or crash
    began_at: float = 0.0

    @property
    def key(self) -> Key:
        return self.row[0], self.row[1], self.row[2]


@dataclass(slots=True)
class FakeWorker:
    number: int
    is_async: bool
    judge: Judge
    inbox: deque[tuple[str, Any]] = field(default_factory=deque)
    queue: deque[tuple[Any, ...]] = field(default_factory=deque)
    executing: dict[Key, Task] = field(default_factory=dict)
    results: list[list[Any]] = field(default_factory=list)
    out: deque[tuple[Any, ...]] = field(default_factory=deque)
    cancelled: set[Key] = field(default_factory=set)
    imported: set[int] = field(default_factory=set)  # operations
    ending: str = ""
    ready: bool = False
    lost: bool = False

    # What the engine asks for

    def tell(self, command: str, payload: Any = None) -> None:
        if not self.lost:
            self.inbox.append((command, payload))

    # What may happen next

    def start(self) -> None:
        self.ready = True
        self.out.append(("ready",))

    def read(self) -> None:
        """One command arrives."""
        command, payload = self.inbox.popleft()
        if command == "tasks":
            self.queue.extend(payload)
        elif command == "give_back":
            keys = [(row[0], row[1], row[2]) for row in self.queue]
            self.queue.clear()
            self.flush()
            self.out.append(("given_back", keys))
        else:
            self._cancel(payload)

    def _cancel(self, keys: list[Key]) -> None:
        waiting = {(row[0], row[1], row[2]) for row in self.queue}
        for key in keys:
            if key in waiting:
                self.cancelled.add(key)
            elif self.is_async and key in self.executing and self.executing[key].how != "hang":
                task = self.executing.pop(key)  # one that hangs swallows the cancellation
                self._fail(task, "OperationCancelled", "cancelled")

    def may_begin(self) -> bool:
        return bool(self.ready and self.queue and (self.is_async or not self.executing))

    def begin(self, now: float) -> None:
        row = self.queue.popleft()
        key = (row[0], row[1], row[2])
        if key in self.cancelled:
            self.cancelled.discard(key)
            error = error_map("OperationCancelled", "cancelled before it started")
            self.results.append([*key, FAILED, 0, error, None])
            return
        if row[3] not in self.imported:
            self.imported.add(row[3])
            self.out.append(("begun", key))
        fate = self.judge.begins(self, row)
        self.executing[key] = Task(row, fate.kind, now)

    def may_finish(self) -> list[Task]:
        return [task for task in self.executing.values() if task.how in ("ok", "error")]

    def finish(self, task: Task) -> None:
        del self.executing[task.key]
        if task.how == "ok":
            value = value_of(task.row[4], unpack(task.row[7]))
            usage = {"input_tokens": 1, "output_tokens": 2, "cost": 0.5} if task.row[1] % 3 == 0 else None
            self.results.append([*task.key, OK, 1 + task.row[1] % 7 * 40, pack(value), usage])
            self.judge.finished(task.row, well=True, value=value)
        else:
            self._fail(task, "SimError", "it failed")

    def time_out(self, task: Task) -> None:
        """Async workers enforce timeouts themselves."""
        del self.executing[task.key]
        self._fail(task, "TimeoutExceeded", "it took too long")

    def _fail(self, task: Task, kind: str, text: str) -> None:
        self.results.append([*task.key, FAILED, 1, error_map(kind, text), None])
        self.judge.finished(task.row, well=False)

    def flush(self) -> None:
        if self.results:
            self.out.append(("results", self.results))
            self.results = []

    def in_hand(self) -> list[Key]:
        """What it executes, has executed and not sent, or would execute next: from outside they look the same."""
        keys = [*self.executing, *((row[0], row[1], row[2]) for row in self.results)]
        waiting = [*self.queue, *(row for what, rows in self.inbox if what == "tasks" for row in rows)]
        if self.ready and waiting and (self.is_async or not keys):
            keys += [(row[0], row[1], row[2]) for row in (waiting if self.is_async else waiting[:1])]
        return keys

    def may_end_itself(self) -> list[Task]:
        """Tasks that take their worker along."""
        return [task for task in self.executing.values() if task.how in ("crash", "limit")]

    def die(self, evidence: Evidence, culprits: tuple[Key, ...] = ()) -> None:
        """Gone, with everything that was not sent yet."""
        self.lost = True
        self.executing.clear()
        self.queue.clear()
        self.inbox.clear()
        self.results.clear()
        self.out.append(("lost", evidence, culprits))

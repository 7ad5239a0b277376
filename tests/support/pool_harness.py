"""A real pool and its events, for tests: submit, and wait for what must come."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from places import SUPPORT

from sage_actors.actors.pool.pool import LocalPool
from sage_actors.actors.pool.protocol import PoolEvent, Results, WorkerKind, WorkerLost, WorkerReady
from sage_actors.messages.codec import pack, unpack

E = TypeVar("E")
Key = tuple[int, int, int]
DEADLINE_S = 60.0


def wait_until(condition: Callable[[], Any], timeout_s: float = DEADLINE_S, *, what: str = "") -> Any:
    """The first true value of `condition`, or a failed test."""
    until = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not in {timeout_s} s: {what or condition}"
        time.sleep(0.002)


def pid_exists(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def read_pid(path: Path) -> int:
    wait_until(path.exists, what=f"{path} is written")
    return int(path.read_text())


class PoolHarness:
    """`with PoolHarness(tmp_path) as pool:`; operations are named by what they call in operations.py."""

    def __init__(self, project: Path, **options: Any) -> None:
        self.events: queue.SimpleQueue[PoolEvent] = queue.SimpleQueue()
        self.seen: list[PoolEvent] = []
        options.setdefault("grace_s", 0.5)
        options.setdefault("sys_path", [str(SUPPORT), *sys.path])
        self.pool = LocalPool(project=project, deliver=self.events.put, **options)
        self._ops: dict[str, int] = {}
        self._next_node = 0
        self._taken: set[int] = set()

    def __enter__(self) -> PoolHarness:
        self.pool.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.close(0.0 if kind else 3.0)

    def worker(self, kind: WorkerKind = "blocking") -> int:
        number = self.pool.start_worker(kind)
        self.wait_for(WorkerReady, lambda event: event.worker == number)
        return number

    def submit(self, worker: int, name: str, *, timeout: float | None = None, **arguments: Any) -> Key:
        """Submits one call of `operations:name`; its key."""
        return self.submit_many(worker, name, [arguments], timeout=timeout)[0]

    def submit_many(
        self, worker: int, name: str, calls: list[dict[str, Any]], *, timeout: float | None = None
    ) -> list[Key]:
        op = self._ops.get(name) or self.define(name, {"type": "python", "call": f"operations:{name}"})
        rows = [self._row(op, arguments, timeout) for arguments in calls]
        self.pool.submit(worker, rows)
        return [(row[0], row[1], row[2]) for row in rows]

    def define(self, name: str, spec: dict[str, Any]) -> int:
        op = self._ops[name] = len(self._ops) + 1
        self.pool.define(op, spec)
        return op

    def submit_config(self, worker: int, type_name: str, config: dict[str, Any]) -> Key:
        """Submits an operation of another type than python."""
        op = self._ops.get(type_name) or self.define(type_name, {"type": type_name})
        row = self._row(op, {"config": config, "arguments": {}}, None)
        self.pool.submit(worker, [row])
        return row[0], row[1], row[2]

    def _row(self, op: int, arguments: dict[str, Any], timeout: float | None) -> Any:
        self._next_node += 1
        number = self._next_node
        return (7, number, 1, op, f"node-{number}", "run-1:uuid", timeout, pack(arguments))

    def wait_for(
        self, kind: type[E], which: Callable[[E], bool] = lambda _: True, timeout_s: float = DEADLINE_S
    ) -> E:
        """The first event of that kind, seen already or still to come, that no call returned before."""
        until = time.monotonic() + timeout_s
        position = 0
        while True:
            while position < len(self.seen):
                event = self.seen[position]
                if position not in self._taken and isinstance(event, kind) and which(event):
                    self._taken.add(position)
                    return event
                position += 1
            left = until - time.monotonic()
            assert left > 0, f"no {kind.__name__} in {timeout_s} s; seen: {self.lately()}"
            try:
                self.seen.append(self.events.get(timeout=left))
            except queue.Empty:
                continue

    def row(self, key: Key, timeout_s: float = DEADLINE_S) -> list[Any]:
        """The result row of an attempt."""

        def find() -> list[Any] | None:
            for event in self.seen:
                if isinstance(event, Results):
                    for row in event.rows:
                        if (row[0], row[1], row[2]) == key:
                            return row
            return None

        until = time.monotonic() + timeout_s
        while (found := find()) is None:
            left = until - time.monotonic()
            assert left > 0, f"no result of {key} in {timeout_s} s; seen: {self.lately()}"
            try:
                self.seen.append(self.events.get(timeout=left))
            except queue.Empty:
                continue
        return found

    def value(self, key: Key, timeout_s: float = DEADLINE_S) -> Any:
        """What the attempt returned."""
        row = self.row(key, timeout_s)
        assert row[3] == 0, f"failed: {row[5]}"
        return unpack(row[5])

    def error(self, key: Key, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """The error map of the attempt."""
        row = self.row(key, timeout_s)
        assert row[3] == 1, f"did not fail: {row[5]!r}"
        failure: dict[str, Any] = row[5]
        return failure

    def lost(self, worker: int, timeout_s: float = DEADLINE_S) -> WorkerLost:
        return self.wait_for(WorkerLost, lambda event: event.worker == worker, timeout_s)

    def lately(self) -> list[str]:
        """What was seen last, each cut short: a result may have 60 MiB."""
        return [str(event)[:1000] for event in self.seen[-10:]]

    def pid(self, worker: int) -> int:
        """Of a worker that is ready."""
        for event in self.seen:
            if isinstance(event, WorkerReady) and event.worker == worker:
                return event.pid
        raise AssertionError(f"worker {worker} is not ready")

    def output(self, key: Key, *streams: str) -> str:
        """What the attempt printed, of those events that came up to now."""
        from sage_actors.actors.pool.protocol import Logs

        return "".join(
            row[4]
            for event in self.seen
            if isinstance(event, Logs)
            for row in event.rows
            if (row[0], row[1], row[2]) == key and (not streams or row[3] in streams)
        )


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))

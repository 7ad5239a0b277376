"""A blocking worker: executes `def` operations one after the other in its main thread.

The I/O thread (link.py) hands tasks over; the main thread executes, so that signal handlers and what
libraries expect of a main thread hold. SIGTERM raises OperationTerminated in the running operation, whose
`finally` blocks run; then the worker ends.
"""

from __future__ import annotations

import functools
import os
import queue
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CoroutineType
from typing import Any

import sage_actors
from sage_actors.actors.operations.attempt_error import describe_error
from sage_actors.actors.operations.context import OperationTerminated, Task
from sage_actors.actors.operations.types import Runner, RunnerSettings, create_runner
from sage_actors.actors.workers.limit_hits import tell_limit
from sage_actors.actors.workers.link import Link
from sage_actors.actors.workers.output import UNKNOWN, LogBook, OutputPipes
from sage_actors.actors.workers.preloaded import forget_beside
from sage_actors.actors.workers.redaction import DEFAULT_POLICY, Redactor, add_note
from sage_actors.actors.workers.source_loader import search_first
from sage_actors.messages.codec import MAX_RESULT_BYTES, pack
from sage_actors.messages.errors import OperationCancelled, ProtocolError, ResultError
from sage_actors.messages.limits import limit_error, limit_hit
from sage_actors.messages.secret_scan import SecretsPolicy
from sage_actors.messages.secret_values import LEAST_CHARS
from sage_actors.messages.wire import FAILED, OK, Kind

__all__ = [
    "BlockingWorker",
    "OperationTable",
    "ProjectFolder",
    "Settings",
    "find_user_modules",
    "main",
    "pack_result",
]

Key = tuple[int, int, int]
TERMINATED = 128 + signal.SIGTERM
_ERROR_BYTES = 1024  # of an error in a group of results, about
_NOTICEABLE_S = 50e-6  # after a task that took longer its output is read at once
_NO_LIMITS: Mapping[str, Any] = {}
_LOOKS = 1000  # values that are looked at before a result is packed
_TEXTS = frozenset((str, bytes, bytearray))
_LONG = _TEXTS | {dict, list, tuple}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a worker is told by the keeper. out_fd, err_fd: read ends of its own output.

    user_paths: where the modules of `python` operations are, besides the project and sys.path.
    """

    number: int
    project: str
    main_path: str | None
    user_paths: tuple[str, ...]
    out_fd: int
    err_fd: int


def main(sock: socket.socket, settings: Settings) -> int:
    """Works until told to stop; returns the exit code."""
    enter_project(settings.project)
    worker = BlockingWorker(sock, settings)
    return worker.run()


def enter_project(project: str) -> None:
    """Operations run in the project directory."""
    sage_actors.in_worker = True  # type: ignore[attr-defined]
    os.chdir(project)


def find_user_modules(settings: Settings, search_paths: Iterable[str] = ()) -> None:
    """From now on imports find what is in the project, before all else, as a script finds what is beside it.

    Only a worker that is to call something there may do so: a repository holds files named `ast.py` or a folder
    `httpx`, and what this package imports for itself must never be those.
    """
    for path in reversed((*search_paths, *settings.user_paths, settings.project)):
        search_first(path)
        forget_beside(path)


def pack_result(value: object, node_id: str, most: int = MAX_RESULT_BYTES) -> bytes:
    """The packed result.

    Raises:
        ResultError: it cannot be carried.
        LimitExceeded: it is larger than `most` bytes.
    """
    packed = b""
    size = _least_bytes(value, most)
    if size <= most:
        try:
            packed = pack(value)
        except ResultError:
            packed = pack(value, what=f"the result of node {node_id!r}")
        size = len(packed)
    if size > most:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise limit_error(
            limit_hit("result", most, size),
            where=f"the result of node {node_id!r} ({kind})",
            hint="write it to a file and return its path",
        )
    return packed


def _least_bytes(value: object, most: int) -> int:
    """What the texts that a look finds in it need: to pack a gigabyte only to refuse it would take two more."""
    if type(value) not in _LONG:
        return 0
    total = 0
    todo: list[Any] = [value]
    for _ in range(_LOOKS):
        if not todo or total > most:
            break
        each = todo.pop()
        kind = type(each)
        if kind in _TEXTS:
            total += len(each)
        elif kind is dict:
            todo += islice(each.values(), _LOOKS)
        elif kind in _LONG:
            todo += each[:_LOOKS]
    return total


class OperationTable:
    """What the operation numbers mean in this worker; runners are made at the first use."""

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        self._worker = settings
        self.redactor = redactor
        self._settings = RunnerSettings(project=settings.project, main_path=settings.main_path)
        self._specs: dict[int, dict[str, Any]] = {}
        self.runners: dict[int, Runner] = {}
        self.limited: set[int] = set()
        self._digests: dict[int, Any] = {}
        self._policies: dict[int, SecretsPolicy] = {}  # other than the default
        self._secret: set[int] = set()  # whose results stay in the supervisor's memory

    def update(self, rows: list[Any]) -> None:
        """[[op, spec], ...]; a spec of None forgets the operation."""
        for op, spec in rows:
            self.runners.pop(op, None)
            self.limited.discard(op)
            self._digests.pop(op, None)
            self._policies.pop(op, None)
            self._secret.discard(op)
            if spec is None:
                self._specs.pop(op, None)
                continue
            self._specs[op] = spec
            if spec.get("limits"):
                self.limited.add(op)
            if spec.get("digest"):
                self._digests[op] = spec["digest"]
            if spec.get("secret_outputs"):
                self._secret.add(op)
            if spec.get("secrets"):
                self._policies[op] = SecretsPolicy.from_dict(spec["secrets"])

    def pack(self, value: object, task: Task, op: int) -> bytes:
        """The packed result of a task without secrets: a digest of it where the operation declares one."""
        most = self._limits_of(op).get("result") or MAX_RESULT_BYTES
        if op in self._secret:
            return pack_result(value, task.node_id, most)
        digest, policy = self._digests.get(op), self._policies.get(op, DEFAULT_POLICY)
        if digest is None:
            packed = pack_result(value, task.node_id, most)
            if len(packed) <= LEAST_CHARS:
                return packed  # null, a number: not even a call
            packed, findings = self.redactor.result(packed, task.node_id, policy=policy)
            if findings:
                task.used = add_note(task.used, findings)
            return packed
        from sage_actors.actors.digesting import pack_digest  # sqlite and more, for those that digest

        return pack_digest(value, task, digest, self.redactor, policy, most)

    def error(self, error: BaseException, task: Task, op: int) -> dict[str, Any]:
        """The error map of a task that failed, without secrets. A limit that the kernel enforced is told as one."""
        is_python = self._specs.get(op, {}).get("type") == "python"
        plain = describe_error(error, self.redactor.text, runs_user_code=is_python)
        if op in self.limited:
            plain = tell_limit(plain, self._limits_of(op))
        described, findings = self.redactor.value(plain)
        task.used = add_note(task.used, findings)
        return dict(described)

    def _limits_of(self, op: int) -> Mapping[str, Any]:
        return self._specs[op]["limits"] if op in self.limited else _NO_LIMITS

    def runner(self, op: int) -> Runner:
        found = self.runners.get(op)
        if found is None:
            spec = self._specs.get(op)
            if spec is None:
                raise ProtocolError(f"operation {op} was never defined")
            if spec.get("type") == "python":
                find_user_modules(self._worker, spec.get("search_paths") or ())
            found = self.runners[op] = create_runner(spec, self._settings)
        return found


class ProjectFolder:
    """The way back, where an operation called os.chdir: the next one is not to start somewhere else.

    To ask the kernel before each task would cost a small node a tenth of its time, so the calls are noticed.
    """

    def __init__(self) -> None:
        self.was_left = False
        self._descriptor = os.open(".", os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
        self._go = os.fchdir
        for name in ("chdir", "fchdir"):
            setattr(os, name, self._noticed(getattr(os, name)))

    def enter(self) -> None:
        self._go(self._descriptor)
        self.was_left = False

    def _noticed(self, change: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(change)
        def noticed(*args: Any, **kwargs: Any) -> None:
            self.was_left = True
            change(*args, **kwargs)

        return noticed


class BlockingWorker:
    """One task at a time. See the module's text."""

    def __init__(self, sock: socket.socket, settings: Settings) -> None:
        redactor = Redactor()
        redactor.learn_variables(os.environ)
        self._book = LogBook(redactor)
        self._pipes = OutputPipes(settings.out_fd, settings.err_fd, self._book)
        self._link = Link(sock, self._pipes, self._book, Path(settings.project))
        self._table = OperationTable(settings, redactor)
        self._settings = settings
        # Rows (lists), inspections (tuples), and None: the end
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._task: Task | None = None
        self._executing = False
        self._terminated = False
        self._cancelled: set[Key] = set()
        self._project = ProjectFolder()

    def run(self) -> int:
        self._pipes.install()
        signal.signal(signal.SIGTERM, self._on_terminate)
        self._link.send(Kind.READY, [os.getpid(), "blocking"])
        self._link.start(self)
        try:
            self._work()
        except OperationTerminated:
            pass
        self._link.flush()
        return TERMINATED if self._terminated else 0

    def _work(self) -> None:
        take, wait = self._queue.get_nowait, self._queue.get
        while True:
            try:
                item = take()
            except queue.Empty:
                item = wait()
            if item is None or self._terminated:
                return
            if type(item) is list:
                self._execute(item)
            else:
                self._inspect(*item)

    def _execute(self, row: list[Any]) -> None:
        started = time.monotonic()
        task = self._task = Task(row, self._link, started)
        if task.secrets:
            self._table.redactor.learn(task.secrets)
        payload: Any
        try:
            if self._project.was_left:
                self._project.enter()
            if row[3] not in self._table.runners:
                started = self._load(task, row[3])
            payload = self._call(task, row[3])
            status, size = OK, len(payload)
        except OperationTerminated:
            self._pipes.settle(task.key)
            raise
        except BaseException as error:  # noqa: BLE001 - the border: SystemExit of user code is its failure
            payload = self._table.error(error, task, row[3])
            status, size = FAILED, _ERROR_BYTES
        ended = time.monotonic()
        more = not self._queue.empty()
        # A look at the pipes is a system call: what writes there behind Python's back in a few microseconds
        # is booked with the group of results that it leaves in.
        if ended - started > _NOTICEABLE_S or not more or self._pipes.is_marked or self._link.is_due(ended):
            self._pipes.settle(task.key)
        self._book.end(task.key)
        self._task = None
        micros = int((ended - started) * 1e6)
        self._link.add_result([*row[:3], status, micros, payload, task.used], size, more=more, now=ended)

    def _load(self, task: Task, op: int) -> float:
        """Imports what an operation needs, the first time. Its time, and its timeout, begin after that."""
        self._executing = True
        try:
            self._table.runner(op)
        finally:
            self._executing = False
        task.started = time.monotonic()
        self._link.send(Kind.BEGUN, list(task.key))
        return task.started

    def _call(self, task: Task, op: int) -> bytes:
        if self._cancelled and task.key in self._cancelled:
            self._cancelled.discard(task.key)
            raise OperationCancelled(f"node {task.node_id!r} was cancelled before it started")
        table = self._table
        try:
            self._executing = True
            if op in table.limited:
                self._link.send(Kind.HEARTBEAT, [list(task.key)])
            value = (table.runners.get(op) or table.runner(op)).run(task)
            if type(value) is CoroutineType:
                import asyncio

                value = asyncio.run(value)
        finally:
            self._executing = False
        return table.pack(value, task, op)

    def _inspect(self, token: int, calls: list[str]) -> None:
        from sage_actors.actors.operations.python import inspect_call

        find_user_modules(self._settings)
        main_path = self._settings.main_path
        self._link.send(Kind.INSPECTED, [token, [inspect_call(call, main_path) for call in calls]])

    def _on_terminate(self, *_: object) -> None:
        if self._terminated:
            return
        self._terminated = True
        if self._executing:
            if self._task is not None:
                self._task.cancelled = True
            raise OperationTerminated
        self._queue.put(None)

    # Handler: called in the I/O thread

    def operations(self, rows: list[Any]) -> None:
        self._table.update(rows)

    def tasks(self, rows: list[Any]) -> None:
        for row in rows:
            self._queue.put(row)

    def give_back(self) -> list[Key]:
        keys, kept = [], []
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if type(item) is list:
                keys.append((item[0], item[1], item[2]))
            else:
                kept.append(item)
        for item in kept:
            self._queue.put(item)
        return keys

    def cancel(self, keys: list[Key]) -> None:
        task = self._task
        for key in keys:
            if task is not None and task.key == key:
                task.cancelled = True
            else:
                self._cancelled.add(key)

    def inspect(self, token: int, calls: list[str]) -> None:
        self._queue.put((token, calls))

    def stop(self) -> None:
        self._queue.put(None)

    def current_key(self) -> Key:
        task = self._task
        return UNKNOWN if task is None else task.key

    def tick(self) -> None:
        """Nothing to do here at intervals."""

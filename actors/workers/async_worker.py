"""An async worker: executes hundreds of `async def` operations at once on one event loop.

    I/O thread                                  main thread: the event loop
    hands tasks over   ---------------------->  one asyncio task each
    twice a second: does the loop still turn?   twice a second: HEARTBEAT, what executes
      no: BLOCKED, with the task that blocks    results leave at the next turn of the loop

A plain function that lands here runs in a thread, so that it blocks nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import signal
import socket
import sys
import time
import traceback
import weakref
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sage_actors.actors.garbage import collector_paused
from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.types import Runner
from sage_actors.actors.workers.link import Link
from sage_actors.actors.workers.output import UNKNOWN, AttributedStream, LogBook, OutputPipes
from sage_actors.actors.workers.redaction import Redactor
from sage_actors.actors.workers.worker import (
    TERMINATED,
    OperationTable,
    ProjectFolder,
    Settings,
    enter_project,
    find_user_modules,
)
from sage_actors.messages.errors import OperationCancelled, TimeoutExceeded
from sage_actors.messages.wire import FAILED, OK, Kind

__all__ = ["AsyncWorker", "main", "mcp_main"]

Key = tuple[int, int, int]
_HEARTBEAT_S = 0.5
_THREADS = 32
_TERMINATE_S = 30.0

_current_key: ContextVar[Key] = ContextVar("sage_attempt", default=UNKNOWN)


def main(sock: socket.socket, settings: Settings) -> int:
    """Works until told to stop; returns the exit code."""
    enter_project(settings.project)
    return asyncio.run(AsyncWorker(sock, settings).run())


def mcp_main(sock: socket.socket, settings: Settings) -> int:
    """The worker that holds every MCP session. What takes a second to import is there before its loop turns."""
    with collector_paused():
        import mcp  # noqa: F401

    return main(sock, settings)


class AsyncWorker:
    """See the module's text. Unless said otherwise, methods run in the loop's thread."""

    def __init__(self, sock: socket.socket, settings: Settings) -> None:
        redactor = Redactor()
        redactor.learn_variables(os.environ)
        self._book = LogBook(redactor)
        self._pipes = OutputPipes(settings.out_fd, settings.err_fd, self._book)
        self._link = Link(sock, self._pipes, self._book, Path(settings.project), tick_s=_HEARTBEAT_S)
        self._table = OperationTable(settings, redactor)
        self._settings = settings
        self._project = ProjectFolder()
        self._inbox: deque[list[Any]] = deque()
        self._running: dict[Key, tuple[asyncio.Task[None], Task]] = {}
        self._cancelled: set[Key] = set()
        self._keys: weakref.WeakKeyDictionary[Any, Key] = weakref.WeakKeyDictionary()
        self._threads: ThreadPoolExecutor | None = None
        self._stopping = False
        self._exit_code = 0
        self._turned_at = time.monotonic()
        self._flush_soon = False

    async def run(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._loop.set_task_factory(self._create_task)
        for name, fd in (("stdout", 1), ("stderr", 2)):
            stream = AttributedStream(name, fd, _current_key, self._book, self._link.wake)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        self._loop.add_signal_handler(signal.SIGTERM, self._terminate)
        self._link.send(Kind.READY, [os.getpid(), "async"])
        self._link.start(self)
        self._beat()
        await self._stopped.wait()
        self._link.flush()
        return self._exit_code

    def _create_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        """The task factory: remembers for whom each task works, those that operations start too."""
        task: Any = asyncio.Task(coroutine, loop=loop, **options)
        context = options.get("context")
        self._keys[task] = _current_key.get() if context is None else context.get(_current_key, UNKNOWN)
        return task

    # Executing

    def _start_tasks(self) -> None:
        while self._inbox:
            try:
                row = self._inbox.popleft()
            except IndexError:  # given back in this moment
                return
            task = Task(row, self._link, time.monotonic())
            if task.secrets:
                self._table.redactor.learn(task.secrets)
            context = contextvars.copy_context()
            context.run(_current_key.set, task.key)
            running = self._loop.create_task(self._execute(task, row[3]), context=context)
            self._running[task.key] = (running, task)
            if task.key in self._cancelled:
                self._cancelled.discard(task.key)
                _end(running, task)

    async def _execute(self, task: Task, op: int) -> None:
        payload: Any
        if self._project.was_left:
            self._project.enter()
        try:
            if task.cancelled:
                raise asyncio.CancelledError
            payload = self._table.pack(await self._call(task, op), task, op)
            status = OK
        except asyncio.CancelledError as error:
            payload, status = self._table.error(_explain_cancel(task, error), task, op), FAILED
        except BaseException as error:  # noqa: BLE001 - the border: SystemExit of user code is its failure
            payload, status = self._table.error(error, task, op), FAILED
        try:
            self._finish(task, status, payload)
        except Exception:  # noqa: BLE001 - a result that cannot be sent would be waited for without end
            traceback.print_exc(file=sys.__stderr__)
            os._exit(70)

    def _finish(self, task: Task, status: int, payload: Any) -> None:
        if len(self._running) == 1:
            # What C code and child processes printed is its own beyond doubt.
            self._pipes.drain(lambda: task.key)
        if self._project.was_left:  # those that run beside it were moved along: no longer than it lives
            self._project.enter()
        self._running.pop(task.key, None)
        self._book.end(task.key)
        now = time.monotonic()
        micros = int((now - task.started) * 1e6)
        size = len(payload) if status == OK else 1024
        row = [*task.key, status, micros, payload, task.used]
        self._link.add_result(row, size, more=True, now=now, wakes=False)
        if not self._flush_soon:
            self._flush_soon = True
            self._loop.call_soon(self._flush)
        if self._stopping:
            self._stop_if_idle()

    def _flush(self) -> None:
        self._flush_soon = False
        self._link.flush()

    async def _call(self, task: Task, op: int) -> Any:
        if op in self._table.limited:
            self._link.send(Kind.HEARTBEAT, [list(task.key)])
        runner = self._table.runners.get(op) or self._load(task, op)
        if task.timeout is None:
            return await self._run(runner, task)
        try:
            async with asyncio.timeout(task.timeout) as limit:
                return await self._run(runner, task)
        except TimeoutError as error:
            if not limit.expired():  # pyright: ignore[reportPossiblyUnboundVariable]
                raise
            task.cancelled = True
            raise TimeoutExceeded(
                f"node {task.node_id!r} took longer than its timeout of {task.timeout:g} s"
            ) from error

    def _load(self, task: Task, op: int) -> Runner:
        """Imports what an operation needs, the first time. Its time, and its timeout, begin after that."""
        runner = self._table.runner(op)
        task.started = time.monotonic()
        self._link.send(Kind.BEGUN, list(task.key))
        return runner

    async def _run(self, runner: Any, task: Task) -> Any:
        if runner.is_async:
            return await runner.run(task)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sage-operation")
        context = contextvars.copy_context()
        value = await self._loop.run_in_executor(self._threads, context.run, runner.run, task)  # pyright: ignore[reportArgumentType]
        return await value if asyncio.iscoroutine(value) else value

    # Ending

    def _terminate(self) -> None:
        """SIGTERM: every operation is cancelled and may clean up; then the worker ends."""
        self._exit_code = TERMINATED
        self._stopping = True
        self._inbox.clear()
        for running, task in list(self._running.values()):
            _end(running, task)
        self._loop.call_later(_TERMINATE_S, os._exit, TERMINATED)
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not self._running and not self._inbox:
            self._stopped.set()

    # Signs of life

    def _beat(self) -> None:
        self._turned_at = time.monotonic()
        self._link.send(Kind.HEARTBEAT, [list(key) for key in self._running])
        self._loop.call_later(_HEARTBEAT_S, self._beat)

    # Handler: called in the I/O thread

    def tick(self) -> None:
        late_s = time.monotonic() - self._turned_at
        if late_s > 1.5 * _HEARTBEAT_S:
            self._link.flush()  # what ended in the turn that does not
        if late_s < 3 * _HEARTBEAT_S:
            return
        blocking = asyncio.current_task(self._loop)
        key = UNKNOWN if blocking is None else self._keys.get(blocking, UNKNOWN)
        self._link.send(Kind.BLOCKED, [] if key == UNKNOWN else [list(key)])

    def operations(self, rows: list[Any]) -> None:
        self._table.update(rows)

    def tasks(self, rows: list[Any]) -> None:
        self._inbox.extend(rows)
        self._loop.call_soon_threadsafe(self._start_tasks)

    def give_back(self) -> list[Key]:
        keys = []
        while self._inbox:
            try:
                row = self._inbox.popleft()
            except IndexError:  # started in this moment
                break
            keys.append((row[0], row[1], row[2]))
        return keys

    def cancel(self, keys: list[Key]) -> None:
        self._loop.call_soon_threadsafe(self._cancel, keys)

    def _cancel(self, keys: list[Key]) -> None:
        """In the loop's thread."""
        waiting = {(row[0], row[1], row[2]) for row in self._inbox}
        for key in keys:
            running = self._running.get(key)
            if running is not None:
                _end(*running)
            elif key in waiting:
                self._cancelled.add(key)

    def inspect(self, token: int, calls: list[str]) -> None:
        self._loop.call_soon_threadsafe(self._inspect, token, calls)

    def _inspect(self, token: int, calls: list[str]) -> None:
        from sage_actors.actors.operations.python import inspect_call

        find_user_modules(self._settings)
        main_path = self._settings.main_path
        self._link.send(Kind.INSPECTED, [token, [inspect_call(call, main_path) for call in calls]])

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopping = True
        self._stop_if_idle()

    def current_key(self) -> Key:
        """Whose output it is: clear only while one operation executes."""
        try:
            (key,) = self._running
        except (ValueError, RuntimeError):
            return UNKNOWN
        return key


def _explain_cancel(task: Task, error: BaseException) -> BaseException:
    if not task.cancelled:
        return error
    cancelled = OperationCancelled(f"node {task.node_id!r} was cancelled")
    cancelled.__cause__ = error
    return cancelled


def _end(running: asyncio.Task[None], task: Task) -> None:
    """Cancels it. What has not taken its first step would never take it, and so never answer: it looks for itself."""
    task.cancelled = True
    coroutine = running.get_coro()
    if not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED:
        running.cancel()

"""What an operation may know and say while it runs: its parameter `context`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from sage_actors.actors.workers.output import safe_text
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import BreakerOpenError, UsageError
from sage_actors.messages.secret_values import MARK, take_over
from sage_actors.messages.wire_check import MOST_USED

__all__ = ["Context", "Guard", "OperationLog", "OperationTerminated", "Services", "Task"]

Key = tuple[int, int, int]
_NOTHING_USED = {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
_ROUNDING = 1e-6  # of a fraction that was added up


class OperationTerminated(BaseException):
    """Raised inside a blocking operation when its worker is told to end: lets `finally` blocks run.

    No Exception, so that `except Exception` does not swallow it; who does gets SIGKILL after the grace.
    """


class Services(Protocol):
    """What the worker offers to contexts."""

    project: Path

    def log(self, key: Key, text: str, stream: str = "log") -> None: ...
    def progress(self, key: Key, data: dict[str, Any]) -> None: ...
    def ask_guard(self, key: Key, endpoint: str, answer: Callable[[bool, Any], None]) -> int: ...
    def abandon_guard(self, token: int, endpoint: str) -> bool: ...
    def end_guard(self, token: int, endpoint: str, ok: bool) -> None: ...


class Task:
    """One task row as it is executed. `started` is monotonic."""

    __slots__ = (
        "cancelled",
        "key",
        "node_id",
        "packed",
        "run_key",
        "secrets",
        "services",
        "started",
        "timeout",
        "used",
    )

    def __init__(self, row: Any, services: Services, started: float) -> None:
        run, node, attempt, _, self.node_id, self.run_key, self.timeout, packed = row
        self.packed: bytes = packed
        self.secrets: list[tuple[str, str]] | tuple[()] = ()
        if packed[0] == MARK:
            self.packed, self.secrets = take_over(packed)
        self.key: Key = (run, node, attempt)
        self.services = services
        self.started = started
        self.cancelled = False
        self.used: dict[str, Any] | None = None

    def context(self) -> Context:
        return Context(self)


class OperationLog:
    """Lines for the run's log, beside what is printed. `log("text")` is `log.info("text")`."""

    __slots__ = ("_task",)

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, message: object, *args: object) -> None:
        self._write("INFO", message, args)

    def debug(self, message: object, *args: object) -> None:
        self._write("DEBUG", message, args)

    def info(self, message: object, *args: object) -> None:
        self._write("INFO", message, args)

    def warning(self, message: object, *args: object) -> None:
        self._write("WARNING", message, args)

    def error(self, message: object, *args: object) -> None:
        self._write("ERROR", message, args)

    def _write(self, level: str, message: object, args: tuple[object, ...]) -> None:
        text = str(message) % args if args else str(message)
        self._task.services.log(self._task.key, f"{level} {safe_text(text)}\n")


class Context:
    """Handed to an operation that has a parameter named `context`.

    run_id, node_id: as in the definition. attempt: 1 is the first.
    idempotency_key: the same on every attempt at this node of this run, and nowhere else.
    project: the project directory. deadline: a moment of `time.monotonic()`, or None without a timeout.

    Example:
        def publish(text: str, context: Context) -> str:
            with context.guard("blog-api"):
                return api.post(text, key=context.idempotency_key)
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.run_id: str = task.run_key.partition(":")[0]
        self.node_id: str = task.node_id
        self.attempt: int = task.key[2]
        self.idempotency_key: str = f"{task.run_key}:{task.node_id}"
        self.project: Path = task.services.project
        self.deadline: float | None = None if task.timeout is None else task.started + task.timeout
        self.log = OperationLog(task)

    @property
    def cancelled(self) -> bool:
        """Whether this attempt was asked to end. A long loop should look at it now and then."""
        return self._task.cancelled

    def progress(self, fraction: float | None = None, message: str = "", **data: Any) -> None:
        """Reports progress: a `fraction` from 0 to 1, a text, and further values that msgpack can carry.

        Raises:
            UsageError: `fraction` is not from 0 to 1.
            ResultError: something in `data` cannot be carried.
        """
        report: dict[str, Any] = dict(data)
        if fraction is not None:
            if not 0 <= fraction <= 1 + _ROUNDING:
                raise UsageError(f"context.progress: the fraction must be from 0 to 1, not {fraction!r}")
            report["fraction"] = min(float(fraction), 1.0)
        if message:
            report["message"] = safe_text(str(message))
        pack(report, what="the progress report")
        self._task.services.progress(self._task.key, report)

    def usage(self, *, input_tokens: int = 0, output_tokens: int = 0, cost: float = 0.0) -> None:
        """Adds to what this attempt used; `cost` in the currency of the budget. Counted for failures too.

        Raises:
            UsageError: a number is negative, not finite, or beyond what can be counted; nothing was added.
        """
        before = self._task.used or _NOTHING_USED
        added = {"input_tokens": int(input_tokens), "output_tokens": int(output_tokens), "cost": float(cost)}
        for name, number in added.items():
            if not (number >= 0 and before[name] + number <= MOST_USED):
                raise UsageError(
                    f"context.usage: {name} must be from 0 to {MOST_USED:,} in all, not {number!r}"
                )
        self._task.used = {**before, **{name: before[name] + number for name, number in added.items()}}

    def guard(self, endpoint: str) -> Guard:
        """Guards a call with the endpoint's circuit breaker: `with context.guard("api"):`, or `async with`.

        Raises (on entering):
            BreakerOpenError: it must not be called now.
        """
        return Guard(self._task, endpoint)


class Guard:
    """One guarded call. An exception inside counts as a failure of the endpoint, a cancel does not."""

    def __init__(self, task: Task, endpoint: str) -> None:
        self._task = task
        self._endpoint = endpoint
        self._token = -1
        self._answer: tuple[bool, Any] | None = None

    def __enter__(self) -> None:
        done = threading.Event()
        self._ask(lambda _: done.set())
        try:
            done.wait()
        except BaseException:
            self._abandon()
            raise
        self._check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ok = kind is None or not issubclass(kind, Exception)
        self._task.services.end_guard(self._token, self._endpoint, ok)

    async def __aenter__(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        self._ask(lambda _: loop.call_soon_threadsafe(done.set))
        try:
            await done.wait()
        except BaseException:
            self._abandon()
            raise
        self._check()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _ask(self, wake: Callable[[None], object]) -> None:
        def answer(granted: bool, error: Any) -> None:
            self._answer = (granted, error)
            wake(None)

        self._token = self._task.services.ask_guard(self._task.key, self._endpoint, answer)

    def _abandon(self) -> None:
        services = self._task.services
        waited = services.abandon_guard(self._token, self._endpoint)
        if not waited and self._answer is not None and self._answer[0]:
            services.end_guard(self._token, self._endpoint, True)

    def _check(self) -> None:
        granted, error = self._answer or (False, None)
        if granted:
            return
        details = error if isinstance(error, dict) else {}
        refused = BreakerOpenError(details.get("message") or f"the breaker of {self._endpoint} is open")
        if details.get("retry_after") is not None:
            refused.retry_after = details["retry_after"]  # type: ignore[attr-defined]
        raise refused

"""Operations that the tests of the engine run: they leave traces in files, and obey files."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from sage_actors.actors.operations.context import Context
from sage_actors.messages.definition import Limits, RetryPolicy
from sage_actors.messages.errors import BreakerOpenError
from sage_actors.supervisor.definitions.operation import operation


def echo(value: Any = None) -> Any:
    return value


def add(left: int, right: int) -> int:
    return left + right


def total(numbers: list[int]) -> int:
    return sum(numbers)


def numbers(count: int) -> list[int]:
    return list(range(count))


def boom(text: str = "broken") -> None:
    raise ValueError(text)


def mark(path: str, value: Any = None) -> Any:
    """Each call leaves a line, so that a test can count them."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return value


def mark_and_wait_for(path: str, gate: str, value: Any = None) -> Any:
    """Leaves its line, then waits until the file `gate` is there."""
    mark(path)
    wait_for(gate)
    return value


def wait_for(gate: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not Path(gate).exists():
        if time.monotonic() > until:
            raise TimeoutError(gate)
        time.sleep(0.002)


async def mark_and_wait_async(path: str, gate: str, value: Any = None) -> Any:
    mark(path)
    while not Path(gate).exists():
        await asyncio.sleep(0.002)
    return value


async def echo_async(value: Any = None) -> Any:
    await asyncio.sleep(0)
    return value


def fail_until(path: str, times: int, value: Any = None) -> Any:
    """Fails the first `times` calls."""
    mark(path)
    calls = len(Path(path).read_text().splitlines())
    if calls <= times:
        raise RuntimeError(f"call {calls}")
    return value


def fail_while(gate: str, value: Any = None) -> Any:
    """Fails as long as the file `gate` is missing."""
    if not Path(gate).exists():
        raise RuntimeError("not yet")
    return value


def mark_then_fail_while(path: str, gate: str, value: Any = None) -> Any:
    mark(path)
    return fail_while(gate, value)


def busy(path: str, retry_after: float) -> str:
    mark(path)
    if len(Path(path).read_text().splitlines()) == 1:
        error = RuntimeError("busy")
        error.retry_after = retry_after  # type: ignore[attr-defined]
        raise error
    return "through"


def die_until(path: str, times: int, value: Any = None) -> Any:
    """Kills its worker the first `times` calls."""
    mark(path)
    if len(Path(path).read_text().splitlines()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return value


def overlap(directory: str, seconds: float = 0.05) -> int:
    """How many calls were inside at once, as this one saw it."""
    own = Path(directory) / f"{os.getpid()}-{time.monotonic_ns()}"
    own.touch()
    time.sleep(seconds)
    seen = len(list(Path(directory).iterdir()))
    own.unlink()
    return seen


async def overlap_async(directory: str, seconds: float = 0.05) -> int:
    own = Path(directory) / f"{os.getpid()}-{time.monotonic_ns()}"
    own.touch()
    await asyncio.sleep(seconds)
    seen = len(list(Path(directory).iterdir()))
    own.unlink()
    return seen


def fail_if(value: Any, bad: Any) -> Any:
    if value == bad:
        raise ValueError(f"{value} is bad")
    return value


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def note_order(path: str, name: str) -> str:
    with Path(path).open("a") as file:
        file.write(f"{name}\n")
    return name


def say(text: str) -> str:
    print(text)
    return text


def supervise(project: str) -> None:
    from sage_actors import Supervisor

    Supervisor(project).close()


def who(context: Context) -> dict[str, Any]:
    return {
        "run": context.run_id,
        "node": context.node_id,
        "attempt": context.attempt,
        "key": context.idempotency_key,
        "project": str(context.project),
    }


def note_key(path: str, gate: str, context: Context) -> None:
    """Notes the idempotency key and the attempt, then waits for the gate."""
    with Path(path).open("a") as file:
        file.write(f"{context.idempotency_key} {context.attempt}\n")
    wait_for(gate)


def spend(context: Context, tokens: int) -> int:
    context.usage(input_tokens=tokens, output_tokens=1, cost=0.5)
    return tokens


def spend_and_fail_while(context: Context, tokens: int, gate: str) -> None:
    context.usage(input_tokens=tokens, output_tokens=1, cost=0.5)
    fail_while(gate)


def guarded(context: Context, endpoint_name: str, fail: bool) -> str:
    with context.guard(endpoint_name):
        if fail:
            raise ValueError("the other side")
    return "called"


def blame(context: Context, endpoint_name: str, times: int) -> int:
    """How often a call of the endpoint was allowed; each fails."""
    for allowed in range(times):
        try:
            guarded(context, endpoint_name, fail=True)
        except BreakerOpenError:
            return allowed
        except ValueError:
            pass
    return times


def environment() -> dict[str, str]:
    return dict(os.environ)


def blob(size: int) -> bytes:
    return bytes(size)


def length(value: bytes) -> int:
    return len(value)


def unpackable() -> Any:
    return {"rows": [1, object()]}


def length_of(secret: str) -> int:
    return len(secret)


@operation(timeout=30, retry=2)
def decorated(path: str) -> str:
    mark(path)
    if len(Path(path).read_text().splitlines()) == 1:
        raise RuntimeError("the first time")
    return "second"


@operation(
    timeout=timedelta(minutes=5), retry=RetryPolicy(max_attempts=5, on=("OSError",)), limits=Limits(files=64)
)
def with_policies() -> int:
    return 1


@operation(effect="once")
def pay(path: str, gate: str = "", value: Any = "paid") -> Any:
    """Leaves its line; with a gate, hangs until the gate is there."""
    mark(path)
    if gate:
        wait_for(gate)
    return value


@operation(effect="once")
def pay_and_die(path: str) -> None:
    mark(path)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def note_and_fail(log: str, i: int) -> None:
    """Leaves a line, then fails."""
    with open(log, "a") as file:
        file.write(f"{i}\n")
    raise RuntimeError("the other side is down")


def has_imported(module: str) -> bool:
    return module in sys.modules


async def sleep_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def refuse_to_end(path: str, seconds: float) -> str:
    """Cancelled or not, it takes its time."""
    mark(path)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(until - time.monotonic())
        except asyncio.CancelledError:
            mark(path)
    return "ended when it liked"


def with_odd_key() -> dict[Any, Any]:
    return {"a": [{(1, 2): 3}]}


class Untold(Exception):
    @property
    def retryable(self) -> bool:
        raise RuntimeError("not even this")

    def __str__(self) -> str:
        raise SystemExit("no text")


async def fail_untold() -> None:
    raise Untold

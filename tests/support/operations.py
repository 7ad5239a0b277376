"""Operations that the tests of workers and pools run in real worker processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sage_actors.actors.operations.context import Context

PLAIN = 42  # no callable


def nothing() -> None:
    """The no-op whose cost is the engine's own."""


def echo(value: Any = None) -> Any:
    return value


def add(left: int, right: int) -> int:
    return left + right


def fail(text: str = "broken") -> None:
    raise ValueError(text)


def fail_with(retry_after: float) -> None:
    error = RuntimeError("busy")
    error.retry_after = retry_after  # type: ignore[attr-defined]
    error.details = {"status": 429}  # type: ignore[attr-defined]
    raise error


def fail_inside() -> int:
    return add(1)  # type: ignore[call-arg] # a TypeError that is not about the operation's own call


def leave() -> None:
    sys.exit("enough")


def unpackable() -> Any:
    return {"rows": [1, {"when": object()}]}


def large(size: int) -> bytes:
    return bytes(size)


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def touch_and_sleep(path: str, seconds: float = 60.0) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(seconds)


def clean_up(started: str, cleaned: str) -> None:
    try:
        touch_and_sleep(started)
    finally:
        Path(cleaned).write_text("done")


def swallow_everything(started: str) -> None:
    while True:
        try:
            Path(started).write_text("x")
            time.sleep(60)
        except BaseException:  # noqa: BLE001
            continue


def die(code: int = 7) -> None:
    os._exit(code)


def kill_self(number: int = signal.SIGKILL) -> None:
    print("last words")
    os.kill(os.getpid(), number)
    time.sleep(60)


def crash() -> None:
    ctypes.string_at(0)


def stubborn_family(directory: str) -> None:
    """A child in the group that ignores SIGTERM, one in its own session, and a double-forked daemon."""
    here = Path(directory)
    script = "trap '' TERM INT HUP; echo $$ > {0}.tmp; mv {0}.tmp {0}; while :; do sleep 0.05; done"
    subprocess.Popen(["sh", "-c", script.format(here / "child")])
    subprocess.Popen(["sh", "-c", script.format(here / "session")], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (here / "daemon.tmp").write_text(str(os.getpid()))
            (here / "daemon.tmp").rename(here / "daemon")
            time.sleep(600)
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / "worker.tmp").write_text(str(os.getpid()))
    (here / "worker.tmp").rename(here / "worker")
    time.sleep(600)


def leave_daemon(directory: str, end: str) -> None:
    """Leaves a daemon and ends as told."""
    here = Path(directory)
    script = f"echo $$ > {here}/left.tmp; mv {here}/left.tmp {here}/left; exec sleep 600"
    subprocess.Popen(["sh", "-c", script], start_new_session=True)
    while not (here / "left").exists():
        time.sleep(0.005)
    if end == "die":
        os._exit(3)


def say(text: str) -> str:
    print(text)
    return text


def say_everywhere(name: str) -> None:
    print(f"print {name}")
    print(f"error {name}", file=sys.stderr)
    os.write(1, f"write {name}\n".encode())
    subprocess.run(["sh", "-c", f"echo child {name}"], check=True)
    sys.stdout.write(f"partial {name}")


def shout(count: int) -> None:
    line = "x" * 99
    for _ in range(count):
        print(line)


def print_from_c(size: int) -> None:
    """Writes as C code does that keeps the interpreter lock: no other thread of this process can run."""
    data = b"x" * size
    ctypes.PyDLL(None).write(1, data, len(data))


def grow(megabytes: int, *, children: int = 0, seconds: float = 30.0) -> None:
    """Holds memory, in this process or shared out among children."""
    if not children:
        _block = bytearray(os.urandom(1)) * (megabytes << 20)
        time.sleep(seconds)
        return
    code = f"b = bytearray(b'x') * ({megabytes // children} << 20); import time; time.sleep({seconds})"
    started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(children)]
    for each in started:
        each.wait()


def burn(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))


def burn_in_short_children(seconds: float) -> None:
    until = time.monotonic() + seconds
    code = "import time\nwhile time.process_time() < 0.15: pass"
    while time.monotonic() < until:
        subprocess.run([sys.executable, "-S", "-c", code], check=True)


def breed(count: int) -> None:
    started = [subprocess.Popen(["sleep", "30"]) for _ in range(count)]
    for each in started:
        each.wait()


def describe(context: Context) -> dict[str, Any]:
    return {
        "run_id": context.run_id,
        "node_id": context.node_id,
        "attempt": context.attempt,
        "key": context.idempotency_key,
        "project": str(context.project),
        "deadline": context.deadline is not None,
        "cancelled": context.cancelled,
    }


def report(context: Context) -> None:
    context.progress(0.5, "half", step=3)
    context.log("a line of %s", "log")
    context.usage(input_tokens=10, output_tokens=2, cost=0.5)
    context.usage(input_tokens=1)


def misreport(method: str, given: dict[str, float], context: Context) -> None:
    context.usage(input_tokens=1)
    getattr(context, method)(**given)


def wander(to: str) -> list[str]:
    before = os.getcwd()
    os.chdir(to)
    return [before, os.getcwd()]


async def wander_async(to: str) -> list[str]:
    return wander(to)


def use_and_fail(context: Context) -> None:
    context.usage(input_tokens=5)
    raise ValueError("after using")


def wait_for_cancel(started: str, context: Context) -> str:
    Path(started).write_text("x")
    while not context.cancelled:
        time.sleep(0.005)
    return "saw it"


def guarded(endpoint: str, context: Context, *, broken: bool = False) -> str:
    with context.guard(endpoint):
        if broken:
            raise ConnectionError("no answer")
        return "called"


async def guarded_async(endpoint: str, context: Context) -> str:
    async with context.guard(endpoint):
        return "called"


def where_am_i() -> dict[str, Any]:
    return {
        "cwd": os.getcwd(),
        "main_thread": threading.current_thread() is threading.main_thread(),
        "key": os.environ.get("SAGE_STATE_KEY"),
        "other": os.environ.get("SAGE_TEST_VARIABLE"),
        "pid": os.getpid(),
        "session": os.getsid(0),
    }


async def nothing_async() -> None:
    """The no-op of async workers."""


async def sleep_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail_async(text: str = "broken") -> None:
    await asyncio.sleep(0)
    raise ValueError(text)


async def block_loop(seconds: float) -> None:
    await asyncio.sleep(0)
    time.sleep(seconds)


async def block_at_once(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


async def block_in_subtask(seconds: float) -> None:
    await asyncio.create_task(block_loop(seconds))


async def say_slowly(name: str) -> None:
    for number in range(3):
        print(f"{name} {number}")
        await asyncio.sleep(0.01)


async def clean_up_async(started: str, cleaned: str) -> None:
    try:
        Path(started).write_text("x")
        await asyncio.sleep(600)
    finally:
        Path(cleaned).write_text("done")


class Counter:
    """Stands for a decorated operation: an object that is called, with a policy."""

    policy = {"timeout": 3, "retry": 2}  # noqa: RUF012

    def __init__(self) -> None:
        self.__wrapped__ = sleep_async

    async def __call__(self, seconds: float) -> float:
        return await sleep_async(seconds)


decorated = Counter()

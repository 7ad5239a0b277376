"""What the benchmarks let workers do. Workers import this: nothing heavy here."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

_HELD_S = 600.0


def noop() -> None:
    """The node whose whole cost is the engine's."""


def sleep(seconds: float) -> None:
    time.sleep(seconds)


async def async_sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def stamp() -> int:
    """The moment at which the node ran, in ns of the clock that all processes share."""
    return time.monotonic_ns()


def gate(reached: str, go: str) -> None:
    """Hold everything that waits for this node until the file `go` is there."""
    announce(reached)
    until = time.monotonic() + _HELD_S
    while not os.path.exists(go) and time.monotonic() < until:
        time.sleep(0.002)


def hold(reached: str) -> None:
    """Say when it started; never come back in time."""
    announce(reached)
    time.sleep(_HELD_S)


def hold_once(reached: str, context: Any) -> int:
    """The first attempt tells its pid and waits to be killed, the next one says when it started."""
    began = time.monotonic_ns()
    if context.attempt == 1:
        announce(reached, str(os.getpid()))
        time.sleep(_HELD_S)
    return began


def announce(path: str, text: str = "") -> None:
    """Put a file there whole; by default it says what time it is."""
    content = text or str(time.monotonic_ns())
    part = Path(f"{path}.part")
    part.write_text(content)
    part.rename(path)

"""The graph of the comparison, its nodes, and how an engine's file says what it took. Standard library only.

An engine's file is run as `FILE NODES WIDTH MODE DIRECTORY` and ends with a line of JSON. MODE is a number of runs to
take the time of, or `start` or `resume`: the run that is killed, and the program that is started after that.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_TRACE = os.environ.get("RIVAL_TRACE", "")
_HELD_S = 0.02
_KILLED = "killed"


@dataclass(frozen=True)
class Runs:
    """What an engine's file can do: both are given the name of a run, and say how many nodes it had at its end.

    resume: what the engine's documentation says to do after a crash; None is to start the run again. close: called at
    the end.
    """

    run: Callable[[str], int]
    resume: Callable[[str], int] | None = None
    close: Callable[[], object] = lambda: None


def parents(number: int, width: int) -> tuple[int, ...]:
    """In layers of `width`, a node waits for the one above it and for that one's neighbour."""
    if number < width:
        return ()
    row, column = divmod(number, width)
    above = (row - 1) * width
    return tuple({above + column, above + (column + 1) % width})


def work(number: int) -> int:
    """A node. It does nothing, except in the run that is killed: there it takes 20 ms and leaves two lines."""
    if _TRACE:
        traced(_TRACE, number)
    return 1


async def async_work(number: int) -> int:
    """The same for an engine that has an event loop."""
    if _TRACE:
        note(_TRACE, "began", number)
        await asyncio.sleep(_HELD_S)
        note(_TRACE, "ended", number)
    return 1


def traced(trace: str, number: int) -> None:
    note(trace, "began", number)
    time.sleep(_HELD_S)
    note(trace, "ended", number)


def note(trace: str, what: str, number: int) -> None:
    """One write, so that lines of many processes do not mix; a kill -9 cannot take it back."""
    fd = os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, f"{what} {number}\n".encode())
    finally:
        os.close(fd)


def measured(
    package: str, durability: Callable[[Path], str], prepare: Callable[[int, int, Path], Runs]
) -> None:
    """The main program of an engine's file.

    durability: says what is on disk when a node counts as done, asked after the runs with the directory.
    prepare: makes the engine and its graph of (nodes, width) with its state in a directory. Its time is not counted.
    """
    nodes, width = map(int, sys.argv[1:3])
    mode, directory = sys.argv[3], Path(sys.argv[4])
    runs = prepare(nodes, width, directory)
    try:
        took = _carried_out(package, runs, nodes, mode)
    finally:
        runs.close()
    said = {"us": took, "version": _version(package), "durability": durability(directory)}
    print(json.dumps(said), flush=True)


def _carried_out(package: str, runs: Runs, nodes: int, mode: str) -> list[float]:
    if mode.isdigit():
        return _times(package, runs.run, nodes, int(mode))
    carry_out = runs.resume if mode == "resume" and runs.resume else runs.run
    _complete(package, carry_out(_KILLED), nodes)
    return []


def _times(package: str, run: Callable[[str], int], nodes: int, repeats: int) -> list[float]:
    """Microseconds per node of each run, after one that is not counted."""
    _complete(package, run("warm-up"), nodes)
    took = []
    for number in range(repeats):
        began = time.perf_counter()
        run(f"run-{number}")
        took.append((time.perf_counter() - began) / nodes * 1e6)
    return took


def _complete(package: str, ran: int, nodes: int) -> None:
    if ran != nodes:
        raise SystemExit(f"{package} ran {ran} nodes of {nodes}")


def _version(package: str) -> str:
    return version(package) if package != "python" else sys.version.split()[0]


def journal_mode(file: Path) -> str:
    """Of an SQLite database: `wal`, or a rollback journal."""
    with sqlite3.connect(file) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

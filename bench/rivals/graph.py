"""The graph of the comparison, and how a rival's file says what it took. Standard library only.

A rival's file is run as `FILE NODES WIDTH REPEATS DIRECTORY`; its last line is JSON: {"us": [per node, ...],
"version": ..., "durability": ...}.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def parents(number: int, width: int) -> tuple[int, ...]:
    """In layers of `width`, a node waits for the one above it and for that one's neighbour."""
    if number < width:
        return ()
    row, column = divmod(number, width)
    above = (row - 1) * width
    return tuple({above + column, above + (column + 1) % width})


def measured(
    package: str, durability: Callable[[Path], str], prepare: Callable[[int, int, Path], Callable[[str], int]]
) -> None:
    """Prints what the engine took.

    durability: says what is on disk when a node counts as done, asked after the runs with the directory.
    prepare: makes the engine and its graph of (nodes, width) with its state in a directory; gives a function that
    carries out a run of that name and says how many nodes ran. What it does before is not counted.
    """
    nodes, width, repeats = map(int, sys.argv[1:4])
    directory = Path(sys.argv[4])
    run = prepare(nodes, width, directory)
    ran = run("warm-up")
    if ran != nodes:
        raise SystemExit(f"{package} ran {ran} nodes of {nodes}")
    took = []
    for number in range(repeats):
        began = time.perf_counter()
        run(f"run-{number}")
        took.append((time.perf_counter() - began) / nodes * 1e6)
    print(
        json.dumps({"us": took, "version": version(package), "durability": durability(directory)}), flush=True
    )


def journal_mode(file: Path) -> str:
    """Of an SQLite database: `wal`, or a rollback journal."""
    with sqlite3.connect(file) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

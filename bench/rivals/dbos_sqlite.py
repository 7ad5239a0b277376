"""DBOS on SQLite, as it comes or with a write-ahead log: a workflow whose steps are the nodes, each written when done.

There is no graph: the workflow's own code waits for a layer before it begins the next.
"""

# Of an environment that the type checkers do not see.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from pathlib import Path

from dbos import DBOS, DBOSConfig, SetWorkflowID
from graph import Runs, async_work, journal_mode, measured


@DBOS.step()
async def noop(number: int) -> int:
    return await async_work(number)


@DBOS.workflow()
async def layers(nodes: int, width: int) -> int:
    ran = 0
    for first in range(0, nodes, width):
        ran += sum(await asyncio.gather(*(noop(each) for each in range(first, min(nodes, first + width)))))
    return ran


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    logging.disable(logging.WARNING)
    if os.environ.get("DBOS_JOURNAL") == "wal":
        with sqlite3.connect(directory / "dbos.sqlite") as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # the file keeps it
    config: DBOSConfig = {
        "name": "layers",
        "system_database_url": f"sqlite:///{directory / 'dbos.sqlite'}",
        "run_admin_server": False,
    }
    DBOS(config=config)
    DBOS.launch()  # recovers what was pending

    def run(name: str) -> int:
        with SetWorkflowID(name):
            return asyncio.run(layers(nodes, width))

    def resume(name: str) -> int:
        return int(DBOS.retrieve_workflow(name).get_result(polling_interval_sec=0.05))

    return Runs(run, resume)


def durability(directory: Path) -> str:
    mode = journal_mode(directory / "dbos.sqlite")
    return f"a transaction a step, SQLite {mode}; the steps of a layer at once in one event loop"


if __name__ == "__main__":
    measured("dbos", durability, prepare)

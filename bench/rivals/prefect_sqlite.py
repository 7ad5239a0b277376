"""Prefect 3 as it comes, on the server that it starts for itself: results persisted, task runs tracked in SQLite.

A task's cache key is its inputs and its source, not the id of the flow run, as its guide to caching says for what is to
outlive a run: that is how a flow that is started again after a crash finds what was done.
"""

# Of an environment that the type checkers do not see.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import os
import sys
from pathlib import Path

_HOME = Path(sys.argv[4]) / "prefect"
os.environ |= {  # read when prefect is imported
    "PREFECT_HOME": str(_HOME),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "DO_NOT_TRACK": "1",
}
os.environ.pop("PREFECT_API_URL", None)

from graph import Runs, journal_mode, measured, parents, work  # noqa: E402
from prefect import flow, task  # noqa: E402
from prefect.cache_policies import INPUTS, TASK_SOURCE  # noqa: E402


@task(persist_result=True, cache_policy=INPUTS + TASK_SOURCE)
def noop(run: str, number: int) -> int:
    return work(number)


@flow
def layers(run: str, nodes: int, width: int) -> int:
    futures = []
    for number in range(nodes):
        above = [futures[each] for each in parents(number, width)]
        futures.append(noop.submit(run, number, wait_for=above))
    return sum(each.result() for each in futures)


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    return Runs(lambda name: layers(name, nodes, width))


def durability(directory: Path) -> str:
    mode = journal_mode(_HOME / "prefect.db")
    kept = sum(1 for each in (_HOME / "storage").rglob("*") if each.is_file())
    return (
        f"a file a result, without fsync ({kept} of them); task runs reported to its server a little later, "
        f"SQLite {mode}; nodes in threads of one process"
    )


if __name__ == "__main__":
    measured("prefect", durability, prepare)

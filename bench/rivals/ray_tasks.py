"""Ray: a task a node on two cores of this machine, its parents' references as arguments. Nothing outlives the program.

Its durable layer, Ray Workflows, was deprecated in 2.44 and is gone from every release after 2.47.
"""

# Of an environment that the type checkers do not see.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import logging
import os
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}

import ray
from graph import Runs, measured, parents, work


@ray.remote
def noop(number: int, *above: int) -> int:
    return work(number)


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(directory.parent / "ray"),  # its sockets are there: the path must be short
    )

    def run(name: str) -> int:
        made = []
        for number in range(nodes):
            made.append(noop.remote(number, *(made[each] for each in parents(number, width))))
        return sum(ray.get(made))

    return Runs(run, close=ray.shutdown)


def durability(directory: Path) -> str:
    return "nothing: results are in memory, gone with the program; nodes in two worker processes"


if __name__ == "__main__":
    measured("ray", durability, prepare)

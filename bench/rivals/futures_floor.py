"""The floor: `concurrent.futures` with two processes and a loop by hand. No engine, nothing on disk, no retries."""

# Beside it is a module of that name when it runs, but not when it is checked.
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from graph import Runs, measured, parents, work

_WORKERS, _WARM_S = 2, 0.2


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    executor = ProcessPoolExecutor(_WORKERS)
    for each in [executor.submit(time.sleep, _WARM_S) for _ in range(_WORKERS)]:
        each.result()
    return Runs(lambda name: _run(executor, nodes, width), close=executor.shutdown)


def _run(executor: ProcessPoolExecutor, nodes: int, width: int) -> int:
    missing = [len(parents(number, width)) for number in range(nodes)]
    dependents: list[list[int]] = [[] for _ in range(nodes)]
    for number in range(nodes):
        for each in parents(number, width):
            dependents[each].append(number)
    ended: SimpleQueue[tuple[int, Future[int]]] = SimpleQueue()

    def submit(number: int) -> None:
        executor.submit(work, number).add_done_callback(lambda future: ended.put((number, future)))

    for number in range(nodes):
        if not missing[number]:
            submit(number)
    ran = 0
    for _ in range(nodes):
        number, future = ended.get()
        ran += future.result()
        for each in dependents[number]:
            missing[each] -= 1
            if not missing[each]:
                submit(each)
    return ran


def durability(directory: Path) -> str:
    return "nothing; nodes in two worker processes, by a loop of 20 lines"


if __name__ == "__main__":
    measured("python", durability, prepare)

"""The graph loop that one writes by hand around `concurrent.futures`: in memory, no retries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any

from bench import operations

__all__ = ["run_graph", "warm"]

_WARM_S = 0.2


def warm(executor: Executor, workers: int) -> None:
    """Start its processes."""
    for each in [executor.submit(operations.sleep, _WARM_S) for _ in range(workers)]:
        each.result()


def run_graph(executor: Executor, needs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Results by node. By callbacks: `wait(FIRST_COMPLETED)` would look at every pending future each time."""
    missing = {node: len(each) for node, each in needs.items()}
    dependents: dict[str, list[str]] = {node: [] for node in needs}
    for node, each in needs.items():
        for need in each:
            dependents[need].append(node)
    ended: SimpleQueue[tuple[str, Future[None]]] = SimpleQueue()

    def submit(node: str) -> None:
        executor.submit(operations.noop).add_done_callback(lambda future: ended.put((node, future)))

    for node, count in missing.items():
        if count == 0:
            submit(node)
    results: dict[str, Any] = {}
    while len(results) < len(needs):
        node, future = ended.get()
        results[node] = future.result()
        for dependent in dependents[node]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                submit(dependent)
    return results

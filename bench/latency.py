"""How long one waits for the engine: sleeping nodes, coroutines, an idle round trip, a killed worker."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import operations
from bench.ground import Ground, chain, ground, succeeded, wait_for
from bench.measure import Benchmark, Figure, Size, figure, number, run_group
from sage_actors import Node, Supervisor, Workflow

__all__ = ["BENCHMARKS"]

_ROWS = 12
_COLUMNS, _ASYNC_COLUMNS = 8, 100
_SLEEPS_MS = (20, 200)
_STARTED_WITHIN_S = 30.0


def measure_makespan(size: Size) -> list[Figure]:
    """Sleeping nodes, never more of them ready than there are places to run, strict."""
    repeats = size.repeats(5, 2)
    with ground() as here, here.supervisor(workers=_COLUMNS) as supervisor:
        here.warm(supervisor, _COLUMNS)
        blocking = [_excess(here, supervisor, operations.sleep, _COLUMNS, seed) for seed in range(repeats)]
    with ground() as here, here.supervisor(workers=2) as supervisor:
        _warm_async(here, supervisor)
        waiting = [
            _excess(here, supervisor, operations.async_sleep, _ASYNC_COLUMNS, seed) for seed in range(repeats)
        ]
    return [
        _makespan("makespan", blocking, f"{_COLUMNS} blocking workers, {_ROWS * _COLUMNS} nodes"),
        _makespan("makespan-async", waiting, f"2 async workers, {_ROWS * _ASYNC_COLUMNS} coroutines"),
    ]


def _makespan(name: str, found: list[tuple[float, float]], what: str) -> Figure:
    paths = [path for path, _ in found]
    return figure(
        name,
        [(wall - path) * 1e3 for path, wall in found],
        "ms",
        budgets=[(0.01 * path + 0.02) * 1e3 for path in paths],
        note=f"{what} of {_SLEEPS_MS[0]} to {_SLEEPS_MS[1]} ms; critical path {number(paths[0])} s; "
        "start() to result()",
    )


def _excess(
    here: Ground, supervisor: Supervisor, operation: Callable[..., Any], columns: int, seed: int
) -> tuple[float, float]:
    """(critical path, makespan) in seconds."""
    flow, path = _sleepers(operation, columns, seed)
    began = time.perf_counter()
    succeeded(supervisor.run(flow, run_id=here.new_id("makespan")))
    return path, time.perf_counter() - began


def _sleepers(operation: Callable[..., Any], columns: int, seed: int) -> tuple[Workflow, float]:
    """A node waits for the one above it, so a column never has two ready, and for one of another column."""
    dice = random.Random(seed)
    flow = Workflow("sleepers")
    above: list[tuple[Node, float]] = []  # and when it ends, at best
    for row in range(_ROWS):
        here: list[tuple[Node, float]] = []
        for column in range(columns):
            seconds = dice.uniform(*_SLEEPS_MS) / 1e3
            needs = [above[column], above[(column + dice.randrange(1, columns)) % columns]] if above else []
            node = flow.add(
                operation, id=f"n{row}-{column}", after=[each for each, _ in needs], seconds=seconds
            )
            here.append((node, max((ends for _, ends in needs), default=0.0) + seconds))
        above = here
    return flow, max(ends for _, ends in above)


def _warm_async(here: Ground, supervisor: Supervisor) -> None:
    """Enough coroutines that every async worker is started."""
    succeeded(supervisor.run(_waiters(1_000, 0.3), run_id=here.new_id("warm")))


def _waiters(nodes: int, seconds: float) -> Workflow:
    flow = Workflow("waiting")
    for _ in range(nodes):
        flow.add(operations.async_sleep, id=f"w{len(flow)}", seconds=seconds)
    return flow


def measure_waiting(size: Size) -> list[Figure]:
    """1,000 coroutines at once."""
    walls = []
    with ground() as here, here.supervisor(workers=2) as supervisor:
        _warm_async(here, supervisor)
        for _ in range(size.repeats(5, 2)):
            flow = _waiters(1_000, 1.0)
            began = time.perf_counter()
            succeeded(supervisor.run(flow, run_id=here.new_id("waiting")))
            walls.append(time.perf_counter() - began)
    return [figure("async-1000", walls, "s", note="workers started; start() to result(), strict")]


def measure_round_trip(size: Size) -> list[Figure]:
    """A chain whose nodes say when they ran: from one to the next is result, checkpoint, dispatch."""
    nodes = size.pick(5_000, 1_000)
    with ground() as here, here.supervisor("relaxed", workers=2) as supervisor:
        here.warm(supervisor)
        trips = [_trips_us(here, supervisor, nodes) for _ in range(size.repeats())]
    medians = [each[len(each) // 2] for each in trips]
    late = [each[int(len(each) * 0.99)] for each in trips]
    note = f"{nodes:,} nodes one after another, from one's execution to the next one's; nothing else runs"
    return [figure("round-trip", medians, "us", note=note), figure("round-trip-p99", late, "us")]


def _trips_us(here: Ground, supervisor: Supervisor, nodes: int) -> list[float]:
    outcome = succeeded(supervisor.run(chain(nodes, operations.stamp), run_id=here.new_id("trips")))
    moments = [outcome[f"n{number}"] for number in range(nodes)]
    return sorted((later - earlier) / 1e3 for earlier, later in pairwise(moments))


def measure_restart(size: Size) -> list[Figure]:
    """The only worker is killed while its node runs: a new one is started, and the node runs there."""
    times = size.repeats(20, 5)
    with ground() as here, here.supervisor(workers=1) as supervisor:
        here.warm(supervisor, 1)
        took = [_kill_and_wait_ms(here, supervisor) for _ in range(times)]
    note = "one worker, so that a process must be started; from SIGKILL to the operation's first line, strict"
    return [figure("restart", took, "ms", note=note)]


def _kill_and_wait_ms(here: Ground, supervisor: Supervisor) -> float:
    run_id = here.new_id("restart")
    reached = Path(here.project / f"{run_id}.pid")
    flow = Workflow("restart")
    flow.add(operations.hold_once, id="held", reached=str(reached))
    run = supervisor.start(flow, run_id=run_id)
    pid = int(wait_for(reached, deadline_s=_STARTED_WITHIN_S))
    killed = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    outcome = succeeded(run.result(_STARTED_WITHIN_S))
    return float(outcome["held"] - killed) / 1e6


BENCHMARKS: dict[str, Benchmark] = {
    "makespan": measure_makespan,
    "waiting": measure_waiting,
    "round_trip": measure_round_trip,
    "restart": measure_restart,
}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

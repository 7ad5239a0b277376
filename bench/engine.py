"""What the engine costs for each node: `python -m bench.engine [layers|narrow|chain|futures]`.

A node's cost is all that happens from `start()` to `result()`, divided by the nodes: checking and admitting
the definition, dispatch, results, checkpoints, the end of the run. Building the workflow (`add`) and starting
processes come before that and are figures of their own. CPU is that of the supervisor's process, all threads;
that of the workers stands beside it.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any

from bench import futures_loop, operations
from bench.ground import Ground, chain, ground, layers, parents, succeeded
from bench.machine import sync_times
from bench.measure import Benchmark, Figure, Meter, Size, figure, number, run_group
from sage_actors import Supervisor, Workflow
from sage_actors.actors.keys.provider import load_keys
from sage_actors.actors.state.journal import read_journal
from sage_actors.actors.state.journal_format import seal_header

__all__ = ["BENCHMARKS"]

_WIDE, _NARROW = 1000, 50
_WORKERS = 2
_BLOCK_BYTES = 1024


@dataclass(slots=True)
class Cost:
    """One run. sync_s: what one write + fdatasync takes here, measured just before it and just after it."""

    run_id: str
    nodes: int
    meter: Meter
    journal_bytes: int
    sync_s: float
    build_s: float

    def per_node_us(self, seconds: float) -> float:
        return seconds / self.nodes * 1e6

    @property
    def cpu_us(self) -> float:
        return self.per_node_us(self.meter.cpu_s)

    @property
    def wall_us(self) -> float:
        return self.per_node_us(self.meter.wall_s)

    @property
    def wall_budget_us(self) -> float:
        return self.cpu_us + self.per_node_us(self.meter.syncs * self.sync_s)


def layered(here: Ground, supervisor: Supervisor, nodes: int, width: int, **options: Any) -> Cost:
    """One run of `nodes` no-op nodes in layers of `width`."""
    began = time.perf_counter()
    flow = layers(nodes, width)
    return metered(here, supervisor, flow, time.perf_counter() - began, **options)


def metered(
    here: Ground, supervisor: Supervisor, flow: Workflow, build_s: float = 0.0, **options: Any
) -> Cost:
    run_id = here.new_id(flow.name)
    own = sync_times(here.project, _BLOCK_BYTES)
    with Meter() as meter:
        outcome = supervisor.run(flow, run_id=run_id, **options)
    succeeded(outcome)
    size = here.journal_bytes(run_id)
    own += sync_times(here.project, size // max(1, meter.syncs) + 1)
    return Cost(run_id, len(flow), meter, size, median(own), build_s)


def measure_layers(size: Size) -> list[Figure]:
    """Layers of 1,000, strict: CPU, wall, bytes, encryption."""
    nodes = size.pick(100_000, 20_000)
    with ground() as here:
        began = time.perf_counter()
        with here.supervisor(workers=_WORKERS) as supervisor:
            one = Workflow("cold")
            one.add(operations.noop)
            succeeded(supervisor.run(one, run_id="cold"))
            cold_s = time.perf_counter() - began
            here.warm(supervisor, _WORKERS)
            costs = [layered(here, supervisor, nodes, _WIDE) for _ in range(size.repeats())]
            shares = [_encryption_percent(here, each) for each in costs]
            seen = layered(here, supervisor, nodes, _WIDE, on_event=lambda event: None)
    return [*_layer_figures(costs, shares), *_explaining(costs, seen, cold_s)]


def _layer_figures(costs: list[Cost], shares: list[float]) -> list[Figure]:
    last = costs[-1]
    meter = last.meter
    return [
        figure(
            "engine-cpu",
            [each.cpu_us for each in costs],
            "us",
            note=f"{last.nodes:,} nodes, start() to result(), admission included; {meter.where(last.nodes)}",
        ),
        figure(
            "engine-wall",
            [each.wall_us for each in costs],
            "us",
            budgets=[each.wall_budget_us for each in costs],
            note=_wall_note(last),
        ),
        figure(
            "encryption",
            shares,
            "%",
            note="every frame of the run sealed once more, alone: its share of engine-cpu",
        ),
        figure(
            "journal-bytes",
            [each.journal_bytes / each.nodes for each in costs],
            "B",
            note="the whole journal, the admitted definition included",
        ),
    ]


def _wall_note(cost: Cost) -> str:
    count = cost.meter.syncs
    return (
        f"{count} fsyncs x {cost.sync_s * 1e6:,.0f} us = "
        f"{number(cost.per_node_us(count * cost.sync_s))} us/node beside "
        f"the CPU; inside the engine they took "
        f"{number(cost.per_node_us(cost.meter.sync_s))} us/node, waiting for the interpreter lock included"
    )


def _explaining(costs: list[Cost], seen: Cost, cold_s: float) -> list[Figure]:
    both = [each.per_node_us(each.meter.cpu_s + each.meter.children_cpu_s) for each in costs]
    return [
        figure("engine-cpu-all", both, "us", note="the supervisor's CPU and that of keeper and workers"),
        figure(
            "engine-cpu-events",
            [seen.cpu_us],
            "us",
            note="with on_event given: every event made and delivered",
        ),
        figure(
            "build",
            [each.per_node_us(each.build_s) for each in costs],
            "us",
            note="wall of Workflow.add, a node",
        ),
        figure(
            "cold-start",
            [cold_s * 1e3],
            "ms",
            note="from Supervisor() to the first run's result, workers started",
        ),
    ]


def _encryption_percent(here: Ground, cost: Cost) -> float:
    """The journal's frames sealed again by the same code, nothing else: % of the engine's CPU."""
    keys = load_keys(environ=here.environ)
    image = read_journal(here.run_directory(cost.run_id), keys)
    plaintexts = [plaintext for _, plaintext in image.frames]
    _, cipher = seal_header(keys.primary, run_uuid=bytes(16), segment=1, salt=bytes(32), previous=None)
    began = time.thread_time()
    for index, plaintext in enumerate(plaintexts):
        cipher.seal(index, bytes(16), plaintext)
    return 100 * (time.thread_time() - began) / cost.meter.cpu_s


def measure_narrow(size: Size) -> list[Figure]:
    """Layers of 50, relaxed: what a dispatch of few nodes costs."""
    nodes = size.pick(100_000, 20_000)
    with ground() as here, here.supervisor("relaxed", workers=_WORKERS) as supervisor:
        here.warm(supervisor, _WORKERS)
        costs = [layered(here, supervisor, nodes, _NARROW) for _ in range(size.repeats())]
    last = costs[-1]
    note = (
        f"{last.nodes:,} nodes; the supervisor's CPU {number(last.cpu_us)} us; {last.meter.where(last.nodes)}"
    )
    return [figure("layers-50-wall", [each.wall_us for each in costs], "us", note=note)]


def measure_chain(size: Size) -> list[Figure]:
    """A chain, strict: each node waits for the fsync of the one before."""
    nodes = size.pick(2_000, 400)
    with ground() as here, here.supervisor(workers=_WORKERS) as supervisor:
        here.warm(supervisor, _WORKERS)
        flow = chain(nodes, operations.noop)
        costs = [metered(here, supervisor, flow) for _ in range(size.repeats(5, 3))]
    ratios = [each.wall_us / (each.sync_s * 1e6) for each in costs]
    last = costs[-1]
    note = (
        f"{number(last.wall_us)} us a node; own write + fdatasync {number(last.sync_s * 1e6)} us; "
        f"{last.meter.syncs / nodes:.2f} fsyncs a node, "
        f"{number(last.per_node_us(last.meter.sync_s))} us in them; "
        f"CPU {number(last.cpu_us)} us"
    )
    return [figure("chain-strict", ratios, "x", note=note)]


def measure_futures(size: Size) -> list[Figure]:
    """concurrent.futures and the engine in turn, on the same graph, with as many processes."""
    nodes = size.pick(20_000, 4_000)
    needs = {f"n{i}": [f"n{each}" for each in parents(i, _WIDE)] for i in range(nodes)}
    walls, cpus, last = [], [], ""
    with (
        ground() as here,
        here.supervisor(workers=_WORKERS) as supervisor,
        ProcessPoolExecutor(_WORKERS, mp_context=get_context("spawn")) as executor,
    ):
        here.warm(supervisor, _WORKERS)
        futures_loop.warm(executor, _WORKERS)
        for _ in range(size.repeats()):
            own = layered(here, supervisor, nodes, _WIDE)
            with Meter() as other:
                futures_loop.run_graph(executor, needs)
            own_cpu = own.meter.cpu_s + own.meter.children_cpu_s
            other_cpu = other.cpu_s + other.children_cpu_s
            walls.append(other.wall_s / own.meter.wall_s)
            cpus.append(other_cpu / own_cpu)
            last = (
                f"{nodes:,} nodes; us/node: futures wall {number(other.wall_s / nodes * 1e6)}, "
                f"CPU {number(other_cpu / nodes * 1e6)}; engine (strict, encrypted) "
                f"wall {number(own.wall_us)}, CPU {number(own.per_node_us(own_cpu))}"
            )
    return [figure("futures-wall", walls, "x", note=last), figure("futures-cpu", cpus, "x", note=last)]


BENCHMARKS: dict[str, Benchmark] = {
    "layers": measure_layers,
    "narrow": measure_narrow,
    "chain": measure_chain,
    "futures": measure_futures,
}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

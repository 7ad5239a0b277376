"""100 workflows at once in one supervisor, against one workflow of the same nodes and total width."""

from __future__ import annotations

import sys

from bench.ground import Ground, ground, layers, succeeded
from bench.measure import Benchmark, Figure, Meter, Size, figure, number, run_group
from sage_actors import Supervisor

__all__ = ["BENCHMARKS"]

_WORKFLOWS, _WIDTH = 100, 10
_WORKERS = 2


def measure_hundred(size: Size) -> list[Figure]:
    """In turn, strict: 100 workflows in layers of 10, then one in layers of 1,000."""
    each_nodes = size.pick(1_000, 100)
    nodes = _WORKFLOWS * each_nodes
    walls, cpus, last = [], [], ""
    with ground() as here, here.supervisor(workers=_WORKERS) as supervisor:
        here.warm(supervisor, _WORKERS)
        for _ in range(size.repeats()):
            one = _together(here, supervisor, 1, nodes, _WORKFLOWS * _WIDTH)
            many = _together(here, supervisor, _WORKFLOWS, each_nodes, _WIDTH)
            walls.append(many.wall_s / one.wall_s)
            cpus.append(many.cpu_s / one.cpu_s)
            last = (
                f"{nodes:,} nodes, from the first start() to the last result(), started one after another by "
                f"one thread; us/node: one wall {number(one.wall_s / nodes * 1e6)}, "
                f"CPU {number(one.cpu_s / nodes * 1e6)}, {one.syncs} fsyncs; "
                f"100 wall {number(many.wall_s / nodes * 1e6)}, "
                f"CPU {number(many.cpu_s / nodes * 1e6)}, {many.syncs} fsyncs; {many.where(nodes)}"
            )
    return [figure("many", walls, "x", note=last), figure("many-cpu", cpus, "x")]


def _together(here: Ground, supervisor: Supervisor, workflows: int, nodes: int, width: int) -> Meter:
    flows = [layers(nodes, width, name="together") for _ in range(workflows)]
    names = [here.new_id("together") for _ in flows]
    with Meter() as meter:
        runs = [
            supervisor.start(flow, run_id=name, listening=False)
            for flow, name in zip(flows, names, strict=True)
        ]
        outcomes = [run.result() for run in runs]
    for outcome in outcomes:
        succeeded(outcome)
    return meter


BENCHMARKS: dict[str, Benchmark] = {"hundred": measure_hundred}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

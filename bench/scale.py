"""A million nodes: memory, and whether a node costs more when there are more of them."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from typing import Any

from bench.ground import ROOT, ground
from bench.measure import Benchmark, Figure, Size, figure, number, run_group

__all__ = ["BENCHMARKS"]

_TIMEOUT_S = 1800.0


def measure_growth(size: Size) -> list[Figure]:
    """Each size in a process of its own: nothing of one is in the memory of the next."""
    counts = [10_000, 100_000, 1_000_000] if not size.quick else [5_000, 20_000, 50_000]
    rounds: list[list[dict[str, Any]]] = []
    for _ in range(size.repeats(3)):
        rounds.append([_run(nodes) for nodes in counts])
    largest = [each[-1] for each in rounds]
    ratios = [max(_cpu_us(one) for one in each[1:]) / _cpu_us(each[0]) for each in rounds]
    by_count = ", ".join(
        f"{count:,}: {number(median(_cpu_us(each[place]) for each in rounds))}"
        for place, count in enumerate(counts)
    )
    return [
        *_memory(largest),
        figure("growth", ratios, "x", note=f"CPU us/node by number of nodes: {by_count}"),
    ]


def _memory(runs: list[dict[str, Any]]) -> list[Figure]:
    last = runs[-1]
    nodes = last["nodes"]

    def each(what: str) -> list[float]:
        return [one[what] / one["nodes"] for one in runs]

    note = (
        f"{nodes:,} nodes, resident, the caller's Workflow dropped (it took "
        f"{number(last['built_bytes'] / nodes)} B a node, "
        f"and {number(last['build_s'] / nodes * 1e6)} us to build); "
        f"{number(last['ended_bytes'] / nodes)} B when all had run"
    )
    return [
        figure("memory-per-node", each("admitted_bytes"), "B", note=note),
        figure(
            "memory-peak-admission", each("admission_peak_bytes"), "B", note="a node, the Workflow included"
        ),
        figure("memory-peak", each("peak_bytes"), "B", note="a node, of the whole run"),
        figure(
            "admission-cpu",
            [one["admission_cpu_s"] / one["nodes"] * 1e6 for one in runs],
            "us",
            note="a node, from start() until the first node runs",
        ),
    ]


def _cpu_us(run: dict[str, Any]) -> float:
    return float(run["cpu_s"]) / float(run["nodes"]) * 1e6


def _run(nodes: int) -> dict[str, Any]:
    with ground() as here:
        command = [sys.executable, "-m", "bench.scale_process", str(here.project), str(nodes)]
        done = subprocess.run(
            command, cwd=ROOT, env=here.environ, stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT_S
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


BENCHMARKS: dict[str, Benchmark] = {"growth": measure_growth}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

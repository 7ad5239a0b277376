"""A research phase of four operations that wait 45, 30, 40 and 20 s, scaled down, against the longest of them."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from bench.ground import Ground, ground, succeeded
from bench.measure import Benchmark, Figure, Size, figure, number
from bench.sage_ground import STAND_IN, bring_stand_in, run_sage_group
from sage_actors import Supervisor, load

__all__ = ["BENCHMARKS", "WAITS_S", "Phase", "measured_phase"]

WAITS_S = {"market": 45.0, "competitive": 30.0, "best_practices": 40.0, "patterns": 20.0}
_ALLOWED = 0.02  # of the longest, beside the fixed cost


class Phase:
    """The times of one measurement, in s. fixed: the same phase with operations that wait for nothing."""

    def __init__(self, scale: float, together: list[float], serial: list[float], fixed: list[float]) -> None:
        self.scale, self.together, self.serial = scale, together, serial
        self.fixed = statistics.median(fixed)
        self.longest = max(WAITS_S.values()) / scale

    @property
    def excess_ms(self) -> list[float]:
        return [(each - self.longest) * 1e3 for each in self.together]

    @property
    def speedups(self) -> list[float]:
        return [one / all_ for one, all_ in zip(self.serial, self.together, strict=True)]


def measured_phase(scale: float, times: int) -> Phase:
    """The phase `times` times at once and one after another, in turn, the server warm."""
    waits = {name: each / scale for name, each in WAITS_S.items()}
    nothing = dict.fromkeys(WAITS_S, 0.0)
    with ground() as here:
        bring_stand_in(here)
        with here.supervisor(workers=2) as supervisor:
            _wall_s(here, supervisor, nothing)
            fixed = [_wall_s(here, supervisor, nothing) for _ in range(2 * times + 3)]
            pairs = [
                (_wall_s(here, supervisor, waits), _wall_s(here, supervisor, waits, concurrency=1))
                for _ in range(times)
            ]
    return Phase(scale, [each for each, _ in pairs], [each for _, each in pairs], fixed)


def _wall_s(here: Ground, supervisor: Supervisor, waits: dict[str, float], *, concurrency: int = 6) -> float:
    path = here.project / "phase.json"
    path.write_text(json.dumps(_definition(waits, concurrency)))
    flow = load(path)
    began = time.perf_counter()
    succeeded(supervisor.run(flow, run_id=here.new_id("phase")))
    return time.perf_counter() - began


def _definition(waits: dict[str, float], concurrency: int) -> dict[str, Any]:
    call = {"type": "mcp", "server": STAND_IN, "tool": "operation"}
    operations = [{"id": name, **call, "arguments": {"seconds": each}} for name, each in waits.items()]
    phase = {"id": "research", "operations": operations}
    return {"name": "waiting-research", "concurrency": concurrency, "phases": [phase]}


def measure_research(size: Size) -> list[Figure]:
    """Calls of one MCP server on stdio; strict."""
    phase = measured_phase(size.pick(20, 40), size.repeats(5, 2))
    budget = (_ALLOWED * phase.longest + phase.fixed) * 1e3
    note = (
        f"four MCP calls on one session that wait {', '.join(f'{each:g}' for each in WAITS_S.values())} s, "
        f"1/{phase.scale:g} of it; longest {number(phase.longest)} s; the fixed cost, {number(phase.fixed * 1e3)} ms, "
        "is the same phase with calls that wait for nothing; start() to result(), strict"
    )
    most = sum(WAITS_S.values()) / max(WAITS_S.values())
    faster = f"concurrency 1 against 6, same definition; the waits alone allow {most:.2f}x"
    return [
        figure("research-makespan", phase.excess_ms, "ms", budgets=[budget], note=note),
        figure("research-speedup", phase.speedups, "x", note=faster),
    ]


BENCHMARKS: dict[str, Benchmark] = {"research": measure_research}

if __name__ == "__main__":
    sys.exit(run_sage_group(str(__doc__), BENCHMARKS))

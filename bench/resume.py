"""A run whose supervisor was killed by SIGKILL: how long until it goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.ground import ROOT, Ground, ground, wait_for
from bench.measure import Benchmark, Figure, Size, figure, number, run_group

__all__ = ["BENCHMARKS"]

_MADE_WITHIN_S = 600.0
_RESUMED_WITHIN_S = 120.0


def measure_killed(size: Size) -> list[Figure]:
    """All nodes but the last are done; the supervisor is killed while that runs; and again after each."""
    nodes = size.pick(100_000, 10_000)
    with ground() as here:
        _until_held(here, "make", nodes, _MADE_WITHIN_S)
        times = [_until_held(here, "resume", nodes, _RESUMED_WITHIN_S) for _ in range(size.repeats(5, 2))]
        journal = here.journal_bytes("killed")
    from_process = [started - process for process, _, started in times]
    from_call = [started - call for _, call, started in times]
    note = (
        f"{nodes:,} nodes, all but one done, {journal / 2**20:.1f} MiB of journal; "
        f"{number(median(from_process) - median(from_call))} s of it are interpreter, imports, Supervisor()"
    )
    return [
        figure("resume", from_process, "s", note=note),
        figure("resume-call", from_call, "s", note="from Supervisor.resume() until the first node starts"),
    ]


def _until_held(here: Ground, how: str, nodes: int, deadline_s: float) -> tuple[float, float, float]:
    """Start the process, kill it at the last node. When it was started, called, and ran that node (s)."""
    reached = here.project / "reached"
    reached.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.resume_process", str(here.project), how, str(nodes)]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=here.environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            started = _nanoseconds(reached, process, deadline_s)
        finally:
            process.kill()
        assert process.stdout is not None
        call = int(process.stdout.readline()) / 1e9
    return began, call, started


def _nanoseconds(reached: Path, process: subprocess.Popen[str], deadline_s: float) -> float:
    return int(wait_for(reached, deadline_s=deadline_s, alive=lambda: process.poll() is None)) / 1e9


BENCHMARKS: dict[str, Benchmark] = {"killed": measure_killed}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

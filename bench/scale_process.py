"""One run of many nodes in its own process, and what it took: `python -m bench.scale_process PROJECT NODES`.

Prints one JSON object. All nodes wait for a gate that stays shut until the memory after admission was read:
nothing that execution needs or frees is in that figure.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

import psutil

from bench import operations
from bench.ground import ROOT, layers, succeeded, wait_for
from bench.measure import Meter
from sage_actors import Run, Supervisor, Workflow

_WIDTH = 1000
_ADMITTED_WITHIN_S = 600.0


def measure(project: Path, nodes: int) -> dict[str, float]:
    """Bytes: resident, above the idle supervisor. Costs: from start() until the gate, and from there on."""
    with Supervisor(project, workers=2, search_paths=[ROOT]) as supervisor:
        _warm(supervisor)
        idle = _resident()
        _forget_peak()
        began = time.perf_counter()
        flow = _gated(project, nodes)
        build_s = time.perf_counter() - began
        built = _resident()
        with Meter() as admission:
            run = supervisor.start(flow, run_id=f"scale-{nodes}", listening=False)
            del flow
            wait_for(project / "reached", deadline_s=_ADMITTED_WITHIN_S)
        gc.collect()
        admitted, admission_peak = _resident(), _peak()
        with Meter() as execution:
            _open_gate_and_wait(project, run)
        return {
            "nodes": nodes,
            "build_s": build_s,
            "built_bytes": built - idle,
            "admitted_bytes": admitted - idle,
            "admission_peak_bytes": admission_peak - idle,
            "ended_bytes": _resident() - idle,
            "peak_bytes": _peak() - idle,
            "admission_cpu_s": admission.cpu_s,
            "cpu_s": admission.cpu_s + execution.cpu_s,
            "wall_s": admission.wall_s + execution.wall_s,
        }


def _warm(supervisor: Supervisor) -> None:
    flow = Workflow("warm-up")
    for _ in range(2):
        flow.add(operations.sleep, seconds=0.2)
    for _ in range(200):
        flow.add(operations.noop)
    succeeded(supervisor.run(flow, run_id="warm"))
    gc.collect()


def _gated(project: Path, nodes: int) -> Workflow:
    flow = Workflow("scale")
    gate = flow.add(operations.gate, id="gate", reached=str(project / "reached"), go=str(project / "go"))
    return layers(nodes - 1, _WIDTH, first=gate)


def _open_gate_and_wait(project: Path, run: Run) -> None:
    (project / "go").touch()
    succeeded(run.result())


def _resident() -> int:
    rss: int = psutil.Process().memory_info().rss
    return rss


def _forget_peak() -> None:
    """From now on VmHWM is the peak of what comes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell a process's peak memory")


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))), flush=True)
    os._exit(0)  # tearing a million nodes down is not measured, and takes its time

"""What the sandbox costs: nothing a node in shared workers, milliseconds in a worker of one task; what a scan costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from bench.ground import ROOT, Ground, ground, layers, succeeded
from bench.measure import Benchmark, Figure, Size, figure, run_group
from sage_actors import Supervisor, load
from sage_actors.messages.secret_scan import redact

__all__ = ["BENCHMARKS"]

_PROBE = (
    "import time; from sage_actors.sandbox import confine, namespaces; from sage_actors.sandbox.probe import probe\n"
    "began = time.perf_counter(); probe(); print((time.perf_counter() - began) * 1e3)"
)


def measure_engine(size: Size) -> list[Figure]:
    """No-op nodes in layers of 1,000, confined and with the sandbox off, in turn."""
    nodes = size.pick(100_000, 10_000)
    ratios, starts = [], []
    for _ in range(size.repeats()):
        seconds = {mode: _engine_seconds(nodes, mode) for mode in ("off", "enforce")}
        ratios.append(seconds["enforce"][0] / seconds["off"][0])
        starts.append((seconds["enforce"][1] - seconds["off"][1]) * 1e3)
    return [
        figure("sandbox-engine", ratios, "x", note="wall of the run, confined against off, warm workers"),
        figure(
            "sandbox-start",
            starts,
            "ms",
            note="first run of a supervisor: probe, new root, workers; above off",
        ),
    ]


def measure_own(size: Size) -> list[Figure]:
    """Short operations one after the other, each in a worker of its own, above the same in a shared worker."""
    count = size.pick(200, 40)
    above, kinds = [], []
    for _ in range(size.repeats()):
        with ground() as here:
            shared = _chain_ms(here, count, {})
            above.append(_chain_ms(here, count, {"limits": {"processes": 1000}}) - shared)
            kinds.append(_chain_ms(here, count, {"type": "shell", "command": ["true"]}) - shared)
    return [
        figure(
            "sandbox-own",
            above,
            "ms",
            note="a python operation with limits, above one without, one by one; its module is loaded already",
        ),
        figure("sandbox-shell", kinds, "ms", note="a shell operation (`true`), the same way"),
    ]


def measure_probe(size: Size) -> list[Figure]:
    """What this machine can confine, found out by trying, in a fresh process."""
    values = []
    for _ in range(size.pick(20, 5)):
        said = subprocess.run(
            [sys.executable, "-c", _PROBE], check=True, capture_output=True, text=True, cwd=ROOT
        )
        values.append(float(said.stdout))
    return [figure("sandbox-probe", values, "ms")]


def measure_scan(size: Size) -> list[Figure]:
    """Results looked through for secrets: this repository's own files, as texts in a list."""
    texts = [path.read_text(errors="replace") for path in sorted((ROOT / "actors").rglob("*.py"))]
    kilobytes = len(json.dumps(texts)) / 1000
    values = []
    for _ in range(size.pick(20, 3)):
        began = time.process_time()
        redact(texts)
        values.append((time.process_time() - began) * 1e3 / kilobytes)
    return [figure("secret-scan", values, "ms", note="per KB of source text; CPU")]


def _engine_seconds(nodes: int, mode: str) -> tuple[float, float]:
    """(wall of a run on warm workers, of the first run of a supervisor)."""
    with ground() as here:
        here.environ["SAGE_SANDBOX"] = mode
        began = time.perf_counter()
        with here.supervisor() as supervisor:
            here.warm(supervisor)
            first = time.perf_counter() - began
            began = time.perf_counter()
            succeeded(supervisor.run(layers(nodes, 1000), run_id="layers"))
            return time.perf_counter() - began, first


def _chain_ms(here: Ground, count: int, policy: dict[str, Any]) -> float:
    """Milliseconds a node, of nodes that follow one another."""
    operation = {"type": "python", "call": "time:time"} if "type" not in policy else {}
    nodes = [
        {"id": f"n{i}", **operation, **policy, **({"needs": [f"n{i - 1}"]} if i else {})}
        for i in range(count)
    ]
    file = here.project / "flow.json"
    file.write_text(json.dumps({"name": "chain", "nodes": nodes}))
    with Supervisor(
        here.project, workers=1, durability="relaxed", environ=here.environ, search_paths=[ROOT]
    ) as one:
        flow = load(file)
        succeeded(one.run(flow, run_id=here.new_id("warm")))
        began = time.perf_counter()
        succeeded(one.run(flow, run_id=here.new_id("chain")))
        return (time.perf_counter() - began) / count * 1e3


BENCHMARKS: dict[str, Benchmark] = {
    "engine": measure_engine,
    "own": measure_own,
    "probe": measure_probe,
    "scan": measure_scan,
}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

"""The whole feature workflow: how soon something is there to read, and what doing things at once saves.

The built-in servers compute; on two cores their operations hardly gain by running at once, and all of them wait for
the one reading of the repository. What gains are operations that wait for others: a model, a website, a server far
away. So both are measured, and told apart:

    feature-speedup   the graph of the template, every operation a call that waits: research 45, 30, 40 and 20 s, the
                      other operations as long as they took in a real run; all scaled down. Against the same with
                      the next operation begun when the one before has ended.
    feature-local     the template as it is, with the real servers, against the same one after another.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.ground import Ground, succeeded
from bench.measure import Benchmark, Figure, Size, figure, number
from bench.sage_ground import (
    STAND_IN,
    TOPICS,
    Told,
    bring_stand_in,
    command_line,
    copied,
    remove_traces,
    repositories,
    run_sage_group,
    template_data,
)
from bench.sage_makespan import WAITS_S
from bench.sage_repository import FILES, make_repository
from sage_actors import Supervisor, load

__all__ = ["BENCHMARKS", "Waited", "first_research_s", "local_speedup", "one_after_another", "waited"]

_TOPIC = TOPICS["feature"]


# ------------------------------------------------------------------ the first output


def measure_first(size: Size) -> list[Figure]:
    """`run feature` as a new user has it: no cache, no state, nothing warm but the file system."""
    with copied(None) as here:
        make_repository(here.project)
        told = []
        for _ in range(size.repeats(5, 1)):
            remove_traces(here)
            told.append(command_line(here, "run", "feature", _TOPIC))
        [each.end for each in told]
        if not list(here.project.glob("docs/specs/*/spec.md")):
            raise RuntimeError("the run succeeded and left no spec.md")
    return [
        figure(
            "feature-first",
            [first_research_s(each) for each in told],
            "s",
            note=f"a generated repository of {FILES:,} files, from the start of the process; skills, which may be "
            "none, do not count",
        ),
        figure(
            "feature-spec",
            [each.succeeded_after_s("specification/write".__eq__) for each in told],
            "s",
            note="the same runs, until docs/specs/<slug>/spec.md is written",
        ),
        figure(
            "feature-whole", [each.wall_s for each in told], "s", note="the same, until the process ended"
        ),
    ]


def first_research_s(told: Told) -> float:
    """When the first result of research was there; a list of skills may be empty, and is none."""
    return told.succeeded_after_s(lambda node: node.startswith("research/") and node != "research/skills")


# ------------------------------------------------------------------ operations that wait


class Waited:
    """Wall times of the template's graph with waiting operations, in s, scaled. waits: of each node, unscaled."""

    def __init__(self, waits: Mapping[str, float], scale: float, pairs: list[tuple[float, float]]) -> None:
        self.waits, self.scale = waits, scale
        self.together = [each for each, _ in pairs]
        self.serial = [each for _, each in pairs]

    @property
    def speedups(self) -> list[float]:
        return [one / all_ for one, all_ in zip(self.serial, self.together, strict=True)]

    @property
    def most(self) -> float:
        """What the waits alone allow: their sum over the longest way through the graph."""
        tail = sum(each for node, each in self.waits.items() if not node.startswith("research/"))
        longest = max(each for node, each in self.waits.items() if node.startswith("research/"))
        return sum(self.waits.values()) / (longest + tail)


def waited(real: Told, scale: float, times: int) -> Waited:
    """The feature template's graph, at once and one after another in turn.

    real: a run of the template; what is not said of research takes as long as it took there.
    """
    took = {node: float(event["seconds"]) for node, event in real.succeeded.items()}
    waits = {node: WAITS_S.get(node.removeprefix("research/"), seconds) for node, seconds in took.items()}
    data = _waiting(template_data("feature"), {node: each / scale for node, each in waits.items()})
    with copied(None) as here:
        bring_stand_in(here)
        with Supervisor(here.project, workers=2, environ=here.environ, cache=False) as supervisor:
            _wall_s(here, supervisor, _waiting(template_data("feature"), dict.fromkeys(waits, 0.0)))
            pairs = [
                (_wall_s(here, supervisor, data), _wall_s(here, supervisor, one_after_another(data)))
                for _ in range(times)
            ]
    return Waited(waits, scale, pairs)


def _waiting(data: dict[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """The definition with each operation that ran a call of the stand-in, given what the operation was given."""
    for phase in data["phases"]:
        ran = [each for each in phase["operations"] if f"{phase['id']}/{each['id']}" in seconds]
        phase["operations"] = [_call(each, seconds[f"{phase['id']}/{each['id']}"]) for each in ran]
    return data


def _call(operation: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    arguments = {"seconds": seconds, "given": operation["arguments"]}
    return {
        "id": operation["id"],
        "type": "mcp",
        "server": STAND_IN,
        "tool": "operation",
        "arguments": arguments,
    }


def one_after_another(data: Mapping[str, Any]) -> dict[str, Any]:
    """The definition with one operation at a time. Its phases already follow each other."""
    return {**data, "name": f"{data['name']}-serial", "concurrency": 1}


def _wall_s(here: Ground, supervisor: Supervisor, data: Mapping[str, Any]) -> float:
    flow = load(_written(here.project.parent / "waiting.json", data))
    began = time.perf_counter()
    succeeded(supervisor.run(flow, run_id=here.new_id("feature"), inputs={"topic": _TOPIC}))
    return time.perf_counter() - began


def _written(path: Path, data: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(data))
    return path


def local_speedup(here: Ground, together_s: float) -> tuple[float, float]:
    """(ratio, s): the template with the real servers one after another, anew, against `together_s` at once."""
    remove_traces(here)
    path = _written(here.project.parent / "serial.json", one_after_another(template_data("feature")))
    serial_s = float(command_line(here, "run", str(path), _TOPIC).end["seconds"])
    return serial_s / together_s, serial_s


def measure_speedup(size: Size) -> list[Figure]:
    """On the first of the repositories; in quick size without the real servers one after another."""
    real, ratios = [], []
    with copied(repositories()[0]) as here:
        for _ in range(size.repeats(3, 1)):
            remove_traces(here)
            real.append(command_line(here, "run", "feature", _TOPIC))
            _ = real[-1].end
            if not size.quick:
                ratios.append(local_speedup(here, float(real[-1].end["seconds"])))
    times = waited(real[-1], size.pick(20, 40), size.repeats(3, 1))
    return [figure("feature-speedup", times.speedups, "x", note=_waits(times)), *_local(ratios)]


def _waits(times: Waited) -> str:
    others = (
        f"{node} {number(each)}"
        for node, each in times.waits.items()
        if node.removeprefix("research/") not in WAITS_S
    )
    return (
        f"calls that wait, 1/{times.scale:g}: research {', '.join(f'{each:g}' for each in WAITS_S.values())} s, the "
        f"others as they took in a real run: {', '.join(others)} s; the waits alone allow {times.most:.2f}x: research "
        "by itself 3.00x, and what follows it has nothing to run beside"
    )


def _local(ratios: list[tuple[float, float]]) -> list[Figure]:
    if not ratios:
        return []
    serial_s = statistics.median(each for _, each in ratios)
    note = (
        "real servers on this machine's cores, which compute and do not wait; one after another "
        f"{number(serial_s)} s"
    )
    return [figure("feature-local", [each for each, _ in ratios], "x", note=note)]


BENCHMARKS: dict[str, Benchmark] = {"first": measure_first, "speedup": measure_speedup}

if __name__ == "__main__":
    sys.exit(run_sage_group(str(__doc__), BENCHMARKS))

"""kill -9 in the middle, three times: the program with all that it started, then the program again. What runs twice?

Every node writes a line when it begins and one when it ends, so what is counted is what really ran, not what the
engine says.
"""

from __future__ import annotations

import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.ground import Ground
from bench.rivals.engines import Engine, Recovery
from bench.rivals.processes import Ended, kill_tree, last_line, run_to_end, start

__all__ = ["SHARES", "Trace", "killed_and_restarted"]

SHARES = (0.25, 0.5, 0.75)  # of the nodes: so many have ended when it is killed
_LATER_S = 0.05  # at most: else each kill would come with the end of a node
_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Trace:
    """What nodes wrote: numbers of those that began and of those that ended, in that order."""

    began: tuple[int, ...] = ()
    ended: frozenset[int] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Trace:
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return cls(
            tuple(int(number) for said, number in words if said == "began"),
            frozenset(int(number) for said, number in words if said == "ended"),
        )


def killed_and_restarted(
    engine: Engine, environments: Path, here: Ground, nodes: int, width: int, timeout_s: float
) -> Recovery:
    """Kills one run three times on its way, at instants drawn alike for every engine, and lets it end."""
    path, dice = here.project / "trace.txt", random.Random(1)
    at_kills: list[Trace] = []
    for share in SHARES:
        process, output = start(
            engine, environments, here, _arguments(nodes, width, at_kills), RIVAL_TRACE=str(path)
        )
        reached = _wait(process, path, share * nodes, timeout_s)
        time.sleep(dice.uniform(0, _LATER_S))
        kill_tree(process)
        if not reached:
            said = output.with_suffix(".err").read_text(errors="replace")
            return Recovery(failed=f"it stopped before {share:.0%} of its nodes had ended: {last_line(said)}")
        at_kills.append(Trace.read(path))
    arguments = _arguments(nodes, width, at_kills)
    done = run_to_end(engine, environments, here, arguments, timeout_s, RIVAL_TRACE=str(path))
    return _judged(done, nodes, at_kills, Trace.read(path))


def _arguments(nodes: int, width: int, at_kills: list[Trace]) -> tuple[str, ...]:
    return (str(nodes), str(width), "resume" if at_kills else "start")


def _wait(process: subprocess.Popen[bytes], trace: Path, nodes: float, timeout_s: float) -> bool:
    """Until so many nodes have ended. False if the program ended before that, or its time did."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        if len(Trace.read(trace).ended) >= nodes:
            return True
        time.sleep(_POLL_S)
    return False


def _judged(done: Ended, nodes: int, at_kills: list[Trace], whole: Trace) -> Recovery:
    if done.code != 0:
        return Recovery(failed=f"it did not come to an end: {last_line(done.errors)}")
    if missing := nodes - len(whole.ended):
        return Recovery(failed=f"it says that it ended, but {missing} nodes never did")
    repeated = 0
    for killed, later in zip(at_kills, [*at_kills[1:], whole], strict=True):
        repeated += len(killed.ended & set(later.began[len(killed.began) :]))
    return Recovery(nodes, len(whole.began), sum(len(each.ended) for each in at_kills), repeated)

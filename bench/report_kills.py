"""A workflow that is killed again and again: does it always go on, and does nothing that was finished run twice?"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.ground import Ground
from bench.sage_ground import TOPICS, Told, command_line

__all__ = ["Kills", "killed_and_resumed"]

_MOST_EVENTS = 8  # that a process lives for, so that every phase is reached and none is safe
_LATER_S = 0.3
_IN_A_ROW = 40  # commands without a kill after which it is given up


@dataclass(slots=True)
class Kills:
    """What became of each kill -9 of the command line.

    resumed: kills after which the run went on with everything that it had reported as finished. repeated: nodes that
    ran again although they had been. lost: what else went wrong, in words. finished: runs that succeeded in the end.
    again_s: from the start of the resuming process to its first event. phases: kills by what was under way.
    """

    kills: int = 0
    resumed: int = 0
    runs: int = 0
    finished: int = 0
    repeated: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)
    phases: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        return self.resumed / self.kills


def killed_and_resumed(here: Ground, kills: int, *, seed: int = 1) -> Kills:
    """Runs the feature template until it was killed `kills` times, each time at some event or shortly after it.

    The cache is not asked, so that every node has to run or be kept. The last run is carried to its end.
    """
    dice, found = random.Random(seed), Kills()
    spared = 0
    while found.kills < kills and spared < _IN_A_ROW:
        before = found.kills
        _one_run(here, found, kills, dice)
        spared = 0 if found.kills > before else spared + 1
    if found.kills < kills:
        found.lost.append(f"only {found.kills} kills of {kills} came before the end of a run")
    return found


def _one_run(here: Ground, found: Kills, kills: int, dice: random.Random) -> None:
    """One run from its start to its end, killed on the way as long as there are kills left."""
    run_id = f"killed-{found.runs + 1}"
    found.runs += 1
    shutil.rmtree(here.project / "docs/specs", ignore_errors=True)
    command: tuple[str, ...] = ("run", "feature", TOPICS["feature"], "--run-id", run_id, "--no-cache")
    finished: set[str] = set()
    while True:
        told = command_line(here, *command, until=_deadly(dice) if found.kills < kills else _never)
        if command[0] == "resume":
            _judge(found, told, finished)
        finished |= told.succeeded.keys()
        if told.code >= 0:
            _ended(found, told, run_id)
            return
        found.kills += 1
        found.phases[_phase_of(told)] += 1
        command = ("resume", run_id, "--no-cache")


def _deadly(dice: random.Random) -> Callable[[int], bool]:
    number, later_s = dice.randint(1, _MOST_EVENTS), dice.choice((0.0, dice.uniform(0.0, _LATER_S)))

    def until(seen: int) -> bool:
        if seen == number:
            time.sleep(later_s)
        return seen >= number

    return until


def _never(number: int) -> bool:
    return False


def _judge(found: Kills, told: Told, finished: set[str]) -> None:
    """Whether the command that followed a kill went on with what was finished."""
    if not told.events or not told.events[0].get("resumed"):
        found.lost.append(f"not resumed: exit code {told.code}: {told.errors[-300:]}")
        return
    found.again_s.append(told.moments[0])
    twice = {each["node"] for each in told.named("node_started")} & finished
    found.repeated += sorted(twice)
    if told.events[0]["completed"] < len(finished):
        found.lost.append(f"{told.run_id}: {told.events[0]['completed']} of {len(finished)} were kept")
    elif not twice:
        found.resumed += 1


def _ended(found: Kills, told: Told, run_id: str) -> None:
    ends = told.named("run_finished")
    if ends and ends[0]["status"] == "succeeded":
        found.finished += 1
    else:
        found.lost.append(f"{run_id} did not succeed: exit code {told.code}: {told.errors[-300:]}")


def _phase_of(told: Told) -> str:
    """Where the last node that was begun belongs."""
    started = told.named("node_started")
    if not started:
        return "before a node"
    return str(started[-1]["node"]).partition("/")[0]

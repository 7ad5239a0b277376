"""Thousands of runs through worker deaths, timeouts, disk errors and supervisor deaths, each replayable by its seed.

What is checked, at every step where it can be seen and at the end of every run (see tests/simulation):

G-01  admit first: no node starts before the admission is durable
G-02  result and done are one record
G-03  strict: no dependent starts before its dependencies' results are durable
G-04  a node whose node_succeeded event was emitted never executes again, over any number of deaths (relaxed: on
      process death; strict: also on power loss)
G-05  final results equal those of an undisturbed run of the same definition
G-06  a refused (fenced) late answer never changes anything; at most one attempt of a node wins
G-07  effect once: never executed twice without a resolve; in doubt after a death without answer
G-08  the innocent are not blamed: only nodes that were in hand at a worker's death have crash counts; poison
      nodes fail after exactly max_crashes
G-09  crash counts survive supervisor deaths
G-10  attempts with an answer per retry budget never exceed max_attempts; fresh budget only after a final failure
      and a resume
G-11  the concurrency limit of a run is never exceeded by executing nodes
G-12  after a disk error nothing is acknowledged that is not written, dispatch stops, the run pauses, and resumes
G-13  no run hangs: every run ends or pauses with a reason while nothing can progress
G-14  the end state is consistent: every node in an ended state, by the rules of an independent oracle
G-15  fairness: with two runs ready, neither starves
G-16  open breaker: no guarded node executes without a permit; waiting burns no attempts; no permit is kept

SAGE_SIM_RUNS is how many runs are played (2,000 by default, about two in a world), SAGE_SIM_SEED the first
seed. A failure prints its seed, a smaller world that fails as well, and the end of its history.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from simulation.definitions import random_definition
from simulation.ledger import Violation
from simulation.replay import shrink, undisturbed
from simulation.world import Settings, World

from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.definitions.loading import load_dict

WORLDS = int(os.environ.get("SAGE_SIM_RUNS", "2000")) // 2
FIRST = int(os.environ.get("SAGE_SIM_SEED", "0"))
PARTS = 20


def play(seed: int, settings: Settings | None = None) -> World:
    """One world; a violation becomes a report that can be replayed."""
    try:
        return World(seed, settings).run()
    except Violation:
        smaller, violation, trace = shrink(seed, settings)
        history = "\n".join(f"  {event}" for event in trace[-60:])
        pytest.fail(f"World({seed}, {smaller}): {violation}\n{history}")


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.requirement("ORCH-002")
@pytest.mark.requirement("ORCH-011")
@pytest.mark.timeout(900)
def test_every_guarantee_holds_in_every_world(part: int) -> None:
    worlds = WORLDS // PARTS
    lives = 0
    for seed in range(FIRST + part * worlds, FIRST + (part + 1) * worlds):
        lives += play(seed).lives
    assert lives > worlds  # some supervisors died


@pytest.mark.parametrize("part", range(2))
def test_results_equal_those_of_an_undisturbed_run(part: int) -> None:
    compared = 0
    for seed in range(FIRST + 100_000 + part, FIRST + 100_000 + max(2, WORLDS // 10), 2):
        world = play(seed)
        for script in world.scripts:
            if script.tainted or script.fell_back:
                continue
            calm = undisturbed(script)
            if calm.fell_back or calm.tainted:
                continue
            compared += 1
            assert calm.status == script.status, f"seed {seed}, {script.run_id}"
            assert calm.results == script.results, f"seed {seed}, {script.run_id}"
            assert calm.ends == script.ends, f"seed {seed}, {script.run_id}"
    assert compared > 0


def test_the_same_seed_gives_the_same_history() -> None:
    assert World(7).run().trace == World(7).run().trace


def test_the_worlds_hold_valid_definitions() -> None:
    for seed in range(60):
        load_dict(random_definition(Random(seed), 12) | {"concurrency": 2})


def test_a_broken_guarantee_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: here a run core makes failures of every kind tolerated."""
    real = RunCore.acknowledged

    def acknowledged(self: RunCore, token: Any, location: Any, first_record: int) -> None:
        real(
            self, ("failed", token[1], "continue") if token[0] == "failed" else token, location, first_record
        )

    monkeypatch.setattr(RunCore, "acknowledged", acknowledged)
    broken = next(seed for seed in range(200) if _breaks(seed))
    smaller, violation, trace = shrink(broken)
    assert violation.guarantee == "G-14"
    assert smaller.nodes <= Settings().nodes
    assert trace


def _breaks(seed: int) -> bool:
    try:
        World(seed).run()
    except Violation:
        return True
    return False

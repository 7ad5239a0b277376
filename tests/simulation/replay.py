"""A world again: made smaller while it still breaks, or calm, to see what should have come out."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from simulation.ledger import Script, Violation
from simulation.world import Settings, World

__all__ = ["shrink", "undisturbed"]

_CALM = Settings(
    nodes=1, runs=1, workers=2, supervisor_deaths=0, worker_deaths=0, disk_errors=0, decisions=0, stale=0
)


def shrink(
    seed: int | str, settings: Settings | None = None
) -> tuple[Settings, Violation, list[tuple[Any, ...]]]:
    """A smaller world of the same seed that breaks too, what breaks in it, and its history."""
    settings = settings or Settings()
    found = _try(seed, settings)
    assert found is not None, f"seed {seed} holds"
    for name in [each.name for each in fields(Settings)] * 2:
        for value in range(0 if name not in ("nodes", "runs", "workers") else 1, getattr(settings, name)):
            smaller = replace(settings, **{name: value})
            broken = _try(seed, smaller)
            if broken is not None:
                settings, found = smaller, broken
                break
    return settings, *found


def undisturbed(script: Script) -> Script:
    """The same run again in a world where nothing goes wrong but what its fates say."""
    world = World(f"calm {script.seed}", _CALM)
    again = Script(
        index=0,
        seed=script.seed,
        spec=script.spec,
        inputs=script.inputs,
        durability="strict",
        waits_for_people=True,
        timeout=None,
        patience_s=900.0,
        disk_fails_at=[],
    )
    world.scripts = [again]
    world.run()
    return again


def _try(seed: int | str, settings: Settings) -> tuple[Violation, list[tuple[Any, ...]]] | None:
    world = World(seed, settings)
    try:
        world.run()
    except Violation as violation:
        return violation, world.trace
    return None

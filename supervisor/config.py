"""A project's settings: `.sage/config.toml`, all of it optional.

workers = 6                      # processes for blocking operations, and as many for async ones
durability = "strict"            # strict | relaxed | none
grace = 5.0                      # seconds between SIGTERM and SIGKILL

[sandbox]                        # see actors/confinement/settings.py; what widens needs consent
hide = [".env"]

[breakers."*"]                   # the default for every endpoint
failures = 5                     # consecutive failures that open it
open_s = 60.0                    # seconds until it is tried again
successes = 2                    # that close it

[breakers."api.example.com"]
max_concurrent = 4
rate = 2.0                       # calls a second
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_actors.actors.breaker.policy import BreakerPolicy
from sage_actors.actors.confinement.settings import SandboxSettings, parse_sandbox
from sage_actors.actors.toml_file import load_settings
from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.messages.secret_scan import secret_problems

__all__ = ["Config", "load_config"]

DURABILITIES = ("strict", "relaxed", "none")


@dataclass(frozen=True, slots=True)
class Config:
    """See the module's text. None: nothing is said."""

    workers: int | None = None
    durability: str | None = None
    grace_s: float | None = None
    breakers: Mapping[str, BreakerPolicy] = field(default_factory=dict)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)


def load_config(project: Path) -> Config:
    """The settings of a project; those of an empty file if there is none.

    Raises:
        DefinitionError: all that is wrong with the file.
    """
    return load_settings(
        project / ".sage" / "config.toml",
        lambda data, problems: _checked(data, problems, str(project.absolute())),
    )


def _checked(data: dict[str, Any], problems: list[Problem], project: str) -> Config:
    problems += secret_problems(data, "")
    for name in data.keys() - {"workers", "durability", "grace", "breakers", "sandbox"}:
        problems.append(Problem(name, "unknown setting", "workers, durability, grace, breakers or sandbox"))
    workers, durability, grace = data.get("workers"), data.get("durability"), data.get("grace")
    if workers is not None and (type(workers) is not int or not 1 <= workers <= 1024):
        problems.append(Problem("workers", "must be a whole number from 1 to 1024"))
    if durability is not None and durability not in DURABILITIES:
        problems.append(Problem("durability", f"must be one of {', '.join(DURABILITIES)}"))
    if grace is not None and (type(grace) not in (int, float) or not 0 <= grace <= 3600):
        problems.append(Problem("grace", "must be seconds, from 0 to 3600"))
    sandbox = parse_sandbox(data.get("sandbox", {}), project, problems, of_project=True)
    return Config(workers, durability, grace, _breakers(data.get("breakers", {}), problems), sandbox)


def _breakers(data: Any, problems: list[Problem]) -> dict[str, BreakerPolicy]:
    if not isinstance(data, dict):
        problems.append(Problem("breakers", "must be a table of endpoints"))
        return {}
    policies: dict[str, BreakerPolicy] = {}
    for endpoint, said in data.items():
        place = f"breakers.{endpoint}"
        if not isinstance(said, dict):
            problems.append(Problem(place, "must be a table"))
            continue
        try:
            policies[endpoint] = BreakerPolicy.from_dict(said, place=place)
        except DefinitionError as error:
            problems += error.problems
    return policies

"""Runs checks on what an agent changed: commands of the workflow, or the project's own where the user consented."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sage_actors.actors.operations.command import run_command
from sage_actors.actors.trust.consents import TrustStore, checks_item
from sage_actors.messages.errors import TimeoutExceeded

__all__ = ["CheckPlan", "plan_checks", "run_checks"]

_TIMEOUT_S = 1800.0
_OUTPUT_CHARS = 4_000
_KINDS = ("test", "lint", "types")


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """commands: (name, words, folder below the directory) of each. note: why there is none."""

    commands: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    note: str = ""


def plan_checks(
    wanted: bool | list[str], directory: Path, project: Path, changed: Iterable[str] = ()
) -> CheckPlan:
    """What to run in `directory`, the agent's version of `project`.

    Args:
        wanted: commands for the shell, or true for the project's own: its tests, its linter, its type checker.
            Those run only if the user consented to them as they are now, in `directory`: an agent that changed what
            decides the checks has no consent. Of a monorepo's parts those that have files of `changed`.
    """
    if wanted is False:
        return CheckPlan()
    if isinstance(wanted, list):
        return CheckPlan(tuple((each, ("/bin/sh", "-c", each), "") for each in wanted))
    if not TrustStore().trusts(project, checks_item(directory)):
        same = checks_item(directory).digest == checks_item(project).digest
        why = (
            "the user has not consented to them (--trust)" if same else "the agent changed what decides them"
        )
        return CheckPlan(note=f"the project's own checks were not run: {why}")
    found = _detected(directory, changed)
    return CheckPlan(found, "" if found else "the project declares no checks that are known here")


def run_checks(
    plan: CheckPlan,
    directory: Path,
    environ: Mapping[str, str],
    *,
    on_text: Callable[[str, str], None],
    stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """{name, ok, exit_code, seconds, output} of each, in their order; `output` is the end of what it printed.

    One that takes half an hour is ended and has failed; its exit code is null.
    """
    return [
        _run(name, words, directory / folder, environ, on_text, stop) for name, words, folder in plan.commands
    ]


def _run(
    name: str,
    words: tuple[str, ...],
    directory: Path,
    environ: Mapping[str, str],
    on_text: Callable[[str, str], None],
    stop: Callable[[], bool],
) -> dict[str, Any]:
    started = time.monotonic()
    exit_code: int | None = None
    try:
        output = run_command(
            words,
            cwd=str(directory),
            env=environ,
            on_text=on_text,
            stop=stop,
            timeout_s=_TIMEOUT_S,
            ends_group=True,
        )
        exit_code, text = output.exit_code, output.stdout + output.stderr
    except (OSError, TimeoutExceeded) as cause:
        text = str(cause)
    seconds = round(time.monotonic() - started, 3)
    ok = exit_code == 0
    return {
        "name": name,
        "ok": ok,
        "exit_code": exit_code,
        "seconds": seconds,
        "output": text[-_OUTPUT_CHARS:],
    }


def _detected(directory: Path, changed: Iterable[str]) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    from sage_actors.servers.corpus.sources import Sources
    from sage_actors.servers.implementation.checks import best_of_each_part, detect_checks

    paths = list(changed)
    checks = [
        check
        for check in detect_checks(Sources(directory))
        if not check.folder or any(path.startswith(f"{check.folder}/") for path in paths)
    ]
    best = [each for kind in _KINDS for each in best_of_each_part(checks, cast(Any, kind))]
    return tuple((each.name, tuple(each.command), each.folder) for each in best)

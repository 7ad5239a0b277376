"""Commands that look after what is kept: delete, prune."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sage_actors.messages.units import counted
from sage_actors.supervisor.cli.options import confirmed, json_option, project_option, state_of

if TYPE_CHECKING:
    from sage_actors.actors.agents.leftovers import Leftovers
    from sage_actors.actors.state.directory import StateDirectory

__all__ = ["delete_command", "prune_command", "seconds_of"]

_MOST_DIGITS = 9  # of an age
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@click.command("delete")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@project_option
@json_option
def delete_command(run_ids: tuple[str, ...], yes: bool, project: Path, as_json: bool) -> int:
    """Remove the state of RUN: its results, its history, everything. This cannot be undone.

    Worktrees and patches that its agents left in .sage are removed, too; their branches stay, and so does a worktree
    that is locked. A run that a live process owns is refused, with exit code 3.

    \b
    Examples:
      sage-actors delete feature-payment-processing
      sage-actors delete try-1 try-2 --yes
    """
    from sage_actors.messages.errors import NoCheckpointError

    state = state_of(project)
    missing = [run_id for run_id in run_ids if not state.run_dir(run_id).is_dir()]
    if missing:
        raise NoCheckpointError(f"there is no run {missing[0]!r} in {state.root}; nothing was deleted")
    _refuse_live(state, run_ids)
    if not _may(f"Delete {', '.join(run_ids)} for good?", yes):
        return 1
    leftovers = [_delete(state, run_id) for run_id in run_ids]
    _tell(as_json, list(run_ids), "deleted", leftovers)
    return 0


@click.command("prune")
@click.option("--older-than", "age", required=True, metavar="AGE", help="Such as 30d, 12h, 2w.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@click.option(
    "--audit", "audit_too", is_flag=True, help="Also remove full files of the audit log that are that old."
)
@project_option
@json_option
def prune_command(age: str, yes: bool, dry_run: bool, audit_too: bool, project: Path, as_json: bool) -> int:
    """Remove runs and archived runs to which nothing has been written for longer than AGE.

    What agents of these runs left is removed as `delete` does it. A run that a live process owns stays, and so does
    the audit log, unless --audit is given.

    \b
    Examples:
      sage-actors prune --older-than 30d
      sage-actors prune --older-than 12h --dry-run
    """
    from sage_actors.actors.audit.files import old_files
    from sage_actors.actors.audit.project import audit_project

    state = state_of(project)
    before = time.time() - seconds_of(age, "--older-than")
    old = [run_id for run_id in state.run_ids() if _written_at(state.root / run_id) < before]
    old = [run_id for run_id in old if not _is_live(state, run_id)]
    archived = [path for path in state.archives() if _written_at(path) < before]
    logs = old_files(state.root.parent, before) if audit_too else []
    names = [*old, *(f"archive/{path.name}" for path in archived), *(f"../{path.name}" for path in logs)]
    if dry_run or not names:
        _tell(as_json, names, "would be deleted", [_leftovers(state, run_id, dry_run=True) for run_id in old])
        return 0
    if not as_json:
        for name in names:
            click.echo(f"  {name}  last written {_day(state.root / name)}")
    if not _may(f"Delete {_told_apart(len(old), len(archived), len(logs))} for good?", yes):
        return 1
    leftovers = [_delete(state, run_id) for run_id in old]
    for path in archived:
        _audited(state, "archive_deleted", None, archive=path.name)
        _remove_archived(path)
    if logs:
        with audit_project(project) as audit:
            audit.drop_before(before)
    _tell(as_json, names, "deleted", leftovers)
    return 0


def _told_apart(runs: int, archived: int, files: int) -> str:
    """What is to be removed, as `2 runs and 1 archived run`."""
    parts = [
        counted(runs, "run") if runs else "",
        counted(archived, "archived run") if archived else "",
        counted(files, "file of the audit log", "files of the audit log") if files else "",
    ]
    return " and ".join(filter(None, parts))


def _refuse_live(state: StateDirectory, run_ids: Iterable[str]) -> None:
    from sage_actors.messages.errors import RunLockedError

    for run_id in run_ids:
        if _is_live(state, run_id):
            raise RunLockedError(f"a live process owns run {run_id}; cancel it first. Nothing was deleted")


def _is_live(state: StateDirectory, run_id: str) -> bool:
    from sage_actors.actors.state.locks import holder

    return holder(state, run_id) is not None


def _delete(state: StateDirectory, run_id: str) -> Leftovers:
    """Remove a run and what agents of it left: that first, so that a crash leaves a run to delete again."""
    from sage_actors.actors.state.directory import Registry
    from sage_actors.actors.state.locks import RunLock

    lock = RunLock.acquire(state, run_id, to_remove=True)
    try:
        _audited(state, "run_deleted", run_id)
        leftovers = _leftovers(state, run_id)
        state.delete(run_id)
        Registry(state).forget(run_id)
        return leftovers
    finally:
        lock.release()


def _leftovers(state: StateDirectory, run_id: str, *, dry_run: bool = False) -> Leftovers:
    from sage_actors.actors.agents.leftovers import remove_leftovers

    return remove_leftovers(state.project, run_id, dry_run=dry_run)


def _audited(state: StateDirectory, event: str, run_id: str | None, **fields: object) -> None:
    """Record what is about to be removed. Neither a full disk nor a lost key keeps anybody from removing it."""
    from sage_actors.actors.audit.project import audit_project
    from sage_actors.messages.errors import KeyUnusableError, StorageError

    try:
        with audit_project(state.project) as audit:
            audit.record(event, run_id, **fields)
    except (KeyUnusableError, StorageError) as error:
        click.echo(f"Warning: this will not be in the audit log: {error}", err=True)


def _remove_archived(path: Path) -> None:
    import shutil

    from sage_actors.messages.errors import StorageError

    try:
        shutil.rmtree(path)
    except OSError as cause:
        raise StorageError(f"cannot remove {path}: {cause}") from cause


def _written_at(directory: Path) -> float:
    """Unix time of the last write to a run's journal."""
    times = [path.stat().st_mtime for path in directory.glob("journal-*")]
    return max(times, default=directory.stat().st_mtime)


def _day(directory: Path) -> str:
    return datetime.fromtimestamp(_written_at(directory)).strftime("%Y-%m-%d %H:%M")


def seconds_of(age: str, option: str) -> float:
    """The seconds that an age such as 30d says. click.UsageError if it says none."""
    match = re.fullmatch(r"([0-9]+)([smhdw])", age.strip())
    if match is None:
        raise click.UsageError(f"{option} is a number and a unit (s, m, h, d, w), such as 30d, not {age!r}.")
    if len(match[1]) > _MOST_DIGITS:
        raise click.UsageError(f"{option} is too large: a number of {_MOST_DIGITS} digits at most.")
    return int(match[1]) * _UNITS[match[2]]


def _may(question: str, yes: bool) -> bool:
    if confirmed(question, yes):
        return True
    click.echo("Nothing was deleted.", err=True)
    return False


def _tell(as_json: bool, names: list[str], done: str, leftovers: list[Leftovers]) -> None:
    from sage_actors.supervisor.json_text import to_json

    removed = [path for each in leftovers for path in each.removed]
    kept = {path: why for each in leftovers for path, why in each.kept.items()}
    if as_json:
        more = {key: value for key, value in (("leftovers", removed), ("kept", kept)) if value}
        click.echo(to_json({done.replace(" ", "_"): names, **more}))
    elif names:
        click.echo("\n".join(f"{name} {done}" for name in (*names, *removed)))
    else:
        click.echo("Nothing is that old.")
    for path, why in kept.items():
        click.echo(f"{path} stays: {why}", err=True)

"""The command `init`: sets a project up for agents."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sage_actors.supervisor.cli.options import json_option, project_option

if TYPE_CHECKING:
    from sage_actors.supervisor.setup.project import Change

__all__ = ["init_command"]

_DONE = {"create": "created", "replace": "replaced", "merge": "added to", "keep": "unchanged"}
_WOULD = {"create": "would create", "replace": "would replace", "merge": "would add to", "keep": "unchanged"}


@click.command("init")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@project_option
@json_option
def init_command(dry_run: bool, project: Path, as_json: bool) -> None:
    """Set the project up: .sage/, the command /sage.workflow, the skill sage-workflow, the .mcp.json entry.

    Nothing is lost: what would be overwritten is kept as NAME.bak-N, and other servers in .mcp.json stay as they
    are. A second time changes nothing.

    \b
    Examples:
      sage-actors init
      sage-actors init --dry-run
      sage-actors init --project ../shop --json
    """
    from sage_actors.supervisor.setup.project import apply_changes, plan_changes

    changes = plan_changes(project)
    if not dry_run and any(change.action != "keep" for change in changes):
        apply_changes(project, changes)
    on_path = shutil.which("sage-actors") is not None
    if as_json:
        from sage_actors.supervisor.json_text import to_json

        rows = [_row(change) for change in changes]
        click.echo(to_json({"dry_run": dry_run, "changes": rows, "command_on_path": on_path}))
    else:
        _tell(changes, dry_run, on_path)


def _row(change: Change) -> dict[str, str]:
    return {
        "path": change.path,
        "action": change.action,
        "backup": change.backup,
        "note": change.note,
    }


def _tell(changes: list[Change], dry_run: bool, on_path: bool) -> None:
    words = _WOULD if dry_run else _DONE
    for change in changes:
        kept = f", the old one is {change.backup}" if change.backup else ""
        note = f" ({change.note})" if change.note else ""
        click.echo(f"  {words[change.action]:<13} {change.path}{kept}{note}")
    if all(change.action == "keep" for change in changes):
        click.echo("Everything was set up already; nothing was changed.")
    elif not dry_run:
        click.echo('Next: sage-actors run feature "TOPIC", or /sage.workflow TOPIC in an agent.')
    if not on_path:
        click.echo(
            "Warning: sage-actors is not on the PATH, so an agent cannot start it; install it as a tool "
            "(pipx install sage-actors), or put a full path into .mcp.json.",
            err=True,
        )

"""The command `trust`: what the user consented to in a project, and how to take it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sage_actors.supervisor.cli.options import json_option, project_option

if TYPE_CHECKING:
    from sage_actors.actors.trust.consents import Consented

__all__ = ["trust_command"]


@click.group("trust")
def trust_command() -> None:
    """What of this project may run, by content: servers, templates, skills, checks, a wider sandbox.

    Consent is given when a run asks for it (`run --trust`, or `mcp trust` for agents). It ends by itself when the
    content changes.
    """


@trust_command.command("list")
@project_option
@json_option
def _list_consents(project: Path, as_json: bool) -> None:
    """What you consented to in this project, and since when.

    \b
    Example:
      sage-actors trust list
    """
    from dataclasses import asdict

    from sage_actors.actors.trust.consents import TrustStore
    from sage_actors.supervisor.json_text import to_json

    store = TrustStore()
    found = store.recorded(project)
    problem = store.problem()
    if as_json:
        click.echo(to_json({"consents": [asdict(each) for each in found], "problem": problem}))
        return
    if problem:
        click.echo(f"Warning: {problem}", err=True)
    if not found:
        click.echo("Nothing of this project is trusted.")
        return
    width = max(len(each.kind) for each in found)
    for each in found:
        click.echo(f"{each.kind:<{width}}  {each.digest[:12]}  since {each.since}  {_shown(each)}")


@trust_command.command("revoke")
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything that you consented to in this project.")
@project_option
def _revoke_consents(names: tuple[str, ...], everything: bool, project: Path) -> None:
    """Take consent back: what was trusted under NAME needs it again. A run that is going on is not stopped.

    \b
    Examples:
      sage-actors trust revoke deploy
      sage-actors trust revoke --all
    """
    from sage_actors.actors.trust.consents import TrustStore
    from sage_actors.supervisor.cli.consent import record_consents

    if bool(names) == everything:
        raise click.UsageError("Give names, as `sage-actors trust list` shows them, or --all.")
    store = TrustStore()
    found = store.recorded(project)
    chosen = [each for each in found if everything or each.name in names]
    if missing := sorted(set(names) - {each.name for each in chosen}):
        raise click.UsageError(f"Nothing was trusted under {missing[0]!r}; see `sage-actors trust list`.")
    record_consents(project, "revoked", chosen)
    store.revoke(project, chosen)
    for each in chosen:
        click.echo(f"Not trusted any more: {each.kind} {_shown(each)}")


def _shown(consented: Consented) -> str:
    """The name as a terminal can take it."""
    return consented.name if consented.name.isprintable() else repr(consented.name)

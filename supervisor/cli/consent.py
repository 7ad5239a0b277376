"""How the command line comes by the user's consent: `--trust`, a question on a terminal, or an error."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sage_actors.supervisor.cli.options import at_terminal

if TYPE_CHECKING:
    from sage_actors.actors.trust.consents import Consented, Item
    from sage_actors.messages.definition import WorkflowSpec

__all__ = ["ensure_consent", "record_consents"]

_REFUSED = {
    "checks": "The project's own tests and linters are not run in this run; --trust consents to that.",
    "mcp-server": "The built-in {name} is used, not what .mcp.json brings; --trust consents to that: {item}",
}


def ensure_consent(
    spec: WorkflowSpec, project: Path, *, template_path: Path | None = None, trust: bool, quiet: bool
) -> None:
    """Consent to all that `spec` needs of the project, or the end of this command.

    template_path: the definition's file, where it was found by a template's name.

    Raises:
        UsageError: there is no consent to something without which the run cannot start.
    """
    from sage_actors.supervisor.consent import obtain_consent, optional_items, required_items

    consent = obtain_consent(
        required_items(spec, project, template_path),
        optional_items(spec, project),
        project,
        trust=trust,
        ask=partial(_ask, project) if at_terminal() else None,
        record=partial(record_consents, project, "given"),
    )
    if quiet:
        return
    if trust:
        for item in consent.given:
            click.echo(f"Trusted from now on, until it changes: {item}", err=True)
    for item in consent.refused:
        click.echo(_REFUSED[item.kind].format(item=item, name=item.name), err=True)


def record_consents(project: Path, change: str, consents: Iterable[Item | Consented]) -> None:
    """Tell the project's audit log, where it has one. change: "given" or "revoked".

    Raises:
        AuditError, StorageError: it cannot be recorded; then nothing must change.
    """
    from sage_actors.actors.audit.project import audit_project

    with audit_project(project) as audit:
        for each in consents:
            audit.record("consent", change=change, kind=each.kind, name=each.name, digest=each.digest)


def _ask(project: Path, item: Item, is_needed: bool) -> bool:
    shown = str(item)
    if item.kind == "checks":
        commands = _check_commands(project)
        if not commands:
            return False  # there is nothing that would run
        shown = f"checks: {', '.join(commands)}"
    click.echo(f"The project brings {shown}", err=True)
    without = "nothing starts" if is_needed else "the run goes on"
    return click.confirm(f"Trust it, until it changes? (without it {without})", err=True)


def _check_commands(project: Path) -> list[str]:
    """The commands that the project's own tests and linters are."""
    from sage_actors.servers.corpus.sources import Sources
    from sage_actors.servers.implementation.checks import detect_checks

    return [check.text for check in detect_checks(Sources(project))]

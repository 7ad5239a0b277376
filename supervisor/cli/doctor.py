"""The command `doctor`: what a run needs of this machine, and what it cannot do here."""

from __future__ import annotations

from pathlib import Path

import click

from sage_actors.supervisor.cli.options import json_option, project_option

__all__ = ["doctor_command"]


@click.command("doctor")
@project_option
@json_option
def doctor_command(project: Path, as_json: bool) -> int:
    """Check, by trying, what a run needs on this machine and in this project; exit code 1 if it lacks any.

    Below that it says what a confined operation cannot do here: each line is an attack that was tried.

    \b
    Examples:
      sage-actors doctor
      sage-actors doctor --project ../other --json
    """
    from dataclasses import asdict

    from sage_actors.supervisor.json_text import to_json
    from sage_actors.supervisor.setup.doctor import examine, table
    from sage_actors.supervisor.setup.doctor_security import measure, promise_table

    checks = examine(project)
    healthy = all(check.status != "failed" for check in checks)
    report, promises = measure()
    if as_json:
        sandbox = {**asdict(report), "promises": [asdict(each) for each in promises]}
        click.echo(
            to_json({"ok": healthy, "checks": [asdict(check) for check in checks], "sandbox": sandbox})
        )
        return 0 if healthy else 1
    click.echo(table(checks))
    click.echo()
    click.echo(promise_table(report.tier, promises))
    for gap in report.gaps:
        click.echo(f"Not promised: {gap}")
    return 0 if healthy else 1

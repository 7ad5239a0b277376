"""The command `audit`: what happened to runs, keys and consents, and whether the record of it is whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sage_actors.messages.units import counted
from sage_actors.supervisor.cli.options import json_option, project_option, reading_keys, state_of

__all__ = ["audit_command"]

_OF_EVERY_LINE = frozenset({"v", "seq", "ts", "pid", "key", "prev", "mac", "run", "event", "user", "changes"})
_MOST_NODES = 5
_LONGEST_LINE = 1000


@click.group("audit")
def audit_command() -> None:
    """The audit log: every change of a run, decision, denial and key event, in a chain that proves itself.

    \b
    Examples:
      sage-actors audit verify
      sage-actors audit show feature-payment-processing --event decision
      sage-actors audit head > elsewhere/audit-head
      sage-actors audit verify --head "$(cat elsewhere/audit-head)"
    """


@audit_command.command("verify")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--head", "heads", multiple=True, metavar="N:MAC", help="A record that must be in the log.")
@project_option
@json_option
def _verify(run_id: str | None, heads: tuple[str, ...], project: Path, as_json: bool) -> int:
    """Check every record, the chain, and the journals of its runs (or of RUN); exit code 4 at the first that is bad.

    Whoever holds the key can write a new log, and whoever can write log and journals can put an old copy of both
    back. Against that, keep what `audit head` prints where they cannot write, and give it with --head.
    """
    from sage_actors.actors.audit.check import verify_audit
    from sage_actors.supervisor.json_text import to_json

    found = verify_audit(
        state_of(project), reading_keys(), run_id=run_id, heads=tuple(_head(each) for each in heads)
    )
    chain = found.chain
    if as_json:
        said = {"ok": True, "records": len(chain.macs), "files": chain.files, "head": str(chain.head or "")}
        click.echo(to_json({**said, "runs": found.runs, "notices": found.notices}))
        return 0
    click.echo(
        f"{counted(len(chain.macs), 'record')} in {counted(chain.files, 'file')}, each genuine and in its place; "
        f"{counted(found.runs, 'run agrees with its journal', 'runs agree with their journals')}"
    )
    click.echo(f"head {chain.head}")
    if chain.torn_bytes:
        click.echo(
            f"Note: the last line is torn ({chain.torn_bytes} bytes): its writer was killed, or is at it."
        )
    for notice in found.notices:
        click.echo(f"Note: {notice}")
    return 0


@audit_command.command("head")
@project_option
@json_option
def _print_head(project: Path, as_json: bool) -> int:
    """The last record's number and mac, once the log is verified: for `verify --head`, kept somewhere else."""
    from sage_actors.actors.audit.verify import verify_chain
    from sage_actors.supervisor.json_text import to_json

    head = verify_chain(state_of(project), reading_keys()).head
    if head is None:
        return 1
    click.echo(to_json({"seq": head.seq, "mac": head.mac}) if as_json else str(head))
    return 0


@audit_command.command("show")
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--event", "event", metavar="E", help="Only this event, such as decision or node_failed.")
@click.option("--since", metavar="AGE", help="Only what is not older than AGE, such as 30m, 12h, 2w.")
@project_option
@json_option
def _show(run_id: str | None, event: str | None, since: str | None, project: Path, as_json: bool) -> int:
    """Print what was recorded, of one run or of all, oldest first. `audit verify` tells whether it is genuine."""
    from sage_actors.supervisor.json_text import to_line

    oldest = 0.0 if since is None else time.time() - _seconds(since)
    for each in _events(project):
        if (
            run_id not in (None, each["run"])
            or event not in (None, each["event"])
            or each["at"] < oldest * 1e6
        ):
            continue
        click.echo(to_line(each) if as_json else _told(each))
    return 0


def _events(project: Path) -> Iterator[dict[str, Any]]:
    """Each change and each other event, with who and when."""
    import json

    from sage_actors.actors.audit.verify import open_files
    from sage_actors.messages.errors import AuditError

    with open_files(state_of(project)) as files:
        for path, number, line, is_whole in files.lines():
            if not is_whole:
                continue
            try:
                fields = json.loads(line)
                who = {name: fields[name] for name in ("seq", "run", "actor", "user", "pid")}
                changes = fields.get("changes") or [{**_extra(fields), "event": fields["event"]}]
                yield from ({"at": fields["ts"], **each, **who} for each in changes)
            except (ValueError, KeyError, TypeError, AttributeError) as cause:
                raise AuditError(
                    f"{path}, line {number}: it is no record; `sage-actors audit verify`"
                ) from cause


def _extra(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in _OF_EVERY_LINE}


def _told(event: dict[str, Any]) -> str:
    """One line for a person."""
    from sage_actors.supervisor.cli.display import one_line

    when = datetime.fromtimestamp(event["at"] / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    words = [when, event["run"] or "-", event["event"]]
    if "new" in event:
        words.append(f"{event.get('old') or '-'} -> {event['new']}")
    nodes = event.get("nodes", [])
    if nodes:
        rest = f" and {len(nodes) - _MOST_NODES} more" if len(nodes) > _MOST_NODES else ""
        words.append(", ".join(nodes[:_MOST_NODES]) + rest)
    known = {"at", "event", "run", "old", "new", "nodes", "seq", "pid", "actor", "user"}
    words += [f"{name}={_short(value)}" for name, value in event.items() if name not in known]
    words.append(f"by {event['actor']} ({event['user']})")
    return one_line(" ".join(words), limit=_LONGEST_LINE)  # names come from definitions


def _short(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _head(text: str) -> Any:
    from sage_actors.actors.audit.format import parse_head

    try:
        return parse_head(text)
    except ValueError as cause:
        raise click.UsageError(f"--head {text!r}: {cause}.") from cause


def _seconds(age: str) -> float:
    from sage_actors.supervisor.cli.keep import seconds_of

    return seconds_of(age, "--since")

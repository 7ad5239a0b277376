"""Commands that look at runs: list, status, show, history, logs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_actors.supervisor.cli.options import (
    json_option,
    open_run,
    project_option,
    reading_keys,
    state_of,
)

if TYPE_CHECKING:
    from sage_actors.supervisor.recovery.history import History, NodeView
    from sage_actors.supervisor.recovery.summaries import Summaries

__all__ = ["history_command", "list_command", "logs_command", "show_command", "status_command"]

_STATES = ("running", "succeeded", "failed", "cancelled", "paused", "interrupted", "unreadable")
_MOST_NODES = 60
_MOST_ERRORS = 20


@click.command("list")
@click.option(
    "--status",
    "wanted",
    type=click.Choice(_STATES),
    metavar="STATUS",
    help="Only runs that are running, paused, failed, ...",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the N most recently written.")
@project_option
@json_option
def list_command(wanted: str | None, limit: int | None, project: Path, as_json: bool) -> None:
    """List the runs of the project, most recently written first.

    \b
    Examples:
      sage-actors list
      sage-actors list --status paused --json
    """
    chosen = _rows(project, wanted, limit or sys.maxsize)
    if as_json:
        from sage_actors.supervisor.json_text import to_json

        click.echo(to_json(chosen))
    elif not chosen:
        click.echo("There are no runs." if wanted is None else f"There are no runs that are {wanted}.")
    else:
        _print_table(
            ("RUN", "WORKFLOW", "STATUS", "DONE", "STARTED", "TIME", ""),
            [_cells(row) for row in chosen],
        )


def _rows(project: Path, wanted: str | None, limit: int) -> list[dict[str, Any]]:
    """The first runs, up to `limit`, that have the wanted status."""
    from sage_actors.messages.errors import SageError
    from sage_actors.supervisor.recovery.summaries import Summaries

    state = state_of(project)
    try:
        book = Summaries(state, reading_keys(), kind="list", shape=1, summary=_summary)
    except SageError as error:  # there is no key that can be used
        unreadable = [_unreadable(run_id, error) for run_id in state.run_ids()]
        return unreadable[:limit] if wanted in (None, "unreadable") else []
    told = (_row(book, run_id) for run_id in book.run_ids())
    rows = (row for row in told if row is not None and wanted in (None, row["status"]))
    chosen = list(islice(rows, limit))
    book.keep()
    return chosen


def _row(book: Summaries, run_id: str) -> dict[str, Any] | None:
    """What there is to say about one run; one that cannot be read must not hide the others. None: it is no run, but
    what a process left that was killed before it admitted one."""
    from sage_actors.messages.errors import NoCheckpointError

    try:
        return {"run_id": run_id, **book.of(run_id)}
    except NoCheckpointError:
        return None
    except Exception as error:  # noqa: BLE001 - damage, a wrong key, a later version's state
        return _unreadable(run_id, error)


def _unreadable(run_id: str, error: Exception) -> dict[str, Any]:
    reason = str(error) if hasattr(error, "code") else repr(error)
    return {"run_id": run_id, "workflow": None, "status": "unreadable", "reason": reason}


def _summary(past: History) -> dict[str, Any]:
    return {
        "workflow": past.workflow,
        "status": past.status,
        "reason": past.reason,
        "started_at": _iso(past.started_at),
        "ended_at": _iso(past.ended_at),
        "seconds": past.seconds,
        "total": sum(past.counts.values()),
        "counts": past.counts,
        "tokens": past.tokens,
        "owner": past.owner.get("pid") if past.owner else None,
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    from sage_actors.supervisor.cli.display import duration, one_line

    counts = row.get("counts", {})
    done = f"{counts.get('succeeded', 0):,}/{row['total']:,}" if "total" in row else ""
    started = _local(row.get("started_at"))
    seconds = row.get("seconds")
    taken = duration(seconds) if seconds is not None else ""
    reason = one_line(row["reason"], limit=60) if row["status"] != "succeeded" else ""
    return (row["run_id"], row["workflow"] or "", row["status"], done, started, taken, reason)


@click.command("status")
@click.argument("run_id", metavar="RUN")
@project_option
@json_option
def status_command(run_id: str, project: Path, as_json: bool) -> None:
    """Show where RUN stands: progress, times, tokens, what waits and what failed.

    \b
    Examples:
      sage-actors status feature-payment-processing
      sage-actors status feature-payment-processing --json
    """
    past = open_run(project, run_id)
    nodes = past.nodes()
    live = _live_status(project, run_id) if past.status == "running" else {}
    facts = {"run_id": run_id} | _summary(past) | {"breakers": {}}
    facts["running"] = [node.id for node in nodes if node.state == "running"]
    facts["waiting"] = {node.id: node.reason or node.state for node in nodes if node.state in _WAITING}
    facts |= live
    if as_json:
        from sage_actors.supervisor.json_text import to_json

        click.echo(to_json(facts | {"nodes": [_node_map(node) for node in nodes]}))
    else:
        _print_status(facts, nodes)


def _live_status(project: Path, run_id: str) -> dict[str, Any]:
    """What only the run's owner knows; why it does not answer, where it is there."""
    from sage_actors.messages.errors import RunLockedError, SageError
    from sage_actors.supervisor.control.client import ControlClient

    try:
        live = ControlClient(project, run_id, timeout_s=5.0).status()
    except RunLockedError as error:
        return {"reason": str(error)}
    except SageError:
        return {}
    return {key: value for key, value in live.items() if key not in ("seconds", "reason")}


def _print_status(facts: Mapping[str, Any], nodes: list[NodeView]) -> None:
    from sage_actors.supervisor.cli.display import duration, one_line, tokens_text

    counts = ", ".join(f"{number:,} {state}" for state, number in facts["counts"].items() if number)
    click.echo(f"{facts['run_id']}  {facts['workflow']}  {facts['status']}")
    if facts["reason"] and facts["status"] != "succeeded":
        click.echo(f"reason   {one_line(facts['reason'])}")
    click.echo(f"nodes    {facts['total']:,}: {counts}")
    taken = duration(facts["seconds"]) if facts["seconds"] is not None else "?"
    click.echo(f"started  {_local(facts['started_at'])}, {taken}")
    if used := tokens_text(facts["tokens"]):
        click.echo(f"tokens   {used}")
    for endpoint, state in facts["breakers"].items():
        click.echo(f"breaker  {one_line(endpoint)}: {state}")
    for node, why in facts["waiting"].items():
        click.echo(f"waits    {node}: {why}")
    shown = sorted(nodes, key=lambda node: _INTEREST.get(node.state, 9))[:_MOST_NODES]
    click.echo("")
    _print_table(("NODE", "STATE", "ATTEMPTS", "TIME", ""), [_node_cells(node) for node in shown])
    if len(nodes) > len(shown):
        click.echo(f"and {len(nodes) - len(shown):,} more; --json has them all")


_WAITING = ("waiting", "in_doubt")
_INTEREST = {"failed": 0, "in_doubt": 0, "interrupted": 1, "running": 1, "waiting": 2}


def _node_cells(node: NodeView) -> tuple[str, ...]:
    from sage_actors.supervisor.cli.display import duration, error_text, one_line

    taken = duration(node.seconds) if node.seconds else ""
    why = error_text(node.error) if node.error else one_line(node.reason)
    return (node.id, node.state, str(node.attempts or ""), taken, why)


def _node_map(node: NodeView) -> dict[str, Any]:
    names = ("id", "phase", "state", "attempts", "seconds", "error", "reason", "tokens", "cost", "crashes")
    out = {name: getattr(node, name) for name in names}
    out |= {"sandbox": node.sandbox} if node.sandbox else {}
    return out | {"started_at": _iso(node.started_at), "ended_at": _iso(node.ended_at)}


@click.command("show")
@click.argument("run_id", metavar="RUN")
@click.argument("node", required=False)
@click.option("--full", is_flag=True, help="For a NODE with a digest: the whole result, from the cache.")
@project_option
@json_option
def show_command(run_id: str, node: str | None, full: bool, project: Path, as_json: bool) -> int:
    """Print the result of NODE, as its dependents see it; without NODE, of the nodes that nothing depends on.

    A text is printed as it is, anything else as JSON.

    \b
    Examples:
      sage-actors show feature-payment-processing
      sage-actors show feature-payment-processing specification/write > spec.md
    """
    past = open_run(project, run_id)
    if full and node is None:
        raise click.UsageError("--full needs a NODE.")
    if node is not None:
        whole = _whole_of(project, run_id, node) if full else None
        return _show_node(past, node, as_json=as_json, whole=whole)
    results, errors = _results(past)
    if as_json:
        from sage_actors.supervisor.json_text import to_json

        facts = {"run_id": run_id, "workflow": past.workflow, "status": past.status, "reason": past.reason}
        gaps = {node.id: node.sandbox for node in past.nodes() if node.sandbox and node.id in results}
        said = {"sandbox": gaps} if gaps else {}
        click.echo(to_json(facts | said | {"inputs": past.inputs, "results": results, "errors": errors}))
        return 0
    from sage_actors.supervisor.cli.display import error_text, results_text

    click.echo(f"{run_id}: {past.status}", err=True)
    click.echo(results_text({name: value for name, value in results.items() if name not in errors}))
    for name, error in list(errors.items())[:_MOST_ERRORS]:
        click.echo(f"{name}: {error_text(error)}", err=True)
    if len(errors) > _MOST_ERRORS:
        click.echo(f"and {len(errors) - _MOST_ERRORS:,} more errors; --json has them all", err=True)
    return 0


def _whole_of(project: Path, run_id: str, node: str) -> bytes | None:
    """What the node returned before it was digested, packed; None if nothing was left out, or it is gone."""
    from sage_actors.actors.cache.actor import whole_material
    from sage_actors.actors.cache.store import ResultCache

    cache = ResultCache(project.absolute() / ".sage" / "cache", reading_keys())
    entry = cache.get(cache.name_of(whole_material(run_id, node)))
    if entry is None:
        click.echo("Nothing more is kept than this: there was no digest, or the whole has expired.", err=True)
    return None if entry is None else entry.value


def _show_node(past: History, node_id: str, *, as_json: bool, whole: bytes | None) -> int:
    from sage_actors.messages.codec import unpack
    from sage_actors.supervisor.cli.display import error_text, one_line, printable
    from sage_actors.supervisor.json_text import to_json

    view = past.node(node_id)
    if view.state != "succeeded":
        why = f": {error_text(view.error)}" if view.error else ""
        click.echo(f"{node_id} has no result; it is {view.state}{why}", err=True)
        if traceback := (view.error or {}).get("traceback"):
            click.echo(printable(str(traceback)).rstrip(), err=True)
        return 1
    if view.sandbox:
        from sage_actors.actors.confinement.plan import describe_gaps

        click.echo(f"{node_id} was {describe_gaps(view.sandbox['tier'], view.sandbox['gaps'])}", err=True)
    if view.reason:
        click.echo(f"{node_id} {one_line(view.reason)}", err=True)
    value = past.value(node_id) if whole is None else unpack(whole)
    if isinstance(value, str) and not as_json:
        click.echo(printable(value) if sys.stdout.isatty() else value, color=True)
    else:
        click.echo(to_json(value))
    return 0


def _results(past: History) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of the nodes that nothing depends on, and the errors of those that failed."""
    errors = {node.id: node.error for node in past.nodes() if node.error and node.state == "failed"}
    return past.results(), errors


@click.command("history")
@click.argument("run_id", metavar="RUN")
@project_option
@json_option
def history_command(run_id: str, project: Path, as_json: bool) -> None:
    """Print every record of RUN's journal, in order: what was decided, by whom, when.

    \b
    Examples:
      sage-actors history feature-payment-processing
      sage-actors history feature-payment-processing --json | jq 'select(.record == "decision_taken")'
    """
    from sage_actors.supervisor.cli.display import one_line
    from sage_actors.supervisor.json_text import abbreviate, to_line

    for record in open_run(project, run_id).records():
        if as_json:
            click.echo(to_line(record))
            continue
        rest = {
            key: value
            for key, value in record.items()
            if key not in ("seq", "segment", "time", "record", "node")
        }
        text = one_line(to_line(abbreviate(rest, chars=120, items=8)), limit=200) if rest else ""
        head = f"{record.get('seq', ''):>6}  {_local(record.get('time'))}  {record.get('record', '')!s:<16}"
        click.echo(f"{head}  {record.get('node') or ''!s}  {text}".rstrip())


@click.command("logs")
@click.argument("run_id", metavar="RUN")
@click.argument("node", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the run ends.")
@project_option
@json_option
def logs_command(run_id: str, node: str | None, follow: bool, project: Path, as_json: bool) -> None:
    """Print what the operations of RUN (or of NODE alone) wrote: standard output, standard error, the log.

    \b
    Examples:
      sage-actors logs feature-payment-processing
      sage-actors logs feature-payment-processing research/market -f
    """
    past = open_run(project, run_id)
    if node is not None:
        past.node(node)  # says so if there is none
    stream = _follow(project, run_id) if follow and past.status == "running" else None
    seen: Counter[tuple[str, int, str, str]] = Counter()
    since = time.time() - 5.0
    for moment, name, attempt, kind, text in open_run(project, run_id).logs(node):
        if stream is not None and _unix(moment) > since:
            seen[name, attempt, kind, text] += 1
        _print_log(moment, name, attempt, kind, text, as_json=as_json, alone=node is not None)
    for moment, name, attempt, kind, text in stream or ():
        if node is None or name == node or name.startswith((f"{node}[", f"{node}/")):
            if seen[name, attempt, kind, text] > 0:  # the journal had it already
                seen[name, attempt, kind, text] -= 1
                continue
            _print_log(moment, name, attempt, kind, text, as_json=as_json, alone=node is not None)
            sys.stdout.flush()


def _follow(project: Path, run_id: str) -> Iterator[tuple[Any, str, int, str, str]] | None:
    """The log lines that the run's owner tells from now on; None if nobody answers."""
    from sage_actors.supervisor.control.client import ControlClient, NoControlError

    events = ControlClient(project, run_id).events(tell=lambda text: click.echo(text, err=True))
    try:
        next(events)  # connected: nothing that comes after this is missed
    except (NoControlError, StopIteration):
        return None
    return (
        (event["time"], str(event.get("node")), event["attempt"], event["stream"], event["text"])
        for event in events
        if event["event"] == "node_log"
    )


def _print_log(
    moment: Any, node: str, attempt: int, kind: str, text: str, *, as_json: bool, alone: bool
) -> None:
    from sage_actors.supervisor.cli.display import printable
    from sage_actors.supervisor.json_text import to_line

    if as_json:
        line = {"time": _iso(_unix(moment)), "node": node, "attempt": attempt, "stream": kind, "text": text}
        click.echo(to_line(line))
        return
    shown = printable(text) if sys.stdout.isatty() else text
    for line_text in shown.removesuffix("\n").split("\n"):
        click.echo(line_text if alone else f"{node} | {line_text}", color=True)  # as it was written


def _unix(moment: Any) -> float:
    return float(moment) if isinstance(moment, (int, float)) else datetime.fromisoformat(moment).timestamp()


def _iso(moment: Any) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(_unix(moment), UTC).isoformat(timespec="milliseconds")


def _local(moment: Any) -> str:
    if not moment:
        return ""
    return datetime.fromtimestamp(_unix(moment)).strftime("%Y-%m-%d %H:%M:%S")


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns by the width of what is in them; the last one is not padded."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())

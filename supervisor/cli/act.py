"""Commands that follow a run or decide for it, whoever owns it: attach, cancel, approve, resolve."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_actors.supervisor.cli.options import (
    command_line,
    json_option,
    open_run,
    parse_json,
    project_option,
    reading_keys,
    user_name,
)

if TYPE_CHECKING:
    from sage_actors.messages.events import Event
    from sage_actors.supervisor.cli.follow import Mode, Screen

__all__ = ["approve_command", "attach", "attach_command", "cancel_command", "resolve_command"]

_ANSWER_S = 90.0  # a cancel is answered when what runs has ended


@click.command("attach")
@click.argument("run_id", metavar="RUN")
@project_option
@json_option
@click.option("--plain", is_flag=True, help="Plain lines, also on a terminal.")
def attach_command(run_id: str, project: Path, as_json: bool, plain: bool) -> int:
    """Follow RUN, which another process carries out, until it ends. Ctrl-C stops following and leaves it running.

    The exit code is that of the run.

    \b
    Examples:
      sage-actors attach feature-payment-processing
      sage-actors attach feature-payment-processing --json
    """
    from sage_actors.supervisor.cli.follow import choose_mode

    return attach(project, run_id, choose_mode(as_json=as_json, quiet=False, plain=plain))


def attach(project: Path, run_id: str, mode: Mode) -> int:
    """Follow a run to its end; its exit code. UsageError if no live process answers for it."""
    from sage_actors.supervisor.cli.follow import make_screen
    from sage_actors.supervisor.control.client import ControlClient, NoControlError

    def tell(text: str) -> None:
        if screen is None:
            click.echo(text, err=True)
        else:
            screen.note(text)
            screen.tick()

    screen: Screen | None = None
    stream = ControlClient(project, run_id).events(tell=tell)
    try:
        snapshot = next(stream).get("status") or {}
    except (StopIteration, NoControlError) as cause:
        raise _nobody(project, run_id) from cause
    screen = make_screen(mode)
    ended: dict[str, Any] | None = None
    try:
        screen.show(_snapshot_event(run_id, snapshot))
        screen.tick()  # the first event may be hours away
        for line in stream:
            screen.show(_event_of(line))
            screen.tick()
            if line["event"] == "run_finished":
                ended = line
    finally:
        screen.close()
    return _end_of(project, run_id, ended, mode)


def _snapshot_event(run_id: str, status: Mapping[str, Any]) -> Event:
    """Where the run stands, as the first event: `run_status` for programs, understood by the displays."""
    from sage_actors.messages.events import Event

    return Event("run_status", run_id, time.time(), None, dict(status))


def _event_of(line: Mapping[str, Any]) -> Event:
    from sage_actors.messages.events import Event

    data = {key: value for key, value in line.items() if key not in ("event", "run_id", "time", "node")}
    moment = datetime.fromisoformat(line["time"]).timestamp()
    return Event(str(line["event"]), str(line["run_id"]), moment, line.get("node"), data)


def _end_of(project: Path, run_id: str, ended: Mapping[str, Any] | None, mode: Mode) -> int:
    """The exit code of a run that was followed, and what to say about it."""
    if ended is None:
        again = command_line(project, "resume", run_id)
        click.echo(f"The process that carried out run {run_id} is gone; continue with: {again}", err=True)
        return 130
    status = ended.get("status")
    if status == "succeeded":
        if mode != "json":
            from sage_actors.supervisor.cli.display import results_text

            click.echo(results_text(ended.get("results") or {}))
        return 0
    if status == "paused":
        click.echo(f"Continue with: {command_line(project, 'resume', run_id)}", err=True)
        return 130 if ended.get("reason") == "interrupted" else 5
    return 1


def _nobody(project: Path, run_id: str) -> Exception:
    from sage_actors.messages.errors import UsageError

    status = open_run(project, run_id).status
    if status == "running":
        return UsageError(
            f"run {run_id} is live, but its process has no control socket to follow it by "
            "(a Supervisor has one with control=True)"
        )
    again = command_line(project, "show" if status == "succeeded" else "resume", run_id)
    return UsageError(f"no process carries out run {run_id} now ({status}); see: {again}")


@click.command("cancel")
@click.argument("run_id", metavar="RUN")
@project_option
@json_option
def cancel_command(run_id: str, project: Path, as_json: bool) -> None:
    """Cancel RUN. What was finished is kept, and `resume` can still continue it.

    \b
    Example:
      sage-actors cancel feature-payment-processing
    """
    _act(project, run_id, {"action": "cancel"})
    again = command_line(project, "resume", run_id)
    _tell(
        as_json,
        {"run_id": run_id, "action": "cancel"},
        f"Run {run_id} is cancelled; continue it with: {again}",
    )


@click.command("approve")
@click.argument("run_id", metavar="RUN")
@click.argument("node")
@click.option("--reject", is_flag=True, help="Reject it: the node fails.")
@click.option("--data", metavar="JSON", help="A value that becomes part of the node's result.")
@project_option
@json_option
def approve_command(
    run_id: str, node: str, reject: bool, data: str | None, project: Path, as_json: bool
) -> None:
    """Approve (or reject) NODE of RUN, which waits for a person.

    A live run then goes on by itself. If no process carries the run out, the answer is recorded, and `resume`
    continues from there.

    \b
    Examples:
      sage-actors approve release-1 publish
      sage-actors approve release-1 publish --reject
      sage-actors approve release-1 publish --data '{"version": "1.2"}'
    """
    value = None if data is None else parse_json(data, "--data")
    action = "reject" if reject else "approve"
    live = _act(project, run_id, {"action": action, "node": node, "data": value})
    text = f"{node} is {'rejected' if reject else 'approved'}."
    _tell(
        as_json, {"run_id": run_id, "action": action, "node": node}, text + _next_step(project, run_id, live)
    )


@click.command("resolve")
@click.argument("run_id", metavar="RUN")
@click.argument("node")
@click.option("--retry", is_flag=True, help="It did not happen, or may happen again: run the node again.")
@click.option("--result", metavar="JSON", help="It happened, and this was its result.")
@click.option("--fail", is_flag=True, help="It failed.")
@project_option
@json_option
def resolve_command(
    run_id: str, node: str, retry: bool, result: str | None, fail: bool, project: Path, as_json: bool
) -> None:
    """Say what happened to NODE of RUN, which is in doubt: it has `effect: once`, and no answer came.

    \b
    Examples:
      sage-actors resolve release-1 publish --retry
      sage-actors resolve release-1 publish --result '{"url": "https://example.org/1.2"}'
      sage-actors resolve release-1 publish --fail
    """
    if retry + (result is not None) + fail != 1:
        raise click.UsageError("Give exactly one of --retry, --result JSON and --fail.")
    how = "retry" if retry else "fail" if fail else "result"
    value = None if result is None else parse_json(result, "--result")
    live = _act(project, run_id, {"action": "resolve", "node": node, "how": how, "result": value})
    text = f"{node} is resolved: {how}."
    said = {"run_id": run_id, "action": "resolve", "node": node, "how": how}
    _tell(as_json, said, text + _next_step(project, run_id, live))


def _act(project: Path, run_id: str, request: dict[str, Any]) -> bool:
    """Have the run's owner do it, or do it here if there is none; it is then on disk. Whether there is an owner."""
    from sage_actors.supervisor.control.client import ControlClient, NoControlError

    by = user_name()
    fields = {key: value for key, value in request.items() if key != "action"}
    try:
        ControlClient(project, run_id, timeout_s=_ANSWER_S).request(request["action"], by=by, **fields)
    except NoControlError:
        open_run(project, run_id)  # says so if there is no such run
        from sage_actors.supervisor.recovery.acting import act_on_run

        act_on_run(project, reading_keys(), run_id, request, by=by)
        return False
    return True


def _next_step(project: Path, run_id: str, live: bool) -> str:
    return "" if live else f" Continue with: {command_line(project, 'resume', run_id)}"


def _tell(as_json: bool, fields: dict[str, Any], text: str) -> None:
    from sage_actors.supervisor.json_text import to_line

    click.echo(to_line({"ok": True, **fields}) if as_json else text)

"""Commands that carry a run out: run and resume."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from sage_actors.supervisor.cli.options import (
    at_terminal,
    command_line,
    find_workflow,
    open_run,
    project_option,
)

if TYPE_CHECKING:
    from sage_actors.messages.definition import WorkflowSpec
    from sage_actors.supervisor.api import Supervisor
    from sage_actors.supervisor.cli.follow import Follower, Mode
    from sage_actors.supervisor.handle import Run

__all__ = ["resume_command", "run_command"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SHARED = (
    click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="The most worker processes (default: one for each CPU, at least 6).",
    ),
    project_option,
    click.option("--repair", is_flag=True, help="Continue damaged state from its longest valid prefix."),
    click.option(
        "--trust",
        is_flag=True,
        help="Consent to all that the project brings and the run would start: servers, templates, skills, checks.",
    ),
    click.option("--no-cache", is_flag=True, help="Take no result from the cache."),
    click.option(
        "--durability",
        type=click.Choice(["strict", "relaxed", "none"]),
        help="strict (the default): a result is on disk before anything depends on it. none: nothing is written.",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(1),
        metavar="N",
        help="The most tokens that the run may use, reserved before a call. The run pauses when they are used up.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One event a line on standard output."),
    click.option("--quiet", is_flag=True, help="Only the result, or the problem."),
    click.option("--plain", is_flag=True, help="Plain lines, also on a terminal."),
)


def _shared_options(function: _Function) -> _Function:
    for option in reversed(_SHARED):
        function = option(function)  # pyright: ignore[reportAssignmentType]
    return function


@dataclass(frozen=True, slots=True)
class _Settings:
    """What both commands take."""

    project: Path
    workers: int | None
    repair: bool
    trust: bool
    no_cache: bool
    durability: str | None
    max_tokens: int | None
    as_json: bool
    quiet: bool
    plain: bool

    @property
    def mode(self) -> Mode:
        from sage_actors.supervisor.cli.follow import choose_mode

        return choose_mode(as_json=self.as_json, quiet=self.quiet, plain=self.plain)


def _with_keeper_ahead(function: _Function) -> _Function:
    """The keeper imports on one core while the command reads and checks on another."""

    @functools.wraps(function)
    def carried_out(*arguments: Any, **options: Any) -> Any:
        if os.environ.get("SAGE_SANDBOX") == "off":
            return function(*arguments, **options)
        from sage_actors.actors.pool import ahead

        ahead.start()
        try:
            return function(*arguments, **options)
        finally:
            ahead.discard()

    return cast("_Function", carried_out)


def _mentions_mcp(path: Path) -> bool:
    """Whether the file may hold MCP calls: a guess that costs no parser. Wrong, it only wastes a second of a core."""
    try:
        return b"mcp" in path.read_bytes()
    except OSError:
        return False


def _succeeded(project: Path) -> set[str]:
    """The runs of the project that succeeded, as far as its registry says: a hint."""
    from sage_actors.actors.state.directory import Registry, StateDirectory

    runs = Registry(StateDirectory(project)).read()
    return {run_id for run_id, entry in runs.items() if entry.get("status") == "succeeded"}


class _TopicCommand(click.Command):
    """A command whose last argument is free text: `--- FAIL: TestUse (0.00s)` is a topic, no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with a text that cannot be an option's name handed on behind `--`."""
        if "--" not in args:
            texts = [each for each in args if _is_dashed_text(each)]
            if len(texts) == 1:
                args = [*(each for each in args if each != texts[0]), "--", *texts]
        return super().parse_args(ctx, args)


def _is_dashed_text(argument: str) -> bool:
    """Whether it begins like an option, and has white space where an option has its name."""
    return argument.startswith("-") and len(argument.partition("=")[0].split()) > 1


@click.command("run", cls=_TopicCommand)
@click.argument("workflow")
@click.argument("topic", required=False)
@click.option("--run-id", metavar="ID", help="The run's name; using it again continues the run.")
@click.option("-i", "--input", "pairs", multiple=True, metavar="KEY=VALUE", help="An input; may be repeated.")
@click.option("--resume", "must_exist", is_flag=True, help="Refuse if there is nothing to continue.")
@click.option("--fresh", is_flag=True, help="Archive older state of this run and start anew.")
@click.option("--accept-changes", is_flag=True, help="Continue a run whose definition has changed.")
@_shared_options
@_with_keeper_ahead
def run_command(
    workflow: str,
    topic: str | None,
    run_id: str | None,
    pairs: tuple[str, ...],
    must_exist: bool,
    fresh: bool,
    accept_changes: bool,
    **settings: Any,
) -> int:
    """Run WORKFLOW, which is the name of a template or a file. TOPIC sets its input `topic`.

    If the run exists and has not succeeded it is continued: finished nodes do not run again. If it has
    succeeded its result is printed again.

    \b
    Examples:
      sage-actors run examples/repo-report.json
      sage-actors run examples/repo-report.json -i path=../other --run-id other
      sage-actors run review.yaml "payment processing" --json > events.jsonl
      sage-actors run flow.yaml --fresh --quiet
    """
    if fresh and must_exist:
        raise click.UsageError("--fresh and --resume exclude each other.")
    from sage_actors.actors.pool import ahead
    from sage_actors.supervisor.cli.checking import load_checked, told_in_place
    from sage_actors.supervisor.cli.consent import ensure_consent
    from sage_actors.supervisor.definitions.inputs import default_run_id, resolve_inputs
    from sage_actors.supervisor.templates.library import find_template

    chosen = _Settings(**settings)
    template = find_template(workflow, chosen.project)
    path = template.path if template is not None else find_workflow(workflow, chosen.project)
    succeeded = _succeeded(chosen.project) if _mentions_mcp(path) else None
    if succeeded is not None and not succeeded:
        ahead.load_mcp()
    warnings: list[Any] = []
    spec = load_checked(path, chosen.project, warnings.append)
    if template is not None and template.overrides:
        warnings.append(f"{path} takes the place of the built-in template {template.name!r}")
    inputs = resolve_inputs(spec, _inputs(pairs, topic))
    warnings += _unwritable(inputs, chosen.project)
    run_id = default_run_id(spec, inputs, topic) if run_id is None else run_id
    if succeeded and (fresh or run_id not in succeeded):  # else there is nothing to do but to tell it again
        ahead.load_mcp()
    for warning in warnings if not chosen.quiet else ():
        click.echo(f"Warning: {warning}", err=True)
    ensure_consent(
        spec,
        chosen.project,
        template_path=None if template is None else path,
        trust=chosen.trust,
        quiet=chosen.quiet,
    )
    _check_who_drafts(spec)

    def start(supervisor: Supervisor, follower: Follower) -> Run:
        def ask(changes: list[str]) -> bool:
            with follower.interruptible():
                return _ask_about_changes(changes)

        with told_in_place(path):
            with follower.interruptible():
                supervisor.check(spec)
            return supervisor.start(
                spec,
                run_id=run_id,
                inputs=inputs,
                fresh=fresh,
                must_exist=must_exist,
                repair=chosen.repair,
                accept_changes=accept_changes or (ask if at_terminal() else False),
            )

    return _carry_out(
        chosen, run_id, start, spec=spec, search=(path.resolve().parent,), fresh=fresh, inputs=inputs
    )


@click.command("resume")
@click.argument("run_id", metavar="RUN")
@click.option("--from", "from_node", metavar="NODE", help="Make a new run that starts again at NODE.")
@click.option("--run-id", "new_run_id", metavar="ID", help="With --from: the new run's name.")
@_shared_options
@_with_keeper_ahead
def resume_command(run_id: str, from_node: str | None, new_run_id: str | None, **settings: Any) -> int:
    """Continue RUN on the definition and inputs that its journal holds.

    With --from NODE a new run is made: it keeps every result that is not downstream of NODE.

    \b
    Examples:
      sage-actors resume feature-payment-processing
      sage-actors resume feature-payment-processing --from specification/write
    """
    if new_run_id and not from_node:
        raise click.UsageError("--run-id names the new run that --from makes; give both.")
    chosen = _Settings(**settings)
    if chosen.trust:
        from sage_actors.messages.errors import StateCorruptedError
        from sage_actors.supervisor.cli.consent import ensure_consent

        try:
            past = open_run(chosen.project, run_id)
        except StateCorruptedError as error:
            if chosen.repair:
                raise click.UsageError(f"{error}. Repair it without --trust first.") from error
            raise
        ensure_consent(past.definition, chosen.project, trust=True, quiet=chosen.quiet)

    def start(supervisor: Supervisor, _: Follower) -> Run:
        return supervisor.resume(
            run_id,
            from_node=from_node,
            new_run_id=new_run_id,
            repair=chosen.repair,
            reads_inputs=True,
        )

    return _carry_out(chosen, run_id, start)


def _inputs(pairs: tuple[str, ...], topic: str | None) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"An input is KEY=VALUE, not {pair!r}.")
        if name in inputs:
            raise click.UsageError(f"The input {name!r} is given twice.")
        inputs[name] = value
    if topic is not None and inputs.setdefault("topic", topic) != topic:
        raise click.UsageError("The topic is given twice: as TOPIC and with -i topic=...")
    if not inputs.get("topic", "-").strip():
        raise click.UsageError("The topic is empty: say in a few words what the run is about.")
    return inputs


def _unwritable(inputs: Mapping[str, Any], project: Path) -> list[str]:
    """Warnings of inputs that name places where operations cannot write."""
    from sage_actors.supervisor.sandboxing import unwritable_paths

    return [
        f"{each} is outside of the project: operations cannot write there (name a place in the project, or add "
        "it to `write` under [sandbox] of your config.toml)"
        for each in unwritable_paths(inputs, project)
    ]


def _check_who_drafts(spec: WorkflowSpec) -> None:
    """Whoever was chosen to draft must be there, if a built-in server may ask: said before anything starts."""
    from sage_actors.servers.catalog import SAGE_SERVERS

    if any(node.operation.config.get("server") in SAGE_SERVERS for node in spec.nodes):
        from sage_actors.actors.agents.backends import check_backend

        check_backend(os.environ)


def _ask_about_changes(changes: list[str]) -> bool:
    click.echo("The definition is not the one that this run began with:", err=True)
    for change in changes:
        click.echo(f"  {change}", err=True)
    return click.confirm("Continue with the new definition?", err=True)


def _carry_out(
    chosen: _Settings,
    run_id: str,
    start: Callable[[Supervisor, Follower], Run],
    *,
    spec: WorkflowSpec | None = None,
    search: tuple[Path, ...] = (),
    fresh: bool = False,
    inputs: Mapping[str, Any] | None = None,
) -> int:
    from sage_actors.messages.errors import RunLockedError
    from sage_actors.supervisor.api import Supervisor
    from sage_actors.supervisor.cli.follow import Follower
    from sage_actors.supervisor.sandboxing import paths_named_by

    if chosen.max_tokens is not None and not fresh:
        _refuse_beyond_budget(chosen, run_id)
    try:
        with (
            Follower() as follower,
            Supervisor(
                chosen.project,
                workers=chosen.workers,
                durability=chosen.durability,
                waits_for_people=False,
                search_paths=search,
                cache=not chosen.no_cache,
                max_tokens=chosen.max_tokens,
                reads=paths_named_by(inputs or {}, chosen.project),
            ) as supervisor,
        ):
            return _show(chosen, supervisor, follower, start, spec)
    except RunLockedError as error:
        if chosen.mode not in ("live", "plain") or not (at_terminal() and sys.stdout.isatty()):
            raise
        return _offer_to_follow(chosen, run_id, error)


def _refuse_beyond_budget(chosen: _Settings, run_id: str) -> None:
    """A run that has used up its tokens starts nothing: once begun, some node would be ahead of the stop."""
    from sage_actors.messages.errors import BudgetExceeded, NoCheckpointError, StateCorruptedError

    try:
        past = open_run(chosen.project, run_id)
    except NoCheckpointError:
        return  # a new run
    except StateCorruptedError:
        if chosen.repair:
            return  # what it has used is known when it is repaired
        raise
    used = past.tokens.get("input_tokens", 0) + past.tokens.get("output_tokens", 0)
    if past.status != "succeeded" and used >= (chosen.max_tokens or 0):
        raise BudgetExceeded(
            f"budget: run {run_id} has used {used:,.0f} tokens, and --max-tokens is {chosen.max_tokens:,}; "
            "nothing was started. Give it more to continue"
        )


def _show(
    chosen: _Settings,
    supervisor: Supervisor,
    follower: Follower,
    start: Callable[[Supervisor, Follower], Run],
    spec: WorkflowSpec | None,
) -> int:
    from sage_actors.supervisor.cli.follow import make_screen, report
    from sage_actors.supervisor.cli.traces import traces

    follower.check()
    run = start(supervisor, follower)
    mode = chosen.mode
    with _control(chosen, supervisor, run) as problem:
        screen = make_screen(mode, spec)
        try:
            for notice in (*run.notices, *problem):
                screen.note(notice)
            with traces(os.environ, screen.note) as spans:
                outcome = follower.follow(
                    run, screen, stop=supervisor.stop, abort=supervisor.abort, tell=spans
                )
        finally:
            screen.close()
    is_kept = supervisor.durability != "none"
    return report(outcome, mode=mode, project=chosen.project, is_kept=is_kept)


@contextmanager
def _control(chosen: _Settings, supervisor: Supervisor, run: Run) -> Iterator[list[str]]:
    """Other processes may look and act meanwhile; where there is no place for a socket, none do."""
    from sage_actors.messages.errors import SageError
    from sage_actors.supervisor.control.server import ControlServer

    server = ControlServer(chosen.project, stop=supervisor.stop)
    problems = []
    try:
        server.serve(run)
    except (SageError, OSError) as error:
        problems.append(f"Other processes cannot follow or answer this run: {error}")
    try:
        yield problems
    finally:
        server.forget(run.run_id)
        server.close()


def _offer_to_follow(chosen: _Settings, run_id: str, error: Exception) -> int:
    from sage_actors.supervisor.cli.act import attach

    click.echo(str(error), err=True)
    if not click.confirm("Follow that run?", default=True, err=True):
        click.echo(f"Later: {command_line(chosen.project, 'attach', run_id)}", err=True)
        return 3
    return attach(chosen.project, run_id, chosen.mode)

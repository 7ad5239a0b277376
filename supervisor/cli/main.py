"""The command line's names and its way out. Loads click alone: a command loads what it needs when called.

Exit codes: 0 succeeded, 1 failed or cancelled, 2 usage or definition, 3 owned by another process, 4 state or
key, 5 paused, 70 internal error, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

import click

__all__ = ["cli", "main"]

# Name: module and what `--help` says. Written out here so that `--help` imports none of the modules.
_COMMANDS = {
    "run": ("run", "Run a workflow, or continue its run."),
    "resume": ("run", "Continue a run with the definition it was started with."),
    "list": ("look", "List active and past runs."),
    "status": ("look", "Show progress, times, tokens and errors of a run."),
    "show": ("look", "Show the results of a run, or of one node."),
    "history": ("look", "Show every record of a run."),
    "logs": ("look", "Show what operations printed."),
    "attach": ("act", "Follow a run that another process carries out."),
    "cancel": ("act", "Cancel a run."),
    "approve": ("act", "Answer a node that waits for a person."),
    "resolve": ("act", "Say what happened to a node that is in doubt."),
    "delete": ("keep", "Remove a run's state."),
    "prune": ("keep", "Remove the state of old runs."),
    "templates": ("templates", "List, show, add and check templates: workflows that are run by name."),
    "skills": ("skills", "List, show, search and check skills of the project and of the user."),
    "graph": ("define", "Show the order in which a workflow executes."),
    "validate": ("define", "Check a workflow without running it."),
    "schema": ("define", "Print the JSON Schema of workflow files."),
    "cache": ("cache", "Show and clear cached results, and how often they were used."),
    "init": ("init", "Set a project up: .sage/, agent commands, skills, .mcp.json."),
    "mcp": ("mcp", "Serve workflows to agents over MCP, on standard input and output."),
    "trust": ("trust", "List what you consented to in this project, and take it back."),
    "keys": ("keys", "Show where the key of saved state is; make, rotate and replace keys."),
    "audit": ("audit", "Show and verify the log of what happened to runs and keys."),
    "doctor": ("doctor", "Try out what a run needs on this machine, and what operations cannot do."),
}

_EXAMPLES = """\b
Examples:
  sage-actors run examples/repo-report.json
  sage-actors run review.yaml "payment processing"
  sage-actors list
  sage-actors resume feature-payment-processing

Exit codes: 0 succeeded, 1 failed or cancelled, 2 wrong usage or definition, 3 the run is owned by another
process, 4 state damaged or wrong key, 5 paused, 70 internal error, 130 interrupted (resumable).

\b
Shell completion:
  eval "$(_SAGE_ACTORS_COMPLETE=bash_source sage-actors)"     # or zsh_source
  _SAGE_ACTORS_COMPLETE=fish_source sage-actors | source
"""


class _Commands(click.Group):
    """Knows its commands by name; imports one when it is called or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module

        module = import_module(f"sage_actors.supervisor.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("sage-actors")
        except PackageNotFoundError:  # from a bare clone
            number = "unknown (not installed)"
        click.echo(f"sage-actors {number}")
        ctx.exit()


@click.command(
    cls=_Commands,
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
def cli() -> None:
    """Run a graph of agent work in parallel, and never lose a finished step."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The entry point: runs one command and ends the process with its exit code."""
    _open_closed()
    _forgive_stderr()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a C locale must not break a run's output  # pyright: ignore[reportAttributeAccessIssue]
    with _without_key():
        code = _run(args)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_unread()
    except OSError as error:
        code = code or _explain_unwritten(error)
    if args is None:
        _stay_with(code)
    sys.exit(code)


def _stay_with(code: int) -> None:
    """All is done and said: a signal that comes while the process ends does not change its exit code."""
    import atexit
    import os
    import signal

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(code))
    # Threads are over then; what remains is too late for a handler in Python.
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers])


def _open_closed() -> None:
    """Standard streams that the caller has closed lead nowhere: else the next files opened would be 0, 1 and 2."""
    import os

    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for the life of the process


class _LastWords(io.FileIO):
    """Standard error on a full disk: a message that cannot be written there does not stop the work."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            from sage_actors.supervisor.cli.options import NO_ROOM

            if error.errno not in NO_ROOM:
                raise
            return len(data)


def _forgive_stderr() -> None:
    if type(sys.stderr) is io.TextIOWrapper and sys.stderr is sys.__stderr__:
        words = io.BufferedWriter(_LastWords(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(words, encoding=sys.stderr.encoding, line_buffering=True)


def _explain_unwritten(error: OSError) -> int:
    """The exit code where standard output cannot be written; 0 if that is not what `error` says."""
    from sage_actors.supervisor.cli.options import drop_unwritable

    if not drop_unwritable(error):
        return 0
    click.echo(f"Error: standard output cannot be written: {error.strerror}", err=True)
    return 5


def _drop_unread() -> bool:
    from sage_actors.supervisor.cli.options import drop_unread

    return drop_unread()


def _without_key() -> AbstractContextManager[None]:
    """Nothing that a command starts inherits the key of saved state."""
    import os

    if "SAGE_STATE_KEY" not in os.environ:
        return nullcontext()
    from sage_actors.actors.keys.variable import keys_taken_from

    return keys_taken_from(os.environ)


def _run(args: Sequence[str] | None) -> int:
    if sys.platform == "win32":
        click.echo("Error: sage-actors does not run on Windows; use WSL 2 or another Linux.", err=True)
        return 2
    try:
        with _ended_in_order(sys.argv[1:] if args is None else args):
            code = cli.main(args, prog_name="sage-actors", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except SystemExit as end:  # click and rich end so, with 1, when nobody reads their output any more
        if isinstance(end.__context__, BrokenPipeError) or (end.code == 1 and _drop_unread()):
            return 141  # as a program that SIGPIPE ends
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        _drop_unread()
        return 141
    except Exception as error:  # noqa: BLE001 - the border to the user
        if isinstance(error.__cause__, KeyboardInterrupt):  # while a class was being made
            click.echo("Interrupted.", err=True)
            return 130
        unwritten = _explain_unwritten(error) if isinstance(error, OSError) else 0
        return unwritten or _explain(error)


@contextmanager
def _ended_in_order(args: Sequence[str]) -> Iterator[None]:
    """Until a run has begun, which has a way of its own to stop, SIGTERM and SIGHUP end `run` and `resume` as Ctrl-C
    does; else they would end them without a word."""
    import os
    import signal

    def end(number: int, frame: object) -> NoReturn:
        # Not by an exception, which imports may turn into another: there is nothing to clean up.
        os.write(2, b"Interrupted.\n")
        os._exit(130)

    before: dict[int, Any] = {}
    if args[:1] and args[0] in ("run", "resume") and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it, and means it
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _is_nowhere() -> bool:
    import os

    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _explain(error: Exception) -> int:
    """Print what happened; the exit code for it."""
    import os

    from sage_actors.messages.errors import SageError
    from sage_actors.supervisor.cli.display import printable

    if os.environ.get("SAGE_DEBUG"):
        import traceback

        traceback.print_exception(error)
    said = printable(str(error))  # it can quote what a repository brings
    if isinstance(error, SageError) and error.exit_code != 70:
        click.echo(f"Error: {said}", err=True)
        return error.exit_code
    if isinstance(error, FileNotFoundError) and _is_nowhere():
        click.echo("Error: the current directory has been removed; change to one that is there", err=True)
        return 2
    click.echo(f"Internal error: {type(error).__name__}: {said}", err=True)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        click.echo(
            "`ulimit -n` says how many files a process may open; 256 are enough for most runs.", err=True
        )
    if not os.environ.get("SAGE_DEBUG"):
        click.echo("Nothing that was finished is lost. SAGE_DEBUG=1 shows where it happened.", err=True)
    return 70

"""What several commands share: options, finding a workflow and a run, asking the user, and naming the next command."""

from __future__ import annotations

import errno
import os
import select
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from sage_actors.actors.keys.provider import KeyRing
    from sage_actors.actors.state.directory import StateDirectory
    from sage_actors.supervisor.recovery.history import History

__all__ = [
    "NO_ROOM",
    "at_terminal",
    "command_line",
    "confirmed",
    "drop_unread",
    "drop_unwritable",
    "find_workflow",
    "json_option",
    "open_run",
    "parse_json",
    "project_option",
    "reading_keys",
    "state_of",
    "user_name",
]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_Function = TypeVar("_Function", bound=Callable[..., Any])

project_option: Callable[[_Function], _Function] = click.option(  # pyright: ignore[reportGeneralTypeIssues]
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("."),
    metavar="DIR",
    help="The project, whose .sage/ holds the state (default: the current directory).",
)
json_option: Callable[[_Function], _Function] = click.option(  # pyright: ignore[reportGeneralTypeIssues]
    "--json", "as_json", is_flag=True, help="JSON on standard output, for programs."
)


def find_workflow(name: str, project: Path) -> Path:
    """The file of a workflow: a template's name, the project's before the package's, or a path.

    A name never means a file without a suffix: that one is written `./NAME`.

    Raises:
        click.UsageError: there is neither.
    """
    from sage_actors.supervisor.templates.library import SUFFIXES, find_template, list_templates

    if (template := find_template(name, project)) is not None:
        return template.path
    path = Path(name)
    if (path.is_file() and os.sep in name) or (path.suffix.lower() in SUFFIXES and not path.is_dir()):
        if path.is_symlink() and not path.exists():
            raise click.UsageError(f"{name!r} is a link that leads to no file.")
        if not path.exists():
            raise click.UsageError(f"There is no file {name!r}.{_near(path)}")
        return path
    known = ", ".join(each.name for each in list_templates(project))
    if path.is_file():  # a repository may hold it; typing its name is no consent to what it does
        raise click.UsageError(
            f"There is no template {name!r}. For the file of that name say './{name}'; templates here: {known}."
        )
    raise click.UsageError(f"There is no template and no workflow file {name!r}; templates here: {known}.")


def _near(path: Path) -> str:
    from difflib import get_close_matches

    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        return ""
    close = get_close_matches(path.name, names, n=1)
    return f" Did you mean {os.fspath(path.with_name(close[0]))!r}?" if close else ""


def parse_json(text: str, option: str) -> Any:
    """The value that `text` says. click.UsageError if it is not JSON, or nothing that can be stored."""
    from sage_actors.messages.codec import pack
    from sage_actors.messages.errors import ResultError
    from sage_actors.supervisor.json_text import from_json

    try:
        value = from_json(text)
    except ValueError as cause:
        example = "'\"text\"', 42, '{\"key\": true}'"
        raise click.UsageError(f"{option} must be JSON, such as {example}: {cause}") from cause
    try:
        pack(value, what=option)
    except ResultError as cause:
        raise click.UsageError(f"{cause}.") from cause
    return value


def state_of(project: Path) -> StateDirectory:
    """Where the project's state is."""
    from sage_actors.actors.state.directory import StateDirectory

    return StateDirectory(project)


def reading_keys() -> KeyRing:
    """The keys, to read what is there. Makes none."""
    from sage_actors.actors.keys.provider import load_keys

    return load_keys(create=False)


def open_run(project: Path, run_id: str) -> History:
    """The journal of a run, for reading.

    Raises:
        NoCheckpointError: there is no such run; names the nearest.
    """
    from sage_actors.messages.errors import NoCheckpointError
    from sage_actors.supervisor.recovery.history import open_history

    state = state_of(project)
    if not state.exists(run_id):
        from difflib import get_close_matches

        close = get_close_matches(run_id, state.run_ids(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`sage-actors list` shows what there is"
        raise NoCheckpointError(f"there is no run {run_id!r} in {state.root}; {hint}")
    return open_history(state, reading_keys(), run_id)


def command_line(project: Path, *words: str) -> str:
    """A command for the user to copy; with `--project` where it is needed."""
    extra = () if project.resolve() == Path.cwd() else ("--project", os.fspath(project))
    return shlex.join(["sage-actors", *words, *extra])


def drop_unread() -> bool:
    """Whether there is an output that nobody reads any more: what is left of it goes nowhere, without a complaint."""
    found = False
    for fd in (1, 2):
        looked = select.poll()
        looked.register(fd, 0)
        if looked.poll(0):  # POLLERR, which is never asked for
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)
            found = True
    return found


def drop_unwritable(error: OSError) -> bool:
    """Whether `error` is that standard output cannot be written: all further output goes nowhere then.

    Errors of files have their names, and those of standard error are heard by nobody (main.py).
    """
    if error.errno not in NO_ROOM or error.filename is not None:
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def user_name() -> str:
    """Who is at the keyboard, for the record of a decision."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no entry in the password file
        return f"uid {os.getuid()}"


def at_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str, yes: bool) -> bool:
    """Whether a person says yes, or has said so by --yes. click.UsageError where nobody can be asked."""
    if yes:
        return True
    if not at_terminal():
        raise click.UsageError("There is no terminal to ask on; --yes does it without asking.")
    return click.confirm(question, err=True)

"""Operations of type `shell`: a command, as a list or as a string for /bin/sh.

config: command, cwd (relative to the project), env (added to the worker's), stdin (text), check (default
true: a non-zero exit code is a failure). A word, a variable or stdin that is no text goes in as compact JSON; a
variable that is null is not set. The result is {exit_code, stdout, stderr}; an exit code below zero
is a signal.
The command has a process group of its own; it ends with the operation when that is cut short. What a command
left running in the background when it ended by itself lives on until its worker ends.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from sage_actors.actors.operations.command import CAPTURE_CAP_BYTES, run_command
from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.messages.codec import unpack
from sage_actors.messages.errors import OperationError, UsageError
from sage_actors.messages.text_form import text_of

__all__ = ["CAPTURE_CAP_BYTES", "CommandFailed", "ShellRunner"]

_STDERR_LINES = 20


class CommandFailed(OperationError):
    """The command ended with a non-zero exit code. `details`: exit_code and the end of stderr."""

    def __init__(self, exit_code: int, stderr: str) -> None:
        lines = stderr.strip().splitlines()[-_STDERR_LINES:]
        how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        super().__init__(f"the command ended with {how}" + (f": {lines[-1]}" if lines else ""))
        self.details = {"exit_code": exit_code, "stderr": "\n".join(lines)}


class ShellRunner:
    """Runs the command, logs its lines as they come, captures the end of each stream."""

    is_async = False

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._project = settings.project

    def run(self, task: Task) -> dict[str, Any]:
        config = unpack(task.packed).get("config", {})
        stdin = config.get("stdin")
        arguments, environ = _arguments(config.get("command")), _environment(config.get("env") or {})
        try:
            output = run_command(
                arguments,
                cwd=os.path.join(self._project, _folder(config.get("cwd"))),
                env=environ,
                stdin="" if stdin is None else text_of("stdin", stdin),
                on_text=lambda text, stream: task.services.log(task.key, text, stream),
            )
        except OSError as cause:
            if cause.errno == errno.E2BIG:
                raise UsageError(_too_long(config["command"], arguments, environ)) from cause
            raise
        if output.exit_code != 0 and config.get("check", True):
            raise CommandFailed(output.exit_code, output.stderr)
        return {"exit_code": output.exit_code, "stdout": output.stdout, "stderr": output.stderr}


def _arguments(command: Any) -> list[str]:
    if isinstance(command, str):
        return ["/bin/sh", "-c", _word("command", command)]
    if isinstance(command, list) and command:
        return [_word(f"command[{number}]", each) for number, each in enumerate(command)]
    raise UsageError("`command` must be a list of words, or a string for the shell")


def _word(name: str, value: Any) -> str:
    text = text_of(name, value)
    if "\0" in text:
        raise UsageError(
            f"`{name}` holds a NUL character, which no program can be given: use stdin, or a file"
        )
    return text


def _too_long(command: Any, arguments: list[str], environ: Mapping[str, str]) -> str:
    """What is said where the system does not start a program with these words and variables."""
    if isinstance(command, str):
        said = {"command": arguments[-1]}
    else:
        said = {f"command[{i}]": word for i, word in enumerate(arguments)}
    said |= {f"env.{name}": value for name, value in environ.items()}
    longest = max(said, key=lambda name: len(said[name]))
    return (
        f"`{longest}` takes {len(os.fsencode(said[longest])):,} bytes, more than a program can be started with "
        "(on Linux 128 KiB in one word or variable): hand it on by `stdin`, or in a file"
    )


def _folder(cwd: Any) -> str:
    if cwd is not None and not isinstance(cwd, str):
        raise UsageError(f"`cwd` must be a text, the path of a folder, not {text_of('cwd', cwd)[:60]}")
    return cwd or ""


def _environment(variables: Mapping[str, Any]) -> dict[str, str]:
    environ = dict(os.environ)
    for name, value in variables.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = _word(f"env.{name}", value)
    return environ

"""Starts a program that is to have less than the confined process that starts it: a stdio MCP server.

    who starts it                                        python, which is to become the program
      fd = order(profile, tier, argv, environ)   ----->    reads the order, confines itself, execve
      command(fd), with `fd` handed on

Nothing of the program's own variables is there before it is confined, since some of them load code (`LD_PRELOAD`), and
no secret among them is ever on a command line. Exit 126 when it cannot be confined, 127 when the program cannot be
executed, with the reason on standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import sage_actors
from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.profile import Profile

__all__ = ["command", "main", "order"]

_CANNOT_CONFINE, _CANNOT_EXECUTE = 126, 127
_MOST_BYTES = 4 << 20


def order(profile: Profile, tier: str, argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """A descriptor that says what to start. It is the caller's, to be closed once the process is there."""
    said = {"profile": profile.to_dict(), "tier": tier, "argv": list(argv), "environ": dict(environ)}
    fd = os.memfd_create("sage-order", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as target:
        target.write(json.dumps(said).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def command(fd: int) -> list[str]:
    """The command line that carries out the order at `fd`, which the process must inherit."""
    # Not `-m`: looking for installed packages takes as long as all the rest
    root = os.path.dirname(os.path.dirname(os.path.abspath(sage_actors.__file__)))
    code = f"import sys; sys.path.append({root!r}); from {__name__} import main; main({fd})"
    return [sys.executable, "-I", "-S", "-c", code]


def main(fd: int) -> NoReturn:
    """See the module's text. Never returns."""
    name = "the program"
    try:
        with open(fd, "rb") as source:
            said = json.loads(source.read(_MOST_BYTES))
        argv, environ = list(said["argv"]), dict(said["environ"])
        name = argv[0]
        confine(Profile.from_dict(said["profile"]), said["tier"], keep_fds=())
    except (SandboxSetupError, ValueError, TypeError, LookupError, OSError) as cause:
        _end(_CANNOT_CONFINE, f"{name} was not started: {cause}")
    try:
        os.execvpe(name, argv, environ)
    except OSError as cause:
        _end(_CANNOT_EXECUTE, f"{name} could not be executed: {cause.strerror}")


def _end(code: int, reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    os._exit(code)

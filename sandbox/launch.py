"""`python -I -m sage_actors.sandbox.launch --tier T --profile JSON -- PROGRAM ...`: confines itself, becomes it.

For programs that a confined process starts and that are to have less than it has: a stdio MCP server. Exit 126 when
it cannot be confined, 127 when the program cannot be executed, with the reason on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox.confine import TIERS, confine
from sage_actors.sandbox.profile import Profile

__all__ = ["command", "main"]

_CANNOT_CONFINE, _CANNOT_EXECUTE = 126, 127
_MOST_BYTES = 1 << 20


def command(profile: Profile, tier: str, argv: Sequence[str]) -> list[str]:
    """The command line that executes `argv` confined to `profile`."""
    text = json.dumps(profile.to_dict())
    return [sys.executable, "-I", "-m", __name__, "--tier", tier, "--profile", text, "--", *argv]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """See the module's text. Never returns."""
    options = _parser().parse_args(arguments)
    try:
        profile = Profile.from_dict(json.loads(_text(options.profile, options.profile_fd)))
        confine(profile, options.tier, keep_fds=())
    except (SandboxSetupError, ValueError, TypeError, OSError) as cause:
        _end(_CANNOT_CONFINE, f"{options.argv[0]} was not started: {cause}")
    try:
        os.execvp(options.argv[0], options.argv)
    except OSError as cause:
        _end(_CANNOT_EXECUTE, f"{options.argv[0]} could not be executed: {cause.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sage_actors.sandbox.launch", description=__doc__)
    parser.add_argument("--tier", required=True, choices=TIERS)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--profile", help="as JSON")
    source.add_argument("--profile-fd", type=int, help="a descriptor to read it from")
    parser.add_argument("argv", nargs="+")
    return parser


def _text(text: str | None, fd: int | None) -> str:
    if text is not None or fd is None:
        return text or ""
    with open(fd, "rb") as source:
        return source.read(_MOST_BYTES).decode()


def _end(code: int, reason: str) -> NoReturn:
    print(reason, file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()

"""A keeper that is started before it is known what for: it imports while the supervisor does.

    the command line:  start() -- load_mcp() --------------\\
                       imports, the workflow file, checks    >  take() -> settled by the first pool
    the keeper:        starts, imports --------------------/

At most one a process. It is started with what every worker may see, and nothing of the user's own beyond that; a pool
that confines nothing does not take it. Until it is taken it dies with this process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from sage_actors.actors.pool.keeper_client import KeeperClient

__all__ = ["discard", "import_paths", "load_mcp", "start", "take"]

_waiting: list[KeeperClient] = []


def import_paths() -> list[str]:
    """What this process imports from: a keeper that waits is taken for the same, and for nothing else."""
    return [os.path.abspath(each) for each in sys.path if each]


def start() -> None:
    """Starts it. Call it in the main thread: it dies with the thread that started it. Never fails."""
    from sage_actors.sandbox.environment import clean_environment

    environ = clean_environment(os.environ, extra=(), tmp="/tmp", proxy_url=None)
    if not _waiting:
        with contextlib.suppress(OSError):  # the pool tries again, and says what is wrong
            _waiting.append(KeeperClient(sys_path=import_paths(), environ=environ, confined=True, ahead=True))


def load_mcp() -> None:
    """MCP sessions will be wanted."""
    for each in _waiting:
        each.load_mcp()


def take(sys_path: Sequence[str], *, confined: bool) -> KeeperClient | None:
    """The one that waits, if it is what is needed; else it is ended."""
    while _waiting:
        keeper = _waiting.pop()
        if confined and keeper.sys_path == list(sys_path) and not keeper.has_ended:
            return keeper
        keeper.close(0.0)
    return None


def discard() -> None:
    """Nobody needs it."""
    take((), confined=False)

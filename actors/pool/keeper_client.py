"""Starts a keeper process and speaks with it: the pool's side of keeper.py."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_actors.actors.pool import keeper_wire as keeper
from sage_actors.actors.pool.watch import process_started_at
from sage_actors.messages.codec import FrameReader, frame
from sage_actors.messages.errors import ProtocolError

__all__ = ["KeeperClient"]

_BOOT = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a.pop('sys_path');"
    "from sage_actors.actors.pool.keeper import main; main(**a)"
)
_SECRET_VARIABLES = ("SAGE_STATE_KEY",)
_SEND_TIMEOUT_S = 5.0


class KeeperClient:
    """One keeper process, which waits to be told what it is for. `socket` is readable when answers wait, or when the
    keeper is gone.

    sys_path: what it and its workers import from. environ: its first one, which every worker could read. confined:
    its workers read a PROFILE first. ahead: it dies with its parent until it is told what it is for. listener: the
    proxy's, once it has sent one.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self,
        *,
        sys_path: Sequence[str],
        environ: Mapping[str, str],
        confined: bool = False,
        ahead: bool = False,
    ) -> None:
        self.listener: socket.socket | None = None
        self.sys_path = list(sys_path)
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(_SEND_TIMEOUT_S)
        self._reader = FrameReader()
        boot = {
            "sys_path": self.sys_path,
            "channel_fd": theirs.fileno(),
            "parent_pid": os.getpid(),
            "confined": confined,
            "ahead": ahead,
        }
        try:
            self._process = subprocess.Popen(
                # -P: what it is started in may be a project with a json.py of its own
                [sys.executable, "-P", "-c", _BOOT, json.dumps(boot)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_clean(environ),
                start_new_session=True,  # Ctrl-C on the terminal is the supervisor's alone
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.identity = (self._process.pid, process_started_at(self._process.pid) or 0.0)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def load_mcp(self) -> None:
        """It imports now what workers of MCP sessions need: a second that is better spent before there is one."""
        with contextlib.suppress(OSError):  # it is gone: who settles it hears of that
            self.socket.sendall(frame(keeper.LOAD, "mcp"))

    def settle(
        self,
        *,
        project: Path,
        main_path: str | None,
        user_paths: Sequence[str],
        environ: Mapping[str, str],
        sandbox: Mapping[str, Any] | None = None,
        temporary: str | None = None,
        broker: socket.socket | None = None,
    ) -> None:
        """Tells it what it is for; READY comes when it serves.

        Args:
            environ: of workers.
            sandbox: how it makes a new root for itself and its workers, see `Confinement.keeper_settings`.
            temporary: a folder that it removes when it ends.
            broker: what they ask for connections, see egress/broker.py.
        """
        settings = {
            "project": str(project),
            "main_path": main_path,
            "user_paths": list(user_paths),
            "environ": _clean(environ),
            "sandbox": sandbox,
            "temporary": temporary,
            "has_broker": broker is not None,
        }
        data = frame(keeper.SETTINGS, settings)
        with contextlib.suppress(ConnectionError):  # it ended already: the socket says so
            sent = socket.send_fds(self.socket, [data], [] if broker is None else [broker.fileno()])
            self.socket.sendall(data[sent:])

    def fork(self, number: int, kind: str, fds: Sequence[int]) -> None:
        """Asks for a worker that owns `fds` (copies of them: the caller's stay open)."""
        socket.send_fds(self.socket, [frame(keeper.FORK, [number, kind])], fds)

    def signal(self, number: int, which: int) -> None:
        self.socket.sendall(frame(keeper.SIGNAL, [number, int(which)]))

    def answers(self) -> Iterator[tuple[int, Any]]:
        """What the keeper says, after `socket` became readable.

        Raises:
            EOFError: the keeper is gone.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, 1)
            self.listener = socket.socket(fileno=fds[0]) if fds else self.listener
            if not data:
                raise EOFError("the keeper is gone")
            yield from self._reader.feed(data)
        except (OSError, ProtocolError) as cause:
            raise EOFError("the keeper is gone") from cause

    def close(self, timeout_s: float) -> None:
        """Lets the keeper kill what is left, and waits until it is gone."""
        self.socket.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of operations: without what opens saved state."""
    return {name: value for name, value in environ.items() if name not in _SECRET_VARIABLES}

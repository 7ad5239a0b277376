"""Starts generations: a warm process forks each of them, so that none spends its time on imports.

    campaign --request, stdout, stderr, status--> nursery --fork--> keeper of the exit code --fork--> generation

A generation is a process of its own all the same: the nursery has no threads and no state but its modules.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from chaos.program import SERVE

__all__ = ["Child", "Nursery"]

_PROGRAM = Path(__file__).parent / "program.py"
_ENDS_WITHIN_S = 10.0


class Child:
    """One process that the nursery forked: what of `subprocess.Popen` the campaign needs."""

    def __init__(self, stdout: int, stderr: int, status: socket.socket) -> None:
        self.stdout, self.stderr = os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb")
        self._status = status
        self._code: int | None = None
        self.pid = int(status.recv(32))

    def kill(self) -> None:
        """kill -9, unless it has ended."""
        if not self._ends_within(0.0):
            with contextlib.suppress(ProcessLookupError):  # it ends while we look
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code (of a signal: its number, negative), None if it has not ended by then."""
        if self._code is None and self._ends_within(timeout_s):
            self._code = int(self._status.recv(32))
            self._status.close()
        return self._code

    def _ends_within(self, timeout_s: float) -> bool:
        return self._code is not None or bool(select.select([self._status], [], [], timeout_s)[0])


class Nursery:
    """The warm process. Leaving the context ends it; its children live on."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), SERVE, str(theirs.fileno())],
                env=dict(environ),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.close()
        self._process.wait(_ENDS_WITHIN_S)

    def start(self, arguments: list[str], environ: Mapping[str, str]) -> Child:
        """A process of the program with these arguments; `environ` is added to that of the nursery."""
        out, their_out = os.pipe()
        err, their_err = os.pipe()
        status, their_status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([arguments, dict(environ)]).encode()
        with their_status:
            socket.send_fds(self._requests, [request], [their_out, their_err, their_status.fileno()])
        os.close(their_out)
        os.close(their_err)
        return Child(out, err, status)

"""The other end of the control socket: ask, and decide for, a run that another process owns."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage_actors.messages.errors import UsageError
from sage_actors.supervisor.control.socket import NoControlError, socket_paths, why_not_ours
from sage_actors.supervisor.json_text import to_line

__all__ = ["ControlClient", "NoControlError"]


class ControlClient:
    """Speaks to the process that owns a run.

    timeout_s: how long an answer may take.

    Raises, from every method:
        NoControlError: nobody answers. UsageError: the owner refuses, with its reason.
    """

    def __init__(self, project: Path | str, run_id: str, *, timeout_s: float = 30.0) -> None:
        self._paths = socket_paths(project, run_id)
        self._run_id = run_id
        self._timeout_s = timeout_s

    def request(self, action: str, **fields: Any) -> dict[str, Any]:
        """Send one request; the answer, when what was asked has happened (and is on disk)."""
        with self._connect() as sock:
            _send(sock, {"action": action, **fields})
            for answer in self._lines(sock):
                return _checked(answer)
        raise NoControlError(f"the owner of run {self._run_id} ended before it answered; look with `status`")

    def status(self) -> dict[str, Any]:
        """The run's status, as a map."""
        status = self.request("status").get("status")
        return status if isinstance(status, dict) else {}

    def events(self) -> Iterator[dict[str, Any]]:
        """First {"status": {...}}, then each event until the run ends or its owner does."""
        with self._connect() as sock:
            _send(sock, {"action": "events"})
            sock.settimeout(None)  # a run may be silent for days
            for line in self._lines(sock):
                yield line if "event" in line else _checked(line)

    def _connect(self) -> socket.socket:
        for path in self._paths:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(self._timeout_s)
            try:
                if why_not_ours(path.parent):
                    raise PermissionError(path.parent)
                self._reach(sock, os.fspath(path))
                return sock
            except OSError:
                sock.close()
        raise NoControlError(f"no live process answers for run {self._run_id}")

    def _reach(self, sock: socket.socket, path: str) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return sock.connect(path)
            except BlockingIOError:  # so many others are connecting that there is no place to wait in line
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _lines(self, sock: socket.socket) -> Iterator[dict[str, Any]]:
        with sock.makefile("rb") as file:
            while True:
                try:
                    line = file.readline()
                except TimeoutError as cause:
                    raise UsageError(
                        f"the owner of run {self._run_id} did not answer in {self._timeout_s:g} s"
                    ) from cause
                except OSError:
                    return
                if not line.endswith(b"\n"):
                    return
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise UsageError(f"the owner of run {self._run_id} sent what is no answer")
                yield value


def _send(sock: socket.socket, request: dict[str, Any]) -> None:
    try:
        sock.sendall(to_line(request).encode() + b"\n")
    except OSError:  # its answer says why, if there is one
        pass


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("ok") is True:
        return answer
    error = answer.get("error")
    text = error.get("message", "") if isinstance(error, dict) else "refused"
    raise UsageError(str(text))

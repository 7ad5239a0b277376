"""The client of the control socket: asks about a run that another process owns, and decides for it."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage_actors.actors.state.locks import if_stopped
from sage_actors.messages.errors import RunLockedError, UsageError
from sage_actors.supervisor.control.socket import NoControlError, owner_of, socket_paths, why_not_ours
from sage_actors.supervisor.json_text import to_line

__all__ = ["ControlClient", "NoControlError"]

_LOOK_S = 1.0  # after so much silence it is looked whether the owner was stopped
_READ_BYTES = 1 << 16


class ControlClient:
    """Speaks to the process that owns a run.

    timeout_s: how long an answer may take.

    Raises, from every method:
        NoControlError: nobody is there. UsageError: the owner refuses, with its reason.
        RunLockedError: the owner does not answer: it was stopped, or takes too long.
    """

    def __init__(self, project: Path | str, run_id: str, *, timeout_s: float = 30.0) -> None:
        self._paths = socket_paths(project, run_id)
        self._run_id = run_id
        self._timeout_s = timeout_s

    def request(self, action: str, **fields: Any) -> dict[str, Any]:
        """Send one request; the answer, when what was asked has happened (and is on disk)."""
        with self._connect() as sock:
            _send(sock, {"action": action, **fields})
            try:
                for answer in self._lines(sock, deadline=time.monotonic() + self._timeout_s):
                    return _checked(answer)
            except RunLockedError as error:
                if action == "status":
                    raise
                raise RunLockedError(
                    f"{error}. It has the {action} in hand, and does it if it goes on"
                ) from error
        raise NoControlError(f"the owner of run {self._run_id} ended before it answered; look with `status`")

    def status(self) -> dict[str, Any]:
        """The run's status, as a map."""
        status = self.request("status").get("status")
        return status if isinstance(status, dict) else {}

    def events(self, *, tell: Callable[[str], object] | None = None) -> Iterator[dict[str, Any]]:
        """First {"status": {...}}, then each event until the run ends or its owner does.

        A run may be silent for days. `tell` hears of an owner that was stopped, and it is waited for; without it
        that is an error.
        """
        with self._connect() as sock:
            _send(sock, {"action": "events"})
            for line in self._lines(sock, tell=tell):
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

    def _lines(
        self, sock: socket.socket, *, deadline: float = math.inf, tell: Callable[[str], object] | None = None
    ) -> Iterator[dict[str, Any]]:
        begun: list[bytes] = []  # the pieces of a line whose end has not come
        while data := self._read(sock, deadline, tell):
            first, *others = data.split(b"\n")
            begun.append(first)
            for other in others:
                yield self._parsed(b"".join(begun))
                begun = [other]

    def _read(self, sock: socket.socket, deadline: float, tell: Callable[[str], object] | None) -> bytes:
        """What comes next; nothing if that is the end."""
        sock.settimeout(_LOOK_S)
        has_told = False
        while True:
            try:
                return sock.recv(_READ_BYTES)
            except TimeoutError as cause:
                pid = owner_of(sock)
                if stopped := if_stopped(pid):
                    text = f"process {pid}, which carries out run {self._run_id}, does not answer; {stopped}"
                    if tell is None:
                        raise RunLockedError(text) from cause
                    if not has_told:
                        tell(text)
                has_told = bool(stopped)
                if time.monotonic() > deadline:
                    text = f"the owner of run {self._run_id} did not answer in {self._timeout_s:g} s"
                    raise RunLockedError(text) from cause
            except OSError:
                return b""

    def _parsed(self, line: bytes) -> dict[str, Any]:
        value = json.loads(line)
        if not isinstance(value, dict):
            raise UsageError(f"the owner of run {self._run_id} sent what is no answer")
        return value


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

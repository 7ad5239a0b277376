"""How a worker is confined: by the first frame that it is sent, before any thread and anything of an operation exists.

A worker of one task waits here, forked in advance, until it is told for what. Whatever step fails, the tasks that
follow are answered with that failure, and nothing of them is executed.
"""

from __future__ import annotations

import contextlib
import os
import resource  # noqa: F401 - loaded once, in the keeper, for all who are confined
import socket
import sys
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from sage_actors.actors.confinement.violations import judge_by
from sage_actors.messages.codec import FrameReader, frame
from sage_actors.messages.errors import SandboxSetupError
from sage_actors.messages.wire import FAILED, Kind, error_map
from sage_actors.sandbox.confine import Preparation, confine, prepare
from sage_actors.sandbox.namespaces import mount_proc
from sage_actors.sandbox.profile import Profile
from sage_actors.sandbox.temporary import shrink_temporary

__all__ = ["take_profile"]

_LENGTH_BYTES = 4
_MOST_BYTES = 1 << 20
_SETUP_FAILED = 71  # EX_OSERR


def take_profile(
    link: socket.socket, *, keep_fds: Collection[int], broker_fd: int = -1, apart: bool = False
) -> Profile:
    """Waits for PROFILE, and confines this process by it. Returns only if every step succeeded.

    broker_fd: where connections to the proxy are asked for, in a tier without sockets; below zero: nowhere.
    apart: it is in a process namespace, which must be what the profile is for.
    """
    try:
        if apart:
            mount_proc()
        said, prepared = _read_profile(link, apart=apart)
        _take_environment(said["environ"])
        profile = Profile.from_dict(said["profile"])
        if said["alone"] != apart:
            raise ValueError(f"it is {'' if apart else 'not '}in a process namespace")
        if apart and shrink_temporary(profile.limits.tmp):
            prepared = None  # it was for what was mounted before
        confine(profile, said["tier"], keep_fds=(*keep_fds, broker_fd), prepared=prepared, alone=apart)
    except (SandboxSetupError, OSError, ValueError) as cause:
        _refuse(link, cause)
    judge_by(profile)
    if "servers" in said:
        from sage_actors.actors.mcp.server_sandbox import tell

        tell(said["tier"], said["servers"])
    if broker_fd >= 0 and profile.network:
        from sage_actors.actors.egress.broker import install
        from sage_actors.actors.egress.doorman import PROXY_PORT

        install(socket.socket(fileno=broker_fd), PROXY_PORT)
    return profile


def _read_profile(link: socket.socket, *, apart: bool) -> tuple[dict[str, Any], Preparation | None]:
    """Reads that frame and no byte more: what follows is for the worker's own thread. What is expected meanwhile is
    prepared, by a process that has its namespaces already."""
    prepared: Preparation | None = None
    while True:
        head = _receive(link, _LENGTH_BYTES)
        length = int.from_bytes(head, "big")
        if length > _MOST_BYTES:
            os._exit(_SETUP_FAILED)
        [(kind, payload)] = FrameReader().feed(head + _receive(link, length))
        if kind == Kind.PROFILE:
            return dict(payload), prepared
        if kind == Kind.STOP:
            os._exit(0)  # it was not needed
        if kind != Kind.EXPECT:
            os._exit(_SETUP_FAILED)
        if apart and prepared is None:
            # Where this fails it is done when it is needed, and fails where that is heard.
            with contextlib.suppress(OSError):
                prepared = prepare(Profile.from_dict(payload))


def _take_environment(environ: Mapping[str, str]) -> None:
    """These variables and no others. Most are there already, and to set one takes the C library longer than a look."""
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    for name, value in environ.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _receive(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        try:
            chunk = link.recv(count - len(data))
        except ConnectionError:
            chunk = b""
        if not chunk:
            os._exit(0)  # it is not needed after all
        data += chunk
    return data


def _refuse(link: socket.socket, cause: BaseException) -> NoReturn:
    """Says why to whoever sent tasks, and ends."""
    print(f"the sandbox could not be set up: {cause}", file=sys.stderr, flush=True)
    error = error_map(type(cause).__name__, str(cause), retryable=False)
    reader = FrameReader()
    link.sendall(frame(Kind.READY, [os.getpid(), "refused"]))
    while data := link.recv(1 << 16):
        for kind, payload in reader.feed(data):
            if kind == Kind.TASKS:
                rows = [[*row[:3], FAILED, 0, error, None] for row in payload]
                link.sendall(frame(Kind.RESULTS, rows))
    os._exit(_SETUP_FAILED)

"""Starts programs that may do less than the confined process that starts them: stdio MCP servers.

    starter = Starter()            forked while its process has one thread; it waits at a socket
    starter.start(order, stdio)    it forks again; that child confines itself by the order, and becomes the program

Forked from what is loaded already, a start takes some milliseconds, where a new interpreter takes fifty. Nothing of the
program's own variables is there before it is confined, since some of them load code (`LD_PRELOAD`), and no secret
among them is ever on a command line. Exit 126 when it cannot be confined, 127 when it cannot be executed, with the
reason on standard error.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import NoReturn

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.profile import Profile

__all__ = ["Starter", "order"]

_CANNOT_CONFINE, _CANNOT_EXECUTE = 126, 127
_MOST_BYTES = 4 << 20
_PATIENCE_S = 30.0
_FAILED = b"0"  # in place of a process number


def order(profile: Profile, tier: str, argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> int:
    """A descriptor that says what to start, in which directory. It is the caller's, to be closed afterwards."""
    said = {
        "profile": profile.to_dict(),
        "tier": tier,
        "argv": list(argv),
        "environ": dict(environ),
        "cwd": cwd,
    }
    fd = os.memfd_create("sage-order", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as target:
        target.write(json.dumps(said).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Starter:
    """See the module's text. Made once, by a process with one thread; it ends with that process.

    Whoever makes it is from then on who orphans below it go to: what is started becomes its own child, to be waited
    for.
    """

    def __init__(self) -> None:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            try:
                _serve(theirs)
            finally:
                os._exit(70)
        theirs.close()
        self._channel.settimeout(_PATIENCE_S)

    def start(self, order: int, stdio: tuple[int, int, int]) -> int:
        """The number of the new process, the leader of a session of its own. stdio: becomes its 0, 1 and 2.

        Raises:
            OSError: no process could be started.
        """
        socket.send_fds(self._channel, [b"!"], [order, *stdio])
        try:
            pid = int(self._channel.recv(16) or _FAILED)
        except TimeoutError:
            self._channel.close()  # its answer would be taken for that of the next
            raise
        if not pid:
            raise OSError(errno.EAGAIN, "no process could be started")
        return pid


def _serve(channel: socket.socket) -> NoReturn:
    _hold_only(channel)
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 16, 4)
        if not data:
            os._exit(0)
        middle = os.fork()
        if middle == 0:
            _detach(channel, fds)
        for fd in fds:
            os.close(fd)
        os.waitpid(middle, 0)


def _hold_only(channel: socket.socket) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    kernel.close_all_but((channel.fileno(),))


def _detach(channel: socket.socket, fds: Sequence[int]) -> NoReturn:
    """The child of this process becomes the program, once this one is gone and it is a child of the maker's."""
    try:
        middle = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == middle:
            os.sched_yield()
        os.setsid()
        said, *stdio = fds
        for number, fd in enumerate(stdio):
            os.dup2(fd, number)
        channel.send(str(os.getpid()).encode())
    except BaseException:  # noqa: BLE001 - the border of this process: whoever waits is answered
        channel.send(_FAILED)
        os._exit(_CANNOT_CONFINE)
    _carry_out(said)


def _carry_out(fd: int) -> NoReturn:
    name = "the program"
    try:
        with open(fd, "rb") as source:
            said = json.loads(source.read(_MOST_BYTES))
        argv, environ = list(said["argv"]), dict(said["environ"])
        name = argv[0]
        os.chdir(said["cwd"])
        confine(Profile.from_dict(said["profile"]), said["tier"], keep_fds=())
    except (SandboxSetupError, ValueError, TypeError, LookupError, OSError) as cause:
        _end(_CANNOT_CONFINE, f"{name} was not started: {cause}")
    try:
        os.execvpe(name, argv, environ)
    except OSError as cause:
        _end(_CANNOT_EXECUTE, f"{name} could not be executed: {cause.strerror}")


def _end(code: int, reason: str) -> NoReturn:
    try:
        os.write(2, f"{reason}\n".encode())
    finally:
        os._exit(code)

"""Namespaces: a root, a network, shared memory and process numbers of our own, without any privilege.

    enter_root            once, by the process that forks all others: user + mount + network + IPC namespace;
                          a listener made *inside* the network that has no way out but through it
    fork_apart            once for each process that must leave nothing behind: when it ends, the kernel kills
                          whatever it started; enter_pid_namespace does the same without leaving the caller

As an ordinary user one's own ids are mapped, and nothing else; as root all ids, so that a project which belongs
to someone else stays writable. Where that is refused (in a container), root's own ids only.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel, mounts
from sage_actors.sandbox.placeholders import Placeholder, make_placeholders
from sage_actors.sandbox.profile import Layout

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Apart",
    "Entered",
    "enter_pid_namespace",
    "enter_root",
    "fork_apart",
    "kill_namespace",
    "mount_proc",
    "uncover",
    "user_namespace_of",
]

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_OOM_SCORE = 800  # the kernel ends what runs in here before it ends what supervises it
_PIDS_LEFT = 20_000
_LOOKS = 2


@dataclass(frozen=True, slots=True)
class Entered:
    """listener: bound inside the new network, None without a `proxy_port`. placeholders: for `remove_placeholders`."""

    listener: socket.socket | None
    placeholders: list[Placeholder]


def enter_root(
    layout: Layout, *, proxy_port: int | None, before: Callable[[str], None] = lambda _: None
) -> Entered:
    """Puts this process, which must have one thread, into a root that holds only what `layout` names.

    The working directory stays where it is if it is there, and is the first writable one otherwise. proxy_port: the
    port on 127.0.0.1 inside, 0 for any. before: called with the name of each step; for faults in tests. Raises
    SandboxSetupError: the process is then in between and must end.
    """
    listener = None
    with _step("placeholders", before):
        placeholders = make_placeholders(layout.write, layout.protected)
    with _step("layout", before):
        directory = os.getcwd()
        plan = mounts.plan_root(layout)
    with _step("unshare", before), _mapped_ids():
        flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC
        kernel.unshare(flags)
    with _step("loopback", before):
        _raise_loopback()
    with _step("listener", before):
        if proxy_port is not None:
            listener = socket.create_server(("127.0.0.1", proxy_port), backlog=512)
    _raise_oom_score()
    with _step("root", before):
        mounts.build_root(plan, layout)
    with _step("protect", before):
        mounts.shield(
            layout.write, protected=layout.protected, hidden=layout.hidden, reopened=layout.reopened
        )
        mounts.seal_root()
        mounts.remember()
    with _step("directory", before):
        _return_to(directory, layout)
    return Entered(listener, placeholders)


def uncover(paths: Iterable[str]) -> None:
    """Unmounts what is mounted at these paths, for whoever called `enter_root` and is about to end. Never raises."""
    for path in paths:
        with contextlib.suppress(OSError):
            while True:  # until nothing is: a path may be held more than once
                kernel.unmount(path)


def enter_pid_namespace() -> None:
    """Returns in a new process, in namespaces of its own as `fork_apart` makes them; this one only waits for it.

    It passes the exit on: a code as that code, a signal as that signal. When either is killed, so is everything in
    there. Raises SandboxSetupError in the process that cannot go on.
    """
    with _step("pid namespace", lambda _: None):
        forked = fork_apart()
    if forked is not None:
        _pass_on(forked)
    mount_proc()


class Apart:
    """What `fork_apart` made, as its parent sees it. pid: the first process of the namespace. exit_fd: says how the
    child ended, after that."""

    def __init__(self, pid: int, exit_fd: int) -> None:
        self.pid = pid
        self.exit_fd = exit_fd

    def exit_code(self, *, wait: bool = False) -> int | None:
        """As that of subprocess: negative for a signal; None while it runs. After that, `forget` it. wait: until it
        ended."""
        pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
        if pid == 0:
            return None
        said = os.read(self.exit_fd, 4)  # nothing: the namespace was killed
        return os.waitstatus_to_exitcode(int.from_bytes(said, "big") if said else status)

    def forget(self) -> None:
        """Lets go of what it holds."""
        os.close(self.exit_fd)


def fork_apart() -> Apart | None:
    """As os.fork, into a PID and a mount namespace of the child's own; None in the child, which must `mount_proc`.

        this process --- the namespace's first process --- the child, and whatever it starts
                         reaps orphans, ends with either      may kill itself, as a first process cannot

    The first process leads a session, which the child is in. When one of the three ends, so does all in the namespace.
    This process must have one thread. Raises OSError.
    """
    exit_read, exit_write = os.pipe()
    try:
        # Not os.fork: two forks are a fifth of what an operation in a process of its own costs, and the first process
        # needs nothing of what Python renews in a child.
        first = kernel.call("clone", kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | signal.SIGCHLD, 0, 0, 0, 0)
    except BaseException:
        os.close(exit_read)
        os.close(exit_write)
        raise
    if first:
        os.close(exit_write)
        return Apart(first, exit_read)
    inner = -1
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.close(exit_read)
        if not _has_reader(exit_write):  # the parent died before the lines above
            os._exit(1)
        os.setsid()
        inner = os.fork()
    except OSError as cause:
        os.write(2, f"no process could be started in a PID namespace: {cause}\n".encode())
    finally:
        if inner != 0:
            _reap_until(inner, exit_write)
    os.close(exit_write)
    return None


def mount_proc() -> None:
    """/proc of the new PID namespace, in the place of the old one. Raises SandboxSetupError."""
    with _step("proc", lambda _: None):
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("proc", "/proc", "proc", flags)
        _raise_oom_score()
        _start_high()
        kernel.set_mount_flags("/proc", on=kernel.ATTR_RDONLY)


def _has_reader(pipe: int) -> bool:
    """Whether somebody holds the other end of this write end. select(2) knows no descriptor from 1024 on."""
    looked = select.poll()
    looked.register(pipe, 0)
    return not looked.poll(0)


def user_namespace_of(pid: int) -> str | None:
    """What names the user namespace of a process; None when it is gone or may not be asked."""
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None


def kill_namespace(name: str) -> int:
    """SIGKILL to every process of that user namespace (never our own), until none is found; returns how many."""
    if name == user_namespace_of(os.getpid()):
        raise ValueError(f"{name} is this process's own namespace")
    killed: set[int] = set()
    looks = 0
    while looks < _LOOKS:  # a process may have been born between two entries of the table
        found = {pid for pid in _all_pids() if user_namespace_of(pid) == name} - killed
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        looks = 0 if found else looks + 1
    return len(killed)


@contextlib.contextmanager
def _step(name: str, before: Callable[[str], None]) -> Iterator[None]:
    try:
        before(name)
        yield
    except Exception as cause:  # whatever it was, nothing may go on
        raise SandboxSetupError(name, str(cause)) from cause


@contextlib.contextmanager
def _mapped_ids() -> Iterator[None]:
    """What is unshared inside gets its ids: all, written by a child that stayed outside, or our own."""
    uid, gid = os.geteuid(), os.getegid()
    writer = _start_writer() if uid == 0 else None
    yield
    if writer is None or not writer():
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")


def _start_writer() -> Callable[[], bool]:
    """A child in the old namespace that maps every id to itself once it is told to. Only from there may one."""
    parent = os.getpid()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(go)
            if os.read(wait, 1):
                for kind in ("uid_map", "gid_map"):
                    _write(f"/proc/{parent}/{kind}", _identity(f"/proc/self/{kind}"))
                code = 0
        finally:
            os._exit(code)
    os.close(wait)

    def finish() -> bool:
        os.write(go, b"x")
        os.close(go)
        return os.waitpid(child, 0)[1] == 0

    return finish


def _identity(path: str) -> str:
    """Each range that exists here, mapped to itself."""
    with open(path) as table:
        rows = [line.split() for line in table]
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in rows)


def _write(path: str, text: str) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(target, text.encode())
    finally:
        os.close(target)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _raise_oom_score() -> None:
    with contextlib.suppress(OSError):  # a wish, no promise
        _write("/proc/self/oom_score_adj", str(_OOM_SCORE))


def _start_high() -> None:
    """Process numbers in here look like none that is small or old outside: a mix-up finds nothing."""
    with contextlib.suppress(OSError, ValueError):
        limit = os.open("/proc/sys/kernel/pid_max", os.O_RDONLY | os.O_CLOEXEC)
        try:
            last = int(os.read(limit, 32)) - _PIDS_LEFT
        finally:
            os.close(limit)
        if last > 1:
            _write("/proc/sys/kernel/ns_last_pid", str(last))


def _return_to(directory: str, layout: Layout) -> None:
    for path in (directory, *layout.write, "/"):
        try:
            os.chdir(path)
        except OSError:
            continue
        return


def _pass_on(forked: Apart) -> NoReturn:
    """Waits until the namespace is empty and ends as the child did. Holds nothing but the pipe that says how."""
    try:
        _hold_only(forked.exit_fd)
        code = forked.exit_code(wait=True)
        if code is not None and code < 0:
            _die_of(-code)
        os._exit(code or 0)
    finally:
        os._exit(70)


def _reap_until(inner: int, exit_write: int) -> NoReturn:
    """The namespace's first process: waits for whoever has no parent left, and ends when `inner` does."""
    try:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # it is not confined, and processes that are can see it
        _hold_only(exit_write)
        while True:
            pid, status = os.wait()
            if pid == inner:
                os.write(exit_write, status.to_bytes(4, "big"))
                os._exit(0)
    finally:
        os._exit(70)


def _hold_only(kept: int) -> None:
    """Goes on without the descriptors from 3 on but `kept`, and without an ear for what ends a program."""
    signal.set_wakeup_fd(-1)
    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(which, signal.SIG_IGN)
    kernel.close_all_but((kept,))


def _die_of(which: int) -> None:
    if which not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(which, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [which])
    os.kill(os.getpid(), which)


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())

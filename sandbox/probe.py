"""What this machine can confine, found out by doing it in a process that ends right after, never by a version number.

namespaces   a root, a network and process numbers of our own, then Landlock (where there is it), then seccomp
landlock     Landlock and seccomp alone: no sockets, and the gaps that are listed
none         neither

It is a fork of this process, which costs least. Where a library of the program has a hook that starts a thread in every
fork (then the kernel refuses namespaces), or that hangs there, it is a clean process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NoReturn

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel, landlock, seccomp
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.namespaces import enter_pid_namespace, enter_root
from sage_actors.sandbox.profile import Layout, Profile

__all__ = ["Check", "Report", "Tier", "probe"]

Tier = Literal["namespaces", "landlock", "none"]

_NOT_HERE = b"not here"
_HANGS_S = 5.0  # a child that has not answered by then does not get to it
_CLEAN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from sage_actors.sandbox.probe import tell_checks; tell_checks()"
)
_PROFILE = Profile("probe", read=("/usr",), write=(), protected=())
_HINTS = {
    "unshare": "a container's seccomp profile (Docker's default one)? user namespaces switched off?",
    "root": "AppArmor's restriction of user namespaces (Ubuntu)? a container that masks parts of /proc?",
    "proc": "a container that masks parts of /proc?",
    "landlock": "a kernel before 5.13, or one that was started without landlock in lsm=",
    "seccomp": "a kernel without CONFIG_SECCOMP_FILTER",
}
_HINTS |= dict.fromkeys(("loopback", "pid namespace"), _HINTS["unshare"])
_LANDLOCK_GAPS = (
    "programs have no network at all; Python's connections alone go through the proxy",
    "the existence, size and times of files outside can be seen, not their content",
    "nothing new can be created beside a protected path, so not in the project's top directory",
    "changing a file's mode, owner, times or attributes by its path is refused, inside the project too",
    "SysV shared memory, message queues and inotify are refused; temporary files are not private in memory",
    "the number of processes is not limited by the kernel, only watched",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One mechanism: whether it works here, and if not, the error and what it usually comes from."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """tier: the best that works. gaps: sentences on what it does not hold here."""

    tier: Tier
    checks: tuple[Check, ...]
    gaps: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The failed checks in one line; empty where all passed."""
        return "; ".join(f"{each.name}: {each.detail}" for each in self.checks if not each.ok)


class _NotHereError(Exception):
    """A fork of this process is no place to try anything."""


@functools.cache
def probe() -> Report:
    """What this machine can do. Takes milliseconds; the answer is kept for as long as this process lives."""
    try:
        kernel.machine()
    except OSError as cause:
        return Report("none", (Check("platform", False, cause.strerror or str(cause)),), _gaps("none"))
    try:
        checks = _checks(time.monotonic() + _HANGS_S)
    except _NotHereError:
        checks = _checks_of_a_clean_process()
    passed = {each.name for each in checks if each.ok}
    tier: Tier = "none"
    if {"namespaces", "seccomp"} <= passed:
        tier = "namespaces"
    elif {"landlock", "seccomp"} <= passed:
        tier = "landlock"
    return Report(tier, checks, _gaps(tier))


def _checks(until: float | None = None) -> tuple[Check, ...]:
    """until: monotonic; what has not answered by then hangs in a hook. None waits, as nothing is known to hang."""
    (whole,) = _try({"namespaces": _enter_namespaces}, until)
    parts = {"landlock": _use_landlock, "seccomp": _use_seccomp}
    # Who got through all of the first was held by what there is of the others too.
    held = () if not whole.ok else tuple(parts) if landlock.abi() else ("seccomp",)
    tried = _try({name: act for name, act in parts.items() if name not in held}, until)
    found = {each.name: each for each in (*tried, *(Check(name, True) for name in held))}
    return (whole, *(found[name] for name in parts))


def _try(acts: Mapping[str, Callable[[], None]], until: float | None) -> list[Check]:
    started = [(name, *_start(act)) for name, act in acts.items()]  # at once: most of it is waiting
    found = [_finish(*each, until) for each in started]
    if None in found:
        raise _NotHereError
    return [each for each in found if each is not None]


def _checks_of_a_clean_process() -> tuple[Check, ...]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CLEAN, json.dumps(sys.path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return (
            Check("namespaces", False, f"the process that was to try it ended with {done.returncode}: {why}"),
        )
    return tuple(Check(**each) for each in json.loads(done.stdout))


def tell_checks() -> None:
    """What a clean process does for another: the checks, on its standard output."""
    sys.stdout.write(json.dumps([asdict(each) for each in _checks()]))


def _enter_namespaces() -> None:
    import resource  # noqa: F401 - what `confine` needs, while its file can still be found

    entered = enter_root(Layout(read=("/usr",), private=("/tmp",), tmp_bytes=1 << 20), proxy_port=0)
    assert entered.listener is not None
    entered.listener.close()
    enter_pid_namespace()
    confine(_PROFILE, "namespaces", keep_fds=range(256), alone=True)
    if landlock.abi():
        _see_nothing_outside()


def _use_landlock() -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict({"/usr": landlock.READ})
    _see_nothing_outside()


def _see_nothing_outside() -> None:
    with contextlib.suppress(PermissionError):
        os.close(os.open("/", os.O_RDONLY))
        raise OSError("Landlock was set up, and a file outside could still be opened")


def _use_seccomp() -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(seccomp.program(sockets=False, namespaces=True, own_pids=True))


def _start(act: Callable[[], None]) -> tuple[int, int]:
    """Does it in a child: (its pid, where it writes the failed step and the error; nothing at all is success)."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # fork among threads: the child only makes system calls
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(read)
        _report(act, write)
    os.close(write)
    return child, read


def _finish(name: str, child: int, read: int, until: float | None) -> Check | None:
    """None: it could not even be tried in that child."""
    with open(read, "rb") as answers:
        poll = select.poll()  # select takes no descriptor beyond 1,023
        poll.register(read)
        left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1e3
        text = answers.read() if poll.poll(left_ms) else _NOT_HERE
    if text == _NOT_HERE:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if text == _NOT_HERE:
        return None
    if not text and code == 0:
        return Check(name, True)
    step, detail = json.loads(text) if text else ("", f"the process that tried it ended with {code}")
    hint = f" - {_HINTS[step or name]}" if (step or name) in _HINTS else ""
    return Check(name, False, (f"{step}: " if step else "") + detail + hint)


def _report(act: Callable[[], None], write: int) -> NoReturn:
    code = 1
    try:
        if len(os.listdir("/proc/self/task")) > 1:
            raise _NotHereError
        # A supervisor that keeps others from reading its memory could not map its ids. No worker runs yet.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        act()
        code = 0
    except _NotHereError:
        os.write(write, _NOT_HERE)
    except SandboxSetupError as error:
        os.write(write, json.dumps([error.step, str(error.__cause__ or error)]).encode())
    except BaseException as error:  # noqa: BLE001 - the border of the child
        os.write(write, json.dumps(["", str(error)]).encode())
    finally:
        os._exit(code)


def _gaps(tier: Tier) -> tuple[str, ...]:
    return tuple({"namespaces": _namespace_gaps, "landlock": _landlock_gaps, "none": _no_gaps}[tier]())


def _namespace_gaps() -> Iterator[str]:
    if landlock.abi() < 6:
        yield "no Landlock of version 6: an operation that shares a worker can signal this user's processes"
    if os.geteuid() == 0:
        yield "as root the kernel does not limit the number of processes; it is only watched"
    yield "a protected file that is replaced from outside during a run is protected again only for later operations"


def _landlock_gaps() -> Iterator[str]:
    yield from _LANDLOCK_GAPS
    version = landlock.abi()
    if version < 3:
        yield "Landlock is older than version 3: files outside that this user may write can be emptied"
    if version < 6:
        yield "no Landlock of version 6: this user's other processes can be signalled"
        yield "what detaches itself can survive a kill -9 of the process that starts the workers"


def _no_gaps() -> Iterator[str]:
    yield "operations run with all the rights of this user: files, network and processes"
    if sys.platform != "linux":
        yield "what an operation daemonises can survive"

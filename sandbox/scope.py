"""A border that no process crosses: Landlock's scope of signals, and the end of all that live inside.

    enter_scope()     this process, and whatever it starts from here on, cannot signal what is outside
    kill_scope()      in one of them: SIGKILL to every confined process that it can signal

A process may double-fork, start a session, forbid others to look at it: it stays inside. See landlock(7), version 6.
"""

from __future__ import annotations

import contextlib
import os
import signal

from sage_actors.sandbox import kernel, landlock

__all__ = ["enter_scope", "is_outside", "kill_scope"]

_SINCE = 6
_LOOKS = 2
_CONFINED = {b"NoNewPrivs:\t1", b"Seccomp:\t2"}  # see proc_pid_status(5)


def enter_scope() -> bool:
    """Whether this process, which must have one thread, is in a scope of its own now: False where there is no such
    thing. Raises OSError."""
    if landlock.abi() < _SINCE:
        return False
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    ruleset = landlock.scope()
    try:
        landlock.enforce(ruleset)
    finally:
        os.close(ruleset)
    return True


def is_outside(pid: int) -> bool:
    """Whether that process, which is this user's, lives and cannot be signalled from here."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False


def kill_scope() -> int:
    """SIGKILL to every process that is confined and within reach, until none is found; returns how many."""
    killed: set[int] = set()
    looks = 0
    while looks < _LOOKS:  # one may have been born between two entries of the table
        found = {pid for pid in _confined() if pid not in killed and _kill(pid)}
        killed |= found
        looks = 0 if found else looks + 1
    return len(killed)


def _confined() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _is_confined(name)]


def _is_confined(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/status", "rb") as said:
            lines = set(said.read().splitlines())
    except OSError:
        return False
    return int(pid) != os.getpid() and lines >= _CONFINED


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False

"""Named places where a test may kill this process, or make a system call fail.

`SAGE_FAULT="journal.before_fsync:3:kill"` kills the process (SIGKILL) the third time it passes that point;
`:enospc` and `:eio` raise that OSError there instead, and an added `+` (`:enospc+`) at every later pass too.
Without the variable a fault point costs one comparison.
"""

from __future__ import annotations

import errno
import os
import signal

__all__ = ["arm", "disarm", "fault_point"]

_armed: dict[str, tuple[int, str, bool]] = {}
_passed: dict[str, int] = {}


def arm(spec: str) -> None:
    """Arm the faults of `spec`: `name:count:action[+]`, several separated by commas."""
    for part in filter(None, spec.split(",")):
        name, count, action = part.split(":")
        _armed[name] = (int(count), action.rstrip("+"), action.endswith("+"))
        _passed[name] = 0


def disarm() -> None:
    """No faults from here on."""
    _armed.clear()


def fault_point(name: str) -> None:
    """Marks a place in the code; does nothing unless a fault of that name is armed."""
    if not _armed or name not in _armed:
        return
    count, action, lasting = _armed[name]
    _passed[name] += 1
    if _passed[name] == count or (lasting and _passed[name] > count):
        _strike(action, name)


def _strike(action: str, name: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # the signal is for this process: nothing may run past the fault
    code = {"enospc": errno.ENOSPC, "eio": errno.EIO}[action]
    raise OSError(code, f"{os.strerror(code)} (injected at {name})")


arm(os.environ.get("SAGE_FAULT", ""))

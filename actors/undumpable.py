"""Closes this process's memory to others of the same user: no debugger, no /proc/PID/mem or environ, no core file.

It is a property of the process for good: key bytes that Python has copied about cannot be wiped. A forked copy keeps
it, a program that is started does not have it. Names and times in /proc stay readable, so that locks and limits
work; what it ends is `gdb -p`, `py-spy` and `strace -p` without root. SAGE_DUMPABLE=1 leaves the process as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["DUMPABLE_VARIABLE", "is_dumpable", "make_undumpable"]

DUMPABLE_VARIABLE = "SAGE_DUMPABLE"
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4


def make_undumpable(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether it is so now. Linux only; elsewhere there are no core files at least."""
    if environ.get(DUMPABLE_VARIABLE) == "1":
        return False
    _no_core_files()
    if sys.platform != "linux":
        return False
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return not is_dumpable()


def is_dumpable() -> bool:
    """Whether others of this user may look into this process."""
    if sys.platform != "linux":
        return True
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))


def _no_core_files() -> None:
    """The soft limit only: a program that is started from here may raise it again for itself."""
    try:
        import resource
    except ImportError:  # Windows writes no core files
        return
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))

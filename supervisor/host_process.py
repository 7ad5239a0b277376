"""The process that a supervisor lives in: its main script, this package's version, how often threads switch."""

from __future__ import annotations

import os
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["SWITCHING", "main_file", "main_path", "package_version"]

_SWITCH_S = 0.0005


class _SwitchInterval:
    """The interpreter's switch interval while any supervisor lives: half a millisecond instead of five.

    A thread that returns from an fsync or a send waits up to that long for the interpreter, while another
    thread computes; three threads that hand work to one another wait most of the time. The setting belongs to
    the process, so it is given back; whoever set a shorter one keeps it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.0

    def shorten(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, _SWITCH_S))

    def restore(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                sys.setswitchinterval(self._before)


SWITCHING = _SwitchInterval()


def main_path() -> str | None:
    """What workers load for `__main__`: the dotted name after `python -m`, so that its imports work, or the script."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name)
    path = getattr(main, "__file__", None)
    return os.path.abspath(path) if path else None


def main_file() -> str | None:
    """Where the script is; of a module in a package, where the outermost package is."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if not path:
        return None
    name, script = main_path() or "", Path(os.path.abspath(path))
    levels = 0 if os.path.isabs(name) else name.count(".")
    return str([script, *script.parents][levels])


def package_version() -> str:
    try:
        return version("sage-actors")
    except PackageNotFoundError:
        return "0"

"""What many operations import from the standard library, imported by the keeper while nobody asks for anything.

A worker that takes a dead one's place would spend most of its start on `asyncio`. Nothing else is imported so: what is
the user's belongs into a process that is confined.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from typing import Final

from sage_actors.actors.garbage import collector_paused

__all__ = ["NAMES", "forget_beside", "keep", "load"]

NAMES: Final = ("logging", "concurrent.futures", "ssl", "asyncio")
"""One at a time, the short ones first: whoever asks for something waits for one of them at most."""

_STANDARD = os.path.dirname(os.__file__)
_loaded: set[str] = set()  # by `load`, and needed by nothing else here


def load(name: str) -> None:
    """Imports one of `NAMES` from the standard library, wherever else imports look. Never fails."""
    before, paths = set(sys.modules), sys.path[:]
    sys.path[:] = [_STANDARD, os.path.join(_STANDARD, "lib-dynload")]
    try:
        with (
            contextlib.suppress(Exception),
            collector_paused(),
        ):  # the operation that needs it says what is broken
            import_module(name)
    finally:
        sys.path[:] = paths
    _loaded.update(sys.modules.keys() - before)


def keep() -> None:
    """From now on this package needs them itself."""
    _loaded.clear()


def forget_beside(folder: str) -> None:
    """Where the user has a module of the same name it is meant, as it would be if nothing had been imported."""
    names = {each.partition(".")[0] for each in _loaded}
    if not names:
        return
    with contextlib.suppress(OSError):
        if names.isdisjoint(each.partition(".")[0] for each in os.listdir(folder)):
            return
    for each in _loaded:
        sys.modules.pop(each, None)
    _loaded.clear()

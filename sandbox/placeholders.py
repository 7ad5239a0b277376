"""Placeholders: empty directories in the place of protected paths that do not exist, for the time of a run.

What is not there cannot be a mount point, and what is no mount point could be created by anyone who may write the
directory above. An empty directory is invisible to git, goes away with one rmdir that fails if it was used, and
has a mode that marks it as ours, so that the ones of a killed run are taken over by the next. Who needs one holds
a shared lock on it: the first of two runs to end does not take it from the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable
from typing import Any

from sage_actors.sandbox.profile import PLACEHOLDER_MODE, is_beneath

if sys.platform != "win32":
    import fcntl

__all__ = ["Placeholder", "is_placeholder", "make_placeholders", "remove_placeholders"]

Placeholder = list[Any]
"""[path, device, inode] of an empty directory that was created to be a mount point: plain data, for any wire."""


def make_placeholders(write: Iterable[str], protected: Iterable[str]) -> list[Placeholder]:
    """An empty directory for each protected path in a writable tree that does not exist: at its topmost missing part.

    They are held for as long as this process lives. Raises OSError where one is needed and cannot be made. A crash
    leaves the directories behind, which the next call takes over.
    """
    roots = [os.path.realpath(each) for each in write]
    missing: dict[str, None] = {}
    for path in protected:
        real = _real_parent(path)
        if any(is_beneath(real, root) and real != root for root in roots):
            missing |= dict.fromkeys(_topmost_missing(real))
    return [made for each in missing if (made := _make(each)) is not None]


def remove_placeholders(placeholders: Iterable[Placeholder]) -> None:
    """Removes those that are still empty and the same, and that no other process holds. Never raises OSError."""
    for path, device, inode in placeholders:
        with contextlib.suppress(OSError):
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(directory)
                if (found.st_dev, found.st_ino) == (device, inode):
                    os.rmdir(path)  # fails unless it is empty
            finally:
                os.close(directory)


def _real_parent(path: str) -> str:
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name)


def _topmost_missing(path: str) -> list[str]:
    """The first part of the path that does not exist, or that is a placeholder already; none if the path exists, or
    if a file is in its way (the `.git` of a linked worktree)."""
    found = ""
    for part in path.split("/")[1:]:
        found = f"{found}/{part}"
        if not os.path.lexists(found) or is_placeholder(found):
            return [found]
        if not os.path.isdir(found):
            return []
    return []


def is_placeholder(path: str) -> bool:
    """Whether that is an empty directory of ours."""
    found = os.lstat(path)
    return (
        stat.S_ISDIR(found.st_mode)
        and stat.S_IMODE(found.st_mode) == PLACEHOLDER_MODE
        and not os.listdir(path)
    )


def _make(path: str) -> Placeholder | None:
    while True:
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, PLACEHOLDER_MODE)
        except FileExistsError:
            pass
        except OSError as cause:
            if _cannot_be_made_by_anyone(path, cause):
                return None
            raise
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_SH)  # left open: who removes placeholders must not take this one
        found = os.fstat(lock)
        if found.st_nlink:  # else another run removed it meanwhile
            return [path, found.st_dev, found.st_ino]
        os.close(lock)


def _cannot_be_made_by_anyone(path: str, cause: OSError) -> bool:
    """Who may not write a directory, and may not make it writable either, need not be kept from it."""
    owner = os.stat(os.path.dirname(path)).st_uid
    return cause.errno == errno.EROFS or (cause.errno == errno.EACCES and owner != os.geteuid())

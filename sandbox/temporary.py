"""Smaller temporary directories for one task: mounted over the private ones that all of a project's workers share."""

from __future__ import annotations

import os

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import mounts

__all__ = ["shrink_temporary"]

_DIRECTORIES = ("/tmp", "/var/tmp", "/dev/shm")


def shrink_temporary(size_bytes: int | None) -> bool:
    """Empty directories of at most `size_bytes` each in the place of those that are larger. The page is the unit.
    Returns whether there were any.

    For a process that is alone in its mount namespace and may still mount: after `enter_pid_namespace`, before
    `confine`. What is mounted beneath (a project in /tmp) is there again afterwards, with the flags that it had.

    Raises:
        SandboxSetupError: it cannot be mounted.
    """
    if size_bytes is None:
        return False
    shrunk = False
    for path in _DIRECTORIES:
        try:
            status = os.statvfs(path)
            if status.f_blocks * status.f_frsize > size_bytes:
                mounts.replace_private(path, size_bytes)
                shrunk = True
        except FileNotFoundError:
            continue
        except OSError as cause:
            raise SandboxSetupError("temporary directory", f"{path}: {cause}") from cause
    return shrunk

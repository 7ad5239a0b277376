"""Smaller temporary directories for one task: mounted over the private ones that all of a project's workers share."""

from __future__ import annotations

import os
import re

from sage_actors.messages.errors import SandboxSetupError
from sage_actors.sandbox import kernel

__all__ = ["shrink_temporary"]

_DIRECTORIES = ("/tmp", "/var/tmp", "/dev/shm")
_OCTAL = re.compile(r"\\([0-7]{3})")


def shrink_temporary(size_bytes: int | None) -> None:
    """Empty directories of at most `size_bytes` each in the place of those that are larger. The page is the unit.

    For a process that is alone in its mount namespace and may still mount: after `enter_pid_namespace`, before
    `confine`. What is mounted beneath (a project in /tmp) is there again afterwards, with the flags that it had.

    Raises:
        SandboxSetupError: it cannot be mounted.
    """
    if size_bytes is None:
        return
    for path in _DIRECTORIES:
        try:
            status = os.statvfs(path)
            if status.f_blocks * status.f_frsize > size_bytes:
                _cover(path, size_bytes)
        except FileNotFoundError:
            continue
        except OSError as cause:
            raise SandboxSetupError("temporary directory", f"{path}: {cause}") from cause


def _cover(path: str, size_bytes: int) -> None:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    beneath = [(each, os.open(each, flags), os.path.isdir(each)) for each in _mounts_beneath(path)]
    try:
        kernel.mount(
            "sage-private", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={size_bytes},mode=700"
        )
        for each, fd, is_directory in beneath:
            _make_place(each, is_directory)
            kernel.mount(f"/proc/self/fd/{fd}", each, "", kernel.MS_BIND | kernel.MS_REC)
    finally:
        for _, fd, _ in beneath:
            os.close(fd)


def _mounts_beneath(path: str) -> list[str]:
    """The topmost ones: what is mounted beneath them comes along."""
    with open("/proc/self/mountinfo") as table:
        points = {_OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split()[4]) for line in table}
    found: list[str] = []
    for point in sorted(points):
        inside = point.startswith(f"{path}/")
        if inside and not any(point.startswith(f"{each}/") for each in found) and os.path.lexists(point):
            found.append(point)
    return found


def _make_place(path: str, is_directory: bool) -> None:
    os.makedirs(path if is_directory else os.path.dirname(path), mode=0o700, exist_ok=True)
    if not is_directory:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

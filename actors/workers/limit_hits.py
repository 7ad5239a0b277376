"""Tells a limit that the kernel enforced from a failure of the operation's own.

What the kernel refuses looks like any other failure: an errno, a signal, a line on stderr. It counts as a limit only
where that limit was set and nothing else explains what is seen.

    limit      what the kernel does                        what is seen
    files      open, socket, pipe: EMFILE                  OSError 24, "Too many open files"
    file_size  write: SIGXFSZ, or EFBIG where ignored      signal 25, exit code 153, OSError 27, "File too large"
    processes  fork, clone: EAGAIN                         BlockingIOError 11 from a fork, "can't start new thread"
    memory     brk, mmap: ENOMEM                           MemoryError, OSError 12, "Cannot allocate memory"
    tmp        write, mkdir in it: ENOSPC                  OSError 28 while the directory is full
    result     (the worker itself)                         carried in the error's details already
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from sage_actors.messages.limits import LIMIT_NAMES, limit_error, limit_hit

__all__ = ["hit_of_error", "hit_of_exit", "tell_limit"]

_ERRNO = re.compile(r"\[Errno (\d+)\]")
_TOO_LARGE = frozenset({-signal.SIGXFSZ, 128 + signal.SIGXFSZ})
_LIMIT_OF_ERRNO = {errno.EMFILE: "files", errno.EFBIG: "file_size", errno.ENOMEM: "memory"}
_ERRNO_TYPES = frozenset({"OSError", "BlockingIOError"})  # what Python raises for these numbers
_PLENTY_BYTES = 64 << 20
_FORKS = ("fork", "clone", "start new thread")


def hit_of_exit(exitcode: int | None, limits: Mapping[str, Any]) -> dict[str, Any] | None:
    """The limit that ended a process with `exitcode` (below zero: a signal), or None.

    limits: by name, as an operation declares them; None is no limit.
    """
    return _hit("file_size", limits) if exitcode in _TOO_LARGE else None


def hit_of_error(
    error: Mapping[str, Any], limits: Mapping[str, Any], *, tmp_is_full: bool = False
) -> dict[str, Any] | None:
    """{"kind", "limit", "seen"} of the limit that `error` (see `wire.error_map`) was, or None.

    tmp_is_full: whether the private temporary directory had no room left when the error was caught; without that
    nobody can tell it from a full disk.
    """
    details = error.get("details")
    details = details if isinstance(details, Mapping) else {}
    if error.get("type") == "LimitExceeded" and details.get("kind") in LIMIT_NAMES:
        return {name: details.get(name) for name in ("kind", "limit", "seen")}
    if error.get("type") == "CommandFailed":
        return _hit_of_command(details, limits, tmp_is_full)
    return _hit_of_exception(error, limits, tmp_is_full)


def tell_limit(error: dict[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """`error`, or the LimitExceeded that it was. Called in the worker, where its temporary directory can be seen."""
    hit = hit_of_error(error, limits, tmp_is_full=limits.get("tmp") is not None and _tmp_is_full())
    if hit is None or error["type"] == "LimitExceeded":
        return error
    found = limit_error(hit, where=f"{error['type']}: {error['message']}")
    return {
        **error,
        "type": "LimitExceeded",
        "message": str(found),
        "retryable": found.retryable,
        "details": hit,
    }


def _tmp_is_full() -> bool:
    """Whether the temporary directory ran out of room: it has none left, or the disk of the project has plenty (what
    filled the directory may have been removed while the error came up)."""
    return _free_bytes(os.environ.get("TMPDIR", "/tmp")) == 0 or _free_bytes(".") > _PLENTY_BYTES


def _free_bytes(path: str) -> int:
    try:
        status = os.statvfs(path)
    except OSError:
        return -1
    return status.f_bavail * status.f_frsize


def _hit_of_exception(
    error: Mapping[str, Any], limits: Mapping[str, Any], tmp_is_full: bool
) -> dict[str, Any] | None:
    message = str(error.get("message", ""))
    if error.get("type") == "MemoryError":
        return _hit("memory", limits)
    if "can't start new thread" in message:
        return _hit("processes", limits)
    said = _ERRNO.match(message) if error.get("type") in _ERRNO_TYPES else None
    number = int(said[1]) if said else 0
    if number == errno.EAGAIN:
        return _hit("processes", limits) if "fork" in str(error.get("traceback", "")) else None
    if number == errno.ENOSPC:
        return _hit("tmp", limits) if tmp_is_full else None
    return _hit(_LIMIT_OF_ERRNO.get(number, ""), limits)


def _hit_of_command(
    details: Mapping[str, Any], limits: Mapping[str, Any], tmp_is_full: bool
) -> dict[str, Any] | None:
    if hit := hit_of_exit(details.get("exit_code"), limits):
        return hit
    for line in reversed(str(details.get("stderr", "")).splitlines()):
        for name in _limits_of_line(line, tmp_is_full):
            if hit := _hit(name, limits):
                return hit
    return None


def _limits_of_line(line: str, tmp_is_full: bool) -> Iterator[str]:
    """Programs end a line with the text of the errno; only shells put more around it."""
    line = line.rstrip()
    for number, name in _LIMIT_OF_ERRNO.items():
        if line.endswith(os.strerror(number)) or f"[Errno {number}]" in line:
            yield name
    if line == "MemoryError" or line.startswith("MemoryError:"):
        yield "memory"
    if any(word in line for word in _FORKS) and (
        os.strerror(errno.EAGAIN) in line or "annot fork" in line or "can't start" in line
    ):
        yield "processes"
    if tmp_is_full and line.endswith(os.strerror(errno.ENOSPC)):
        yield "tmp"


def _hit(name: str, limits: Mapping[str, Any]) -> dict[str, Any] | None:
    limit = limits.get(name)
    return None if limit is None else limit_hit(name, limit, None)

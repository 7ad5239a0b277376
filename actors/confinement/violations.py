"""Tells an operation that was refused something from one that failed: what the profile does not grant, by name.

The kernel answers with EACCES, EROFS or ENOENT as it would for an ordinary file. Whether the profile was the reason
can be told from its paths.
"""

from __future__ import annotations

import errno
import os

from sage_actors.messages.errors import SandboxViolation
from sage_actors.sandbox.profile import Profile, is_beneath_any

__all__ = ["explain", "judge_by"]

_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV})
_KERNEL = ("/proc", "/sys", "/dev")
_PRIVATE = ("/tmp", "/var/tmp", "/run")  # what is missing there was never made

_profile: Profile | None = None  # of this worker, which has one for its whole life


def judge_by(profile: Profile) -> None:
    """From now on `explain` knows what this process may touch."""
    global _profile
    _profile = profile


def explain(error: BaseException) -> SandboxViolation | None:
    """The violation that `error` was, or None: it failed for a reason of its own, or nothing is confined here."""
    if _profile is None or not isinstance(error, OSError) or error.filename is None:
        return None
    path = os.path.abspath(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else ""
    if not path or is_beneath_any(path, _KERNEL):
        return None
    if error.errno == errno.ENOENT:
        shown = _is_shown(_profile, path) or is_beneath_any(path, _PRIVATE)
        return None if shown else _violation("read", path)
    if error.errno not in _REFUSED or _may_write(_profile, path):
        return None
    return _violation("write" if error.errno == errno.EROFS or _is_shown(_profile, path) else "read", path)


def _violation(kind: str, path: str) -> SandboxViolation:
    assert _profile is not None
    if is_beneath_any(path, _profile.protected):
        return SandboxViolation(kind, path, "it is protected: operations never change it")
    if is_beneath_any(path, _profile.hidden):
        return SandboxViolation(kind, path, "it is hidden by [sandbox] hide")
    return SandboxViolation(kind, path, f'add {kind} = ["{path}"] under [sandbox] of your config.toml')


def _is_shown(profile: Profile, path: str) -> bool:
    granted = is_beneath_any(path, (*profile.read, *profile.write))
    return granted and not is_beneath_any(path, profile.hidden)


def _may_write(profile: Profile, path: str) -> bool:
    if is_beneath_any(path, profile.reopened):
        return True
    closed = is_beneath_any(path, (*profile.protected, *profile.hidden))
    return not closed and is_beneath_any(path, profile.write)

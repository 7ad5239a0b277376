"""Where a run's control socket is, and who may be at its other end.

A path is short whatever the project's is (an address has 108 bytes), in a directory that is the user's alone.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import tempfile
from hashlib import blake2b
from pathlib import Path

from sage_actors.messages.errors import UsageError

__all__ = ["NoControlError", "listen", "may_speak", "owner_of", "socket_paths", "unlink_own", "why_not_ours"]

_MAX_PATH_BYTES = 100  # of the 108 that an address has; macOS has 104


class NoControlError(UsageError):
    """Nobody answers for this run: no live process owns it, or it runs without a control socket."""

    code = "WORKFLOW_NOT_RUNNING"


def socket_paths(project: Path | str, run_id: str) -> list[Path]:
    """Where the socket of a run may be, the preferred place first; none of it is made."""
    name = blake2b(
        os.fsencode(os.path.realpath(project)) + b"\0" + run_id.encode(), digest_size=12
    ).hexdigest()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    places = [Path(runtime) / "sage-actors"] if os.path.isabs(runtime) else []
    places.append(Path("/tmp") / f"sage-actors-{os.getuid()}")
    paths = [place / f"{name}.sock" for place in places]
    return [path for path in paths if len(os.fsencode(path)) <= _MAX_PATH_BYTES]


def listen(paths: list[Path], run_id: str) -> tuple[socket.socket, Path]:
    """A listening socket at the first of `paths` that can be used. The caller owns the run.

    Raises:
        UsageError: none of them is private, or a live process answers there.
    """
    reasons = []
    for path in paths:
        try:
            if not path.parent.is_symlink():
                path.parent.mkdir(mode=0o700, exist_ok=True)
            reason = why_not_ours(path.parent)
            if not reason:
                return _bind(path, run_id), path
        except OSError as cause:
            reason = str(cause)
        reasons.append(f"{path.parent}: {reason}")
    raise UsageError(f"there is no place for a control socket: {'; '.join(reasons)}")


def _bind(path: Path, run_id: str) -> socket.socket:
    """A socket that listens at `path` from its first moment on, in the place of a stale one."""
    if _answers(path):
        raise UsageError(f"another live process answers for run {run_id}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = tempfile.mktemp(prefix=".", dir=path.parent)  # in a directory that is ours alone
    try:
        sock.bind(temporary)
        os.chmod(temporary, 0o600)
        sock.listen(128)
        sock.setblocking(False)
        os.rename(temporary, path)
    except BaseException:
        sock.close()
        Path(temporary).unlink(missing_ok=True)
        raise
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(os.fspath(path))
        except (BlockingIOError, TimeoutError):
            return True  # its queue is full, so there is one
        except OSError:
            return False
        return True


def why_not_ours(directory: Path) -> str:
    """Why `directory` is no private directory of this user, or "" if it is one."""
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        return "it is no directory"
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}"
    return "others have rights in it; chmod 700 it" if status.st_mode & 0o077 else ""


def may_speak(sock: socket.socket) -> bool:
    """Whether the peer is this user or root. Where the system does not say, the directory's mode must do."""
    if sys.platform != "linux":
        return True
    _, uid, _ = _credentials(sock)
    return uid in (os.getuid(), 0)


def owner_of(sock: socket.socket) -> int | None:
    """The process that listens at the other end; None where the system does not say."""
    return _credentials(sock)[0] or None if sys.platform == "linux" else None


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    """The peer's process, user and group."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


def unlink_own(path: Path, inode: int) -> None:
    """Remove the socket at `path` if it is still the one of that inode."""
    try:
        if os.stat(path).st_ino == inode:
            path.unlink()
    except OSError:
        pass

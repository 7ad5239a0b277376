"""How files reach the disk: private, never half there, and through one seam that a test can make fail."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "DISK",
    "Disk",
    "check_directory_of",
    "copy_prefix",
    "create_private",
    "exchange",
    "exclusive",
    "exclusive_directory",
    "make_private_directory",
    "publish",
    "read_all",
    "replace_file",
    "replace_shared_file",
    "temporary_name",
    "why_not_private",
]

_CREATE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK_WAIT_S = 5.0
_CHUNK_BYTES = 1 << 20
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


class Disk:
    """The calls that can fail for want of space or of a healthy device. A test hands in one that fails."""

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Bytes written, perhaps fewer than given."""
        return os.write(fd, data)

    def sync_data(self, fd: int) -> None:
        """The file's bytes and its length are on the device when this returns."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync there leaves data in the drive's cache
        else:
            os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """As `sync_data`, and all metadata."""
        os.fsync(fd)

    def sync_directory(self, path: Path) -> None:
        """The directory's entries (what was created, renamed, removed) are on the device."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(fd)
        finally:
            os.close(fd)

    def write_all(self, fd: int, data: bytes) -> None:
        """All of `data`, in as many writes as it takes; for files that nobody can see yet."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.write(fd, rest) :]


DISK = Disk()


def make_private_directory(path: Path, *, disk: Disk = DISK) -> None:
    """Make `path` and its missing parents, mode 0700 under any umask, each durable in its parent.

    Raises:
        OSError: it cannot be made; FileExistsError or NotADirectoryError where something else has that name.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_private_directory(path.parent, disk=disk)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        return  # another process was first
    os.chmod(path, 0o700)  # the umask may have taken bits that the owner needs
    disk.sync_directory(path.parent)


def create_private(path: Path, *, flags: int = os.O_WRONLY) -> int:
    """A new file, mode 0600 under any umask; its descriptor. FileExistsError when the name is taken."""
    fd = os.open(path, flags | _CREATE, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def why_not_private(fd: int) -> str:
    """Why what `fd` has open is no private file of this user, or "" if it is one."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_uid != os.getuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & 0o077:
        return f"its mode is {stat.S_IMODE(status.st_mode):04o}: others can get at it"
    return ""


def read_all(fd: int, *, limit_bytes: int) -> bytes:
    """What `fd` still holds, up to the limit."""
    parts: list[bytes] = []
    while limit_bytes > 0 and (part := os.read(fd, min(_CHUNK_BYTES, limit_bytes))):
        parts.append(part)
        limit_bytes -= len(part)
    return b"".join(parts)


def temporary_name(path: Path) -> Path:
    """A fresh name beside `path` for what will become `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


@contextmanager
def exclusive(fd: int, *, wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
    """Hold `flock` on `fd` (a directory will do); TimeoutError (an OSError) if others hold it for longer."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a lock was not released within {wait_s:g} s") from None
            time.sleep(0.002)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def exclusive_directory(path: Path) -> Iterator[None]:
    """As `exclusive`, on a directory whose files are rewritten: two at once must not lose each other's change."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with exclusive(fd):
            yield
    finally:
        os.close(fd)


def publish(temporary: Path, path: Path, *, disk: Disk = DISK) -> None:
    """Rename `temporary`, whose bytes are synced, to `path`, durably; never over something.

    rename(2) would replace silently, and link(2) would show a file with two names for a moment, so the
    directory is locked while the name is looked at. A crash leaves the temporary name or the final one.

    Raises:
        FileExistsError: `path` is taken.
    """
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with exclusive(fd):
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists already")
            os.rename(temporary, path)
        disk.sync(fd)
    finally:
        os.close(fd)


def exchange(one: Path, other: Path, *, disk: Disk = DISK) -> None:
    """Each of the two gets the other's name, in one step that a crash cannot halve; durable when this returns.

    Raises:
        OSError: the system or the file system cannot; both are as they were.
    """
    import ctypes  # only here

    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, _RENAME_SWAP)
    else:
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    for directory in {one.parent, other.parent}:
        disk.sync_directory(directory)


def replace_file(path: Path, data: bytes, *, durable: bool = True, disk: Disk = DISK) -> None:
    """`path` holds `data`, mode 0600. A crash leaves the old content or the new one, whole.

    durable: False leaves it to the system when the bytes reach the disk; a loss of power may tear them.
    """
    temporary = temporary_name(path)
    try:
        fd = create_private(temporary)
        try:
            disk.write_all(fd, data)
            if durable:
                disk.sync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        disk.sync_directory(path.parent)


def replace_shared_file(path: Path, data: bytes) -> None:
    """`path` holds `data`, old or new but whole; with the mode that it had, a new file as the umask says."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_directory_of(path: Path, what: str, error: Callable[[str], Exception]) -> None:
    """Raises `error` where somebody else could replace `path`: its directory is not ours, or others may write in it."""
    directory = path.parent
    status = os.stat(directory)
    if status.st_uid not in (os.getuid(), 0):
        raise error(f"{what} {directory} belongs to user {status.st_uid}")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise error(f"others may write in {what} {directory}; chmod go-w it")


def copy_prefix(source: int, target: int, length: int, *, disk: Disk = DISK) -> None:
    """The first `length` bytes of `source` into `target`, synced."""
    offset = 0
    while offset < length:
        part = os.pread(source, min(_CHUNK_BYTES, length - offset), offset)
        if not part:
            raise OSError("the file ended early while it was copied")
        disk.write_all(target, part)
        offset += len(part)
    disk.sync(target)

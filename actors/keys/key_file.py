"""The keys in a private file: one a line, the first seals. What others could read or replace is refused.

A crash while it is written leaves the old file or the new one, whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sage_actors.actors.keys.ring import KeyRing, MasterKey, format_key, new_key, read_keys, ring_of
from sage_actors.actors.state.disk import (
    DISK,
    check_directory_of,
    create_private,
    exclusive_directory,
    make_private_directory,
    publish,
    read_all,
    replace_file,
    temporary_name,
    why_not_private,
)
from sage_actors.messages.errors import KeyUnusableError

__all__ = [
    "create_key_file",
    "default_key_path",
    "drop_from_key_file",
    "load_key_file",
    "read_key_file",
    "rotate_key_file",
    "write_private_file",
]

_FILE_LIMIT_BYTES = 64 * 1024


def default_key_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/sage-actors/state.key`, by default under `~/.config`."""
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():  # the XDG specification: relative paths are to be ignored
        try:
            base = Path(environ.get("HOME") or Path.home()) / ".config"
        except RuntimeError as cause:
            raise KeyUnusableError(
                "there is no home directory for a key file; set $SAGE_STATE_KEY"
            ) from cause
    return base / "sage-actors" / "state.key"


def create_key_file(path: Path) -> KeyRing:
    """Make a key file with a new key: 0600, whole or not there, never over an existing one.

    Raises:
        KeyUnusableError: the file exists, or cannot be made.
    """
    write_private_file(path, _file_text((new_key(),)))
    return read_key_file(path)


def write_private_file(path: Path, data: bytes) -> None:
    """A new file, 0600, in directories that are 0700 where they are new.

    Raises:
        KeyUnusableError: it exists, or cannot be made.
    """
    temporary = temporary_name(path)
    try:
        make_private_directory(path.parent)
        fd = create_private(temporary)
        try:
            DISK.write_all(fd, data)
            DISK.sync(fd)
        finally:
            os.close(fd)
        publish(temporary, path)
    except OSError as cause:
        temporary.unlink(missing_ok=True)
        raise KeyUnusableError(f"cannot make the key file {path}: {cause}") from cause


def rotate_key_file(path: Path) -> KeyRing:
    """Put a new key first in the key file; the older ones stay, to read what they sealed.

    Raises:
        KeyUnusableError: the file is unusable, or cannot be replaced (it is then unchanged).
    """
    return _change(path, lambda ring: KeyRing((new_key(), *ring.keys), ring.source))


def drop_from_key_file(path: Path, key_id: bytes) -> KeyRing:
    """Take a key out of the key file for good. The last one stays.

    Raises:
        KeyUnusableError: as `rotate_key_file`; or it would be the last one.
    """
    return _change(path, lambda ring: ring.without(key_id))


def load_key_file(path: Path, *, create: bool) -> KeyRing:
    """The keys of the file, which is made if it is not there and `create` is true.

    Raises:
        KeyUnusableError: it is not private, holds no key, or is not there and is not to be made.
    """
    if not os.path.lexists(path):
        if not create:
            raise KeyUnusableError(
                f"no key: set $SAGE_STATE_KEY, or make {path} with `sage-actors keys create`"
            )
        try:
            return create_key_file(path)
        except KeyUnusableError:
            if not os.path.lexists(path):
                raise  # else another process made it first: use that one
    return read_key_file(path)


def read_key_file(path: Path) -> KeyRing:
    """The keys of the file.

    Raises:
        KeyUnusableError: it is not private, or holds no key.
    """
    try:
        check_directory_of(path, "the key's directory", KeyUnusableError)
        # O_NONBLOCK: a FIFO in the file's place must not hold this process up
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            reason = why_not_private(fd) or ("it has several names" if os.fstat(fd).st_nlink != 1 else "")
            if reason:
                raise KeyUnusableError(
                    f"the key file {path} is not private: {reason}; make it a 0600 file of your own, "
                    "and rotate the key if others could read it"
                )
            data = read_all(fd, limit_bytes=_FILE_LIMIT_BYTES)
        finally:
            os.close(fd)
    except OSError as cause:
        raise KeyUnusableError(f"cannot read the key file {path}: {cause}") from cause
    found = read_keys(",".join(_lines(data)))
    del data
    return ring_of(found, f"the key file {path}", "file")


def _lines(data: bytes) -> list[str]:
    lines = data.decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _change(path: Path, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
    """Two changes at once must not lose each other's key: the directory is locked meanwhile."""
    try:
        with exclusive_directory(path.parent):
            ring = change(read_key_file(path))
            if not ring.keys:
                raise KeyUnusableError(f"{path} would hold no key; rotate it first")
            replace_file(path, _file_text(ring.keys))
    except OSError as cause:
        raise KeyUnusableError(f"cannot change the key file {path}: {cause}") from cause
    return ring


def _file_text(keys: tuple[MasterKey, ...]) -> bytes:
    head = "# sage-actors: the key of saved state. Whoever reads it reads the state. The first line seals.\n"
    return (head + "".join(f"{format_key(key.secret)}\n" for key in keys)).encode("ascii")

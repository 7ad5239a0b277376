"""Landlock: which files a process and all that it starts may reach; once restricted, never widened.

Rights are hierarchical and only ever added up: what is granted on a directory is granted beneath it, and nothing
can be taken out again. So where a writable tree holds protected paths and no mount keeps them read-only, its
entries are granted one by one around them (`spread`), and nothing new can be created beside them.

See landlock(7). Numbers: include/uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping

from sage_actors.sandbox import kernel
from sage_actors.sandbox.profile import is_beneath

__all__ = [
    "EXECUTE",
    "READ",
    "SHARE",
    "USE_DEVICE",
    "USE_TERMINAL",
    "WRITE",
    "abi",
    "build",
    "enforce",
    "restrict",
    "scope",
    "spread",
]

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REG = 1 << 5, 1 << 8
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV, _RESOLVE_UNIX = 1 << 6, 1 << 11, 1 << 14, 1 << 15, 1 << 16

READ = _READ_FILE | _READ_DIR
EXECUTE = READ | _EXECUTE
WRITE = ((1 << 16) - 1) & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
LIST = _READ_DIR
SHARE = _READ_FILE | _WRITE_FILE | _MAKE_REG | _REMOVE_FILE | _TRUNCATE  # files whose names one knows
USE_DEVICE = _READ_FILE | _WRITE_FILE
USE_TERMINAL = READ | _WRITE_FILE | _IOCTL_DEV
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV | _RESOLVE_UNIX

# What each version of the interface can handle; a later one than the last is treated as the last.
_HANDLED = {
    1: (1 << 13) - 1,
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
    4: (1 << 15) - 1,
    5: (1 << 16) - 1,
    9: (1 << 17) - 1,
}
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/sys", "/dev", "/proc")
_CONNECT_TCP = 1 << 1
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2
_RULE_PATH_BENEATH, _RULE_NET_PORT = 1, 2


def abi() -> int:
    """The version of the kernel's interface; 0 if the kernel has none, or it is switched off."""
    try:
        return max(0, kernel.call("landlock_create_ruleset", None, 0, 1))
    except OSError:
        return 0


def restrict(grants: Mapping[str, int], *, connect: Collection[int] | None = None) -> None:
    """`build`, and `enforce` at once."""
    ruleset = build(grants, connect=connect)
    try:
        enforce(ruleset)
    finally:
        os.close(ruleset)


def build(grants: Mapping[str, int], *, connect: Collection[int] | None = None) -> int:
    """A ruleset: files are reached only by `grants` (path: rights), nobody outside is signalled, and no abstract
    socket outside is reached, as far as the kernel's version can. Returns a descriptor, which the caller closes.

    connect: TCP ports that may be connected to; None leaves TCP alone. A path that does not exist is skipped, and so
    is a symbolic link, unless it was to be written: then OSError. Raises OSError.
    """
    version = abi()
    connect = connect if version >= 4 else None
    ruleset = _create(version, with_network=connect is not None)
    try:
        for path, rights in grants.items():
            _grant(ruleset, path, rights & _handled(version))
        for port in connect or ():
            rule = ctypes.create_string_buffer(struct.pack("QQ", _CONNECT_TCP, port), 16)
            kernel.call("landlock_add_rule", ruleset, _RULE_NET_PORT, rule, 0)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def scope() -> int:
    """A ruleset that leaves files and network alone: nobody outside is signalled. For version 6 and later; as `build`
    otherwise."""
    buffer = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, _SCOPE_SIGNAL), 24)
    return kernel.call("landlock_create_ruleset", buffer, 24, 0)


def enforce(ruleset: int) -> None:
    """From now on it holds for this thread and all that it starts. no_new_privs must be set. Raises OSError."""
    kernel.call("landlock_restrict_self", ruleset, 0)


def _handled(version: int) -> int:
    return _HANDLED[max(each for each in _HANDLED if each <= version)]


def _create(version: int, *, with_network: bool) -> int:
    if not version:
        kernel.call("landlock_create_ruleset", None, 0, 1)  # raises, with the kernel's reason
    network = _CONNECT_TCP if with_network else 0
    scoped = _SCOPE_ABSTRACT_UNIX | _SCOPE_SIGNAL if version >= 6 else 0
    attributes = struct.pack("QQQ", _handled(version), network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    buffer = ctypes.create_string_buffer(attributes, 24)
    return kernel.call("landlock_create_ruleset", buffer, size, 0)


def _grant(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # nothing there that could be reached
        return
    try:
        if not _is_itself(path, opened):
            if rights & WRITE & ~EXECUTE:
                raise OSError(errno.ELOOP, "a symbolic link is not granted: name what it leads to", path)
            return
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, opened), 12)
        kernel.call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)


def _is_itself(path: str, opened: int) -> bool:
    """Whether no symbolic link was followed, but for the system's own: anyone may have put another one there, into
    a project say, and what it leads to was never meant."""
    return os.readlink(f"/proc/self/fd/{opened}") == path or any(is_beneath(path, each) for each in _SYSTEM)


def spread(
    read: Iterable[str],
    write: Collection[str],
    *,
    protected: Collection[str],
    hidden: Collection[str],
    reopened: Iterable[str] = (),
) -> dict[str, int]:
    """Grants that leave out what is protected or hidden: trees that hold such a path are granted entry by entry.

    Existing entries only, and never through a symbolic link. A tree that holds something hidden can still be
    listed as a whole: the names of hidden files show, their content does not.
    """
    grants: dict[str, int] = {}
    protected, hidden = _with_targets(protected), _with_targets(hidden)
    for root in read:
        _add(grants, _around(root, EXECUTE, hidden))
    for root in write:
        _add(grants, _around(root, EXECUTE, hidden))
        _add(grants, _around(root, WRITE, [*protected, *hidden]))
    for path in reopened:
        if (
            any(is_beneath(path, root) for root in write)
            and not os.path.islink(path)
            and os.path.realpath(os.path.dirname(path)) == os.path.dirname(path)
        ):
            _add(grants, [(path, WRITE)])
    return grants


def _with_targets(paths: Iterable[str]) -> list[str]:
    """What symbolic links lead to counts as they do."""
    return list(dict.fromkeys(each for path in paths for each in (path, os.path.realpath(path))))


def _add(grants: dict[str, int], more: Iterable[tuple[str, int]]) -> None:
    for path, rights in more:
        grants[path] = grants.get(path, 0) | rights


def _around(root: str, rights: int, left_out: Collection[str]) -> Iterator[tuple[str, int]]:
    inside = [each for each in left_out if is_beneath(each, root)]
    if not inside:
        yield root, rights
    elif root not in inside and os.path.isdir(root):
        if rights & READ:
            yield root, LIST
        for entry in os.scandir(root):
            if not entry.is_symlink():
                yield from _around(entry.path, rights, inside)

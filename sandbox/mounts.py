"""A new root in memory that holds only what a layout names, and the paths in it that stay read-only or empty.

    plan_root (old root still there)             build_root                          shield
      resolve links, what is there   ----->   tmpfs; links; binds, top down  ----->  pin parents, bind read-only,
      of which kind                            /.old is the old root                 empty what is hidden, reopen

A mount keeps a path from being renamed or removed, but not the directories above it: moving `.git` away would
take a read-only `.git/hooks` with it. So each directory between a writable tree and a protected path is bound
onto itself. What does not exist cannot be a mount point: it gets an empty directory as a placeholder.

A mount point that is replaced *outside* of the sandbox (an editor that writes a new file and renames it) loses
its mount. Directories are seldom replaced; and `confine` shields again what it finds writable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from sage_actors.sandbox import kernel
from sage_actors.sandbox.placeholders import is_placeholder
from sage_actors.sandbox.profile import Layout, device_paths, is_beneath, is_beneath_any, outermost

__all__ = [
    "Plan",
    "build_root",
    "look",
    "narrow",
    "open_for",
    "plan_root",
    "replace_private",
    "seal_root",
    "shield",
]

_OLD = "/.old"
_STAGE = "/tmp"  # where the new root is put together; nothing that is there is touched
_PRIVATE = "sage-private"  # the source that marks our own directories in /proc/self/mountinfo
_COVER = "sage-empty"
_known: dict[str, str] = {}  # see `remember`
_MOST_LINKS = 40  # the kernel's own limit


@dataclass(slots=True)
class Plan:
    """What the new root will hold. grants: real path -> "read", "write" or "private"; links: path -> target."""

    grants: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def plan_root(layout: Layout) -> Plan:
    """Looks up what the layout names, in the root as it is now. Raises FileNotFoundError for a missing `write`."""
    plan = Plan()
    for path in layout.write:
        _admit(plan, path, "write")
    for path in (*layout.read, *device_paths()):
        with contextlib.suppress(OSError):  # what is not there, or not for this user, cannot be read anyway
            _admit(plan, path, "read")
    for path in layout.private:
        if not any(is_beneath(path, each) for each, kind in plan.grants.items() if kind != "private"):
            plan.grants[path] = "private"
    return plan


def build_root(plan: Plan, layout: Layout) -> None:
    """Makes the plan this mount namespace's root. Everything else is gone from it. Raises OSError."""
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _STAGE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4m,mode=755")
    os.mkdir(_STAGE + _OLD, 0o700)
    kernel.pivot_root(_STAGE, _STAGE + _OLD)
    os.chdir("/")
    for path in sorted(plan.grants, key=_depth):
        _place(path, plan, layout.tmp_bytes)
    for path, target in plan.links.items():
        _make_link(path, target)
    _bind("/proc", "/proc", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV | kernel.ATTR_NOEXEC)
    _make_devices()
    kernel.unmount(_OLD)
    os.rmdir(_OLD)


def seal_root() -> None:
    """Nothing can be created in the root itself any more."""
    kernel.set_mount_flags("/", on=kernel.ATTR_RDONLY)


def shield(
    write: Collection[str], *, protected: Collection[str], hidden: Collection[str], reopened: Collection[str]
) -> None:
    """Makes protected paths read-only, hidden ones empty, and reopened ones writable, in this mount namespace.

    Of what does not exist there must be placeholders. A protected symbolic link is held in place, and so is what it
    leads to. Raises OSError; in particular where a
    reopened path is a symbolic link, which could lead anywhere.
    """
    _known.clear()
    roots = [os.path.realpath(each) for each in write]
    pinned: set[str] = set()
    for path in sorted(protected, key=_depth):
        _protect(path, roots, pinned)
    for path in sorted(reopened, key=_depth):
        _reopen(path, roots)
    for path in sorted(hidden, key=_depth):
        real = os.path.realpath(path)
        if os.path.lexists(real):
            _pin(real, roots, pinned)
            _cover(real)


def look(
    read: Collection[str], write: Collection[str], *, everywhere: bool = False
) -> tuple[list[str], list[str]]:
    """The private directories of this root, and the mounts that reach further than these grants and that Landlock
    cannot hold: those inside of a private directory, as what is granted on it reaches them too. everywhere: all."""
    points = _known or _mount_points()
    private = [path for path, source in points.items() if source == _PRIVATE]
    others = [each for each in points if points[each] != _PRIVATE and each != "/"]
    if everywhere:
        inside = [each for each in others if not is_beneath_any(each, ("/proc", "/dev"))]
    else:
        inside = [each for each in others if is_beneath_any(each, private)]
    further = [each for each in inside if not _is_granted(each, read, write)]
    if further:  # mount points are real paths, grants need not be
        read, write = [*map(_real, read)], [*map(_real, write)]
        further = [each for each in further if not _is_granted(each, read, write)]
    return private, outermost(further)


def narrow(path: str, read: Collection[str], write: Collection[str]) -> None:
    """Leaves of the mount at `path` only what is granted inside it; what may be read alone is read-only."""
    _known.clear()
    if not is_beneath_any(path, read):
        _cover_around(path, [each for each in (*read, *write) if is_beneath(each, path)])
    kernel.set_mount_flags(path, on=kernel.ATTR_RDONLY, recursive=True)
    for each in (each for each in write if is_beneath(each, path)):
        kernel.mount(each, each, None, kernel.MS_BIND | kernel.MS_REC)
        kernel.set_mount_flags(each, off=kernel.ATTR_RDONLY)


def replace_private(path: str, size_bytes: int) -> None:
    """An empty private directory of that size at `path`; what is mounted beneath it is there again, as it was."""
    _known.clear()
    inside = [
        each for each in _mount_points() if each != path and is_beneath(each, path) and os.path.lexists(each)
    ]
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = {each: os.open(each, flags) for each in outermost(inside)}
    _mount_around(_PRIVATE, path, opened, f"size={size_bytes},mode=700")


def open_for(protected: Iterable[str], hidden: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those of the paths that this process could still write, or read."""
    return [each for each in protected if _is_writable(each)], [each for each in hidden if _is_visible(each)]


def remember() -> None:
    """`look` takes the mounts as they are now, until something here mounts more: of what this process forks, each has
    the same in a mount namespace of its own."""
    _known.update(_mount_points())


def _real(path: str) -> str:
    """`os.path.realpath` in three system calls."""
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(path)
    try:
        return os.readlink(f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)


def _mount_points() -> dict[str, str]:
    """Mount point -> source. See proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", "rb") as table:
        rows = [line.split(b" ") for line in table.read().splitlines()]
    return {_unescaped(row[4]): os.fsdecode(row[row.index(b"-") + 2]) for row in rows}


def _is_granted(path: str, read: Collection[str], write: Collection[str]) -> bool:
    return is_beneath_any(path, write) or (is_beneath_any(path, read) and not _is_writable(path))


def _cover_around(path: str, kept: list[str]) -> None:
    """Nothing at `path` but `kept`, which is mounted again where it was."""
    if not os.path.isdir(path):
        return _cover(path)
    opened = {each: os.open(each, os.O_PATH | os.O_CLOEXEC) for each in kept if os.path.exists(each)}
    _mount_around(_COVER, path, opened, "size=64k,mode=755")


def _mount_around(source: str, path: str, opened: Mapping[str, int], data: str) -> None:
    """A file system in memory at `path`, and in it, where it was, what each descriptor holds; they are closed."""
    try:
        kernel.mount(source, path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, data)
        for each, descriptor in opened.items():
            _make_mount_point(each, is_directory=os.path.isdir(f"/proc/self/fd/{descriptor}"))
            kernel.mount(f"/proc/self/fd/{descriptor}", each, None, kernel.MS_BIND | kernel.MS_REC)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def _unescaped(name: bytes) -> str:
    if b"\\" in name:
        name = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name)
    return os.fsdecode(name)


def _admit(plan: Plan, path: str, kind: str) -> None:
    """Notes the real path, unless a writable tree has it, or a readable one and it is to be read."""
    links: dict[str, str] = {}
    real = _resolve(path, links)
    os.stat(real)
    for root in [each for each, other in plan.grants.items() if other == "write"]:
        if not is_beneath(real, root):
            _refuse_to_leave(root, links, path)
    plan.links |= links
    if not any(is_beneath(real, each) for each, other in plan.grants.items() if other in ("write", kind)):
        plan.grants[real] = kind


def _refuse_to_leave(root: str, links: Iterable[str], path: str) -> None:
    """Whoever may write a tree may have put a link there: it is no grant of what lies outside."""
    if any(is_beneath(link, root) and link != root for link in links):
        raise OSError(errno.ELOOP, "a symbolic link in a writable tree leads out of it", path)


def _resolve(path: str, links: dict[str, str]) -> str:
    """The path without symbolic links; each link on the way is noted, so that the path leads there in the new root."""
    todo = path.split("/")[1:]
    done = ""
    followed = 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        here = f"{done}/{part}"
        target = _link_target(here)
        if target is None:
            done = here
            continue
        followed += 1
        if followed > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        links[here] = target
        todo = target.split("/") + todo
        done = "" if target.startswith("/") else done
    return done or "/"


def _link_target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _depth(path: str) -> int:
    return path.count("/") if path != "/" else 0


def _place(path: str, plan: Plan, tmp_bytes: int) -> None:
    if plan.grants[path] == "private":
        os.makedirs(path, exist_ok=True)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount(_PRIVATE, path, "tmpfs", flags, f"size={tmp_bytes},mode=700")
        return
    device = 0 if path in device_paths() else kernel.ATTR_NODEV
    read_only = kernel.ATTR_RDONLY if plan.grants[path] == "read" and device else 0
    _bind(path, path, read_only | kernel.ATTR_NOSUID | device)


def _bind(source: str, target: str, flags: int) -> None:
    """From the old root, with what is mounted beneath it."""
    source = _OLD + source
    _make_mount_point(target, is_directory=os.path.isdir(source))
    kernel.mount(source, target, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount_flags(target, on=flags, recursive=True)


def _make_mount_point(path: str, *, is_directory: bool) -> None:
    os.makedirs(path if is_directory else os.path.dirname(path), exist_ok=True)
    if not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _make_devices() -> None:
    """Names for open descriptors, and pseudo terminals of our own."""
    for name in ("stdin", "stdout", "stderr", "fd"):
        number = {"stdin": "/0", "stdout": "/1", "stderr": "/2"}.get(name, "")
        _make_link(f"/dev/{name}", f"/proc/self/fd{number}")
    with contextlib.suppress(OSError):  # a kernel without them, or in a container: programs do without
        os.makedirs("/dev/pts", exist_ok=True)
        flags = kernel.MS_NOSUID | kernel.MS_NOEXEC
        kernel.mount("devpts", "/dev/pts", "devpts", flags, "newinstance,ptmxmode=0666,mode=620")
        _make_link("/dev/ptmx", "pts/ptmx")


def _make_link(path: str, target: str) -> None:
    """Unless a tree that is bound here has it already."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.lexists(path):
        os.symlink(target, path)


def _pin(path: str, roots: Iterable[str], pinned: set[str]) -> None:
    """Binds the directories between a writable tree and `path` onto themselves, so that none can be moved."""
    root = max((each for each in roots if is_beneath(path, each)), key=len, default=None)
    if root is None:
        return
    parts = os.path.relpath(os.path.dirname(path), root).split("/")
    for part in parts if parts != ["."] else ():
        root = f"{root.rstrip('/')}/{part}"
        if root not in pinned:
            kernel.mount(root, root, None, kernel.MS_BIND | kernel.MS_REC)
        pinned.add(root)


def _protect(path: str, roots: Iterable[str], pinned: set[str]) -> None:
    links: dict[str, str] = {}
    real = _resolve(path, links)
    for link in (each for each in links if is_beneath_any(each, roots)):
        _pin(link, roots, pinned)
        kernel.mount_link_onto_itself(link)
    held = real
    while not os.path.lexists(held):
        held = os.path.dirname(held)
    # Of a missing path its placeholder is held, or the file that is in its way: git's in a linked worktree.
    if held != real and os.path.isdir(held) and not is_placeholder(held):
        return
    if is_beneath_any(held, roots):
        _pin(held, roots, pinned)
        _bind_onto_itself(held, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV)


def _bind_onto_itself(path: str, flags: int) -> None:
    kernel.mount(path, path, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount_flags(path, on=flags, recursive=True)


def _reopen(path: str, roots: Iterable[str]) -> None:
    if not os.path.lexists(path) or not is_beneath_any(path, roots):
        return
    if os.path.realpath(path) != path:
        raise OSError(errno.ELOOP, "a symbolic link cannot be made writable: put a directory there", path)
    kernel.mount(path, path, None, kernel.MS_BIND | kernel.MS_REC)
    kernel.set_mount_flags(path, off=kernel.ATTR_RDONLY)


def _cover(path: str) -> None:
    """An empty directory or file that cannot be read over `path`."""
    if os.path.isdir(path):
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=4k,mode=0")
        kernel.set_mount_flags(path, on=kernel.ATTR_RDONLY)
    else:
        kernel.mount("/dev/null", path, None, kernel.MS_BIND)
        kernel.set_mount_flags(path, on=kernel.ATTR_RDONLY)


def _is_writable(path: str) -> bool:
    """Whether it could be changed, or created where it is missing."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _is_visible(path: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    empty = stat.S_ISCHR(found.st_mode) or (stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode))
    return not empty

"""The system calls that the sandbox needs and Python does not offer: one thin function each.

Importable everywhere; on anything but Linux on x86-64 or arm64 a call raises OSError (ENOSYS).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
import struct
import sys
from collections.abc import Iterable
from typing import Any

__all__ = [
    "call",
    "close_all_but",
    "keep_capabilities",
    "machine",
    "mount",
    "mount_link_onto_itself",
    "number_of",
    "pivot_root",
    "prctl",
    "set_mount_flags",
    "unmount",
    "unshare",
]

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MNT_DETACH = 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
_AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_RECURSIVE = -100, 0x100, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID = 0, 1, 3, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

# (x86-64, arm64); None: that machine has no such call. From asm/unistd_64.h and asm-generic/unistd.h.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "clone": (56, 220),
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "open_by_handle_at": (304, 265),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "creat": (85, None),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "file_setattr": (469, 469),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "inotify_add_watch": (254, 27),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "ioctl": (16, 29),
    "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "close_range": (436, 436),
    "truncate": (76, 45),
}


@functools.cache
def machine() -> str:
    """ "x86_64" or "aarch64"; raises OSError (ENOSYS) elsewhere."""
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    if sys.platform != "linux" or name not in ("x86_64", "aarch64") or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no kernel sandbox for {sys.platform} on {platform.machine()}")
    return name


def number_of(name: str) -> int | None:
    """The number of a system call on this machine."""
    return NUMBERS[name][0 if machine() == "x86_64" else 1]


@functools.cache
def _libc() -> ctypes.CDLL:
    machine()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    return libc


def call(name: str, *arguments: Any) -> int:
    """A system call by name; integers are passed as longs. Raises OSError that names the call."""
    number = number_of(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name}: {os.strerror(errno.ENOSYS)}")
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *longs), name)


def close_all_but(kept: Iterable[int]) -> None:
    """Closes every descriptor from 3 on that is not `kept`. Raises OSError."""
    first = 3
    for each in (*sorted(fd for fd in set(kept) if fd >= 3), None):
        last = 0xFFFFFFFF if each is None else each - 1
        if first <= last:
            call("close_range", first, last, 0)
        first = (each or 0) + 1


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); raises OSError."""
    result: int = _libc().prctl(option, *(*arguments, 0, 0, 0, 0)[:4])
    return result if result != -1 else _checked(result, f"prctl({option})")


def unshare(flags: int) -> None:
    """unshare(2): moves this process into new namespaces."""
    _checked(_libc().unshare(flags), "unshare")


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind)]
    result = _libc().mount(*encoded, ctypes.c_ulong(flags), os.fsencode(data) if data else None)
    _checked(result, f"mount {target}")


def set_mount_flags(path: str, *, on: int = 0, off: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2): read-only, nosuid and the like, of one mount or of all beneath it."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", on, off, 0, 0), 32)
    flags = _AT_RECURSIVE if recursive else 0
    call("mount_setattr", _AT_FDCWD, os.fsencode(path), flags, attributes, 32)


def mount_link_onto_itself(path: str) -> None:
    """Makes a symbolic link a mount point, so that it cannot be removed or renamed; it leads where it led."""
    flags = _OPEN_TREE_CLONE | _AT_SYMLINK_NOFOLLOW | os.O_CLOEXEC
    tree = call("open_tree", _AT_FDCWD, os.fsencode(path), flags)
    try:
        call("move_mount", tree, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def unmount(path: str) -> None:
    """umount2(2), detaching: what is open in it stays usable."""
    _checked(_libc().umount2(os.fsencode(path), MNT_DETACH), f"umount {path}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2): `new` becomes the root, the old root is seen at `old`."""
    call("pivot_root", os.fsencode(new), os.fsencode(old))


def keep_capabilities(kept: frozenset[int]) -> None:
    """Drops every capability that is not in `kept`, for this process and for whatever it will execute."""
    with_right_to_bound = _effective() >> 8 & 1  # CAP_SETPCAP
    prctl(PR_CAP_AMBIENT, 4)  # clear all
    if with_right_to_bound:  # otherwise no_new_privs keeps execve from giving them back
        _bound_capabilities(kept)
    mask = sum(1 << each for each in kept) & _effective()
    header = ctypes.create_string_buffer(struct.pack("II", _CAPABILITY_VERSION_3, 0), 8)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("IIIIII", low, low, 0, high, high, 0), 24)
    _checked(_libc().capset(header, data), "capset")
    if _effective() & ~mask:
        raise OSError(errno.EPERM, "capset left capabilities behind")


def _bound_capabilities(kept: frozenset[int]) -> None:
    for each in range(_LAST_CAPABILITY + 1):
        if each not in kept:
            try:
                prctl(PR_CAPBSET_DROP, each)
            except OSError as cause:
                if cause.errno != errno.EINVAL:
                    raise
                return  # past the last one that this kernel knows


def _effective() -> int:
    header = ctypes.create_string_buffer(struct.pack("II", _CAPABILITY_VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    _checked(_libc().capget(header, data), "capget")
    low, _, _, high, _, _ = struct.unpack("IIIIII", data.raw)
    return int(low | high << 32)


def _checked(result: int, what: str) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result

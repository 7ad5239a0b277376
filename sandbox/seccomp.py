"""seccomp: which system calls a process, and all that it starts, may make; a small assembler for its programs.

The kernel runs the program below at each system call; offsets are into `struct seccomp_data`:

    0 number   4 architecture   8 instruction pointer   16, 24, 32, ... the six arguments, low half first

Only numbers and flags can be looked at, never what a pointer points to. Three things are easily missed, and
each undoes the rest: io_uring makes sockets without socket(); one end of an AF_UNIX datagram pair can send to
any path; 32-bit and x32 calls have other numbers. See seccomp(2) and Documentation/userspace-api/seccomp_filter.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Iterable

from sage_actors.sandbox import kernel

__all__ = ["install", "program"]

_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32_BIT = 0x40000000
_SECCOMP_SET_MODE_FILTER = 1

_NAMESPACE_FLAGS = 0x7E020080
_MSG_FASTOPEN = 0x20000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPE_MASK = 1, 5, 0xF
_IPPROTO_TCP = 6
_SET_USER_ID = 0o4000
_O_CREAT, _O_TMPFILE = 0o100, 0o20000000

_Instruction = tuple[int, int, int, int]

_DENIED = (
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease", "kcmp"),
    *("pidfd_getfd", "perf_event_open", "userfaultfd", "bpf", "lookup_dcookie"),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot"),
    *("keyctl", "add_key", "request_key", "acct", "quotactl", "quotactl_fd", "swapon", "swapoff"),
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "unshare", "setns"),
    *("settimeofday", "clock_settime", "open_by_handle_at", "fanotify_init", "syslog", "vhangup"),
    *("iopl", "ioperm", "modify_ldt"),
)
# By path these change a file that Landlock does not let one open; by a descriptor, one that may only be read.
_METADATA = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
    *("utime", "utimes", "futimesat", "file_setattr"),
)
# Requests of ioctl that do so: FS_IOC_SETFLAGS (two forms), FSSETXATTR, SETVERSION, ENABLE_VERITY and
# SET_ENCRYPTION_POLICY, of linux/fs.h, fsverity.h and fscrypt.h.
_FILE_REQUESTS = (0x40086602, 0x40046602, 0x401C5820, 0x40087602, 0x40806685, 0x800C6613)
# Shared with everyone on the machine where there is no IPC namespace of our own.
_SHARED = (
    *("shmget", "shmat", "shmctl", "shmdt", "semget", "semop", "semctl", "semtimedop"),
    *("msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "inotify_add_watch"),
)
# Calls on another process, whose number is the first argument.
_ON_PROCESS = (
    *("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam"),
    *("sched_setattr", "migrate_pages", "move_pages"),
)
# The same with a kind before it, and the kind that means "all of this user".
_ON_PROCESSES = {"setpriority": 2, "ioprio_set": 3}


# Calls with the mode of a file, and which argument it is; some have it only with certain flags, the one before.
_WITH_MODE = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
_WITH_MODE_IF_NEW = {"open": 2, "openat": 3}


def program(*, sockets: bool, namespaces: bool, own_pids: bool) -> bytes:
    """A filter. sockets: TCP over IPv4 and IPv6 is allowed. namespaces: the mounts and IPC are our own, so changing
    files' metadata, SysV IPC and inotify reach nothing outside. own_pids: so are the process numbers."""
    machine = kernel.machine()
    of_processes = b"" if own_pids else _packed(_only_on_itself(os.getpid()))
    return (
        _before_processes(machine, namespaces) + of_processes + _after_processes(machine, namespaces, sockets)
    )


@functools.cache
def _before_processes(machine: str, namespaces: bool) -> bytes:
    code = _check_architecture(machine)
    code += _deny(_DENIED)
    if not namespaces:
        code += _deny(_METADATA) + _deny(_SHARED) + _only_now_on_open_file()
    return _packed(code)


@functools.cache
def _after_processes(_: str, namespaces: bool, sockets: bool) -> bytes:
    code = _no_new_namespaces() + _no_set_user_id()
    code += _no_requests((_TIOCSTI, _TIOCLINUX, *(() if namespaces else _FILE_REQUESTS)))
    code += _socket_pairs() + _no_fast_open() + _sockets(allowed=sockets)
    code.append((_RETURN, 0, 0, _ALLOW))
    return _packed(code)


def _packed(code: list[_Instruction]) -> bytes:
    return b"".join(struct.pack("HBBI", *each) for each in code)


def install(filter_: bytes) -> None:
    """Puts the filter on this thread and all that it starts, for good. no_new_privs must be set. Raises OSError."""
    code = ctypes.create_string_buffer(filter_, len(filter_))
    address = ctypes.cast(code, ctypes.c_void_p).value or 0
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(filter_) // 8, address), 16)
    kernel.call("seccomp", _SECCOMP_SET_MODE_FILTER, 0, header)


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index)


def _refuse(code: int = errno.EPERM) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


def _on(name: str, body: list[_Instruction]) -> list[_Instruction]:
    """`body` for that call only. It ends with an answer, as the number is no longer loaded after it."""
    number = kernel.number_of(name)
    return [] if number is None else [(_IF_EQUAL, 0, len(body), number), *body]


def _check_architecture(machine: str) -> list[_Instruction]:
    code = [
        (_LOAD, 0, 0, 4),
        (_IF_EQUAL, 1, 0, _ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),  # int 0x80: the numbers below would mean other calls
        (_LOAD, 0, 0, 0),
    ]
    if machine == "x86_64":
        code += [(_IF_AT_LEAST, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    return code


def _deny(names: Iterable[str]) -> list[_Instruction]:
    return [each for name in names for each in _on(name, [_refuse()])]


def _only_now_on_open_file() -> list[_Instruction]:
    """utimensat without a path and without times is what `touch` does with a file that it opened: allowed."""
    halves = [(_LOAD, 0, 0, 16 + 8 * index + half) for index in (1, 2) for half in (0, 4)]
    absent = [each for half in halves for each in (half, (_IF_EQUAL, 1, 0, 0), _refuse())]
    return _on("utimensat", [*absent, (_RETURN, 0, 0, _ALLOW)])


def _only_on_itself(pid: int) -> list[_Instruction]:
    own = [(_IF_EQUAL, 2, 0, 0), (_IF_EQUAL, 1, 0, pid), _refuse(), (_RETURN, 0, 0, _ALLOW)]
    code: list[_Instruction] = []
    for name in _ON_PROCESS:
        code += _on(name, [_argument(0), *own])
    for name, everyone in _ON_PROCESSES.items():
        code += _on(name, [_argument(0), (_IF_EQUAL, 3, 0, everyone), _argument(1), *own])
    return code


def _no_new_namespaces() -> list[_Instruction]:
    # clone3 has its flags in memory, out of sight: ENOSYS makes the C library use clone.
    code = _on("clone3", [_refuse(errno.ENOSYS)])
    flags = [_argument(0), (_IF_ANY_BIT, 0, 1, _NAMESPACE_FLAGS), _refuse(), (_RETURN, 0, 0, _ALLOW)]
    return code + _on("clone", flags)


def _no_set_user_id() -> list[_Instruction]:
    """Whoever else is on the machine could execute such a file in the project, as this user."""
    set_ = [(_IF_ANY_BIT, 0, 1, _SET_USER_ID), _refuse(), (_RETURN, 0, 0, _ALLOW)]
    code = _on("openat2", [_refuse(errno.ENOSYS)])  # its mode is out of sight; programs fall back on openat
    for name, index in _WITH_MODE.items():
        code += _on(name, [_argument(index), *set_])
    for name, index in _WITH_MODE_IF_NEW.items():
        new = [_argument(index - 1), (_IF_ANY_BIT, 0, 3, _O_CREAT | _O_TMPFILE)]
        code += _on(name, [*new, _argument(index), *set_])
    return code


def _no_requests(refused: Iterable[int]) -> list[_Instruction]:
    """ioctl without these: typing for others among them."""
    each_refused = [one for each in refused for one in ((_IF_EQUAL, 0, 1, each), _refuse())]
    return _on("ioctl", [_argument(1), *each_refused, (_RETURN, 0, 0, _ALLOW)])


def _socket_pairs() -> list[_Instruction]:
    kind = [_argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK), (_IF_EQUAL, 2, 0, _SOCK_STREAM)]
    body = [_argument(0), (_IF_EQUAL, 0, 4, _AF_UNIX), *kind, (_IF_EQUAL, 1, 0, _SOCK_SEQPACKET)]
    return _on("socketpair", [*body, _refuse(), (_RETURN, 0, 0, _ALLOW)])


def _no_fast_open() -> list[_Instruction]:
    """TCP Fast Open connects inside send."""
    code: list[_Instruction] = []
    for name, index in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        flags = [_argument(index), (_IF_ANY_BIT, 0, 1, _MSG_FASTOPEN), _refuse(), (_RETURN, 0, 0, _ALLOW)]
        code += _on(name, flags)
    return code


def _sockets(*, allowed: bool) -> list[_Instruction]:
    """TCP alone: no UDP, raw, MPTCP or SCTP, and no other family."""
    if not allowed:
        return _on("socket", [_refuse()])
    family = [_argument(0), (_IF_EQUAL, 1, 0, _AF_INET), (_IF_EQUAL, 0, 6, _AF_INET6)]
    kind = [_argument(1), (_AND, 0, 0, _SOCK_TYPE_MASK), (_IF_EQUAL, 0, 3, _SOCK_STREAM)]
    protocol = [_argument(2), (_IF_EQUAL, 2, 0, 0), (_IF_EQUAL, 1, 0, _IPPROTO_TCP)]
    return _on("socket", [*family, *kind, *protocol, _refuse(), (_RETURN, 0, 0, _ALLOW)])

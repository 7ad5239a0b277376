"""The filters, executed instruction by instruction for both machines; and the numbers that they are made of."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path

import pytest

from sage_actors.sandbox import kernel, seccomp

pytestmark = pytest.mark.requirement("ORCH-023")

ALLOW, KILL = "allow", "kill"
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)"),
    "aarch64": ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
}
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
STREAM, DGRAM, RAW, SEQPACKET, CLOEXEC = 1, 2, 3, 5, 0o2000000


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Filters are made for this machine, whichever this one is."""
    monkeypatch.setattr(kernel, "machine", lambda: request.param)
    return str(request.param)


def judge(program: bytes, number: int, *arguments: int, architecture: int) -> str | int:
    """What the kernel would answer: "allow", "kill" or an errno. Runs the program as the kernel does."""
    padded = [each & (1 << 64) - 1 for each in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code in (0x15, 0x35, 0x45):
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: accumulator & k}[code]
            at += if_true if holds else if_false
        else:
            assert code == 0x06, hex(code)
            if k == 0x7FFF0000:
                return ALLOW
            return KILL if k == 0x80000000 else k & 0xFFFF


class Filter:
    """One filter, asked by name."""

    def __init__(
        self, machine: str, *, sockets: bool = True, namespaces: bool = True, own_pids: bool = False
    ) -> None:
        self.machine = machine
        self.program = seccomp.program(sockets=sockets, namespaces=namespaces, own_pids=own_pids)

    def __call__(self, name: str, *arguments: int) -> str | int:
        number = kernel.number_of(name)
        assert number is not None, name
        return judge(self.program, number, *arguments, architecture=ARCHITECTURES[self.machine])


def test_tcp_alone_has_sockets(machine: str) -> None:
    asks = Filter(machine)
    for family in (AF_INET, AF_INET6):
        assert asks("socket", family, STREAM | CLOEXEC, 0) == ALLOW
        assert asks("socket", family, STREAM, 6) == ALLOW
        for kind, protocol in (
            (DGRAM, 0),
            (RAW, 1),
            (STREAM, 132),
            (STREAM, 262),
            (SEQPACKET, 0),
            (STREAM, 17),
        ):
            assert asks("socket", family, kind, protocol) == errno.EPERM
    for family in range(64):
        if family not in (AF_INET, AF_INET6):
            assert asks("socket", family, STREAM, 0) == errno.EPERM, family
    assert all(Filter(machine, sockets=False)("socket", each, STREAM, 0) == errno.EPERM for each in range(64))


def test_the_upper_half_of_an_argument_does_not_hide_its_lower_one(machine: str) -> None:
    asks = Filter(machine)
    assert asks("socket", AF_NETLINK | 1 << 32, STREAM, 0) == errno.EPERM
    assert asks("clone", 0x10000000 | 1 << 40) == errno.EPERM
    assert asks("ioctl", 0, 0x5412 | 1 << 32) == errno.EPERM


def test_socket_pairs_are_local_and_no_datagrams(machine: str) -> None:
    asks = Filter(machine, sockets=False)
    assert asks("socketpair", AF_UNIX, STREAM | CLOEXEC, 0) == ALLOW
    assert asks("socketpair", AF_UNIX, SEQPACKET, 0) == ALLOW
    assert asks("socketpair", AF_UNIX, DGRAM, 0) == errno.EPERM
    assert asks("socketpair", AF_INET, STREAM, 0) == errno.EPERM


def test_sending_never_connects(machine: str) -> None:
    asks = Filter(machine)
    for name, position in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        assert asks(name, *([0] * position), 0x4000) == ALLOW
        assert asks(name, *([0] * position), 0x20000000 | 0x4000) == errno.EPERM


def test_threads_and_forks_are_made_and_namespaces_are_not(machine: str) -> None:
    asks = Filter(machine)
    assert asks("clone", 0x3D0F00) == ALLOW  # of a thread
    assert asks("clone", 17) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert asks("clone", flag | 17) == errno.EPERM, hex(flag)
    assert asks("clone3") == errno.ENOSYS  # so that the C library falls back to clone
    assert asks("unshare") == asks("setns") == errno.EPERM


def test_other_processes_are_out_of_reach_by_number(machine: str) -> None:
    asks = Filter(machine)
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setattr", "migrate_pages"):
        assert asks(name, 0) == asks(name, os.getpid()) == ALLOW
        assert asks(name, 1) == asks(name, os.getppid()) == errno.EPERM
    assert asks("setpriority", 0, 0) == asks("setpriority", 1, 0) == ALLOW
    assert asks("setpriority", 0, 1) == asks("setpriority", 2, 0) == errno.EPERM  # 2: of this user, anywhere
    assert asks("ioprio_set", 1, 0) == ALLOW
    assert asks("ioprio_set", 3, 0) == errno.EPERM
    assert Filter(machine, own_pids=True)("prlimit64", 5) == ALLOW


def test_metadata_changes_by_open_file_alone_where_there_are_no_mounts_of_our_own(machine: str) -> None:
    inside, outside = Filter(machine), Filter(machine, namespaces=False)
    for name in (
        "fchmodat",
        "fchownat",
        "setxattr",
        "removexattr",
        "fchmodat2",
        "shmget",
        "inotify_add_watch",
    ):
        assert (inside(name), outside(name)) == (ALLOW, errno.EPERM)
    assert outside("utimensat", 3, 0) == ALLOW
    assert outside("utimensat", 3, 0xDEADBEEF) == outside("utimensat", 3, 1 << 32) == errno.EPERM
    assert inside("utimensat", 3, 0xDEADBEEF) == ALLOW


def test_calls_with_other_numbers_are_not_made(machine: str) -> None:
    program = Filter(machine).program
    own = ARCHITECTURES.pop(machine)
    try:
        for foreign in (*ARCHITECTURES.values(), 0x40000003, 0):
            assert judge(program, 0, architecture=foreign) == KILL
    finally:
        ARCHITECTURES[machine] = own
    if machine == "x86_64":
        assert judge(program, 0x40000000 | 41, architecture=own) == errno.ENOSYS


def test_what_no_operation_needs_is_denied_and_the_rest_is_not(machine: str) -> None:
    asks = Filter(machine)
    for name in (
        "io_uring_setup",
        "ptrace",
        "process_vm_readv",
        "mount",
        "bpf",
        "keyctl",
        "open_by_handle_at",
    ):
        assert asks(name) == errno.EPERM
    for name in ("seccomp", "landlock_restrict_self", "close_range", "truncate"):
        assert asks(name) == ALLOW


def test_a_filter_fits_into_the_kernel(machine: str) -> None:
    assert len(Filter(machine, namespaces=False).program) // 8 < 4096


@pytest.mark.parametrize("machine_name", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(machine_name: str) -> None:
    path, pattern = HEADERS[machine_name]
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed")
    official = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    ours = {name: numbers[machine_name == "aarch64"] for name, numbers in kernel.NUMBERS.items()}
    known = {name: number for name, number in ours.items() if name in official}
    assert known == {name: official[name] for name in known}
    missing = {name for name, number in ours.items() if number is None}
    assert not missing & set(official)
    assert len(known) > 80

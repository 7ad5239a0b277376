"""What a hostile operation would try: each function raises when it is stopped, and returns when it got what it wanted.

They run inside a confined process (see `sandbox_harness`), so everything that they need is imported before.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import itertools
import json
import mmap
import multiprocessing
import multiprocessing.pool
import multiprocessing.popen_fork
import multiprocessing.queues
import multiprocessing.synchronize
import os
import platform
import resource
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"


@dataclass
class Scene:
    """A project, a directory outside of it, and who else is on the machine."""

    project: str
    outside: str
    python: str
    victim: int = 0
    victim_address: int = 0
    shm_key: int = 0
    shm_file: str = ""
    queue: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    unix: str = ""
    abstract: str = ""
    directory_fd: int = -1
    file_fd: int = -1


Attack = Callable[[Scene], object]
FILES: dict[str, Attack] = {}
PROCESSES: dict[str, Attack] = {}
NETWORK: dict[str, Attack] = {}
LEGITIMATE: dict[str, Attack] = {}


class NoEffect(Exception):
    """It could be tried, and nothing came of it."""


def _in(table: dict[str, Attack]) -> Callable[[Attack], Attack]:
    def add(function: Attack) -> Attack:
        table[function.__name__] = function
        return function

    return add


def need(effect: object) -> None:
    if not effect:
        raise NoEffect


def text(path: str) -> str:
    with open(path) as file:
        return file.read()


def put(path: str, content: str = "x", mode: str = "w") -> None:
    with open(path, mode) as file:
        file.write(content)


def output(*argv: str, **kwargs: object) -> bytes:
    done = subprocess.run(argv, capture_output=True, timeout=20, **kwargs)  # type: ignore[call-overload]
    need(done.returncode == 0)
    return bytes(done.stdout)


def raw(number: int, *arguments: object) -> int:
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *longs))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"syscall {number}")
    return result


# What must go on working


@_in(LEGITIMATE)
def writes_in_the_project(s: Scene) -> None:
    put(s.project + "/sub/new")
    need(text(s.project + "/sub/new") == "x")
    os.rename(s.project + "/sub/new", s.project + "/sub/newer")
    os.unlink(s.project + "/sub/newer")


@_in(LEGITIMATE)
def writes_beside_protected_paths(s: Scene) -> None:
    put(s.project + "/top")
    os.unlink(s.project + "/top")


@_in(LEGITIMATE)
def writes_where_a_protected_tree_is_reopened(s: Scene) -> None:
    put(s.project + "/.sage/artifacts/a")
    os.unlink(s.project + "/.sage/artifacts/a")


@_in(LEGITIMATE)
def reads_what_is_protected(s: Scene) -> None:
    need(text(s.project + "/.git/config") and text(s.project + "/.sage/state"))


@_in(LEGITIMATE)
def starts_a_shell(s: Scene) -> None:
    need(output("/bin/sh", "-c", "echo hi > f2 && cat f2 && rm f2", cwd=s.project + "/sub") == b"hi\n")


@_in(LEGITIMATE)
def changes_metadata_in_the_project(s: Scene) -> None:
    os.chmod(s.project + "/sub/f", 0o640)
    os.utime(s.project + "/sub/f", (1, 1))
    shutil.copy2(s.project + "/sub/f", s.project + "/sub/f3")
    os.unlink(s.project + "/sub/f3")


@_in(LEGITIMATE)
def makes_a_socket_pair(s: Scene) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        one.send(b"x")
        need(other.recv(1) == b"x")


@_in(LEGITIMATE)
def runs_an_event_loop(s: Scene) -> None:
    asyncio.run(asyncio.sleep(0))


@_in(LEGITIMATE)
def uses_a_pool_of_processes(s: Scene) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        need(pool.map(abs, [-1, 2]) == [1, 2])


@_in(LEGITIMATE)
def makes_a_tls_context(s: Scene) -> None:
    need(ssl.create_default_context().cert_store_stats()["x509_ca"])


@_in(LEGITIMATE)
def opens_a_terminal(s: Scene) -> None:
    controller, terminal = os.openpty()
    need(termios.tcgetattr(terminal))
    os.write(controller, b"x\n")
    need(os.read(terminal, 2) == b"x\n")


@_in(LEGITIMATE)
def uses_temporary_files(s: Scene) -> None:
    put("/tmp/mine")
    os.unlink("/tmp/mine")


@_in(LEGITIMATE)
def looks_at_its_own_limits(s: Scene) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(0)


# Files outside


@_in(FILES)
def read(s: Scene) -> None:
    need(text(s.outside + "/secret"))


@_in(FILES)
def read_with_dots(s: Scene) -> None:
    need(text(s.project + "/sub/../../out/secret"))


@_in(FILES)
def read_after_chdir(s: Scene) -> None:
    os.chdir(s.outside)
    need(text("secret"))


@_in(FILES)
def read_through_a_link(s: Scene) -> None:
    need(text(s.project + "/sub/link"))


@_in(FILES)
def read_through_a_linked_directory(s: Scene) -> None:
    need(text(s.project + "/sub/linked/secret"))


@_in(FILES)
def read_through_a_new_link(s: Scene) -> None:
    link = f"{s.project}/sub/new{os.getpid()}"
    os.symlink(s.outside + "/secret", link)
    try:
        need(text(link))
    finally:
        os.unlink(link)


@_in(FILES)
def write_through_a_dangling_link(s: Scene) -> None:
    put(s.project + "/sub/dangling")


@_in(FILES)
def read_through_own_proc_root(s: Scene) -> None:
    need(text("/proc/self/root" + s.outside + "/secret"))


@_in(FILES)
def read_through_own_proc_cwd(s: Scene) -> None:
    os.chdir(s.project)
    need(text("/proc/self/cwd/../out/secret"))


@_in(FILES)
def read_through_root_of_another(s: Scene) -> None:
    need(text(f"/proc/{s.victim}/root{s.outside}/secret"))


@_in(FILES)
def list_a_directory(s: Scene) -> None:
    need(os.listdir(s.outside))


@_in(FILES)
def list_homes(s: Scene) -> None:
    os.listdir("/home")


@_in(FILES)
def read_a_file_of_the_system(s: Scene) -> None:
    need(text("/etc/fstab"))


@_in(FILES)
def write(s: Scene) -> None:
    put(s.outside + "/victim", "attacked")


@_in(FILES)
def append(s: Scene) -> None:
    put(s.outside + "/victim", "attacked", "a")


@_in(FILES)
def create(s: Scene) -> None:
    put(s.outside + "/created")


@_in(FILES)
def truncate_by_path(s: Scene) -> None:
    os.truncate(s.outside + "/victim", 0)


@_in(FILES)
def unlink(s: Scene) -> None:
    os.unlink(s.outside + "/victim")


@_in(FILES)
def mkdir(s: Scene) -> None:
    os.mkdir(s.outside + "/made")


@_in(FILES)
def rmdir(s: Scene) -> None:
    os.rmdir(s.outside + "/d")


@_in(FILES)
def hard_link_in(s: Scene) -> None:
    os.link(s.outside + "/secret", s.project + "/sub/hard")


@_in(FILES)
def hard_link_out(s: Scene) -> None:
    os.link(s.project + "/sub/f", s.outside + "/hard")


@_in(FILES)
def rename_in(s: Scene) -> None:
    os.rename(s.outside + "/moved", s.project + "/sub/moved")


@_in(FILES)
def rename_out(s: Scene) -> None:
    os.rename(s.project + "/sub/f", s.outside + "/f")


@_in(FILES)
def symlink_out(s: Scene) -> None:
    os.symlink("/etc/passwd", s.outside + "/symlink")


@_in(FILES)
def read_by_a_program(s: Scene) -> None:
    need(output("/bin/cat", s.outside + "/secret"))


@_in(FILES)
def write_by_a_shell(s: Scene) -> None:
    output("/bin/sh", "-c", f"echo x > {s.outside}/by_shell")


@_in(FILES)
def read_by_a_grandchild(s: Scene) -> None:
    code = f"import subprocess;print(subprocess.run(['cat','{s.outside}/secret'],capture_output=True).stdout)"
    need(b"TOP" in output(s.python, "-c", code))


@_in(FILES)
def open_by_the_c_library(s: Scene) -> None:
    if libc.open(os.fsencode(s.outside) + b"/secret", 0) < 0:
        raise OSError(ctypes.get_errno(), "open")


@_in(FILES)
def openat2(s: Scene) -> None:
    how = ctypes.create_string_buffer(struct.pack("QQQ", 0, 0, 0), 24)
    raw(437, -100, os.fsencode(s.outside) + b"/secret", how, 24)


@_in(FILES)
def sqlite_read(s: Scene) -> None:
    with sqlite3.connect(f"file:{s.outside}/x.db?mode=ro", uri=True) as database:
        need(database.execute("select * from sqlite_master").fetchall())


@_in(FILES)
def sqlite_attach(s: Scene) -> None:
    with sqlite3.connect(":memory:") as database:
        database.execute(f"attach '{s.outside}/x.db' as other")
        database.execute("insert into other.t values(1)")


@_in(FILES)
def execute_a_program_outside(s: Scene) -> None:
    output(s.outside + "/program")


@_in(FILES)
def execute_from_memory(s: Scene) -> None:
    program = os.memfd_create("x")
    with open("/bin/echo", "rb") as source:
        os.write(program, source.read())
    need(output(f"/proc/self/fd/{program}", "hi", pass_fds=[program]))


@_in(FILES)
def use_an_inherited_directory(s: Scene) -> None:
    need(os.read(os.open("secret", os.O_RDONLY, dir_fd=s.directory_fd), 9))


@_in(FILES)
def use_an_inherited_file(s: Scene) -> None:
    need(os.pread(s.file_fd, 9, 0))


@_in(FILES)
def chmod_outside(s: Scene) -> None:
    os.chmod(s.outside + "/metadata", 0o777)


@_in(FILES)
def chmod_through_a_link(s: Scene) -> None:
    os.chmod(s.project + "/sub/link", 0o777)


@_in(FILES)
def chmod_a_link_that_turns(s: Scene) -> None:
    """Whoever looks first and acts then is led to what is protected, or outside."""
    link, prey = s.project + "/sub/turning", (s.project + "/.git/config", s.outside + "/metadata")
    modes = [_mode(each) for each in prey]
    over, turns = threading.Event(), [0]

    def turn() -> None:
        for target in itertools.cycle((s.project + "/sub/f", *prey)):
            os.symlink(target, link + ".next")
            os.rename(link + ".next", link)
            turns[0] += 1
            if over.is_set():
                return

    os.symlink(s.project + "/sub/f", link)
    turner = threading.Thread(target=turn)
    turner.start()
    refused: OSError | None = None
    tries = 0
    while tries < 2000 or (turns[0] < 50 and turner.is_alive()):  # the other thread has its turns, too
        tries += 1
        try:
            os.chmod(link, 0o606)
        except OSError as error:
            refused = error
        if [_mode(each) for each in prey] != modes:
            break
    over.set()
    turner.join()
    os.unlink(link)
    if [_mode(each) for each in prey] == modes:
        raise refused or NoEffect


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return -1


@_in(FILES)
def chmod_what_is_protected(s: Scene) -> None:
    os.chmod(s.project + "/.git/config", 0o666)


@_in(FILES)
def chown_outside(s: Scene) -> None:
    os.chown(s.outside + "/metadata", os.getuid(), os.getgid())


@_in(FILES)
def utime_outside(s: Scene) -> None:
    os.utime(s.outside + "/metadata", (1, 1))


@_in(FILES)
def setxattr_outside(s: Scene) -> None:
    os.setxattr(s.outside + "/metadata", "user.x", b"1")


@_in(FILES)
def chmod_by_a_descriptor_without_rights(s: Scene) -> None:
    opened = os.open(s.outside + "/metadata", os.O_PATH)
    os.chmod(f"/proc/self/fd/{opened}", 0o777)


def _set_user_id(path: str) -> None:
    try:
        need(os.stat(path).st_mode & 0o4000)
    finally:
        os.unlink(path)


@_in(FILES)
def set_user_id_of_a_program_in_the_project(s: Scene) -> None:
    path = s.project + "/sub/program"
    shutil.copyfile("/bin/true", path)
    try:
        os.chmod(path, 0o4755)
    finally:
        _set_user_id(path)


@_in(FILES)
def make_a_program_with_set_user_id(s: Scene) -> None:
    path = s.project + "/sub/made"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    _set_user_id(path)


@_in(FILES)
def chmod_what_may_only_be_read(s: Scene) -> None:
    with open(s.project + "/.git/config") as opened:
        os.fchmod(opened.fileno(), 0o777)


@_in(FILES)
def chown_what_may_only_be_read(s: Scene) -> None:
    with open(s.project + "/.git/config") as opened:
        os.fchown(opened.fileno(), os.geteuid(), os.getegid())


@_in(FILES)
def turn_back_the_time_of_what_may_only_be_read(s: Scene) -> None:
    with open(s.project + "/.git/config") as opened:
        os.utime(opened.fileno(), (1, 1))


@_in(FILES)
def set_flags_of_what_may_only_be_read(s: Scene) -> None:
    with open(s.project + "/.git/config") as opened:
        flags = bytearray(8)
        fcntl.ioctl(opened, 0x80086601, flags)  # FS_IOC_GETFLAGS
        fcntl.ioctl(opened, 0x40086602, bytes(flags))


@_in(FILES)
def stat_outside(s: Scene) -> None:
    need(os.stat(s.outside + "/secret").st_size)


@_in(FILES)
def watch_outside(s: Scene) -> None:
    watch = libc.inotify_init1(0)
    if libc.inotify_add_watch(watch, os.fsencode(s.outside), 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")


@_in(FILES)
def write_a_startup_file_of_python(s: Scene) -> None:
    put(os.path.dirname(os.__file__) + "/evil.pth")


@_in(FILES)
def make_a_device(s: Scene) -> None:
    os.mknod(s.project + "/sub/null", 0o020666, os.makedev(1, 3))


@_in(FILES)
def write_a_kernel_setting(s: Scene) -> None:
    value = text("/proc/sys/kernel/core_pattern")
    put("/proc/sys/kernel/core_pattern", value)


# Protected and hidden paths


@_in(FILES)
def write_a_protected_file(s: Scene) -> None:
    put(s.project + "/.git/config", "[core]\nhooksPath=/tmp", "a")


@_in(FILES)
def replace_a_protected_file(s: Scene) -> None:
    put(s.project + "/sub/config")
    os.rename(s.project + "/sub/config", s.project + "/.git/config")


@_in(FILES)
def write_through_a_hard_link_to_a_protected_file(s: Scene) -> None:
    os.link(s.project + "/.git/config", s.project + "/sub/hard")
    put(s.project + "/sub/hard")


@_in(FILES)
def write_into_a_protected_directory(s: Scene) -> None:
    put(s.project + "/.git/hooks/pre-commit")


@_in(FILES)
def write_into_a_protected_state(s: Scene) -> None:
    put(s.project + "/.sage/state")


@_in(FILES)
def move_the_parent_of_a_protected_path(s: Scene) -> None:
    os.rename(s.project + "/.git", s.project + "/sub/git")


@_in(FILES)
def move_an_ancestor_of_a_protected_path(s: Scene) -> None:
    os.rename(s.project + "/deep", s.project + "/sub/deep")


@_in(FILES)
def remove_a_protected_directory(s: Scene) -> None:
    shutil.rmtree(s.project + "/.git/hooks")


@_in(FILES)
def create_a_protected_path(s: Scene) -> None:
    put(s.project + "/.mcp.json")


@_in(FILES)
def create_inside_a_missing_protected_directory(s: Scene) -> None:
    os.makedirs(s.project + "/.claude/commands")
    put(s.project + "/.claude/commands/x.md")


@_in(FILES)
def move_something_over_a_missing_protected_path(s: Scene) -> None:
    os.mkdir(s.project + "/sub/own")
    try:
        os.rename(s.project + "/sub/own", s.project + "/.claude")
    finally:
        shutil.rmtree(s.project + "/sub/own", ignore_errors=True)


@_in(FILES)
def replace_a_protected_link(s: Scene) -> None:
    os.unlink(s.project + "/.venv")


@_in(FILES)
def write_through_a_protected_link(s: Scene) -> None:
    put(s.project + "/.venv/bin/python")


@_in(FILES)
def read_a_hidden_file(s: Scene) -> None:
    need(text(s.project + "/.env"))


@_in(FILES)
def read_in_a_hidden_directory(s: Scene) -> None:
    need(text(s.project + "/private/key"))


@_in(FILES)
def move_a_hidden_file(s: Scene) -> None:
    os.rename(s.project + "/.env", s.project + "/sub/env")


# Other processes, and the kernel


@_in(PROCESSES)
def read_variables_of_another(s: Scene) -> None:
    with open(f"/proc/{s.victim}/environ", "rb") as file:
        need(b"SAGE_KEY" in file.read())


@_in(PROCESSES)
def read_memory_of_another(s: Scene) -> None:
    with open(f"/proc/{s.victim}/mem", "rb") as file:
        file.seek(s.victim_address)
        need(file.read(8))


@_in(PROCESSES)
def ptrace(s: Scene) -> None:
    if libc.ptrace(16, s.victim, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(s.victim, 0)
    libc.ptrace(17, s.victim, None, None)


@_in(PROCESSES)
def process_vm_readv(s: Scene) -> None:
    buffer = ctypes.create_string_buffer(16)
    local = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 16), 16)
    remote = ctypes.create_string_buffer(struct.pack("QQ", s.victim_address, 16), 16)
    raw(310 if X86 else 270, s.victim, local, 1, remote, 1, 0)


@_in(PROCESSES)
def signal_another(s: Scene) -> None:
    os.kill(s.victim, signal.SIGUSR1)


@_in(PROCESSES)
def limit_another(s: Scene) -> None:
    resource.prlimit(s.victim, resource.RLIMIT_NOFILE, (64, 64))


@_in(PROCESSES)
def renice_another(s: Scene) -> None:
    os.setpriority(os.PRIO_PROCESS, s.victim, 19)


@_in(PROCESSES)
def pin_another(s: Scene) -> None:
    os.sched_setaffinity(s.victim, {0})


@_in(PROCESSES)
def raise_the_core_limit(s: Scene) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    need(resource.getrlimit(resource.RLIMIT_CORE)[0])


@_in(PROCESSES)
def attach_shared_memory(s: Scene) -> None:
    raw(29 if X86 else 194, s.shm_key, 64, 0)


@_in(PROCESSES)
def open_semaphores_of_another(s: Scene) -> None:
    raw(64 if X86 else 190, s.shm_key, 1, 0)


@_in(PROCESSES)
def open_messages_of_another(s: Scene) -> None:
    raw(68 if X86 else 186, s.shm_key, 0)


@_in(PROCESSES)
def open_a_message_queue_of_another(s: Scene) -> None:
    os.close(raw(240 if X86 else 180, s.queue.encode(), os.O_RDONLY, 0, None))


@_in(PROCESSES)
def open_shared_memory_of_another(s: Scene) -> None:
    need(text(s.shm_file))


@_in(PROCESSES)
def mount_a_directory(s: Scene) -> None:
    raw(165 if X86 else 40, os.fsencode(s.outside), os.fsencode(s.project) + b"/sub", None, 4096, None)
    libc.umount2(os.fsencode(s.project) + b"/sub", 2)


@_in(PROCESSES)
def new_user_namespace(s: Scene) -> None:
    raw(272 if X86 else 97, 0x10000000 | 0x20000)


@_in(PROCESSES)
def new_user_namespace_by_clone(s: Scene) -> None:
    child = raw(56 if X86 else 220, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@_in(PROCESSES)
def new_user_namespace_by_a_program(s: Scene) -> None:
    output("unshare", "-r", "true")


@_in(PROCESSES)
def chroot(s: Scene) -> None:
    os.chroot(s.outside)
    need(text("/secret"))


@_in(PROCESSES)
def open_by_handle(s: Scene) -> None:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128), 136)
    mount_id = ctypes.c_int()
    path = os.fsencode(s.outside) + b"/secret"
    raw(303 if X86 else 264, -100, path, handle, ctypes.byref(mount_id), 0)
    opened = raw(304 if X86 else 265, os.open(s.project, os.O_RDONLY), handle, os.O_RDONLY)
    need(os.read(opened, 9))


@_in(PROCESSES)
def type_into_a_terminal(s: Scene) -> None:
    _, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSTI, b"x")


@_in(PROCESSES)
def enter_another_network(s: Scene) -> None:
    if libc.setns(os.open(f"/proc/{s.victim}/ns/net", os.O_RDONLY), 0) < 0:
        raise OSError(ctypes.get_errno(), "setns")


@_in(PROCESSES)
def steal_a_descriptor(s: Scene) -> None:
    raw(438, os.pidfd_open(s.victim), 0, 0)


@_in(PROCESSES)
def io_uring(s: Scene) -> None:
    os.close(raw(425, 4, ctypes.create_string_buffer(120)))


@_in(PROCESSES)
def call_with_32_bit_numbers(s: Scene) -> None:
    """getpid by int 0x80, where seccomp would see the number of another call."""
    need(X86)
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    need(ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0)


@_in(PROCESSES)
def call_with_x32_numbers(s: Scene) -> None:
    need(X86)
    raw(0x40000000 | 39)


# The network


def connect(
    address: object, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
) -> None:
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(3)
        sock.connect(address)  # type: ignore[arg-type]


@_in(NETWORK)
def tcp(s: Scene) -> None:
    connect(("127.0.0.1", s.ports["tcp"]))


@_in(NETWORK)
def tcp_to_an_address_of_the_machine(s: Scene) -> None:
    connect(("127.0.0.2", s.ports["tcp"]))


@_in(NETWORK)
def tcp_v6(s: Scene) -> None:
    connect(("::1", s.ports["tcp6"]), socket.AF_INET6)


@_in(NETWORK)
def tcp_v4_mapped(s: Scene) -> None:
    connect(("::ffff:127.0.0.1", s.ports["tcp"]), socket.AF_INET6)


@_in(NETWORK)
def fast_open_by_sendto(s: Scene) -> None:
    with socket.socket() as sock:
        sock.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", s.ports["tcp"]))


@_in(NETWORK)
def fast_open_by_sendmsg(s: Scene) -> None:
    with socket.socket() as sock:
        sock.sendmsg([b"x"], [], socket.MSG_FASTOPEN, ("127.0.0.1", s.ports["tcp"]))


@_in(NETWORK)
def fast_open_by_option(s: Scene) -> None:
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, 30, 1)
        sock.connect(("127.0.0.1", s.ports["tcp"]))
        need(sock.send(b"x"))


@_in(NETWORK)
def multipath_tcp(s: Scene) -> None:
    connect(("127.0.0.1", s.ports["tcp"]), protocol=262)


@_in(NETWORK)
def sctp(s: Scene) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()


@_in(NETWORK)
def udp(s: Scene) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", s.ports["udp"]))


@_in(NETWORK)
def udp_v6(s: Scene) -> None:
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()


@_in(NETWORK)
def raw_ip(s: Scene) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()


@_in(NETWORK)
def packet(s: Scene) -> None:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()


@_in(NETWORK)
def vsock(s: Scene) -> None:
    socket.socket(40, socket.SOCK_STREAM).close()


@_in(NETWORK)
def netlink(s: Scene) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


@_in(NETWORK)
def kernel_crypto(s: Scene) -> None:
    socket.socket(38, socket.SOCK_SEQPACKET).close()


@_in(NETWORK)
def unix_path(s: Scene) -> None:
    connect(s.unix, socket.AF_UNIX)


@_in(NETWORK)
def unix_abstract(s: Scene) -> None:
    connect(s.abstract, socket.AF_UNIX)


@_in(NETWORK)
def unix_by_a_datagram_pair(s: Scene) -> None:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.sendto(b"x", s.unix + ".datagram")


@_in(NETWORK)
def bash_device(s: Scene) -> None:
    output("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{s.ports['tcp']}")


@_in(NETWORK)
def curl(s: Scene) -> None:
    _curl("--noproxy", "*", f"http://127.0.0.1:{s.ports['tcp']}/")


@_in(NETWORK)
def curl_to_a_unix_socket(s: Scene) -> None:
    _curl("--unix-socket", s.unix, "http://x/")


def _curl(*arguments: str) -> None:
    """Connected, and waiting for the answer (28), is enough."""
    done = subprocess.run(["curl", "-s", "-m", "0.3", *arguments], capture_output=True, timeout=20)
    need(done.returncode in (0, 28, 52))


def attempt(attack: Attack, scene: Scene) -> str:
    """ "ALLOWED", or how it was stopped: an errno, a signal, "no-effect" or an error. In a child of its own."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        signal.alarm(20)
        os.write(write_end, _outcome(attack, scene).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as answers:
        said = answers.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said or (signal.Signals(-code).name if code < 0 else f"exit {code}")


def _outcome(attack: Attack, scene: Scene) -> str:
    try:
        attack(scene)
    except NoEffect:
        return "no-effect"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorname", "sqlite")
    except Exception as error:  # noqa: BLE001 - whatever it was, it was stopped
        return type(error).__name__
    return "ALLOWED"


def attempt_all(scene: Scene) -> dict[str, str]:
    """Every attack and every legitimate act, one after the other."""
    tables = (LEGITIMATE, FILES, PROCESSES, NETWORK)
    return {name: attempt(each, scene) for table in tables for name, each in table.items()}


def as_json(results: dict[str, str]) -> bytes:
    return json.dumps(results).encode()

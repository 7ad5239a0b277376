"""A scene for attacks, and a process confined in it that tries them all: as this user or another, in each tier."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import sandbox_attacks
from sandbox_attacks import Scene

from sage_actors.sandbox import landlock
from sage_actors.sandbox.confine import confine
from sage_actors.sandbox.namespaces import enter_pid_namespace, enter_root
from sage_actors.sandbox.profile import Layout, Profile, system_paths

_VICTIM = """
import ctypes, os, signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
secret = ctypes.create_string_buffer(b"KEYMATERIAL12345")
print(ctypes.addressof(secret), flush=True)
signal.pause()
while True: signal.pause()
"""


def users() -> list[int]:
    """Who can be tried here: root and an ordinary user, or only oneself."""
    return [0, 1000] if os.geteuid() == 0 and python_of(1000) else [os.geteuid()]


def python_of(uid: int) -> str:
    """An interpreter that this user may execute; empty if there is none."""
    if uid == os.geteuid():
        return sys.executable
    found = (each for each in (sys.executable, "/usr/bin/python3") if _is_for_everyone(each))
    return next(found, "")


def _is_for_everyone(program: str) -> bool:
    if not os.path.exists(program):
        return False
    path = Path(os.path.realpath(program))
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def become(uid: int) -> None:
    """This process goes on as that user, without any right of the one before."""
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # a process that was started as that user would be dumpable


def profile_of(scene: Scene, *, network: bool = True) -> Profile:
    """The project's profile: everything that is protected by default, and more."""
    project = scene.project
    return Profile(
        name="project",
        read=system_paths(),
        write=(project,),
        protected=tuple(
            f"{project}/{each}"
            for each in (
                ".git/hooks",
                ".git/config",
                ".sage",
                ".mcp.json",
                ".claude",
                ".venv",
                "deep/a/state",
            )
        ),
        hidden=(f"{project}/.env", f"{project}/private"),
        reopened=(f"{project}/.sage/artifacts",),
        network=network,
    )


@contextlib.contextmanager
def scene_for(uid: int) -> Iterator[Scene]:
    """Files, sockets and a process of that user. The project lies below /tmp, which is private inside."""
    base = tempfile.mkdtemp(dir="/tmp", prefix="sage-sandbox-")
    os.chmod(base, 0o755)
    scene = Scene(
        project=f"{base}/proj", outside=f"{base}/out", python=python_of(uid), shm_key=0x5A000000 + os.getpid()
    )
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        build(scene, uid)
        _listen(scene, base, stack)
        _start_victim(scene, uid, stack)
        _share_memory(scene, uid, stack)
        yield scene


def build(scene: Scene, uid: int) -> None:
    """The files, as at first."""
    project, outside = Path(scene.project), Path(scene.outside)
    for root in (project, outside):
        shutil.rmtree(root, ignore_errors=True)
    for folder in ("sub", ".git/hooks", ".sage/artifacts", "deep/a/state", "deep/venv/bin", "private"):
        (project / folder).mkdir(parents=True)
    (outside / "d").mkdir(parents=True)
    for name in ("secret", "victim", "metadata", "moved"):
        (outside / name).write_text("TOPSECRET")
    shutil.copy("/bin/true", outside / "program")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table t(a)")
        (outside / "x.db").write_bytes(database.serialize())
    for name in ("sub/f", ".git/config", ".sage/state", "private/key", ".env", "deep/venv/bin/python"):
        (project / name).write_text("mine")
    (project / "sub/link").symlink_to(outside / "secret")
    (project / "sub/linked").symlink_to(outside)
    (project / "sub/dangling").symlink_to(outside / "dangling")
    (project / ".venv").symlink_to("deep/venv")
    for path in (project, outside, *project.rglob("*"), *outside.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def snapshot(scene: Scene) -> dict[str, tuple[object, ...]]:
    """All that may not change: names, content, mode, owner and time of what is outside."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(Path(scene.outside).rglob("*")):
        state = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (content, state.st_mode, state.st_uid, state.st_mtime_ns)
    return found


def enter(
    scene: Scene, tier: str, *, alone: bool = False, network: bool = True, keep: tuple[int, ...] = ()
) -> None:
    """Confines this process as a worker is."""
    profile = profile_of(scene, network=network)
    if tier == "namespaces":
        enter_root(Layout.of(profile), proxy_port=0)
        if alone:
            enter_pid_namespace()
    confine(profile, tier, keep_fds=keep, alone=alone and tier == "namespaces")


def attempt_confined(
    scene: Scene, uid: int, tier: str, *, alone: bool = False, landlock_version: int | None = None
) -> dict[str, str]:
    """The results of all attacks from inside, where the kernel has at most that version of Landlock."""

    def inside(answer: int) -> bytes:
        scene.directory_fd = os.open(scene.outside, os.O_RDONLY | os.O_DIRECTORY)
        scene.file_fd = os.open(scene.outside + "/secret", os.O_RDONLY)
        become(uid)
        if landlock_version is not None:
            landlock.abi = lambda: landlock_version
        enter(scene, tier, alone=alone, keep=(answer,))
        return sandbox_attacks.as_json(sandbox_attacks.attempt_all(scene))

    return dict(json.loads(run(inside)))


def attempt_unconfined(scene: Scene, uid: int) -> dict[str, str]:
    """The results of all attacks from outside, each on a fresh scene: to know that an attack is one."""

    def inside(attack: sandbox_attacks.Attack) -> Callable[[int], bytes]:
        def attempt(_: int) -> bytes:
            scene.directory_fd = os.open(scene.outside, os.O_RDONLY | os.O_DIRECTORY)
            scene.file_fd = os.open(scene.outside + "/secret", os.O_RDONLY)
            become(uid)
            return sandbox_attacks.attempt(attack, scene).encode()

        return attempt

    results = {}
    for table in (sandbox_attacks.FILES, sandbox_attacks.PROCESSES, sandbox_attacks.NETWORK):
        for name, attack in table.items():
            results[name] = run(inside(attack)).decode()
            if table is sandbox_attacks.FILES:
                build(scene, uid)
    return results


def run(inside: Callable[[int], bytes]) -> bytes:
    """What `inside(descriptor of the answer)` returns in a forked child; raises AssertionError with its error."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            os.setsid()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(100)
            answer = inside(write)
            signal.alarm(0)
            _write_all(write, b"=" + answer)
            code = 0
        except BaseException as error:  # noqa: BLE001 - the border of the child
            _write_all(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as answers:
        said = answers.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert said.startswith(b"="), f"the child ended with {code}: {said.decode()}"
    return said[1:]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _listen(scene: Scene, base: str, stack: contextlib.ExitStack) -> None:
    tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=128))
    tcp6 = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=128))
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    scene.ports = {name: each.getsockname()[1] for name, each in (("tcp", tcp), ("tcp6", tcp6), ("udp", udp))}
    scene.unix, scene.abstract = f"{base}/docker.sock", f"\0{base}"
    for address, kind in (
        (scene.unix, socket.SOCK_STREAM),
        (scene.abstract, socket.SOCK_STREAM),
        (scene.unix + ".datagram", socket.SOCK_DGRAM),
    ):
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        if not address.startswith("\0"):
            os.chmod(address, 0o777)


def _start_victim(scene: Scene, uid: int, stack: contextlib.ExitStack) -> None:
    victim = subprocess.Popen(
        [scene.python, "-c", _VICTIM],
        env={"SAGE_KEY": "hunter2"},
        stdout=subprocess.PIPE,
        user=uid if uid != os.geteuid() else None,
        group=uid if uid != os.geteuid() else None,
    )
    stack.callback(victim.wait)
    stack.callback(victim.kill)
    assert victim.stdout is not None
    stack.callback(victim.stdout.close)
    scene.victim, scene.victim_address = victim.pid, int(victim.stdout.readline())


def _share_memory(scene: Scene, uid: int, stack: contextlib.ExitStack) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(scene.shm_key, 64, 0o1666)
    stack.callback(libc.shmctl, segment, 0, None)
    semaphores = libc.semget(scene.shm_key, 1, 0o1666)
    stack.callback(libc.semctl, semaphores, 0, 0)
    messages = libc.msgget(scene.shm_key, 0o1666)
    stack.callback(libc.msgctl, messages, 0, None)
    scene.queue = f"sage-{os.getpid()}"
    queue = libc.mq_open(f"/{scene.queue}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    stack.callback(libc.mq_unlink, f"/{scene.queue}".encode())
    stack.callback(os.close, queue)
    os.fchmod(queue, 0o666)
    name = Path(f"/dev/shm/sage-sandbox-{os.getpid()}")
    scene.shm_file = str(name)
    name.write_text("shared")
    os.chown(name, uid, uid)
    stack.callback(name.unlink, missing_ok=True)

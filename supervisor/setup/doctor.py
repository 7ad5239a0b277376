"""What a run needs of this machine, found out by trying, not by versions."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sage_actors.messages.errors import SageError
from sage_actors.messages.units import counted

__all__ = ["Check", "examine", "table"]

_LEAST_FREE_BYTES = 256 << 20
_WAIT_S = 30.0
_ORPHAN_S = 1.0  # how long anything may live on after a kill -9 of the supervisor
_MARKS = {"ok": "ok", "warning": "warn", "failed": "FAIL"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. `hint`: what to do; "" if nothing. `seconds`: how long it took."""

    name: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    hint: str = ""
    seconds: float = 0.0


class _LackError(Exception):
    """What was tried does not work: (what happened, what to do)."""


class _NoteError(_LackError):
    """It works, but there is something to know."""


def examine(project: Path) -> list[Check]:
    """Try everything, one after the other. What fails stops nothing."""
    steps: list[tuple[str, Callable[[], str]]] = [
        ("Python", _python),
        ("platform", _platform),
        ("state directory", lambda: _state_directory(project)),
        ("file system", lambda: _file_system(project)),
        ("fsync and flock", lambda: _durable(project)),
        ("disk space", lambda: _space(project)),
        ("key", _key),
        ("control socket", lambda: _control_socket(project)),
        ("sandbox", _sandbox),
        ("worker process", _worker),
        ("orphans", _orphans),
        ("git", _git),
        ("keychain", _keychain),
    ]
    return [_try(name, step) for name, step in steps]


def table(checks: list[Check]) -> str:
    """The checks as text, what to do below each that needs it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.status]:<4}  {check.name:<{width}}  {check.detail}")
        if check.hint:
            lines.append(f"{'':<4}  {'':<{width}}  -> {check.hint}")
    failed = sum(check.status == "failed" for check in checks)
    lines.append(
        "All that a run needs is there."
        if not failed
        else f"{failed} of {counted(len(checks), 'check')} failed."
    )
    return "\n".join(lines)


def _try(name: str, step: Callable[[], str]) -> Check:
    started = time.monotonic()

    def check(status: Literal["ok", "warning", "failed"], detail: str, hint: str = "") -> Check:
        return Check(name, status, detail, hint, round(time.monotonic() - started, 4))

    try:
        return check("ok", step())
    except _NoteError as note:
        return check("warning", *note.args)
    except _LackError as lack:
        return check("failed", *lack.args)
    except SageError as error:
        return check("failed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the user wants to know
        return check("failed", f"{type(error).__name__}: {error}")


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"


def _platform() -> str:
    text = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        return text
    if sys.platform == "darwin":
        raise _NoteError(text, "best effort: processes that daemonise themselves are not found on macOS")
    raise _LackError(text, "use Linux; on Windows, WSL 2")


def _state_directory(project: Path) -> str:
    from sage_actors.actors.state.directory import StateDirectory

    state = StateDirectory(project)
    state.create()
    with tempfile.NamedTemporaryFile(dir=state.root, prefix=".doctor-") as file:
        file.write(b"x" * 4096)
        file.flush()
        mode = os.fstat(file.fileno()).st_mode & 0o777
    if mode & 0o077:
        raise _LackError(f"{state.root}: files get mode {mode:04o}", "use a file system with Unix modes")
    return f"{state.root}, private and writable"


def _file_system(project: Path) -> str:
    from sage_actors.actors.state.directory import StateDirectory, filesystem_type

    StateDirectory(project).check_filesystem()
    return f"{filesystem_type(project) or 'unknown type'}, local"


def _durable(project: Path) -> str:
    """A write that is synced, and a lock that a second holder does not get."""
    from sage_actors.actors.state.directory import StateDirectory
    from sage_actors.actors.state.disk import DISK

    root = StateDirectory(project).root
    with tempfile.NamedTemporaryFile(dir=root, prefix=".doctor-") as file:
        times = []
        for _ in range(5):
            os.write(file.fileno(), b"x" * 512)
            started = time.perf_counter()
            DISK.sync_data(file.fileno())
            times.append(time.perf_counter() - started)
        DISK.sync_directory(root)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(file.name, "rb") as second:
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return f"fdatasync takes {sorted(times)[2] * 1000:.2f} ms; a second lock is refused"
    raise _LackError("flock gave one lock to two holders", "use a local file system")


def _space(project: Path) -> str:
    free = shutil.disk_usage(project).free
    text = f"{free / (1 << 30):.1f} GiB free"
    if free < _LEAST_FREE_BYTES:
        raise _NoteError(text, "a run pauses when the disk is full; make room, or `sage-actors prune`")
    return text


def _key() -> str:
    """The key, used: what is sealed with it opens. None is made."""
    from sage_actors.actors.keys.provider import default_key_path, load_keys
    from sage_actors.actors.keys.variable import given_keys

    try:
        missing = given_keys(os.environ) is None and not os.path.lexists(default_key_path())
        ring = load_keys(create=False)
    except SageError as error:
        if missing and "no key" in str(error):  # pyright: ignore[reportPossiblyUnboundVariable]
            raise _NoteError(
                "there is none yet", "the first run makes one; or `sage-actors keys create`"
            ) from None
        raise _LackError(str(error), "`sage-actors keys show` says where it is looked for") from error
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, nonce = AESGCM(ring.primary.secret), os.urandom(12)
    if cipher.decrypt(nonce, cipher.encrypt(nonce, b"state", None), None) != b"state":
        raise _LackError("what the key seals does not open", "reinstall the package `cryptography`")
    where = default_key_path() if ring.source == "file" else f"the {ring.source}"
    return f"from {where}, id {ring.primary.id.hex()}"


def _control_socket(project: Path) -> str:
    from sage_actors.supervisor.control.socket import listen, may_speak, socket_paths

    listener, path = listen(socket_paths(project, "doctor"), "doctor")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5.0)
            client.connect(os.fspath(path))
            listener.setblocking(True)
            accepted, _ = listener.accept()
            with accepted:
                if not may_speak(accepted):
                    raise _LackError(f"{path}: the peer's user is wrong", "is XDG_RUNTIME_DIR your own?")
    finally:
        listener.close()
        path.unlink(missing_ok=True)
    return f"in {path.parent}"


def _sandbox() -> str:
    """Whether operations are confined as the settings demand."""
    from sage_actors.actors.user_config import load_user_config
    from sage_actors.sandbox.probe import probe
    from sage_actors.supervisor.sandboxing import chosen_mode

    user, report = load_user_config(), probe()
    mode, least = chosen_mode(user, os.environ), user.sandbox.min_tier
    text = f"mode {mode}; this machine can do {report.tier}"
    if mode == "off":
        raise _NoteError(
            f"operations are not confined: {text}", "remove SAGE_SANDBOX=off, or `mode` from your config.toml"
        )
    if report.tier != "namespaces" and (least == "namespaces" or report.tier == "none"):
        lack = f"{text} ({report.reason})"
        if mode == "enforce":
            raise _LackError(lack, "no operation would start; SAGE_SANDBOX=degrade runs them without")
        raise _NoteError(f"operations are not confined: {lack}", "run only what you trust")
    return f"{text}, {least} is demanded"


_PROBE = """
from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.supervisor.api import Supervisor

if __name__ == "__main__":
    node = NodeSpec("probe", OperationSpec("python", {"call": "os:getpid"}))
    with Supervisor(workers=1, durability="none") as supervisor:
        print(supervisor.run(WorkflowSpec("doctor", [node])).raise_for_status()["probe"], flush=True)
"""


def _worker() -> str:
    """A real run of one node, in a process of its own."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sage-doctor-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_WAIT_S,
        )
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise _LackError(f"a worker did not answer: {last}", "SAGE_DEBUG=1 sage-actors run shows more")
    return f"process {done.stdout.strip()} answered, {time.monotonic() - started:.2f} s in all"


# It may have process numbers of its own: what tells that it lives is a lock that it holds
_SPAWN = """
import fcntl, os, sys, time
if os.fork() == 0:
    os.setsid()
    held = open(sys.argv[1] + ".new", "w")
    fcntl.flock(held, fcntl.LOCK_EX)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    end = time.monotonic() + 60
    while os.path.exists(sys.argv[1]) and time.monotonic() < end:
        time.sleep(0.05)
"""


def _orphans() -> str:
    """A supervisor that is killed while a worker's child has daemonised itself: nothing may be left."""
    if sys.platform != "linux":
        raise _NoteError("not tried", "only Linux has subreapers; what daemonises itself escapes here")
    with tempfile.TemporaryDirectory(prefix="sage-doctor-") as folder:
        named = Path(folder) / "held"
        flow = Path(folder) / "flow.json"
        flow.write_text(_orphan_flow(named), encoding="utf-8")
        command = [sys.executable, "-m", "sage_actors", "run", str(flow), "--durability", "none", "--quiet"]
        victim = subprocess.Popen(
            [*command, "--project", folder],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(lambda: named.exists() or victim.poll() is not None, _WAIT_S)
            if not named.exists():
                raise _LackError("the trial run did not start", "see the check of the worker process")
        finally:
            victim.kill()
            victim.wait()
        return _see_end(named)


def _orphan_flow(named: Path) -> str:
    import json

    spawn = [sys.executable, "-c", _SPAWN, str(named)]
    script = ["sh", "-c", '"$@"; sleep 60', "sh", *spawn]
    return json.dumps({"name": "doctor", "nodes": [{"id": "probe", "type": "shell", "command": script}]})


def _see_end(held: Path) -> str:
    started = time.monotonic()
    with open(held, "rb") as file:
        if not _wait(lambda: _is_free(file.fileno()), _ORPHAN_S):
            held.unlink()  # that ends it
            raise _LackError("a process outlived its killed supervisor", "is prctl blocked here (seccomp)?")
    return f"all gone {(time.monotonic() - started) * 1000:.0f} ms after a kill -9 of the supervisor"


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def _git() -> str:
    path = shutil.which("git")
    if path is None:
        raise _NoteError("not found", "workflows about repositories need it; install git")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_WAIT_S)
    return f"{done.stdout.strip()}, {path}"


def _keychain() -> str:
    if importlib.util.find_spec("keyring") is None:
        return "not used: the package `keyring` is not installed (it is optional)"
    import keyring

    return f"{type(keyring.get_keyring()).__module__}"


def _environment() -> dict[str, str]:
    """For a child: the packages that this process sees."""
    paths = [each for each in sys.path if each]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

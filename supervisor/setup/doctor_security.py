"""The promise table: what a confined operation cannot do on this machine, each measured by trying to do it.

    this process                      the victim: folders, files and a listener that nobody granted
     `- a forked child, confined      tries one attack after the other and says what became of each
         `- a daemon of its own       is to end with it

Without a tier the same attacks run as any operation would, and the table says that they succeed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sage_actors.sandbox.probe import Report, probe
from sage_actors.sandbox.profile import Layout, Limits, Profile, system_paths

__all__ = ["Promise", "measure", "promise_table"]

_MEMORY_BYTES = 256 << 20
_WAIT_S = 10.0
_SURVIVAL_S = 0.5
_WORDS = {True: "holds", False: "does not hold", None: "not tried"}


@dataclass(frozen=True, slots=True)
class Promise:
    """One line of the table. holds: None where it was not tried. detail: what became of the attack."""

    name: str
    holds: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is attacked: `outside` is granted to nobody, `project` may be written but for `.git/hooks`."""

    project: Path
    outside: Path
    port: int
    attacked: int  # the process that started it

    @property
    def profile(self) -> Profile:
        return Profile(
            "doctor",
            read=system_paths(),
            write=(str(self.project),),
            protected=(str(self.project / ".git/hooks"),),
            limits=Limits(memory=_MEMORY_BYTES, tmp=1 << 20),
        )


def measure(report: Report | None = None) -> tuple[Report, list[Promise]]:
    """What the machine can do, and the table. Takes a few tenths of a second.

    report: to measure another tier than the machine's best.
    """
    report = report or probe()
    with tempfile.TemporaryDirectory(prefix="sage-doctor-") as name, _listener() as port:
        root = Path(os.path.realpath(name))
        ground = _Ground(root / "project", root / "outside", port, os.getpid())
        (ground.project / ".git").mkdir(parents=True)
        ground.outside.mkdir()
        (ground.outside / "secret").write_text("secret")
        return report, _attack(ground, report.tier)


def promise_table(tier: str, promises: list[Promise]) -> str:
    """The table as text."""
    width = max(len(each.name) for each in promises)
    head = (
        "Operations are not confined here:" if tier == "none" else f"What operations cannot do, tier {tier}:"
    )
    lines = [head]
    lines += [f"{_WORDS[each.holds]:<13}  {each.name:<{width}}  {each.detail}" for each in promises]
    return "\n".join(lines)


# ------------------------------------------------------------------ the parent


def _attack(ground: _Ground, tier: str) -> list[Promise]:
    said, say = os.pipe()
    alive, lives = os.pipe()  # held open by the daemon that is to end
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child runs this module alone
        child = os.fork()
    if child == 0:
        _run_child(ground, tier, say, lives)
    os.close(say)
    os.close(lives)
    try:
        found = _hear(said)
        if not isinstance(found, dict):
            return [Promise("confinement", False, f"it could not be set up: {found}")]
        rows = [_judge(key, name, found) for key, name, _ in _ATTACKS]
        return [*rows, _survivor(child, alive, tier)]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(said)
        os.close(alive)  # a daemon that is still there sees that, and ends


def _hear(fd: int) -> Any:
    """The child's one line, as JSON; a text in its place if it has none."""
    data, deadline = b"", time.monotonic() + _WAIT_S
    while not data.endswith(b"\n"):
        if not _is_readable(fd, deadline - time.monotonic()):
            return "no answer in time"
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return "the process that tried it ended"
        data += chunk
    return json.loads(data)


def _is_readable(fd: int, wait_s: float) -> bool:
    looked = select.poll()
    looked.register(fd, select.POLLIN)
    return bool(looked.poll(max(0.0, wait_s) * 1000))


def _judge(key: str, name: str, found: dict[str, str]) -> Promise:
    if key not in found:
        return Promise(name, None, "only watched, and ended when it is seen")
    return Promise(name, found[key] != "", found[key] or "the attack succeeded")


def _survivor(child: int, alive: int, tier: str) -> Promise:
    """Kill -9 to the process that was confined; whatever it left holds a pipe open."""
    name = "leave a process behind when it is killed"
    os.kill(child, signal.SIGKILL)
    started = time.monotonic()
    if _is_readable(alive, _SURVIVAL_S):
        return Promise(name, True, f"all gone after {(time.monotonic() - started) * 1000:.0f} ms")
    if tier == "namespaces":
        return Promise(name, False, f"a daemon lived on for {_SURVIVAL_S} s")
    return Promise(name, None, "by the kernel no; the keeper ends what it finds, see the check of orphans")


@contextlib.contextmanager
def _listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


# ------------------------------------------------------------------ the child


def _run_child(ground: _Ground, tier: str, say: int, lives: int) -> NoReturn:
    """Confines itself, tries everything, leaves a daemon, and waits to be killed."""
    answer: Any = "?"
    try:
        _confine(ground, tier, (say, lives))
        tried = [each for each in _ATTACKS if tier != "none" or each[0] != "memory"]
        answer = {key: _outcome(attack, ground) for key, _, attack in tried}
        _leave_daemon(lives)
    except BaseException as error:  # noqa: BLE001 - the border of the child
        answer = f"{type(error).__name__}: {error}"
    finally:
        os.write(say, json.dumps(answer).encode() + b"\n")
        os.close(lives)
        time.sleep(_WAIT_S)
        os._exit(1)


def _confine(ground: _Ground, tier: str, keep: tuple[int, ...]) -> None:
    if tier == "none":
        return
    from sage_actors.sandbox import kernel
    from sage_actors.sandbox.confine import confine
    from sage_actors.sandbox.namespaces import enter_pid_namespace, enter_root

    if tier == "namespaces":
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else it could not map its ids
        entered = enter_root(Layout.of(ground.profile), proxy_port=0)
        if entered.listener is not None:
            entered.listener.close()
        enter_pid_namespace()
    confine(ground.profile, tier, keep_fds=keep, alone=tier == "namespaces")


def _outcome(attack: Callable[[_Ground], object], ground: _Ground) -> str:
    """What stopped it; "" if nothing did."""
    try:
        attack(ground)
    except OSError as error:
        return error.strerror or type(error).__name__
    except MemoryError:
        return "no more memory was given"
    return ""


def _leave_daemon(lives: int) -> None:
    """A process in a session of its own, with another parent, which closes all but the pipe that tells of it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            watch = select.poll()
            watch.register(lives, 0)  # POLLERR comes when nobody reads any more
            watch.poll(int(_WAIT_S * 1000))
        os._exit(0)


def _swap_git(ground: _Ground) -> None:
    """Protected paths need their parents held, too."""
    os.rename(ground.project / ".git", ground.project / "moved")
    (ground.project / ".git/hooks").mkdir(parents=True)


def _protected(ground: _Ground) -> None:
    try:
        (ground.project / ".git/hooks").mkdir(exist_ok=True)
        (ground.project / ".git/hooks/pre-commit").write_text("#!/bin/sh\n")
    except OSError:
        _swap_git(ground)


_ATTACKS: tuple[tuple[str, str, Callable[[_Ground], object]], ...] = (
    ("read", "read a file outside the project", lambda ground: (ground.outside / "secret").read_text()),
    ("write", "write a file outside the project", lambda ground: (ground.outside / "new").write_text("x")),
    ("mode", "change the mode of a file outside", lambda ground: (ground.outside / "secret").chmod(0o640)),
    ("see", "see that a file outside exists", lambda ground: (ground.outside / "secret").stat()),
    ("connect", "reach a host that was not approved",
     lambda ground: socket.create_connection(("127.0.0.1", ground.port), 2.0)),
    ("datagram", "send datagrams (DNS)",
     lambda ground: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", ground.port))),
    ("protected", "change .git/hooks in the project", _protected),
    ("trace", "look into the process that started it",
     lambda ground: Path(f"/proc/{ground.attacked}/environ").read_bytes()),
    ("memory", "take more memory than its limit", lambda ground: bytearray(2 * _MEMORY_BYTES)),
)  # fmt: skip

"""Real supervisors for tests: in this process, and in children that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from places import SOURCES, SUPPORT

from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.locks import process_start_time
from sage_actors.supervisor.api import Supervisor
from sage_actors.supervisor.recovery.history import History, open_history

T = TypeVar("T")
KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")
KEY_TEXT = "sak1-AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
DEADLINE_S = 60.0


def wait_until(condition: Callable[[], T], *, what: str = "", timeout_s: float = DEADLINE_S) -> T:
    """The first true value of `condition`, or a failed test."""
    until = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < until, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.002)
    return value


def make_supervisor(project: Path, **options: Any) -> Supervisor:
    """One whose workers find `operations_engine`, with a key of its own and little patience."""
    defaults: dict[str, Any] = {"workers": 2, "keys": KEYS, "search_paths": [SUPPORT], "grace_s": 1.0}
    return Supervisor(project, **(defaults | options))


def history(project: Path, run_id: str) -> History:
    return open_history(StateDirectory(project), KEYS, run_id)


def lines(path: Path) -> int:
    """How many calls left their line there."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def states(project: Path, run_id: str) -> dict[str, str]:
    return {each.id: each.state for each in history(project, run_id).nodes()}


def journal_bytes(project: Path, run_id: str) -> bytes:
    directory = StateDirectory(project).run_dir(run_id)
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


class Script:
    """A Python script in a process of its own, which sees the package, the test operations and one key."""

    def __init__(self, directory: Path, body: str, *, guard: bool = True, name: str = "script.py") -> None:
        self.path = directory / name
        body = textwrap.dedent(body)
        head = "import asyncio, sys\nfrom sage_actors import *\nimport operations_engine as ops\n"
        if guard:
            body = 'if __name__ == "__main__":\n' + textwrap.indent(body, "    ")
        self.path.write_text(head + body)
        env = {**os.environ, "SAGE_STATE_KEY": KEY_TEXT, "PYTHONPATH": f"{SOURCES}:{SUPPORT}"}
        self.process = subprocess.Popen(
            [sys.executable, str(self.path)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Script:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def finish(self, timeout_s: float = DEADLINE_S) -> tuple[int, str, str]:
        """Its exit code and what it printed."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


def is_alive(pid: int) -> bool:
    return process_start_time(pid) is not None

"""The command line as a user has it: a process in a project of its own, with a key and sockets of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import SOURCES

from sage_actors.supervisor.cli.main import _run


class CommandLine:
    """Runs `python -m sage_actors` in `project`; its state, key and sockets touch nothing else."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.project = home / "project"
        self.project.mkdir()
        self.runtime = Path(tempfile.mkdtemp(prefix="sage-"))  # short: the path of a socket is
        self.environ = {key: value for key, value in os.environ.items() if not key.startswith("SAGE_")}
        self.environ |= {
            "PYTHONPATH": str(SOURCES),
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "TERM": "dumb",
        }

    def __call__(
        self, *args: str, code: int | None = 0, environ: Mapping[str, str] = {}, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; its exit code must be `code` (None: any)."""
        done = subprocess.run(
            [sys.executable, "-m", "sage_actors", *args],
            cwd=self.project,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert code is None or done.returncode == code, (
            f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def close(self) -> None:
        """Remove what is not in `home`."""
        shutil.rmtree(self.runtime, ignore_errors=True)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Begin a command and leave it running."""
        return subprocess.Popen(
            [sys.executable, "-m", "sage_actors", *args],
            cwd=self.project,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, name: str, definition: Any) -> str:
        """A workflow file in the project; its name."""
        (self.project / name).write_text(json.dumps(definition), encoding="utf-8")
        return name

    def flow(self, *nodes: Mapping[str, Any], name: str = "flow", **top: Any) -> str:
        """The file of a flat workflow."""
        return self.write(f"{name}.json", {"name": name, "nodes": list(nodes), **top})

    def count(self, name: str) -> int:
        """How often something wrote a line to this file of the project."""
        path = self.project / name
        return len(path.read_text().splitlines()) if path.exists() else 0


@dataclass(frozen=True)
class Said:
    """What one command printed."""

    stdout: str
    stderr: str


class Inside:
    """A command in this process and in the project of `sage`: a tenth of the time, where it carries nothing out."""

    def __init__(
        self, sage: CommandLine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch
        monkeypatch.chdir(sage.project)
        for name in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "PYTHON_KEYRING_BACKEND"):
            monkeypatch.setenv(name, sage.environ[name])

    def __call__(self, *args: str, code: int = 0, environ: Mapping[str, str] = {}) -> Said:
        """Run one command to its end; its exit code must be `code`."""
        self._capsys.readouterr()
        with self._monkeypatch.context() as changed:
            for name, value in environ.items():
                changed.setenv(name, value)
            found = _run(args)
        captured = self._capsys.readouterr()
        said = Said(str(captured.out), str(captured.err))
        assert found == code, f"exit {found}\n{said.stdout}\n{said.stderr}"
        return said


def shell(node: str, command: str | list[str], **fields: Any) -> dict[str, Any]:
    """A node that executes a command."""
    return {"id": node, "type": "shell", "command": command, **fields}


def noted(node: str, **fields: Any) -> dict[str, Any]:
    """A node that leaves a line in `ran-<node>` each time it executes."""
    return shell(node, f"echo once >> ran-{node}; echo {node}", **fields)


def events(text: str) -> list[dict[str, Any]]:
    """Each line of `--json` as an event."""
    return [json.loads(line) for line in text.splitlines()]


def on_terminal(sage: CommandLine, *args: str, answer: str = "") -> tuple[int, str]:
    """The exit code and all that a terminal of 100 columns was sent."""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(sage.project)
        command = [sys.executable, "-m", "sage_actors", *args]
        os.execve(sys.executable, command, {**sage.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"})
    if answer:
        os.write(terminal, answer.encode())
    sent = bytearray()
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: the other side has closed it
            break
        if not part:
            break
        sent += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sent.decode()


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0, what: str = "") -> None:
    """Until it holds; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)

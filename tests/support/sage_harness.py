"""Whole runs of the sage layer for tests: a repository, the real command line, and what came of a run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import re
import signal
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from cli_harness import CommandLine, events, wait_until

from sage_actors.actors.keys.provider import KeyRing, load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.supervisor.recovery.history import History, open_history

__all__ = [
    "DOCUMENTS",
    "FEATURE",
    "PHASES",
    "SageProject",
    "SageRun",
    "cited",
    "documents",
    "false_citations",
    "processes_of",
    "shared",
    "tree",
]

Value = TypeVar("Value")
FEATURE = "rate limiting for the public API"
PHASES = {
    "feature": ("research", "specification", "planning", "implementation"),
    "bugfix": ("analysis", "research", "implementation", "validation"),
    "enhancement": ("detection", "research", "planning", "implementation"),
}
DOCUMENTS = {"spec.md", "plan.md", "work-order.md"}
_LARGE_BYTES = 10_000_000
_CITED = re.compile(r"`((?![a-z]+:)[^`\s]+?):(\d+)`")


class SageRun:
    """What one `run --json` or `resume --json` said."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stderr, self.stdout = code, stderr, stdout
        self.events = events(stdout)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [each for each in self.events if each["event"] == name]

    @property
    def end(self) -> dict[str, Any]:
        """What `run_finished` says."""
        (end,) = self.named("run_finished")
        return end

    @property
    def run_id(self) -> str:
        return str(self.events[0]["run_id"])

    @property
    def starts(self) -> Counter[str]:
        """How often each node was begun."""
        return Counter(each["node"] for each in self.named("node_started"))

    @property
    def succeeded(self) -> dict[str, dict[str, Any]]:
        return {each["node"]: each for each in self.named("node_succeeded")}

    @property
    def cached(self) -> set[str]:
        """Nodes that the cache answered."""
        return {node for node, event in self.succeeded.items() if event["cached"]}


class SageProject(CommandLine):
    """The command line in a repository that `make` writes."""

    def __init__(self, home: Path, make: Callable[[Path], object]) -> None:
        home.mkdir(parents=True, exist_ok=True)
        super().__init__(home)
        self.environ["GIT_CONFIG_GLOBAL"] = os.devnull
        self.environ.pop("COVERAGE_PROCESS_CONFIG", None)  # a research takes three times as long under it
        make(self.project)

    def run(self, *args: str, code: int | None = 0, timeout: float = 90.0, **environ: str) -> SageRun:
        """`run ... --json` to its end."""
        return self._json("run", *args, code=code, timeout=timeout, environ=environ)

    def resume(self, *args: str, code: int | None = 0, **environ: str) -> SageRun:
        return self._json("resume", *args, code=code, timeout=90.0, environ=environ)

    def _json(self, command: str, *args: str, **options: Any) -> SageRun:
        done = self(command, "--json", *args, **options)
        return SageRun(done.returncode, done.stdout, done.stderr)

    def run_until(self, is_there: Callable[[dict[str, Any]], bool], *args: str) -> SageRun:
        """Begin a command with --json, read until an event is there, and kill -9 its process alone.

        The descendants that it had must be gone within a second.
        """
        with self.start(*args) as process:
            assert process.stdout is not None
            read = []
            for line in process.stdout:
                read.append(line)
                if is_there(json.loads(line)):
                    break
            family = [each for each in processes_of(self.home) if each.pid != process.pid]
            process.send_signal(signal.SIGKILL)
            rest, err = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL, f"it had ended: {process.returncode}\n{err}"
        assert family, "it had no workers"
        wait_until(lambda: not processes_of(self.home), seconds=1.0, what=f"end of {family}")
        # what was under way in the pipe may end within a line
        whole = "".join(read) + rest
        return SageRun(process.returncode, whole[: whole.rfind("\n") + 1], err)

    def keys(self) -> KeyRing:
        """Those of the command line."""
        return load_keys(path=self.home / "config/sage-actors/state.key", environ={}, create=False)

    def history(self, run_id: str) -> History:
        return open_history(StateDirectory(self.project), self.keys(), run_id)

    def git(self, *args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=self.project, env=self.environ, check=True, capture_output=True, text=True
        ).stdout

    def changes(self) -> set[str]:
        """What `git status` shows, ignored files too."""
        out = self.git("status", "--porcelain", "--ignored", "-uall", "-z")
        return {line[3:] for line in out.split("\0") if line}

    def cache_stats(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("cache", "stats", "--json").stdout)
        return found

    @contextmanager
    def nothing_else_written(self, *allowed: str) -> Iterator[None]:
        """Fails if anything below the home but `.sage`, `docs/specs`, keys and `allowed` changes."""
        written = ("project/.sage", "project/docs/specs", "config/sage-actors", *allowed)
        before = tree(self.home, *written)
        yield
        assert tree(self.home, *written) == before


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Value]) -> Value:
    """What `make(folder)` returns, made once for all processes of this test session."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    kept = root / f"{name}.pickle"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            value = make(root / name)
            kept.write_bytes(pickle.dumps(value))
            return value
        found: Value = pickle.loads(kept.read_bytes())
        return found


def tree(root: Path, *without: str) -> dict[str, str]:
    """Every path below `root` with a digest of what is there; no link is followed."""
    found = {}
    for folder, names, files in os.walk(root):
        inside = Path(folder).relative_to(root)
        names[:] = [name for name in names if not (inside / name).as_posix().startswith(without)]
        for name in (*names, *files):
            path = Path(folder) / name
            found[(inside / name).as_posix()] = _digest(path)
    # a folder that only leads to what may be written says nothing
    return {path: each for path, each in found.items() if not any(_leads_to(path, to) for to in without)}


def _leads_to(path: str, to: str) -> bool:
    return f"{to}/".startswith(f"{path}/") or path == to


def _digest(path: Path) -> str:
    here = path.lstat()
    mode = here.st_mode
    if stat.S_ISLNK(mode):
        return f"link {os.readlink(path)}"
    if stat.S_ISREG(mode) and here.st_size > _LARGE_BYTES:  # no program can set the time of the last change
        return f"{mode:o} {here.st_size} {here.st_ino} {here.st_ctime_ns}"
    if stat.S_ISREG(mode):
        return f"{mode:o} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return f"{mode:o}"


def documents(project: Path) -> dict[str, str]:
    """Every file below docs/specs, by its path there."""
    root = project / "docs/specs"
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def false_citations(project: Path, text: str) -> list[str]:
    """Those `file:line` of a document that name no line of the project."""
    wrong = []
    for path, line in _CITED.findall(text):
        file = project / path
        if not file.is_file() or not 1 <= int(line) <= len(file.read_text().splitlines()):
            wrong.append(f"{path}:{line}")
    return wrong


def cited(text: str) -> int:
    """How many `file:line` a document has."""
    return len(_CITED.findall(text))


def processes_of(home: Path) -> list[psutil.Process]:
    """Living processes whose home is `home`: a command line, its keeper, its workers, what they started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found

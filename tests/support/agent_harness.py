"""Stand-in agents on a $PATH of their own, and repositories for them, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from places import SUPPORT
from pool_harness import pid_exists, wait_until

AGENTS = ("claude", "codex", "gemini", "opencode", "aider")
FAKE = SUPPORT / "agents" / "fake_agent.py"
IDENTITY = ("-c", "user.name=Test", "-c", "user.email=test@example.com")


def agents_on_path(folder: Path, *names: str) -> str:
    """A $PATH whose first directory has the stand-in under these names (all that are known by default)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or AGENTS:
        script = folder / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(FAKE.parent)!r})\n"
            "import fake_agent\nsys.exit(fake_agent.main())\n"
        )
        script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def agent_environ(folder: Path, **behaviour: Any) -> dict[str, str]:
    """The environment in which the stand-in behaves like that."""
    return {**os.environ, "PATH": agents_on_path(folder), "FAKE_AGENT": json.dumps(behaviour)}


def git(where: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=where, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


def make_repository(where: Path, files: Mapping[str, str] | None = None) -> Path:
    """A repository with one commit, whose `.sage` is ignored as a run leaves it."""
    where.mkdir(parents=True, exist_ok=True)
    git(where, "init", "-q", "-b", "main")
    for name, text in (files or {"app.py": "one\n", ".gitignore": "*.log\n"}).items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)
    git(where, "add", "--all")
    git(where, "commit", "-q", "-m", "First")
    return where


def checkout_state(where: Path) -> tuple[str, ...]:
    """All that a user would see changed: the status, the index, the branches' and the stash's commits."""
    branches = git(
        where, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/main", "refs/stash"
    )
    index = git(where, "ls-files", "--stage")
    return (
        git(where, "status", "--porcelain", "--ignored=no"),
        index,
        branches,
        git(where, "rev-parse", "HEAD"),
    )


def wait_until_gone(pids: Path) -> None:
    """Until none of the processes whose ids the file lists lives any more."""
    for pid in [int(each) for each in pids.read_text().split()]:
        wait_until(_gone(pid), what=f"process {pid} of the agent is gone")


def _gone(pid: int) -> Callable[[], bool]:
    return lambda: not pid_exists(pid)

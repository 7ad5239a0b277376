"""Runs git in such a way that nothing of the repository (hooks, filters, monitors) runs with it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sage_actors.messages.errors import OperationError

__all__ = ["LOCAL_VARIABLES", "GitError", "git", "git_environment", "without_filters"]

LOCAL_VARIABLES = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"}
    | {"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_PREFIX", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_CONFIG"}
)
"""What git sets for hooks: it would lead git, and an agent's git, to another repository than the directory says."""

_TIMEOUT_S = 300.0
_GIT = (
    *("git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "commit.gpgSign=false"),
    *("-c", "submodule.recurse=false", "-c", "safe.bareRepository=explicit"),
)
_USERS_SCOPES = frozenset({"system", "global", "command"})
_FILTER = re.compile(r"filter\..*\.(clean|smudge|process|required)", re.IGNORECASE | re.DOTALL)


class GitError(OperationError):
    """git failed; the message has its output."""


def git(cwd: Path, env: Mapping[str, str], *arguments: str) -> str:
    """What git printed. Raises GitError with what it said."""
    try:
        done = subprocess.run(
            [*_GIT, *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError as cause:
        what = "the directory is gone" if not cwd.is_dir() else "git is not on your PATH: install it"
        raise GitError(f"git cannot be run in {cwd}: {what}") from cause
    except (OSError, subprocess.TimeoutExpired) as cause:
        raise GitError(f"git cannot be run in {cwd}: {cause}") from cause
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").strip() or f"exit code {done.returncode}"
        raise GitError(f"git {_verb(arguments)}: {said[-2000:]}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _verb(arguments: tuple[str, ...]) -> str:
    return next((each for each in arguments if not each.startswith(("-", "/"))), "")


def git_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what would lead git elsewhere; git asks nothing, fetches nothing, speaks English."""
    kept = {name: value for name, value in environ.items() if name not in LOCAL_VARIABLES}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    return {**kept, **quiet, "GIT_NO_LAZY_FETCH": "1"}  # a transport may be a command of the repository


def without_filters(project: Path, env: dict[str, str]) -> dict[str, str]:
    """The environment in which git runs none of the filters that the repository's own configuration names.

    The user's own (git-lfs in ~/.gitconfig) stay: without them a worktree would hold pointers for files.
    """
    said = ("config", "--show-scope", "--includes", "-z", "--get-regexp", r"^filter\.")
    try:
        words = git(project, env, *said).split("\0")
    except GitError:  # exit code 1: there is none
        return env
    scoped = zip(words[::2], words[1::2], strict=False)
    found = [entry.partition("\n")[0] for scope, entry in scoped if scope not in _USERS_SCOPES]
    names = [name for name in found if _FILTER.fullmatch(name)]
    first = int(env.get("GIT_CONFIG_COUNT") or 0)
    said_now: dict[str, str] = {"GIT_CONFIG_COUNT": str(first + len(names))}
    for number, name in enumerate(names, first):
        said_now[f"GIT_CONFIG_KEY_{number}"] = name
        said_now[f"GIT_CONFIG_VALUE_{number}"] = "false" if name.lower().endswith(".required") else ""
    return env | said_now

"""Places in and around a project that need care: virtual environments, and where git keeps its own files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sage_actors.sandbox.profile import is_beneath

__all__ = ["git_directories", "virtual_environments"]


def virtual_environments(project: str) -> list[str]:
    """What a program would be started from next time: not to be changed by what runs now."""
    found = [
        entry.path for entry in os.scandir(project) if os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
    ]
    inside = [each for each in {sys.prefix, sys.base_prefix} if is_beneath(each, project) and each != project]
    return sorted({*found, *inside})


def git_directories(project: str) -> list[str]:
    """The directories of git's own files for this project: of the worktree, and what worktrees share."""
    for folder in (Path(project), *Path(project).parents):
        git = folder / ".git"
        if git.is_dir():
            return [str(git)]
        if git.is_file():
            return _linked_directories(git)
    return []


def _linked_directories(file: Path) -> list[str]:
    """Those of a linked worktree. It must be known there too: a file that came along cannot name any directory."""
    try:
        target = file.read_text(errors="surrogateescape").partition("gitdir:")[2].strip()
        own = Path(os.path.normpath(file.parent / target))
        if not os.path.samefile((own / "gitdir").read_text(errors="surrogateescape").strip(), file):
            return []
        common = own / "commondir"
        shared = os.path.normpath(own / common.read_text().strip()) if common.is_file() else str(own)
    except (OSError, ValueError):
        return []
    return list(dict.fromkeys([str(own), shared]))

"""What agents of one run left in the project, removed with the run: worktrees of killed attempts, and patches.

    .sage/worktrees/<run>/...   and git's entry for each; but for one that somebody locked (`git worktree lock`)
    .sage/artifacts/<run>/...

Branches `sage/<run>/...` hold commits: they stay. `git worktree prune` would also forget worktrees of others whose
folder is only not there now, so each entry of this run is removed by its path. A crash on the way leaves a part; the
next call removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sage_actors.actors.agents.git_command import GitError, git, git_environment
from sage_actors.actors.agents.worktree import remove_tree, safe_parts
from sage_actors.servers.corpus.repository_own import foreign_git

__all__ = ["Leftovers", "remove_leftovers"]


@dataclass(slots=True)
class Leftovers:
    """Paths in the project. kept: each with the reason."""

    removed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def remove_leftovers(
    project: Path, run_id: str, *, environ: Mapping[str, str] = os.environ, dry_run: bool = False
) -> Leftovers:
    """Remove what agents of `run_id` left. Hold the run's lock: else one of them may be at work there.

    dry_run: only say what would go.

    Raises:
        StorageError: something cannot be removed.
    """
    found = Leftovers()
    [name] = safe_parts(run_id)
    worktrees, artifacts = (project / ".sage" / top for top in ("worktrees", "artifacts"))
    if _is_own(worktrees, found):
        try:
            _remove_worktrees(project, worktrees / name, found, environ, dry_run)
        except GitError as error:
            found.kept[_shown(project, worktrees / name)] = str(error)
    if _is_own(artifacts, found) and os.path.lexists(artifacts / name):
        _remove(project, artifacts / name, found, dry_run)
    return found


def _is_own(folder: Path, found: Leftovers) -> bool:
    """Whether `.sage/...` is there, and in the project itself: a repository can bring links along."""
    if folder.is_symlink() or folder.parent.is_symlink():
        found.kept[f"{folder.parent.name}/{folder.name}"] = "it is a link; remove the link"
        return False
    return folder.is_dir()


def _remove_worktrees(
    project: Path, folder: Path, found: Leftovers, environ: Mapping[str, str], dry_run: bool
) -> None:
    known = dict(_known_below(project, folder, environ))
    locked = [path for path, is_locked in known.items() if is_locked]
    for path in locked:
        found.kept[_shown(project, path)] = (
            f"it is locked; `git worktree unlock {path}`, and remove it yourself"
        )
    for path in known.keys() - locked:
        if not dry_run:
            if os.path.lexists(path):
                remove_tree(path)
            git(project, git_environment(environ), "worktree", "remove", "--force", "--", str(path))
        found.removed.append(_shown(project, path))
    if not locked and os.path.lexists(folder):
        _remove(project, folder, found, dry_run)
    found.removed.sort()


def _known_below(project: Path, folder: Path, environ: Mapping[str, str]) -> Iterator[tuple[Path, bool]]:
    """The worktrees below `folder` that git knows, and whether each is locked."""
    if reason := foreign_git(Path(os.path.realpath(project))):
        raise GitError(f"git would find another repository there: {reason}")
    try:
        said = git(project, git_environment(environ), "worktree", "list", "--porcelain", "-z")
    except GitError as error:
        if "not a git repository" in str(error):
            return
        raise
    real = Path(os.path.realpath(folder))
    for entry in said.split("\0\0"):
        path, *facts = entry.split("\0")
        where = Path(path.removeprefix("worktree "))
        if Path(os.path.realpath(where)).is_relative_to(real):
            yield where, any(fact.split(" ")[0] == "locked" for fact in facts)


def _remove(project: Path, path: Path, found: Leftovers, dry_run: bool) -> None:
    if not dry_run:
        remove_tree(path)
    found.removed.append(_shown(project, path))


def _shown(project: Path, path: Path) -> str:
    real = Path(os.path.realpath(project))
    for base in (project, real):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)

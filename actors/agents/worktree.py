"""A git worktree for one attempt of one node: what an agent changes there is its own, and can be taken or left.

    <project>/.sage/worktrees/<run>/<node>     the worktree, detached at the base; gone when the attempt is over
    <project>/.sage/artifacts/<run>/<node>.patch   all that changed, for `git apply`
    refs/heads/sage/<run>/<node>               the same as commits; kept where something changed

The base is HEAD, or, with `uncommitted`, a commit on top of it that holds what the checkout has not committed (what
git ignores, and `.sage`, stay out): earlier steps of a run write files that nobody has committed yet, and the
patch then fits the checkout as it is. The user's checkout, index, branches, stashes and hooks are neither changed
nor run.

A crash at any point leaves at most the worktree and its entry in `.git/worktrees`; the next attempt at that node
removes both. A branch is never moved: where the name is taken, a number is added.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_actors.actors.agents.git_command import GitError, git, git_environment, without_filters
from sage_actors.actors.state.disk import temporary_name
from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.servers.corpus.repository import shown_name
from sage_actors.servers.corpus.repository_own import foreign_git

__all__ = ["Changes", "GitError", "Worktree", "attempt_worktree", "remove_tree", "safe_parts"]

_DIFF_CHARS = 20_000
_MAX_FILES = 1_000
_MAX_COMMITS = 100
_MAX_NAMES = 100
_PLAIN = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_IGNORE_ALL = "# Made by sage-actors: what agents do belongs to one machine.\n*\n"
_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames")
_AUTHOR = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "sage-actors"), ("EMAIL", "sage-actors@localhost"))
}


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since the base. patch: the file with all of it, None where nothing changed. diff: its start.

    files: {path, added, removed} (null for a binary file), the first thousand. commits: {id, subject} of the agent.
    """

    base: str
    files: list[dict[str, Any]] = field(default_factory=list)
    file_count: int = 0
    commits: list[dict[str, str]] = field(default_factory=list)
    diff: str = ""
    diff_cut: bool = False
    patch: Path | None = None
    branch: str | None = None


@contextmanager
def attempt_worktree(
    project: Path,
    run_id: str,
    node_id: str,
    *,
    uncommitted: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Worktree]:
    """A fresh worktree for the block; it is removed at the end, whatever the end is.

    Raises:
        UsageError: the project is in no git repository, or in one without a commit.
        GitError: git could not make it.
        StorageError: a part of the path in `.sage` is a link.
    """
    repository = _Repository.of(project, environ)
    parts = (*safe_parts(run_id), *safe_parts(node_id))
    path = _own_directory(project, "worktrees", *parts[:-1]) / parts[-1]
    repository.forget(path)
    base = repository.snapshot() if uncommitted else repository.head
    try:
        yield repository.add(path, base, parts)
    finally:
        _clean_up(repository, path)


def _clean_up(repository: _Repository, path: Path) -> None:
    """What cannot be removed now is no reason to lose a result: the next attempt removes it."""
    try:
        repository.forget(path)
        for folder in list(path.parents)[:2]:  # of the phase and of the run; others may still be in it
            folder.rmdir()
    except (OSError, StorageError, GitError):
        pass


def safe_parts(name: str) -> tuple[str, ...]:
    """`name`, split at its slashes, as parts that are file names and parts of git's names alike.

    Where characters had to go, eight hex digits of the name's SHA-256 keep two names apart.

    >>> safe_parts("research/search")
    ('research', 'search')
    """
    return tuple(_safe_part(part) for part in name.split("/"))


def _safe_part(part: str) -> str:
    if _PLAIN.fullmatch(part) and not part.endswith(".lock") and len(part) <= 150:
        return part
    digest = hashlib.sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', part)[:140].strip('-') or 'node'}-{digest}"


@dataclass(frozen=True, slots=True)
class _Repository:
    """The repository that the project is in. root: of its checkout. inside: the project's place in that."""

    project: Path
    root: Path
    inside: Path
    head: str
    environ: Mapping[str, str]

    @classmethod
    def of(cls, project: Path, environ: Mapping[str, str]) -> _Repository:
        env = git_environment(environ)
        if reason := foreign_git(Path(os.path.realpath(project))):
            raise UsageError(f"git would find another repository at {project}: {reason}; clone it anew")
        try:
            root = git(project, env, "rev-parse", "--show-toplevel").rstrip("\n")
        except GitError as cause:
            raise UsageError(
                f"{project} is in no git repository ({cause}); an agent that changes files works in a worktree of "
                "its own: run `git init` and commit, or say `worktree: false` to let it only read"
            ) from cause
        if not root:
            raise UsageError(f"{project} is in a git repository without a checkout")
        try:
            head = git(project, env, "rev-parse", "--verify", "--end-of-options", "HEAD^{commit}").strip()
        except GitError as cause:
            raise UsageError(
                f"the repository {root} has no commit yet: commit once, then run again"
            ) from cause
        real = Path(os.path.realpath(project))
        env = without_filters(project, env)
        return cls(project, Path(root), real.relative_to(os.path.realpath(root)), head, env)

    def git(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        return git(self.root, {**self.environ, **(env or {})}, *arguments)

    def snapshot(self) -> str:
        """HEAD, or a commit on top of it with what the checkout has not committed. Uses an index of its own."""
        with tempfile.TemporaryDirectory(prefix="sage-index-") as folder:
            index = Path(folder) / "index"
            try:  # the checkout's own index knows which files are unchanged
                shutil.copyfile(self.root / self.git("rev-parse", "--git-path", "index").rstrip("\n"), index)
            except FileNotFoundError:
                pass
            env = {"GIT_INDEX_FILE": str(index)}
            if not index.exists():
                self.git("read-tree", "HEAD", env=env)
            self.git("add", "--all", "--", ":/", ":(exclude,top,glob)**/.sage/**", env=env)
            tree = self.git("write-tree", env=env).strip()
        if tree == self.git("rev-parse", f"{self.head}^{{tree}}").strip():
            return self.head
        message = "What the checkout had not committed when an agent was started"
        return self.git("commit-tree", "-p", self.head, "-m", message, tree, env=_AUTHOR).strip()

    def add(self, path: Path, base: str, parts: tuple[str, ...]) -> Worktree:
        """Makes the worktree at `path`, detached at `base`."""
        self.git("worktree", "add", "--detach", "--force", "--", str(path), base)
        git_dir = Path(git(path, self.environ, "rev-parse", "--absolute-git-dir").rstrip("\n"))
        return Worktree(self, path, path / self.inside, base, git_dir, parts)

    def forget(self, path: Path) -> None:
        """Removes the worktree and what git knows of it, in whatever state a crash left them."""
        if os.path.lexists(path):
            remove_tree(path)
        known = self.git("worktree", "list", "--porcelain", "-z").split("\0")
        if not {f"worktree {path}", f"worktree {os.path.realpath(path)}"}.isdisjoint(known):
            self.git("worktree", "remove", "--force", "--force", "--", str(path))


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree that is there. root: its top. directory: the project's place in it. base: the commit it began at."""

    _repository: _Repository
    root: Path
    directory: Path
    base: str
    git_dir: Path
    _parts: tuple[str, ...]

    def collect(self, message: str, *, leaves: tuple[str, ...] = (), keeps_branch: bool = True) -> Changes:
        """What changed here since the base, as a patch file and as a branch.

        Args:
            message: of the commit for what nobody committed here.
            leaves: pathspecs of what is not part of it.

        Raises:
            GitError: the worktree was damaged, or git failed.
        """
        final = self._commit_rest(message, leaves)
        if final == self.base:
            return Changes(self.base)
        patch = self._write_patch(final)
        with patch.open(encoding="utf-8", errors="backslashreplace") as file:
            diff = file.read(_DIFF_CHARS + 1)
        files = self._files(final)
        return Changes(
            base=self.base,
            files=files[:_MAX_FILES],
            file_count=len(files),
            commits=self._commits(final),
            diff=diff[:_DIFF_CHARS],
            diff_cut=len(diff) > _DIFF_CHARS,
            patch=patch,
            branch=self._keep_branch(final) if keeps_branch else None,
        )

    def _git(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        # The directories are said, not found: the `.git` file here is the agent's to change.
        where = ("--git-dir", str(self.git_dir), "--work-tree", str(self.root))
        return git(self.root, {**self._repository.environ, **(env or {})}, *where, *arguments)

    def _commit_rest(self, message: str, leaves: tuple[str, ...]) -> str:
        """The commit that holds all there is; nothing is committed where nothing changed."""
        excluded = [f":(exclude,top,glob)**/{each}{inside}" for each in leaves for inside in ("", "/**")]
        self._git("add", "--all", "--", ":/", *excluded)
        head = self._git("rev-parse", "--verify", "HEAD^{commit}").strip()
        tree = self._git("write-tree").strip()
        if tree == self._git("rev-parse", f"{head}^{{tree}}").strip():
            return head
        return self._git("commit-tree", "-p", head, "-m", message, tree, env=_AUTHOR).strip()

    def _write_patch(self, final: str) -> Path:
        """The patch, whole under its name or not there."""
        folder = _own_directory(self._repository.project, "artifacts", *self._parts[:-1])
        path = folder / f"{self._parts[-1]}.patch"
        temporary = temporary_name(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            self._git(*_DIFF, "--binary", "--full-index", f"--output={temporary}", self.base, final)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def _files(self, final: str) -> list[dict[str, Any]]:
        rows = self._git(*_DIFF, "--numstat", "-z", self.base, final).split("\0")
        return [_file_row(row) for row in rows if row]

    def _commits(self, final: str) -> list[dict[str, str]]:
        """Those that the agent made, oldest first."""
        said = self._git(
            "log",
            "--no-show-signature",
            f"--max-count={_MAX_COMMITS}",
            "-z",
            "--format=%H%x09%s",
            f"{self.base}..{final}",
        )
        rows = [row.partition("\t") for row in said.split("\0") if row]
        known = self._git("rev-parse", "HEAD").strip()
        reached = rows if known == final else rows[1:]  # the first is ours
        return [{"id": commit, "subject": shown_name(subject)} for commit, _, subject in reversed(reached)]

    def _keep_branch(self, final: str) -> str | None:
        """The branch that now holds the result; None where git takes no branch of that name."""
        name = "/".join(("sage", *self._parts))
        for number in range(1, _MAX_NAMES):
            branch = name if number == 1 else f"{name}-{number}"
            try:
                self._git("update-ref", f"refs/heads/{branch}", final, "0" * len(final))  # only if it is new
            except GitError:
                continue
            return branch
        return None


def _file_row(row: str) -> dict[str, Any]:
    added, removed, path = row.split("\t", 2)
    counts = {
        "added": None if added == "-" else int(added),
        "removed": None if removed == "-" else int(removed),
    }
    return {"path": shown_name(path), **counts}


def _own_directory(project: Path, top: str, *parts: str) -> Path:
    """The directory `.sage/top/parts`, made where it is missing, and ignored by git.

    Raises:
        StorageError: a part is a link (a repository can bring one along): we would write, and remove, elsewhere.
    """
    path = project
    for part in (".sage", top, *parts):
        path = path / part
        try:
            path.mkdir(mode=0o755 if part == ".sage" else 0o700, exist_ok=True)
        except OSError as cause:
            raise StorageError(f"cannot make {path}: {cause}") from cause
        if path.is_symlink():
            raise StorageError(f"{path} is a link; it must lie in the project itself: remove the link")
    try:
        with (project / ".sage" / top / ".gitignore").open("x", encoding="ascii") as file:  # follows no link
            file.write(_IGNORE_ALL)
    except FileExistsError:
        pass
    return path


def remove_tree(path: Path) -> None:
    """Removes `path`, which may be a link (only that goes then) or hold directories that cannot be written.

    Raises:
        StorageError: something of it cannot be removed.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, onerror=_open_and_retry)
    except OSError as cause:
        raise StorageError(f"cannot remove {path}: {cause}") from cause


def _open_and_retry(function: Callable[..., Any], path: str, info: Any) -> None:
    """Makes the directory and what holds it writable, and tries once more."""
    if not isinstance(info[1], PermissionError):
        raise info[1]
    for each in (os.path.dirname(path), path):
        if not os.path.islink(each):
            os.chmod(each, stat.S_IRWXU)
    if function in (os.scandir, os.open):
        shutil.rmtree(path)
    else:
        function(path)

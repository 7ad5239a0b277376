"""Facts about a repository: its files, what state they are in, and its history. Works without git, too.

git is only asked, never obeyed: no hook, filter, pager, external diff, signature program or transport that the
repository configures is run, and no call is waited for without an end. The contents of files are compared here
and not by `git status`, because that runs the clean filters of the repository's own configuration.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sage_actors.servers.corpus.repository_own import foreign_git

__all__ = ["EXCLUDED", "Commit", "Repository", "SourceFile", "repository_state", "shown_name"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXCLUDED = (".git/", ".sage/", "docs/specs/")
"""What a run writes itself, and git's own: no evidence, and no change of the project."""

_GIT = (
    *("git", "--no-pager", "--literal-pathspecs"),
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.untrackedCache=false"),
    *("-c", "safe.bareRepository=explicit", "-c", "log.mailmap=false"),
    *("-c", "log.showSignature=false", "-c", "i18n.logOutputEncoding=UTF-8", "-c", "core.quotePath=false"),
)
_GIT_VARIABLES = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "none",  # a partial clone would fetch what is missing
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C.UTF-8",
}
_TIMEOUT_S = 10.0
_OUTPUT_BYTES = 64_000_000
_MAX_FILES = 50_000
_MAX_TOUCHED = 100  # files of one commit that are kept: an import of a thousand files says nothing about one
_HASHED_BYTES = 1_000_000  # a larger file that differs counts by its size and time
_LEFT_BY_TOOLS = _words(
    "node_modules bower_components __pycache__ .venv .tox .nox .eggs .mypy_cache .pytest_cache .ruff_cache"
)
_SKIPPED_FOLDERS = _LEFT_BY_TOOLS | _words("site-packages venv env .hg .svn build dist target")
_ENTRY = re.compile(
    rb"(\d{6}) ([0-9a-f]{40,64}) \d\t([^\0]+)\0"
    rb"  ctime: [^\n]*\n  mtime: (\d+):(\d+)\n[^\n]*\n[^\n]*\n  size: (\d+)\t[^\n]*\n"
)
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file inside the root. `path`: relative, with `/`, undecodable bytes as surrogates.

    content: the id of its content where git's index knows it and nothing hints at a change, else None.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the history that touches the project. `date`: ISO 8601, of the committer."""

    commit: str
    date: str
    subject: str
    body: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Listing:
    files: tuple[SourceFile, ...]
    git: bool
    notes: tuple[str, ...] = field(default=())


def repository_state(root: Path) -> str:
    """A hash of what `root` holds: the commit, and every file's content that may differ from it.

    `.sage/` and `docs/specs/` do not count. Equal contents at an equal commit give equal hashes, in any clone;
    without git, files count by path, size and time of change.
    """
    return Repository(root).state_hash()


def shown_name(path: str) -> str:
    r"""`path` as text that any encoder takes: bytes that are not UTF-8 become `\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Repository:
    """What is known of the project at `root`, as of the first look: make a new one to look again."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._inside = _Inside(self.root)

    @property
    def is_git(self) -> bool:
        """Whether git lists the files; else the folder is walked."""
        return self._listing.git

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Tracked, and untracked but neither ignored nor left by tools, such as `__pycache__/`; sorted.

        No links, no submodules, nothing of `EXCLUDED`.
        """
        return self._listing.files

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be seen, and why."""
        return self._listing.notes

    @cached_property
    def head(self) -> str | None:
        """The commit that is checked out; None without git or before the first commit."""
        name = self.git("rev-parse", "--verify", "--quiet", "HEAD").decode("ascii", "replace").strip()
        return name if _COMMIT.fullmatch(name) else None

    def state_hash(self, exclude: Iterable[str] = EXCLUDED) -> str:
        """A hash of the commit and of all contents, except the folders `exclude` (each ends in `/`)."""
        prefixes = tuple(exclude)
        digest = hashlib.sha256(f"{self.head or ''}\n".encode())
        for file in self.files:
            if not file.path.startswith(prefixes):
                line = f"{file.path}\0{file.content or self._fingerprint(file)}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read_bytes(self, path: str, limit_bytes: int = 1_000_000) -> bytes | None:
        """The first `limit_bytes` of the file at `path`; None where it is gone, no regular file, or outside."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or not self._inside.holds("/".join(parts[:-1])):
            return None
        try:
            fd = os.open(
                os.path.join(self.root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError:
            return None
        with os.fdopen(fd, "rb") as stream:
            try:
                return stream.read(limit_bytes) if stat.S_ISREG(os.fstat(fd).st_mode) else None
            except OSError:
                return None

    @cached_property
    def head_date(self) -> str:
        """When `head` was committed, ISO 8601; "" without one."""
        out = self.git("log", "-1", "--no-show-signature", "--format=%cI") if self.head else b""
        return out.decode("ascii", "replace").strip()

    def history(self, limit: int = 2000) -> list[Commit]:
        """The newest `limit` commits that touch the project, without merges, and without those that hold only what
        a run wrote: `EXCLUDED` is no evidence here either."""
        if self.head is None:
            return []
        return list(_commits(self.git("log", *_LOG_OPTIONS, f"--max-count={limit}", "--", ".")))

    def change_statistics(self, commit: str) -> str:
        """What `commit` changed, as git's `--stat` table, at most 20 files.

        Raises:
            ValueError: `commit` is no commit id.
        """
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"{commit!r} is no commit id: give its 40 hexadecimal digits")
        out = self.git("show", *_DIFF_OPTIONS, "--stat=100", "--stat-count=20", "--format=", commit)
        return out.decode("utf-8", "replace").strip("\n")

    def git(self, *arguments: str, timeout_s: float = _TIMEOUT_S, limit_bytes: int = _OUTPUT_BYTES) -> bytes:
        """What git prints, cut at `limit_bytes`; nothing where git is missing, fails or takes too long.

        Nothing either where the repository that git would find is another's (`foreign_git`).
        """
        if self._foreign:
            return b""
        try:
            process = subprocess.Popen(
                [*_GIT, *arguments],
                cwd=self.root,
                env=_git_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return b""
        with process:
            out, complete = _read(process, time.monotonic() + timeout_s, limit_bytes)
            if not complete:
                process.kill()
            failed = process.wait() != 0
        return out if not failed or len(out) >= limit_bytes else b""

    @cached_property
    def git_refusal(self) -> str:
        """Why git reads nothing of a folder that has a `.git`, in its own words; "" where it does, or there is none."""
        if self._foreign or not os.path.lexists(self.root / ".git"):
            return ""
        try:
            asked = subprocess.run(
                [*_GIT, "rev-parse", "--git-dir"],
                cwd=self.root,
                env=_git_environment() | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return shown_name(str(error))
        first = shown_name(os.fsdecode(asked.stderr)).strip().split("\n")[0]
        said = first.removeprefix("fatal: ").replace(str(self.root), ".")
        return (said or "it fails without a word") if asked.returncode else ""

    @cached_property
    def _foreign(self) -> str:
        return foreign_git(self.root)

    @cached_property
    def _listing(self) -> _Listing:
        if self._foreign:
            files, notes = _walk(self._inside)
            return _Listing(
                files, git=False, notes=(*notes, f"git would have read another repository: {self._foreign}")
            )
        tracked = self.git("ls-files", "--stage", "--debug", "-z", "--", ".")
        others = self.git("ls-files", "--others", "--exclude-standard", "-z", "--", ".")
        if tracked or others:
            return self._listed(tracked, others)
        files, notes = _walk(self._inside)
        refusal = (f"git does not read this repository: {self.git_refusal}",) if self.git_refusal else ()
        return _Listing(files, git=False, notes=(*refusal, *notes))

    def _listed(self, tracked: bytes, others: bytes) -> _Listing:
        """The files that git names and that are there. One that the index knows unchanged has its content's id."""
        index_written_ns = self._index_time()
        found: dict[str, SourceFile] = {}
        submodules = []
        for mode, content, name, seconds, nanoseconds, size in _ENTRY.findall(tracked):
            path = os.fsdecode(name)
            if mode == b"160000":
                submodules.append(shown_name(path))
            elif (file := self._inside.file(path)) is not None:
                mtime_ns = int(seconds) * 10**9 + int(nanoseconds)
                clean = file.mtime_ns == mtime_ns and file.size_bytes == int(size)
                settled = mtime_ns < index_written_ns  # else it may have changed within the clock's grain
                known = content.decode() if clean and settled else None
                found[path] = SourceFile(path, file.size_bytes, file.mtime_ns, known)
        for name in others.split(b"\0"):
            path = os.fsdecode(name)
            if (
                name
                and _LEFT_BY_TOOLS.isdisjoint(path.split("/"))
                and (file := self._inside.file(path)) is not None
            ):
                found[file.path] = file
        notes = (f"submodules are not looked into: {', '.join(submodules[:5])}",) if submodules else ()
        return _Listing(tuple(found[path] for path in sorted(found)), git=True, notes=notes)

    def _index_time(self) -> int:
        name = self.git("rev-parse", "--git-path", "index").rstrip(b"\n")
        try:
            return os.stat(self.root / os.fsdecode(name)).st_mtime_ns if name else 0
        except OSError:
            return 0

    def _fingerprint(self, file: SourceFile) -> str:
        """The id that git would give the content, so that an edit and its undoing end where they began."""
        if not self.is_git or file.size_bytes > _HASHED_BYTES:
            return f"{file.size_bytes}:{file.mtime_ns}"
        data = self.read_bytes(file.path, _HASHED_BYTES) or b""
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


_DIFF_OPTIONS = ("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules", "--relative")
_LOG_OPTIONS = (
    *_DIFF_OPTIONS,
    "--no-merges",
    "--no-show-signature",
    "--no-notes",
    "--name-only",
    "-z",
    "--format=%x1e%H%x1f%cI%x1f%s%x1f%b%x1f",
)


def _git_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("GIT_")} | _GIT_VARIABLES


def _commits(out: bytes) -> Iterator[Commit]:
    for record in out.decode("utf-8", "surrogateescape").split("\x1e"):
        fields = record.split("\x1f")
        if len(fields) == 5 and _COMMIT.fullmatch(fields[0]):
            names = [shown_name(name) for each in fields[4].split("\0") if (name := each.strip("\n"))]
            files = tuple(name for name in names if not name.startswith(EXCLUDED))
            subject, body = (shown_name(text).strip() for text in fields[2:4])
            if files or not names:
                yield Commit(fields[0], fields[1], subject, body, files[:_MAX_TOUCHED])


def _read(process: subprocess.Popen[bytes], deadline: float, limit_bytes: int) -> tuple[bytes, bool]:
    """What it prints until the end, the deadline or the limit; whether that was the end."""
    assert process.stdout is not None
    fd, size = process.stdout.fileno(), 0
    chunks: list[bytes] = []
    looked = select.poll()  # select knows no descriptor from 1024 on
    looked.register(fd, select.POLLIN)
    while size < limit_bytes:
        ready = looked.poll(max(0.0, deadline - time.monotonic()) * 1000)
        chunk = os.read(fd, 1 << 16) if ready else None
        if not chunk:
            return b"".join(chunks), chunk is not None
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)[:limit_bytes], False


class _Inside:
    """Looks at files without leaving the root: a folder that is a link to elsewhere is not entered."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._folders: dict[str, bool] = {}

    def file(self, path: str) -> SourceFile | None:
        if path.startswith(EXCLUDED) or not self.holds(os.path.dirname(path)):
            return None
        try:
            status = os.lstat(os.path.join(self.root, path))
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return SourceFile(path, status.st_size, status.st_mtime_ns)

    def holds(self, folder: str) -> bool:
        if folder not in self._folders:
            full = os.path.join(self.root, folder) if folder else self.root
            self._folders[folder] = os.path.realpath(full) == full
        return self._folders[folder]


def _walk(inside: _Inside) -> tuple[tuple[SourceFile, ...], tuple[str, ...]]:
    """The files of a folder without git, except what tools leave behind."""
    found: list[SourceFile] = []
    for folder, names, files in os.walk(inside.root):
        relative = os.path.relpath(folder, inside.root)
        prefix = "" if relative == "." else f"{relative}/"
        names[:] = sorted(n for n in names if n not in _SKIPPED_FOLDERS and f"{prefix}{n}/" not in EXCLUDED)
        found += [
            file
            for name in sorted(files)
            if name != ".git" and (file := inside.file(prefix + name)) is not None
        ]
        if len(found) > _MAX_FILES:
            return tuple(found[:_MAX_FILES]), (f"only the first {_MAX_FILES} files were looked at",)
    return tuple(sorted(found, key=lambda file: file.path)), ("no git: the folder was walked",)

"""Whether the repository that git would find is the project's own: what comes along could name another one.

    .git                     a folder                                    own
    .git -> elsewhere        a link                                      another's
    .git: "gitdir: PATH"     a file, of a worktree or a submodule        own, if what is at PATH says so in turn
    .git/commondir, .git/refs -> ..., .git/objects -> ...                another's, unless they lead back

git itself follows all of these. A project that was unpacked, not cloned, can bring them; without this look the
subjects and authors of another repository of its user would stand in a document.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["foreign_git"]

_LIMIT_BYTES = 4096
_PARTS = ("HEAD", "refs", "objects", "packed-refs")


def foreign_git(root: Path) -> str:
    """Why git would read another repository at `root`, a real path; "" where it would not, or there is none."""
    top = next((each for each in (root, *root.parents) if os.path.lexists(each / ".git")), None)
    if top is None:
        return ""
    entry = top / ".git"
    if entry.is_symlink():
        return ".git is a link"
    directory = entry if entry.is_dir() else _named_directory(entry)
    if directory is None:
        return ""  # git will say so itself
    if directory != entry and not _leads_back(directory, entry):
        return ".git names a folder that does not know it"
    common = _common(directory)
    if common != directory and common != Path(os.path.realpath(directory)).parent.parent:
        return "it takes its history from elsewhere"
    return _linked_part(directory, common)


def _named_directory(entry: Path) -> Path | None:
    text = _line(entry)
    return Path(os.path.normpath(entry.parent / text[7:].strip())) if text.startswith("gitdir:") else None


def _leads_back(directory: Path, entry: Path) -> bool:
    """A worktree's directory names its `.git` file; a submodule's names the folder, in its configuration."""
    if text := _line(directory / "gitdir"):
        return _same(directory / text, entry)
    try:
        with (directory / "config").open("rb") as file:
            lines = file.read(_LIMIT_BYTES).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    pairs = (line.partition("=") for line in lines)
    said = [value.strip().strip('"') for name, _, value in pairs if name.strip().lower() == "worktree"]
    return any(_same(directory / each, entry.parent) for each in said)


def _common(directory: Path) -> Path:
    text = _line(directory / "commondir")
    return Path(os.path.realpath(directory / text)) if text else directory


def _linked_part(directory: Path, common: Path) -> str:
    """A part of it that is a link to elsewhere; the branch that is checked out counts, too."""
    head = _line(directory / "HEAD")
    parts = [directory / "HEAD", *(common / each for each in _PARTS[1:])]
    if head.startswith("ref:"):
        parts.append(common / head[4:].strip())
    inside = (os.path.join(os.path.realpath(common), ""), os.path.join(os.path.realpath(directory), ""))
    linked = next((each for each in parts if not os.path.realpath(each).startswith(inside)), None)
    return "" if linked is None else f"its {linked.name} is a link"


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _line(path: Path) -> str:
    """The first line of a small regular file, or ""."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return file.readline(_LIMIT_BYTES).decode("utf-8", "surrogateescape").strip()
    except (OSError, ValueError):
        return ""

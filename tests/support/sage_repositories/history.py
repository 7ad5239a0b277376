"""A git history from data: one `git fast-import` for all of its commits, with authors and dates of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ADA", "BO", "CHE", "Change", "replay"]

ADA = "Ada Byron <ada@example.org>"
BO = "Bo Rask <bo@example.org>"
CHE = "Che Łukasz <che@example.org>"
_FIRST = 1_700_000_000  # 2023-11-14, and a week between commits
_WEEK = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Change:
    """One commit. files: their whole new content. edits: (old text, new text) in files that are there."""

    message: str
    author: str
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    edits: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


def replay(root: Path, changes: Sequence[Change]) -> Path:
    """Makes `root` a repository whose branch main has these commits, checked out; the same ids each time."""
    root.mkdir(parents=True, exist_ok=True)
    _git(root, "init", "-q", "-b", "main")
    _git(root, "config", "gc.auto", "0")
    _git(root, "fast-import", "--quiet", stdin=_stream(changes))
    _git(root, "reset", "-q", "--hard", "main")
    return root


def _stream(changes: Sequence[Change]) -> bytes:
    """What `git fast-import` reads. Format: git-fast-import(1)."""
    out = bytearray()
    known: dict[str, str] = {}
    for number, change in enumerate(changes):
        written = {**change.files, **_edited(known, change)}
        known |= written
        out += f"commit refs/heads/main\ncommitter {change.author} {_FIRST + number * _WEEK} +0000\n".encode()
        out += _data(change.message)
        for path, text in written.items():
            mode = "100755" if text.startswith("#!") else "100644"
            out += f"M {mode} inline {path}\n".encode() + _data(text)
    return bytes(out)


def _edited(known: Mapping[str, str], change: Change) -> dict[str, str]:
    edited = {}
    for path, (old, new) in change.edits.items():
        assert known[path].count(old) == 1, f"{path} does not hold this once: {old!r}"
        edited[path] = known[path].replace(old, new)
    return edited


def _data(text: str) -> bytes:
    data = text.encode()
    return b"data %d\n%s\n" % (len(data), data)


def _git(root: Path, *arguments: str, stdin: bytes = b"") -> None:
    subprocess.run(["git", *arguments], cwd=root, input=stdin, check=True, capture_output=True)

"""What a skill consists of, by content: what a user consents to before its scripts run, and a copy of exactly that."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sage_actors.servers.skills.read import Skill, SkillFileError, read_regular_file

__all__ = ["content_of", "copy_content"]

_MAX_FILES = 1_000
_MAX_BYTES = 32 * 1024 * 1024


class _Entry(NamedTuple):
    """One file, or a link to a folder (`target`: its real path), by its path in the skill's folder."""

    name: str
    data: bytes = b""
    is_executable: bool = False
    target: str = ""

    @property
    def said(self) -> str:
        """What consent is given to. Whether it is executable decides what executes a script."""
        if self.target:
            return f"-> {self.target}".encode("utf-8", "backslashreplace").decode()
        return hashlib.sha256(self.data).hexdigest() + (" x" if self.is_executable else "")


def content_of(skill: Skill) -> dict[str, str]:
    """SHA-256 of each file in the skill's folder, by its path there; a link to a folder by where it leads.

    Upstream's skills are one file each.

    Raises:
        SkillFileError: it has more files or bytes than a skill has, or one that cannot be read.
    """
    return {_text(entry.name): entry.said for entry in _entries(skill)}


def copy_content(skill: Skill, folder: Path) -> dict[str, str]:
    """`content_of` what is then in `folder`, an empty one: each file is read once, for both.

    Whoever compares the result with what was consented to and executes the copy executes nothing else, whoever
    changes the skill meanwhile. Links that lead out of the skill are left out.

    Raises:
        SkillFileError: as `content_of`.
        OSError: the copy cannot be written.
    """
    content = {}
    root = os.path.realpath(skill.folder)
    for entry in _entries(skill):
        content[_text(entry.name)] = entry.said
        path = folder / entry.name
        real = entry.target or os.path.realpath(skill.folder / entry.name)
        if not real.startswith(os.path.join(root, "")):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.target:
            path.symlink_to(os.path.relpath(real, os.path.join(root, os.path.dirname(entry.name))))
        else:
            path.write_bytes(entry.data)
            path.chmod(0o700 if entry.is_executable else 0o600)
    return content


def _entries(skill: Skill) -> Iterator[_Entry]:
    if skill.format != "agent-skill":
        yield _file(skill.path, skill.path.name, _MAX_BYTES)
        return
    left = _MAX_BYTES
    for number, path in enumerate(_paths(skill.folder)):
        if number >= _MAX_FILES:
            raise SkillFileError(f"it has more than {_MAX_FILES} files; nobody can consent to that")
        name = str(path.relative_to(skill.folder))
        if path.is_dir():
            yield _Entry(name, target=os.path.realpath(path))
        else:
            entry = _file(path, name, left)
            left -= len(entry.data)
            yield entry


def _paths(folder: Path) -> list[Path]:
    """Files, and links to folders, which are not entered."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders.sort()  # __pycache__ too: Python executes what is in it without a look at the source
        found += [Path(root, name) for name in folders if os.path.islink(os.path.join(root, name))]
        found += [Path(root, name) for name in files]
        if len(found) > _MAX_FILES:
            break
    return sorted(found)


def _file(path: Path, name: str, limit_bytes: int) -> _Entry:
    try:
        data = read_regular_file(path, limit_bytes=limit_bytes)
        return _Entry(name, data, bool(path.stat().st_mode & stat.S_IXUSR))
    except OSError as cause:
        raise SkillFileError(f"{path.name} cannot be read: {cause}") from cause


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")

"""What a skill consists of, by content: what a user consents to before its scripts run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sage_actors.servers.skills_read import Skill, SkillFileError, read_regular_file

__all__ = ["content_of"]

_MAX_FILES = 1_000
_MAX_BYTES = 32 * 1024 * 1024


def content_of(skill: Skill) -> dict[str, str]:
    """SHA-256 of each file in the skill's folder, by its path there; a link to a folder by where it leads.

    Upstream's skills are one file each.

    Raises:
        SkillFileError: it has more files or bytes than a skill has, or one that cannot be read.
    """
    if skill.format != "agent-skill":
        return {skill.path.name: _digest(skill.path, _MAX_BYTES)[0]}
    found: dict[str, str] = {}
    left = _MAX_BYTES
    for path in _entries(skill.folder):
        if len(found) >= _MAX_FILES:
            raise SkillFileError(f"it has more than {_MAX_FILES} files; nobody can consent to that")
        name = os.fsencode(path.relative_to(skill.folder)).decode("utf-8", "backslashreplace")
        if path.is_dir():
            found[name] = f"-> {os.path.realpath(path)}".encode("utf-8", "backslashreplace").decode()
        else:
            found[name], size = _digest(path, left)
            left -= size
    return found


def _entries(folder: Path) -> list[Path]:
    """Files, and links to folders, which are not entered."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders.sort()  # __pycache__ too: Python executes what is in it without a look at the source
        found += [Path(root, name) for name in folders if os.path.islink(os.path.join(root, name))]
        found += [Path(root, name) for name in files]
        if len(found) > _MAX_FILES:
            break
    return sorted(found)


def _digest(path: Path, limit_bytes: int) -> tuple[str, int]:
    try:
        data = read_regular_file(path, limit_bytes=limit_bytes)
    except OSError as cause:
        raise SkillFileError(f"{path.name} cannot be read: {cause}") from cause
    return hashlib.sha256(data).hexdigest(), len(data)

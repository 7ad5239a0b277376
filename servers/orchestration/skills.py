"""The skills that the orchestration server serves: the package's own, and those its user consented to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sage_actors.messages.errors import UsageError
from sage_actors.servers.orchestration.skills_extension import ServedSkill
from sage_actors.supervisor.json_text import to_line

if TYPE_CHECKING:
    from sage_actors.actors.trust.consents import TrustStore
    from sage_actors.servers.skills.read import Skill

__all__ = ["served_skills"]

_MOST_FILES = 100  # of one skill
_MOST_BYTES = 1024 * 1024  # of one file


def served_skills(project: Path) -> Iterator[ServedSkill]:
    """The project's trusted skills, as they are now; the package's own comes last, so that none takes its place."""
    yield from _trusted_skills(project)
    yield _packaged_skill()


def _packaged_skill() -> ServedSkill:
    """The skill that `sage-actors init` writes, too."""
    from sage_actors.supervisor.setup.texts import skill_text

    text = skill_text()
    return ServedSkill("sage-workflow", _frontmatter(text), {"SKILL.md": text.encode()})


def _trusted_skills(project: Path) -> Iterator[ServedSkill]:
    from sage_actors.actors.trust.consents import TrustStore
    from sage_actors.servers.skills.discovery import discover_skills

    store = TrustStore()
    for skill in discover_skills(project):
        if skill.origin == "project" and skill.format == "agent-skill" and _is_trusted(store, project, skill):
            served = _read(skill.name, skill.folder)
            if served is not None:
                yield served


def _is_trusted(store: TrustStore, project: Path, skill: Skill) -> bool:
    from sage_actors.actors.operations.skill import skill_item

    try:
        item = skill_item(skill)
    except UsageError:  # it cannot be read as a whole: nobody can have consented to it
        return False
    return item is not None and store.trusts(project, item)


def _read(name: str, folder: Path) -> ServedSkill | None:
    """The skill in a folder; None where it is not of the Agent Skills' form."""
    root = os.path.realpath(folder)
    files: dict[str, bytes] = {}
    for path in sorted(Path(root).rglob("*")):
        place = os.path.relpath(path, root)
        if len(files) < _MOST_FILES and _is_servable(path, place, root):
            files[place] = path.read_bytes()
    if "SKILL.md" not in files:
        return None
    return ServedSkill(name, _frontmatter(files["SKILL.md"].decode("utf-8", "replace")), files)


def _is_servable(path: Path, place: str, root: str) -> bool:
    """A regular file that no link leads out of the skill to, with a name that a URI can have."""
    real = Path(os.path.realpath(path))
    try:
        place.encode()
        return real.is_relative_to(root) and real.is_file() and real.stat().st_size <= _MOST_BYTES
    except (OSError, UnicodeEncodeError):
        return False


def _frontmatter(text: str) -> dict[str, Any]:
    parts = text.split("---\n", 2)
    try:
        found = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except yaml.YAMLError:
        return {}
    plain: dict[str, Any] = json.loads(to_line(found)) if isinstance(found, dict) else {}  # YAML has dates
    return plain

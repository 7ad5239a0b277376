"""Skills of a project and of its user: found in every known place, the first of a name wins.

    .sage/skills/           folders with SKILL.md, and upstream's <slug>.md files     (this project's own place)
    .agents/skills/         folders with SKILL.md                                     (shared by coding agents)
    .claude/skills/         folders with SKILL.md
    .sage/agent/skills/     upstream's <category>/<slug>.md
    ~/.agents/skills/  ~/.claude/skills/     the user's own, after those of the project

Loads the standard library and YAML alone: others import this at their start.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from sage_actors.servers.skills.read import Format, Skill, SkillFileError, clean, read_skill

__all__ = ["OWN_SKILL", "Discovery", "Skill", "discover_skills", "find_skills"]

OWN_SKILL = "sage-workflow"
"""What `sage-actors init` writes: it tells agents of us, and nothing about the project."""

_MAX_DEPTH = 5  # folders below a place of skills
_MAX_FOLDERS = 2_000  # that are looked into, in one place
_MAX_SKILLS = 500  # in one place
_MAX_SCRIPTS = 100
_MAX_SCRIPT_DEPTH = 2


class _Place(NamedTuple):
    folder: str
    origin: Literal["project", "user"]
    plain_files: bool  # upstream's <slug>.md are skills there


_PLACES = (
    _Place(".sage/skills", "project", True),
    _Place(".agents/skills", "project", False),
    _Place(".claude/skills", "project", False),
    _Place(".sage/agent/skills", "project", True),
    _Place(".agents/skills", "user", False),
    _Place(".claude/skills", "user", False),
)


@dataclass(frozen=True, slots=True)
class Discovery:
    """skills: one of each name, in the order of the places. warnings: what was left out or is faulty."""

    skills: list[Skill]
    warnings: list[str]


def discover_skills(project: Path, home: Path | None = None) -> list[Skill]:
    """The skills that may be used in `project`; `home` (the user's home directory if None) has the user's."""
    return find_skills(project, home).skills


def find_skills(project: Path, home: Path | None = None) -> Discovery:
    """As `discover_skills`, with what was wrong. Never raises for what lies in the places."""
    project = Path(os.path.realpath(project))
    warnings: list[str] = []
    found: dict[str, Skill] = {}
    seen: set[str] = set()
    for place in _PLACES:
        base = project if place.origin == "project" else _home(home)
        if base is None:
            continue
        for skill in _skills_in(base, place, seen, warnings):
            first = found.setdefault(skill.name, skill)
            if first is not skill and _bytes_of(first) != _bytes_of(skill):
                warnings.append(
                    f"{skill.place}: not used, since {first.place} has the name {skill.name!r} already"
                )
    return Discovery(list(found.values()), warnings)


def _bytes_of(skill: Skill) -> bytes | None:
    """Its file: many tools keep the same skill in several folders."""
    try:
        return Path(skill.path).read_bytes()
    except OSError:
        return None


def _home(home: Path | None) -> Path | None:
    try:
        return home or Path.home()
    except RuntimeError:
        return None


def _skills_in(base: Path, place: _Place, seen: set[str], warnings: list[str]) -> Iterator[Skill]:
    """The skills of one place. `seen`: real paths of files; a place that links to another adds nothing."""
    root = base / place.folder
    inside = base if place.origin == "project" else None
    if inside is not None and not _is_inside(root, inside):
        if os.path.lexists(root):
            warnings.append(f"{place.folder}: it leads out of the project, and was not looked into")
        return
    number = 0
    for path, form in _files(root, inside, place.plain_files, warnings):
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        shown = _shown(path, base, place.origin)
        try:
            skill, faults = read_skill(path, format=form, origin=place.origin, place=shown)
        except SkillFileError as error:
            # A README beside skills is no fault.
            if form == "agent-skill" or "no frontmatter" not in str(error):
                warnings.append(f"{shown}: left out: {error}")
            continue
        warnings += [f"{shown}: {fault}" for fault in faults]
        yield replace(skill, scripts=_scripts(skill)) if form == "agent-skill" else skill
        number += 1
        if number >= _MAX_SKILLS:
            warnings.append(f"{place.folder}: more than {_MAX_SKILLS} skills; the rest was left out")
            return


def _files(
    root: Path, inside: Path | None, plain_files: bool, warnings: list[str]
) -> Iterator[tuple[Path, Format]]:
    """Files that may be skills, by the names of their folders; nothing is looked for inside a skill."""
    open_ = [(root, 0)]
    visited: set[str] = set()
    while open_:
        folder, depth = open_.pop()
        real = os.path.realpath(folder)
        if real in visited or (inside is not None and not _is_inside(folder, inside)):
            continue
        visited.add(real)
        if len(visited) > _MAX_FOLDERS:
            warnings.append(f"{root}: more than {_MAX_FOLDERS} folders; the rest was left out")
            return
        names = _names(folder)
        main = next((name for name in names if name.lower() == "skill.md"), None)
        if main is not None and depth:
            if inside is None or _is_inside(folder / main, inside):
                yield folder / main, "agent-skill"
            else:
                warnings.append(f"{folder.relative_to(inside)}/{main}: it leads out of the project")
            continue
        if plain_files:
            for name in names:
                path = folder / name
                if name.lower().endswith(".md") and (inside is None or _is_inside(path, inside)):
                    yield path, "sage"
        if depth < _MAX_DEPTH:
            # last in, first out: the folders in the order of their names
            open_ += [(folder / name, depth + 1) for name in reversed(names) if _is_folder(folder / name)]


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_inside(path: Path, directory: Path) -> bool:
    """Whether `path`, its links followed, lies in `directory` (a real path)."""
    real = os.path.realpath(path)
    return real == str(directory) or real.startswith(os.path.join(str(directory), ""))


def _shown(path: Path, base: Path, origin: str) -> str:
    relative = str(path.relative_to(base))
    return clean(relative if origin == "project" else f"~/{relative}")  # documents cite it: name no user


def _scripts(skill: Skill) -> tuple[str, ...]:
    """Regular files below `scripts/`, none of which leads out of the skill's folder."""
    folder = Path(os.path.realpath(skill.folder))
    found: list[str] = []
    open_ = [(folder / "scripts", 0)]
    while open_ and len(found) < _MAX_SCRIPTS:
        at, depth = open_.pop()
        for name in _names(at):
            path = at / name
            if not _is_inside(path, folder):
                continue
            if _is_regular(path):
                found.append(str(path.relative_to(folder)))
            elif depth < _MAX_SCRIPT_DEPTH and name != "__pycache__" and _is_folder(path):
                open_.append((path, depth + 1))
    return tuple(sorted(found)[:_MAX_SCRIPTS])


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False

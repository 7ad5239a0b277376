"""Saved patterns: one JSON file a repository, written whole or not at all, read from our folder and upstream's.

They go where documents may go, and into those two folders; what is there and holds no patterns is not replaced.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from sage_actors.messages.secret_scan import redact
from sage_actors.servers.documents.documents import KEPT_FOLDERS
from sage_actors.servers.patterns.model import PatternSet
from sage_actors.servers.patterns.scan import OutsideProjectError, contained

__all__ = [
    "DEFAULT_FOLDER",
    "LEGACY_FOLDER",
    "Loaded",
    "NoPlaceError",
    "check_folder",
    "find_saved",
    "load_saved",
    "save",
]

DEFAULT_FOLDER = ".sage/patterns"
LEGACY_FOLDER = ".sage/agent/examples"
"""Where upstream's sage-context-optimizer saves. Its files are TypeScript that node 20 cannot load; they are named."""

_MAX_BYTES = 8_000_000
_MAX_FILES = 100


class NoPlaceError(Exception):
    """A place where patterns are not saved; the text says why, and where they may be."""


class Loaded:
    """What a folder holds. `notes`: which files are no patterns, and why."""

    def __init__(self) -> None:
        self.sets: list[PatternSet] = []
        self.notes: list[str] = []


def save(project: Path, folder: str, patterns: PatternSet) -> str:
    """Writes the set into `folder`, without secrets, and returns the file's path, relative to the project.

    A crash leaves the old file or the new one, and at most a hidden temporary file beside it.

    Raises:
        OutsideProjectError: `folder` leads out of the project.
        NoPlaceError: nothing is saved in `folder`, or another file of that name is there.
        OSError: it cannot be written.
    """
    directory = check_folder(project, folder)
    target = directory / f"{_file_name(patterns)}.json"
    if not _may_replace(target):
        shown = target.relative_to(project.resolve()).as_posix()
        raise NoPlaceError(
            f"{shown} is there and holds no patterns: it is not replaced; give another folder, such as {DEFAULT_FOLDER}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{target.name}.{secrets.token_hex(4)}"
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(redact(patterns.model_dump(mode="json"))[0], file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target.relative_to(project.resolve()).as_posix()


def check_folder(project: Path, folder: str) -> Path:
    """The folder to save in, as `save` takes it; raises what that raises."""
    directory = contained(project, folder)
    path = directory.relative_to(project.resolve())
    ours = any(path.is_relative_to(PurePosixPath(each)) for each in (DEFAULT_FOLDER, LEGACY_FOLDER))
    if not ours and any(part.lower() in KEPT_FOLDERS for part in path.parts):
        raise NoPlaceError(f"nothing is saved in {path}; give another folder, such as {DEFAULT_FOLDER}")
    return directory


def _may_replace(target: Path) -> bool:
    """Whether nothing is there, or saved patterns, of whatever version."""
    try:
        fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return True  # what stands in the folder's place is found when that is made
    except OSError:  # a link, or nothing that can be read
        return False
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        try:
            content = json.loads(file.read(_MAX_BYTES + 1))
        except (ValueError, RecursionError):
            return False
    return isinstance(content, dict) and {"format", "repo_name", "patterns"} <= content.keys()


def load_saved(project: Path, folder: str | None) -> Loaded:
    """All sets of `folder`; without one, of the first of our folder and upstream's that has any.

    Raises:
        OutsideProjectError: `folder` leads out of the project.
    """
    loaded = Loaded()
    if folder is not None:
        _load_folder(project, contained(project, folder), loaded)
        return loaded
    for each in (DEFAULT_FOLDER, LEGACY_FOLDER):
        try:
            _load_folder(project, contained(project, each), loaded)
        except (
            OutsideProjectError
        ) as error:  # a link that the project brings: nothing to read, and no fault of ours
            loaded.notes.append(str(error))
        if loaded.sets:
            break
    return loaded


def find_saved(project: Path, root: str, state: str) -> PatternSet | None:
    """The set that was saved of `root` in this very state."""
    for each in load_saved(project, None).sets:
        if each.root == root and each.state == state:
            return each
    return None


def _load_folder(project: Path, directory: Path, loaded: Loaded) -> None:
    try:
        names = sorted(each.name for each in os.scandir(directory) if not each.name.startswith("."))
    except OSError:
        return
    typescript = [name for name in names if name.endswith(".ts")]
    if typescript:
        loaded.notes.append(
            f"{directory.name}/ holds patterns saved as TypeScript ({', '.join(typescript[:3])}), which are code and "
            "are not run; extract_patterns makes them anew"
        )
    for name in [each for each in names if each.endswith(".json")][:_MAX_FILES]:
        _load_file(project, directory / name, loaded)


def _load_file(project: Path, path: Path, loaded: Loaded) -> None:
    try:
        contained(project, str(path))  # a link may lead anywhere
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        loaded.sets.append(PatternSet.model_validate(json.loads(content)))
    except ValidationError as error:
        loaded.notes.append(f"{path.name} holds no patterns of this version ({error.error_count()} faults)")
    except Exception as error:  # noqa: BLE001 - one bad file must not hide the others
        loaded.notes.append(f"{path.name} cannot be read as patterns: {error}")


def _file_name(patterns: PatternSet) -> str:
    """Of the repository, and of the folder in it."""
    name = patterns.repo_name if patterns.root == "." else f"{patterns.root}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "project"

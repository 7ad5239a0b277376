"""The projects whose state this user's keys have sealed, so that no key is dropped that one of them still needs.

`$XDG_CONFIG_HOME/sage-actors/projects`: a real path in JSON a line. A hint: what is lost of it is not asked about.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from sage_actors.actors.audit.files import log_files
from sage_actors.actors.keys.key_file import default_key_path
from sage_actors.actors.state.disk import exclusive_directory, make_private_directory, replace_file
from sage_actors.actors.state.journal_format import HEADER_BYTES

__all__ = ["known_projects", "note_project", "uses_of_key"]

_log = logging.getLogger(__name__)
_MANY = 1_000  # above this many, those that are gone are forgotten
_KEY_ID = slice(12, 20)  # in the header of a segment, see `journal_format`


def note_project(project: Path, environ: Mapping[str, str] = os.environ) -> None:
    """State of `project` is sealed from now on. Where that cannot be noted, nothing fails."""
    path, line = _path(environ), os.path.realpath(project)
    if line in _read(path):
        return
    try:
        make_private_directory(path.parent)
        with exclusive_directory(path.parent):
            lines = [*dict.fromkeys([*_read(path), line])]
            if len(lines) > _MANY:
                lines = [each for each in lines if os.path.isdir(each)]
            replace_file(path, "".join(f"{json.dumps(each)}\n" for each in lines).encode(), durable=False)
    except OSError as cause:
        _log.warning("%s was not noted among the projects with state: %s", project, cause)


def known_projects(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Those that were noted, whether they are still there or not."""
    return [Path(each) for each in _read(_path(environ))]


def uses_of_key(project: Path, key_id: bytes) -> list[str]:
    """What of the project is sealed under that key: runs, archived runs, records of the audit log. No key is needed.

    Raises:
        OSError: something there cannot be read.
    """
    sage = project / ".sage"
    runs = Counter(
        str(path.parent.relative_to(sage / "state"))
        for path in _segments(sage / "state")
        if _is_under(path, key_id)
    )
    used = [f"run {name}" for name in sorted(runs)]
    needle = b'"key":"%s"' % key_id.hex().encode()
    records = sum(path.read_bytes().count(needle) for path in log_files(sage)) if sage.is_dir() else 0
    return [*used, f"{records:,} records of the audit log"] if records else used


def _segments(state: Path) -> Iterator[Path]:
    if state.is_dir():
        os.listdir(state)  # `glob` takes what it may not read for empty
    yield from state.glob("*/journal-*.sage")
    yield from state.glob("archive/*/journal-*.sage")


def _is_under(path: Path, key_id: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)[_KEY_ID] == key_id


def _path(environ: Mapping[str, str]) -> Path:
    return default_key_path(environ).with_name("projects")


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            each = json.loads(line)
        except ValueError:
            continue
        if isinstance(each, str):
            found.append(each)
    return found

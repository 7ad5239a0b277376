"""`init`: what an agent needs to run workflows in a project, written beside what is there.

    .sage/.gitignore                           state and caches stay on this machine
    .claude/commands/sage.workflow.md          the command /sage.workflow
    .claude/skills/sage-workflow/SKILL.md      the same, for agents that discover skills
    .agents/skills/sage-workflow/SKILL.md
    .mcp.json                                  the server sage-orchestration, merged into what is there

All is worked out before anything is written. What would be overwritten is copied to `<name>.bak-<n>` first. A crash
leaves each file old or new, whole; a second call does the rest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sage_actors.actors.state.directory import GITIGNORE, StateDirectory
from sage_actors.actors.state.disk import replace_shared_file
from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.supervisor.setup.mcp_json import merge_server
from sage_actors.supervisor.setup.texts import SERVER_NAME, command_text, server_entry, skill_text

__all__ = ["Change", "apply_changes", "plan_changes"]

_COMMAND = ".claude/commands/sage.workflow.md"
_SKILLS = (".claude/skills/sage-workflow/SKILL.md", ".agents/skills/sage-workflow/SKILL.md")
_MOST_BYTES = 4 * 1024 * 1024
_MARK = b"sage-actors"  # in every text of ours


@dataclass(frozen=True, slots=True)
class Change:
    """What `init` does about one file.

    path: relative to the project. backup: where the old content goes, relative too, "" if nothing is lost.
    """

    path: str
    action: Literal["create", "replace", "merge", "keep"]
    backup: str = ""
    note: str = ""
    content: bytes | None = None


def plan_changes(project: Path) -> list[Change]:
    """What has to be written, and what is there already. Writes nothing.

    Raises:
        UsageError: `.mcp.json` cannot be merged into, or a link in the way leads out of the project.
    """
    changes = [_gitignore(project), _text(project, _COMMAND, command_text())]
    seen: set[str] = set()
    for path in _SKILLS:
        real = os.path.realpath(project / path)  # one is often a link to the other
        if real not in seen:
            seen.add(real)
            changes.append(_text(project, path, skill_text()))
    changes.append(_servers(project))
    return changes


def apply_changes(project: Path, changes: list[Change]) -> None:
    """Write what `plan_changes` found.

    Raises:
        StorageError: a file cannot be written; says which. Those before it are done.
        StateError: `.sage` is a link, or somebody else's.
    """
    StateDirectory(project).create()
    for change in changes:
        if change.content is None:
            continue
        path = _target(project, change.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if change.backup:
                _copy(path, project / change.backup)
            replace_shared_file(path, change.content)
        except OSError as cause:
            raise StorageError(f"{change.path} cannot be written: {cause}") from cause


def _gitignore(project: Path) -> Change:
    path = ".sage/.gitignore"
    old = _read(_target(project, path))
    if old is None:  # made with the state directory
        return Change(path, "create", note="keeps state and caches out of git")
    new = _with_our_lines(old)
    if new == old:
        return Change(path, "keep")
    return Change(
        path, "merge", note="keeps state and caches out of git; your lines have the last word", content=new
    )


def _with_our_lines(old: bytes) -> bytes:
    """`old` with our lines that it lacks, before its own: of two that match a path git obeys the later one."""
    lines = old.splitlines(keepends=True)
    said = {line.strip() for line in lines}
    ours = [line.encode() for line in GITIGNORE.splitlines()]
    missing = [line for line in ours if line not in said and not line.startswith(b"#")]
    if b"*" in missing:
        return b"".join(line + b"\n" for line in ours) + old
    at = next(number for number, line in enumerate(lines, 1) if line.strip() == b"*")
    before = b"".join(lines[:at])
    gap = b"" if before.endswith((b"\n", b"\r")) or not missing else b"\n"
    return before + gap + b"".join(line + b"\n" for line in missing) + b"".join(lines[at:])


def _text(project: Path, name: str, text: str) -> Change:
    new, old = text.encode(), _read(_target(project, name))
    if old is None:
        return Change(name, "create", content=new)
    if old == new:
        return Change(name, "keep")
    foreign = _MARK not in old
    note = "there was another command of that name (sage-dev's own, or yours)" if foreign else ""
    return Change(name, "replace", _backup(project, name), note, new)


def _servers(project: Path) -> Change:
    name = ".mcp.json"
    old = _read(_target(project, name))
    merged = merge_server(old, SERVER_NAME, server_entry(), source=name)
    if merged.content is None:
        return Change(name, "keep", note=merged.note)
    if old is None:
        return Change(name, "create", content=merged.content)
    backup = _backup(project, name) if merged.rewritten else ""
    return Change(name, "merge", backup, merged.note, merged.content)


def _target(project: Path, name: str) -> Path:
    """Where `name` really lies; a link may lead elsewhere in the project, not out of it."""
    root, real = os.path.realpath(project), os.path.realpath(project / name)
    if not Path(real).is_relative_to(root):
        raise UsageError(
            f"{name} leads out of the project, to {real}; nothing was written. Remove the link, or set that "
            "place up by itself"
        )
    return Path(real)


def _read(path: Path) -> bytes | None:
    """The content of a regular file; None if there is nothing."""
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hold this process up
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise UsageError(f"{path} cannot be read: {cause}; nothing was written") from cause
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"{path} is no file; nothing was written")
    with open(fd, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES:,} bytes; nothing was written")
    return data


def _backup(project: Path, name: str) -> str:
    return next(each for each in _backup_names(name) if not os.path.lexists(project / each))


def _backup_names(name: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{name}.bak-{number}"


def _copy(source: Path, target: Path) -> None:
    data = source.read_bytes()
    with open(target, "xb") as file:
        os.fchmod(file.fileno(), stat.S_IMODE(source.stat().st_mode))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""One skill file, read leniently: the Agent Skills format (SKILL.md) and upstream's (<slug>.md).

    ---
    name: release-notes              Agent Skills: `name` and `description` are required
    description: Writes ...          upstream: no description; its Purpose section is one
    metadata: {tools: "git>=2.30"}   upstream: prerequisites: {tools: [git>=2.30], knowledge: [...]}
    ---
    # Instructions ...

What a faulty file still says is used, and each fault is a warning. A skill comes from a repository: nothing
of it is executed here, and its texts lose their control characters before anybody prints them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from sage_actors.messages.unseen import UNSEEN

__all__ = [
    "MAX_SKILL_BYTES",
    "Skill",
    "SkillFileError",
    "clean",
    "read_regular_file",
    "read_skill",
    "split_skill",
]

MAX_SKILL_BYTES = 256 * 1024
_MAX_FRONTMATTER_CHARS = 32 * 1024
_MAX_DESCRIPTION_CHARS = 1024  # as the Agent Skills specification says
_MAX_NAME_CHARS = 64
_MAX_ITEMS = 100  # of a list in the frontmatter
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_FRONTMATTER = re.compile(r"\A---[ \t]*\n(.*?)\n?^---[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_PURPOSE = re.compile(r"^#{1,6}[ \t]*purpose[ \t]*\n+(.+?)(?:\n[ \t]*\n|\n#|\Z)", re.I | re.M | re.S)
_PLAIN_FIELD = re.compile(r"^(name|description|category):[ \t]*(.+)$", re.MULTILINE)
_NEITHER_TEXT = re.compile(f"[\x00-\x1f\x7f-\x9f{UNSEEN}\ud800-\udfff]+")

Format = Literal["agent-skill", "sage"]


class SkillFileError(Exception):
    """The file is no skill that can be used; says why."""


@dataclass(frozen=True, slots=True)
class Skill:
    """What is known of a skill without its instructions.

    path: its file. origin: "project" or "user". place: the file as people see it, relative to the project or
    `~/...`. tools: prerequisites such as `git>=2.30`. knowledge: names of other skills, or of what one should
    know. scripts: relative to `folder`, in order of their names; they run only with the user's consent.
    """

    name: str
    description: str
    path: Path
    origin: Literal["project", "user"] = "project"
    format: Format = "agent-skill"
    place: str = ""
    category: str = ""
    languages: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    knowledge: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where its scripts and references are."""
        return self.path.parent

    def read(self) -> str:
        """Its instructions, without the frontmatter. Raises OSError if the file is gone by now."""
        return self.read_from()[0]

    def read_from(self) -> tuple[str, int]:
        """Its instructions, and the line of the file, from 1, at which they begin. Raises OSError as `read`."""
        text = _decode(read_regular_file(self.path))
        body = split_skill(text)[1]
        return body, 1 + text.count("\n") - body.count("\n")


def read_skill(
    path: Path, *, format: Format, origin: Literal["project", "user"] = "project", place: str = ""
) -> tuple[Skill, list[str]]:
    """The skill in a file, and warnings about what is not as it should be.

    Raises:
        SkillFileError: it cannot be read, or has no name or no description.
    """
    try:
        text = _decode(read_regular_file(path))
    except OSError as cause:
        raise SkillFileError(f"cannot be read: {cause.strerror or cause}") from cause
    head, body = split_skill(text)
    if not head:
        raise SkillFileError("it has no frontmatter between two lines of ---")
    data, warnings = _frontmatter(head)
    metadata = _map(data.get("metadata"))
    needs = _map(data.get("prerequisites"))
    skill = Skill(
        name=_name(data, path, format, warnings),
        description=_description(data, body, format, warnings),
        path=path,
        origin=origin,
        format=format,
        place=place or str(path),
        category=_text(data.get("category") or metadata.get("category")),
        languages=_texts(data.get("languages") or metadata.get("languages")),
        tools=_texts(needs.get("tools") or metadata.get("tools")),
        knowledge=_texts(needs.get("knowledge") or metadata.get("knowledge")),
    )
    return skill, warnings


def split_skill(text: str) -> tuple[str, str]:
    """(frontmatter, body); the frontmatter is "" where there is none."""
    match = _FRONTMATTER.match(text)
    return (match.group(1), text[match.end() :]) if match else ("", text)


def read_regular_file(path: Path, *, limit_bytes: int = MAX_SKILL_BYTES) -> bytes:
    """The bytes of a regular file. OSError if it is something else, or larger than the limit."""
    # O_NONBLOCK: a FIFO in a repository must not hold this process up
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a regular file")
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(f"it is larger than {limit_bytes // 1024} KB")
    return data


def clean(text: str) -> str:
    """One line that a terminal can show: control characters and line ends become spaces."""
    return _NEITHER_TEXT.sub(" ", text).strip()


def _decode(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")


def _frontmatter(head: str) -> tuple[dict[str, Any], list[str]]:
    if len(head) > _MAX_FRONTMATTER_CHARS:
        raise SkillFileError(f"its frontmatter is longer than {_MAX_FRONTMATTER_CHARS} characters")
    try:
        data = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        # Often a description with a colon in it, which many readers of skills accept.
        plain = {name: value.strip(" \"'") for name, value in _PLAIN_FIELD.findall(head)}
        reason = clean(str(cause).partition("\n")[0]) or type(cause).__name__
        return plain, [f"its frontmatter is no valid YAML ({reason}); only plain lines were read"]
    if not isinstance(data, dict):
        raise SkillFileError("its frontmatter is no map of names to values")
    return data, []


def _name(data: Mapping[str, Any], path: Path, format: Format, warnings: list[str]) -> str:
    own = path.parent.name if format == "agent-skill" else path.stem
    name = _text(data.get("name"))
    if not name:
        warnings.append(f"it has no name; its place gives it {own!r}")
        name = clean(own)
    if len(name) > _MAX_NAME_CHARS:
        raise SkillFileError(f"its name is longer than {_MAX_NAME_CHARS} characters")
    if format == "agent-skill" and not _NAME.match(name):
        warnings.append(f"the name {name!r} should be lower-case letters, digits and single hyphens")
    elif format == "agent-skill" and name != own:
        warnings.append(f"the name {name!r} is not that of its folder, {clean(own)!r}")
    return name


def _description(data: Mapping[str, Any], body: str, format: Format, warnings: list[str]) -> str:
    description = _text(data.get("description"))
    if not description and format == "sage" and (purpose := _PURPOSE.search(body)):
        description = clean(purpose.group(1))
    if not description:
        raise SkillFileError("it has no description; say in the frontmatter what it does and when to use it")
    if len(description) > _MAX_DESCRIPTION_CHARS:
        warnings.append(f"its description is longer than {_MAX_DESCRIPTION_CHARS} characters; it was cut")
        description = description[:_MAX_DESCRIPTION_CHARS]
    return description


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """A scalar as one line. Nothing nested: YAML's aliases can make a few bytes expand without end."""
    return clean(str(value)) if isinstance(value, (str, int, float)) else ""


def _texts(value: Any) -> tuple[str, ...]:
    """A list, or a text with commas (the Agent Skills metadata holds texts only)."""
    parts: Iterable[Any] = (
        value.split(",") if isinstance(value, str) else value if isinstance(value, list) else ()
    )
    texts = (_text(each) for each in list(parts)[:_MAX_ITEMS])
    return tuple(dict.fromkeys(text for text in texts if text))

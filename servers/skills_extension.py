"""The Skills extension (SEP-2640): skills/list, skills/get and skill:// resources with size and digest.

Served are the package's own skill and those skills of the project that its user consented to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.resources import BinaryResource, Resource, TextResource
from mcp.types import INVALID_PARAMS, RequestParams

__all__ = ["IDENTIFIER", "ServedSkill", "Skills", "packaged_skill"]

IDENTIFIER = "io.modelcontextprotocol/skills"
_MOST_FILES = 100
_MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServedSkill:
    """A skill as it was when the server started. files: by path inside its folder; SKILL.md is one."""

    name: str
    frontmatter: dict[str, Any]
    files: dict[str, bytes]

    @property
    def uri(self) -> str:
        return f"skill://{self.name}/SKILL.md"

    def entry(self) -> dict[str, Any]:
        """The skill as `skills/list` has it."""
        return {
            "uri": self.uri,
            "frontmatter": self.frontmatter,
            "resources": [
                {
                    "uri": f"skill://{self.name}/{path}",
                    "size": len(data),
                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                }
                for path, data in self.files.items()
            ],
        }


class _SkillParams(RequestParams):
    uri: str


class Skills(Extension):
    """The skills of the package, and the trusted ones of `project`."""

    identifier = IDENTIFIER

    def __init__(self, project: Path) -> None:
        served = (*_trusted_skills(project), packaged_skill())  # the package's takes precedence
        self._skills = {each.uri: each for each in served}

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("skills/list", RequestParams, self._list),
            MethodBinding("skills/get", _SkillParams, self._get),
        ]

    def resources(self) -> list[ResourceBinding]:
        return [ResourceBinding(each) for skill in self._skills.values() for each in _resources(skill)]

    async def _list(self, ctx: ServerRequestContext[Any, Any], params: RequestParams) -> dict[str, Any]:
        return {"skills": [each.entry() for each in self._skills.values()], **_COMPLETE}

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: _SkillParams) -> dict[str, Any]:
        skill = self._skills.get(params.uri)
        if skill is None:
            raise MCPError(code=INVALID_PARAMS, message=f"there is no skill {params.uri!r}")
        return {"skill": skill.entry(), **_COMPLETE}


_COMPLETE = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


def packaged_skill() -> ServedSkill:
    """The skill that `sage-actors init` writes, too."""
    from sage_actors.supervisor.setup_texts import skill_text

    text = skill_text()
    return ServedSkill("sage-workflow", _frontmatter(text), {"SKILL.md": text.encode()})


def _trusted_skills(project: Path) -> Iterator[ServedSkill]:
    from sage_actors.actors.op_skill import skill_item
    from sage_actors.actors.trust import TrustStore
    from sage_actors.servers.skills import discover_skills

    store = TrustStore()
    for skill in discover_skills(project):
        item = skill_item(skill) if skill.origin == "project" and skill.format == "agent-skill" else None
        if item is not None and store.trusts(project, item):
            served = _read(skill.name, skill.folder)
            if served is not None:
                yield served


def _read(name: str, folder: Path) -> ServedSkill | None:
    """The skill in a folder; None where it is not one of the Agent Skills' form."""
    files: dict[str, bytes] = {}
    root = os.path.realpath(folder)
    for path in sorted(Path(root).rglob("*"))[: _MOST_FILES * 10]:
        real = os.path.realpath(path)
        if (
            not os.path.isfile(real)
            or not real.startswith(os.path.join(root, ""))
            or len(files) >= _MOST_FILES
        ):
            continue
        if os.path.getsize(real) <= _MOST_BYTES:
            files[os.path.relpath(path, root)] = Path(real).read_bytes()
    if "SKILL.md" not in files:
        return None
    return ServedSkill(name, _frontmatter(files["SKILL.md"].decode("utf-8", "replace")), files)


def _frontmatter(text: str) -> dict[str, Any]:
    parts = text.split("---\n", 2)
    try:
        found = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _resources(skill: ServedSkill) -> Iterator[Resource]:
    for path, data in skill.files.items():
        uri, name = f"skill://{skill.name}/{path}", f"{skill.name}/{path}"
        try:
            kind = "text/markdown" if path.endswith(".md") else "text/plain"
            yield TextResource(uri=uri, name=name, mime_type=kind, text=data.decode())
        except UnicodeDecodeError:
            yield BinaryResource(uri=uri, name=name, mime_type="application/octet-stream", data=data)

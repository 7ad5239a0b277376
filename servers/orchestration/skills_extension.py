"""The Skills extension (SEP-2640): skills/list, skills/get and skill:// resources with size and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, ResourceBinding
from mcp.server.mcpserver.resources import BinaryResource, Resource, TextResource
from mcp.types import INVALID_PARAMS, RequestParams

__all__ = ["IDENTIFIER", "ServedSkill", "Skills"]

IDENTIFIER = "io.modelcontextprotocol/skills"


@dataclass(frozen=True, slots=True)
class ServedSkill:
    """A skill as it was when the server started. files: by path inside its folder; SKILL.md is one."""

    name: str
    frontmatter: dict[str, Any]
    files: dict[str, bytes]

    @property
    def uri(self) -> str:
        return self.uri_of("SKILL.md")

    def uri_of(self, path: str) -> str:
        """Of a file by its path in the skill's folder."""
        return f"skill://{quote(self.name)}/{quote(path)}"

    def entry(self) -> dict[str, Any]:
        """The skill as `skills/list` has it."""
        return {
            "uri": self.uri,
            "frontmatter": self.frontmatter,
            "resources": [
                {
                    "uri": self.uri_of(path),
                    "size": len(data),
                    "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
                }
                for path, data in self.files.items()
            ],
        }


class _SkillParams(RequestParams):
    uri: str


class Skills(Extension):
    """Serves `skills`; of two with one name the last."""

    identifier = IDENTIFIER

    def __init__(self, skills: Iterable[ServedSkill]) -> None:
        self._skills = {each.uri: each for each in skills}

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


def _resources(skill: ServedSkill) -> Iterator[Resource]:
    for path, data in skill.files.items():
        uri, name = skill.uri_of(path), f"{skill.name}/{path}"
        try:
            kind = "text/markdown" if path.endswith(".md") else "text/plain"
            yield TextResource(uri=uri, name=name, mime_type=kind, text=data.decode())
        except UnicodeDecodeError:
            yield BinaryResource(uri=uri, name=name, mime_type="application/octet-stream", data=data)

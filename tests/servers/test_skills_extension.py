"""The Skills extension (SEP-2640): what is served, with sizes and digests that fit, and what is not."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.server import MCPServer
from mcp.types import Request, RequestParams, Result
from pydantic import ConfigDict

from sage_actors.actors.operations.skill import skill_item
from sage_actors.actors.trust.consents import TrustStore
from sage_actors.servers.orchestration.skills import served_skills
from sage_actors.servers.orchestration.skills_extension import Skills
from sage_actors.servers.skills.discovery import discover_skills
from sage_actors.supervisor.setup.texts import skill_text


class _Any(Result):
    model_config = ConfigDict(extra="allow")


class _Params(RequestParams):
    model_config = ConfigDict(extra="allow")


class _Ask(Request[_Params, Any]):
    method: Any
    params: _Params


def write_skill(project: Path, name: str, **files: str) -> Path:
    folder = project / ".agents" / "skills" / name
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(f"---\nname: {name}\ndescription: Does {name}.\n---\n# {name}\n")
    for path, text in files.items():
        (folder / path).write_text(text)
    return folder


def consent(project: Path) -> None:
    items = [item for skill in discover_skills(project) if (item := skill_item(skill)) is not None]
    TrustStore().consent(project, items)


def served(project: Path) -> dict[str, dict[str, Any]]:
    """Each skill by its name, after every resource was read and compared with its size and digest."""

    async def main() -> dict[str, dict[str, Any]]:
        async with Client(MCPServer("test", extensions=[Skills(served_skills(project))])) as client:
            skills = (await _ask(client, "skills/list"))["skills"]
            for skill in skills:
                assert (await _ask(client, "skills/get", uri=skill["uri"]))["skill"] == skill
                for resource in skill["resources"]:
                    content: Any = (await client.read_resource(resource["uri"])).contents[0]
                    data = content.text.encode()
                    assert len(data) == resource["size"]
                    assert resource["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
            return {skill["frontmatter"]["name"]: skill for skill in skills}

    return asyncio.run(main())


async def _ask(client: Client, method: str, **fields: Any) -> dict[str, Any]:
    answer: Any = await client.session.send_request(_Ask(method=method, params=_Params(**fields)), _Any)
    said: dict[str, Any] = answer.model_dump(by_alias=True)
    return said


def test_the_package_s_skill_is_served_everywhere(tmp_path: Path) -> None:
    (skill,) = served(tmp_path).values()
    assert skill["uri"] == "skill://sage-workflow/SKILL.md"
    assert skill["resources"][0]["size"] == len(skill_text().encode())


def test_a_project_s_skill_is_served_only_as_it_was_consented_to(tmp_path: Path) -> None:
    folder = write_skill(tmp_path, "release", **{"notes.md": "step 1\n", "a b.md": "é"})
    assert set(served(tmp_path)) == {"sage-workflow"}
    consent(tmp_path)
    found = served(tmp_path)
    assert [each["uri"] for each in found["release"]["resources"]] == [
        "skill://release/SKILL.md",
        "skill://release/a%20b.md",
        "skill://release/notes.md",
    ]
    (folder / "notes.md").write_text("step 2\n")
    assert set(served(tmp_path)) == {"sage-workflow"}


def test_no_link_leads_out_of_a_skill(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = write_skill(tmp_path, "release")
    (folder / os.fsdecode(b"\xff.md")).write_text("a name that no URI can have")
    (folder / "leak.md").symlink_to(secret)
    consent(tmp_path)
    uris = [each["uri"] for each in served(tmp_path)["release"]["resources"]]
    assert uris == ["skill://release/SKILL.md"]


def test_a_skill_of_the_project_does_not_take_the_package_s_place(tmp_path: Path) -> None:
    write_skill(tmp_path, "sage-workflow")
    consent(tmp_path)
    assert served(tmp_path)["sage-workflow"]["resources"][0]["size"] == len(skill_text().encode())


def test_an_unknown_skill_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client(MCPServer("test", extensions=[Skills(served_skills(tmp_path))])) as client:
            with pytest.raises(MCPError, match="no skill"):
                await _ask(client, "skills/get", uri="skill://nope/SKILL.md")
            with pytest.raises(MCPError):
                await client.read_resource("skill://sage-workflow/../../secret")

    try:
        asyncio.run(main())
    except* AssertionError as group:
        raise group.exceptions[0] from None

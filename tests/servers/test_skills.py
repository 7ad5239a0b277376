"""Skills: where they are found, what of a faulty one is used, and that none leads out of the project."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import SOURCES

from sage_actors.servers.skills import needs as skills_needs
from sage_actors.servers.skills.discovery import Skill, discover_skills, find_skills
from sage_actors.servers.skills.needs import KnowledgeNeed, check_knowledge, check_tools
from sage_actors.servers.skills.search import skills_search

UPSTREAM = """---
name: Flaky test triage
category: testing
languages: [python, go]
prerequisites:
  tools: ["git>=2.20", pytest]
  knowledge: [release-notes]
validated: true
---
# Flaky test triage

## Purpose

Finds out why a test fails now and then.
Runs it many times.

## Algorithm

Repeat the test until it fails twice in the same way.
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


def write_skill(root: Path, name: str, description: str = "Does it.", body: str = "# Steps\n") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    path = folder / "SKILL.md"
    path.write_text(f"---\nname: {name}\ndescription: {description}\n---\n{body}", encoding="utf-8")
    return path


def write_file(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def by_name(skills: list[Skill]) -> dict[str, Skill]:
    return {skill.name: skill for skill in skills}


@pytest.mark.requirement("ORCH-020")
def test_skills_of_all_places_are_found_and_the_first_of_a_name_wins(project: Path, home: Path) -> None:
    for root in (".sage/skills", ".agents/skills", ".claude/skills"):
        write_skill(project / root, "shared", f"from {root}")
    write_skill(project / ".agents/skills", "agents-own")
    write_skill(project / ".claude/skills", "claude-own")
    write_file(project / ".sage/agent/skills/testing/flaky.md", UPSTREAM)
    write_skill(home / ".agents/skills", "claude-own", "the user's")
    write_skill(home / ".claude/skills", "users-own")
    found = find_skills(project, home)
    names = [skill.name for skill in found.skills]
    assert names == ["shared", "agents-own", "claude-own", "Flaky test triage", "users-own"]
    skills = by_name(found.skills)
    assert skills["shared"].description == "from .sage/skills"
    assert (skills["claude-own"].origin, skills["users-own"].origin) == ("project", "user")
    assert len([warning for warning in found.warnings if "already" in warning]) == 3


def test_upstreams_format_is_read_with_its_purpose_as_description(project: Path, home: Path) -> None:
    path = write_file(project / ".sage/agent/skills/testing/flaky.md", UPSTREAM)
    (skill,) = discover_skills(project, home)
    assert skill.description == "Finds out why a test fails now and then. Runs it many times."
    assert (skill.category, skill.languages) == ("testing", ("python", "go"))
    assert (skill.tools, skill.knowledge) == (("git>=2.20", "pytest"), ("release-notes",))
    assert skill.read() == path.read_text().partition("---\n# ")[2].join(["# ", ""])
    assert skill.place == ".sage/agent/skills/testing/flaky.md"


def test_agent_skills_say_their_prerequisites_in_their_metadata(project: Path, home: Path) -> None:
    text = '---\nname: notes\ndescription: d\nmetadata:\n  tools: "git>=2.30, jq"\n---\n'
    write_file(project / ".agents/skills/notes/SKILL.md", text)
    (skill,) = discover_skills(project, home)
    assert skill.tools == ("git>=2.30", "jq")


def test_scripts_are_the_regular_files_of_the_scripts_folder(project: Path, home: Path) -> None:
    folder = write_skill(project / ".sage/skills", "release").parent
    write_file(folder / "scripts/run.sh", "echo")
    write_file(folder / "scripts/lib/b.py", "")
    write_file(folder / "references/run.sh", "")
    write_file(project / "outside.sh", "echo")
    (folder / "scripts/out.sh").symlink_to(project / "outside.sh")
    os.mkfifo(folder / "scripts/pipe")
    (skill,) = discover_skills(project, home)
    assert skill.scripts == ("scripts/lib/b.py", "scripts/run.sh")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("---\nname: x\n---\nbody", "no description"),
        ("no frontmatter", "no frontmatter"),
        ("---\n- a\n- b\n---\n", "no map"),
        ("---\ndescription: [a, b]\n---\n", "no description"),
        (b"---\nname: x\ndescription: " + b"y" * 300_000 + b"\n---\n", "larger than"),
        ("---\nname: x\ndescription: d\n" + "# c\n" * 10_000 + "---\n", "frontmatter is longer"),
        ("---\nname: " + "n" * 65 + "\ndescription: d\n---\n", "longer than 64"),
        ("", "no frontmatter"),
    ],
)
def test_what_cannot_be_a_skill_is_left_out_with_the_reason(
    project: Path, home: Path, content: str | bytes, reason: str
) -> None:
    write_file(project / ".claude/skills/x/SKILL.md", content)
    write_skill(project / ".claude/skills", "good")
    found = find_skills(project, home)
    assert [skill.name for skill in found.skills] == ["good"]
    (warning,) = found.warnings
    assert ".claude/skills/x/SKILL.md" in warning
    assert reason in warning


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf---\r\nname: x\r\ndescription: d\r\n---\r\nbody\r\n",
        b"---\nname: x\ndescription: caf\xe9 d\n---\n",
        b"---\nname: x\ndescription: d\ncreated: 2026-99-99\n---\n",
        b"---\nname: x\ndescription: Use when: there is a colon\n---\n",
        b"---\nname: x\ndescription: d\nbad: [1, 2\n---\n",
        b"---\nname: x\ndescription: d\ndeep: " + b"[" * 2000 + b"\n---\n",
        b"---\nname: x\ndescription: d\n---",
    ],
    ids=["bom", "latin1", "date", "colon", "bracket", "deep", "no-end"],
)
def test_a_faulty_file_is_used_as_far_as_it_goes(project: Path, home: Path, content: bytes) -> None:
    write_file(project / ".claude/skills/x/SKILL.md", content)
    (skill,) = discover_skills(project, home)
    assert skill.name == "x"
    assert skill.description


def test_yaml_aliases_do_not_expand_without_end(project: Path, home: Path) -> None:
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
    text = f"---\nname: x\ndescription: d\na0: &a0 [lol]\n{levels}\nlanguages: *a11\n---\n"
    write_file(project / ".claude/skills/x/SKILL.md", text)
    (skill,) = discover_skills(project, home)
    assert skill.languages == ()


def test_texts_lose_what_would_drive_a_terminal(project: Path, home: Path) -> None:
    write_skill(project / ".agents/skills", "x", '"red \\e[31m text\\nand more"')
    (skill,) = discover_skills(project, home)
    assert skill.description == "red  [31m text and more"


def test_links_out_of_the_project_are_not_followed(project: Path, home: Path, tmp_path: Path) -> None:
    outside = write_skill(tmp_path / "outside", "secret").parent
    (project / ".sage/skills").mkdir(parents=True)
    (project / ".sage/skills/secret").symlink_to(outside)
    (project / ".sage/skills/loop").symlink_to(project / ".sage/skills")
    (project / ".claude").mkdir()
    (project / ".claude/skills").symlink_to(tmp_path / "outside")
    single = project / ".agents/skills/single"
    single.mkdir(parents=True)
    (single / "SKILL.md").symlink_to(outside / "SKILL.md")
    found = find_skills(project, home)
    assert found.skills == []
    assert any(".claude/skills" in warning for warning in found.warnings)
    assert any("single/SKILL.md" in warning for warning in found.warnings)


def test_a_place_that_links_to_another_adds_nothing_and_is_no_fault(project: Path, home: Path) -> None:
    write_skill(project / ".agents/skills", "one")
    (project / ".claude").mkdir()
    (project / ".claude/skills").symlink_to("../.agents/skills")
    found = find_skills(project, home)
    assert [skill.name for skill in found.skills] == ["one"]
    assert found.warnings == []


def test_a_users_own_skills_may_be_links(project: Path, home: Path, tmp_path: Path) -> None:
    write_skill(tmp_path / "dotfiles", "mine")
    (home / ".claude").mkdir()
    (home / ".claude/skills").symlink_to(tmp_path / "dotfiles")
    (skill,) = discover_skills(project, home)
    assert (skill.name, skill.place) == ("mine", "~/.claude/skills/mine/SKILL.md")


def test_depth_is_limited_and_nothing_is_sought_inside_a_skill(project: Path, home: Path) -> None:
    root = project / ".sage/skills"
    write_skill(root / "a/b/c/d", "deep-enough")
    write_skill(root / "a/b/c/d/e/f", "too-deep")
    write_skill(root, "outer")
    write_skill(root / "outer/nested", "inner")
    write_file(root / "outer/README.md", UPSTREAM)
    assert sorted(skill.name for skill in discover_skills(project, home)) == ["deep-enough", "outer"]


def test_a_readme_beside_skills_is_no_fault(project: Path, home: Path) -> None:
    write_file(project / ".sage/skills/README.md", "# About these skills\n")
    assert find_skills(project, home).warnings == []


def test_names_that_are_no_utf8_can_be_found_and_shown(project: Path, home: Path) -> None:
    root = os.fsencode(project) + b"/.agents/skills/caf\xe9"
    os.makedirs(root)
    with open(root + b"/SKILL.md", "wb") as file:
        file.write(b"---\ndescription: d\n---\n")
    (skill,) = discover_skills(project, home)
    skill.name.encode()
    skill.place.encode()
    assert skill.read() == ""


def test_pipes_and_unreadable_places_hold_nobody_up(project: Path, home: Path) -> None:
    (project / ".agents/skills/x").mkdir(parents=True)
    os.mkfifo(project / ".agents/skills/x/SKILL.md")
    write_file(project / ".claude/skills", "a file")
    found = find_skills(project, home)
    assert found.skills == []
    assert "not a regular file" in found.warnings[0]


def test_an_empty_project_has_no_skills_and_no_warnings(project: Path, home: Path) -> None:
    assert find_skills(project, home) == find_skills(project / "missing", home)
    assert find_skills(project, home).skills == []


def test_discovery_loads_neither_pydantic_nor_mcp() -> None:
    code = (
        "import sys, sage_actors.servers.skills.discovery;"
        "loaded = {'mcp', 'pydantic', 'sqlite3', 'msgpack'} & sys.modules.keys(); assert not loaded, loaded"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(SOURCES)}
    )


# ------------------------------------------------------------------ ranked by a topic


def found(project: Path, home: Path, topic: str, top: int = 5) -> list[tuple[str, float]]:
    return [(skill.name, skill.score) for skill in skills_search(project, topic, top, home=home).skills]


@pytest.mark.requirement("ORCH-020")
def test_skills_are_ranked_by_how_much_of_the_topic_they_cover(project: Path, home: Path) -> None:
    root = project / ".agents/skills"
    write_skill(root, "rate-limits", "Adds rate limiting to a public API.")
    write_skill(root, "api-docs", "Writes reference pages.", "# Steps\n\nDescribe the public API in full.\n")
    write_skill(root, "flaky", "Finds flaky tests.")
    assert found(project, home, "rate limiting for the public API") == [
        ("rate-limits", 1.0),
        ("api-docs", 0.375),
    ]
    assert found(project, home, "rate limiting for the public API", top=1) == [("rate-limits", 1.0)]
    assert found(project, home, "test flakiness")[0][0] == "flaky"


@pytest.mark.parametrize(
    "topic", ["", "  ", "\0", "the of and", "quantum chromodynamics", "ürgendwas", '" OR *']
)
def test_a_topic_that_no_skill_is_on_finds_none(project: Path, home: Path, topic: str) -> None:
    write_skill(project / ".agents/skills", "flaky", "Finds flaky tests.")
    result = skills_search(project, topic, home=home)
    assert (result.skills, result.evidence_level) == ([], "none")
    assert "none of the 1 skills" in result.notes[0]


def test_a_long_error_text_still_finds_its_skill(project: Path, home: Path) -> None:
    write_skill(project / ".agents/skills", "deadlocks", "For a deadlock in the database pool.")
    error = "\n".join(f'  File "app/module_{n}.py", line {n}, in call_{n}' for n in range(50))
    assert found(project, home, f"DatabaseError: deadlock detected in pool\n{error}")[0][0] == "deadlocks"


def test_a_found_skill_is_cited_by_file_and_line(project: Path, home: Path) -> None:
    body = "# Steps\n\nFirst this.\n\n## Limits\n\nUse a token bucket for the rate.\n"
    path = write_skill(project / ".agents/skills", "rate", "Limits the rate.", body)
    result = skills_search(project, "token bucket", home=home)
    (citation,) = result.citations
    source, _, line = citation.rpartition(":")
    assert (project / source) == path
    assert "Limits" in path.read_text().splitlines()[int(line) - 1]
    assert result.skills[0].excerpt.endswith("Use a token bucket for the rate.")
    assert result.tokens.raw_bytes > 0
    assert result.notes == []


def test_skills_that_were_left_out_are_noted(project: Path, home: Path) -> None:
    write_file(project / ".agents/skills/bad/SKILL.md", "---\nname: bad\n---\n")
    assert "no description" in skills_search(project, "anything", home=home).notes[-1]


def test_a_server_offers_the_search_as_a_tool(project: Path) -> None:
    write_skill(project / ".agents/skills", "flaky", "Finds flaky tests.")

    async def talk() -> object:
        from mcp import Client

        from sage_actors.servers.catalog import create_server
        from sage_actors.servers.settings import ServerSettings

        async with Client(create_server("sage-research", ServerSettings(project))) as client:
            answer = await client.call_tool("skills_search", {"topic": "flaky tests", "top": 1})
            blank = await client.call_tool("skills_search", {"topic": "  "})
            assert blank.is_error
            return answer.structured_content

    content = asyncio.run(talk())
    assert isinstance(content, dict)
    assert content["skills"][0]["name"] == "flaky"


# ------------------------------------------------------------------ prerequisites


def program(folder: Path, name: str, text: str) -> Path:
    path = write_file(folder / name, f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def state(project: Path, need: str, folder: Path) -> tuple[str, str]:
    skill = Skill("x", "d", project / "SKILL.md", tools=(need,))
    (checked,) = check_tools(skill, project, path=f"{folder}:/bin:/usr/bin")
    return checked.state, checked.found


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        ("tool", ("ok", "")),
        ("tool>=2.30", ("ok", "2.30.1")),
        ("tool>=2.30.1", ("ok", "2.30.1")),
        ("tool >= 2.4", ("ok", "2.30.1")),
        ("tool>=v2.31", ("too old", "2.30.1")),
        ("tool>=3", ("too old", "2.30.1")),
        ("tool==2.30", ("ok", "2.30.1")),
        ("tool==2.3", ("too old", "2.30.1")),
        ("tool>2.30.1", ("too old", "2.30.1")),
        ("silent>=1.0", ("unknown version", "")),
        ("gone-missing>=1.0", ("missing", "")),
        ("../tool>=1.0", ("refused", "")),
        ("/bin/sh", ("refused", "")),
        ("tool>=1; touch ran", ("refused", "")),
        ("--version", ("refused", "")),
        ("", ("refused", "")),
    ],
)
def test_a_tool_is_asked_for_its_version(
    project: Path, tmp_path: Path, need: str, expected: tuple[str, str]
) -> None:
    program(tmp_path / "bin", "tool", "echo tool version v2.30.1 of 2026.1.1")
    program(tmp_path / "bin", "silent", "exit 3")
    assert state(project, need, tmp_path / "bin") == expected


def test_a_tool_of_the_project_is_never_started(project: Path, tmp_path: Path) -> None:
    own = program(project / "bin", "tool", f"touch {tmp_path}/ran; echo 9.9")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "linked").symlink_to(own)
    assert state(project, "tool>=1.0", project / "bin")[0] == "refused"
    assert state(project, "linked>=1.0", tmp_path / "bin")[0] == "refused"
    (tmp_path / "alias").symlink_to(project)
    assert state(project, "tool>=1.0", tmp_path / "alias/bin")[0] == "refused"
    assert not (tmp_path / "ran").exists()


def test_a_relative_search_path_does_not_count(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "here", "tool", "echo 9.9")
    monkeypatch.chdir(tmp_path / "here")
    skill = Skill("x", "d", project / "SKILL.md", tools=("tool>=1.0",))
    assert check_tools(skill, project, path=".::bin")[0].state == "missing"


def test_a_tool_that_never_answers_is_ended_with_its_children(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skills_needs, "_TIMEOUT_S", 0.3)
    program(tmp_path / "bin", "slow", "sleep 60 & sleep 60")
    assert state(project, "slow>=1.0", tmp_path / "bin") == ("unknown version", "")


def test_a_tool_that_says_too_much_costs_no_memory(project: Path, tmp_path: Path) -> None:
    program(tmp_path / "bin", "loud", "echo 1.5; head -c 3000000 /dev/zero")
    assert state(project, "loud>=1.0", tmp_path / "bin") == ("ok", "1.5")


def test_knowledge_leads_to_the_skill_that_has_it(project: Path, home: Path) -> None:
    write_file(project / ".sage/agent/skills/testing/flaky.md", UPSTREAM)
    write_skill(project / ".agents/skills", "release-notes")
    skills = discover_skills(project, home)
    (triage,) = [skill for skill in skills if skill.knowledge]
    assert check_knowledge(triage, skills) == [
        KnowledgeNeed("release-notes", ".agents/skills/release-notes/SKILL.md")
    ]
    other = Skill("x", "d", project / "x.md", knowledge=("testing/flaky.md", "Flaky Test Triage", "algebra"))
    places = [need.skill for need in check_knowledge(other, skills)]
    assert places == [".sage/agent/skills/testing/flaky.md", ".sage/agent/skills/testing/flaky.md", ""]

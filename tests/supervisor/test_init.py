"""`sage-actors init`: what it writes, what it keeps, what it refuses; and the plugin, which has the same texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_harness import CommandLine
from places import ROOT

from sage_actors.actors.state.directory import GITIGNORE
from sage_actors.messages.errors import SageError, UsageError
from sage_actors.servers.skills.discovery import discover_skills
from sage_actors.supervisor.setup.mcp_json import merge_server
from sage_actors.supervisor.setup.project import apply_changes, plan_changes
from sage_actors.supervisor.setup.texts import command_text, server_entry, skill_text

COMMAND = ".claude/commands/sage.workflow.md"
SKILL = ".claude/skills/sage-workflow/SKILL.md"
AGENTS_SKILL = ".agents/skills/sage-workflow/SKILL.md"
ENTRY = {"type": "stdio", "command": "sage-actors", "args": ["mcp"]}


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.close()


def set_up(project: Path) -> dict[str, str]:
    """What was done about each file."""
    changes = plan_changes(project)
    apply_changes(project, changes)
    return {change.path: change.action for change in changes}


def contents(project: Path) -> dict[str, bytes]:
    files = (each for each in project.rglob("*") if each.is_file())
    return {str(each.relative_to(project)): each.read_bytes() for each in files}


def same_characters(one: str, other: str) -> int:
    """How many the two have in common before they differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@pytest.mark.requirement("ORCH-013")
def test_an_empty_project_gets_the_command_the_skill_and_the_server(sage: CommandLine) -> None:
    sage("init")
    files = contents(sage.project)
    assert files[COMMAND] == command_text().encode()
    assert files[SKILL] == files[AGENTS_SKILL] == skill_text().encode()
    assert json.loads(files[".mcp.json"]) == {"mcpServers": {"sage-orchestration": ENTRY}}
    assert b"!templates/" in files[".sage/.gitignore"]


@pytest.mark.requirement("ORCH-013")
def test_a_second_time_changes_nothing_and_says_so(sage: CommandLine) -> None:
    sage("init")
    before = contents(sage.project)
    said = json.loads(sage("init", "--json").stdout)
    assert {change["action"] for change in said["changes"]} == {"keep"}
    assert "nothing was changed" in sage("init").stdout
    assert contents(sage.project) == before


_SHARED = "!config.toml\n!templates/\n!templates/**\n!skills/\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mine\n", GITIGNORE + "mine\n"),
        ("mine\n*\n!mine\n", f"mine\n*\n{_SHARED}!skills/**\n!mine\n"),
        (f"{_SHARED}*", f"{_SHARED}*\n!skills/**\n"),
    ],
)
def test_the_lines_that_a_gitignore_lacks_are_added_before_the_users_own(
    tmp_path: Path, old: str, new: str
) -> None:
    path = tmp_path / ".sage/.gitignore"
    path.parent.mkdir()
    path.write_text(old)
    assert set_up(tmp_path)[".sage/.gitignore"] == "merge"
    assert path.read_text() == new
    assert set_up(tmp_path)[".sage/.gitignore"] == "keep"


@pytest.mark.parametrize("has_state", [True, False])
def test_a_gitignore_that_has_all_is_unchanged_and_nothing_else_is_said(
    tmp_path: Path, has_state: bool
) -> None:
    path = tmp_path / ".sage/.gitignore"
    (path.parent / "state" if has_state else path.parent).mkdir(parents=True)
    path.write_text(GITIGNORE + "mine\n")
    assert set_up(tmp_path)[".sage/.gitignore"] == "keep"
    assert path.read_text() == GITIGNORE + "mine\n"


def test_a_dry_run_writes_nothing(sage: CommandLine) -> None:
    assert "would create" in sage("init", "--dry-run").stdout
    assert not list(sage.project.iterdir())


@pytest.mark.requirement("ORCH-013")
def test_another_command_of_that_name_is_kept_under_a_free_name(tmp_path: Path) -> None:
    old = tmp_path / COMMAND
    old.parent.mkdir(parents=True)
    old.write_text("Traditional or Ticket-Based?\n")
    old.with_name("sage.workflow.md.bak-1").write_text("older still\n")
    (change,) = (each for each in plan_changes(tmp_path) if each.path == COMMAND)
    assert (change.action, change.backup) == ("replace", f"{COMMAND}.bak-2")
    assert "sage-dev" in change.note
    set_up(tmp_path)
    assert old.read_text() == command_text()
    assert (tmp_path / f"{COMMAND}.bak-2").read_text() == "Traditional or Ticket-Based?\n"
    assert (tmp_path / f"{COMMAND}.bak-1").read_text() == "older still\n"


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / ".mcp.json"
    path.write_text("{}")
    path.chmod(0o640)
    set_up(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "text",
    [
        '{"mcpServers":{"x":{"command":"a"}},"z":[1,2]}',
        '{\n    "mcpServers": {\n        "x": {"command": "a", "args": ["b"]}\n    },\n    "z": [1, 2]\n}',
        '{\r\n\t"mcpServers": {\r\n\t\t"x": {}\r\n\t}\r\n}\r\n',
        '{\n  "mcpServers": {}\n}\n',
        '{\n  "z": {"mcpServers": 3, "u": "\\u00e4}{"}\n}\n',
        "{}",
        '\ufeff{\n  "mcpServers": {"ä}": {}}\n}\n',
    ],
)
def test_an_entry_is_put_in_and_no_other_character_moves(text: str) -> None:
    merged = merge_server(text.encode(), "ours", ENTRY, source=".mcp.json")
    assert merged.content is not None
    assert not merged.rewritten
    new = merged.content.decode()
    wanted = json.loads(text.removeprefix("\ufeff"))
    wanted["mcpServers"] = {**wanted.get("mcpServers", {}), "ours": ENTRY}
    assert json.loads(new.removeprefix("\ufeff")) == wanted
    assert same_characters(text, new) + same_characters(text[::-1], new[::-1]) >= len(text)
    assert new.count("\r\n") == (new.count("\n") if "\r\n" in text else 0)
    assert merge_server(merged.content, "ours", ENTRY, source=".mcp.json").content is None


def test_an_entry_that_starts_this_package_stays_as_its_user_made_it(tmp_path: Path) -> None:
    text = json.dumps(
        {"mcpServers": {"sage-orchestration": {"command": "/opt/bin/sage-actors", "args": ["mcp"]}}}
    )
    (tmp_path / ".mcp.json").write_text(text)
    assert set_up(tmp_path)[".mcp.json"] == "keep"
    assert (tmp_path / ".mcp.json").read_text() == text


def test_another_server_of_that_name_gives_way_and_is_kept_in_a_copy(tmp_path: Path) -> None:
    text = json.dumps({"mcpServers": {"sage-orchestration": {"command": "node"}, "x": {"command": "y"}}})
    (tmp_path / ".mcp.json").write_text(text)
    set_up(tmp_path)
    new = json.loads((tmp_path / ".mcp.json").read_text())
    assert new == {"mcpServers": {"sage-orchestration": ENTRY, "x": {"command": "y"}}}
    assert (tmp_path / ".mcp.json.bak-1").read_text() == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{\n  "mcpServers": {,}\n}', "line 2, column 18"),
        (b"[]", "must have the form"),
        (b'{"mcpServers": []}', "must have the form"),
        (b'{"x": "\xff"}', "not UTF-8 (byte 7)"),
        (b"[" * 200_000, ".mcp.json"),
    ],
)
def test_what_cannot_be_merged_into_is_refused_with_its_place(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / ".mcp.json").write_bytes(text)
    with pytest.raises(UsageError) as caught:
        set_up(tmp_path)
    assert said in str(caught.value)
    assert contents(tmp_path) == {".mcp.json": text}


@pytest.mark.parametrize("link", [".claude", ".claude/commands", COMMAND, ".mcp.json", ".agents", ".sage"])
def test_a_link_out_of_the_project_is_not_followed(tmp_path: Path, link: str) -> None:
    project, outside = tmp_path / "project", tmp_path / "outside"
    (project / link).parent.mkdir(parents=True)
    outside.mkdir()
    (project / link).symlink_to(outside if not link.endswith((".md", ".json")) else outside / "new")
    with pytest.raises(SageError, match="link"):
        set_up(project)
    assert not list(outside.iterdir())


def test_a_link_within_the_project_is_one_place(tmp_path: Path) -> None:
    (tmp_path / ".agents").mkdir()
    (tmp_path / ".claude").symlink_to(".agents")
    done = set_up(tmp_path)
    assert SKILL in done
    assert AGENTS_SKILL not in done
    assert (tmp_path / AGENTS_SKILL).read_text() == skill_text()
    assert (tmp_path / ".claude").is_symlink()


def test_a_directory_or_a_pipe_in_a_file_s_place_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".mcp.json")
    with pytest.raises(UsageError, match="is no file"):
        set_up(tmp_path)
    (tmp_path / ".mcp.json").unlink()
    (tmp_path / COMMAND).mkdir(parents=True)
    with pytest.raises(UsageError, match="is no file"):
        set_up(tmp_path)


def test_the_skill_is_valid_by_the_agent_skills_specification(tmp_path: Path) -> None:
    _, frontmatter, body = skill_text().split("---\n", 2)
    fields = yaml.safe_load(frontmatter)
    assert fields["name"] == "sage-workflow"
    assert 1 <= len(fields["description"]) <= 1024
    assert len(fields.get("compatibility", "")) <= 500
    assert set(fields) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
    assert all(isinstance(value, str) for value in fields["metadata"].values())
    assert len(body.splitlines()) < 500
    set_up(tmp_path)
    (found,) = (each for each in discover_skills(tmp_path, tmp_path) if each.name == "sage-workflow")
    assert found.description == fields["description"]


@pytest.mark.requirement("ORCH-013")
def test_the_command_has_its_flags_and_may_call_only_what_it_names() -> None:
    _, frontmatter, body = command_text().split("---\n", 2)
    fields = yaml.safe_load(frontmatter)
    assert all(flag in body for flag in ("--resume", "--template", "--list", "$ARGUMENTS"))
    assert isinstance(fields["argument-hint"], str)
    assert fields["disable-model-invocation"] is True
    allowed = fields["allowed-tools"].split(", ")
    assert "mcp__sage-orchestration__sage_workflow_execute" in allowed
    assert "mcp__plugin_sage-actors_sage-orchestration__sage_workflow_status" in allowed
    assert "Bash(sage-actors run:*)" in allowed
    assert not [each for each in allowed if "approve" in each or "trust" in each]


def test_the_plugin_folder_is_whole() -> None:
    manifest = json.loads((ROOT / "plugin/.claude-plugin/plugin.json").read_text())
    assert manifest["name"] == "sage-actors"
    assert (ROOT / "plugin/commands/sage.workflow.md").read_text() == command_text()
    assert (ROOT / "plugin/skills/sage-workflow/SKILL.md").read_text() == skill_text()
    assert server_entry() == ENTRY

"""The table of agents: what is started, how the prompt goes in, and what a user's own table changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_harness import AGENTS, agents_on_path

from sage_actors.actors.agents.table import (
    agent_of_command,
    built_in_agents,
    executable_problem,
    find_agent,
    plan_call,
)
from sage_actors.messages.errors import UsageError

SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}}
STRICT = {**SCHEMA, "required": ["title"], "additionalProperties": False}


@pytest.mark.requirement("ORCH-006")
def test_the_agents_of_the_requirements_are_known() -> None:
    assert set(built_in_agents()) == set(AGENTS)


@pytest.mark.parametrize("name", AGENTS)
def test_a_prompt_never_becomes_a_word_of_a_known_agent(name: str) -> None:
    """A word has a limit of 128 KB, and everybody can see it in the list of processes."""
    call = plan_call(find_agent(name), "SECRET PROMPT", mode="edit")
    assert not any("SECRET" in word for word in call.arguments({"prompt_file": Path("/p")}))
    assert "SECRET PROMPT" in (call.stdin or call.files["prompt_file"])


@pytest.mark.parametrize("name", AGENTS)
def test_looking_and_editing_are_asked_for_in_different_words(name: str) -> None:
    entry = find_agent(name)
    read, edit = (plan_call(entry, "x", mode=mode).words for mode in ("read", "edit"))
    assert read != edit
    assert not {
        "--dangerously-skip-permissions",
        "--yolo",
        "--dangerously-bypass-approvals-and-sandbox",
    } & set(edit)


def test_a_schema_goes_where_the_agent_takes_it() -> None:
    claude = plan_call(find_agent("claude"), "x", mode="read", schema=SCHEMA)
    words = claude.arguments({})
    assert json.loads(words[words.index("--json-schema") + 1]) == SCHEMA
    assert claude.stdin == "x"
    codex = plan_call(find_agent("codex"), "x", mode="read", schema=STRICT)
    assert json.loads(codex.files["schema_file"]) == STRICT
    assert codex.arguments({"schema_file": Path("/s.json")})[-2:] == ["--output-schema", "/s.json"]


def test_a_schema_that_no_flag_takes_is_asked_for_in_the_prompt() -> None:
    for call in (
        plan_call(find_agent("gemini"), "x", mode="read", schema=SCHEMA),
        plan_call(find_agent("codex"), "x", mode="read", schema=SCHEMA),  # its flag takes strict ones only
    ):
        assert call.stdin.startswith("x\n")
        assert '"title"' in call.stdin
        assert "--output-schema" not in call.words


def test_what_a_value_holds_is_no_placeholder() -> None:
    entry = agent_of_command(["run", "{prompt}", "--file", "{schema_file}"])
    call = plan_call(entry, "say {model} {schema_file}", mode="read")
    assert call.arguments({"schema_file": Path("/s")}) == ["run", "say {model} {schema_file}", "--file", "/s"]
    assert call.stdin == ""


def test_a_model_needs_words_to_say_it() -> None:
    call = plan_call(find_agent("codex"), "x", mode="read", model="gpt-5")
    assert call.arguments({})[-2:] == ["--model", "gpt-5"]
    with pytest.raises(UsageError, match="takes no `model`"):
        plan_call(agent_of_command(["run"]), "x", mode="read", model="gpt-5")


def test_an_unknown_agent_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no agent 'clod'; known: .*claude.*mine"):
        find_agent("clod", {"mine": {"command": ["x"]}})


def test_a_users_table_changes_single_fields_and_adds_agents() -> None:
    own = {"claude": {"edit": ["--permission-mode", "bypassPermissions"]}, "mine": {"command": ["my-agent"]}}
    claude = find_agent("claude", own)
    assert claude.edit == ["--permission-mode", "bypassPermissions"]
    assert claude.command[0] == "claude"
    assert find_agent("mine", own).output == "text"


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({"comand": ["x"]}, "comand"),
        ({"command": []}, "command"),
        ({"command": ["x"], "text": "[?"}, "no JMESPath"),
        ({"command": ["x"], "error_pattern": "("}, "no regular expression"),
        ({"command": ["x"], "cost": [1]}, "cost"),
    ],
)
def test_a_wrong_table_says_where(table: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        find_agent("mine", {"mine": table})


def test_any_command_is_an_agent() -> None:
    assert agent_of_command("wc -l").command == ["/bin/sh", "-c", "wc -l"]
    assert plan_call(agent_of_command(["wc", "-l"]), "x", mode="edit").stdin == "x"
    with pytest.raises(UsageError, match="cannot be quoted"):
        agent_of_command("echo {prompt}")
    with pytest.raises(UsageError, match="list of words"):
        agent_of_command([1])  # type: ignore[list-item]


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = agents_on_path(tmp_path / "bin", "claude")
    assert executable_problem(find_agent("claude"), path) == ""
    assert "'codex' is not on your PATH" in executable_problem(find_agent("codex"), str(tmp_path / "bin"))

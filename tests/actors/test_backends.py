"""Which backend drafts: what the user chose, and nothing else; and agents as backends."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from agent_harness import agent_environ, agents_on_path, checkout_state, make_repository, wait_until_gone
from llm_stub import ModelStub

from sage_actors.actors.agents.answer import AgentFailed
from sage_actors.actors.agents.backends import load_backend
from sage_actors.actors.user_config import default_config_path
from sage_actors.messages.backend import Backend
from sage_actors.messages.errors import DefinitionError, TimeoutExceeded, UsageError

KEYS = {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "y"}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """All agents on the path, all keys set, nothing chosen."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("SAGE_")}
    return {**unset, **KEYS, "PATH": agents_on_path(tmp_path / "bin")}


def write_config(text: str) -> None:
    path = default_config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def name_of(backend: Backend | None) -> str | None:
    return None if backend is None else backend.name


@pytest.mark.requirement("ORCH-006")
def test_nobody_is_asked_who_was_not_chosen(environ: dict[str, str], tmp_path: Path) -> None:
    assert load_backend(environ, tmp_path) is None


def test_the_first_that_chooses_is_heeded(environ: dict[str, str], tmp_path: Path) -> None:
    write_config('[backend]\nagent = "gemini"\n')
    assert name_of(load_backend(environ, tmp_path)) == "agent:gemini"
    environ["SAGE_MODEL"] = "anthropic:claude-sonnet-5-5"
    assert name_of(load_backend(environ, tmp_path)) == "llm:anthropic:claude-sonnet-5-5"
    environ["SAGE_AGENT"] = "claude"
    assert name_of(load_backend(environ, tmp_path)) == "agent:claude"
    assert name_of(load_backend(environ, tmp_path, name="codex")) == "agent:codex"
    assert name_of(load_backend(environ, tmp_path, name="openai:gpt-5")) == "llm:openai:gpt-5"
    assert load_backend(environ, tmp_path, name="none") is None
    environ["SAGE_AGENT"] = "none"
    assert load_backend(environ, tmp_path) is None


def test_a_repository_chooses_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".sage").mkdir()
    (tmp_path / ".sage" / "config.toml").write_text('[backend]\nagent = "claude"\n')
    (tmp_path / "config.toml").write_text('[backend]\nagent = "claude"\n')
    (tmp_path / ".env").write_text("SAGE_AGENT=claude\n")
    assert load_backend(environ, tmp_path) is None


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"SAGE_AGENT": "clod"}, "no agent 'clod'; known: aider, claude"),
        ({"SAGE_AGENT": "openai:gpt-5"}, "use \\$SAGE_MODEL"),
        ({"SAGE_MODEL": "claude-sonnet-5-5"}, "must be PROVIDER:MODEL"),
        ({"SAGE_MODEL": "openai:gpt-5", "OPENAI_API_KEY": ""}, "set OPENAI_API_KEY"),
        ({"SAGE_AGENT": "claude", "PATH": "/nowhere"}, "'claude' is not on your PATH"),
    ],
)
def test_what_is_wrong_with_the_choice_is_said(
    environ: dict[str, str], tmp_path: Path, chosen: dict[str, str], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        load_backend({**environ, **chosen}, tmp_path)


def test_a_wrong_config_is_an_error_and_not_nobody(environ: dict[str, str], tmp_path: Path) -> None:
    write_config('[backend]\nagnet = "claude"\n')
    with pytest.raises(DefinitionError, match=r"backend\.agnet"):
        load_backend(environ, tmp_path)


def test_an_agent_of_the_users_own_drafts(environ: dict[str, str], tmp_path: Path) -> None:
    write_config('[backend]\nagent = "mine"\n[agents.mine]\ncommand = ["wc", "-c"]\n')
    backend = load_backend(environ, tmp_path)
    assert backend is not None
    assert asyncio.run(backend.complete("12345")).value == "5"


SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


def chosen(tmp_path: Path, project: Path, agent: str = "claude", **behaviour: Any) -> Backend:
    backend = load_backend(agent_environ(tmp_path / "bin", **behaviour), project, name=agent)
    assert backend is not None
    return backend


def test_an_agent_drafts_in_the_project_with_words_that_let_it_only_look(tmp_path: Path) -> None:
    project = make_repository(tmp_path / "project")
    before = checkout_state(project)
    record = tmp_path / "record.json"
    backend = chosen(tmp_path, project, value={"title": "T"}, record=str(record))
    completion = asyncio.run(backend.complete("Draft it.", SCHEMA))
    assert completion.value == {"title": "T"}
    assert (completion.usage.input_tokens, completion.usage.cost) == (1200, 0.25)
    seen = json.loads(record.read_text())
    assert seen["cwd"] == str(project)
    assert "Bash,Edit,Write,NotebookEdit" in seen["arguments"]
    assert checkout_state(project) == before


def test_a_draft_that_is_none_of_the_schema_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AgentFailed, match="does not allow"):
        asyncio.run(chosen(tmp_path, tmp_path, "codex", value={"name": "T"}).complete("x", SCHEMA))


def test_a_draft_that_takes_longer_than_the_user_allows_is_ended(tmp_path: Path) -> None:
    write_config('[backend]\ntimeout = "500ms"\n[agents.slow]\ncommand = ["sleep", "600"]\n')
    with pytest.raises(TimeoutExceeded, match=r"0\.5 s"):
        asyncio.run(chosen(tmp_path, tmp_path, "slow").complete("x"))


def test_a_cancelled_draft_is_ended_before_the_cancel_returns(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def cancel_it() -> None:
        task = asyncio.ensure_future(chosen(tmp_path, tmp_path, hang=str(pids)).complete("x"))
        until = time.monotonic() + 20
        while not (pids.exists() and len(pids.read_text().split()) == 2):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
    wait_until_gone(pids)


def test_many_drafts_run_at_once(tmp_path: Path) -> None:
    """Each waits until the other one has come, so that two that took turns would never end."""
    write_config(
        '[backend]\ntimeout = "20s"\n[agents.pair]\ncommand = ["/bin/sh", "-c", '
        f'"cd {tmp_path}; touch here.$$; while [ $(ls here.* | wc -l) -lt 2 ]; do sleep 0.02; done; cat"]\n'
    )
    backend = chosen(tmp_path, tmp_path, "pair")

    async def both() -> list[Any]:
        return [each.value for each in await asyncio.gather(backend.complete("a"), backend.complete("b"))]

    assert asyncio.run(both()) == ["a", "b"]


def test_a_draft_of_an_agent_that_cannot_be_told_to_look_only_leaves_the_project_alone(
    tmp_path: Path,
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    write_config('[agents.eager]\ncommand = ["/bin/sh", "-c", "touch changed; pwd; cat"]\n')
    backend = chosen(tmp_path, project, "eager")
    where, said = asyncio.run(backend.complete("a")).value.splitlines()
    assert said == "a"
    assert list(project.iterdir()) == []
    assert not Path(where).exists()


def test_models_and_agents_answer_the_same_call(tmp_path: Path) -> None:
    with ModelStub() as stub:
        environ = {**stub.environ(), "SAGE_MODEL": "openai-chat:m", "HOME": str(tmp_path)}
        model = load_backend(environ, tmp_path)
        assert model is not None
        for backend in (model, chosen(tmp_path, tmp_path, value={"title": "stub"})):
            completion = asyncio.run(backend.complete("x", SCHEMA))
            assert completion.value == {"title": "stub"}
            assert completion.usage.input_tokens > 0

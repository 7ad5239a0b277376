"""One agent, started for real: a stand-in that speaks each agent's own format."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from agent_harness import AGENTS, agent_environ, wait_until_gone
from pool_harness import pid_exists, wait_until

from sage_actors.actors.agents.answer import AgentFailed
from sage_actors.actors.agents.process import AgentRequest, run_agent
from sage_actors.actors.agents.table import agent_of_command, find_agent
from sage_actors.messages.errors import OperationCancelled, TimeoutExceeded, UsageError

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}


def ask(tmp_path: Path, name: str, *, request: dict[str, Any] | None = None, **behaviour: Any) -> Any:
    environ = agent_environ(tmp_path / "bin", **behaviour)
    said: dict[str, Any] = {"prompt": "What is it?", "cwd": tmp_path, "mode": "read", **(request or {})}
    entry = said.pop("entry", None) or find_agent(name)
    return run_agent(AgentRequest(name=name, entry=entry, **said), environ)


@pytest.mark.requirement("ORCH-006")
@pytest.mark.parametrize("name", AGENTS)
def test_an_answer_and_its_usage_come_back_from_every_agent(tmp_path: Path, name: str) -> None:
    record = tmp_path / "record.json"
    answer = ask(tmp_path, name, answer="It is blue.", record=str(record), junk=["warning: old", "{broken"])
    assert "It is blue." in answer.text
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (1200, 34)
    assert answer.usage.cost == pytest.approx({"codex": 0, "gemini": 0}.get(name, 0.25))
    seen = json.loads(record.read_text())
    assert seen["prompt"] == "What is it?"
    assert seen["cwd"] == str(tmp_path)


@pytest.mark.parametrize("name", AGENTS)
def test_an_object_comes_back_from_every_agent(tmp_path: Path, name: str) -> None:
    answer = ask(tmp_path, name, value={"title": "T"}, request={"schema": SCHEMA})
    assert answer.value == {"title": "T"}


@pytest.mark.parametrize("name", AGENTS)
def test_a_failure_is_said_in_the_agents_own_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(AgentFailed, match=f"the agent {name} failed: .*the sky fell"):
        ask(tmp_path, name, fail="the sky fell")


def test_codex_gets_the_schema_as_a_file_that_is_gone_afterwards(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    ask(tmp_path, "codex", value={"title": "T"}, request={"schema": SCHEMA}, record=str(record))
    seen = json.loads(record.read_text())
    assert seen["schema"] == SCHEMA
    assert not Path(seen["arguments"][seen["arguments"].index("--output-schema") + 1]).exists()


def test_the_agent_gets_the_users_environment_without_the_key_of_saved_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAGE_STATE_KEY", "GIT_DIR", "GIT_INDEX_FILE", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "x")
    record = tmp_path / "record.json"
    ask(tmp_path, "claude", record=str(record))
    names = set(json.loads(record.read_text())["environ"])
    assert {"ANTHROPIC_API_KEY", "HOME", "PATH"} <= names
    assert not {"SAGE_STATE_KEY", "GIT_DIR", "GIT_INDEX_FILE"} & names


def test_a_prompt_larger_than_a_word_may_be_arrives_whole(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    prompt = "ü" * 300_000
    ask(tmp_path, "claude", request={"prompt": prompt}, record=str(record))
    assert json.loads(record.read_text())["prompt"] == prompt


def test_output_without_end_costs_no_memory_without_end(tmp_path: Path) -> None:
    answer = ask(tmp_path, "codex", flood=64 * 2**20, answer="after the flood")
    assert answer.text == "after the flood"


def test_a_document_that_was_cut_says_so(tmp_path: Path) -> None:
    entry = agent_of_command("head -c 30000000 /dev/zero | tr '\\0' x").model_copy(
        update={"output": "events", "text": "[-1].result"}
    )
    with pytest.raises(AgentFailed, match="its output was cut"):
        ask(tmp_path, "big", request={"entry": entry})


def test_an_agent_that_takes_too_long_is_ended_with_all_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    deaf = agent_of_command(f"trap '' TERM; sleep 600 & echo $$ $! > {pids}; sleep 600")
    with pytest.raises(TimeoutExceeded, match=r"more than 1\.5 s"):
        ask(tmp_path, "sh", request={"entry": deaf, "timeout_s": 1.5})
    wait_until_gone(pids)


def test_a_cancelled_agent_is_ended_with_all_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    environ = agent_environ(tmp_path / "bin", hang=str(pids))
    request = AgentRequest("claude", find_agent("claude"), "x", tmp_path, "read")
    started = time.monotonic()
    with pytest.raises(OperationCancelled):
        run_agent(request, environ, stop=lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert time.monotonic() - started < 20
    wait_until_gone(pids)


def test_what_an_agent_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    entry = agent_of_command("sleep 300 >/dev/null 2>&1 & echo $!")
    answer = ask(tmp_path, "sh", request={"entry": entry})
    wait_until(lambda: not pid_exists(int(answer.text)), what="what it left is gone")


def test_a_killed_agent_is_a_failure_that_can_be_repeated(tmp_path: Path) -> None:
    with pytest.raises(AgentFailed, match="signal 9") as caught:
        ask(tmp_path, "sh", request={"entry": agent_of_command("kill -9 $$")})
    assert caught.value.retryable is True


def test_what_cannot_be_started_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'no-such-agent' is not on your PATH"):
        ask(tmp_path, "x", request={"entry": agent_of_command(["no-such-agent"])})
    with pytest.raises(UsageError, match=r"cannot be started: .*null byte"):
        ask(tmp_path, "x", request={"entry": agent_of_command(["cat", "{prompt}"]), "prompt": "a\0b"})
    with pytest.raises(UsageError, match=r"cannot be started: .*[Aa]rgument list too long"):
        ask(tmp_path, "x", request={"entry": agent_of_command(["cat", "{prompt}"]), "prompt": "a" * 200_000})
    with pytest.raises(UsageError, match="no JSON Schema"):
        ask(tmp_path, "claude", request={"schema": {"type": "objekt"}})


def test_output_that_is_no_utf_8_is_no_crash(tmp_path: Path) -> None:
    answer = ask(tmp_path, "x", request={"entry": agent_of_command(r"printf 'caf\351'")})
    assert answer.text == "caf\ufffd"


def test_all_that_it_prints_is_told_as_it_comes(tmp_path: Path) -> None:
    go = tmp_path / "go"
    seen: list[tuple[str, str]] = []

    def on_text(text: str, stream: str) -> None:
        seen.append((text, stream))
        go.touch()  # it ends only when its first line was seen

    entry = agent_of_command(
        f"echo first; echo second >&2; while [ ! -e {go} ]; do sleep 0.02; done; echo end"
    )
    request = AgentRequest("sh", entry, "x", tmp_path, "read")
    watchdog = threading.Timer(20, go.touch)
    watchdog.start()
    run_agent(request, os.environ, on_text=on_text)
    watchdog.cancel()
    assert {stream for _, stream in seen} == {"stdout", "stderr"}
    assert "".join(text for text, stream in seen if stream == "stdout") == "first\nend\n"

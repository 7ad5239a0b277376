"""Operations of type `agent`, in real workers and in real repositories."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_harness import agents_on_path, checkout_state, git, make_repository, wait_until_gone
from llm_stub import INPUT_TOKENS, ModelStub
from pool_harness import PoolHarness, pid_exists, wait_until

from sage_actors.actors.operations.types import worker_kind
from sage_actors.actors.trust.consents import TrustStore, checks_item
from sage_actors.actors.user_config import default_config_path
from sage_actors.messages.schema import AgentOperation

SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
EDIT = {"app.py": "one\ntwo\n", "new/file.py": "new\n"}


class Agents:
    """A project, and a pool whose workers find the stand-in agents."""

    def __init__(self, project: Path, pool: PoolHarness) -> None:
        self.project = project
        self.pool = pool
        self.worker = pool.worker()

    def start(self, **config: Any) -> Any:
        return self.pool.submit_config(self.worker, "agent", {"prompt": "Do it.", **config})

    def run(self, **config: Any) -> Any:
        return self.pool.value(self.start(**config))

    def fail(self, **config: Any) -> Any:
        return self.pool.error(self.start(**config))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


@pytest.fixture
def behave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PATH", agents_on_path(tmp_path / "bin"))
    monkeypatch.delenv("SAGE_AGENT", raising=False)
    monkeypatch.delenv("SAGE_MODEL", raising=False)
    return lambda **behaviour: monkeypatch.setenv("FAKE_AGENT", json.dumps(behaviour))


@pytest.fixture
def agents(project: Path, behave: Any) -> Iterator[Any]:
    """Started on its first use: workers have the environment of that moment."""
    made: list[Agents] = []

    def make() -> Agents:
        if not made:
            pool = PoolHarness(project)
            pool.__enter__()
            made.append(Agents(project, pool))
        return made[0]

    yield make
    for each in made:
        each.pool.__exit__(None, None, None)


def used(agents: Agents, key: Any) -> Any:
    return agents.pool.row(key)[6]


@pytest.mark.requirement("ORCH-006")
def test_an_agent_changes_files_in_a_worktree_and_the_result_says_all(agents: Any, behave: Any) -> None:
    behave(edits=EDIT, answer="I added two.")
    there = agents()
    before = checkout_state(there.project)
    key = there.start(agent="claude")
    result = there.pool.value(key)
    assert checkout_state(there.project) == before
    assert (result["status"], result["text"], result["agent"], result["session"]) == (
        "changed",
        "I added two.",
        "claude",
        "8f1c",
    )
    assert [each["path"] for each in result["files"]] == ["app.py", "new/file.py"]
    assert result["branch"] == "sage/run-1/node-1"
    assert "+two" in result["diff"]
    assert (result["worktree"], result["checks"], result["notes"]) == (None, [], [])
    usage = {"input_tokens": 1200, "output_tokens": 34, "cost": 0.25}
    assert result["usage"] == usage
    assert used(there, key) == {**usage, "artifacts": [result["patch"]]}
    git(there.project, "apply", str(there.project / result["patch"]))
    assert (there.project / "app.py").read_text() == "one\ntwo\n"
    assert '"type": "result"' in there.pool.output(key, "stdout")


def test_commits_of_the_agent_are_in_the_result(agents: Any, behave: Any) -> None:
    behave(edits=EDIT, commit="Add two")
    result = agents().run(agent="codex")
    assert [each["subject"] for each in result["commits"]] == ["Add two"]


def test_what_aider_leaves_lying_about_is_no_change(agents: Any, behave: Any) -> None:
    behave(answer="Nothing to do.")
    result = agents().run(agent="aider")
    assert (result["status"], result["files"], result["patch"]) == ("unchanged", [], None)


def test_an_object_is_asked_for_with_the_files(agents: Any, behave: Any) -> None:
    behave(value={"title": "T"}, edits=EDIT)
    result = agents().run(agent="gemini", schema=SCHEMA)
    assert result["value"] == {"title": "T"}
    assert "text" not in result


def test_arguments_are_added_to_the_prompt(agents: Any, behave: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    behave(record=str(record))
    there = agents()
    op = there.pool.define("with-arguments", {"type": "agent"})
    row = there.pool._row(
        op,
        {"config": {"prompt": "Do it.", "agent": "claude"}, "arguments": {"plan": "1. x", "ids": [1]}},
        None,
    )
    there.pool.pool.submit(there.worker, [row])
    there.pool.value((row[0], row[1], row[2]))
    assert json.loads(record.read_text())["prompt"] == "Do it.\n\n## plan\n\n1. x\n\n## ids\n\n[\n 1\n]"


def test_without_a_worktree_an_agent_may_only_look_in_the_project(
    agents: Any, behave: Any, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    behave(record=str(record), answer="I looked.")
    there = agents()
    result = there.run(agent="codex", worktree=False)
    assert result["status"] == "answered"
    assert "patch" not in result
    seen = json.loads(record.read_text())
    assert seen["cwd"] == str(there.project)
    assert seen["arguments"][-2:] == ["--sandbox", "read-only"]


def test_any_command_is_an_agent(agents: Any) -> None:
    result = agents().run(command=["/bin/sh", "-c", "cat > told.txt; echo ok"])
    assert (result["text"], result["agent"], result["files"][0]["path"]) == ("ok", "sh", "told.txt")


def test_checks_run_on_what_was_changed(agents: Any, behave: Any) -> None:
    behave(edits=EDIT)
    result = agents().run(agent="claude", checks=["grep -c two app.py", "echo bad >&2; exit 3"])
    assert result["status"] == "checks_failed"
    assert [(each["ok"], each["exit_code"], each["output"]) for each in result["checks"]] == [
        (True, 0, "1\n"),
        (False, 3, "bad\n"),
    ]


def test_the_projects_own_checks_run_only_with_consent_to_them_as_they_are(
    agents: Any, behave: Any, project: Path
) -> None:
    (project / "check").write_text("#!/bin/sh\ngrep -q two app.py\n")
    (project / "check").chmod(0o755)
    behave(edits=EDIT)
    there = agents()
    (note,) = there.run(agent="claude", checks=True)["notes"]
    assert "not consented" in note
    TrustStore().consent(project, [checks_item(project)])
    result = there.run(agent="claude", checks=True)
    assert [(each["name"], each["ok"]) for each in result["checks"]] == [("./check", True)]
    hostile = {"command": ["/bin/sh", "-c", f"echo 'touch {project}/ran' > check; echo done"]}
    (note,) = there.run(**hostile, checks=True)["notes"]
    assert "the agent changed what decides them" in note
    assert not (project / "ran").exists()


def test_a_failure_is_paid_and_what_was_done_is_kept(agents: Any, behave: Any) -> None:
    behave(edits=EDIT, fail="error_max_turns")
    there = agents()
    key = there.start(agent="claude")
    error = there.pool.error(key)
    assert (error["type"], error["retryable"]) == ("AgentFailed", False)
    assert "error_max_turns" in error["message"]
    assert "+two" in Path(error["details"]["patch"]).read_text()
    assert used(there, key)["input_tokens"] == 1200
    assert git(there.project, "branch", "--list", "sage/*") == ""


def test_the_users_choice_is_used_where_the_operation_names_nobody(
    agents: Any, behave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = default_config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('[backend]\nagent = "mine"\n[agents.mine]\ncommand = ["wc", "-c"]\n')
    there = agents()
    assert there.run(worktree=False)["text"] == "6"
    path.write_text("")
    error = there.fail(worktree=False)
    assert "no agent is chosen" in error["message"]
    assert error["retryable"] is False


@pytest.mark.slow
def test_a_model_alone_answers(agents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelStub() as stub:
        for name, value in stub.environ().items():
            monkeypatch.setenv(name, value)
        there = agents()
        stub.say({"title": "T"})
        key = there.start(model="anthropic:claude-sonnet-5-5", schema=SCHEMA, max_tokens=55)
        result = there.pool.value(key)
        assert (result["status"], result["value"]) == ("answered", {"title": "T"})
        assert (result["agent"], result["model"]) == (None, "anthropic:claude-sonnet-5-5")
        assert stub.requests[0][2]["max_tokens"] == 55
        assert used(there, key)["input_tokens"] == INPUT_TOKENS
        assert there.run(model="openai-chat:m")["text"] == "stub"
        stub.refuse(429, retry_after="3")
        error = there.fail(model="openai-chat:m")
        assert (error["type"], error["retryable"], error["retry_after"]) == ("ModelFailed", True, 3.0)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"agent": "clod"}, "no agent 'clod'"),
        ({"agent": "claude", "command": "x"}, "either `agent` or `command`"),
        ({"command": ["no-such-thing"]}, "not on your PATH"),
        ({"agent": "claude", "prompt": "  "}, "`prompt`"),
        ({"agent": "claude", "schema": {"type": "array"}}, "`schema`"),
        ({"model": "gpt-5"}, "no model 'gpt-5'"),
    ],
)
def test_a_mistake_in_the_operation_is_not_repeated(agents: Any, config: dict[str, Any], match: str) -> None:
    error = agents().fail(**config)
    assert match in error["message"]
    assert error["retryable"] is False
    assert not list((agents().project / ".sage" / "worktrees").glob("*/*"))


def test_a_worker_that_is_told_to_end_ends_the_agent_and_removes_the_worktree(
    agents: Any, behave: Any, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    behave(hang=str(pids))
    there = agents()
    there.start(agent="claude")
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="the agent runs")
    there.pool.pool.kill(there.worker, "cancelled", grace_s=10.0)
    there.pool.lost(there.worker)
    wait_until_gone(pids)
    assert git(there.project, "worktree", "list").count("\n") == 1


def test_a_cancelled_node_ends_its_agent_and_keeps_its_worker(
    agents: Any, behave: Any, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    behave(hang=str(pids))
    there = agents()
    key = there.start(agent="claude")
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="the agent runs")
    there.pool.pool.cancel(there.worker, [key])
    assert there.pool.error(key)["type"] == "OperationCancelled"
    assert git(there.project, "worktree", "list").count("\n") == 1
    assert there.run(command="echo still here", worktree=False)["text"] == "still here"


@pytest.mark.chaos
def test_a_killed_worker_leaves_the_checkout_as_it_was_and_a_second_attempt_begins_anew(
    agents: Any, behave: Any, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    behave(hang=str(pids))
    there = agents()
    before = checkout_state(there.project)
    there.start(agent="claude")
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="the agent runs")
    os.kill(there.pool.pid(there.worker), signal.SIGKILL)
    there.pool.lost(there.worker)
    for pid in map(int, pids.read_text().split()):
        assert not pid_exists(pid)  # before the death is reported, what the worker started is gone
    assert checkout_state(there.project) == before
    assert git(there.project, "worktree", "list").count("\n") == 2
    there.worker = there.pool.worker()
    there.pool._next_node = 0  # the same node again
    result = there.run(command="ls -a; echo two >> app.py")
    assert [each["path"] for each in result["files"]] == ["app.py"]
    assert git(there.project, "worktree", "list").count("\n") == 1


def test_the_operation_has_a_worker_to_itself_and_its_fields_are_those_of_the_format() -> None:
    assert worker_kind("agent") == "own"
    said = {"id": "a", "type": "agent", "prompt": "x", "command": ["x"], "schema": SCHEMA, "checks": ["make"]}
    made = AgentOperation.model_validate(said)
    assert (made.schema_, made.checks, made.worktree) == (SCHEMA, ["make"], True)
    with pytest.raises(ValueError, match="either `agent` or `command`"):
        AgentOperation.model_validate({**said, "agent": "claude"})


def test_an_optional_agent_that_nobody_chose_is_needed_and_no_failure(
    agents: Any, behave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave()
    monkeypatch.setenv("SAGE_MODEL", "openai:some-model")  # a model alone changes no file
    found = agents().run(optional=True)
    assert found["status"] == "needs_agent"
    assert "SAGE_AGENT" in found["text"]


def test_an_optional_agent_that_was_chosen_works(
    agents: Any, behave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(edits=EDIT, answer="Done.")
    monkeypatch.setenv("SAGE_AGENT", "claude")
    assert agents().run(optional=True)["status"] == "changed"

"""kill -9 in every phase of the templates, and of the worker with all MCP sessions: nothing is done twice or lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_harness import wait_until
from sage_harness import FEATURE, PHASES, SageProject, SageRun, documents, shared
from sage_repositories import make_python_client, python_client

from sage_actors import Supervisor
from sage_actors.servers.catalog import SAGE_SERVERS
from sage_actors.supervisor.templates.library import find_template, load_workflow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.requirement("ORCH-017"),
    pytest.mark.requirement("ORCH-021"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc"),
]
_KILLED = PHASES if os.environ.get("SAGE_LONG_TESTS") else ("feature",)  # the others by flag
_ASKED = {"feature": FEATURE, "bugfix": python_client.ERROR, "enhancement": "error handling"}


@dataclass(frozen=True)
class Killed:
    """A run that was killed in each of its phases. lives: what each process said; the last one ended it."""

    sage: SageProject
    template: str
    lives: list[SageRun]
    undisturbed: dict[str, str]

    @property
    def last(self) -> SageRun:
        return self.lives[-1]


def _begins(prefix: str, event: dict[str, Any]) -> bool:
    return event["event"] == "node_started" and bool(event["node"].startswith(prefix))


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def _kill_in_each_phase(home: Path, template: str) -> Killed:
    topic = _ASKED[template]
    calm = SageProject(home / "calm", make_python_client)
    calm.run(template, topic, "--no-cache")
    undisturbed = documents(calm.project)
    calm.close()
    sage = SageProject(home / "killed", make_python_client)
    lives = []
    command = ["run", "--json", "--no-cache", template, topic, "--run-id", "killed"]
    for phase in PHASES[template]:
        lives.append(sage.run_until(partial(_begins, f"{phase}/"), *command))
        command = ["resume", "--json", "--no-cache", "killed"]
    lives.append(sage.resume("--no-cache", "killed"))
    return Killed(sage, template, lives, undisturbed)


def _kill_all(folder: Path) -> dict[str, Killed]:
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda each: _kill_in_each_phase(folder / each, each), _KILLED)
    return dict(zip(_KILLED, made, strict=True))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Killed]]:
    """In each template, one process is killed a phase. That none leaves a process is checked here."""
    found = shared(tmp_path_factory, "killed", _kill_all)
    yield found
    for each in found.values():
        each.sage.close()


@pytest.mark.parametrize("template", _KILLED)
def test_a_run_killed_in_every_phase_is_resumed_to_its_end(killed: dict[str, Killed], template: str) -> None:
    done = killed[template]
    assert [life.code for life in done.lives] == [-signal.SIGKILL] * len(PHASES[template]) + [0]
    assert done.last.end["status"] == "succeeded"
    assert all(life.events[0]["resumed"] for life in done.lives[1:])
    assert done.last.events[0]["completed"] >= 1


@pytest.mark.parametrize("template", _KILLED)
def test_what_was_finished_before_a_kill_never_runs_again(killed: dict[str, Killed], template: str) -> None:
    finished: set[str] = set()
    for life in killed[template].lives:
        assert life.events[0]["completed"] >= len(finished)
        assert not finished & set(life.starts)
        assert not finished & set(life.succeeded)
        finished |= set(life.succeeded)
    nodes = killed[template].sage.history("killed").nodes()
    assert {node.state for node in nodes} == {"succeeded"}


@pytest.mark.parametrize("template", _KILLED)
def test_a_kill_counts_against_no_node(killed: dict[str, Killed], template: str) -> None:
    nodes = killed[template].sage.history("killed").nodes()
    assert {node.crashes for node in nodes} == {0}


@pytest.mark.parametrize("template", _KILLED)
def test_the_documents_are_those_of_an_undisturbed_run(killed: dict[str, Killed], template: str) -> None:
    assert documents(killed[template].sage.project) == killed[template].undisturbed


@pytest.mark.parametrize("template", _KILLED)
def test_no_lock_and_no_half_written_file_is_left(killed: dict[str, Killed], template: str) -> None:
    sage = killed[template].sage
    names = {path.name for path in (sage.project / ".sage").rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith(".tmp") or name == "killed.lock"]
    locks = {path.name for path in (sage.project / ".sage/state/locks").iterdir()}
    assert locks <= {".registry.lock", ".audit.lock"}  # of the project, kept for good; none of the run
    again = sage.run(template, _ASKED[template], "--run-id", "killed")
    assert again.end["status"] == "succeeded"
    assert not again.starts


@pytest.mark.requirement("ORCH-018")
def test_a_killed_mcp_worker_is_replaced_and_the_run_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sage = SageProject(tmp_path, make_python_client)
    monkeypatch.setenv("XDG_CONFIG_HOME", sage.environ["XDG_CONFIG_HOME"])
    found = find_template("feature", sage.project)
    assert found is not None
    with Supervisor(sage.project, cache=False) as supervisor:
        run = supervisor.start(load_workflow(found.path), run_id="r", inputs={"topic": FEATURE})
        seen = []
        for event in run.events():
            seen.append(event)
            if (event.event, event.node, event.data.get("attempt")) == (
                "node_started",
                "specification/write",
                1,
            ):
                (pid,) = supervisor.statistics().pids
                os.kill(pid, signal.SIGKILL)
                wait_until(partial(_is_gone, pid), seconds=5.0)
        outcome = run.result(60).raise_for_status()
    sage.close()
    lost = [each for each in seen if each.event == "worker_lost"]
    assert [each.data["exitcode"] for each in lost] == [-signal.SIGKILL]
    starts = [each.node for each in seen if each.event == "node_started"]
    assert {node: starts.count(node) for node in starts if starts.count(node) > 1} == {
        "specification/write": 2
    }
    assert outcome["implementation/execute"]["status"] == "needs_agent"
    (end,) = [each.data for each in seen if each.event == "run_finished"]
    # research and patterns were loaded in vain only if a later phase asked them again
    assert set(end["server_starts"]) == set(SAGE_SERVERS)
    assert end["context_reloads"] == sum(end["server_starts"].values()) - len(SAGE_SERVERS)

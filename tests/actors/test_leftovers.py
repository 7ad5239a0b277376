"""What killed agents left goes with their run, and nothing else does. Real repositories, real commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import git, make_repository
from cli_harness import CommandLine, Inside

from sage_actors.actors.agents.leftovers import remove_leftovers
from sage_actors.actors.agents.worktree import attempt_worktree
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.locks import RunLock

pytestmark = pytest.mark.requirement("ORCH-006")

KILLED = """
import os, signal, sys
from pathlib import Path
from sage_actors.actors.agents.worktree import attempt_worktree
with attempt_worktree(Path(sys.argv[1]), sys.argv[2], sys.argv[3]) as worktree:
    (worktree.directory / "half.py").write_text("half")
    if len(sys.argv) > 4:
        worktree.collect("What it did")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.close()


@pytest.fixture
def project(sage: CommandLine) -> Path:
    return make_repository(sage.project)


@pytest.fixture
def inside(
    sage: CommandLine, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Inside:
    return Inside(sage, capsys, monkeypatch)


def kill_an_agent(project: Path, run_id: str, node_id: str, *collected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(project), run_id, node_id, *collected], timeout=60
    )
    assert done.returncode == -signal.SIGKILL


def make_runs(sage: CommandLine, inside: Inside, *run_ids: str) -> None:
    flow = sage.flow({"id": "one", "type": "wait", "seconds": 0})
    for run_id in run_ids:
        inside("run", flow, "--run-id", run_id)


def entries(project: Path) -> list[str]:
    """The worktrees that git knows besides the checkout, below `.sage/worktrees`."""
    said = git(project, "worktree", "list", "--porcelain").splitlines()
    paths = [line.removeprefix("worktree ") for line in said if line.startswith("worktree ")]
    return [path.partition("/.sage/worktrees/")[2] for path in paths[1:]]


def test_delete_removes_what_agents_of_the_run_left_and_says_so(
    sage: CommandLine, project: Path, inside: Inside
) -> None:
    make_runs(sage, inside, "one", "two")
    for run_id in ("one", "two"):
        kill_an_agent(project, run_id, "implement/code", "collected")
        kill_an_agent(project, run_id, "review")
    assert len(entries(project)) == 4
    said = json.loads(inside("delete", "one", "--yes", "--json").stdout)
    assert said["deleted"] == ["one"]
    assert {".sage/worktrees/one", ".sage/worktrees/one/implement/code", ".sage/artifacts/one"} <= set(
        said["leftovers"]
    )
    assert sorted(entries(project)) == ["two/implement/code", "two/review"]
    assert not (project / ".sage/worktrees/one").exists()
    assert not (project / ".sage/artifacts/one").exists()
    assert (project / ".sage/worktrees/two/review/half.py").exists()
    assert (project / ".sage/artifacts/two/implement/code.patch").exists()
    branches = git(project, "branch", "--list", "sage/*").split()
    assert branches == ["sage/one/implement/code", "sage/two/implement/code"], "commits are kept"


def test_prune_removes_them_of_old_runs_alone_and_lists_them_before(
    sage: CommandLine, project: Path, inside: Inside
) -> None:
    make_runs(sage, inside, "old", "new")
    for run_id in ("old", "new"):
        kill_an_agent(project, run_id, "code")
    for path in (project / ".sage/state/old").glob("journal-*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    said = json.loads(inside("prune", "--older-than", "30d", "--dry-run", "--json").stdout)
    assert said["would_be_deleted"] == ["old"]
    assert ".sage/worktrees/old/code" in said["leftovers"]
    assert len(entries(project)) == 2, "a dry run removes nothing"
    assert ".sage/worktrees/old deleted" in inside("prune", "--older-than", "30d", "--yes").stdout
    assert entries(project) == ["new/code"]
    assert (project / ".sage/worktrees/new/code/half.py").exists()


def test_a_worktree_that_somebody_locked_stays(sage: CommandLine, project: Path, inside: Inside) -> None:
    make_runs(sage, inside, "one")
    kill_an_agent(project, "one", "a")
    kill_an_agent(project, "one", "b")
    git(project, "worktree", "lock", "--reason", "I look at it", str(project / ".sage/worktrees/one/a"))
    done = inside("delete", "one", "--yes")
    assert ".sage/worktrees/one/a stays: it is locked" in done.stderr
    assert entries(project) == ["one/a"]
    assert (project / ".sage/worktrees/one/a/half.py").exists()


def test_the_worktree_of_a_run_that_lives_is_not_touched(
    sage: CommandLine, project: Path, inside: Inside
) -> None:
    make_runs(sage, inside, "one")
    lock = RunLock.acquire(StateDirectory(project), "one")
    try:
        with attempt_worktree(project, "one", "code") as worktree:
            assert "owns" in inside("delete", "one", "--yes", code=3).stderr
            old = json.loads(inside("prune", "--older-than", "0s", "--yes", "--json").stdout)
            assert "one" not in old.get("deleted", old.get("would_be_deleted"))
            assert (worktree.directory / "app.py").exists()
    finally:
        lock.release()


def test_an_entry_whose_folder_is_gone_is_forgotten_and_those_of_others_are_not(
    project: Path, tmp_path: Path
) -> None:
    kill_an_agent(project, "one", "code")
    git(project, "worktree", "add", "-q", "--detach", str(tmp_path / "on a stick"))
    shutil.rmtree(project / ".sage/worktrees/one")
    shutil.rmtree(tmp_path / "on a stick")
    assert remove_leftovers(project, "one").removed == [".sage/worktrees/one/code"]
    assert git(project, "worktree", "list", "--porcelain").count("worktree ") == 2, (
        "the user's is away, not gone"
    )


def test_a_link_in_the_place_of_the_folder_is_not_followed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "one").mkdir(parents=True)
    (project / ".sage").mkdir()
    for top in ("worktrees", "artifacts"):
        (project / ".sage" / top).symlink_to(tmp_path / "mine")
    found = remove_leftovers(project, "one")
    assert (found.removed, set(found.kept)) == ([], {".sage/worktrees", ".sage/artifacts"})
    assert (tmp_path / "mine" / "one").is_dir()


def test_a_project_without_a_repository_loses_the_folders_too(tmp_path: Path) -> None:
    for top in ("worktrees", "artifacts"):
        (tmp_path / ".sage" / top / "one" / "deep").mkdir(parents=True)
        (tmp_path / ".sage" / top / "other").mkdir()
    removed = remove_leftovers(tmp_path, "one").removed
    assert removed == [".sage/worktrees/one", ".sage/artifacts/one"]
    assert (tmp_path / ".sage/worktrees/other").is_dir()
    assert remove_leftovers(tmp_path, "one").removed == []

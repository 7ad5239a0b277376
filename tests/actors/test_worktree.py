"""Worktrees of agents: what changed there is kept, what was there before is untouched, and no crash leaves a trace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_harness import checkout_state, git, make_repository
from places import SOURCES

from sage_actors.actors.agents.worktree import Changes, GitError, Worktree, attempt_worktree, safe_parts
from sage_actors.messages.errors import StorageError, UsageError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def collect(worktree: Worktree, *leaves: str) -> Changes:
    return worktree.collect("What the agent did", leaves=leaves)


def is_clean(project: Path) -> bool:
    """No worktree is left, on disk or in git's books."""
    listed = git(project, "worktree", "list", "--porcelain").count("worktree ")
    return listed == 1 and not list((project / ".sage" / "worktrees").glob("*/*"))


@pytest.mark.requirement("ORCH-006")
def test_what_changed_is_a_patch_and_a_branch_and_the_checkout_is_untouched(project: Path) -> None:
    before = checkout_state(project)
    with attempt_worktree(project, "run-1", "implement/code") as worktree:
        (worktree.directory / "app.py").write_text("one\ntwo\n")
        (worktree.directory / "new.bin").write_bytes(bytes(range(256)))
        (worktree.directory / "note.log").write_text("ignored")
        changes = collect(worktree)
        assert checkout_state(project) == before
    assert is_clean(project)
    assert checkout_state(project) == before
    assert changes.files == [
        {"path": "app.py", "added": 1, "removed": 0},
        {"path": "new.bin", "added": None, "removed": None},
    ]
    assert changes.patch == project / ".sage/artifacts/run-1/implement/code.patch"
    assert changes.branch == "sage/run-1/implement/code"
    assert "+two" in changes.diff
    git(project, "apply", "--check", str(changes.patch))
    git(project, "apply", str(changes.patch))
    assert (project / "new.bin").read_bytes() == bytes(range(256))
    assert git(project, "diff", "--stat", "HEAD", changes.branch, "--", "app.py")


def test_commits_of_the_agent_are_listed_and_what_it_left_is_added(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        for number in (1, 2):
            (worktree.directory / "app.py").write_text(f"{number}\n")
            git(worktree.directory, "commit", "-q", "-a", "-m", f"Step {number}")
        (worktree.directory / "rest.py").write_text("rest\n")
        changes = collect(worktree)
    assert [each["subject"] for each in changes.commits] == ["Step 1", "Step 2"]
    assert changes.branch is not None
    subjects = git(project, "log", "--format=%s", changes.branch).splitlines()
    assert subjects == ["What the agent did", "Step 2", "Step 1", "First"]


def test_nothing_changed_leaves_nothing(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        changes = collect(worktree)
    assert changes == Changes(changes.base)
    assert not (project / ".sage" / "artifacts").exists()
    assert git(project, "branch", "--list", "sage/*") == ""


def test_what_is_not_committed_is_there_and_no_part_of_the_patch(project: Path) -> None:
    (project / "docs").mkdir()
    (project / "docs" / "plan.md").write_text("the plan\n")
    (project / "app.py").write_text("changed\n")
    (project / "debug.log").write_text("ignored\n")
    git(project, "add", "app.py")
    before = checkout_state(project)
    with attempt_worktree(project, "run-1", "n") as worktree:
        assert (worktree.directory / "docs" / "plan.md").read_text() == "the plan\n"
        assert (worktree.directory / "app.py").read_text() == "changed\n"
        assert not (worktree.directory / "debug.log").exists()
        (worktree.directory / "app.py").write_text("changed\nmore\n")
        changes = collect(worktree)
    assert checkout_state(project) == before
    assert [each["path"] for each in changes.files] == ["app.py"]
    assert changes.patch is not None
    git(project, "apply", str(changes.patch))
    assert (project / "app.py").read_text() == "changed\nmore\n"


def test_it_can_begin_at_head(project: Path) -> None:
    (project / "app.py").write_text("changed\n")
    with attempt_worktree(project, "run-1", "n", uncommitted=False) as worktree:
        assert (worktree.directory / "app.py").read_text() == "one\n"
        assert worktree.base == git(project, "rev-parse", "HEAD").strip()


def test_a_branch_is_never_moved(project: Path) -> None:
    names = []
    for text in ("a\n", "b\n"):
        with attempt_worktree(project, "run-1", "n") as worktree:
            (worktree.directory / "app.py").write_text(text)
            names.append(collect(worktree).branch)
    assert names == ["sage/run-1/n", "sage/run-1/n-2"]
    git(project, "branch", "sage-x")
    assert git(project, "show", "sage/run-1/n:app.py") == "a\n"


def test_a_branch_that_cannot_be_made_loses_no_result(project: Path) -> None:
    git(project, "branch", "sage")
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.directory / "app.py").write_text("a\n")
        changes = collect(worktree)
    assert changes.branch is None
    assert changes.patch is not None
    assert "+a" in changes.patch.read_text()


def test_what_an_agent_always_leaves_lying_about_is_no_change(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.directory / ".aider.tags.cache.v4").mkdir()
        (worktree.directory / ".aider.tags.cache.v4" / "db").write_text("x")
        assert collect(worktree, ".aider*").patch is None


def test_a_project_inside_a_repository_is_worked_on_in_its_place(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "mono", {"packages/one/a.py": "1\n", "packages/two/b.py": "2\n"})
    project = root / "packages" / "one"
    with attempt_worktree(project, "run-1", "n") as worktree:
        assert (worktree.directory / "a.py").exists()
        (worktree.directory / "a.py").write_text("changed\n")
        changes = collect(worktree)
    assert changes.patch == project / ".sage/artifacts/run-1/n.patch"
    git(root, "apply", str(changes.patch))
    assert (project / "a.py").read_text() == "changed\n"


def test_no_hook_of_the_user_runs(project: Path) -> None:
    for name in ("post-checkout", "pre-commit", "commit-msg", "reference-transaction"):
        hook = project / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {project}/{name}.ran\nexit 1\n")
        hook.chmod(0o755)
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.directory / "app.py").write_text("a\n")
        assert collect(worktree).patch is not None
    assert not list(project.glob("*.ran"))


def test_a_git_file_that_the_agent_changed_is_not_followed(project: Path, tmp_path: Path) -> None:
    trap = make_repository(tmp_path / "trap")
    git(trap, "config", "core.fsmonitor", f"touch {tmp_path}/ran")
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.root / ".git").write_text(f"gitdir: {trap}/.git\n")
        (worktree.directory / "app.py").write_text("a\n")
        assert [each["path"] for each in collect(worktree).files] == ["app.py"]
    assert not (tmp_path / "ran").exists()
    assert is_clean(project)


def test_names_that_are_no_utf_8_are_shown(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.directory / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"\xe9\n")
        (worktree.directory / "a\tb\nc").write_text("x\n")
        changes = collect(worktree)
    assert {each["path"] for each in changes.files} == {"caf\\xe9.txt", "a\tb\nc"}
    assert changes.diff.encode()


def test_a_long_diff_is_cut_and_whole_in_the_patch(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.directory / "long.txt").write_text("line\n" * 100_000)
        changes = collect(worktree)
    assert changes.diff_cut
    assert len(changes.diff) == 20_000
    assert changes.patch is not None
    assert changes.patch.read_text().count("+line") == 100_000
    assert changes.patch.stat().st_mode & 0o077 == 0


def test_what_cannot_be_written_in_is_removed_all_the_same(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        locked = worktree.directory / "modules" / "cache"
        locked.mkdir(parents=True)
        (locked / "file").write_text("x")
        (worktree.directory / "out").symlink_to(project)
        locked.chmod(0o500)
        locked.parent.chmod(0o500)
    assert is_clean(project)
    assert (project / "app.py").exists()


def test_a_worktree_that_the_agent_removed_is_an_error(project: Path) -> None:
    with attempt_worktree(project, "run-1", "n") as worktree:
        subprocess.run(["rm", "-rf", str(worktree.root)], check=True)
        with pytest.raises(GitError, match="the directory is gone"):
            collect(worktree)
    assert is_clean(project)


def test_without_git_or_a_commit_there_is_no_worktree(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"in no git repository .*git init.*worktree: false"),
        attempt_worktree(tmp_path, "run-1", "n"),
    ):
        pass
    git(tmp_path, "init", "-q")
    with pytest.raises(UsageError, match="no commit yet"), attempt_worktree(tmp_path, "run-1", "n"):
        pass


@pytest.mark.parametrize("part", [".sage", ".sage/worktrees", ".sage/worktrees/run-1"])
def test_a_link_in_the_way_is_refused(project: Path, tmp_path: Path, part: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "n").mkdir(parents=True)
    (elsewhere / "n" / "precious").touch()
    (project / part).parent.mkdir(parents=True, exist_ok=True)
    (project / part).symlink_to(elsewhere)
    with pytest.raises(StorageError, match="is a link"), attempt_worktree(project, "run-1", "n"):
        pass
    assert (elsewhere / "n" / "precious").exists()


def test_gits_own_variables_of_a_hook_lead_nowhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    with attempt_worktree(project, "run-1", "n") as worktree:
        (worktree.directory / "app.py").write_text("a\n")
        assert [each["path"] for each in collect(worktree).files] == ["app.py"]


@pytest.mark.parametrize(
    "name",
    ["a/b", "x[0]", "a..b", ".hidden", "end.lock", "-", "a b", "ü", "x" * 300, "..", "@{", "a/../b", ""],
)
def test_every_name_becomes_one_that_git_and_files_take(project: Path, name: str) -> None:
    parts = safe_parts(name)
    git(project, "check-ref-format", f"refs/heads/sage/{'/'.join(parts)}")
    assert not {"", ".", ".."} & set(parts)


def test_two_names_stay_two_names() -> None:
    assert safe_parts("x[0]") != safe_parts("x-0") != safe_parts("x{0}") != safe_parts("x[0]")


_ATTEMPT = """
import sys
from pathlib import Path
from sage_actors.actors.agents.worktree import attempt_worktree
print("go", flush=True)
with attempt_worktree(Path(sys.argv[1]), "run-1", "phase/n") as worktree:
    (worktree.directory / "app.py").write_text("half\\n")
    print("in", flush=True)
    worktree.collect("x")
    if len(sys.argv) > 2:
        sys.stdin.read()
"""


def start_attempt(project: Path, *arguments: str) -> subprocess.Popen[bytes]:
    root = SOURCES
    return subprocess.Popen(
        [sys.executable, "-c", _ATTEMPT, str(project), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
        process_group=0,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.chaos
def test_a_kill_while_the_agent_works_leaves_a_worktree_that_the_next_attempt_removes(project: Path) -> None:
    before = checkout_state(project)
    process = start_attempt(project, "wait")
    assert process.stdout is not None
    while process.stdout.readline().strip() != b"in":
        pass
    kill(process)
    assert not is_clean(project)
    assert checkout_state(project) == before
    with attempt_worktree(project, "run-1", "phase/n") as worktree:
        assert (worktree.directory / "app.py").read_text() == "one\n"
    assert is_clean(project)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.no_cover
def test_a_kill_at_any_instant_leaves_the_checkout_as_it_was_and_the_next_attempt_works(
    project: Path,
) -> None:
    (project / "draft.md").write_text("not committed\n")
    before = checkout_state(project)
    instants = random.Random(7)
    for _ in range(12):
        process = start_attempt(project)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(instants.uniform(0, 0.12))  # an instant between its start and its end; any will do
        kill(process)
        assert checkout_state(project) == before
        with attempt_worktree(project, "run-1", "phase/n") as worktree:
            assert (worktree.directory / "app.py").read_text() == "one\n"
        assert is_clean(project)
    git(project, "fsck", "--no-dangling")

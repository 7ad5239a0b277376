"""A repository as it is: with git, without, damaged, hostile; and a state that changes when the contents do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import SOURCES

from sage_actors.servers.corpus.repository import Repository, repository_state, shown_name
from sage_actors.servers.quality.churn import read_churn

GIT = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")


def git(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(
        [*GIT, *arguments], cwd=root, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with two commits, an ignored file and an untracked one."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    (root / ".gitignore").write_text("*.log\n")
    (root / "a.py").write_text("one = 1\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Begin")
    (root / "sub").mkdir()
    (root / "sub" / "b.py").write_text("two = 2\n")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "Add the second\n\nBecause one is not enough.")
    (root / "new.py").write_text("three = 3\n")
    (root / "noise.log").write_text("x")
    return root


def names(root: Path) -> list[str]:
    return [file.path for file in Repository(root).files]


def test_tracked_and_new_files_are_listed_and_ignored_ones_are_not(root: Path) -> None:
    assert names(root) == [".gitignore", "a.py", "new.py", "sub/b.py"]
    assert Repository(root).is_git


def test_a_deleted_file_is_not_listed(root: Path) -> None:
    (root / "a.py").unlink()
    assert "a.py" not in names(root)


def test_a_folder_of_a_repository_lists_its_own_files_only(root: Path) -> None:
    assert names(root / "sub") == ["b.py"]
    assert [commit.subject for commit in Repository(root / "sub").history()] == ["Add the second"]


def test_without_git_the_folder_is_walked_without_what_tools_leave(tmp_path: Path) -> None:
    for name in (
        "a.py",
        "node_modules/x/index.js",
        ".venv/lib/y.py",
        "docs/specs/f/spec.md",
        ".sage/state/z",
        "d/b.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    repository = Repository(tmp_path)
    assert names(tmp_path) == ["a.py", "d/b.py"]
    assert (repository.head, repository.history(), repository.is_git) == (None, [], False)
    assert repository.notes == ("no git: the folder was walked",)


def test_a_repository_that_git_refuses_is_walked_and_its_refusal_told(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x")
    assert Repository(tmp_path).git_refusal == ""
    git(tmp_path, "config", "core.repositoryformatversion", "99")
    repository = Repository(tmp_path)
    assert (names(tmp_path), repository.is_git) == (["a.py"], False)
    assert "found 99" in repository.git_refusal
    assert repository.notes[0] == f"git does not read this repository: {repository.git_refusal}"


def test_an_empty_folder_and_a_missing_one_have_a_state_and_no_files(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        assert names(root) == []
        assert len(repository_state(root)) == 64


def test_a_repository_without_commits_has_files_and_no_head(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("x")
    repository = Repository(tmp_path)
    assert (names(tmp_path), repository.head, repository.history()) == (["a.py"], None, [])


def test_names_that_are_not_utf8_are_read_and_shown(root: Path) -> None:
    with open(os.path.join(os.fsencode(root), b"caf\xe9.txt"), "w") as stream:
        stream.write("coffee")
    git(root, "add", ".")
    [path] = [name for name in names(root) if name.startswith("caf")]
    assert Repository(root).read_bytes(path) == b"coffee"
    assert shown_name(path) == r"caf\xe9.txt"
    assert len(repository_state(root)) == 64


def test_links_are_not_followed_out_of_the_root(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text("password")
    (root / "link.py").symlink_to(outside / "secret.py")
    (root / "folder").symlink_to(outside)
    git(root, "add", ".")
    repository = Repository(root)
    assert names(root) == [".gitignore", "a.py", "new.py", "sub/b.py"]
    for path in ("link.py", "folder/secret.py", "../outside/secret.py", str(outside / "secret.py")):
        assert repository.read_bytes(path) is None, path


def test_a_tracked_folder_that_became_a_link_to_elsewhere_is_not_entered(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.py").write_text("password")
    (root / "sub" / "b.py").unlink()
    (root / "sub").rmdir()
    (root / "sub").symlink_to(outside)
    assert "sub/b.py" not in names(root)


def test_a_pipe_in_the_tree_holds_nobody_up(root: Path) -> None:
    os.mkfifo(root / "pipe.py")
    assert "pipe.py" not in names(root)
    assert Repository(root).read_bytes("pipe.py") is None


def test_a_submodule_is_named_and_not_looked_into(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "c.py").write_text("x")
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "Other")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "lib")
    repository = Repository(root)
    assert not [name for name in names(root) if name.startswith("lib/")]
    assert repository.notes == ("submodules are not looked into: lib",)


def test_the_state_changes_with_contents_and_comes_back_with_them(root: Path) -> None:
    states = [repository_state(root)]
    (root / "a.py").write_text("one = 9\n")  # the same length
    states.append(repository_state(root))
    (root / "b.txt").write_text("new")
    states.append(repository_state(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "More")
    states.append(repository_state(root))
    assert len(set(states)) == 4
    git(root, "reset", "-q", "--hard", "HEAD~1")
    (root / "new.py").write_text("three = 3\n")
    assert repository_state(root) == states[0]


def test_touching_a_file_or_writing_what_a_run_writes_changes_no_state(root: Path) -> None:
    before = repository_state(root)
    os.utime(root / "a.py", (1, 1))
    for name in (".sage/cache/x.json", "docs/specs/f/spec.md", "noise.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("changed")
    assert repository_state(root) == before


def test_what_a_test_run_leaves_behind_changes_no_state(root: Path) -> None:
    before = repository_state(root)
    for name in ("__pycache__/a.pyc", "part/.pytest_cache/v", "part/node_modules/x/index.js"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("left")
    assert repository_state(root) == before
    (root / "part/new.py").write_text("x = 1\n")
    assert repository_state(root) != before


def test_a_clone_has_the_state_of_its_original(root: Path, tmp_path: Path) -> None:
    (root / "new.py").unlink()
    git(tmp_path, "clone", "-q", str(root), "clone")
    assert repository_state(tmp_path / "clone") == repository_state(root)


def test_without_git_the_state_changes_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    before = repository_state(tmp_path)
    (tmp_path / "a.py").write_text("xy")
    assert repository_state(tmp_path) != before


def test_history_has_messages_dates_and_files_newest_first(root: Path) -> None:
    last, first = Repository(root).history()
    assert (last.subject, last.body, last.files) == (
        "Add the second",
        "Because one is not enough.",
        ("sub/b.py",),
    )
    assert first.files == (".gitignore", "a.py")
    assert last.date[:2] == "20"
    assert last.commit == Repository(root).head
    assert Repository(root).history(1) == [last]


def test_a_commit_of_what_a_run_wrote_is_no_history(root: Path) -> None:
    before = Repository(root).history()
    specs = root / "docs" / "specs" / "x"
    specs.mkdir(parents=True)
    (specs / "spec.md").write_text("# x\n")
    git(root, "add", "docs")
    git(root, "commit", "-q", "-m", "Add the specification of x")
    repository = Repository(root)
    assert repository.history() == before
    assert repository.head_date >= before[0].date
    assert read_churn(repository).described.startswith("2 commits without merges")
    (specs / "spec.md").write_text("# y\n")
    (root / "a.py").write_text("one = 2\n")
    git(root, "commit", "-q", "-a", "-m", "Change a, and what is said of it")
    repository = Repository(root)
    assert repository.history()[0].files == ("a.py",)
    assert set(read_churn(repository).files) == {".gitignore", "a.py", "sub/b.py"}


def test_a_message_full_of_separators_breaks_no_other_commit(root: Path) -> None:
    git(root, "commit", "-q", "--allow-empty", "-m", "odd \x1e and \x1f signs")
    assert [c.subject for c in Repository(root).history()][-2:] == ["Add the second", "Begin"]


def test_statistics_of_a_commit_name_its_files(root: Path) -> None:
    repository = Repository(root)
    assert repository.head is not None
    assert "sub/b.py | 1 +" in repository.change_statistics(repository.head)
    with pytest.raises(ValueError, match="no commit id"):
        repository.change_statistics("--output=/tmp/x")


def test_nothing_that_a_repository_configures_is_run(root: Path, tmp_path: Path) -> None:
    marker, trap = tmp_path / "marker", tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    trap.chmod(0o755)
    settings = (
        *("core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "diff.evil.textconv"),
        *("diff.evil.command", "filter.evil.clean", "filter.evil.process", "gpg.program", "core.editor"),
    )
    for name in settings:
        git(root, "config", name, str(trap))
    git(root, "config", "core.hooksPath", str(tmp_path))
    git(root, "config", "log.showSignature", "true")
    (root / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (root / "a.py").write_text("one = 9\n")
    repository = Repository(root)
    repository.state_hash()
    assert len(repository.history()) == 2
    assert repository.change_statistics(repository.history()[0].commit)
    assert not marker.exists()
    subprocess.run(["git", "status"], cwd=root, capture_output=True, check=False)
    assert marker.exists(), "the trap works: git status steps into it"


def test_variables_of_an_outer_git_lead_nowhere_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert "a.py" in names(root)
    assert Repository(root).head is not None


def test_a_git_that_never_answers_is_given_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    begun = time.monotonic()
    assert Repository(root).git("status", timeout_s=0.2) == b""
    assert time.monotonic() - begun < 10


def test_output_without_end_is_cut(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec yes\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert len(Repository(root).git("log", limit_bytes=100_000)) == 100_000


def test_where_git_is_missing_the_folder_is_walked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "sub/b.py" in names(root)
    assert not Repository(root).is_git


def test_the_state_is_had_without_mcp_and_pydantic() -> None:
    code = (
        "import sys; from sage_actors.servers.corpus.repository import repository_state;"
        "print(sorted({'mcp', 'pydantic'} & set(sys.modules)))"
    )
    source = str(SOURCES)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"

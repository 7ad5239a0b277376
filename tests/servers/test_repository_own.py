"""Another repository in the place of a project's own is seen; worktrees, submodules and subfolders are its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_actors.actors.agents.worktree import attempt_worktree
from sage_actors.messages.errors import UsageError
from sage_actors.servers.corpus.repository import Repository
from sage_actors.servers.corpus.repository_own import foreign_git

pytestmark = pytest.mark.requirement("ORCH-023")
SECRET = "the private project is late"


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def make(folder: Path, subject: str) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "a.txt").write_text("a")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", subject)
    return folder


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return make(tmp_path / "private", SECRET)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make(tmp_path / "project", "own")


def lead_through_file(project: Path, private: Path) -> None:
    _remove_git(project)
    (project / ".git").write_text(f"gitdir: {private}/.git\n")


def lead_through_link(project: Path, private: Path) -> None:
    _remove_git(project)
    (project / ".git").symlink_to("../private/.git")


def lead_through_common_directory(project: Path, private: Path) -> None:
    (project / ".git/commondir").write_text("../../private/.git\n")


def lead_through_objects_and_refs(project: Path, private: Path) -> None:
    for name in ("objects", "refs"):
        (project / ".git" / name).rename(project / f".git/old-{name}")
        (project / ".git" / name).symlink_to(private / ".git" / name)


def lead_through_branch(project: Path, private: Path) -> None:
    (project / ".git/objects/info/alternates").write_text(f"{private}/.git/objects\n")
    branch = project / ".git/refs/heads/main"
    branch.unlink()
    branch.symlink_to(private / ".git/refs/heads/main")


def _remove_git(project: Path) -> None:
    (project / ".git").rename(project.parent / "removed")


LEADS = [
    lead_through_file,
    lead_through_link,
    lead_through_common_directory,
    lead_through_objects_and_refs,
    lead_through_branch,
]


@pytest.mark.parametrize("lead", LEADS, ids=lambda each: each.__name__.removeprefix("lead_through_"))
def test_the_history_of_another_repository_is_not_read(
    project: Path, private: Path, lead: Callable[[Path, Path], None]
) -> None:
    lead(project, private)
    said = subprocess.run(["git", "log", "--format=%s"], cwd=project, capture_output=True, text=True)
    assert SECRET in said.stdout, "git itself was not led astray: the attack is none"
    found = Repository(project)
    assert found.history() == []
    assert found.head is None
    assert [each.path for each in found.files] == ["a.txt"]
    assert "another repository" in " ".join(found.notes)
    with pytest.raises(UsageError, match="another repository"), attempt_worktree(project, "run", "node"):
        pass
    assert not (private / ".git/worktrees").exists()


def test_a_worktree_a_submodule_and_a_subfolder_have_a_history(project: Path, private: Path) -> None:
    git(project, "worktree", "add", "-q", "../linked")
    git(project, "submodule", "add", "-q", str(private), "inner")
    (project / "packages").mkdir()
    (project / "packages/b.txt").write_text("b")
    git(project, "add", ".")
    git(project, "commit", "-qm", "packages")
    subjects = {
        folder: [each.subject for each in Repository(folder).history()]
        for folder in (project.parent / "linked", project / "inner", project / "packages")
    }
    assert list(subjects.values()) == [["own"], [SECRET], ["packages"]]


def test_a_folder_without_git_or_with_a_broken_one_is_nobody_s(tmp_path: Path) -> None:
    assert foreign_git(tmp_path) == ""
    (tmp_path / ".git").write_text("nonsense")
    assert foreign_git(tmp_path) == ""
    (tmp_path / ".git").unlink()
    os.mkfifo(tmp_path / ".git")
    assert foreign_git(tmp_path) == ""
    assert Repository(tmp_path).is_git is False


def test_a_mailmap_that_is_a_fifo_does_not_take_the_history(project: Path) -> None:
    os.mkfifo(project / ".mailmap")
    assert [each.subject for each in Repository(project).history()] == ["own"]


def test_filters_of_the_repository_s_own_configuration_do_not_run_in_a_worktree(project: Path) -> None:
    sprung = project.parent / "sprung"
    config = project / ".git/config"
    filters = "".join(f"\t{name} = touch {sprung}; cat\n" for name in ("clean", "smudge"))
    config.write_text(
        f'{config.read_text()}[include]\n\tpath = more\n[filter "Evil.one"]\n{filters}\trequired\n'
    )
    (project / ".git/more").write_text(f'[filter "two"]\n\tprocess = touch {sprung}\n\tclean = false\n')
    (project / ".gitattributes").write_text("a.txt filter=Evil.one\nb.txt filter=two\n")
    for name in ("a.txt", "b.txt"):
        (project / name).write_text("changed")
    with attempt_worktree(project, "run", "node") as tree:
        assert (tree.root / "a.txt").read_text() == (tree.root / "b.txt").read_text() == "changed"
        (tree.root / "a.txt").write_text("by the agent")
        assert tree.collect("agent").file_count == 1
    assert not sprung.exists()
    git(project, "add", "a.txt")
    assert sprung.exists(), "the trap was not set"


def test_filters_of_the_user_run_in_a_worktree(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gitconfig").write_text('[filter "mine"]\n\tclean = tr a-z A-Z\n\tsmudge = tr A-Z a-z\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (project / ".gitattributes").write_text("a.txt filter=mine\n")
    (project / "a.txt").write_text("changed")
    with attempt_worktree(project, "run", "node") as tree:
        said = subprocess.run(["git", "show", f"{tree.base}:a.txt"], cwd=project, capture_output=True)
    assert said.stdout == b"CHANGED"

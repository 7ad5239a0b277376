"""Which projects hold state, and what of them a key sealed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_journal import KEYS, OTHER, write_segment

from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.keys import projects as key_projects
from sage_actors.actors.keys.projects import known_projects, note_project, uses_of_key
from sage_actors.actors.state.directory import StateDirectory

pytestmark = pytest.mark.requirement("ORCH-016")


def listed(home: Path) -> Path:
    return home / "config" / "sage-actors" / "projects"


def test_a_project_is_noted_once_by_its_real_path(tmp_path: Path, private_home: Path) -> None:
    project, link = tmp_path / 'a "quoted"\nname', tmp_path / "link"
    project.mkdir()
    link.symlink_to(project)
    for path in (project, link, project / ".." / project.name):
        note_project(path)
    assert known_projects() == [project.resolve()]
    assert listed(private_home).stat().st_mode & 0o777 == 0o600


def test_what_is_no_path_in_the_list_is_nothing(tmp_path: Path, private_home: Path) -> None:
    note_project(tmp_path)
    with listed(private_home).open("ab") as file:
        file.write(b'\xff\xfe\n{"a": 1}\nnot json\n')
    assert known_projects() == [tmp_path.resolve()]
    note_project(tmp_path / "other")
    assert known_projects() == [tmp_path.resolve(), (tmp_path / "other").resolve()]


def test_projects_that_are_gone_are_forgotten_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_projects, "_MANY", 3)
    for number in range(3):
        note_project(tmp_path / f"gone{number}")
    assert len(known_projects()) == 3
    note_project(tmp_path)
    assert known_projects() == [tmp_path.resolve()]


def test_a_list_that_cannot_be_written_fails_nothing(tmp_path: Path, private_home: Path) -> None:
    (private_home / "config" / "sage-actors").write_text("in the way")
    note_project(tmp_path)
    assert known_projects() == []


def test_runs_archives_and_records_of_a_key_are_named_without_having_it(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert uses_of_key(tmp_path, KEYS.primary.id) == []
    write_segment(state.run_dir("first"), [b"one"])
    write_segment(state.run_dir("archived"), [b"one"])
    archived = state.archive("archived")
    write_segment(state.run_dir("other"), [b"one"], keys=OTHER)
    log = AuditLog(state, KEYS)
    log.record("test")
    log.close()
    used = uses_of_key(tmp_path, KEYS.primary.id)
    assert used[:2] == [f"run archive/{archived.name}", "run first"]
    assert used[2].endswith("records of the audit log")
    assert uses_of_key(tmp_path, OTHER.primary.id) == ["run other"]


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_not_taken_for_unused(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    write_segment(state.run_dir("first"), [b"one"])
    for path in state.run_dir("first").iterdir():
        path.chmod(0)
    with pytest.raises(OSError, match="denied"):
        uses_of_key(tmp_path, KEYS.primary.id)

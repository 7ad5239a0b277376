"""The state directory: modes, names, links, moving and removing runs; and the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import SOURCES

from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.actors.state import directory as statedir
from sage_actors.actors.state.directory import Registry, StateDirectory, check_run_id
from sage_actors.actors.state.journal import JournalWriter
from sage_actors.messages.errors import NoCheckpointError, StateError, StorageError, UsageError

pytestmark = pytest.mark.requirement("ORCH-015")

KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


def make_run(state: StateDirectory, run_id: str) -> Path:
    state.create()
    JournalWriter.create(state.run_dir(run_id), KEYS, run_uuid=bytes(16), previous=None).close()
    return state.run_dir(run_id)


@pytest.fixture(params=[0o000, 0o022, 0o077])
def any_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.requirement("ORCH-023")
@pytest.mark.usefixtures("any_umask")
def test_directories_and_files_are_private_under_any_umask(state: StateDirectory) -> None:
    make_run(state, "run")
    Registry(state).note_started("run", "feature", 1)
    state.archive("run")
    assert not (state.project / ".sage").stat().st_mode & 0o022
    assert not (state.project / ".sage" / ".gitignore").stat().st_mode & 0o022
    for directory, _, files in os.walk(state.root):
        assert Path(directory).stat().st_mode & 0o777 == 0o700
        for name in files:
            assert (Path(directory) / name).stat().st_mode & 0o777 == 0o600, name


def test_a_root_that_others_could_enter_is_closed(state: StateDirectory) -> None:
    state.root.mkdir(parents=True)
    state.root.chmod(0o755)
    state.create()
    assert state.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("part", [".sage", ".sage/state", ".sage/state/locks", ".sage/state/archive"])
def test_a_link_in_the_path_is_refused(tmp_path: Path, part: str) -> None:
    outside, project = tmp_path / "outside", tmp_path / "project"
    outside.mkdir()
    (project / part).parent.mkdir(parents=True)
    (project / part).symlink_to(outside)
    with pytest.raises(StateError, match="link"):
        StateDirectory(project).create()
    assert not list(outside.iterdir())


def test_a_link_in_the_place_of_a_run_is_refused_and_not_listed(
    state: StateDirectory, tmp_path: Path
) -> None:
    make_run(state, "real")
    (state.root / "run").symlink_to(state.root / "real")
    for act in (state.run_dir, state.exists, state.archive, state.delete):
        with pytest.raises(StateError, match="link"):
            act("run")
    assert state.run_ids() == ["real"]


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".sage").touch()
    with pytest.raises(StorageError, match=r"cannot make .*must be writable"):
        StateDirectory(tmp_path).create()


def test_looking_creates_nothing(state: StateDirectory) -> None:
    assert state.run_ids() == []
    assert not state.exists("run")
    assert Registry(state).read() == {}
    assert not (state.project / ".sage").exists()


def test_git_does_not_see_state_but_sees_templates(state: StateDirectory) -> None:
    make_run(state, "run")
    (state.project / ".sage" / "templates").mkdir()
    (state.project / ".sage" / "templates" / "mine.json").write_text("{}")
    subprocess.run(["git", "init", "-q", "."], cwd=state.project, check=True)
    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    seen = subprocess.run(command, cwd=state.project, check=True, capture_output=True, text=True).stdout
    assert seen.split() == ["??", ".sage/templates/mine.json"]


def test_a_gitignore_that_is_there_is_left_alone(state: StateDirectory) -> None:
    (state.project / ".sage").mkdir()
    (state.project / ".sage" / ".gitignore").write_text("mine\n")
    state.create()
    assert (state.project / ".sage" / ".gitignore").read_text() == "mine\n"


@pytest.mark.parametrize("run_id", ["a", "A9", "feature-payment_2.1", "0", "x" * 128])
def test_run_ids_of_the_pattern_are_taken(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


BAD_IDS = ["", ".", "..", ".a", "-a", "_a", "a/b", "a\\b", "a b", "a\n", "ä", "a\0", "x" * 129]


@pytest.mark.parametrize("run_id", [*BAD_IDS, "locks", "archive", "Archive", "ACTIVE_WORKFLOWS.json"])
def test_other_run_ids_are_refused_everywhere(state: StateDirectory, run_id: str) -> None:
    for act in (check_run_id, state.run_dir, state.exists, state.archive, state.delete):
        with pytest.raises(UsageError):
            act(run_id)


def test_runs_are_those_with_a_journal(state: StateDirectory) -> None:
    for run_id in ("b", "a.b"):
        make_run(state, run_id)
    (state.root / "empty").mkdir()
    (state.root / "file").touch()
    Registry(state).note_started("a", "feature", 1)
    assert state.run_ids() == ["a.b", "b"]
    assert state.exists("b")
    assert not state.exists("empty")


def test_an_archived_run_is_kept_and_its_id_is_free(state: StateDirectory) -> None:
    places = []
    for _ in range(3):  # within one second
        before = {each.name: each.read_bytes() for each in make_run(state, "run").iterdir()}
        place = state.archive("run")
        assert {each.name: each.read_bytes() for each in place.iterdir()} == before
        assert not state.exists("run")
        places.append(place)
    assert len(set(places)) == 3
    assert all(place.parent == state.root / "archive" for place in places)
    assert all(place.name.startswith("run-20") for place in places)
    assert state.run_ids() == []


def test_a_deleted_run_is_gone_and_others_stay(state: StateDirectory) -> None:
    make_run(state, "run")
    make_run(state, "other")
    state.delete("run")
    assert state.run_ids() == ["other"]
    assert sorted(each.name for each in state.root.iterdir()) == ["locks", "other"]
    for act in (state.delete, state.archive):
        with pytest.raises(NoCheckpointError):
            act("run")


def test_what_a_crash_left_of_a_deletion_is_no_run_and_goes_with_the_next(state: StateDirectory) -> None:
    make_run(state, "run").rename(state.root / ".deleted-0123456789ab")
    make_run(state, "other")
    assert state.run_ids() == ["other"]
    state.delete("other")
    assert [each.name for each in state.root.iterdir()] == ["locks"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "ceph", "lustre"])
def test_a_network_file_system_is_refused_unless_told_otherwise(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(statedir, "filesystem_type", lambda path: kind)
    with pytest.raises(UsageError, match=kind):
        state.check_filesystem({})
    with pytest.raises(UsageError):
        state.check_filesystem({"SAGE_ALLOW_NETWORK_FS": "0"})
    state.check_filesystem({"SAGE_ALLOW_NETWORK_FS": "1"})


@pytest.mark.parametrize(
    "kind", ["ext4", "btrfs", "xfs", "overlay", "tmpfs", "zfs", "apfs", "fuse.ntfs-3g", ""]
)
def test_a_local_file_system_is_taken(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(statedir, "filesystem_type", lambda path: kind)
    state.check_filesystem({})


def test_the_file_system_is_the_one_of_the_nearest_mount() -> None:
    assert statedir.filesystem_type(Path("/proc/self")) == "proc"
    assert statedir.filesystem_type(Path("/")) not in ("", "proc")
    assert statedir.filesystem_type(Path("/procession")) == statedir.filesystem_type(Path("/"))


# The registry


def test_the_registry_tells_what_started_and_how_it_ended(state: StateDirectory) -> None:
    registry = Registry(state)
    registry.note_started("run", "feature", 4711)
    assert registry.read()["run"]["status"] == "running"
    assert registry.read()["run"]["pid"] == 4711
    registry.note_ended("run", "succeeded")
    entry = registry.read()["run"]
    assert (entry["status"], entry["workflow"]) == ("succeeded", "feature")
    assert entry["started_at"] <= entry["ended_at"]
    assert json.loads(registry.path.read_text())["version"] == 1


GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"workflows": 5}',
    b'{"workflows": {"a": 1}}',
    b"\xff\xfe",
    b"[" * 9999,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_the_registry_is_nothing_and_is_replaced(state: StateDirectory, garbage: bytes) -> None:
    state.create()
    registry = Registry(state)
    registry.path.write_bytes(garbage)
    assert registry.read() == {}
    registry.note_started("run", "feature", 1)
    assert list(registry.read()) == ["run"]


def test_a_registry_that_cannot_be_written_fails_no_run(state: StateDirectory) -> None:
    state.create()
    registry = Registry(state)
    registry.path.mkdir()
    registry.note_started("run", "feature", 1)
    registry.note_ended("run", "failed")
    assert registry.read() == {}
    assert not list(state.root.glob(".*"))


def test_ended_runs_do_not_pile_up_and_running_ones_stay(state: StateDirectory) -> None:
    registry = Registry(state)
    registry.note_started("running", "feature", 1)
    for number in range(110):
        registry.note_ended(f"run{number}", "succeeded")
    entries = registry.read()
    assert len(entries) == 101
    assert "running" in entries
    assert "run109" in entries
    assert "run0" not in entries


NOTE = """
import sys
from pathlib import Path
from sage_actors.actors.state.directory import Registry, StateDirectory
registry = Registry(StateDirectory(Path(sys.argv[1])))
for number in range(20):
    registry.note_started(f"{sys.argv[2]}-{number}", "feature", 1)
"""


def test_processes_that_write_at_once_lose_no_entry(state: StateDirectory) -> None:
    environ = {**os.environ, "PYTHONPATH": str(SOURCES)}
    command = [sys.executable, "-c", NOTE, str(state.project)]
    writers = [subprocess.Popen([*command, f"w{number}"], env=environ) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(Registry(state).read()) == 60

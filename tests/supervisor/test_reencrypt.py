"""State sealed again under a new key: the same frames, no old key needed, no step that a crash can halve."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sage_actors import Supervisor, Workflow, WrongKeyError
from sage_actors.actors import faults
from sage_actors.actors.audit.check import verify_audit
from sage_actors.actors.cache.store import CacheEntry, ResultCache
from sage_actors.actors.keys.provider import KeyRing, MasterKey, format_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal import JournalWriter, read_journal
from sage_actors.actors.state.journal_reader import segment_path
from sage_actors.actors.state.locks import RunLock
from sage_actors.messages.errors import StorageError
from sage_actors.supervisor.recovery.history import open_history
from sage_actors.supervisor.recovery.reencrypt import reencrypt

pytestmark = pytest.mark.requirement("ORCH-016")

OLD, NEW = MasterKey(bytes(range(32))), MasterKey(bytes(range(100, 132)))
BEFORE = KeyRing((OLD,), "environment")
BOTH = KeyRing((NEW, OLD), "environment")
AFTER = KeyRing((NEW,), "environment")
FRAMES = [b"admitted", b"", b"x" * 5000, b"done"]


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    found = StateDirectory(tmp_path)
    found.create()
    return found


def write_run(state: StateDirectory, run_id: str, *, segments: int = 3, torn: bytes = b"") -> Path:
    """A run of several segments, as resumes leave them; every segment may end in the middle of a frame."""
    directory = state.run_dir(run_id)
    previous = None
    for number in range(1, segments + 1):
        writer = JournalWriter.create(directory, BEFORE, run_uuid=b"u" * 16, previous=previous)
        for plaintext in FRAMES:
            writer.append(plaintext + b" %d" % number)
        writer.sync()
        writer.close()
        with segment_path(directory, number).open("ab") as file:
            file.write(torn)
        image = read_journal(directory, BEFORE)
        list(image.frames)
        previous = image.tail
    return directory


def frames(directory: Path, keys: KeyRing) -> list[Any]:
    return list(read_journal(directory, keys).frames)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("torn", [b"", b"\0" * 20, b"\0\0\0\x30\x01half a frame"[:9]])
def test_every_frame_is_where_it_was_and_the_old_key_can_go(state: StateDirectory, torn: bytes) -> None:
    directory = write_run(state, "r", torn=torn)
    before = frames(directory, BEFORE)
    done = reencrypt(state, BOTH)
    assert (done.runs, done.unchanged, done.refused) == (["r"], [], {})
    assert frames(directory, AFTER) == before
    with pytest.raises(WrongKeyError, match=NEW.id.hex()):
        read_journal(directory, BEFORE)
    assert not [path for path in state.root.iterdir() if path.name.startswith(".resealing")]
    assert reencrypt(state, BOTH).unchanged == ["r"]


def test_archived_runs_are_sealed_too_and_keep_their_age(state: StateDirectory) -> None:
    write_run(state, "r", segments=1)
    archived = state.archive("r")
    os.utime(segment_path(archived, 1), (1e9, 1e9))
    assert reencrypt(state, BOTH).runs == [f"archive/{archived.name}"]
    assert frames(archived, AFTER)
    assert segment_path(archived, 1).stat().st_mtime == 1e9


def test_everything_stays_private(state: StateDirectory) -> None:
    write_run(state, "r")
    old = os.umask(0)
    try:
        reencrypt(state, BOTH)
    finally:
        os.umask(old)
    for path in state.root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_run_of_a_live_process_is_refused_and_the_others_are_done(state: StateDirectory) -> None:
    for run_id in ("a", "b", "c"):
        write_run(state, run_id, segments=1)
    lock = RunLock.acquire(state, "b")
    try:
        done = reencrypt(state, BOTH)
    finally:
        lock.release()
    assert done.runs == ["a", "c"]
    assert "owned by process" in done.refused["b"]
    assert frames(state.run_dir("b"), BEFORE)


def test_a_damaged_run_is_refused_and_untouched(state: StateDirectory) -> None:
    directory = write_run(state, "r")
    path = segment_path(directory, 2)
    data = bytearray(path.read_bytes())
    data[150] ^= 1
    path.write_bytes(data)
    before = files(directory)
    assert "damaged" in reencrypt(state, BOTH).refused["r"]
    assert files(directory) == before


def test_without_the_old_key_it_says_which_one_is_missing(state: StateDirectory) -> None:
    directory = write_run(state, "r")
    before = files(directory)
    assert OLD.id.hex() in reencrypt(state, AFTER).refused["r"]
    assert files(directory) == before


def test_what_a_repair_kept_aside_stays(state: StateDirectory) -> None:
    directory = write_run(state, "r")
    aside = directory / "journal-000003.sage.damaged-20260101T000000Z"
    aside.write_bytes(b"evidence")
    aside.chmod(0o600)
    assert reencrypt(state, BOTH).kept_aside == [f"r/{aside.name}"]
    assert aside.read_bytes() == b"evidence"
    assert aside.stat().st_nlink == 1


def test_entries_of_the_cache_are_sealed_again_and_still_found(state: StateDirectory) -> None:
    root = state.root.parent / "cache"
    old = ResultCache(root, BEFORE)
    name = old.name_of(b"asked")
    old.put(name, CacheEntry("label", b"\xa5value", time.time(), time.time() + 1000))
    assert reencrypt(state, BOTH).cache_entries == 1
    both = ResultCache(root, BOTH)
    assert both.name_of(b"asked") == name, "an answer is found under the name that it had before the rotation"
    assert both.name_of(b"asked something else") != old.name_of(b"asked something else")
    assert ResultCache(root, BEFORE).get(name) is None
    entry = ResultCache(root, AFTER).get(name)
    assert entry is not None
    assert entry.value == b"\xa5value"
    assert reencrypt(state, BOTH).cache_entries == 0


_POINTS = ("reencrypt.copied", "reencrypt.recorded", "reencrypt.exchanged")
_KILLED = """
import sys
from pathlib import Path
from sage_actors.actors import faults
from sage_actors.actors.keys.provider import load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.supervisor.recovery.reencrypt import reencrypt
faults.arm(sys.argv[2])
reencrypt(StateDirectory(Path(sys.argv[1])), load_keys())
"""


@pytest.mark.parametrize("point", [*_POINTS, "journal.segment_renamed", "journal.before_fsync"])
def test_killed_at_any_step_the_run_is_old_or_new_and_the_next_one_finishes(
    state: StateDirectory, point: str
) -> None:
    directory = write_run(state, "r")
    before = frames(directory, BEFORE)
    environ = {**os.environ, "SAGE_STATE_KEY": format_keys(BOTH.keys)}
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(state.project), f"{point}:1:kill"], env=environ, timeout=60
    )
    assert killed.returncode == -9
    assert frames(directory, BOTH) == before
    done = reencrypt(state, BOTH)
    assert [*done.runs, *done.unchanged] == ["r"]
    assert frames(directory, AFTER) == before
    assert not [path for path in state.root.iterdir() if path.name.startswith(".resealing")]


@pytest.mark.parametrize("point", ["journal.before_write", "journal.before_fsync", *_POINTS[:2]])
def test_a_full_disk_leaves_the_run_as_it_was(state: StateDirectory, point: str) -> None:
    directory = write_run(state, "r")
    before = files(directory)
    faults.arm(f"{point}:1:enospc")
    try:
        with pytest.raises(StorageError):
            reencrypt(state, BOTH)
    finally:
        faults.disarm()
    assert files(directory) == before


def test_a_run_that_was_rotated_in_flight_goes_on_and_its_log_still_proves_itself(tmp_path: Path) -> None:
    """Started under the old key, resumed under both, sealed again, resumed under the new one alone."""
    flow = Workflow("rotated")
    flow.add("approval", id="first", message="go?")
    flow.add("wait", id="short", seconds=0)
    with Supervisor(tmp_path, keys=BEFORE, waits_for_people=False) as supervisor:
        assert supervisor.run(flow, run_id="r", timeout=60).status == "paused"
    with Supervisor(tmp_path, keys=BOTH, waits_for_people=False) as supervisor:
        assert supervisor.resume("r").result(60).status == "paused"
    state = StateDirectory(tmp_path)
    ids = {path.read_bytes()[12:20] for path in state.run_dir("r").glob("journal-*.sage")}
    assert ids == {OLD.id, NEW.id}, "a resume begins a segment under the key that seals now"
    verify_audit(state, BOTH)
    assert reencrypt(state, BOTH).runs == ["r"]
    verify_audit(state, BOTH)
    assert open_history(state, AFTER, "r") is not None
    with Supervisor(tmp_path, keys=AFTER, waits_for_people=False) as supervisor:
        assert supervisor.resume("r").result(60).status == "paused"

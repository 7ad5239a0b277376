"""Locks of runs: one owner, whatever dies when; and the keeper of the owner before is outwaited."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import SOURCES

from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.locks import RunLock, holder, process_start_time
from sage_actors.messages.errors import RunLockedError, StateError, StorageError, UsageError

pytestmark = pytest.mark.requirement("ORCH-015")

SRC = str(SOURCES)
HOLD = """
import sys
from pathlib import Path
from sage_actors.actors.state.locks import RunLock
from sage_actors.actors.state.directory import StateDirectory
lock = RunLock.acquire(StateDirectory(Path(sys.argv[1])), "run")
for keeper in sys.argv[2:]:
    lock.set_keeper(*map(int, keeper.split(":")))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


def spawn(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": SRC},
    )


def hold(state: StateDirectory, *keepers: str) -> subprocess.Popen[str]:
    process = spawn(HOLD, state.project, *keepers)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=30)


@pytest.fixture
def keeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait(30)


def lock_file(state: StateDirectory) -> Path:
    return state.locks / "run.lock"


def test_a_second_process_is_refused_and_told_who_owns_the_run(state: StateDirectory) -> None:
    other = hold(state)
    try:
        with pytest.raises(RunLockedError, match=f"process {other.pid}"):
            RunLock.acquire(state, "run")
        found = holder(state, "run")
        assert found is not None
        assert found["pid"] == other.pid
    finally:
        end(other)


def test_within_one_process_a_run_has_one_owner_too(state: StateDirectory) -> None:
    lock = RunLock.acquire(state, "run")
    with pytest.raises(RunLockedError, match=str(os.getpid())):
        RunLock.acquire(state, "run")
    RunLock.acquire(state, "other").release()
    lock.release()
    RunLock.acquire(state, "run").release()


def test_a_killed_owner_leaves_a_lock_that_can_be_taken(state: StateDirectory) -> None:
    end(hold(state))
    assert lock_file(state).exists()
    assert holder(state, "run") is None
    RunLock.acquire(state, "run").release()


def test_release_leaves_no_file(state: StateDirectory) -> None:
    lock = RunLock.acquire(state, "run")
    assert lock_file(state).stat().st_mode & 0o777 == 0o600
    lock.release()
    lock.release()
    assert list(state.locks.iterdir()) == []
    assert holder(state, "run") is None


def test_a_run_can_be_removed_where_there_is_no_room_for_an_owners_name(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="No space left"):
        RunLock.acquire(state, "run")
    lock = RunLock.acquire(state, "run", to_remove=True)
    with pytest.raises(RunLockedError):
        RunLock.acquire(state, "run", to_remove=True)
    lock.release()


def test_release_never_removes_the_lock_of_a_later_owner(state: StateDirectory) -> None:
    lock = RunLock.acquire(state, "run")
    lock_file(state).unlink()  # by a person who "cleans up"
    later = RunLock.acquire(state, "run")
    lock.release()
    with pytest.raises(RunLockedError):
        RunLock.acquire(state, "run")
    later.release()


def test_the_lock_is_not_inherited_by_a_program_that_is_started(state: StateDirectory) -> None:
    lock = RunLock.acquire(state, "run")
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        RunLock.acquire(state, "run").release()
    finally:
        child.kill()
        child.wait(30)


def test_a_forked_copy_cannot_release_its_parents_lock(state: StateDirectory) -> None:
    lock = RunLock.acquire(state, "run")
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert lock_file(state).exists()
    with pytest.raises(RunLockedError):
        RunLock.acquire(state, "run")
    lock.release()


RACE = """
import sys
from pathlib import Path
from sage_actors.actors.state.locks import RunLock, holder
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import RunLockedError
state, got, inside = StateDirectory(Path(sys.argv[1])), 0, Path(sys.argv[1]) / "inside"
for _ in range(int(sys.argv[2])):
    try:
        lock = RunLock.acquire(state, "run")
    except RunLockedError:
        holder(state, "run")
        continue
    inside.mkdir()  # fails if another process is inside
    got += 1
    inside.rmdir()
    lock.release()
print(got)
"""


def test_of_processes_that_race_only_one_is_inside_at_a_time(state: StateDirectory) -> None:
    racers = [spawn(RACE, state.project, 300) for _ in range(3)]
    counts = [int(racer.communicate(timeout=60)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sum(counts) > 0
    assert list(state.locks.iterdir()) == []


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_no_lock(
    state: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.create()
    lock_file(state).touch()
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        lock_file(state).unlink()  # its last owner releases it between our open and our lock
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    lock = RunLock.acquire(state, "run")
    with pytest.raises(RunLockedError):
        RunLock.acquire(state, "run")
    lock.release()


def test_looking_never_makes_the_owner_fail(state: StateDirectory) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            holder(state, "run")

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(200):
            RunLock.acquire(state, "run").release()
    finally:
        stop.set()
        watcher.join()


def test_a_new_owner_waits_until_the_last_keeper_is_gone(
    state: StateDirectory, keeper: subprocess.Popen[bytes]
) -> None:
    end(hold(state, f"{keeper.pid}:{process_start_time(keeper.pid)}"))
    threading.Timer(0.3, keeper.kill).start()
    started = time.monotonic()
    lock = RunLock.acquire(state, "run", keeper_wait_s=30)  # the killed keeper is a zombie here: that is gone
    assert 0.2 < time.monotonic() - started < 20
    assert process_start_time(keeper.pid) is None
    lock.release()


def test_a_keeper_that_does_not_end_keeps_the_run_locked(
    state: StateDirectory, keeper: subprocess.Popen[bytes]
) -> None:
    end(hold(state, f"{keeper.pid}:{process_start_time(keeper.pid)}"))
    for _ in range(2):  # a refused attempt forgets nothing
        with pytest.raises(RunLockedError, match=str(keeper.pid)):
            RunLock.acquire(state, "run", keeper_wait_s=0.05)
    keeper.kill()
    RunLock.acquire(state, "run").release()


def test_another_process_with_the_keepers_pid_is_not_waited_for(
    state: StateDirectory, keeper: subprocess.Popen[bytes]
) -> None:
    started = process_start_time(keeper.pid)
    assert started is not None
    end(hold(state, f"{keeper.pid}:{started + 1}"))
    RunLock.acquire(state, "run", keeper_wait_s=0.0).release()


def test_a_keeper_from_before_a_reboot_is_not_waited_for(
    state: StateDirectory, keeper: subprocess.Popen[bytes]
) -> None:
    end(hold(state, f"{keeper.pid}:{process_start_time(keeper.pid)}"))
    content = json.loads(lock_file(state).read_text())
    lock_file(state).write_text(json.dumps({**content, "boot": "another"}))
    RunLock.acquire(state, "run", keeper_wait_s=0.0).release()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"keeper": 5}', '{"keeper": {"pid": "x"}}', "[" * 4000]
)
def test_garbage_in_the_file_is_no_obstacle(state: StateDirectory, content: str) -> None:
    state.create()
    lock_file(state).write_text(content)
    assert holder(state, "run") is None
    lock = RunLock.acquire(state, "run")
    found = holder(state, "run")
    assert found is not None
    assert found["pid"] == os.getpid()
    lock.release()


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_file_is_refused(state: StateDirectory, kind: str) -> None:
    state.create()
    target = state.project / "target"
    if kind == "link":
        lock_file(state).symlink_to(target)
    else:
        lock_file(state).mkdir()
    with pytest.raises(StateError):
        RunLock.acquire(state, "run")
    assert not target.exists()


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "locks", "x" * 129])
def test_no_lock_is_made_for_what_is_no_run_id(state: StateDirectory, run_id: str) -> None:
    with pytest.raises(UsageError):
        RunLock.acquire(state, run_id)
    with pytest.raises(UsageError):
        holder(state, run_id)
    assert not state.root.exists()


def test_start_times_tell_processes_apart() -> None:
    assert process_start_time(os.getpid()) == process_start_time(os.getpid())
    child = subprocess.Popen(["sleep", "60"])
    assert process_start_time(child.pid) is not None
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    assert process_start_time(child.pid) is None

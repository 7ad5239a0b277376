"""One owner for a run: a lock that the kernel drops when its holder dies, and the last holder's keeper.

`.sage/state/locks/<run id>.lock` is held by flock(2). Its content is for people, and for the next owner:

    {"pid": 4711, "start_time": 81234, "boot": "...", "since": "2026-01-31T09:00:00+00:00",
     "keeper": {"pid": 4712, "start_time": 81240}}

A crash leaves the file, unlocked, naming a keeper that is killing what the dead owner left. Who takes the
lock waits until that keeper is gone, so that an old attempt and a new one never overlap.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_actors.actors.state.directory import StateDirectory, check_run_id
from sage_actors.messages.errors import RunLockedError, StateError, StorageError

__all__ = ["KEEPER_WAIT_S", "RunLock", "holder", "if_stopped", "process_start_time"]

KEEPER_WAIT_S = 2.0
_PROBE_WAIT_S = 0.25  # how long a lock may be held by who only looks, or has not written its name yet
_POLL_S = 0.005
_LIMIT_BYTES = 4096
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class RunLock:
    """The right to write a run's journal. Held until `release`, or until this process ends."""

    def __init__(self, path: Path, fd: int, content: dict[str, Any]) -> None:
        self.path, self._fd, self._content = path, fd, content
        self._pid = os.getpid()

    @classmethod
    def acquire(
        cls,
        state: StateDirectory,
        run_id: str,
        *,
        keeper_wait_s: float = KEEPER_WAIT_S,
        to_remove: bool = False,
    ) -> RunLock:
        """Take the lock of `run_id`; does not wait for another owner.

        to_remove: the run is about to be removed. A disk that has no room for the owner's name must not prevent that.

        Raises:
            RunLockedError: another process owns the run, or the keeper of its last owner is still at work.
            StorageError: the lock file cannot be made.
            StateError: something else is in its place.
        """
        check_run_id(run_id)
        state.create()
        path = state.locks / f"{run_id}.lock"
        try:
            fd = _take(path, run_id)
            try:
                _wait_for_keeper(_read(fd), run_id, keeper_wait_s)
                lock = cls(path, fd, _own_content())
                with contextlib.suppress(*((OSError,) if to_remove else ())):
                    lock._write()
            except BaseException:
                os.close(fd)
                raise
        except OSError as cause:
            raise StorageError(f"cannot lock run {run_id}: {cause}") from cause
        return lock

    def set_keeper(self, pid: int, start_time: int) -> None:
        """Name the keeper process that the next owner must outwait.

        Args:
            start_time: `process_start_time(pid)`: a later process with that pid is another one.
        """
        self._content["keeper"] = {"pid": pid, "start_time": start_time}
        try:
            self._write()
        except OSError as cause:
            raise StorageError(f"cannot write {self.path}: {cause}") from cause

    def release(self) -> None:
        """Give the run up and remove the lock file. The keeper must be gone. Twice is harmless."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            # In a forked copy the lock is still the parent's. Under the lock nobody else removes the name.
            if os.getpid() == self._pid and _is_named(fd, self.path):
                self.path.unlink()
        except OSError:
            pass  # a file that stays is no lock: flock is
        finally:
            os.close(fd)

    def _write(self) -> None:
        data = json.dumps(self._content).encode()
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))


def holder(state: StateDirectory, run_id: str) -> dict[str, Any] | None:
    """What the lock file says of the live process that owns `run_id`; None if nobody does."""
    path = state.locks / f"{check_run_id(run_id)}.lock"
    try:
        fd = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read_live(fd)
    finally:
        os.close(fd)


def process_start_time(pid: int) -> int | None:
    """When process `pid` started, in the system's own unit; None if it is gone (a zombie is gone)."""
    if sys.platform != "linux":
        return _psutil_start_time(pid)
    fields = _stat_fields(pid)
    return None if not fields or fields[0] in b"ZXx" else int(fields[19])


def if_stopped(pid: object) -> str:
    """What to do about process `pid` if it is stopped, as by SIGSTOP or Ctrl-Z; "" if it is not, or nobody knows."""
    if sys.platform != "linux" or type(pid) is not int or _stat_fields(pid)[:1] not in ([b"T"], [b"t"]):
        return ""
    return f"it is stopped (SIGSTOP, Ctrl-Z): continue it with `kill -CONT {pid}`, or end it with `kill -KILL {pid}`"


def _stat_fields(pid: int) -> list[bytes]:
    """What /proc/PID/stat says from the state on; nothing of a process that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    return stat.rpartition(b")")[2].split()  # the name before it may hold spaces and parentheses


def _psutil_start_time(pid: int) -> int | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 1000)
    except psutil.Error:
        return None


def _take(path: Path, run_id: str) -> int:
    """A locked descriptor of the file that has this name now."""
    deadline = time.monotonic() + _PROBE_WAIT_S
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
        except OSError as cause:
            if path.is_symlink() or path.is_dir():
                raise StateError(f"{path} is no lock file; remove it") from cause
            raise
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            content = _read(fd)
            os.close(fd)
            if _is_alive(content) or time.monotonic() > deadline:
                raise _locked(run_id, content) from None
            time.sleep(_POLL_S)  # held by one who has not written its name yet, or who only looks
            continue
        if _is_named(fd, path):
            os.fchmod(fd, 0o600)
            return fd
        os.close(fd)  # its last owner removed it between our open and our lock


def _wait_for_keeper(content: dict[str, Any], run_id: str, wait_s: float) -> None:
    keeper = content.get("keeper")
    if not isinstance(keeper, dict) or content.get("boot") != _boot_id():
        return
    deadline = time.monotonic() + wait_s
    while _is_alive(keeper):
        if time.monotonic() > deadline:
            raise RunLockedError(
                f"run {run_id}: the process {keeper['pid']}, which cleans up after the last owner "
                f"({content.get('pid')}), is still at work after {wait_s:g} s; try again when it has ended"
            )
        time.sleep(_POLL_S)


def _is_alive(process: dict[str, Any]) -> bool:
    pid, started = process.get("pid"), process.get("start_time")
    return type(pid) is int and pid > 0 and started is not None and process_start_time(pid) == started


def _locked(run_id: str, content: dict[str, Any]) -> RunLockedError:
    pid = content.get("pid", "unknown")
    since = f" since {content['since']}" if "since" in content else ""
    what_next = if_stopped(pid) or "attach to it, or wait for its end"
    return RunLockedError(f"run {run_id} is owned by process {pid}{since}; {what_next}")


def _own_content() -> dict[str, Any]:
    pid = os.getpid()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"pid": pid, "start_time": process_start_time(pid), "boot": _boot_id()}
    return {**content, "since": now, "keeper": None}


def _boot_id() -> str:
    """Names this boot: pids and start times repeat after the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _is_named(fd: int, path: Path) -> bool:
    """Whether `path` still names the file that is open as `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _read_live(fd: int) -> dict[str, Any]:
    """The content, once its owner has written it."""
    deadline = time.monotonic() + _PROBE_WAIT_S
    while not _is_alive(content := _read(fd)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return content


def _read(fd: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(fd, _LIMIT_BYTES, 0))
    except (ValueError, RecursionError):  # empty, or caught in the middle of a write
        return {}
    return content if isinstance(content, dict) else {}

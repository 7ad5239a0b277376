"""The audit log of a project: `.sage/audit.jsonl`, append-only, 0600, one chain of records over all its files.

    .sage/audit-000001.jsonl   full (16 MiB), renamed, never written again
    .sage/audit-000002.jsonl
    .sage/audit.jsonl          its first record continues the last one of the file before

Several processes of a project write one log. Who appends holds `.sage/state/locks/.audit.lock`, and reads the last
record again if somebody else appended meanwhile. The lines of one `append` are one write.

What a crash leaves behind:

    while lines are written    whole lines, and perhaps a torn one: the next writer cuts it off and records that
    while a file is rotated    the old name, or the new name and no `audit.jsonl`: the next writer begins it
    a loss of power            lines that were not synced may be missing at the end, or read as zeros

A record that cannot be written whole is taken back, and the caller is told: nothing goes on unrecorded.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sage_actors.actors.audit.files import LOG_NAME, Tail, old_files, read_tail, rotated_files, rotated_name
from sage_actors.actors.audit.format import VERSION, ZERO, AuditKeys, Head, parse_line, seal_line
from sage_actors.actors.faults import fault_point
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.disk import DISK, Disk, create_private, exclusive, why_not_private
from sage_actors.messages.errors import AuditError, StateError, StorageError

__all__ = ["AuditLog", "audit_lock"]

_T = TypeVar("_T")
_ROTATE_BYTES = 16 << 20
_LOCK = ".audit.lock"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class AuditLog:
    """Appends to one project's log. Safe to use from several threads, and beside other processes.

    `head` is the last record that this writer wrote or read; None in a log that was never written.
    """

    def __init__(
        self,
        state: StateDirectory,
        keys: KeyRing,
        *,
        actor: str = "supervisor",
        now: Callable[[], float] = time.time,
        rotate_bytes: int = _ROTATE_BYTES,
        disk: Disk = DISK,
    ) -> None:
        """Opens the log, or begins one.

        Raises:
            AuditError: its last record is not genuine. A log is not continued behind a forged record.
            StateError: something else has its name, or others can read or write it.
            StorageError: it cannot be made or read.
        """
        state.create()
        self.path = state.root.parent / LOG_NAME
        self._keys = AuditKeys(keys)
        self._actor, self._now, self._limit, self._disk = actor, now, rotate_bytes, disk
        self._user, self._pid = _user_name(), os.getpid()
        self._mutex = threading.Lock()
        self._fd, self._inode = -1, -1
        self._valid = 0  # bytes of genuine lines
        self._end = -1  # where the file ends, -1 while that is not known
        self._torn = 0
        self.head: Head | None = None
        self._lock_fd = audit_lock(state)
        try:
            self._locked(self._refresh)
        except BaseException:
            self.close()
            raise

    def append(self, entries: Iterable[Mapping[str, Any]]) -> Head:
        """Write one record for each of `entries`, all in one write; the new head. Durable after `sync`.

        Args:
            entries: the fields of a record but for those that every record has; `event` must be among them,
                `run`, `actor` and `user` may be.

        Raises:
            StorageError: nothing of it was written (disk full, I/O error).
            AuditError: somebody cut or replaced the log while it was in use.
        """
        return self._locked(lambda: self._append(list(entries)))

    def record(self, event: str, run: str | None = None, **fields: Any) -> None:
        """One record, on the device when this returns. Raises as `append`."""
        self.append([{"event": event, "run": run, **fields}])
        self.sync()

    def sync(self) -> None:
        """All that was appended is on the device. StorageError if it refuses."""
        with self._mutex:
            try:
                self._check_usable()
                fault_point("audit.before_fsync")
                self._disk.sync_data(self._fd)
            except OSError as cause:
                raise StorageError(f"cannot sync {self.path}: {cause}") from cause

    def drop_before(self, moment: float) -> list[str]:
        """Remove rotated files whose records are all older than `moment` (Unix time); their names.

        What is removed is recorded first, with its last record's number and mac, so that the chain still proves
        itself from there on.
        """
        return self._locked(lambda: self._drop_before(moment))

    def close(self) -> None:
        """Close its files. Twice is harmless."""
        with self._mutex:
            for fd in (self._fd, self._lock_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._lock_fd = -1

    # ------------------------------------------------------------------ under the lock

    def _locked(self, act: Callable[[], _T]) -> _T:
        with self._mutex:
            try:
                self._check_usable()
                with exclusive(self._lock_fd):
                    return act()
            except OSError as cause:
                raise StorageError(f"cannot write the audit log {self.path}: {cause}") from cause

    def _check_usable(self) -> None:
        if self._lock_fd < 0:
            raise StorageError(f"{self.path}: the audit log is closed")
        if os.getpid() != self._pid:  # two heads would grow from one
            raise StorageError(f"{self.path}: a forked copy of its writer may not write the audit log")

    def _append(self, entries: list[Mapping[str, Any]]) -> Head:
        self._refresh()
        if self._torn:
            entries = [{"event": "log_torn", "bytes": self._torn}, *entries]
        data, head = self._seal(entries)
        if self._end + len(data) > self._limit and self._end > 0:
            self._rotate()
            data, head = self._seal(entries)
        self._write(data)
        self._torn = 0
        self.head = head
        return head

    def _seal(self, entries: Iterable[Mapping[str, Any]]) -> tuple[bytes, Head]:
        """The lines of `entries`, after the present head; a file that is still empty gets its first line, too."""
        if self._end == 0:
            event = "log_begun" if self.head is None else "log_continued"
            entries = [{"event": event}, *entries]
        key_id = self._keys.primary_id
        key = self._keys.get(key_id)
        assert key is not None
        seq, prev = (self.head.seq + 1, self.head.mac) if self.head else (0, ZERO)
        lines = []
        usual = {"run": None, "actor": self._actor, "user": self._user}
        own = {"v": VERSION, "pid": self._pid, "key": key_id}
        for entry in entries:
            moving = {"seq": seq, "ts": int(self._now() * 1e6), "prev": prev}
            line, prev = seal_line({**usual, **entry, **own, **moving}, key)
            lines.append(line)
            seq += 1
        return b"".join(lines), Head(seq - 1, prev)

    def _write(self, data: bytes) -> None:
        fault_point("audit.before_write")
        written = -1
        try:
            written = self._disk.write(self._fd, data)
        finally:
            if written != len(data):  # what is left is torn; taken back while we can
                self._end = -1
                os.ftruncate(self._fd, self._valid)
        fault_point("audit.after_write")
        if written != len(data):
            raise StorageError(
                f"{self.path}: a write was cut short ({written} of {len(data)} bytes): is the disk full?"
            )
        self._valid += written
        self._end = self._valid

    def _refresh(self) -> None:
        """Know the end of the log as it is now: another process may have appended, rotated, or been killed."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            self._begin_file()
            return
        if (status.st_ino, status.st_size) != (self._inode, self._end):
            self._reopen()

    def _begin_file(self) -> None:
        """No `audit.jsonl`: the first of all, or the one after a rotation that a crash cut short."""
        rotated = rotated_files(self.path.parent)
        head = self._genuine_head(read_tail(rotated[-1]), rotated[-1]) if rotated else None
        self._refuse_older(head)
        self._replace_fd(create_private(self.path, flags=_FLAGS))
        self._disk.sync_directory(self.path.parent)
        self.head, self._valid, self._end = head, 0, 0

    def _reopen(self) -> None:
        try:
            fd = os.open(self.path, _FLAGS)
        except OSError as cause:
            raise StateError(f"{self.path} cannot be the audit log: {cause}; move it aside") from cause
        self._replace_fd(fd)
        if reason := why_not_private(fd):
            raise StateError(f"{self.path} is not private: {reason}; make it a 0600 file of your own")
        tail = read_tail(self.path)
        head = self._genuine_head(tail, self.path)
        if head is None and (rotated := rotated_files(self.path.parent)):
            head = self._genuine_head(read_tail(rotated[-1]), rotated[-1])
        self._refuse_older(head)
        if tail.torn_bytes:
            os.ftruncate(fd, tail.valid_bytes)
            self._torn += tail.torn_bytes
        self.head, self._valid, self._end = head, tail.valid_bytes, tail.valid_bytes

    def _replace_fd(self, fd: int) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._inode, self._end = fd, os.fstat(fd).st_ino, -1

    def _genuine_head(self, tail: Tail, path: Path) -> Head | None:
        """The head that the last line gives; of a line under a key that we do not have, what it says of itself."""
        if not tail.line:
            return None
        try:
            fields, mac = parse_line(tail.line, self._keys)
        except LookupError:
            return _claimed_head(tail.line, path)
        except ValueError as cause:
            raise _not_continued(path, str(cause)) from cause
        return Head(int(fields["seq"]), mac)

    def _refuse_older(self, head: Head | None) -> None:
        """Lines that this process has seen are gone."""
        known = self.head
        if known is None:
            return
        if head is None or head.seq < known.seq or (head.seq == known.seq and head != known):
            seen = "nothing" if head is None else f"record {head.seq}"
            raise AuditError(
                f"{self.path} was cut or replaced while it was in use: it ended with record {known.seq}, and now with "
                f"{seen}. Find out who did; `sage-actors audit verify` checks what is left"
            )

    def _rotate(self) -> None:
        self._disk.sync(self._fd)
        rotated = rotated_files(self.path.parent)
        number = 1 + max((int(path.stem.rpartition("-")[2]) for path in rotated), default=0)
        os.rename(self.path, self.path.with_name(rotated_name(number)))
        fault_point("audit.rotated")
        self._disk.sync_directory(self.path.parent)
        self._begin_file()

    def _drop_before(self, moment: float) -> list[str]:
        self._refresh()
        dropped, heads = [], []
        for path in old_files(self.path.parent, moment):  # only a beginning of the chain may go
            head = self._genuine_head(read_tail(path), path)
            if head is None:
                raise _not_continued(path, "it is empty")
            dropped.append(path)
            heads.append({"file": path.name, "seq": head.seq, "mac": head.mac})
        if dropped:
            self._append([{"event": "log_pruned", "files": heads}])
            self._disk.sync_data(self._fd)
        for path in dropped:
            path.unlink()
        return [path.name for path in dropped]


def audit_lock(state: StateDirectory) -> int:
    """A descriptor to `flock`, so that one process at a time writes or lists the log's files.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        return state.open_lock(_LOCK)
    except OSError as cause:
        raise StorageError(f"cannot lock the audit log with {state.locks / _LOCK}: {cause}") from cause


def _user_name() -> str:
    """The operating system's name for who runs this process."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # no entry in the password file
        return f"uid {os.getuid()}"


def _claimed_head(line: bytes, path: Path) -> Head:
    import json

    try:
        fields = json.loads(line)
        return Head(int(fields["seq"]), str(fields["mac"]))
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise _not_continued(path, "it is no record") from cause


def _not_continued(path: Path, reason: str) -> AuditError:
    return AuditError(
        f"the last record of {path} is not genuine: {reason}. Nothing is written behind it: `sage-actors audit verify` "
        "says what is still proven; keep the file for whoever has to look into it, and move it aside to go on"
    )

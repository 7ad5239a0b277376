"""Where a project's state lies: `.sage/state`, its modes, its run ids, and the registry of active workflows.

.sage/state/                       0700
 |- ACTIVE_WORKFLOWS.json          a hint for people and tools; the truth is in locks and journals
 |- locks/<run id>.lock
 |- archive/<run id>-<UTC time>/   what --fresh put away
 `- <run id>/journal-NNNNNN.sage
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_actors.actors.state.disk import DISK, exclusive, make_private_directory, replace_file
from sage_actors.actors.state.journal_reader import segment_numbers
from sage_actors.messages.errors import NoCheckpointError, StateError, StorageError, UsageError

__all__ = ["NETWORK_VARIABLE", "Registry", "StateDirectory", "check_run_id"]

NETWORK_VARIABLE = "SAGE_ALLOW_NETWORK_FS"

_log = logging.getLogger(__name__)
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REGISTRY_NAME = "ACTIVE_WORKFLOWS.json"
_RESERVED = frozenset({"archive", "locks", _REGISTRY_NAME.lower()})
GITIGNORE = """\
# Made by sage-actors: state, caches and logs belong to one machine. Settings, templates and skills may be shared.
*
!config.toml
!templates/
!templates/**
!skills/
!skills/**
"""
_NETWORK_TYPES = frozenset(
    {"9p", "acfs", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "glusterfs", "gpfs"}
    | {"lustre", "mfs", "ncpfs", "nfs", "nfs4", "ocfs2", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "webdav"}
)
_NETWORK_FUSE = frozenset(
    {"ceph", "davfs2", "gcsfuse", "glusterfs", "goofys", "juicefs", "mfs", "rclone", "s3fs", "smbnetfs"}
    | {"sshfs"}
)
_KEPT_ENDED = 100  # entries of ended runs in the registry


def check_run_id(run_id: str) -> str:
    """`run_id`, if it can be one.

    Raises:
        UsageError: it has other characters, is too long, or is the name of one of our own files.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise UsageError(
            f"{run_id!r} is no run id: up to 128 letters, digits, dots, dashes and underscores, "
            "of which the first is a letter or a digit"
        )
    if run_id.lower() in _RESERVED:
        raise UsageError(f"{run_id!r} is a name that the state directory uses itself; choose another run id")
    return run_id


class StateDirectory:
    """The state of one project. Looking creates nothing; `create` and what writes do."""

    def __init__(self, project: Path) -> None:
        self.project = Path(project).absolute()
        self.root = self.project / ".sage" / "state"
        self.locks = self.root / "locks"
        self.archived = self.root / "archive"

    def create(self) -> None:
        """Make `.sage/state`, private under any umask, and keep it out of git.

        Raises:
            StateError: a part of the path is a link or belongs to another user: what is private would lie
                where somebody else decides.
            StorageError: it cannot be made.
        """
        sage = self.root.parent
        try:
            self._refuse_links()
            sage.mkdir(0o755, exist_ok=True)  # templates there may be shared; nobody else may write
            make_private_directory(self.root)
            make_private_directory(self.locks)
            self._refuse_links()
            mode = stat.S_IMODE(sage.stat().st_mode)
            if mode & 0o022:  # of a checkout or a mkdir under a wide umask
                sage.chmod(mode & ~0o022)
            if self.root.stat().st_mode & 0o077:
                self.root.chmod(0o700)
            _write_once(sage / ".gitignore", GITIGNORE)
        except OSError as cause:
            raise StorageError(
                f"cannot make {self.root}: {cause}. State lies in the project: it must be writable, "
                "unless nothing is to be written (durability none)"
            ) from cause

    def open_lock(self, name: str) -> int:
        """A descriptor to `flock`, of a file of that name among the locks. Raises OSError."""
        return os.open(self.locks / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def archives(self) -> list[Path]:
        """What lies in the archive, oldest name first."""
        return sorted(self.archived.iterdir()) if self.archived.is_dir() else []

    def run_dir(self, run_id: str) -> Path:
        """The directory of a run, which may not exist yet.

        Raises:
            UsageError: this is no run id.
            StateError: a link has that name (a repository can bring one along): state would go elsewhere. Or it
                belongs to another user, who could put other files there.
        """
        path = self.root / check_run_id(run_id)
        try:
            status = os.lstat(path)
        except OSError:
            return path
        if stat.S_ISLNK(status.st_mode):
            raise StateError(f"{path} is a link; state must lie in the project itself: remove the link")
        if status.st_uid not in (os.getuid(), 0):
            raise StateError(f"{path} belongs to user {status.st_uid}; state must be your own")
        return path

    def exists(self, run_id: str) -> bool:
        """Whether the run has a journal. (Without an admission in it, it is no run yet.)"""
        return bool(segment_numbers(self.run_dir(run_id)))

    def run_ids(self) -> list[str]:
        """The ids of all runs that have a journal, sorted."""
        try:
            names = os.listdir(self.root)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as cause:
            raise StorageError(f"cannot read {self.root}: {cause}") from cause
        usable = (name for name in names if _RUN_ID.fullmatch(name) and name.lower() not in _RESERVED)
        found = (name for name in usable if not (self.root / name).is_symlink())
        return sorted(name for name in found if self.exists(name))

    def archive(self, run_id: str) -> Path:
        """Move a run's state to `archive/`, in one rename; where it is now. Hold the run's lock.

        Raises:
            NoCheckpointError: there is no such run.
            StorageError: it cannot be moved; it is where it was.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        return self._move(run_id, self.archived / f"{run_id}-{stamp}")

    def delete(self, run_id: str) -> None:
        """Remove a run's state for good. Hold the run's lock.

        It is renamed first: a crash half-way leaves a run that is gone, never half a journal. What such a
        crash leaves is removed by the next call.

        Raises:
            NoCheckpointError: there is no such run.
            StorageError: it cannot be removed.
        """
        try:
            self._move(run_id, self.root / f".deleted-{secrets.token_hex(6)}")
            for gone in self.root.glob(".deleted-*"):
                shutil.rmtree(gone, ignore_errors=True)  # the next call tries again
        except OSError as cause:
            raise StorageError(f"cannot remove all of run {run_id}: {cause}") from cause

    def check_filesystem(self, environ: Mapping[str, str] = os.environ) -> None:
        """Refuse a file system whose locks and fsyncs depend on another machine.

        Raises:
            UsageError: the project is on one, and $SAGE_ALLOW_NETWORK_FS is not 1.
        """
        kind = filesystem_type(self.project)
        if is_network_filesystem(kind) and environ.get(NETWORK_VARIABLE) != "1":
            raise UsageError(
                f"{self.project} is on a network file system ({kind}): no reliable locks and fsync there; "
                f"use a local directory (--project), or set {NETWORK_VARIABLE}=1 to take the risk"
            )

    def _move(self, run_id: str, target: Path) -> Path:
        source = self.run_dir(run_id)
        if not source.is_dir():
            raise NoCheckpointError(f"there is no run {run_id!r} in {self.root}")
        try:
            make_private_directory(target.parent)
            free, number = target, 1
            while os.path.lexists(free):
                number += 1
                free = target.with_name(f"{target.name}-{number}")
            os.rename(source, free)
            DISK.sync_directory(target.parent)
            DISK.sync_directory(source.parent)
        except OSError as cause:
            raise StorageError(f"cannot move {source}: {cause}") from cause
        return free

    def _refuse_links(self) -> None:
        for path in (self.root.parent, self.root, self.locks, self.archived):
            if path.is_symlink():
                raise StateError(f"{path} is a link; state must lie in the project itself: remove the link")
            if path.exists() and path.stat().st_uid not in (os.getuid(), 0):
                raise StateError(f"{path} belongs to user {path.stat().st_uid}; state must be your own")


class Registry:
    """`ACTIVE_WORKFLOWS.json`: what started and ended here. A hint: failing to write it fails no run.

    {"version": 1, "workflows": {run id: {"workflow", "pid", "status", "started_at", "ended_at"}}}
    """

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self.path = state.root / _REGISTRY_NAME

    def note_started(self, run_id: str, workflow: str, pid: int) -> None:
        """`run_id` is executing in process `pid`."""
        started: dict[str, Any] = {"workflow": workflow, "pid": pid, "status": "running"}
        started |= {"started_at": _now(), "ended_at": None}
        self._change(lambda workflows: workflows.update({run_id: started}))

    def note_ended(self, run_id: str, status: str) -> None:
        """`run_id` ended or paused, with this status."""

        def end(workflows: dict[str, dict[str, Any]]) -> None:
            workflows[run_id] = {**workflows.get(run_id, {}), "status": status, "ended_at": _now()}

        self._change(end)

    def forget(self, run_id: str) -> None:
        """The state of `run_id` was removed."""
        self._change(lambda workflows: workflows.pop(run_id, None))

    def read(self) -> dict[str, dict[str, Any]]:
        """The entries by run id; empty when there is no file or nothing sensible in it."""
        try:
            raw = json.loads(self.path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        workflows = raw.get("workflows") if isinstance(raw, dict) else None
        if not isinstance(workflows, dict):
            return {}
        return {run_id: entry for run_id, entry in workflows.items() if isinstance(entry, dict)}

    def _change(self, change: Callable[[dict[str, dict[str, Any]]], object]) -> None:
        try:
            self._state.create()
            fd = self._state.open_lock(".registry.lock")
            try:
                with exclusive(fd):
                    workflows = self.read()
                    change(workflows)
                    data = _one_a_line(_without_oldest(workflows))
                    replace_file(self.path, data, durable=False)  # the supervisor waits for it
            finally:
                os.close(fd)
        except (OSError, StateError) as cause:
            _log.warning("%s was not updated: %s", self.path, cause)


def filesystem_type(path: Path) -> str:
    """The type of the file system that holds `path` (or will), as the system calls it; "" if unknown."""
    import psutil  # 10 ms: only where it is asked

    real = os.path.realpath(path)
    kind, longest = "", -1
    for part in psutil.disk_partitions(all=True):
        inside = part.mountpoint == "/" or real == part.mountpoint or real.startswith(part.mountpoint + "/")
        if inside and len(part.mountpoint) >= longest:  # the later of two on one place covers the earlier
            kind, longest = part.fstype, len(part.mountpoint)
    return kind


def is_network_filesystem(kind: str) -> bool:
    """Whether a file system of this type is on another machine."""
    return kind in _NETWORK_TYPES or kind.removeprefix("fuse.") in _NETWORK_FUSE


def _without_oldest(workflows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    ended = [run_id for run_id, entry in workflows.items() if entry.get("ended_at")]
    ended.sort(key=lambda run_id: str(workflows[run_id]["ended_at"]))
    for run_id in ended[:-_KEPT_ENDED]:
        del workflows[run_id]
    return workflows


def _one_a_line(workflows: dict[str, dict[str, Any]]) -> bytes:
    """For people. json has no fast encoder with `indent`; a quote within a text is behind a backslash."""
    return json.dumps({"version": 1, "workflows": workflows}).replace('}, "', '},\n"').encode()


def _write_once(path: Path, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

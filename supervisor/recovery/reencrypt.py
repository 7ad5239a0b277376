"""Seals the saved state of a project again, under the key that seals what is new, so that an old key can go.

    journals    read under the old keys, written frame by frame beside them, read again, exchanged with them
    cache       each entry read and replaced; what lists keep is removed
    audit log   stays: its chain proves what was written when, under the key of that time

The tag of a segment's last frame is named by the next one: so all segments of a run change in one step. What a
crash leaves behind:

    while the copy is written    the run as it was, and a hidden copy, which the next `reencrypt` removes
    after the audit record       the same; until the next `reencrypt`, `audit verify` says that the journal differs
    after the exchange           the run under the new key, and a hidden copy of the old one, removed by the next
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sage_actors.actors.audit.files import log_files
from sage_actors.actors.audit.project import audit_project
from sage_actors.actors.audit.search import last_position
from sage_actors.actors.cache.store import ResultCache
from sage_actors.actors.faults import fault_point
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.disk import exchange, exclusive, make_private_directory
from sage_actors.actors.state.journal import JournalWriter
from sage_actors.actors.state.journal_format import Header, Tail
from sage_actors.actors.state.journal_reader import Image, SegmentReader, read_headers, segment_path
from sage_actors.actors.state.locks import RunLock
from sage_actors.messages.errors import SageError, StateError, StorageError
from sage_actors.supervisor.recovery.summaries import forget_summaries

__all__ = ["Reencrypted", "reencrypt"]

_HIDDEN = ".resealing-"
_End: TypeAlias = tuple[int, int, str]  # segment, frame, the frame's tag


@dataclass(slots=True)
class Reencrypted:
    """What was done, by name (`archive/...` for archived runs).

    runs: sealed again. unchanged: under the new key already. refused: why not, by name. kept_aside: files of a
    repair, which stay under the key of their time. cache_entries: how many were sealed again.
    """

    runs: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    kept_aside: list[str] = field(default_factory=list)
    cache_entries: int = 0


def reencrypt(
    state: StateDirectory, keys: KeyRing, *, on_run: Callable[[str], object] = lambda name: None
) -> Reencrypted:
    """Seal every run of the project, archived ones too, and its cache under `keys.primary`.

    A run that a live process owns, or that is damaged, is refused and named; the others are done all the same.

    Args:
        on_run: called with the name of each run that was sealed again.

    Raises:
        StorageError: the disk refused; each run is as it was, or done.
    """
    done = Reencrypted()
    if not state.root.is_dir():
        return done
    with _alone(state):
        for name, directory in _each_run(state):
            try:
                _reseal_run(state, keys, name, directory, done)
            except StorageError:
                raise
            except SageError as error:
                done.refused[name] = str(error)
                continue
            if name in done.runs:
                on_run(name)
        try:
            forget_summaries(state)
            done.cache_entries = ResultCache(state.root.parent / "cache", keys).reseal()
        except OSError as cause:
            raise StorageError(f"cannot seal the cache again: {cause}") from cause
    return done


@contextmanager
def _alone(state: StateDirectory) -> Iterator[None]:
    """One `reencrypt` of a project at a time; what a crash left of an earlier one goes."""
    try:
        make_private_directory(state.locks)
        fd = state.open_lock(".reencrypt.lock")
    except OSError as cause:
        raise StorageError(f"cannot lock {state.root}: {cause}") from cause
    try:
        with exclusive(fd):
            for parent in (state.root, state.archived):
                for leftover in parent.glob(f"{_HIDDEN}*"):
                    shutil.rmtree(leftover, ignore_errors=True)
            yield
    except TimeoutError as cause:
        raise StorageError(f"another process is at it: {cause}") from cause
    finally:
        os.close(fd)


def _each_run(state: StateDirectory) -> list[tuple[str, Path]]:
    return [
        *((run_id, state.run_dir(run_id)) for run_id in state.run_ids()),
        *(
            (f"archive/{path.name}", path)
            for path in state.archives()
            if path.is_dir() and not path.is_symlink()
        ),
    ]


def _reseal_run(state: StateDirectory, keys: KeyRing, name: str, directory: Path, done: Reencrypted) -> None:
    lock = None if name.startswith("archive/") else RunLock.acquire(state, name)
    try:
        headers = read_headers(directory, keys)
        if all(header.key_id == keys.primary.id for header in headers):
            done.unchanged.append(name)
            return
        with _hidden_copy(directory) as copy:
            last = _copy_journal(directory, copy, keys, headers)
            done.kept_aside += _keep_others(directory, copy, name)
            fault_point("reencrypt.copied")
            if lock is not None and last is not None:
                _record(state, keys, name, last)
            fault_point("reencrypt.recorded")
            try:
                exchange(copy, directory)
            except OSError as cause:
                raise StorageError(
                    f"{directory} cannot change places with its copy ({cause}): this file system has no atomic "
                    "exchange; copy the project to a local disk and try again there. Nothing was changed"
                ) from cause
            fault_point("reencrypt.exchanged")
        done.runs.append(name)
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def _hidden_copy(directory: Path) -> Iterator[Path]:
    """A new directory beside it; gone in the end with what it then holds: the copy, or after the exchange the old."""
    copy = directory.parent / f"{_HIDDEN}{secrets.token_hex(6)}"
    try:
        make_private_directory(copy)
        yield copy
    except OSError as cause:
        raise StorageError(f"cannot seal {directory} again: {cause}; it is as it was") from cause
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copy_journal(source: Path, target: Path, keys: KeyRing, headers: list[Header]) -> _End | None:
    """Write the journal of `source` anew in `target`, each frame where it was; its last frame, if it has any."""
    new = KeyRing(keys.keys[:1], keys.source)
    ends = [*(header.previous for header in headers[1:]), None]
    previous: Tail | None = None
    last: _End | None = None
    for header, end in zip(headers, ends, strict=True):
        reader = SegmentReader(source, header.segment, keys, ends_at=end)
        writer = JournalWriter.create(target, new, run_uuid=header.run_uuid, previous=previous)
        try:
            for location, plaintext in reader.frames():
                if writer.append(plaintext) != location:
                    raise StateError(f"{reader.path}: frame {location.number} would change its place")
                last = (location.segment, location.number, writer.tag.hex())
            writer.sync()
            previous = Tail(header.segment, writer.tag, writer.bytes_written)
        finally:
            writer.close()
        _same_times(segment_path(source, header.segment), segment_path(target, header.segment))
    _compare(source, target, keys, new)
    return last


def _compare(source: Path, target: Path, old: KeyRing, new: KeyRing) -> None:
    """What was written is read once more, under the new key alone, before it takes the old one's place."""
    for before, after in zip(Image(source, old).frames, Image(target, new).frames, strict=True):
        if before != after:
            raise StorageError(f"{target}: frame {after[0].number} reads other than it was written")


def _keep_others(source: Path, target: Path, name: str) -> list[str]:
    """Whatever else lies there (what a repair kept aside) goes along as it is."""
    kept = []
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.is_symlink() or (target / path.name).exists():
            continue
        if not path.name.endswith(".tmp"):
            os.link(path, target / path.name)
            kept.append(f"{name}/{path.name}")
    return kept


def _record(state: StateDirectory, keys: KeyRing, run_id: str, last: _End) -> None:
    """Tell the audit log, if there is one, by which tag the journal's last frame is known from now on."""
    if not log_files(state.root.parent):
        return
    segment, number, tag = last
    audited = last_position(state, keys, run_id)
    if audited is not None and (segment, number) < audited:
        raise StateError(
            f"the journal ends with frame {number} of segment {segment}, and the audit log knew frame "
            f"{audited[1]} of segment {audited[0]}: it was cut; `sage-actors audit verify` says more"
        )
    with audit_project(state.project, keys=keys) as audit:
        audit.record("run_resealed", run_id, journal={"segment": segment, "seq": number, "tag": tag})


def _same_times(source: Path, target: Path) -> None:
    """`prune` goes by the last write to a run."""
    status = source.stat()
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

"""Cuts a damaged journal back to its longest valid prefix, and keeps what was damaged aside."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.disk import DISK, Disk, copy_prefix, create_private, temporary_name
from sage_actors.actors.state.journal_format import HEADER_BYTES, Header, Location
from sage_actors.actors.state.journal_reader import SegmentReader, each_header, segment_numbers, segment_path
from sage_actors.messages.errors import NoCheckpointError, StateCorruptedError, StorageError

__all__ = ["RepairReport", "repair"]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair found and did; all empty when the journal was not damaged.

    Attributes:
        damage: what was wrong, a sentence each, with file and byte.
        kept_aside: the damaged files under their new names; nothing was deleted.
        dropped_bytes: how many bytes of them are not part of the journal any more.
        last: the last frame that is left, None if none is.
    """

    damage: tuple[str, ...]
    kept_aside: tuple[Path, ...]
    dropped_bytes: int
    last: Location | None


@dataclass(frozen=True, slots=True)
class _Finding:
    last: Location | None
    segment: int = 0  # the damaged one
    keep_bytes: int = 0  # how much of it is valid; 0: not even its header
    reason: str = ""


def repair(directory: Path, keys: KeyRing, *, disk: Disk = DISK) -> RepairReport:
    """Make the journal in `directory` end before its first damage. Hold the run's lock.

    A crash at any step leaves a journal that is still refused, or one that is repaired: later segments go
    aside first, the last one first; then the damaged one is replaced by its valid part in one rename.

    Raises:
        WrongKeyError: a segment is sealed under a key that is not here; nothing was touched.
        StateCorruptedError: not even the first header is valid: there is nothing to continue from.
        StorageError: the disk refused a step.
    """
    if not segment_numbers(directory):
        raise NoCheckpointError(f"there is no journal in {directory}")
    suffix = time.strftime("damaged-%Y%m%dT%H%M%SZ", time.gmtime())
    damage: list[str] = []
    aside: list[Path] = []
    dropped = 0
    while (finding := _find_damage(directory, keys)).reason:
        if finding.segment == 1 and not finding.keep_bytes:
            raise StateCorruptedError(f"nothing can be saved: {finding.reason}; start anew with --fresh")
        damage.append(finding.reason)
        try:
            dropped += _cut(directory, finding, suffix, aside, disk)
        except OSError as cause:
            raise StorageError(f"cannot repair {directory}: {cause}") from cause
    return RepairReport(tuple(damage), tuple(aside), dropped, finding.last)


def _find_damage(directory: Path, keys: KeyRing) -> _Finding:
    """The first damage there is."""
    headers: list[Header] = []
    bad_header = ""
    try:
        for header in each_header(directory, keys):
            headers.append(header)
    except StateCorruptedError as error:
        bad_header = str(error)
    last = None
    for number in range(1, len(headers) + 1):
        ends_at = headers[number].previous if number < len(headers) else None
        reader = SegmentReader(directory, number, keys, ends_at=ends_at)
        try:
            for location, _ in reader.frames():
                last = location
        except StateCorruptedError as error:
            return _Finding(last, number, reader.valid_bytes, str(error))
    return _Finding(last, len(headers) + 1, 0, bad_header)


def _cut(directory: Path, finding: _Finding, suffix: str, aside: list[Path], disk: Disk) -> int:
    """Put everything behind the valid part aside; how many bytes that was."""
    dropped = 0
    for number in reversed(segment_numbers(directory)):
        path = segment_path(directory, number)
        keep = finding.keep_bytes if number == finding.segment else 0
        if number < finding.segment:
            break
        dropped += os.lstat(path).st_size - keep
        target = _free_name(path.with_name(f"{path.name}.{suffix}"))
        if keep:
            _keep_prefix(path, target, keep, disk)
        else:
            os.rename(path, target)
        disk.sync_directory(directory)
        aside.append(target)
    return dropped


def _keep_prefix(path: Path, target: Path, keep: int, disk: Disk) -> None:
    """`target` becomes the whole old file, `path` its first `keep` bytes."""
    assert keep >= HEADER_BYTES
    temporary = temporary_name(path)
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name, length in ((target, os.fstat(source).st_size), (temporary, keep)):
            fd = create_private(name)
            try:
                copy_prefix(source, fd, length, disk=disk)
            finally:
                os.close(fd)
    except BaseException:
        target.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(source)
    disk.sync_directory(path.parent)
    os.rename(temporary, path)


def _free_name(path: Path) -> Path:
    """`path`, or the same with a number, so that no earlier damaged file is replaced."""
    name, number = path, 1
    while os.path.lexists(name):
        number += 1
        name = path.with_name(f"{path.name}-{number}")
    return name

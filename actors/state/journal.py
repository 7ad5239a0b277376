"""A run's journal: append-only, sealed, in segments that each belong to the one process that made them.

The bytes are drawn in `journal_format`. This module writes; `journal_reader` reads; `journal_repair` cuts.

What a crash leaves behind:

    while a segment is born   a temporary name, which the next birth removes, or the segment, whole
    while a frame is written  a torn tail: readers leave it out, the next segment's header fences it off
    after the write           the frame; a resume syncs it before anything builds on it
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sage_actors.actors.faults import fault_point
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.disk import (
    DISK,
    Disk,
    create_private,
    make_private_directory,
    publish,
    temporary_name,
)
from sage_actors.actors.state.journal_format import (
    HEADER_BYTES,
    MAX_PLAINTEXT_BYTES,
    TAG_BYTES,
    Location,
    SegmentCipher,
    Tail,
    seal_header,
)
from sage_actors.actors.state.journal_reader import FrameStore, Image, segment_path
from sage_actors.actors.state.journal_repair import RepairReport, repair
from sage_actors.messages.errors import LimitExceeded, StorageError

__all__ = [
    "MAX_PLAINTEXT_BYTES",
    "FrameStore",
    "Image",
    "JournalWriter",
    "Location",
    "RepairReport",
    "Tail",
    "read_frame",
    "read_journal",
    "repair",
]

_repair = repair


def read_journal(directory: Path, keys: KeyRing, *, repair: bool = False, disk: Disk = DISK) -> Image:
    """The journal of the run in `directory`. Its frames are read and checked while they are walked.

    Args:
        repair: first cut the journal back to its longest valid prefix if it is damaged (see `repair`, which
            says what it dropped). Hold the run's lock.

    Raises:
        NoCheckpointError: there is none.
        WrongKeyError: a segment is sealed under a key that is not in `keys`.
        StateCorruptedError: damage that is no torn tail; from here in headers, from `Image.frames` in frames.
        StateError: a segment is a link, or others can read it.
        StorageError: the disk failed.
    """
    if repair:
        _repair(directory, keys, disk=disk)
    return Image(directory, keys, disk=disk)


def read_frame(directory: Path, keys: KeyRing, location: Location) -> bytes:
    """One frame's plaintext; for several, keep a `FrameStore`."""
    store = FrameStore(directory, keys)
    try:
        return store.read(location)
    finally:
        store.close()


class JournalWriter:
    """Appends frames to the one segment that it made. Not for several threads at once."""

    def __init__(self, fd: int, path: Path, cipher: SegmentCipher, segment: int, disk: Disk) -> None:
        self._fd, self._path, self._cipher, self._disk = fd, path, cipher, disk
        self.segment = segment
        self._number = 0
        self._tag = cipher.commitment
        self._bytes = HEADER_BYTES
        self._unsynced = False
        self._failure = ""
        self._pid = os.getpid()

    @classmethod
    def create(
        cls, directory: Path, keys: KeyRing, *, run_uuid: bytes, previous: Tail | None, disk: Disk = DISK
    ) -> JournalWriter:
        """The segment after `previous` (the first one if None), durable when this returns.

        Args:
            directory: the run's; made (0700) if missing.
            run_uuid: 16 bytes, the same for all segments of a run.
            previous: `Image.tail` of the journal so far, which must have been synced (`Image.sync`).

        Raises:
            StorageError: the disk refused, or that segment exists already: then another process took the run.
        """
        segment = previous.segment + 1 if previous else 1
        path = segment_path(directory, segment)
        salt = secrets.token_bytes(32)
        header, cipher = seal_header(
            keys.primary, run_uuid=run_uuid, segment=segment, salt=salt, previous=previous
        )
        try:
            make_private_directory(directory, disk=disk)
            _remove_leftovers(directory)
            fd = _give_birth(path, header, disk)
        except OSError as cause:
            raise StorageError(f"cannot make {path}: {cause}") from cause
        return cls(fd, path, cipher, segment, disk)

    @property
    def tag(self) -> bytes:
        """The tag of the last frame, which the next one continues."""
        return self._tag

    @property
    def bytes_written(self) -> int:
        """How long the valid part of the segment is, its header included."""
        return self._bytes

    def append(self, plaintext: bytes) -> Location:
        """Seal `plaintext` as the next frame and write it; it is durable after `sync` only.

        Raises:
            LimitExceeded: more than `MAX_PLAINTEXT_BYTES`; nothing was written, the writer is as before.
            StorageError: not all of it could be written. The writer is dead: what is on disk must be read
                again, and continued in a new segment.
        """
        self._check_usable()
        if len(plaintext) > MAX_PLAINTEXT_BYTES:
            raise LimitExceeded(f"a frame of {len(plaintext)} bytes; the limit is {MAX_PLAINTEXT_BYTES}")
        number, offset = self._number, self._bytes
        frame = self._cipher.seal(number, self._tag, plaintext)
        self._number = number + 1  # before the write: whatever comes of it, this nonce is used
        self._failure = "a write was interrupted"
        try:
            fault_point("journal.before_write")
            written = self._disk.write(self._fd, frame)
            fault_point("journal.after_write")
        except OSError as cause:
            raise self._poison(f"a write failed: {cause}") from cause
        if written != len(frame):
            raise self._poison(f"a write was cut short ({written} of {len(frame)} bytes): is the disk full?")
        self._failure = ""
        self._unsynced = True
        self._tag = frame[-TAG_BYTES:]
        self._bytes = offset + written
        return Location(self.segment, number, offset)

    def sync(self) -> None:
        """All frames appended so far are on the device when this returns.

        Raises:
            StorageError: the device refused. It is never asked again: a second fsync may succeed although
                the kernel has dropped the pages of the first. The writer is dead, as after `append`.
        """
        self._check_usable()
        if not self._unsynced:
            return
        self._failure = "an fsync was interrupted"
        try:
            fault_point("journal.before_fsync")
            self._disk.sync_data(self._fd)
            fault_point("journal.after_fsync")
        except OSError as cause:
            raise self._poison(f"fsync failed: {cause}") from cause
        self._failure = ""
        self._unsynced = False

    def close(self) -> None:
        """Close the file; does not sync. Closing twice is harmless."""
        fd, self._fd = self._fd, -1
        self._failure = self._failure or "the writer is closed"
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # only fsync tells whether bytes are on the device

    def _check_usable(self) -> None:
        if self._failure:
            raise StorageError(f"{self._path}: {self._failure}; resume the run to continue in a new segment")
        if os.getpid() != self._pid:  # a copy would use the same nonces for other plaintexts
            raise StorageError(f"{self._path}: a forked copy of its maker may not write to a segment")

    def _poison(self, failure: str) -> StorageError:
        self._failure = failure
        return StorageError(
            f"{self._path}: {failure}; nothing that was acknowledged is lost: make room or mend the disk, "
            "then resume the run"
        )


def _give_birth(path: Path, header: bytes, disk: Disk) -> int:
    """A descriptor for appending to the new file `path`, which appears with its whole header or not."""
    temporary = temporary_name(path)
    fd = create_private(temporary, flags=os.O_WRONLY | os.O_APPEND)
    try:
        disk.write_all(fd, header)
        disk.sync(fd)
        fault_point("journal.segment_created")
        publish(temporary, path, disk=disk)
        fault_point("journal.segment_renamed")
    except BaseException:
        os.close(fd)
        temporary.unlink(missing_ok=True)
        raise
    return fd


def _remove_leftovers(directory: Path) -> None:
    """Temporary names of births that a crash ended. The run's lock is held: no birth is under way."""
    for leftover in directory.glob(".journal-*.tmp"):
        leftover.unlink(missing_ok=True)

"""Reads a run's journal: every frame in order, or one frame by its location.

Nothing is believed that does not authenticate. The end of the last segment may be torn (a crash cut a write
short): that much is reported and left out. Everything else that does not fit is refused.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.disk import DISK, Disk, why_not_private
from sage_actors.actors.state.journal_format import (
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    TAG_BYTES,
    Header,
    Location,
    SegmentCipher,
    Tail,
    damaged,
    open_header,
)
from sage_actors.messages.errors import NoCheckpointError, StateError, StorageError

__all__ = [
    "FrameStore",
    "Image",
    "SegmentReader",
    "each_header",
    "read_headers",
    "segment_numbers",
    "segment_path",
]

_NAME = re.compile(r"journal-(\d{6,10})\.sage")
_BUFFER_BYTES = 256 * 1024
_ZERO_CHUNK_BYTES = 1 << 20


def segment_path(directory: Path, number: int) -> Path:
    """The file of segment `number` (1-based)."""
    return directory / f"journal-{number:06d}.sage"


def segment_numbers(directory: Path) -> list[int]:
    """The numbers of the segments in `directory`, ascending; empty if there is no such directory.

    Raises:
        StorageError: the directory cannot be read.
    """
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as cause:
        raise StorageError(f"cannot read {directory}: {cause}") from cause
    found = (_NAME.fullmatch(name) for name in names)
    numbers = sorted(int(match[1]) for match in found if match)
    return [number for number in numbers if segment_path(directory, number).name in names]


def open_segment(directory: Path, number: int, keys: KeyRing) -> tuple[int, Header, SegmentCipher]:
    """A descriptor of segment `number`, at its first frame, and its genuine header.

    Raises:
        StateCorruptedError, WrongKeyError: as `open_header`; also where the file is another segment.
        StateError: the file is a link, or not private.
        StorageError: it cannot be read.
    """
    path = segment_path(directory, number)
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hold this process up
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as cause:
        if cause.errno == errno.ELOOP:
            raise StateError(
                f"{path} is a link; state must lie in the project itself: remove the link"
            ) from cause
        raise StorageError(f"cannot open {path}: {cause}") from cause
    try:
        if reason := why_not_private(fd):
            raise StateError(f"{path} is not private state: {reason}; make it a 0600 file of your own")
        header, cipher = open_header(os.read(fd, HEADER_BYTES), keys, name=str(path))
        if header.segment != number:
            raise damaged(path, 0, f"it is segment {header.segment}, in the place of {number}")
    except OSError as cause:
        os.close(fd)
        raise StorageError(f"cannot read {path}: {cause}") from cause
    except BaseException:
        os.close(fd)
        raise
    return fd, header, cipher


def read_headers(directory: Path, keys: KeyRing) -> list[Header]:
    """The headers of all segments, which belong to one run and follow one another.

    Raises:
        NoCheckpointError: there is no segment.
        StateCorruptedError: one is missing, damaged, or of another run; and as `open_segment`.
    """
    headers = list(each_header(directory, keys))
    if not headers:
        raise NoCheckpointError(f"there is no journal in {directory}")
    return headers


def each_header(directory: Path, keys: KeyRing) -> Iterator[Header]:
    """As `read_headers`, one by one, so that a repair has those before the first bad one."""
    run_uuid = None
    for expected, number in enumerate(segment_numbers(directory), 1):
        if number != expected:
            raise damaged(
                segment_path(directory, expected), 0, "this segment is missing, a later one is there"
            )
        fd, header, _ = open_segment(directory, number, keys)
        os.close(fd)
        if run_uuid not in (None, header.run_uuid):
            raise damaged(segment_path(directory, number), 0, "this segment belongs to another run")
        run_uuid = header.run_uuid
        yield header


class SegmentReader:
    """One segment's frames, once through. Its counters say how far what was read is valid."""

    def __init__(self, directory: Path, number: int, keys: KeyRing, *, ends_at: Tail | None) -> None:
        """`ends_at`: what the next segment's header says of this one; None for the last segment."""
        self.path = segment_path(directory, number)
        self.number = number
        self._fd, header, self._cipher = open_segment(directory, number, keys)
        self._ends_at = ends_at
        self.tag = header.commitment
        self.valid_bytes = HEADER_BYTES
        self.torn_bytes = 0

    @property
    def tail(self) -> Tail:
        """Where the valid part ends, as far as it was read."""
        return Tail(self.number, self.tag, self.valid_bytes)

    def frames(self) -> Iterator[tuple[Location, bytes]]:
        """Every frame's location and plaintext.

        Raises:
            StateCorruptedError: at the first byte that is neither valid nor a torn tail.
            StorageError: the file cannot be read.
        """
        try:
            with open(self._fd, "rb", buffering=_BUFFER_BYTES) as file:
                size = os.fstat(file.fileno()).st_size
                if self._ends_at is not None:  # what lies behind the stated end is ignored for ever
                    size = min(size, self._ends_at.valid_bytes)
                yield from self._walk(file, size)
        except OSError as cause:
            raise StorageError(f"cannot read {self.path}: {cause}") from cause
        if self._ends_at is not None and self._ends_at != self.tail:
            raise damaged(self.path, self.valid_bytes, "it does not end as the next segment says")

    def _walk(self, file: BinaryIO, size: int) -> Iterator[tuple[Location, bytes]]:
        segment, cipher, read = self.number, self._cipher, file.read
        offset, number, tag = self.valid_bytes, 0, self.tag
        while offset < size:
            start = offset + FRAME_HEAD_BYTES
            if start > size or len(head := read(FRAME_HEAD_BYTES)) < FRAME_HEAD_BYTES:
                return self._torn(size)
            genuine = cipher.genuine_head(head, number, tag)
            if genuine is None:
                return self._torn_if_zeros(file, start - 1, size, f"the head of frame {number} was altered")
            length, binding = genuine
            end = start + length
            if end > size or len(body := read(length)) < length:
                return self._torn(size)
            plaintext = cipher.open(body, number, binding)
            if plaintext is None:
                return self._torn_if_zeros(file, end - TAG_BYTES, size, f"frame {number} was altered")
            location = Location(segment, number, offset)
            tag, offset, number = body[-TAG_BYTES:], end, number + 1
            self.tag, self.valid_bytes = tag, offset
            yield location, plaintext
        return None

    def _torn(self, size: int) -> None:
        """A frame whose end is not there: a crash cut its write short, and nobody was told of it."""
        self.torn_bytes = size - self.valid_bytes

    def _torn_if_zeros(self, file: BinaryIO, start: int, size: int, reason: str) -> None:
        """After a loss of power a file may be longer than what was written: the rest reads as zeros."""
        if not _only_zeros(file.fileno(), start, size):
            raise damaged(self.path, self.valid_bytes, reason)
        self._torn(size)


class Image:
    """What a run's journal holds. `frames` can be walked once; `tail` and `torn_bytes` are known after that.

    Attributes:
        run_uuid: 16 bytes.
        segments: how many there are; the next one to be written has this number plus one.
        frames: (location, plaintext) of every frame in order; reads as it goes, one frame in memory.
        last, last_tag: the frame that was read last, and its tag; None and b"" before the first.
    """

    def __init__(self, directory: Path, keys: KeyRing, *, disk: Disk = DISK) -> None:
        self._directory, self._keys, self._disk = directory, keys, disk
        self._headers = read_headers(directory, keys)
        self.run_uuid = self._headers[0].run_uuid
        self.segments = len(self._headers)
        self._end: tuple[Tail, int] | None = None
        self.last: Location | None = None
        self.last_tag = b""
        self.frames: Iterator[tuple[Location, bytes]] = self._each()

    @property
    def tail(self) -> Tail:
        """What the next segment continues. RuntimeError before `frames` was read to its end."""
        return self._ended()[0]

    @property
    def torn_bytes(self) -> int:
        """How many bytes at the end a crash left half written. RuntimeError as for `tail`."""
        return self._ended()[1]

    def sync(self) -> None:
        """Put on the device what was read: it may be in the cache only. Nothing may build on it before.

        Raises:
            StorageError: the device refused. What is in the cache may be gone after a loss of power.
        """
        try:
            for number in range(1, self.segments + 1):
                fd = os.open(
                    segment_path(self._directory, number), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                )
                try:
                    self._disk.sync_data(fd)
                finally:
                    os.close(fd)
            self._disk.sync_directory(self._directory)
        except OSError as cause:
            raise StorageError(f"cannot sync the journal in {self._directory}: {cause}") from cause

    def _each(self) -> Iterator[tuple[Location, bytes]]:
        ends = [header.previous for header in self._headers[1:]]
        for number, ends_at in enumerate([*ends, None], 1):
            reader = SegmentReader(self._directory, number, self._keys, ends_at=ends_at)
            for location, plaintext in reader.frames():
                self.last, self.last_tag = location, reader.tag
                yield location, plaintext
        self._end = (reader.tail, reader.torn_bytes)  # pyright: ignore[reportPossiblyUnboundVariable]

    def _ended(self) -> tuple[Tail, int]:
        if self._end is None:
            raise RuntimeError("walk Image.frames to its end first: only then is the journal's end known")
        return self._end


class FrameStore:
    """Opens single frames by their location; keeps the keys and files of the segments used last.

    Safe to use from several threads, and while the newest segment is still being written. Nobody needs to close it:
    its files are closed with it.
    """

    def __init__(self, directory: Path, keys: KeyRing, *, keep_open: int = 16) -> None:
        self._directory, self._keys, self._keep = directory, keys, keep_open
        self._open: OrderedDict[int, tuple[int, SegmentCipher]] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_files, self._open)

    def read(self, location: Location) -> bytes:
        """The plaintext of the frame at `location`.

        Raises:
            StateCorruptedError: there is no such frame, or it is damaged; and as `open_segment`.
        """
        with self._lock:  # held while reading, so that nobody closes the file meanwhile
            fd, cipher = self._segment(location.segment)
            try:
                return self._read(fd, cipher, location)
            except OSError as cause:
                path = segment_path(self._directory, location.segment)
                raise StorageError(f"cannot read {path}: {cause}") from cause

    def close(self) -> None:
        """Close all files; a later `read` opens them again."""
        with self._lock:
            _close_files(self._open)

    def _read(self, fd: int, cipher: SegmentCipher, location: Location) -> bytes:
        before = os.pread(fd, TAG_BYTES + FRAME_HEAD_BYTES, max(0, location.offset - TAG_BYTES))
        tag, head = before[:TAG_BYTES], before[TAG_BYTES:]
        plaintext = genuine = None
        if location.offset >= HEADER_BYTES and len(head) == FRAME_HEAD_BYTES:
            genuine = cipher.genuine_head(head, location.number, tag)
        if genuine is not None:
            length, binding = genuine
            body = os.pread(fd, length, location.offset + FRAME_HEAD_BYTES)
            plaintext = cipher.open(body, location.number, binding)
        if plaintext is None:
            path = segment_path(self._directory, location.segment)
            raise damaged(path, location.offset, f"no authentic frame {location.number} is there")
        return plaintext

    def _segment(self, number: int) -> tuple[int, SegmentCipher]:
        found = self._open.get(number)
        if found is None:
            if len(self._open) >= self._keep:
                os.close(self._open.popitem(last=False)[1][0])
            fd, _, cipher = open_segment(self._directory, number, self._keys)
            found = self._open[number] = (fd, cipher)
        self._open.move_to_end(number)
        return found


def _close_files(opened: OrderedDict[int, tuple[int, SegmentCipher]]) -> None:
    while opened:
        os.close(opened.popitem()[1][0])


def _only_zeros(fd: int, start: int, end: int) -> bool:
    while start < end:
        part = os.pread(fd, min(_ZERO_CHUNK_BYTES, end - start), start)
        if part.strip(b"\0"):
            return False
        start += len(part) or (end - start)
    return True

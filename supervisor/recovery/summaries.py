"""What a list says of each run, kept between two lists: read from the journal once, said again while that is the same.

    .sage/state/.summaries-<kind>.sage     sealed; msgpack of [shape, ids of the keys, {run id: [mark, what is said]}]
    mark = for each segment (number, bytes, inode, mtime, ctime), and the last 16 bytes of the last one

It cannot go stale, for it is never believed: it is asked only while the journal carries the very mark that it had
before *and* after it was read. A record that is added makes the file longer, a process that takes the run over adds a
segment, `--repair` and `keys reencrypt` put other files in the place; whatever else alters a file changes its ctime,
which no program can set; and the last 16 bytes are the tag of the last frame, which binds all before. What depends on
the moment (a live owner) is asked each time, and a run that has one is read. The file may be removed at any time; a
crash, or two lists at once, leave an older one, or none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgpack

from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.keys.sealed import key_id_of, open_sealed, seal
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.disk import replace_file, why_not_private
from sage_actors.actors.state.journal_reader import segment_numbers, segment_path
from sage_actors.actors.state.locks import holder

__all__ = ["Summaries", "forget_summaries"]

_MAGIC: Final = b"SAGESUM1"
_INFO: Final = b"sage-actors/v1/summaries/"
_TAIL_BYTES: Final = 16
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Segments: TypeAlias = list[list[int]]


class Summaries:
    """The runs of a project as one kind of list shows them."""

    def __init__(
        self,
        state: StateDirectory,
        keys: KeyRing,
        *,
        kind: str,
        shape: int,
        summary: Callable[[Any], Mapping[str, Any]],
    ) -> None:
        """kind: of list. summary: of a History, as plain values. shape: another number where that says other things."""
        self._state, self._keys, self._summary = state, keys, summary
        self._path = state.root / f".summaries-{kind}.sage"
        self._info, self._shape = _INFO + kind.encode(), shape
        self._key_ids = [key.id for key in keys.keys]  # what another ring could open, this one perhaps cannot
        self._kept, self._is_current = self._read()
        self._segments: dict[str, Segments] = {}

    def run_ids(self) -> list[str]:
        """All runs, those last written to first."""
        self._segments = {run_id: self._look(run_id) for run_id in self._state.run_ids()}
        return sorted(self._segments, key=self._written_at, reverse=True)

    def of(self, run_id: str) -> Mapping[str, Any]:
        """What there is to say about one run now.

        Raises:
            NoCheckpointError, StateCorruptedError, WrongKeyError, StateError, StorageError: as `open_history`.
        """
        before = self._mark(run_id) if holder(self._state, run_id) is None else None
        kept = self._kept.get(run_id)
        if before is not None and kept is not None and kept[0] == before:
            return dict(kept[1])
        from sage_actors.supervisor.recovery.history import open_history  # a quarter of a second

        past = open_history(self._state, self._keys, run_id)
        said = dict(self._summary(past))
        self._segments[run_id] = self._look(run_id)
        if past.owner is None and before is not None and before == self._mark(run_id):
            self._kept[run_id] = [before, said]
            self._is_current = False
        return said

    def keep(self) -> None:
        """Write down what was read, for the next list. Where that fails, the next one reads again."""
        gone = self._kept.keys() - self._segments.keys() if self._segments else set()
        if self._is_current and not gone:
            return
        for run_id in gone:
            del self._kept[run_id]
        plain = bytes(msgpack.packb([self._shape, self._key_ids, self._kept]))
        with contextlib.suppress(OSError):
            data = seal(self._keys, plain, magic=_MAGIC, info=self._info)
            replace_file(self._path, data, durable=False)
            self._is_current = True

    def _read(self) -> tuple[dict[str, list[Any]], bool]:
        """What is kept, and whether it needs no writing: nothing where it does not open, whatever is there."""
        data = _read_private(self._path)
        plain = open_sealed(self._keys, data, magic=_MAGIC, info=self._info)
        if plain is None:
            return {}, not data
        try:
            shape, key_ids, kept = msgpack.unpackb(plain)
        except (ValueError, TypeError):  # a later version's
            return {}, False
        if shape != self._shape or key_ids != self._key_ids:
            return {}, False
        return kept, key_id_of(data) == self._keys.primary.id

    def _mark(self, run_id: str) -> list[Any] | None:
        """What the journal looks like from outside; None if it is not there, or changes just now."""
        segments = self._segments.get(run_id) or self._look(run_id)
        if not segments:
            return None
        number, size, *_ = segments[-1]
        tail = _last_bytes(self._state, run_id, number, size)
        return None if tail is None else [segments, tail]

    def _look(self, run_id: str) -> Segments:
        directory = self._state.run_dir(run_id)
        try:
            return [_facts(directory, number) for number in segment_numbers(directory)]
        except OSError:
            return []

    def _written_at(self, run_id: str) -> int:
        return max((each[3] for each in self._segments[run_id]), default=0)


def forget_summaries(state: StateDirectory) -> None:
    """Remove what lists keep; nothing else is lost. OSError: it could not be removed."""
    for path in state.root.glob(".summaries-*.sage"):
        path.unlink(missing_ok=True)


def _facts(directory: Any, number: int) -> list[int]:
    status = os.lstat(segment_path(directory, number))
    return [number, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _last_bytes(state: StateDirectory, run_id: str, number: int, size: int) -> bytes | None:
    try:
        fd = os.open(segment_path(state.run_dir(run_id), number), _FLAGS)
    except OSError:
        return None
    try:
        return os.pread(fd, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    except OSError:
        return None
    finally:
        os.close(fd)


def _read_private(path: Any) -> bytes:
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return b""
    try:
        if why_not_private(fd):  # another's, or no file at all
            return b""
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    except OSError:
        return b""
    finally:
        os.close(fd)

"""A fake disk for one run: real frames of real records, of which a prefix is durable; and a state actor before it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sage_actors.messages.errors import StorageError
from sage_actors.messages.records import (
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodesSucceeded,
    Record,
    decode_records,
    encode_records,
)

__all__ = ["Disk", "Journal"]


@dataclass(slots=True)
class Known:
    """What a prefix of a journal says, by node number."""

    succeeded: set[int] = field(default_factory=set)
    expanded: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    charged: dict[int, int] = field(default_factory=dict)

    def learn(self, records: list[Record]) -> None:
        for record in records:
            if isinstance(record, NodesSucceeded):
                self.succeeded.update(row[0] for row in record.rows)
            elif isinstance(record, NodeExpanded):
                self.expanded.add(record.node)
            elif isinstance(record, NodeFailed):
                self.failed.add(record.node)
            elif isinstance(record, NodeLost) and record.charged:
                self.charged[record.node] = self.charged.get(record.node, 0) + 1


@dataclass(slots=True)
class Journal:
    """Survives deaths. frames[:durable] survives a power failure too."""

    frames: list[bytes] = field(default_factory=list)
    durable: int = 0
    written: Known = field(default_factory=Known)
    safe: Known = field(default_factory=Known)

    def write(self, records: list[Record]) -> int:
        frame = encode_records(records)
        self.frames.append(frame)
        self.written.learn(decode_records(frame))
        return len(self.frames) - 1

    def sync(self) -> None:
        for frame in self.frames[self.durable :]:
            self.safe.learn(decode_records(frame))
        self.durable = len(self.frames)

    def lose_power(self, rng: Random) -> None:
        """Of what was not synced, any prefix may have reached the disk; a torn frame heals away."""
        keep = rng.randint(self.durable, len(self.frames))
        del self.frames[keep:]
        self.written = Known()
        for frame in self.frames:
            self.written.learn(decode_records(frame))

    def records(self) -> list[Record]:
        return [record for frame in self.frames for record in decode_records(frame)]

    def value(self, location: tuple[Any, int, int]) -> bytes:
        frame, record, row = location
        found: Any = decode_records(self.frames[frame])[record]
        value: bytes = found.rows[row][3]
        return value


class Disk:
    """The state actor's duty for one open run: group commit, acknowledgements, and failures.

    fails_at: the how-manieth write or sync fails; afterwards nothing is accepted.
    """

    def __init__(self, journal: Journal, fails_at: int | None) -> None:
        self.journal = journal
        self.fails_at = fails_at
        self.queue: deque[tuple[list[Record], bool, Any]] = deque()
        self.closing = False
        self.closed = False
        self.to_sync: list[tuple[Any, Any, int]] | None = None
        self.error: StorageError | None = None
        self.out: deque[tuple[str, Any]] = deque()
        self._steps = 0

    def may_step(self) -> bool:
        return not self.closed and bool(self.queue or self.to_sync is not None or self.closing)

    def step(self, rng: Random) -> None:
        """Write a group, or sync it; a group that must be synced is followed by nothing else."""
        if self.error is None:
            self._steps += 1
            if self._steps == self.fails_at:
                self._fail(rng)
        if self.error is not None:
            self._refuse()
        elif self.to_sync is not None:
            self.journal.sync()
            acks, self.to_sync = self.to_sync, None
            if acks:
                self.out.append(("acks", acks))
        elif self.queue:
            self._write(rng)
        elif self.journal.durable < len(self.journal.frames):
            self.to_sync = []
        else:
            self._close()

    def _write(self, rng: Random) -> None:
        group = [self.queue.popleft() for _ in range(rng.randint(1, len(self.queue)))]
        records = [record for each, _, _ in group for record in each]
        location, index = self.journal.write(records), 0
        written: list[tuple[Any, Any, int]] = []
        synced: list[tuple[Any, Any, int]] = []
        for each, sync, token in group:
            if token is not None:
                (synced if sync else written).append((token, location, index))
            index += len(each)
        if written:
            self.out.append(("acks", written))
        if any(sync for _, sync, _ in group):
            self.to_sync = synced

    def _fail(self, rng: Random) -> None:
        self.error = StorageError("no space left")
        if self.to_sync is None and self.queue and rng.random() < 0.5:
            self.journal.write(self.queue[0][0])  # it reached the disk after all, but nobody knows

    def _refuse(self) -> None:
        tokens = [token for _, _, token in self.queue if token is not None]
        self.queue.clear()
        self.to_sync = None
        self.out.append(("failed", (self.error, tokens)))
        if self.closing:
            self._close()

    def _close(self) -> None:
        self.closed = True
        self.out.append(("closed", None))

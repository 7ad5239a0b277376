"""Proves an audit log: every line's mac, the chain over all files, and heads that were noted elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_actors.actors.audit.files import LogFiles
from sage_actors.actors.audit.format import ZERO, AuditKeys, Head, parse_line
from sage_actors.actors.audit.log import audit_lock
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.disk import exclusive
from sage_actors.messages.errors import AuditError

__all__ = ["Chain", "open_files", "verify_chain"]


@dataclass(slots=True)
class Chain:
    """A log that proves itself. `macs`: of record `first`, the next one, and so on, 32 bytes each.

    pruned: heads of files that were removed, with a record of it. torn_bytes: of a line at the end that its writer
    was killed in.
    """

    files: int = 0
    first: int = 0
    macs: list[bytes] = field(default_factory=list)
    pruned: dict[int, str] = field(default_factory=dict)
    torn_bytes: int = 0

    @property
    def head(self) -> Head | None:
        """The last record; None in an empty log."""
        return Head(self.first + len(self.macs) - 1, self.macs[-1].hex()) if self.macs else None

    def differs(self, head: Head) -> str:
        """Why `head` is none of this log, "" if it is, or is in what was pruned."""
        if head.seq < self.first:
            pruned = self.pruned.get(head.seq, head.mac)
            return "" if pruned == head.mac else f"record {head.seq} had another mac when it was pruned"
        if head.seq >= self.first + len(self.macs):
            end = f"its last record is {self.head.seq}" if self.head else "it is empty"
            return f"it was cut or rolled back: {end}, and record {head.seq} was there"
        if self.macs[head.seq - self.first].hex() != head.mac:
            return (
                f"record {head.seq} is another one than was there: this log is not the same, or was made anew"
            )
        return ""


def open_files(state: StateDirectory) -> LogFiles:
    """The log's files as they are now; a rotation under way is waited for.

    Raises:
        AuditError: there is no log.
    """
    if not os.path.isdir(state.locks):
        raise AuditError(f"there is no audit log in {state.root.parent}")
    lock = audit_lock(state)
    try:
        with exclusive(lock):
            opened = LogFiles(state.root.parent)
    finally:
        os.close(lock)
    if not opened.files:
        raise AuditError(
            f"there is no audit log in {state.root.parent}: nothing ran here yet, or it was removed"
        )
    return opened


def verify_chain(
    state: StateDirectory,
    ring: KeyRing,
    *,
    heads: Sequence[Head] = (),
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> Chain:
    """Check every line; what was found.

    Args:
        heads: records that must be in it.
        watch: called with the fields of each record, in order.

    Raises:
        AuditError: the first bad line with its file and number; a line under a key that is not in `ring`; a head that
            is not in the log.
    """
    walk = _Walk(AuditKeys(ring), watch)
    with open_files(state) as files:
        walk.chain.files = len(files.files)
        last = files.files[-1][0]
        for path, number, line, is_whole in files.lines():
            if not is_whole and path == last:
                walk.chain.torn_bytes = len(line)
                break
            walk.take(f"{path}, line {number}", line)
    walk.refuse_unproven_beginning()
    for head in heads:
        if reason := walk.chain.differs(head):
            raise AuditError(f"{last}: {reason}")
    return walk.chain


class _Walk:
    """The state of one pass."""

    def __init__(self, keys: AuditKeys, watch: Callable[[dict[str, Any]], None] | None) -> None:
        self._keys, self._watch = keys, watch
        self.chain = Chain()
        self._prev: str | None = None
        self._beginning = ("", ZERO)

    def take(self, place: str, line: bytes) -> None:
        try:
            fields, mac = parse_line(line, self._keys)
        except LookupError as cause:
            raise AuditError(
                f"{place}: sealed under the key {cause.args[0]}, which is not among the keys from the "
                f"{self._keys.ring.source}: bring that key back, or somebody else wrote it"
            ) from cause
        except ValueError as cause:
            raise AuditError(f"{place}: {cause}") from cause
        self._check_place(place, fields)
        self.chain.macs.append(bytes.fromhex(mac))
        self._prev = mac
        if fields["event"] == "log_pruned":
            self.chain.pruned |= {each["seq"]: each["mac"] for each in fields["files"]}
        if self._watch is not None:
            self._watch(fields)

    def _check_place(self, place: str, fields: dict[str, Any]) -> None:
        seq, prev = fields["seq"], fields["prev"]
        if self._prev is None:
            self.chain.first, self._beginning = seq, (place, prev)
        elif seq != self.chain.first + len(self.chain.macs) or prev != self._prev:
            raise AuditError(
                f"{place}: the chain is broken: record {seq} does not continue the one before it "
                "(a line was removed, added or moved)"
            )

    def refuse_unproven_beginning(self) -> None:
        """What came before the first line was never written, or was pruned with a record of it."""
        place, prev = self._beginning
        first = self.chain.first
        if prev == ZERO and first == 0:
            return
        if self.chain.pruned.get(first - 1) != prev:
            raise AuditError(
                f"{place}: records 0 to {first - 1} are missing, and no record says that they were pruned"
            )

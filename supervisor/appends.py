"""What runs have to write, gathered until it is handed to the state actor: one append a run, in order.

persist(records, token) ...  ->  Append(all records, ("many", [(token, index of its first record), ...]))
acknowledgement of that      ->  one of each token
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sage_actors.actors.state.actor import Append
from sage_actors.messages.records import NodeExpanded, NodesSucceeded, Record, RunAdmitted

__all__ = ["Appends", "single_acks"]

_APPEND_BYTES = 4 << 20  # of results that are put into one append; a frame must hold it


@dataclass(slots=True)
class _Pending:
    """What one run has to write. tokens: (token, index of its first record)."""

    records: list[Record] = field(default_factory=list)
    tokens: list[tuple[Any, int]] = field(default_factory=list)
    sync: bool = False
    size: int = 0


class Appends:
    """`tell` gives an Append to the state actor."""

    def __init__(self, tell: Callable[[Append], None]) -> None:
        self._tell = tell
        self._pending: dict[int, _Pending] = {}  # by the run's number

    def add(self, run: int, records: list[Record], *, sync: bool, token: object | None) -> None:
        """Write these with the next hand-over; sooner, where there is much to write already.

        sync: they must be on the device before `token` is acknowledged.
        """
        size = sum([_size(each) for each in records])
        pending = self._pending.get(run)
        if pending is None or pending.size + size > _APPEND_BYTES:
            self.hand_over()
            pending = self._pending[run] = _Pending()
        if token is not None:
            pending.tokens.append((token, len(pending.records)))
        pending.sync = pending.sync or sync
        pending.size += size
        pending.records += records

    def hand_over(self) -> None:
        """Give the state actor all that is to be written."""
        appends, self._pending = self._pending, {}
        for run, pending in appends.items():
            token = ("many", pending.tokens) if pending.tokens else None
            self._tell(Append(run, pending.records, pending.sync, token))


def single_acks(acks: Iterable[tuple[Any, Any, int]]) -> Iterator[tuple[Any, Any, int]]:
    """The acknowledgements, (token, location, index of its first record), of what was gathered, one by one."""
    for token, location, first in acks:
        if token[0] == "many":
            for each, offset in token[1]:
                yield each, location, first + offset
        else:
            yield token, location, first


def _size(record: Record) -> int:
    """Bytes of what can be large in a record, about."""
    if type(record) is NodesSucceeded:
        return sum([len(row[3]) for row in record.rows])
    if type(record) is NodeExpanded:
        return len(record.items)
    if type(record) is RunAdmitted:
        return len(record.body)
    return 0

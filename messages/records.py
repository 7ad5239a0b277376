"""The records of the journal: everything that a resume needs to know, and nothing else does.

A group commit is one frame, a msgpack list of records; a record is [code, field, ...]. Nodes are numbers:
their position in the admitted definition, children of an expansion after them, in order. What happens often
(starts, successes) comes in rows, many to a record.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeAlias, get_args

import msgpack

from sage_actors.messages.errors import StateCorruptedError

__all__ = [
    "AuditNoted",
    "BreakerChanged",
    "DecisionTaken",
    "LogLines",
    "NodeExpanded",
    "NodeFailed",
    "NodeLost",
    "NodeSkipped",
    "NodeWaiting",
    "NodesStarted",
    "NodesSucceeded",
    "PhaseCompleted",
    "Record",
    "RunAdmitted",
    "RunFinished",
    "RunPaused",
    "SegmentOpened",
    "decode_records",
    "encode_records",
]


@dataclass(slots=True)
class RunAdmitted:
    """The run exists: the last part of a definition, with the digest of all parts (zlib of msgpack).

    `parts` such records make the whole; only the last has `digest` (SHA-256) and `header`
    {"run_id", "inputs", "project", "durability", "definition_digest", "parent": run id or None}.
    """

    CODE: ClassVar[int] = 1
    at: float
    part: int
    parts: int
    body: bytes
    digest: bytes
    header: dict[str, Any]


@dataclass(slots=True)
class SegmentOpened:
    """A process took the run over. `keeper`: [pid, start time] of its keeper process, for the next owner."""

    CODE: ClassVar[int] = 2
    at: float
    pid: int
    version: str
    reason: str


@dataclass(slots=True)
class NodesStarted:
    """rows: [[node, attempt], ...]"""

    CODE: ClassVar[int] = 3
    at: float
    rows: list[Any]


@dataclass(slots=True)
class NodesSucceeded:
    """rows: [[node, attempt, microseconds, packed result, usage or nil], ...]: result and done are one."""

    CODE: ClassVar[int] = 4
    at: float
    rows: list[Any]


@dataclass(slots=True)
class NodeFailed:
    """An attempt failed. `retry_at`: Unix time of the next attempt, None if there is none.

    `final` is "" while it will be retried, else the failure's effect: "fail", "continue" or "skip".
    """

    CODE: ClassVar[int] = 5
    at: float
    node: int
    attempt: int
    error: dict[str, Any]
    retry_at: float | None
    final: str
    micros: int
    usage: dict[str, Any] | None


@dataclass(slots=True)
class NodeLost:
    """An attempt ended without an answer. `charged`: it counts as a crash of the node. `in_doubt`: once."""

    CODE: ClassVar[int] = 6
    at: float
    node: int
    attempt: int
    evidence: dict[str, Any]
    charged: bool
    in_doubt: bool


@dataclass(slots=True)
class NodeSkipped:
    """`reason` is for a person; `cause` is a node number or -1."""

    CODE: ClassVar[int] = 7
    at: float
    node: int
    reason: str


@dataclass(slots=True)
class NodeExpanded:
    """A `foreach` or `workflow` node became `count` children numbered from `first`.

    Durable before any child starts. `digest`: SHA-256 of the packed `items`; `items`: the packed list itself.
    """

    CODE: ClassVar[int] = 8
    at: float
    node: int
    first: int
    count: int
    digest: bytes
    items: bytes


@dataclass(slots=True)
class NodeWaiting:
    """A `wait` or `approval` node became due to wait; `until`: Unix time or None."""

    CODE: ClassVar[int] = 9
    at: float
    node: int
    reason: str
    until: float | None


@dataclass(slots=True)
class PhaseCompleted:
    CODE: ClassVar[int] = 10
    at: float
    phase: str
    succeeded: int
    total: int


@dataclass(slots=True)
class DecisionTaken:
    """A person (or a program for one) decided. kind: "approve", "reject", "resolve", "accept-changes", ..."""

    CODE: ClassVar[int] = 11
    at: float
    node: int
    kind: str
    data: Any
    by: str


@dataclass(slots=True)
class BreakerChanged:
    """`open_until`: Unix time, 0.0 if not open."""

    CODE: ClassVar[int] = 12
    at: float
    endpoint: str
    state: str
    open_until: float


@dataclass(slots=True)
class RunPaused:
    CODE: ClassVar[int] = 13
    at: float
    reason: str


@dataclass(slots=True)
class RunFinished:
    """status: "succeeded", "failed" or "cancelled"; counts: by node state."""

    CODE: ClassVar[int] = 14
    at: float
    status: str
    seconds: float
    counts: dict[str, Any]
    reason: str = ""


@dataclass(slots=True)
class LogLines:
    """rows: [[node, attempt, stream, text], ...]; stream is "stdout", "stderr" or "log"."""

    CODE: ClassVar[int] = 15
    at: float
    rows: list[Any]


@dataclass(slots=True)
class AuditNoted:
    """The audit log's last record then: its number, and its mac (32 bytes). Cutting the log shows against it."""

    CODE: ClassVar[int] = 16
    at: float
    number: int
    digest: bytes


Record: TypeAlias = (
    RunAdmitted
    | SegmentOpened
    | NodesStarted
    | NodesSucceeded
    | NodeFailed
    | NodeLost
    | NodeSkipped
    | NodeExpanded
    | NodeWaiting
    | PhaseCompleted
    | DecisionTaken
    | BreakerChanged
    | RunPaused
    | RunFinished
    | LogLines
    | AuditNoted
)

_TYPES: tuple[type[Any], ...] = get_args(Record)
_BY_CODE: dict[int, type[Any]] = {each.CODE: each for each in _TYPES}
_NAMES: dict[type[Any], tuple[str, ...]] = {each: tuple(one.name for one in fields(each)) for each in _TYPES}
_ACCEPTED: dict[str, type | tuple[type, ...]] = {
    "float": (float, int),
    "int": int,
    "str": str,
    "bytes": bytes,
    "bool": bool,
    "list[Any]": list,
    "dict[str, Any]": dict,
    "float | None": (float, int, type(None)),
    "dict[str, Any] | None": (dict, type(None)),
    "Any": object,
}
_CHECKS: dict[type[Any], tuple[type | tuple[type, ...], ...]] = {
    each: tuple(_ACCEPTED[str(one.type)] for one in fields(each)) for each in _TYPES
}


# How many fields of each have no default.
_LEAST = {each: sum(one.default is MISSING for one in fields(each)) for each in _TYPES}


def encode_records(records: list[Record]) -> bytes:
    """A frame's plaintext."""
    return bytes(
        msgpack.packb(
            [(each.CODE, *[getattr(each, name) for name in _NAMES[type(each)]]) for each in records]
        )
    )


def decode_records(data: bytes) -> list[Record]:
    """What `encode_records` made. Codes that this version does not know are left out (written by a later one).

    Raises:
        StateCorruptedError: the frame was authentic, yet is no list of records.
    """
    try:
        raw = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as cause:
        raise StateCorruptedError(f"an authentic frame holds no records: {cause!r}") from cause
    if type(raw) is not list:
        raise StateCorruptedError("an authentic frame holds no list of records")
    out: list[Record] = []
    for row in raw:
        if type(row) is not list or not row or type(row[0]) is not int:
            raise StateCorruptedError("an authentic frame holds a malformed record")
        kind = _BY_CODE.get(row[0])
        if kind is None:
            continue
        checks = _CHECKS[kind]
        values = row[1 : 1 + len(checks)]  # a later version may have appended fields
        if len(values) < _LEAST[kind] or not all(map(isinstance, values, checks)):
            raise StateCorruptedError(f"an authentic frame holds a malformed {kind.__name__}")
        out.append(kind(*values))
    return out

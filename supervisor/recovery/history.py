"""A run as its journal tells it: what ran, when, what came of it. Takes no lock, changes nothing.

read_journal -> restore.replay(watch) -> History      (first pass: states, times, attempts)
             -> records(), logs()                     (a second pass, one frame in memory)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sage_actors.actors.clock import SystemClock
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal import Image
from sage_actors.actors.state.journal_format import Location
from sage_actors.actors.state.locks import holder
from sage_actors.messages.codec import reveal
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import UsageError
from sage_actors.messages.records import (
    AuditNoted,
    DecisionTaken,
    LogLines,
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesStarted,
    NodesSucceeded,
    NodeWaiting,
    Record,
    RunAdmitted,
    SegmentOpened,
    decode_records,
)
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.core.run_waits import said_of
from sage_actors.supervisor.recovery.acting import act_on_run
from sage_actors.supervisor.recovery.reading import read_run
from sage_actors.supervisor.recovery.restore import Restored

__all__ = ["History", "NodeView", "act_on_run", "open_history"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as it stands.

    state: pending, running, waiting, in_doubt, interrupted, succeeded, failed or skipped.
    seconds: of the last attempt; for a node that the engine carries out, from its start to its end.
    started_at, ended_at: Unix times or None. error: {"type", "message", ...} of the last failure.
    reason: why it was skipped, what it waits for, or why its fallback is its result.
    tokens: input and output, of all attempts.
    sandbox: {"tier", "gaps"} if its result was made where less than was wanted confined it, else None.
    """

    id: str
    phase: str | None
    state: str
    attempts: int
    seconds: float
    started_at: float | None
    ended_at: float | None
    error: dict[str, Any] | None
    reason: str
    tokens: int
    cost: float
    crashes: int
    sandbox: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Track:
    """What the records said of one node, beside its state."""

    started_at: float | None = None
    ended_at: float | None = None
    seconds: float = 0.0
    tokens: int = 0
    cost: float = 0.0
    sandbox: Mapping[str, Any] | None = None


class History:
    """A run, read at one moment; read it again to see what happened since. Made by `open_history`.

    Attributes:
        status: "running" (a live process owns it), "interrupted" (its owner died), "succeeded", "failed",
            "cancelled" or "paused"; reason: why, where it says so.
        started_at, ended_at: Unix times; ended_at is None while it runs, and the last sign of life of a run
            that was interrupted. seconds: wall time of all the processes that carried it out.
        tokens: {"input_tokens", "output_tokens", "cost"}. counts: nodes by state.
        measured: sizes around digests (raw_bytes, kept_bytes, raw_tokens, kept_tokens, tokenizer) and what hits of
            the cache saved (saved_tokens), as far as it was measured. server_starts: of each MCP server;
            context_reloads: those beyond the first of each.
        owner: what the lock file says of the live owner, or None.
    """

    def __init__(self, state: StateDirectory, keys: KeyRing, run_id: str) -> None:
        self.run_id = run_id
        self._directory, self._keys = state.run_dir(run_id), keys
        self.owner = holder(state, run_id)  # before the journal: what ends meanwhile is read as ended
        self._watch = _Watch()
        self._image, self._restored, self._cores = read_run(state, keys, run_id, watch=self._watch.see)
        self._run = _core(self._restored)
        self.definition = _spec(self._restored)
        self.workflow = self.definition.name
        self.inputs: dict[str, Any] = self._restored.header["inputs"]
        self.parent: str | None = self._restored.header.get("parent")
        self.started_at = self._restored.admitted_at
        self.torn_bytes = self._image.torn_bytes
        self._conclude()

    def _conclude(self) -> None:
        status, last = self._restored.status, self._watch.last_at
        if self.owner is not None and status not in ("succeeded", "failed", "cancelled", "paused"):
            self.status, self.reason, self.ended_at = "running", "", None
            last = max(last, SystemClock().now())
        else:
            self.status = status or "interrupted"
            self.reason = self._why() if status else "its process ended without saying so"
            self.ended_at = self._restored.ended_at if status else last
        self.seconds = self._watch.seconds(last)
        self.tokens = dict(self._run.usage)
        self.measured: dict[str, Any] = dict(self._run.measured)
        self.server_starts = dict(self._run.server_starts)
        self.context_reloads = self._run.context_reloads
        self.counts: dict[str, int] = {}
        for node in range(len(self._run.state)):
            if not self._run.is_gate(node):
                name = self._state(node)
                self.counts[name] = self.counts.get(name, 0) + 1

    def _why(self) -> str:
        if self.status != "failed" or self._restored.reason:
            return self._restored.reason
        run = self._run
        failed = [
            node for node in sorted(run.errors) if run.state[node] == st.FAILED and node < run.plan.size
        ]
        if not failed:
            return self._restored.reason
        error = run.errors[failed[0]]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{run.id_of(failed[0])} failed{more}: {error['type']}: {error['message']}"

    def __repr__(self) -> str:
        return f"<History of {self.run_id}: {self.status}>"

    # ------------------------------------------------------------------ nodes

    def nodes(self) -> list[NodeView]:
        """Every node in definition order, each expanded one followed by its children."""
        out: list[NodeView] = []
        waiting = list(range(self._run.plan.size))[::-1]
        while waiting:
            node = waiting.pop()
            if not self._run.is_gate(node):
                out.append(self._view(node))
            if node in self._run.children:
                first, count = self._run.children[node]
                waiting += range(first, first + count)[::-1]
        return out

    def node(self, node_id: str) -> NodeView:
        """One node.

        Raises:
            UsageError: there is none of that id; names the nearest.
        """
        return self._view(self._number(node_id))

    def value(self, node_id: str) -> Any:
        """The result of a node.

        Raises:
            UsageError: there is no such node, or it has no result.
        """
        node = self._number(node_id)
        packed = self._run.value(node)
        if packed is None:
            raise UsageError(f"{node_id} of run {self.run_id} has no result: it is {self._state(node)}")
        return reveal(packed)

    def results(self) -> dict[str, Any]:
        """The results of the nodes that nothing depends on, by id; null for those that have none."""
        return self._run.results()

    def _number(self, node_id: str) -> int:
        node = self._run.find(node_id)
        if node is None:
            hint = nearest(node_id, self._run.plan.by_id, otherwise="`sage-actors status` lists them")
            raise UsageError(f"run {self.run_id} has no node {node_id!r}; {hint}")
        return node

    def _view(self, node: int) -> NodeView:
        run, state = self._run, self._state(node)
        track = self._watch.tracks.get(node) or _Track()
        scope, local = run.where(node)
        return NodeView(
            id=run.id_of(node),
            phase=scope.plan.spec.nodes[local].phase,
            state=state,
            attempts=run.attempts[node],
            seconds=track.seconds,
            started_at=track.started_at,
            ended_at=track.ended_at,
            error=run.errors.get(node) if state != "succeeded" else None,
            reason=self._node_reason(node, state),
            tokens=track.tokens,
            cost=track.cost,
            crashes=run.crashes.get(node, 0),
            sandbox=track.sandbox,
        )

    def _state(self, node: int) -> str:
        state, restored = self._run.state[node], self._restored
        if state == st.RUNNING and self.status != "running":
            return "in_doubt" if self._run.operation(node).effect == "once" else "interrupted"
        if state == st.EXPANDED and self.status != "running":
            return "pending"
        if state == st.PENDING and node in restored.waits:
            return "waiting"
        return st.NAMES[state]

    def _node_reason(self, node: int, state: str) -> str:
        if state == "skipped":
            return self._run.skip_reasons.get(node, "")
        if state == "waiting":
            waits = self._restored.waits
            return "retry" if node in self._restored.retries else said_of(waits.get(node, ("",))[0])
        if (error := self._run.fallen_back.get(node)) is not None and state == "succeeded":
            return f"took its fallback: {error['type']}: {error['message']}"
        return ""

    # ------------------------------------------------------------------ records

    def records(self) -> Iterator[dict[str, Any]]:
        """Every record in order, as maps of plain values: seq, segment, time (ISO 8601), record, its fields.

        Nodes are named by their ids; results are given by their size in bytes.
        """
        for seq, (location, record, core) in enumerate(self._walk(), 1):
            head = {"seq": seq, "segment": location.segment, "time": _iso(record.at), "record": _name(record)}
            yield head | _told(record, core)

    def logs(self, node_id: str | None = None) -> Iterator[tuple[float, str, int, str, str]]:
        """Output of operations: (Unix time, node id, attempt, stream, text), of one node or of all.

        `node_id` may be an expanded node: then its children's output belongs to it.

        Raises:
            UsageError: there is no such node.
        """
        if node_id is not None:
            self._number(node_id)
        return self._log_lines(node_id)

    def _log_lines(self, wanted: str | None) -> Iterator[tuple[float, str, int, str, str]]:
        for _, record, core in self._walk():
            if not isinstance(record, LogLines) or core is None:
                continue
            for node, attempt, stream, text in record.rows:
                name = _id(core, node)
                if wanted is None or name == wanted or name.startswith((f"{wanted}[", f"{wanted}/")):
                    yield record.at, name, attempt, stream, text

    def decisions(self) -> list[dict[str, Any]]:
        """What people decided, in order: time (ISO 8601), node (None for the run), kind, data, by."""
        found = ((record, core) for _, record, core in self._walk() if isinstance(record, DecisionTaken))
        return [{"time": _iso(record.at), **_told(record, core)} for record, core in found]

    def _walk(self) -> Iterator[tuple[Location, Record, RunCore | None]]:
        """Each record with the core whose numbers it uses: an edited definition numbers its nodes anew."""
        cores = iter(self._cores)
        core: RunCore | None = None
        for location, plaintext in Image(self._directory, self._keys).frames:
            for record in decode_records(plaintext):
                if isinstance(record, RunAdmitted):
                    if record.part + 1 < record.parts:
                        continue
                    core = next(cores, core)
                yield location, record, core


class _Watch:
    """Follows the records of a replay: when nodes started and ended, and how long processes worked."""

    def __init__(self) -> None:
        self.tracks: dict[int, _Track] = {}
        self._removed: dict[str, _Track] = {}
        self.last_at = 0.0
        self._core: RunCore | None = None
        self._opened_at = 0.0
        self._worked = 0.0

    def seconds(self, until: float) -> float:
        """Wall time of all the processes that carried the run out, the last one until then."""
        return self._worked + max(0.0, until - self._opened_at)

    def begin(self, core: RunCore) -> None:
        """A definition was admitted: tracks go over to the nodes of the same id, however long they were gone."""
        old, tracks = self._core, self.tracks
        self._core = core
        if old is None:
            return
        known = self._removed | {
            old.plan.ids[number]: track for number, track in tracks.items() if number < old.plan.visible
        }
        ids = core.plan.by_id
        self.tracks = {ids[node_id]: track for node_id, track in known.items() if node_id in ids}
        self._removed = {node_id: track for node_id, track in known.items() if node_id not in ids}

    def see(self, location: Location, record: Record) -> None:
        if isinstance(record, AuditNoted):
            return  # written when all is over, too
        if isinstance(record, SegmentOpened):
            if self._opened_at:
                self._worked += max(0.0, self.last_at - self._opened_at)
            self._opened_at = record.at
        self.last_at = max(self.last_at, record.at)
        self._opened_at = self._opened_at or record.at
        if isinstance(record, NodesStarted):
            for node, _attempt in record.rows:
                track = self._track(node)
                track.started_at, track.ended_at, track.seconds = record.at, None, 0.0
        elif isinstance(record, NodesSucceeded):
            for node, _attempt, micros, _packed, usage in record.rows:
                self._ended(node, record.at, micros, usage)
        elif isinstance(record, NodeFailed):
            self._ended(record.node, record.at, record.micros, record.usage)
        elif isinstance(record, (NodeExpanded, NodeWaiting)):
            self._track(record.node).started_at = record.at
        elif isinstance(record, (NodeLost, NodeSkipped)):
            self._track(record.node).ended_at = record.at

    def _track(self, node: int) -> _Track:
        track = self.tracks.get(node)
        if track is None:
            track = self.tracks[node] = _Track()
        return track

    def _ended(self, node: int, at: float, micros: int, usage: Mapping[str, Any] | None) -> None:
        track = self._track(node)
        track.ended_at = at
        if micros:
            track.seconds = micros / 1e6
        elif track.started_at is not None:
            track.seconds = max(0.0, at - track.started_at)
        if usage:
            track.tokens += _count(usage, "input_tokens") + _count(usage, "output_tokens")
            track.cost += float(usage.get("cost") or 0.0)
        track.sandbox = usage.get("sandbox") if usage else None


def open_history(state: StateDirectory, keys: KeyRing, run_id: str) -> History:
    """The run of that id, as it stands now, whoever owns it.

    Raises:
        NoCheckpointError: there is no such run.
        WrongKeyError, StateCorruptedError, StateError: as `read_journal`.
    """
    return History(state, keys, run_id)


def _core(restored: Restored) -> RunCore:
    assert restored.run is not None
    return restored.run


def _spec(restored: Restored) -> WorkflowSpec:
    assert restored.spec is not None
    return replace(restored.spec)


def _id(core: RunCore, node: int) -> str:
    return core.id_of(node) if 0 <= node < len(core.state) else f"#{node}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


def _count(usage: Mapping[str, Any], name: str) -> int:
    return int(usage.get(name) or 0)


def _name(record: Record) -> str:
    """`NodesSucceeded` is "nodes_succeeded"."""
    name = type(record).__name__
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")


def _told(record: Record, core: RunCore | None) -> dict[str, Any]:
    """The fields of a record for a reader."""
    if isinstance(record, RunAdmitted):
        nodes = core.plan.visible if core is not None else 0
        workflow = core.plan.spec.name if core is not None else ""
        return {"workflow": workflow, "nodes": nodes, **record.header}
    if isinstance(record, SegmentOpened) or core is None:
        return _fields(record)
    if isinstance(record, NodesStarted):
        rows = [{"node": _id(core, node), "attempt": attempt} for node, attempt in record.rows]
        return {"nodes": rows}
    if isinstance(record, NodesSucceeded):
        return {"nodes": [_success(core, row) for row in record.rows]}
    if isinstance(record, LogLines):
        return {"lines": [[_id(core, node), *rest] for node, *rest in record.rows]}
    out = _fields(record)
    if "node" in out:
        out["node"] = _id(core, out["node"]) if out["node"] >= 0 else None
    return out


def _success(core: RunCore, row: list[Any]) -> dict[str, Any]:
    node, attempt, micros, packed, usage = row
    out = {"node": _id(core, node), "attempt": attempt, "seconds": micros / 1e6, "bytes": len(packed)}
    return out | ({"usage": usage} if usage else {})


def _fields(record: Record) -> dict[str, Any]:
    from dataclasses import fields

    values = {each.name: getattr(record, each.name) for each in fields(record) if each.name != "at"}
    values.pop("items", None)  # the packed list of an expansion: as large as the data
    if isinstance(values.get("digest"), bytes):
        values["digest"] = values["digest"].hex()
    return values

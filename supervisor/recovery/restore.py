"""A run's journal read back into a RunCore: what a resume continues from, and what `status` shows.

    frames -> records -> apply, one by one, in order      (pure: the same journal gives the same state)
                      -> `prepare` (reopen.py), if the run is to go on

Only `succeeded` is final, and a doubt that a person resolved as failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, assert_never

from sage_actors.actors.state.journal_format import Location
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import StateCorruptedError
from sage_actors.messages.records import (
    BreakerChanged,
    DecisionTaken,
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesStarted,
    NodesSucceeded,
    NodeWaiting,
    PhaseCompleted,
    Record,
    RunAdmitted,
    RunFinished,
    RunPaused,
    SegmentOpened,
    decode_records,
)
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.core.run_waits import resolved_as_failed
from sage_actors.supervisor.recovery.admission import Assembly
from sage_actors.supervisor.recovery.carrying import Transient, carry_nodes
from sage_actors.supervisor.recovery.removed import Removed, give_back, take_out

__all__ = ["DECIDED_OFFLINE", "Restored", "carry_over", "doubtful", "replay"]

DECIDED_OFFLINE = "decision"  # why a segment was opened: somebody decided while nobody carried the run out
MakeRun = Callable[[WorkflowSpec, dict[str, Any]], RunCore]
Watcher = Callable[[Location, Record], None]


@dataclass(slots=True)
class Restored:
    """A journal, folded. Times are seconds since the epoch; nodes are known by their numbers."""

    header: dict[str, Any] = field(default_factory=dict)
    spec: WorkflowSpec | None = None
    run: RunCore | None = None
    admitted_at: float = 0.0
    ended_at: float = 0.0
    status: str = ""  # of the last end that was written
    reason: str = ""
    seconds: float = 0.0
    last_at: float = 0.0  # when the last record was written
    idle_s: float = 0.0  # for so long nobody carried the run out
    # sub-workflow -> when it began (anew), less `idle_s` at that time
    begun: dict[int, float] = field(default_factory=dict)
    # started and not ended -> its attempt
    inflight: dict[int, int] = field(default_factory=dict)
    # node -> (reason, until, length in seconds)
    waits: dict[int, tuple[str, float | None, float]] = field(default_factory=dict)
    # node -> (when it is tried again, length in seconds)
    retries: dict[int, tuple[float, float]] = field(default_factory=dict)
    # failed by a decision while nobody carried the run out: not tried again at once
    verdicts: dict[int, dict[str, Any]] = field(default_factory=dict)
    # resolved as failed -> who said so: no resume tries it again
    refused: dict[int, str] = field(default_factory=dict)
    # id -> what is known of a node that an edit took out
    removed: dict[str, Removed] = field(default_factory=dict)
    # all attempts failed, and the fallback was not taken yet
    fallbacks: set[int] = field(default_factory=set)
    breakers: dict[str, tuple[str, float]] = field(default_factory=dict)
    phases: set[str] = field(default_factory=set)  # that completed
    segments: list[SegmentOpened] = field(default_factory=list)
    decisions: list[DecisionTaken] = field(default_factory=list)

    def forget_what_was_open(self) -> None:
        """Another definition takes over: node numbers mean other nodes."""
        for each in (self.inflight, self.waits, self.retries, self.verdicts, self.refused, self.begun):
            each.clear()
        self.phases.clear()
        self.fallbacks.clear()


def replay(
    frames: Iterable[tuple[Location, bytes]], make_run: MakeRun, *, watch: Watcher | None = None
) -> Restored:
    """Fold a journal. `make_run` builds the empty run once its definition is known.

    Returns a Restored whose `run` is None if nothing was admitted: then there is no run.

    Raises:
        StateCorruptedError: authentic records contradict each other.
    """
    restored = Restored()
    assembly = Assembly()
    for location, record, index in _records(frames):
        if isinstance(record, RunAdmitted):
            spec = assembly.add(record)
            if spec is not None:
                _admitted(restored, record, spec, make_run)
        else:
            _apply(restored, record, location, index)
        if watch is not None:
            watch(location, record)
    return restored


def _records(frames: Iterable[tuple[Location, bytes]]) -> Iterator[tuple[Location, Record, int]]:
    for location, plaintext in frames:
        for index, record in enumerate(decode_records(plaintext)):
            yield location, record, index


def _admitted(restored: Restored, record: RunAdmitted, spec: WorkflowSpec, make_run: MakeRun) -> None:
    """The run exists, or goes on under an edited definition with what did not change."""
    restored.admitted_at = restored.admitted_at or record.at
    run = make_run(spec, record.header)
    if restored.run is not None:
        carry_over(restored, run, record.header.get("changed", []))
    restored.header, restored.spec, restored.run = record.header, spec, run


def carry_over(restored: Restored, new: RunCore, changed: Iterable[str]) -> None:
    """Give `new` what stays of the run so far; what waits is known by the new numbers then."""
    old = restored.run
    assert old is not None
    waits, retries = dict(restored.waits), dict(restored.retries)
    inflight, verdicts, begun = dict(restored.inflight), dict(restored.verdicts), dict(restored.begun)
    doubts, refused = doubtful(restored), dict(restored.refused)
    removed = take_out(old, restored.header["inputs"], new.plan.by_id, doubts=doubts, refused=refused)
    restored.forget_what_was_open()
    open_nodes: list[Transient] = [
        (waits, restored.waits),
        (retries, restored.retries),
        ({node: each for node, each in inflight.items() if node not in doubts}, restored.inflight),
        (verdicts, restored.verdicts),
        (begun, restored.begun),
    ]
    same = carry_nodes(old, new, changed, doubts=doubts, open_nodes=open_nodes)
    for node, by in refused.items():
        if (here := same.get(node)) is not None:
            restored.refused[here], new.attempts[here] = by, old.attempts[node]
    give_back(restored.removed, new, changed, refused=restored.refused)
    restored.removed |= removed


def _apply(restored: Restored, record: Record, location: Location, index: int) -> None:
    run = restored.run
    if isinstance(record, SegmentOpened):
        restored.segments.append(record)
        restored.status = restored.reason = ""
        if restored.last_at:
            restored.idle_s += max(0.0, record.at - restored.last_at)
        if record.reason != DECIDED_OFFLINE:
            restored.verdicts.clear()
    elif run is None:
        raise StateCorruptedError(f"{type(record).__name__} before the run was admitted")
    elif isinstance(record, (NodesStarted, NodesSucceeded)):
        try:
            if isinstance(record, NodesStarted):
                _started(restored, run, record)
            else:
                _succeeded(restored, run, record, location, index)
        except (TypeError, ValueError, IndexError, OverflowError) as cause:
            raise StateCorruptedError(
                f"a {type(record).__name__} names what is not there: {cause!r}"
            ) from cause
    elif isinstance(record, (NodeFailed, NodeLost, NodeSkipped, NodeWaiting, NodeExpanded)):
        if not 0 <= record.node < len(run.state):
            raise StateCorruptedError(f"{type(record).__name__} names node {record.node}, which is not there")
        _apply_node(restored, run, record)
    else:
        _apply_run(restored, run, record)
    restored.last_at = record.at


def _started(restored: Restored, run: RunCore, record: NodesStarted) -> None:
    attempts, state, inflight = run.attempts, run.state, restored.inflight
    for node, attempt in record.rows:
        attempts[node] = attempt
        if state[node] != st.SUCCEEDED:
            state[node] = st.RUNNING
            inflight[node] = attempt
    if restored.retries or restored.waits:
        for node, _attempt in record.rows:
            restored.retries.pop(node, None)
            restored.waits.pop(node, None)


def _succeeded(
    restored: Restored, run: RunCore, record: NodesSucceeded, location: Location, index: int
) -> None:
    state, attempts, inflight = run.state, run.attempts, restored.inflight
    busy_us = 0
    for node, attempt, micros, _packed, usage in record.rows:
        attempts[node] = attempt
        state[node] = st.SUCCEEDED
        inflight.pop(node, None)
        busy_us += micros
        if usage:
            run.add_usage(usage)
    run.busy_us += busy_us
    run.note_location(record.rows, location, index)
    run.counts["succeeded"] += len(record.rows)
    if run.children:
        for row in record.rows:
            run.weigh(row[0], row[3])
    if restored.waits or restored.retries or run.doubts or run.errors or run.fallen_back:
        for row in record.rows:
            restored.waits.pop(row[0], None)
            restored.retries.pop(row[0], None)
            run.doubts.discard(row[0])
        run.forgive(record.rows)


def _apply_node(
    restored: Restored, run: RunCore, record: NodeFailed | NodeLost | NodeSkipped | NodeWaiting | NodeExpanded
) -> None:
    """A record about one node: what it did or waited for before is over."""
    node = record.node
    restored.inflight.pop(node, None)
    restored.waits.pop(node, None)
    restored.fallbacks.discard(node)
    match record:
        case NodeFailed():
            _failed(restored, run, record)
        case NodeLost():
            _lost(run, record)
        case NodeSkipped():
            _begin_anew(restored, record)
            run.state[node] = st.SKIPPED
            run.skip_reasons[node] = record.reason
        case NodeWaiting():
            length = 0.0 if record.until is None else max(0.0, record.until - record.at)
            restored.waits[node] = (record.reason, record.until, length)
            run.state[node] = st.HELD
        case NodeExpanded():
            _expanded(restored, run, record)
        case _:
            assert_never(record)


def _failed(restored: Restored, run: RunCore, record: NodeFailed) -> None:
    """An attempt failed: the node waits for the next, takes its fallback, or has failed (`final` says how)."""
    node = record.node
    _begin_anew(restored, record)
    run.attempts[node] = record.attempt
    run.errors[node] = record.error
    run.busy_us += record.micros
    if record.usage:
        run.add_usage(record.usage)
    if record.retry_at is not None:
        run.tries[node] = run.tries.get(node, 0) + 1
        run.state[node] = st.HELD
        restored.retries[node] = (record.retry_at, max(0.0, record.retry_at - record.at))
        return
    run.tries.pop(node, None)
    restored.retries.pop(node, None)
    run.state[node] = {"continue": st.TOLERATED, "skip": st.DROPPED}.get(record.final, st.FAILED)
    if not record.final:
        restored.fallbacks.add(node)
    elif restored.segments and restored.segments[-1].reason == DECIDED_OFFLINE:
        restored.verdicts[node] = record.error


def _lost(run: RunCore, record: NodeLost) -> None:
    node = record.node
    run.state[node] = st.PENDING
    if record.charged:
        run.crashes[node] = run.crashes.get(node, 0) + 1
    if record.in_doubt:
        run.doubts.add(node)
        run.state[node] = st.IN_DOUBT


def _begin_anew(restored: Restored, record: NodeFailed | NodeSkipped) -> None:
    """A sub-workflow that is tried again has all of its timeout."""
    if record.node in restored.begun:
        restored.begun[record.node] = record.at - restored.idle_s


def _expanded(restored: Restored, run: RunCore, record: NodeExpanded) -> None:
    if hashlib.sha256(record.items).digest() != record.digest or record.first != len(run.state):
        raise StateCorruptedError(f"the expansion of {run.id_of(record.node)} contradicts its digest")
    run.expand(record.node, record.items, record.count)
    if record.node in run.inner:
        restored.begun[record.node] = record.at - restored.idle_s


def _apply_run(restored: Restored, run: RunCore, record: Record) -> None:
    if isinstance(record, DecisionTaken):
        restored.decisions.append(record)
        if record.kind.startswith("resolve-"):
            _resolved(restored, run, record)
        elif record.kind == "reject":
            restored.waits.pop(record.node, None)
    elif isinstance(record, PhaseCompleted):
        restored.phases.add(record.phase)
    elif isinstance(record, BreakerChanged):
        restored.breakers[record.endpoint] = (record.state, record.open_until)
    elif isinstance(record, RunPaused):
        restored.status, restored.reason, restored.ended_at = "paused", record.reason, record.at
    elif isinstance(record, RunFinished):
        restored.status, restored.reason, restored.ended_at = record.status, record.reason, record.at
        restored.seconds += record.seconds
        if record.status == "succeeded":
            # With what failed and was skipped, and how often something was tried again.
            run.counts.update(record.counts)


def _resolved(restored: Restored, run: RunCore, record: DecisionTaken) -> None:
    """A doubt was settled. That it failed stands until somebody says otherwise: no resume repeats it."""
    node = record.node
    run.doubts.discard(node)
    run.errors.pop(node, None)
    restored.refused.pop(node, None)
    restored.verdicts.pop(node, None)
    restored.fallbacks.discard(node)
    if run.state[node] == st.SUCCEEDED:
        return
    run.state[node] = st.PENDING
    if record.kind == "resolve-fail":
        restored.refused[node] = record.by
        run.errors[node] = resolved_as_failed(run, node, record.by)
        run.state[node] = st.FAILED


def doubtful(restored: Restored) -> dict[int, int]:
    """Nodes in doubt, with their attempt: written down, or `once` and cut off by the owner's death."""
    run = restored.run
    assert run is not None
    found = {node: run.attempts[node] for node in run.doubts}
    for node, attempt in restored.inflight.items():
        if run.operation(node).effect == "once":
            found[node] = attempt
    return found

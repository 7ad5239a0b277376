"""A run's journal read back into a RunCore: what a resume continues from, and what `status` shows.

    frames -> records -> apply, one by one, in order      (pure: the same journal gives the same state)
                      -> prepare: what did not succeed is open again, what executed is marked

Only `succeeded` is final, and a doubt that a person resolved as failed.
What failed or was skipped is tried again with a fresh retry budget; a retry that was
waiting waits on; crash counts stay; what executed when the supervisor died runs alone, or is in doubt.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sage_actors.actors.operations.types import CROWDED
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

__all__ = ["DECIDED_OFFLINE", "Restored", "carry_over", "doubtful", "prepare", "replay"]

DECIDED_OFFLINE = "decision"  # why a segment was opened: somebody decided while nobody carried the run out
_NEVER = 1 << 30  # dependencies that will not end
_MOST_ALONE = 32  # more async nodes than this in flight at once cannot be isolated one by one

MakeRun = Callable[[WorkflowSpec, dict[str, Any]], RunCore]
Watcher = Callable[[Location, Record], None]


@dataclass(slots=True)
class Restored:
    """A journal, folded. status: of the last end that was written, "" while none was.

    waits: node -> (reason, until, length in seconds); inflight: started and not ended, with its attempt.
    last_at: of the last record. idle_s: nobody carried the run out so long. begun: node -> when a sub-workflow began
    (anew), less idle_s then.
    verdicts: node -> error, failed by a decision while nobody carried the run out: not tried again at once.
    refused: node -> who said so, in doubt and resolved as failed: no resume tries it again.
    removed: id -> what is known of a node that an edit took out.
    """

    header: dict[str, Any] = field(default_factory=dict)
    spec: WorkflowSpec | None = None
    run: RunCore | None = None
    admitted_at: float = 0.0
    ended_at: float = 0.0
    status: str = ""
    reason: str = ""
    seconds: float = 0.0
    last_at: float = 0.0
    idle_s: float = 0.0
    begun: dict[int, float] = field(default_factory=dict)
    inflight: dict[int, int] = field(default_factory=dict)
    waits: dict[int, tuple[str, float | None, float]] = field(default_factory=dict)
    retries: dict[int, tuple[float, float]] = field(default_factory=dict)
    verdicts: dict[int, dict[str, Any]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    removed: dict[str, Removed] = field(default_factory=dict)
    # Nodes whose attempts all failed, and whose fallback was not taken yet.
    fallbacks: set[int] = field(default_factory=set)
    breakers: dict[str, tuple[str, float]] = field(default_factory=dict)
    phases: set[str] = field(default_factory=set)
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
            (_started if isinstance(record, NodesStarted) else _succeeded)(
                restored, run, record, location, index
            )
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


def _started(restored: Restored, run: RunCore, record: Any, location: Location, index: int) -> None:
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


def _succeeded(restored: Restored, run: RunCore, record: Any, location: Location, index: int) -> None:
    state, attempts, inflight = run.state, run.attempts, restored.inflight
    busy_us = 0
    for node, attempt, micros, _packed, usage in record.rows:
        attempts[node] = attempt
        state[node] = st.SUCCEEDED
        inflight.pop(node, None)
        busy_us += micros
        if usage:
            run._add_usage(usage)
    run.busy_us += busy_us
    run.note_location(record.rows, location, index)
    run.counts["succeeded"] += len(record.rows)
    if run.children:
        for row in record.rows:
            run.weigh(row[0], row[3])
    if restored.waits or restored.retries or run.doubts or run.errors:
        for row in record.rows:
            restored.waits.pop(row[0], None)
            restored.retries.pop(row[0], None)
            run.doubts.discard(row[0])
            run.errors.pop(row[0], None)


def _apply_node(restored: Restored, run: RunCore, record: Any) -> None:
    node = record.node
    restored.inflight.pop(node, None)
    restored.waits.pop(node, None)
    restored.fallbacks.discard(node)
    if isinstance(record, NodeFailed):
        _begin_anew(restored, record)
        run.attempts[node] = record.attempt
        run.errors[node] = record.error
        run.busy_us += record.micros
        if record.usage:
            run._add_usage(record.usage)
        if record.retry_at is not None:
            run.tries[node] = run.tries.get(node, 0) + 1
            run.state[node] = st.HELD
            restored.retries[node] = (record.retry_at, max(0.0, record.retry_at - record.at))
        else:
            run.tries.pop(node, None)
            restored.retries.pop(node, None)
            if not record.final:
                restored.fallbacks.add(node)
            run.state[node] = {"continue": st.TOLERATED, "skip": st.DROPPED}.get(record.final, st.FAILED)
            if record.final and restored.segments and restored.segments[-1].reason == DECIDED_OFFLINE:
                restored.verdicts[node] = record.error
    elif isinstance(record, NodeLost):
        run.state[node] = st.PENDING
        if record.charged:
            run.crashes[node] = run.crashes.get(node, 0) + 1
        if record.in_doubt:
            run.doubts.add(node)
            run.state[node] = st.IN_DOUBT
    elif isinstance(record, NodeSkipped):
        _begin_anew(restored, record)
        run.state[node] = st.SKIPPED
        run.skip_reasons[node] = record.reason
    elif isinstance(record, NodeWaiting):
        length = 0.0 if record.until is None else max(0.0, record.until - record.at)
        restored.waits[node] = (record.reason, record.until, length)
        run.state[node] = st.HELD
    else:
        _expanded(run, record)
        if node in run.inner:
            restored.begun[node] = record.at - restored.idle_s


def _begin_anew(restored: Restored, record: NodeFailed | NodeSkipped) -> None:
    """A sub-workflow that is tried again has all of its timeout."""
    if record.node in restored.begun:
        restored.begun[record.node] = record.at - restored.idle_s


def _expanded(run: RunCore, record: NodeExpanded) -> None:
    if hashlib.sha256(record.items).digest() != record.digest or record.first != len(run.state):
        raise StateCorruptedError(f"the expansion of {run.id_of(record.node)} contradicts its digest")
    run.expand(record.node, record.items, record.count)


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


def prepare(restored: Restored, *, now: float) -> None:
    """Open everything that did not succeed, so that the run can begin again."""
    run = restored.run
    assert run is not None
    waits, retries = _what_waits(restored, now)
    interrupted = restored.inflight
    _mark_completed_gates(run, restored.phases)
    settled = _settled(run)
    keep = {st.SUCCEEDED, st.EXPANDED, st.IN_DOUBT}
    run.state = run.state.translate(bytes(each if each in keep else st.PENDING for each in range(256)))
    for node, state in settled.items():
        run.state[node] = state
    for node in run.children:
        if run.state[node] != st.SUCCEEDED and node not in settled:
            run.state[node] = st.EXPANDED  # also where it failed: its children keep their numbers and results
    worked_until = restored.last_at - restored.idle_s
    run.spent_s = {node: max(0.0, worked_until - begun) for node, begun in restored.begun.items()}
    run.skip_reasons.clear()
    run.counts["failed"] = run.counts["skipped"] = 0
    _reopen_withheld(run)
    _recount(run)
    for node, (reason, delay) in (waits | retries).items():
        run.state[node] = st.HELD
        run.held[node] = reason
        run.resumed_waits.append((reason, node, delay))
    refused = {node: resolved_as_failed(run, node, by) for node, by in restored.refused.items()}
    restored.fallbacks.update(node for node in refused if run.operation(node).has_fallback)
    for node, error in (restored.verdicts | refused).items():
        if run.state[node] == st.PENDING and node not in restored.fallbacks:
            # In another state it is a part of what succeeded without it.
            run.state[node] = st.COMMITTING
            run.resumed_failures.append((node, error))
    for node in restored.fallbacks:
        if run.state[node] == st.PENDING and run.operation(node).has_fallback:
            run.state[node] = st.COMMITTING
            run.resumed_fallbacks.append(node)
    _isolate(run, interrupted)
    _shield(run)


def _reopen_withheld(run: RunCore) -> None:
    """A secret result was in the memory of the process that ended: it is made again where somebody needs it."""
    waiting = {
        node
        for node, state in enumerate(run.state if run.withholds else b"")
        if state == st.SUCCEEDED and not run.is_gate(node) and run.operation(node).secret_outputs
    }
    while needed := [node for node in waiting if _is_needed(run, node)]:
        for node in needed:
            run.state[node] = st.PENDING
            run.counts["succeeded"] -= 1
        waiting.difference_update(needed)


def _is_needed(run: RunCore, node: int) -> bool:
    """Whether a node refers to the result of `node` and is not done."""
    scope, local = run.where(node)
    return any(
        local in scope.plan.references.get(child, ()) and run.state[scope.base + child] != st.SUCCEEDED
        for child in scope.plan.children(local)
    )


def _shield(run: RunCore) -> None:
    """What went on without a failed dependency is not started by it when that is tried again."""
    state, indegree = run.state, run.indegree
    doubtful = {node for node, _ in run.resumed_doubts}
    for node, left in enumerate(indegree):
        if left and (state[node] != st.PENDING or node in doubtful):
            indegree[node] = left + _NEVER


def _settled(run: RunCore) -> dict[int, int]:
    """Nodes inside expansions that succeeded, with their states: that result was made of how they ended."""
    settled: dict[int, int] = {}
    for node, (first, count) in run.children.items():  # the outer ones come first
        if run.state[node] == st.SUCCEEDED or node in settled:
            for each in range(first, first + count):
                if run.state[each] != st.SUCCEEDED:
                    settled[each] = run.state[each] if run.state[each] > st.SUCCEEDED else st.SKIPPED
    return settled


def _what_waits(
    restored: Restored, now: float
) -> tuple[dict[int, tuple[str, float | None]], dict[int, tuple[str, float | None]]]:
    """What still waits, with the seconds left (None: for ever): never more than there were, whatever the clock says."""
    waits: dict[int, tuple[str, float | None]] = {}
    for node, (reason, until, length) in restored.waits.items():
        waits[node] = (reason, None if until is None else min(max(0.0, until - now), length))
    retries: dict[int, tuple[str, float | None]] = {
        node: ("retry", min(max(0.0, at - now), length)) for node, (at, length) in restored.retries.items()
    }
    return waits, retries


def _mark_completed_gates(run: RunCore, phases: set[str]) -> None:
    """A phase that is complete, and those before it, is not announced again."""
    for scope in (run.root, *run.inner.values()):
        plan, base = scope.plan, scope.base
        said = [local for local, phase in plan.gates.items() if scope.prefix + phase.id in phases]
        found = True
        while found:
            found = False
            for local in said:
                parents = plan.parents_of(local)
                if run.state[base + local] != st.SUCCEEDED and all(
                    run.state[base + each] == st.SUCCEEDED for each in parents
                ):
                    run.state[base + local] = st.SUCCEEDED
                    found = True


def _recount(run: RunCore) -> None:
    """In-degrees, open counts and uses of values from the states alone."""
    run.open = 0
    run.indegree = array("i", bytes(run.indegree.itemsize * len(run.state)))
    for scope in (run.root, *run.inner.values()):
        if scope.owner >= 0 and run.state[scope.owner] >= st.SUCCEEDED:
            scope.open = 0
            run.indegree[scope.base : scope.base + scope.plan.size] = scope.plan.indegree
        else:
            _recount_scope(run, scope)
    for node, (first, count) in run.children.items():
        if node not in run.inner:
            ended = run.state[first : first + count].count(st.SUCCEEDED)
            run.left[node] = count - ended if run.state[node] == st.EXPANDED else 0
            run.open += run.left[node]


def _recount_scope(run: RunCore, scope: Any) -> None:
    """From those that are left where most are done, else from those that are done."""
    plan, base, size = scope.plan, scope.base, scope.plan.size
    offsets, targets, indegree = plan.offsets, plan.targets, run.indegree
    references, uses = plan.references, run.uses
    states = run.state[base : base + size]
    done = states.count(st.SUCCEEDED)
    step = 1 if 2 * done > size else -1
    if step < 0:
        indegree[base : base + size] = plan.indegree
    else:
        uses.update(dict.fromkeys([base + each for each in plan.value_uses], 0))
    for local in [local for local, state in enumerate(states) if (state == st.SUCCEEDED) == (step < 0)]:
        for child in targets[offsets[local] : offsets[local + 1]]:
            indegree[base + child] += step
        for each in references.get(local, ()):
            uses[base + each] += step
    scope.open = size - done
    scope.failed = []
    run.open += scope.open


def _isolate(run: RunCore, interrupted: dict[int, int]) -> None:
    """What executed when the supervisor died runs alone next time, or is in doubt."""
    alone = []
    crowd = sum(1 for node in interrupted if run.operation(node).lane in CROWDED) > _MOST_ALONE
    for node, attempt in interrupted.items():
        operation = run.operation(node)
        if operation.effect == "once":
            run.resumed_doubts.append((node, attempt))
        elif not (operation.lane in CROWDED and crowd):
            alone.append(node)
    for node in (*alone, *run.crashes):
        if run.state[node] != st.SUCCEEDED:
            run.alone.add(node)
            run.simple[node] = 0

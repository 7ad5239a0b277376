"""What a run that was read back begins with: all that did not succeed is open again, what executed is marked.

What failed or was skipped is tried again with a fresh retry budget; a retry that was waiting waits on; crash counts
stay; what executed when the supervisor died runs alone, or is in doubt.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

from sage_actors.actors.operations.types import CROWDED
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.core.run_waits import resolved_as_failed
from sage_actors.supervisor.recovery.carrying import settled_in
from sage_actors.supervisor.recovery.restore import Restored

__all__ = ["prepare"]

_NEVER = 1 << 30  # dependencies that will not end
_MOST_ALONE = 32  # more async nodes than this in flight at once cannot be isolated one by one


def prepare(restored: Restored, *, now: float) -> None:
    """Open everything that did not succeed, so that the run can begin again."""
    run = restored.run
    assert run is not None
    waits, retries = _what_waits(restored, now)
    interrupted = restored.inflight
    _mark_completed_gates(run, restored.phases)
    settled = settled_in(run)
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
    ended = Counter(st.NAMES[state] for node, state in settled.items() if not run.is_gate(node))
    run.counts.update(failed=ended["failed"], skipped=ended["skipped"])
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

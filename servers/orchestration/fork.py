"""`fromPhase`: a new run that begins again at a phase, made by beginning again at each operation of it."""

from __future__ import annotations

import re

from sage_actors.actors.clock import SystemClock
from sage_actors.actors.keys.provider import KeyRing, load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.locks import RunLock, holder
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import NoCheckpointError, RunLockedError
from sage_actors.servers.orchestration.errors import ToolRefused
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.definitions.edges import direct_dependencies
from sage_actors.supervisor.recovery.forking import fork
from sage_actors.supervisor.recovery.history import History, open_history

__all__ = ["fork_from_phase"]

_MAX_ID = 110  # characters, of the 128 that a run id may have


def fork_from_phase(state: StateDirectory, run_id: str, phase: str) -> str:
    """The id of a durable run that keeps every result of `run_id` that does not depend on `phase`.

    A crash on the way leaves the run, or runs named `<run>-from-<phase>-partN` that nobody needs.

    Raises:
        ToolRefused: there is no such phase.
        RunLockedError: the run, or another one of its workflow and inputs, still goes on: both would write the same
            files.
        UsageError: an operation of it has effect `once` and has succeeded.
        NoCheckpointError, StateCorruptedError, StorageError.
    """
    keys = load_keys(create=False)
    past = open_history(state, keys, run_id)
    starts = _starts(past.definition, phase)
    _refuse_a_second(state, keys, past)
    name = _free(state, run_id, phase)
    source = run_id
    for number, node in enumerate(starts, 1):
        target = name if number == len(starts) else f"{name}-part{number}"
        fork(state, keys, source, node, target, clock=SystemClock())
        if source != run_id:
            _remove(state, source)
        source = target
    return name


def _starts(spec: WorkflowSpec, phase: str) -> list[str]:
    """The operations of the phase that depend on no other one in it: what follows from them is all of it."""
    members = [node for node in spec.nodes if node.phase == phase]
    if not members:
        known = [each.id for each in spec.phases]
        hint = nearest(phase, known, otherwise=f"its phases: {', '.join(known) or 'none'}")
        raise ToolRefused("INVALID_PHASE", f"the workflow {spec.name} has no phase {phase!r}; {hint}")
    inside = {node.id for node in members}
    return [node.id for node in members if not inside.intersection(direct_dependencies(node))]


def _refuse_a_second(state: StateDirectory, keys: KeyRing, past: History) -> None:
    for run_id in state.run_ids():
        if holder(state, run_id) is None:
            continue
        try:
            live = open_history(state, keys, run_id)
        except NoCheckpointError:  # locked a moment ago, and not yet admitted
            continue
        if (live.workflow, live.inputs) == (past.workflow, past.inputs):
            raise RunLockedError(
                f"run {run_id} does the same work and still goes on; follow it with sage_workflow_status, or stop it "
                "with sage_workflow_cancel, before a phase is begun again"
            )


def _free(state: StateDirectory, run_id: str, phase: str) -> str:
    base = f"{run_id}-from-{re.sub(r'[^A-Za-z0-9_-]+', '-', phase)}"[:_MAX_ID]
    taken = set(state.run_ids())
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _remove(state: StateDirectory, run_id: str) -> None:
    lock = RunLock.acquire(state, run_id)
    try:
        state.delete(run_id)
    finally:
        lock.release()

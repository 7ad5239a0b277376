"""Deciding for a run that nobody carries out now: the answer is written down, no node runs.

    lock -> replay -> does it wait for that? -> a segment of one frame: the decision and what follows

A crash before the frame is on disk leaves a segment without records, which adds nothing; the decision was not
acknowledged. The frame is whole or torn: a decision without its consequence cannot be read back.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.clock import Clock, SystemClock
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import Registry, StateDirectory
from sage_actors.actors.state.journal import JournalWriter
from sage_actors.actors.state.locks import RunLock
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import UsageError
from sage_actors.messages.records import (
    DecisionTaken,
    NodeFailed,
    NodeLost,
    NodesSucceeded,
    Record,
    RunFinished,
    RunPaused,
    SegmentOpened,
    encode_records,
)
from sage_actors.messages.wire import Evidence, error_map
from sage_actors.supervisor.audit_events import record_offline
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_waits import resolved_as_failed
from sage_actors.supervisor.handle import check_given
from sage_actors.supervisor.recovery.reading import read_run
from sage_actors.supervisor.recovery.restore import DECIDED_OFFLINE, Restored, doubtful

__all__ = ["act_on_run"]


def act_on_run(
    project: Path | StateDirectory,
    keys: KeyRing,
    run_id: str,
    action: Mapping[str, Any],
    *,
    by: str,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Decide for a run in its owner's stead. On disk when this returns; the next resume goes on from it.

    Args:
        action: {"action": "approve" | "reject", "node", "data"}, {"action": "cancel"}, or
            {"action": "resolve", "node", "how": "retry" | "result" | "fail", "result"}.

    Returns:
        {"run_id", "action", "node", "status"}: status is what the run's is now.

    Raises:
        RunLockedError: a live process owns the run: ask that one.
        NoCheckpointError: there is no such run.
        UsageError: the node does not wait for this, or the run has ended.
        ResultError, SecretInStateError: what is given cannot be carried, is too large, or holds a secret.
        StorageError: it could not be written: nothing was decided. Or, as the text says then, it is decided and not
            in the audit log yet: whoever opens the run records it first.
        AuditError: the audit log was tampered with; nothing was decided.
    """
    state = project if isinstance(project, StateDirectory) else StateDirectory(project)
    for name in ("data", "result"):
        check_given(action.get(name), f"the given {name}")
    lock = RunLock.acquire(state, run_id)
    try:
        image, restored, _ = read_run(state, keys, run_id)
        now = (clock or SystemClock()).now()
        records = _Decision(restored, now, by).records(action)
        image.sync()
        log = AuditLog(state, keys, actor=by)  # what could not be recorded is not decided
        try:
            opened = SegmentOpened(now, os.getpid(), "", DECIDED_OFFLINE)
            _write(state, keys, run_id, image, [opened, *records])
            record_offline(log, state, keys, run_id)
        finally:
            log.close()
        status = _status(restored, action)
        if status == "cancelled":
            Registry(state).note_ended(run_id, status)
    finally:
        lock.release()
    return {"run_id": run_id, "action": action["action"], "node": action.get("node"), "status": status}


def _write(state: StateDirectory, keys: KeyRing, run_id: str, image: Any, records: list[Record]) -> None:
    frame = encode_records(records)
    writer = JournalWriter.create(state.run_dir(run_id), keys, run_uuid=image.run_uuid, previous=image.tail)
    try:
        writer.append(frame)
        writer.sync()
    finally:
        writer.close()


def _status(restored: Restored, action: Mapping[str, Any]) -> str:
    if action["action"] == "cancel":
        return "cancelled"
    return "paused" if restored.status else "interrupted"


class _Decision:
    """The records of one decision."""

    def __init__(self, restored: Restored, now: float, by: str) -> None:
        assert restored.run is not None
        self._restored, self._run, self._now, self._by = restored, restored.run, now, by

    def records(self, action: Mapping[str, Any]) -> list[Record]:
        kind = action.get("action")
        doubts = self._doubts()
        if kind == "cancel":
            return [*doubts, *self._cancel()]
        if kind in ("approve", "reject"):
            node = self._node(action, self._approvals(), "does not wait for an approval")
            decided = self._approve if kind == "approve" else self._reject
            return [*doubts, *decided(node, action.get("data")), *self._pause(node)]
        if kind == "resolve":
            node = self._node(
                action, {**doubtful(self._restored), **self._refused(action)}, "is not in doubt"
            )
            return [*doubts, *self._resolve(node, action), *self._pause(node)]
        raise UsageError(f"an action is approve, reject, resolve or cancel, not {kind!r}")

    def _refused(self, action: Mapping[str, Any]) -> dict[int, Any]:
        """What was resolved as failed, and can be resolved otherwise: it is no part of what succeeded without it."""
        if action.get("how") == "fail":
            return {}
        state, owners = self._run.state, self._run.owners_of
        refused = self._restored.refused.items()
        return {
            node: by for node, by in refused if not any(state[each] == st.SUCCEEDED for each in owners(node))
        }

    def _approvals(self) -> dict[int, Any]:
        return {node: wait for node, wait in self._restored.waits.items() if wait[0] == "approval"}

    def _node(self, action: Mapping[str, Any], waiting: Mapping[int, Any], otherwise: str) -> int:
        node_id = str(action.get("node"))
        node = self._run.find(node_id)
        if node is None:
            raise UsageError(
                f"run {self._run.run_id} has no node {node_id!r}; `sage-actors status` lists them"
            )
        if node not in waiting:
            raise UsageError(f"{node_id} {otherwise}: it is {self._state_of(node)}")
        return node

    def _state_of(self, node: int) -> str:
        """As `status` calls it: nothing runs in a run that nobody carries out."""
        state = self._run.state[node]
        return {st.EXPANDED: "pending", st.RUNNING: "interrupted"}.get(state, st.NAMES[state])

    def _doubts(self) -> list[Record]:
        """What was executing with effect `once` when the owner died is in doubt, and stays so by name."""
        died = Evidence(exitcode=None, reason="supervisor died").to_dict()
        return [
            NodeLost(self._now, node, attempt, died, False, True)
            for node, attempt in doubtful(self._restored).items()
            if node not in self._run.doubts
        ]

    def _approve(self, node: int, data: Any) -> list[Record]:
        result = pack({"approved": True, "data": data, "by": self._by}, what="the given data")
        return [self._success(node, result), DecisionTaken(self._now, node, "approve", data, self._by)]

    def _reject(self, node: int, data: Any) -> list[Record]:
        pack(data, what="the given data")
        text = f"{self._run.id_of(node)} was rejected by {self._by}"
        text += f": {data}" if data is not None else ""
        decision = DecisionTaken(self._now, node, "reject", data, self._by)
        error = error_map("RejectedError", text, retryable=False)
        return [decision, self._failure(node, error, falls_back=True)]

    def _resolve(self, node: int, action: Mapping[str, Any]) -> list[Record]:
        how, result = action.get("how"), action.get("result")
        decision = DecisionTaken(self._now, node, f"resolve-{how}", result, self._by)
        if how == "result":
            return [self._success(node, pack(result, what="the given result")), decision]
        if how == "fail":
            error = resolved_as_failed(self._run, node, self._by)
            return [decision, self._failure(node, error, falls_back=True)]
        if how == "retry":
            return [decision]
        raise UsageError(f"resolve needs retry, result or fail, not {how!r}")

    def _cancel(self) -> list[Record]:
        if self._restored.status in ("succeeded", "failed", "cancelled"):
            raise UsageError(f"run {self._run.run_id} has ended: {self._restored.status}")
        counts: dict[str, Any] = dict(self._run.counts)
        decision = DecisionTaken(self._now, -1, "cancel", None, self._by)
        return [decision, RunFinished(self._now, "cancelled", 0.0, counts, "cancelled")]

    def _success(self, node: int, packed: bytes) -> NodesSucceeded:
        return NodesSucceeded(self._now, [[node, max(self._run.attempts[node], 1), 0, packed, None]])

    def _failure(self, node: int, error: dict[str, Any], *, falls_back: bool = False) -> NodeFailed:
        operation = self._run.operation(node)
        attempt = max(self._run.attempts[node], 1)
        final = "" if falls_back and operation.has_fallback else operation.on_failure
        return NodeFailed(self._now, node, attempt, error, None, final, 0, None)

    def _pause(self, decided: int) -> list[Record]:
        """The run is as it was, paused or interrupted; a pause says what else it waits for."""
        if not self._restored.status:
            return []
        waiting = {**doubtful(self._restored), **self._approvals()}
        ids = ", ".join(sorted(self._run.id_of(node) for node in waiting if node != decided))
        reason = f"waiting for a person: {ids}" if ids else "decided; resume it to continue"
        return [RunPaused(self._now, reason)]

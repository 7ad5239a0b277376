"""`resume --from NODE`: a new run that keeps every result that does not depend on that node.

    parent's journal -> replay -> what is not downstream -> a whole new journal under a hidden name -> rename

A crash before the rename leaves the hidden directory, which the next deletion of a run removes; after it, the
whole run. The parent is read only; it may be running.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sage_actors.actors.clock import Clock
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory, check_run_id
from sage_actors.actors.state.disk import DISK
from sage_actors.actors.state.journal import JournalWriter
from sage_actors.actors.state.locks import RunLock
from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.messages.records import (
    DecisionTaken,
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesSucceeded,
    PhaseCompleted,
    Record,
    SegmentOpened,
    encode_records,
)
from sage_actors.messages.wire import Evidence, error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.graph import nearest
from sage_actors.supervisor.core.plan import Plan
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.recovery.admission import admission_records
from sage_actors.supervisor.recovery.carrying import items_of, settled_in, top_of
from sage_actors.supervisor.recovery.reading import read_run
from sage_actors.supervisor.recovery.restore import Restored, doubtful

__all__ = ["fork"]

_FRAME_BYTES = 16 * 1024 * 1024
_FRAME_ROWS = 10_000
_FINAL = {st.FAILED: "fail", st.TOLERATED: "continue", st.DROPPED: "skip"}


def fork(
    state: StateDirectory,
    keys: KeyRing,
    run_id: str,
    from_node: str,
    new_run_id: str | None,
    *,
    clock: Clock,
) -> str:
    """Make a run of the same definition and inputs, in which `from_node` and what follows is not done.

    A `once` node that succeeded keeps its result wherever it is; one that is in doubt is in doubt there too.

    Args:
        new_run_id: by default `<run>-from-<node>`, with a number where that is taken.

    Returns:
        The id of the new run. It is durable, and nobody carries it out yet.

    Raises:
        NoCheckpointError: there is no run to fork.
        UsageError: there is no such node, it cannot be repeated, or the new id is taken.
        RunLockedError, WrongKeyError, StateCorruptedError, StorageError.
    """
    source = _Source(state, keys, run_id)
    copy = _Copy(source, source.check(from_node), clock.now())
    name = new_run_id or _free_name(state, run_id, from_node)
    lock = RunLock.acquire(state, check_run_id(name))
    try:
        if os.path.lexists(state.run_dir(name)):
            raise UsageError(f"there is a run {name!r} already; choose another id for the new one")
        _write(state, keys, name, copy.frames(name, from_node))
    finally:
        lock.release()
    return name


def _free_name(state: StateDirectory, run_id: str, from_node: str) -> str:
    said = re.sub(r"[^A-Za-z0-9_-]+", "-", from_node).strip("-")
    base = f"{run_id}-from-{said}"[:120]
    name, number = base, 1
    while os.path.lexists(state.root / name):
        number += 1
        name = f"{base}-{number}"
    return name


def _write(state: StateDirectory, keys: KeyRing, name: str, frames: Iterable[list[Record]]) -> None:
    hidden = state.root / f".deleted-fork-{secrets.token_hex(6)}"
    try:
        _write_journal(hidden, keys, frames)
        os.rename(hidden, state.run_dir(name))
        DISK.sync_directory(state.root)
    except OSError as cause:
        raise StorageError(f"cannot make run {name!r}: {cause}") from cause
    finally:
        if hidden.exists():
            import shutil

            shutil.rmtree(hidden, ignore_errors=True)


def _write_journal(directory: Path, keys: KeyRing, frames: Iterable[list[Record]]) -> None:
    writer = JournalWriter.create(directory, keys, run_uuid=secrets.token_bytes(16), previous=None)
    try:
        for records in frames:
            writer.append(encode_records(records))
        writer.sync()
    finally:
        writer.close()


class _Source:
    """The parent run, read back."""

    def __init__(self, state: StateDirectory, keys: KeyRing, run_id: str) -> None:
        _, self.restored, _ = read_run(state, keys, run_id)

    @property
    def run(self) -> RunCore:
        assert self.restored.run is not None
        return self.restored.run

    def check(self, from_node: str) -> int:
        """The number of the node to begin from."""
        run = self.run
        node = run.plan.by_id.get(from_node)
        if node is None:
            child = run.find(from_node)
            if child is not None:
                owner = run.id_of(top_of(run, child))
                raise UsageError(
                    f"{from_node} is a part of {owner}, which runs as a whole: use --from {owner}"
                )
            hint = nearest(from_node, run.plan.by_id, otherwise="`sage-actors status` lists its nodes")
            raise UsageError(f"run {run.run_id} has no node {from_node!r}; {hint}")
        if run.state[node] == st.SUCCEEDED and run.operation(node).effect == "once":
            raise UsageError(
                f"{from_node} has effect `once` and has succeeded: it is not repeated. "
                "Begin from a node after it, or start a new run"
            )
        return node


class _Copy:
    """What goes over into the new run, as the records of its journal."""

    def __init__(self, source: _Source, start: int, now: float) -> None:
        self._source, self._run, self._start, self._now = source, source.run, start, now
        self._numbers: dict[int, int] = {}  # of children: in the parent -> in the new run
        self._dropped = self._what_runs_again(start)

    def frames(self, name: str, from_node: str) -> Iterator[list[Record]]:
        """Frame by frame: the admission, where it comes from, its expansions, its results."""
        restored, now = self._source.restored, self._now
        assert restored.spec is not None
        header = {key: value for key, value in restored.header.items() if key != "changed"}
        header |= {"run_id": name, "parent": self._run.run_id, "from": from_node}
        for part in admission_records(restored.spec, header, at=now):
            yield [part]
        yield [
            SegmentOpened(now, os.getpid(), "", "fork"),
            DecisionTaken(now, self._run.plan.by_id[from_node], "fork", self._run.run_id, ""),
        ]
        for record in self._expansions():
            yield [record]
        yield from self._results()
        yield [*self._ends(), *self._doubts(restored), *self._refused(restored), *self._phases(restored)]

    def _what_runs_again(self, start: int) -> bytearray:
        """A mark for each node of the definition that `start` leads to; succeeded `once` nodes have none."""
        run, plan = self._run, self._run.plan
        marks = _downstream(plan, start)
        for node in range(plan.visible):
            if not marks[node] or run.state[node] != st.SUCCEEDED:
                continue
            if plan.ops[plan.op_of[node]].effect == "once":
                marks[node] = 0
        restored = self._source.restored
        doubts = doubtful(restored)
        for child in range(plan.size, len(run.state)):
            if not marks[top_of(run, child)] or run.operation(child).effect != "once":
                continue
            if run.state[child] == st.SUCCEEDED or child in doubts or child in restored.refused:
                states = {child: "has succeeded"} | dict.fromkeys(restored.refused, "was resolved as failed")
                states |= dict.fromkeys(doubts, "is in doubt")
                raise UsageError(
                    f"{run.id_of(child)} has effect `once` and {states[child]}; it would be repeated, since "
                    f"{run.id_of(top_of(run, child))} would run again as a whole"
                )
        return marks

    def _expansions(self) -> Iterator[NodeExpanded]:
        """What was expanded is expanded again in the same order, numbered from the end of the definition."""
        run, first = self._run, self._run.plan.size
        for node, (before, count) in run.children.items():
            if self._dropped[top_of(run, node)]:
                continue
            items = items_of(run, node)
            self._numbers.update((before + i, first + i) for i in range(count))
            digest = hashlib.sha256(items).digest()
            yield NodeExpanded(self._now, self._number(node), first, count, digest, items)
            first += count

    def _results(self) -> Iterator[list[Record]]:
        rows: list[list[Any]] = []
        size = 0
        for node in self._kept():
            packed = self._run.stored(node)
            rows.append([self._number(node), self._run.attempts[node], 0, packed, None])
            size += len(packed)
            if size > _FRAME_BYTES or len(rows) >= _FRAME_ROWS:
                yield [NodesSucceeded(self._now, rows)]
                rows, size = [], 0
        if rows:
            yield [NodesSucceeded(self._now, rows)]

    def _kept(self) -> Iterator[int]:
        run = self._run
        for node, state in enumerate(run.state):
            if state == st.SUCCEEDED and not run.is_gate(node) and not self._dropped[top_of(run, node)]:
                yield node

    def _ends(self) -> Iterator[Record]:
        """How parts of what succeeded ended that did not themselves."""
        run = self._run
        for node, state in settled_in(run).items():
            if node not in self._numbers or run.is_gate(node):
                continue
            if state in _FINAL:
                error = run.errors.get(node) or error_map("OperationError", "failed")
                yield NodeFailed(
                    self._now, self._number(node), run.attempts[node], error, None, _FINAL[state], 0, None
                )
            else:
                yield NodeSkipped(self._now, self._number(node), run.skip_reasons.get(node, ""))

    def _doubts(self, restored: Restored) -> list[Record]:
        died = Evidence(exitcode=None, reason="in doubt in the run that this was made from").to_dict()
        return [
            NodeLost(self._now, self._number(node), attempt, died, False, True)
            for node, attempt in doubtful(restored).items()
            if node < self._run.plan.size or node in self._numbers
        ]

    def _refused(self, restored: Restored) -> list[Record]:
        """What was resolved as failed stays so; where the new run begins with it, that is a person's word."""
        return [
            DecisionTaken(self._now, self._number(node), "resolve-fail", None, by)
            for node, by in restored.refused.items()
            if node != self._start and (node < self._run.plan.size or node in self._numbers)
        ]

    def _phases(self, restored: Restored) -> list[Record]:
        """Phases of which everything is kept are not announced again."""
        run, plan = self._run, self._run.plan
        return [
            PhaseCompleted(self._now, phase.id, len(members), len(members))
            for gate, phase in plan.gates.items()
            if phase.id in restored.phases and not self._dropped[gate]
            for members in [plan.phase_of.get(phase.id, [])]
            if all(run.state[each] == st.SUCCEEDED for each in members)
        ]

    def _number(self, node: int) -> int:
        return self._numbers.get(node, node)


def _downstream(plan: Plan, start: int) -> bytearray:
    """A mark for `start` and each node that depends on it."""
    marks = bytearray(plan.size)
    marks[start] = 1
    queue = deque([start])
    while queue:
        for child in plan.children(queue.popleft()):
            if not marks[child]:
                marks[child] = 1
                queue.append(child)
    return marks

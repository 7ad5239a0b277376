"""How a run begins: locked, read back if it exists, compared with what it was, and given a new segment.

    lock -> journal? --no--> admit (new segment 1)
                |
               yes -> replay -> succeeded? -> its results, nothing is opened
                         |
                         no  -> definition changed? -> keep, drop, ask
                         `-> sync what was read -> new segment

What a crash at each step leaves: the lock file (free again), a segment with a header and no records (ignored:
it adds nothing), or an admission in part (a directory without its last record is no run, and starts anew).
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sage_actors.actors.audit.actor import Audit, RunAudit
from sage_actors.actors.audit.search import last_position
from sage_actors.actors.clock import Clock
from sage_actors.actors.faults import fault_point
from sage_actors.actors.garbage import collector_paused
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal import Image, JournalWriter, read_journal
from sage_actors.actors.state.journal_reader import FrameStore
from sage_actors.actors.state.journal_repair import RepairReport, repair
from sage_actors.actors.state.locks import RunLock
from sage_actors.messages.codec import pack
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import NoCheckpointError, StateCorruptedError
from sage_actors.messages.records import DecisionTaken, Record, SegmentOpened
from sage_actors.messages.units import counted
from sage_actors.supervisor.audit_events import Transcript, catch_up
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import Ports, RunCore, RunOptions
from sage_actors.supervisor.recovery.admission import admission_records
from sage_actors.supervisor.recovery.changes import Accept, Edit
from sage_actors.supervisor.recovery.reopen import prepare
from sage_actors.supervisor.recovery.restore import Restored, carry_over, replay
from sage_actors.supervisor.stored_values import StoredValues

__all__ = ["Opened", "Opening"]


@dataclass(slots=True)
class Opened:
    """A run that may begin. `finished`: it had succeeded before, and there is nothing to carry out."""

    core: RunCore
    lock: RunLock | None = None
    writer: JournalWriter | None = None
    store: FrameStore | None = None
    first: list[Record] = field(default_factory=list)
    resumed: bool = False
    finished: bool = False
    notices: list[str] = field(default_factory=list)
    breakers: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    audit: RunAudit | None = None


class Opening:
    """Opens runs of one project for one supervisor."""

    def __init__(
        self,
        state: StateDirectory,
        keys: Callable[[], KeyRing],
        *,
        clock: Clock,
        numbers: Callable[[], int],
        ports: Any,
        version: str,
        search_paths: Sequence[str] = (),
        audit: Audit | None = None,
    ) -> None:
        self._state, self._keys, self._clock = state, keys, clock
        self._audit = audit or Audit(None)
        self._numbers, self._ports, self._version = numbers, ports, version
        self._search_paths = list(search_paths)

    def volatile(
        self, run_id: str, spec: WorkflowSpec, inputs: Mapping[str, Any], options: RunOptions
    ) -> Opened:
        """A run that writes nothing and needs no key."""
        return Opened(self._core(run_id, uuid.uuid4().hex, spec, inputs, options))

    def durable(
        self,
        run_id: str,
        spec: WorkflowSpec | None,
        inputs: Mapping[str, Any] | None,
        options: RunOptions,
        *,
        fresh: bool = False,
        must_exist: bool = False,
        do_repair: bool = False,
        accept: Accept = False,
    ) -> Opened:
        """A run of that id, new or continued. Without a `spec` its journaled definition is used.

        Raises:
            RunLockedError, NoCheckpointError, ChangedDefinitionError, StateCorruptedError, WrongKeyError,
            StorageError: see each; nothing was started, and the lock is free again.
        """
        lock = RunLock.acquire(self._state, run_id)
        try:
            with collector_paused():
                opened = self._open(
                    run_id,
                    spec,
                    inputs,
                    options,
                    fresh=fresh,
                    must_exist=must_exist,
                    do_repair=do_repair,
                    accept=accept,
                )
        except BaseException:
            lock.release()
            raise
        if opened.finished:
            lock.release()
        else:
            opened.lock = lock
        return opened

    def _open(
        self,
        run_id: str,
        spec: WorkflowSpec | None,
        inputs: Mapping[str, Any] | None,
        options: RunOptions,
        *,
        fresh: bool,
        must_exist: bool,
        do_repair: bool,
        accept: Accept,
    ) -> Opened:
        notices: list[str] = []
        exists = self._state.exists(run_id)
        if fresh and exists:
            self._audit.record_now("run_archived", run_id)
            notices.append(f"the old state was archived as {self._state.archive(run_id).name}")
            exists = False
        if exists:
            report = self._repair(run_id) if do_repair else None
            if report is not None:
                notices += _tell_repair(report)
            opened = self._continue(run_id, spec, inputs, options, accept, notices)
            if opened is not None:
                if report is not None and report.damage:
                    notices.append(_tell_again(opened.core))
                return opened
            self._remove_what_is_no_run(run_id)
        if must_exist or spec is None:
            raise NoCheckpointError(
                f"there is no run {run_id!r} to continue in {self._state.root}; `sage-actors list` shows the runs"
            )
        return self._admit(run_id, spec, inputs or {}, options, notices)

    def repair(self, run_id: str) -> list[str]:
        """Cut a run's journal back to its longest valid prefix, and open nothing; what to tell of it.

        Raises:
            RunLockedError, StateCorruptedError, WrongKeyError, StorageError: see each.
        """
        if not self._state.exists(run_id):
            return []
        lock = RunLock.acquire(self._state, run_id)
        try:
            return _tell_repair(self._repair(run_id))
        finally:
            lock.release()

    def _repair(self, run_id: str) -> RepairReport:
        report = repair(self._state.run_dir(run_id), self._keys())
        if report.damage:
            self._audit.record_now("journal_repaired", run_id)
        return report

    def _remove_what_is_no_run(self, run_id: str) -> None:
        """A process was killed before the run was admitted. What a repair kept aside is never removed."""
        directory = self._state.run_dir(run_id)
        aside = sorted(each.name for each in directory.glob("*.damaged-*"))
        if aside:
            raise StateCorruptedError(
                f"{directory}: the damage begins in the admission of the run, so nothing of it is left to "
                f"continue from; the damaged journal is kept as {', '.join(aside)}. Use --fresh to start anew"
            )
        self._audit.record_now("run_discarded", run_id)
        self._state.delete(run_id)

    def _admit(
        self,
        run_id: str,
        spec: WorkflowSpec,
        inputs: Mapping[str, Any],
        options: RunOptions,
        notices: list[str],
    ) -> Opened:
        run_uuid = secrets.token_bytes(16)
        core = self._core(run_id, run_uuid.hex(), spec, inputs, options)
        core.search_paths = self._search_paths
        self._state.check_filesystem()
        transcript = Transcript(sandbox=self._audit.sandbox)
        transcript.begin(core)
        audit = self._audited(run_id, transcript)  # what cannot be recorded does not begin
        writer = JournalWriter.create(
            self._state.run_dir(run_id), self._keys(), run_uuid=run_uuid, previous=None
        )
        fault_point("run.segment_open")
        first: list[Record] = [
            *admission_records(
                spec, self._header(run_id, inputs, options), at=self._clock.now(), plan=core.plan
            ),
            self._segment("start"),
        ]
        store = self._store(run_id)
        return Opened(core, writer=writer, store=store, first=first, notices=notices, audit=audit)

    def _continue(
        self,
        run_id: str,
        spec: WorkflowSpec | None,
        inputs: Mapping[str, Any] | None,
        options: RunOptions,
        accept: Accept,
        notices: list[str],
    ) -> Opened | None:
        directory = self._state.run_dir(run_id)
        store = self._store(run_id)
        image = read_journal(directory, self._keys())
        audited = last_position(self._state, self._keys(), run_id) if self._audit.enabled else None
        transcript = Transcript(audited=audited, sandbox=self._audit.sandbox)
        maker = self._maker(run_id, image.run_uuid.hex(), options, store)
        watch = transcript.see if self._audit.enabled else None
        restored = replay(image.frames, transcript.following(maker), watch=watch)
        if restored.run is None or restored.spec is None:
            return None
        notices += _tell_what_was_read(image, restored, run_id)
        given = dict(restored.header["inputs"]) if inputs is None else dict(inputs)
        edit = None if spec is None else Edit(restored, spec, given)
        if edit is not None and edit.is_empty:
            edit = None
        image.sync()  # before anybody is told of anything: what was read may be in a cache only
        audit = self._audited(run_id, transcript)
        if audit is not None:
            notices += catch_up(self._audit.open(), run_id, transcript, image)
        if restored.status == "succeeded" and edit is None:
            restored.run.status = "succeeded"
            notices.append(f"run {run_id} had succeeded; these are its results")
            return Opened(restored.run, store=store, resumed=True, finished=True, notices=notices)
        options, first = self._budgeted(restored, options)
        if edit is not None:
            notices += edit.agree(accept)
            first += self._edit(restored, edit, options, store, image)
            transcript.begin(restored.run)
        assert restored.run is not None
        prepare(restored, now=self._clock.now())
        done = restored.run.counts["succeeded"]
        notices.append(
            f"run {run_id} continues: {done} of {counted(restored.run.total, 'node is', 'nodes are')} done"
        )
        writer = JournalWriter.create(directory, self._keys(), run_uuid=image.run_uuid, previous=image.tail)
        fault_point("run.segment_open")
        first.insert(0, self._segment("resume"))
        return Opened(
            restored.run,
            writer=writer,
            store=store,
            first=first,
            resumed=True,
            notices=notices,
            breakers=restored.breakers,
            audit=audit,
        )

    def _budgeted(self, restored: Restored, options: RunOptions) -> tuple[RunOptions, list[Record]]:
        """The options with the run's budget, which stays what it was unless another is given now; then it is noted."""
        assert restored.run is not None
        assert restored.spec is not None
        kept = _budget_of(restored)
        options = _limited(options, kept)
        budget = {"tokens": options.max_tokens, "cost": options.max_cost}
        now = replace(restored.run.options, max_tokens=options.max_tokens, max_cost=options.max_cost)
        restored.run.options = _limited(now, restored.spec.budget)
        if budget == {"tokens": kept.get("tokens"), "cost": kept.get("cost")}:
            return options, []
        return options, [DecisionTaken(self._clock.now(), -1, "budget", budget, "")]

    def _audited(self, run_id: str, transcript: Transcript) -> RunAudit | None:
        """What the state actor tells of this run's frames; None where nothing is recorded."""
        if not self._audit.enabled:
            return None
        self._audit.open()
        return RunAudit(self._audit, run_id, transcript.changes)

    def _edit(
        self, restored: Restored, edit: Edit, options: RunOptions, store: FrameStore, image: Image
    ) -> list[Record]:
        """Put the edited definition in the place of the old one, as whoever reads these records will do."""
        old = restored.run
        assert old is not None
        header = self._header(old.run_id, edit.inputs, options) | {"changed": edit.changed}
        new = self._maker(old.run_id, image.run_uuid.hex(), options, store)(edit.spec, header)
        edit.refuse_to_repeat(new)
        carry_over(restored, new, edit.changed)
        restored.run, restored.spec, restored.header = new, edit.spec, header
        now = self._clock.now()
        return [
            *admission_records(edit.spec, header, at=now),
            DecisionTaken(now, -1, "accept-changes", edit.changed, ""),
        ]

    # ------------------------------------------------------------------ parts

    def _maker(
        self, run_id: str, key: str, options: RunOptions, store: FrameStore
    ) -> Callable[[WorkflowSpec, dict[str, Any]], RunCore]:
        def make(spec: WorkflowSpec, header: dict[str, Any]) -> RunCore:
            limited = _limited(options, header.get("budget"))
            core = self._core(run_id, key, spec, header["inputs"], limited)
            core.search_paths = list(header.get("search_paths", ()))
            core.ports = cast("Ports", StoredValues(store))
            return core

        return make

    def _core(
        self, run_id: str, key: str, spec: WorkflowSpec, inputs: Mapping[str, Any], options: RunOptions
    ) -> RunCore:
        return RunCore(
            number=self._numbers(),
            run_id=run_id,
            run_key=f"{run_id}:{key}",
            plan=compile_plan(spec),
            inputs=inputs,
            ports=self._ports,
            clock=self._clock,
            options=_limited(options, spec.budget),
        )

    def _store(self, run_id: str) -> FrameStore:
        return FrameStore(self._state.run_dir(run_id), self._keys())

    def _header(self, run_id: str, inputs: Mapping[str, Any], options: RunOptions) -> dict[str, Any]:
        header: dict[str, Any] = {
            "run_id": run_id,
            "inputs": dict(inputs),
            "project": str(self._state.project),
        }
        # So that a resume finds the modules that the run was started with.
        header["search_paths"] = self._search_paths
        budget = {"tokens": options.max_tokens, "cost": options.max_cost}
        if any(each is not None for each in budget.values()):
            header["budget"] = budget  # given with the run: a resume keeps to it
        pack(header, what="the inputs")
        return header

    def _segment(self, reason: str) -> SegmentOpened:
        return SegmentOpened(self._clock.now(), os.getpid(), self._version, reason)


def _tell_what_was_read(image: Image, restored: Restored, run_id: str) -> list[str]:
    told = []
    if image.torn_bytes:
        told.append(f"the end of the journal was torn by a crash ({image.torn_bytes} bytes); it healed")
    if (begun_as := restored.header["run_id"]) != run_id:
        told.append(f"this is the state of run {begun_as}, which somebody copied or moved here")
    return told


def _tell_again(core: RunCore) -> str:
    again = [
        core.id_of(node)
        for node, state in enumerate(core.state)
        if state != st.SUCCEEDED and not core.is_gate(node)
    ]
    if not again:
        return "repaired: every node is done"
    shown = ", ".join(again[:20]) + (f" and {len(again) - 20} more" if len(again) > 20 else "")
    return f"repaired: these nodes will run (again): {shown}"


def _tell_repair(report: RepairReport) -> list[str]:
    if not report.damage:
        return ["--repair: the journal is not damaged"]
    kept = ", ".join(path.name for path in report.kept_aside)
    return [
        *(f"repaired: {each}" for each in report.damage),
        f"repaired: {report.dropped_bytes} bytes dropped, kept aside as {kept}",
    ]


def _budget_of(restored: Restored) -> Mapping[str, Any]:
    """What was given with the run, or with the last resume that gave something."""
    for decision in reversed(restored.decisions):
        if decision.kind == "budget":
            return dict(decision.data)
    return restored.header.get("budget") or {}


def _limited(options: RunOptions, budget: Mapping[str, Any] | None) -> RunOptions:
    """The options, with what `budget` says where they say nothing."""
    if not budget:
        return options
    tokens = budget.get("tokens") if options.max_tokens is None else options.max_tokens
    cost = budget.get("cost") if options.max_cost is None else options.max_cost
    return replace(options, max_tokens=tokens, max_cost=cost)

"""What a run's records say to the audit log: every change of a node and of the run, without any of its data.

    record of the journal                          event            before -> after
    RunAdmitted                                    run_admitted     -> admitted; later ones: definition_changed
    SegmentOpened                                  run_started, run_resumed, run_opened  (decided while nobody ran it)
    NodesStarted                                   node_started     pending, waiting -> running
    NodesSucceeded                                 node_succeeded   running, waiting, ... -> succeeded
    NodeFailed                                     node_failed      -> waiting (a retry), pending (its fallback), failed
    NodeLost                                       node_lost        running -> pending, in_doubt
    NodeSkipped, NodeExpanded, NodeWaiting         node_skipped, node_expanded, node_waiting
    DecisionTaken                                  decision         kind and by whom, never what was given
    PhaseCompleted, BreakerChanged                 phase_completed, breaker
    RunPaused, RunFinished                         run_paused, run_finished
    NodesSucceeded, NodeFailed, LogLines           redacted         how often which rule; where: the journal says

Many nodes that change alike are one change with a list of `nodes`. What a person or a program wrote (results, inputs,
reasons, texts of errors, lines of output) is left out; a class of error is a word.

The log follows the journal: a line says up to which frame. What a process that was killed had not recorded yet, the
next one that opens the run records first, as `late`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sage_actors.actors.audit.actor import states_entry
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.audit.search import last_position
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal import Image
from sage_actors.actors.state.journal_format import Location
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.records import (
    BreakerChanged,
    DecisionTaken,
    LogLines,
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
)
from sage_actors.supervisor.core.run_core import RunCore

__all__ = ["Transcript", "catch_up", "record_offline"]

_WORD = re.compile(r"[^A-Za-z0-9_.:-]+")
_REDACTED = re.compile(r"\[redacted:([^\]]{1,80})\]")
_LONGEST_WORD = 80
_LONGEST_TARGET = 300
_OPENED = {"start": "run_started", "resume": "run_resumed"}
Change = dict[str, Any]


class Transcript:
    """Follows one run's records and says what changed. Used for a replay first (`begin`, `see`), then live.

    audited: (segment, number) of the last frame that the log has. late: changes in frames behind it.
    last: the last frame of the journal that was replayed.
    """

    def __init__(
        self, *, audited: tuple[int, int] | None = None, sandbox: Mapping[str, Any] | None = None
    ) -> None:
        self.late: list[Change] = []
        self.last: Location | None = None
        self.audited = audited or (0, -1)
        self._sandbox = sandbox
        self._core: RunCore | None = None
        self._running: set[int] = set()
        self._others: dict[int, str] = {}  # what is neither pending nor running, and has not ended
        self._status: str | None = None
        self._handlers: dict[type[Any], Callable[[Any], Iterable[Change]]] = {
            RunAdmitted: self._admitted,
            SegmentOpened: self._opened,
            NodesStarted: self._started,
            NodesSucceeded: self._succeeded,
            NodeFailed: self._failed,
            NodeLost: self._lost,
            NodeSkipped: lambda each: [self._one("node_skipped", each, "skipped")],
            NodeExpanded: self._expanded,
            NodeWaiting: self._waiting,
            DecisionTaken: self._decided,
            PhaseCompleted: _phase,
            BreakerChanged: _breaker,
            LogLines: self._output,
            RunPaused: self._paused,
            RunFinished: self._finished,
        }

    def begin(self, core: RunCore) -> None:
        """From here on numbers are those of `core`; what waits is followed under its new number."""
        old, self._core = self._core, core
        if old is None:
            return
        self._running.clear()
        names = {old.id_of(node): state for node, state in self._others.items()}
        found = {core.find(name): state for name, state in names.items()}
        self._others = {node: state for node, state in found.items() if node is not None}

    def following(
        self, make: Callable[[WorkflowSpec, dict[str, Any]], RunCore]
    ) -> Callable[[WorkflowSpec, dict[str, Any]], RunCore]:
        """`make`, and every core that it makes is followed."""

        def made(spec: WorkflowSpec, header: dict[str, Any]) -> RunCore:
            core = make(spec, header)
            self.begin(core)
            return core

        return made

    def see(self, location: Location, record: Record) -> None:
        """A record of the replay."""
        if (location.segment, location.number) > self.audited:
            self.late += self.changes([record])
        elif isinstance(record, (NodesStarted, NodesSucceeded)):
            self._follow(record)
        else:
            self.changes([record])
        self.last = location

    def _follow(self, record: NodesStarted | NodesSucceeded) -> None:
        """As `changes`, of records that need not be told."""
        nodes = [row[0] for row in record.rows]
        for node in nodes if self._others else ():
            self._others.pop(node, None)
        if isinstance(record, NodesStarted):
            self._running.update(nodes)
        else:
            self._running.difference_update(nodes)

    def changes(self, records: list[Record]) -> list[Change]:
        """What `records` change, in order. Called for each record once, in the order of the journal."""
        out: list[Change] = []
        for record in records:
            handler = self._handlers.get(type(record))
            if handler is not None:
                out += handler(record)
        return out

    # ------------------------------------------------------------------ nodes, many at once

    def _started(self, record: NodesStarted) -> Iterable[Change]:
        out = self._grouped("node_started", record.at, record.rows, "running")
        self._running.update([row[0] for row in record.rows])
        return out

    def _succeeded(self, record: NodesSucceeded) -> Iterable[Change]:
        noted = [(row[0], _rules(row[4])) for row in record.rows if row[4] and "redacted" in row[4]]
        return [
            *self._grouped("node_succeeded", record.at, record.rows, "succeeded"),
            *(self._redacted(record.at, node, rules) for node, rules in noted),
        ]

    def _grouped(self, event: str, at: float, rows: list[Any], new: str) -> list[Change]:
        """One change for all rows of the same attempt that were in the same state."""
        nodes = [row[0] for row in rows]
        attempts = {row[1] for row in rows}
        if len(attempts) == 1 and (old := self._common_state(nodes)):
            self._running.difference_update(nodes)
            return [_change(event, at, old, new, attempt=rows[0][1], nodes=self._ids(nodes))]
        groups: dict[tuple[int, str], list[int]] = {}
        for row in rows:
            groups.setdefault((row[1], self._leave(row[0])), []).append(row[0])
        return [
            _change(event, at, old, new, attempt=attempt, nodes=self._ids(some))
            for (attempt, old), some in groups.items()
        ]

    def _common_state(self, nodes: list[int]) -> str:
        """The state that all of them are in, where that is plain; else ""."""
        if self._running.issuperset(nodes):
            return "running"
        return "pending" if not self._others and self._running.isdisjoint(nodes) else ""

    def _leave(self, node: int) -> str:
        """The state of a node, which it leaves."""
        if node in self._running:
            self._running.discard(node)
            return "running"
        return self._others.pop(node, "pending")

    def _ids(self, nodes: list[int]) -> list[str]:
        core = self._core
        assert core is not None
        ids, size = core.plan.ids, core.plan.visible
        return [ids[node] if node < size else core.id_of(node) for node in nodes]

    # ------------------------------------------------------------------ one node

    def _one(self, event: str, record: Any, new: str, **fields: Any) -> Change:
        old = self._leave(record.node)
        if new in ("waiting", "in_doubt", "expanded"):
            self._others[record.node] = new
        if hasattr(record, "attempt"):
            fields["attempt"] = record.attempt
        return _change(event, record.at, old, new, nodes=self._ids([record.node]), **fields)

    def _failed(self, record: NodeFailed) -> Iterable[Change]:
        new = "waiting" if record.retry_at is not None else "failed" if record.final else "pending"
        fields: Change = {"error": _word(record.error.get("type"))}
        if record.final:
            fields["effect"] = record.final
        rules = _rules(record.usage)
        return [
            self._one("node_failed", record, new, **fields, **_details(record.error.get("details"))),
            *([self._redacted(record.at, record.node, rules)] if rules else []),
        ]

    def _output(self, record: LogLines) -> Iterable[Change]:
        rules: dict[int, list[str]] = {}
        for node, _attempt, _stream, text in record.rows:
            if "[redacted:" in text and node >= 0:
                rules.setdefault(node, []).extend(_REDACTED.findall(text))
        return [self._redacted(record.at, node, found) for node, found in rules.items()]

    def _redacted(self, at: float, node: int, rules: Iterable[str]) -> Change:
        """Secrets that were taken out of what a node said."""
        counts = Counter(map(_word, rules))
        return {"event": "redacted", "at": _micros(at), "nodes": self._ids([node]), "rules": dict(counts)}

    def _lost(self, record: NodeLost) -> Iterable[Change]:
        evidence = record.evidence
        fields = {"charged": record.charged, "reason": _word(evidence.get("reason"))}
        fields |= {"exitcode": evidence.get("exitcode"), **_details(evidence.get("limit"))}
        return [self._one("node_lost", record, "in_doubt" if record.in_doubt else "pending", **fields)]

    def _expanded(self, record: NodeExpanded) -> Iterable[Change]:
        return [self._one("node_expanded", record, "expanded", count=record.count)]

    def _waiting(self, record: NodeWaiting) -> Iterable[Change]:
        return [self._one("node_waiting", record, "waiting", reason=_word(record.reason))]

    def _decided(self, record: DecisionTaken) -> Iterable[Change]:
        fields: Change = {"kind": _word(record.kind), "by": record.by}
        if record.node >= 0:
            fields["nodes"] = self._ids([record.node])
        if record.kind == "resolve-retry":
            self._others.pop(record.node, None)
        return [{"event": "decision", "at": _micros(record.at), **fields}]

    # ------------------------------------------------------------------ the run

    def _admitted(self, record: RunAdmitted) -> Iterable[Change]:
        core = self._core
        if record.part + 1 < record.parts or core is None:
            return []
        event = "run_admitted" if self._status is None else "definition_changed"
        fields: Change = {"workflow": core.plan.spec.name, "count": core.plan.visible}
        if record.header.get("parent"):
            fields["parent"] = str(record.header["parent"])
        return [self._run(event, record.at, self._status or "admitted", **fields)]

    def _opened(self, record: SegmentOpened) -> Iterable[Change]:
        self._running.clear()  # who executed then, does no more
        event = _OPENED.get(record.reason, "run_opened")
        fields: Change = {"owner": record.pid, "reason": _word(record.reason)}
        if self.last is not None:
            fields["after"] = [self.last.segment, self.last.number]
        if self._sandbox is not None and record.pid == os.getpid():
            fields["sandbox"] = dict(self._sandbox)
        new = "running" if event in ("run_started", "run_resumed") else (self._status or "admitted")
        return [self._run(event, record.at, new, **fields)]

    def _paused(self, record: RunPaused) -> Iterable[Change]:
        return [self._run("run_paused", record.at, "paused", reason=_word(record.reason.partition(":")[0]))]

    def _finished(self, record: RunFinished) -> Iterable[Change]:
        return [self._run("run_finished", record.at, record.status, counts=dict(record.counts))]

    def _run(self, event: str, at: float, new: str, **fields: Any) -> Change:
        old, self._status = self._status, new
        return _change(event, at, old, new, **fields)


def catch_up(log: AuditLog, run_id: str, transcript: Transcript, image: Image) -> list[str]:
    """Record what the journal (walked) has and the log has not; what a person should know of it.

    Raises:
        StorageError, AuditError: it could not be recorded.
    """
    last, audited = image.last, transcript.audited
    if last is None:
        return []
    transcript.last = last  # a frame may hold no record: then the transcript did not see it
    end = (last.segment, last.number)
    if end < audited:
        return [
            f"the journal ends with frame {end[1]} of segment {end[0]}; the audit log knew frame {audited[1]} of "
            f"segment {audited[0]}: it was cut or repaired, or the machine lost power"
        ]
    if transcript.late:
        log.append([states_entry(run_id, transcript.late, last, image.last_tag) | {"late": True}])
        log.sync()
        transcript.late = []
    return []


def record_offline(log: AuditLog, state: StateDirectory, keys: KeyRing, run_id: str) -> None:
    """Record what was decided for a run that nobody carries out. Hold the run's lock.

    Raises:
        StorageError, AuditError: it could not be recorded; it is decided all the same, and recorded by whoever opens
            the run next.
    """
    from sage_actors.supervisor.recovery.reading import read_run

    transcript = Transcript(audited=last_position(state, keys, run_id))
    image, _, _ = read_run(state, keys, run_id, watch=transcript.see)
    catch_up(log, run_id, transcript, image)


def _change(event: str, at: float, old: str | None, new: str, **fields: Any) -> Change:
    return {"event": event, "at": _micros(at), "old": old, "new": new, **fields}


def _phase(record: PhaseCompleted) -> Iterable[Change]:
    fields = {"phase": record.phase, "succeeded": record.succeeded, "total": record.total}
    return [{"event": "phase_completed", "at": _micros(record.at), **fields}]


def _breaker(record: BreakerChanged) -> Iterable[Change]:
    return [
        {
            "event": "breaker",
            "at": _micros(record.at),
            "endpoint": record.endpoint,
            "new": _word(record.state),
        }
    ]


def _details(details: Any) -> Change:
    """What an error says of a limit or of the sandbox: which, its value, what was seen; a path or host."""
    if not isinstance(details, dict):
        return {}
    if {"kind", "limit", "seen"} <= details.keys():
        return {"limit": {name: _plain(details[name]) for name in ("kind", "limit", "seen")}}
    if {"kind", "target"} <= details.keys():
        return {
            "denied": {"kind": _word(details["kind"]), "target": str(details["target"])[:_LONGEST_TARGET]}
        }
    return {}


def _rules(usage: Any) -> list[str]:
    """The rules in the notes of an attempt's redactions, which came from a worker."""
    notes = usage.get("redacted") if isinstance(usage, dict) else None
    rows = notes if isinstance(notes, list) else []
    return [row[0] for row in rows if isinstance(row, list) and row and isinstance(row[0], str)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, bool)) or value is None else _word(value)


def _word(value: Any) -> str:
    """A word that cannot carry a text: an error's class may have any name."""
    return _WORD.sub("_", str(value or ""))[:_LONGEST_WORD]


def _micros(at: float) -> int:
    return int(at * 1e6)

"""The audit actor: what happens in this process becomes records of the audit log, many to a write.

    supervisor, proxy, ...  record(event)    \\
    state actor             note(frame)        >  gathered for 50 ms  ->  one line a run  ->  one write
    state actor             settle()         /    `settle` does not wait for them, and syncs

With very many runs at once it is gathered for longer, so that writing takes a twentieth of the time and not more.

A node's transition costs a place in a list there: nobody waits for its line. What waits is a decision of a person, the
end of a run, and whatever must not go on unrecorded: `settle` and `record_now` return when the records are on the
device, or raise.

If the log cannot be written, every run that had something to record is told what a failed checkpoint tells it: nothing
more is dispatched, it pauses. Nothing is lost by that, nor by a SIGKILL: what a run's journal has and the log has not,
the next opening of the run records first (`supervisor/audit_events.py`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pykka

from sage_actors.actors.audit.format import Head
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.mailbox import MailboxActor
from sage_actors.actors.state.journal_format import Location
from sage_actors.messages.errors import SageError, StorageError
from sage_actors.messages.records import AuditNoted, Record

__all__ = ["Audit", "AuditActor", "RunAudit", "Translate", "states_entry"]

_log = logging.getLogger(__name__)
_GATHER_S = 0.05
_LONGEST_GATHER_S = 1.0
_SHARE = 0.05  # of the time, for writing
_ANSWER_S = 60.0
_MOST_KEPT = 10_000  # records that wait for a log that cannot be written

# What a run's records say to the audit log: (records of a frame) -> changes, each with its `event`.
Translate = Callable[[list[Record]], list[dict[str, Any]]]


class _Event:
    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields


class _Frames:
    """What one group commit wrote of one run. `location`: of the last frame; `tag`: its tag."""

    __slots__ = ("location", "records", "run", "tag")

    def __init__(self, run: RunAudit, records: list[Record], location: Location, tag: bytes) -> None:
        self.run, self.records, self.location, self.tag = run, records, location, tag


class _Settle:
    __slots__ = ("run",)

    def __init__(self, run: RunAudit | None) -> None:
        self.run = run


class AuditActor(MailboxActor):
    """Writes the log of one supervisor. Speak to it through an `Audit`."""

    def __init__(self, log: AuditLog, hurry: threading.Event, audit: Audit) -> None:
        super().__init__()
        self._audit_log, self._hurry, self._audit = log, hurry, audit
        self._gather_s = _GATHER_S
        self._kept: list[dict[str, Any]] = []

    def on_receive(self, message: Any) -> Any:
        if isinstance(message, _Settle):
            self._hurry.clear()
            self._flush([])
            return self._settle(message.run)
        if not isinstance(message, (_Event, _Frames)):
            return super().on_receive(message)
        self._hurry.wait(self._gather_s)
        began = time.thread_time()
        self._flush([message, *self._drain()])
        wanted = (time.thread_time() - began) / _SHARE
        self._gather_s = min(max(_GATHER_S, wanted), _LONGEST_GATHER_S)
        return None

    def on_stop(self) -> None:
        self._flush([])
        self._audit_log.close()

    def _drain(self) -> list[Any]:
        """Ours at the head of the inbox, up to what somebody waits for."""
        waiting = self.actor_inbox.take_all()
        for i, envelope in enumerate(waiting):
            if envelope.reply_to is not None or not isinstance(envelope.message, (_Event, _Frames)):
                self.actor_inbox.put_back(waiting[i:])
                return [each.message for each in waiting[:i]]
        return [each.message for each in waiting]

    def _flush(self, messages: list[Any]) -> None:
        """Write what `messages` say. What is not written stays, or is in a journal."""
        runs: dict[RunAudit, list[_Frames]] = {}
        for message in messages:
            if isinstance(message, _Event):
                self._keep(message.fields)
            elif message.run.failure is None:
                runs.setdefault(message.run, []).append(message)
        try:
            entries = [*_counted(self._kept), *(_line(run, frames) for run, frames in runs.items())]
            if entries:
                self._audit_log.append(entries)
            self._kept.clear()
            self._audit.failing = None
        except Exception as cause:  # noqa: BLE001 - whatever it was: these runs may not go on unrecorded
            _log.error("the audit log cannot be written: %s", cause)
            self._audit.failing = cause
            error = (
                cause if isinstance(cause, SageError) else StorageError(f"the audit log failed: {cause!r}")
            )
            for run in runs:
                run.fail(error)

    def _keep(self, fields: dict[str, Any]) -> None:
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(fields)
        else:
            _log.error("a record of the audit log is lost, which cannot be written: %s", fields.get("event"))

    def _settle(self, run: RunAudit | None) -> Head | None:
        failure = run.failure if run is not None else None
        if failure is not None:
            raise failure
        if self._kept:
            raise StorageError(f"{self._audit_log.path} cannot be written; make room, then try again")
        self._audit_log.sync()
        return self._audit_log.head


class RunAudit:
    """One open run's part: what the state actor tells of its frames."""

    def __init__(self, audit: Audit, run_id: str, translate: Translate) -> None:
        self.run_id, self.translate = run_id, translate
        self.failure: SageError | None = None
        self._audit = audit
        self._noted: Head | None = None
        self._on_failure: Callable[[SageError], object] = lambda error: None

    def on_failure(self, call: Callable[[SageError], object]) -> None:
        """`call` is told, in the audit actor's thread, if something of this run could not be recorded."""
        self._on_failure = call

    def note(self, records: list[Record], location: Location, tag: bytes) -> None:
        """`records` were written to the run's journal, up to the frame at `location`. Does not wait."""
        self._audit.send(_Frames(self, records, location, tag))

    def settle(self) -> None:
        """All that was noted so far is on the device. Raises StorageError or AuditError."""
        self._audit.settle(self)

    def check(self) -> None:
        """Raises what `settle` would, where all was settled just now."""
        if self.failure is not None:
            raise self.failure

    def news(self, at: float) -> AuditNoted | None:
        """The log's head as a record for the journal; None if the journal has it."""
        head = self._audit.head
        if head is None or head == self._noted:
            return None
        self._noted = head
        return AuditNoted(at, head.seq, bytes.fromhex(head.mac))

    def head(self) -> Head | None:
        return self._audit.head

    def fail(self, error: SageError) -> None:
        """From here on nothing of this run is recorded: the next opening begins where the log ends."""
        if self.failure is None:
            self.failure = error
            self._on_failure(error)


class Audit:
    """What records for one supervisor. Opens the log when it is first needed, and its thread with it.

    `sandbox`: tier, gaps and mode, as every run's first record says them; set by who found them out.
    """

    def __init__(self, open_log: Callable[[], AuditLog] | None) -> None:
        """`open_log` None: nothing is recorded (durability "none" writes nothing and needs no key)."""
        self._open_log = open_log
        self._mutex = threading.Lock()
        self._hurry = threading.Event()
        self._log: AuditLog | None = None
        self._actor: pykka.ActorRef[AuditActor] | None = None
        self._closed = False
        self.failing: Exception | None = None  # why the last write failed; set by the actor
        self.sandbox: Mapping[str, Any] | None = None

    @property
    def enabled(self) -> bool:
        return self._open_log is not None

    @property
    def head(self) -> Head | None:
        """The last record that this process knows of."""
        return self._log.head if self._log is not None else None

    def open(self) -> AuditLog:
        """The log, opened or begun. Raises AuditError, StateError, StorageError, KeyUnusableError."""
        with self._mutex:
            if self._log is None:
                if self._open_log is None or self._closed:
                    raise StorageError("this supervisor keeps no audit log")
                self._log = self._open_log()
                self._actor = AuditActor.start(self._log, self._hurry, self)
            return self._log

    def check(self) -> None:
        """For who decides and does not wait: raises StorageError while the log cannot be written."""
        if self.failing is not None:
            raise StorageError(f"the audit log cannot be written: {self.failing}")

    def record(self, event: str, run: str | None = None, **fields: Any) -> None:
        """Record `event` soon; does not wait. Equal ones within 50 ms become one record with `times`."""
        if self.enabled and not self._closed:
            self.open()
            self.send(_Event({"event": event, "run": run, **fields}))

    def record_now(self, event: str, run: str | None = None, **fields: Any) -> None:
        """As `record`; it is on the device when this returns. Raises StorageError, AuditError."""
        if self.enabled:
            self.record(event, run, **fields)
            self.settle(None)

    def settle(self, run: RunAudit | None) -> None:
        """All that was told so far is on the device. Raises StorageError, AuditError."""
        if self._actor is None:
            return
        self._hurry.set()
        try:
            self._actor.ask(_Settle(run), timeout=_ANSWER_S)
        except (pykka.ActorDeadError, pykka.Timeout) as cause:
            raise StorageError(f"the audit log was not written: {cause!r}") from cause

    def send(self, message: Any) -> None:
        assert self._actor is not None
        try:
            self._actor.tell(message)
        except pykka.ActorDeadError:
            _log.error("the audit log is closed; a run's next opening records what its journal has")

    def close(self) -> None:
        """Write what waits, and end. Twice is harmless."""
        with self._mutex:
            self._closed, actor = True, self._actor
        if actor is not None:
            self._hurry.set()
            try:
                actor.stop(timeout=_ANSWER_S)
            except pykka.ActorDeadError:
                pass


def _line(run: RunAudit, frames: list[_Frames]) -> dict[str, Any]:
    """One record for all that happened to a run, up to where its journal was then."""
    changes: list[dict[str, Any]] = []
    for each in frames:
        changes += run.translate(each.records)
    last = frames[-1]
    return states_entry(run.run_id, changes, last.location, last.tag)


def states_entry(
    run_id: str, changes: list[dict[str, Any]], location: Location, tag: bytes
) -> dict[str, Any]:
    """The record of `changes`, the last of which is in the journal's frame at `location`."""
    journal = {"segment": location.segment, "seq": location.number, "tag": tag.hex()}
    return {"event": "states", "run": run_id, "changes": changes, "journal": journal}


def _counted(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal ones once, with how often: a program that asks for a forbidden host in a loop must not fill the disk."""
    out: list[dict[str, Any]] = []
    seen: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = repr(sorted(entry.items(), key=lambda item: item[0]))
        known = seen.get(name)
        if known is None:
            known = seen[name] = dict(entry)
            out.append(known)
        else:
            known["times"] = known.get("times", 1) + 1
    return out

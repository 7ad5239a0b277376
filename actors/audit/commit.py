"""What the audit log is told with a group commit, and what the journal is told of the audit log.

    frames written, synced -> note()   -> the audit actor, which gathers
    a decision, the end    -> settle() -> waited for: before anybody is answered
    the next frame         <- head_of() : an `AuditNoted` with the log's last record

So each of the two names the other's end, and cutting one shows in the other.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sage_actors.messages.errors import SageError, StorageError
from sage_actors.messages.records import AuditNoted, DecisionTaken, encode_records

__all__ = ["head_of", "leave_head", "note"]

_log = logging.getLogger(__name__)


def note(runs: list[Any]) -> None:
    """Tell the log what this group wrote of `runs` (`state._Run`); a decision is recorded before it is answered."""
    audited = [run for run in runs if run.audit is not None and run.error is None]
    for run in audited:
        if run.appends:
            records = [record for append in run.appends for record in append.records]
            run.audit.note(records, run.location, run.writer.tag)
    settled = False
    for run in audited:
        if run.closing is not None or _holds_decision(run):
            try:
                run.audit.check() if settled else run.audit.settle()  # one fsync for all: they share a log
                settled = True
            except Exception as cause:  # noqa: BLE001 - as a failed fsync: this run ends, the actor goes on
                run.error = cause if isinstance(cause, SageError) else StorageError(f"audit log: {cause!r}")


def head_of(run: Any) -> AuditNoted | None:
    """The log's last record, for the frame that is about to be written; None if the journal knows it."""
    return None if run.audit is None else run.audit.news(time.time())


def leave_head(run: Any) -> None:
    """The last frame of a closed run: the log with everything of the run in it.

    It is not synced: a loss of power may take it, and then only the knowledge that the log had gone on.
    """
    head = head_of(run) if run.error is None else None
    if head is None:
        return
    try:
        run.writer.append(encode_records([head]))
    except Exception as cause:  # noqa: BLE001 - the run has ended: what it did is on disk
        _log.warning("the head of the audit log was not noted: %s", cause)


def _holds_decision(run: Any) -> bool:
    return any(type(record) is DecisionTaken for append in run.appends for record in append.records)

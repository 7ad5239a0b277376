"""Which runs of a project were cut short: what a service that starts again goes on with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import NoCheckpointError, SageError
from sage_actors.supervisor.recovery.summaries import Summaries

if TYPE_CHECKING:
    from sage_actors.supervisor.recovery.history import History

__all__ = ["unfinished_runs"]

_log = logging.getLogger(__name__)


def unfinished_runs(state: StateDirectory, keys: KeyRing) -> list[str]:
    """Ids of the runs that nobody carries out and that their process did not end: killed, or stopped on its way down.

    Those last written to come first. One that cannot be read is logged and left out: it must not hide the others.
    """
    book = Summaries(state, keys, kind="unfinished", shape=1, summary=_summary)
    found = []
    for run_id in book.run_ids():
        try:
            said = book.of(run_id)
        except NoCheckpointError:
            continue  # what a process left that was killed before it admitted a run
        except SageError as error:
            _log.warning("run %s cannot be read: %s", run_id, error)
            continue
        if said["status"] == "interrupted" or (said["status"], said["reason"]) == ("paused", "interrupted"):
            found.append(run_id)
    book.keep()
    return found


def _summary(past: History) -> Mapping[str, Any]:
    return {"status": past.status, "reason": past.reason}

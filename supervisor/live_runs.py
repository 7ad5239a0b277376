"""The runs that one process carries out: each by one `Run`, whichever thread asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sage_actors.messages.errors import ActorDeadError, RunLockedError
from sage_actors.supervisor.handle import Run

__all__ = ["NOBODY", "LiveRuns"]

_BEGIN_S = 60.0  # for another thread to begin what it has claimed

NOBODY = Run("", resumed=False, completed=0, notices=[], listening=False)
"""A run that there is not, which asks for nobody in particular."""
NOBODY.finish(None, ActorDeadError("no run"))


class LiveRuns:
    """By id. A run is claimed while it is opened, then it is there until its end."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}  # `NOBODY` where it is claimed only
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Run]:
        with self._changed:
            return iter([run for run in self._runs.values() if run is not NOBODY])

    def add(self, run: Run) -> None:
        """It was claimed, and is carried out from here on."""
        with self._changed:
            self._runs[run.run_id] = run

    def remove(self, run: Run) -> None:
        """It has ended; where another one of that id goes on, that stays."""
        with self._changed:
            if self._runs.get(run.run_id) is run:
                del self._runs[run.run_id]

    @contextmanager
    def claim(self, run_id: str, *, join: bool) -> Iterator[Run | None]:
        """None, and nobody else begins the run of that id meanwhile. With `join`, the one that is carried out already.

        Raises:
            RunLockedError: it is carried out already, or about to be.
        """
        with self._changed:
            if join:  # another thread may be about to begin it
                self._changed.wait_for(lambda: self._runs.get(run_id) is not NOBODY, _BEGIN_S)
            running = self._runs.get(run_id)
            if running is NOBODY or (running is not None and not join):
                raise RunLockedError(f"this supervisor is carrying out run {run_id!r} already")
            if running is None:
                self._runs[run_id] = NOBODY
        try:
            yield running
        finally:
            with self._changed:
                if running is None and self._runs.get(run_id) is NOBODY:
                    del self._runs[run_id]
                self._changed.notify_all()

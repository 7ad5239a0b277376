"""The control socket of a program that carries runs out with the library: it is open as long as a run goes on."""

from __future__ import annotations

import threading
from pathlib import Path

from sage_actors.messages.errors import SageError
from sage_actors.supervisor.control.server import ControlServer
from sage_actors.supervisor.handle import Run

__all__ = ["RunControl"]

_WAIT_S = 10.0  # for the end of a run of the same id, which has been told already


class RunControl:
    """Lets other processes look at the runs of one supervisor, answer them and cancel them; not stop the program."""

    def __init__(self, project: Path) -> None:
        self._server = ControlServer(project)
        self._ends: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def serve(self, run: Run) -> str:
        """Answer for `run` until it ends. Returns why that cannot be, or ""."""
        with self._lock:
            before = self._ends.get(run.run_id)
        if before is not None:
            before.join(_WAIT_S)
        try:
            self._server.serve(run)
        except (SageError, OSError) as error:
            return f"other processes cannot follow or answer this run: {error}"
        end = threading.Thread(target=self._forget, args=(run,), name="sage-control-end", daemon=True)
        with self._lock:
            self._ends[run.run_id] = end
        end.start()
        return ""

    def close(self) -> None:
        """Once all runs have ended: followers get what is left, then the sockets are gone."""
        with self._lock:
            ends = list(self._ends.values())
        for each in ends:
            each.join(_WAIT_S)
        self._server.close()

    def _forget(self, run: Run) -> None:
        try:
            run.result()
        except SageError:
            pass  # its journal tells
        self._server.forget(run.run_id)
        with self._lock:
            if self._ends.get(run.run_id) is threading.current_thread():
                del self._ends[run.run_id]

"""A run's journal read back without carrying the run out: what looking at it and deciding for it share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sage_actors.actors.clock import SystemClock
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal import Image, read_journal
from sage_actors.actors.state.journal_format import Location
from sage_actors.actors.state.journal_reader import FrameStore
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import NoCheckpointError
from sage_actors.messages.records import Record
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions
from sage_actors.supervisor.recovery.restore import Restored, replay
from sage_actors.supervisor.stored_values import StoredValues

__all__ = ["read_run"]


def read_run(
    state: StateDirectory,
    keys: KeyRing,
    run_id: str,
    *,
    watch: Callable[[Location, Record], None] | None = None,
) -> tuple[Image, Restored, list[RunCore]]:
    """A run's journal, folded: its image (walked), its state, and a core for each definition it had.

    `watch` sees every record; if it is a method of an object with a `begin`, that is told of each new core.

    Raises:
        NoCheckpointError: there is no such run.
    """
    directory = state.run_dir(run_id)
    if not state.exists(run_id):
        raise NoCheckpointError(
            f"there is no run {run_id!r} in {state.root}; `sage-actors list` shows the runs"
        )
    image = read_journal(directory, keys)
    ports: Any = StoredValues(FrameStore(directory, keys))
    begin = getattr(getattr(watch, "__self__", None), "begin", None)
    cores: list[RunCore] = []

    def make(spec: WorkflowSpec, header: dict[str, Any]) -> RunCore:
        cores.append(
            RunCore(
                number=0,
                run_id=run_id,
                run_key=f"{run_id}:{image.run_uuid.hex()}",
                plan=compile_plan(spec),
                inputs=header["inputs"],
                ports=ports,
                clock=SystemClock(),
                options=RunOptions(concurrency=spec.concurrency, timeout=spec.timeout),
            )
        )
        if begin is not None:
            begin(cores[-1])
        return cores[-1]

    restored = replay(image.frames, make, watch=watch)
    if restored.run is None:
        raise NoCheckpointError(f"run {run_id!r} is just beginning, or was killed before it was admitted")
    return image, restored, cores

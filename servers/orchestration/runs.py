"""The runs that an orchestration server carries out, and its hand on those of other processes.

One Supervisor for all runs, made when the first one is begun. Each run has its control socket, so that
`sage-actors status|attach|cancel|approve` work from outside as they do for the command line's runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_actors.actors.state.directory import Registry, StateDirectory
from sage_actors.actors.state.locks import RunLock, holder
from sage_actors.messages.errors import NoCheckpointError, RunLockedError, SageError, StateError
from sage_actors.servers.orchestration.errors import ToolRefused
from sage_actors.supervisor.control.client import ControlClient, NoControlError
from sage_actors.supervisor.recovery.acting import act_on_run

if TYPE_CHECKING:
    from sage_actors.messages.definition import WorkflowSpec
    from sage_actors.supervisor.api import Supervisor
    from sage_actors.supervisor.control.server import ControlServer
    from sage_actors.supervisor.handle import Run

__all__ = ["Runs", "Standing"]

_ANSWER_S = 90.0  # a cancel is answered when what runs has ended
_LOOK_S = 5.0
_ADMITTED_S = 30.0
_BY = "sage-orchestration"


@dataclass(frozen=True, slots=True)
class Standing:
    """What changes when a run gets on. ended: operations. people: operations that wait for one.

    stuck: nothing goes on until a person answers. total: operations known so far; no change by itself.
    """

    ended: int = 0
    people: tuple[str, ...] = ()
    stuck: bool = False
    total: int = field(default=0, compare=False)


class Runs:
    """Begins, continues and stops runs of one project. Every method may be called from any thread.

    workers: as `Supervisor`; set it before the first run.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self.workers: int | None = None
        self.state = StateDirectory(project)
        self._lock = threading.Lock()  # one beginning at a time: the second call for a run finds the first
        self._supervisor: Supervisor | None = None
        self._control: ControlServer | None = None
        self._live: dict[str, tuple[Run, threading.Thread]] = {}
        self._closed = False

    def start(self, spec: WorkflowSpec, run_id: str, inputs: Mapping[str, Any]) -> list[str]:
        """Begin or continue a run; durable when this returns. What the user should know about it.

        Raises:
            RunLockedError: it is being carried out already, here or by another process.
            SageError: as `Supervisor.start`.
        """
        return self._carry_out(run_id, lambda one: one.start(spec, run_id=run_id, inputs=inputs))

    def resume(self, run_id: str) -> list[str]:
        """Continue a run on its own definition; as `start`."""
        return self._carry_out(run_id, lambda one: one.resume(run_id))

    def fork(self, run_id: str, phase: str) -> str:
        """Make a run that keeps what does not depend on `phase`, nobody carries it out yet; its id.

        Raises:
            ToolRefused: there is no such phase. UsageError: an operation in it may not be repeated.
        """
        from sage_actors.servers.orchestration.fork import fork_from_phase

        return fork_from_phase(self.state, run_id, phase)

    def carries_out(self, run_id: str) -> bool:
        """Whether this process carries the run out."""
        return run_id in self._live

    def look(self, run_id: str) -> Standing | None:
        """How far a run is, cheap to ask. None: nobody carries it out."""
        live = self._live.get(run_id)
        try:
            if live is not None:
                status = live[0].status()
                return _signature(status.counts, status.waiting, status.running)
            found = ControlClient(self.project, run_id, timeout_s=_LOOK_S).status()
            return _signature(*(found.get(name) or {} for name in ("counts", "waiting", "running")))
        except SageError:
            return Standing() if holder(self.state, run_id) is not None else None

    def cancel(self, run_id: str) -> None:
        """Stop a run, whoever carries it out; on disk when this returns.

        Raises:
            ToolRefused: it has ended.
            SageError: its owner refuses, or it cannot be written.
        """
        live = self._live.get(run_id)
        if live is not None:
            live[0].cancel()
            return
        try:
            ControlClient(self.project, run_id, timeout_s=_ANSWER_S).request("cancel", by=_BY)
        except NoControlError:
            self._cancel_without_owner(run_id)

    def put_away(self, run_id: str) -> Path:
        """Move a run's state to the archive. Raises RunLockedError, StateError, StorageError."""
        lock = RunLock.acquire(self.state, run_id)
        try:
            place = self.state.archive(run_id)
        finally:
            lock.release()
        Registry(self.state).forget(run_id)
        return place

    def close(self) -> None:
        """Stop what runs (resumable) and end every process. Twice is harmless."""
        self._closed = True
        with self._lock:
            supervisor, control = self._supervisor, self._control
            self._supervisor = self._control = None
        if supervisor is not None:
            supervisor.close()
        if control is not None:
            control.close()

    # ------------------------------------------------------------------ parts

    def _carry_out(self, run_id: str, begin: Callable[[Supervisor], Run]) -> list[str]:
        notices: list[str] = []
        with self._lock:
            if self._closed:
                raise ToolRefused("WORKFLOW_NOT_RUNNING", "this server is shutting down")
            before = self._live.get(run_id)
            is_live = before is not None and not before[0].done
            if before is not None and is_live:
                run = before[0]
            else:
                if before is not None:
                    before[1].join()
                run, notices = self._begin(begin)
        self._wait_until_admitted(run)
        if is_live:  # told so only now: whoever called first may still have waited for it
            raise RunLockedError(f"run {run_id} is being carried out by this server")
        return notices

    def _begin(self, begin: Callable[[Supervisor], Run]) -> tuple[Run, list[str]]:
        run = begin(self._supervise())
        notices = list(run.notices)
        if not run.done:
            notices += self._serve(run)
            watcher = threading.Thread(target=self._forget, args=(run,), name="run-end", daemon=True)
            self._live[run.run_id] = run, watcher
            watcher.start()
        return run, notices

    def _supervise(self) -> Supervisor:
        if self._supervisor is None:
            from sage_actors.supervisor.api import Supervisor
            from sage_actors.supervisor.config import load_config
            from sage_actors.supervisor.control.server import ControlServer

            durability = load_config(self.project).durability
            self._supervisor = Supervisor(
                self.project,
                workers=self.workers,
                # what is kept nowhere could not be looked at, nor survive this server
                durability="strict" if durability == "none" else durability,
                search_paths=[self.project / ".sage" / "templates"],
                grants_inputs=False,  # an agent fills them in
            )
            self._control = ControlServer(self.project)
        return self._supervisor

    def _serve(self, run: Run) -> list[str]:
        assert self._control is not None
        try:
            self._control.serve(run)
        except (SageError, OSError) as error:
            return [f"other processes cannot follow or answer this run: {error}"]
        return []

    def _forget(self, run: Run) -> None:
        """In a thread of the run's own, until it ends."""
        try:
            run.result()
        except SageError:
            pass  # its journal tells
        control = self._control
        if control is not None:
            control.forget(run.run_id)
        self._live.pop(run.run_id, None)

    def _wait_until_admitted(self, run: Run) -> None:
        """Until other processes, and a server that is started later, can find the run."""
        from sage_actors.actors.keys.provider import load_keys
        from sage_actors.supervisor.recovery.history import open_history

        deadline = time.monotonic() + _ADMITTED_S
        while True:
            try:
                open_history(self.state, load_keys(create=False), run.run_id)
                return
            except NoCheckpointError:
                if run.done or time.monotonic() > deadline:
                    run.result(0)  # raises why it is not there
                    raise
            time.sleep(0.005)

    def _cancel_without_owner(self, run_id: str) -> None:
        from sage_actors.actors.keys.provider import load_keys

        if holder(self.state, run_id) is not None:
            raise StateError(
                f"run {run_id} is carried out by process {_pid(self.state, run_id)}, which does not answer"
            )
        act_on_run(self.state, load_keys(create=False), run_id, {"action": "cancel"}, by=_BY)


def _signature(counts: Mapping[str, int], waiting: Mapping[str, str], running: Collection[str]) -> Standing:
    people = sorted(node for node, why in waiting.items() if why in ("approval", "in_doubt"))
    return Standing(
        ended=sum(counts.get(each, 0) for each in ("succeeded", "failed", "skipped")),
        total=sum(counts.values()),
        people=tuple(people),
        stuck=bool(people) and len(people) == len(waiting) and not running,
    )


def _pid(state: StateDirectory, run_id: str) -> Any:
    return (holder(state, run_id) or {}).get("pid", "unknown")

"""The library: a Supervisor for a project, which carries out workflows and continues them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from sage_actors.actors.breaker.actor import BreakerPolicy
from sage_actors.actors.clock import Clock, SystemClock
from sage_actors.actors.confinement.plan import describe_gaps
from sage_actors.actors.keys.projects import note_project
from sage_actors.actors.keys.provider import KeyRing, load_keys
from sage_actors.actors.pool.protocol import WorkerPool
from sage_actors.actors.state.directory import Registry, StateDirectory, check_run_id
from sage_actors.actors.user_config import load_user_config
from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.messages.errors import (
    ActorDeadError,
    ChangedDefinitionError,
    DefinitionError,
    NoCheckpointError,
    Problem,
    UsageError,
)
from sage_actors.messages.events import Event
from sage_actors.supervisor.actor_system import ANSWER_S, ActorSystem
from sage_actors.supervisor.callables import (
    all_operations,
    calls_of,
    informed,
    nodes_by_id,
    unusable_calls,
)
from sage_actors.supervisor.config import DURABILITIES, load_config
from sage_actors.supervisor.core.plan import wire_spec
from sage_actors.supervisor.core.run_core import RunOptions
from sage_actors.supervisor.definitions.in_project import project_problems
from sage_actors.supervisor.definitions.inputs import default_run_id, resolve_inputs
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.handle import Outcome, Run, finished_event, outcome_of
from sage_actors.supervisor.host_process import SWITCHING, main_file, package_version
from sage_actors.supervisor.live_runs import NOBODY, LiveRuns
from sage_actors.supervisor.recovery.admission import pack_definition
from sage_actors.supervisor.recovery.changes import Accept
from sage_actors.supervisor.recovery.opening import Opened, Opening
from sage_actors.supervisor.sandboxing import make_confinement, paths_named_by
from sage_actors.supervisor.supervisor import AddRun, Ask, Stop
from sage_actors.supervisor.usage import check_amount, check_whole, refuse_others, refuse_unspeakable

if TYPE_CHECKING:
    from sage_actors.supervisor.control.library import RunControl

__all__ = ["Supervisor", "load"]

_log = logging.getLogger(__name__)
_GRACE_S = 5.0  # between SIGTERM and SIGKILL
_LISTEN_S = 10.0  # for listeners that are behind with the events
_INSPECT_S = 120.0  # for workers to import what a definition names
# Four to six operations at once are wanted where nobody says otherwise.
_WORKERS = max(6, os.cpu_count() or 1)


def load(path: str | Path) -> WorkflowSpec:
    """The workflow in a .json or .yaml file (upstream's two shapes are read, too), checked.

    Raises:
        DefinitionError: all that is wrong with it, each with its place and line.
    """
    from sage_actors.supervisor.templates.library import load_workflow

    return load_workflow(Path(path))


class _StartOptions(TypedDict, total=False):
    """What `start` takes, for type checkers."""

    run_id: str | None
    inputs: Mapping[str, Any] | None
    fresh: bool
    must_exist: bool
    join: bool
    repair: bool
    accept_changes: Accept
    on_event: Callable[[Event], None] | None
    listening: bool


class Supervisor:
    """Carries out workflows in worker processes, and continues those that were interrupted.

    Args:
        project: the directory whose `.sage/state` holds the runs; operations run in it.
        workers: processes for blocking operations, and as many for async ones; started when needed.
        durability: "strict" (a node's dependents start when its result is fsynced), "relaxed" (when it is
            written; a loss of power may undo the last ones) or "none" (nothing is written, no key needed).
        pool: makes another WorkerPool than the local one: called with `deliver`.
        waits_for_people: False: a run ends as paused when only approvals remain.
        keys: the keys that open and seal the state; by default those of `load_keys`.
        breakers: endpoint -> BreakerPolicy or a map of its fields; "*" is the default for all others.
        search_paths: directories where workers find modules, besides the project and sys.path.
        cache: False: take no result from the cache, not even for operations that declare one.
        sandbox: "enforce" (operations are confined, or nothing runs), "degrade" (as far as this machine can) or
            "off"; by default what $SAGE_SANDBOX, the user's config.toml, or else "enforce" says.
        reads: paths outside the project that operations may read. Paths in inputs are not among them: a program
            or an agent that fills inputs in must not widen what operations see.
        grants_inputs: whether an `http` operation may call an address that an input spells out; pass False if anybody
            but the user fills inputs in.
        max_tokens, max_cost: what each run may use, over all processes that carried it out; beyond that it pauses.
            By default the `budget` of its definition.
        control: True lets other processes of the user follow, answer and cancel its runs, as the command line does
            (`sage-actors approve`, `resolve`, `cancel`, `attach`): a socket for each run.

    Settings that are not given here are taken from the project's `.sage/config.toml`, see `config.py`.

    It is a context manager: leaving it stops runs that are still going on (they can be resumed) and ends every
    process. Two supervisors in one process do not disturb each other.
    """

    def __init__(
        self,
        project: str | Path = ".",
        *,
        workers: int | None = None,
        durability: str | None = None,
        pool: Callable[[Callable[[Any], None]], WorkerPool] | None = None,
        waits_for_people: bool = True,
        keys: KeyRing | None = None,
        breakers: Mapping[str, BreakerPolicy | Mapping[str, Any]] | None = None,
        search_paths: Sequence[str | Path] = (),
        grace_s: float | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
        cache: bool = True,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        sandbox: str | None = None,
        reads: Sequence[str | Path] = (),
        grants_inputs: bool = True,
        control: bool = False,
    ) -> None:
        self.project = Path(project).absolute()
        if not self.project.is_dir():
            raise UsageError(f"the project directory {self.project} does not exist")
        refuse_unspeakable(self.project, *search_paths)
        config = load_config(self.project)
        durability = durability or config.durability or "strict"
        if durability not in DURABILITIES:
            raise UsageError(f"durability is one of {', '.join(DURABILITIES)}, not {durability!r}")
        check_whole(workers=workers, max_tokens=max_tokens)
        check_amount("max_cost", max_cost)
        check_amount("grace_s", grace_s)
        self.state = StateDirectory(self.project)
        self.workers = workers or config.workers or _WORKERS
        self.durability = durability
        self._waits_for_people = waits_for_people
        self._has_control = control
        self._control: RunControl | None = None
        self._may_cache = cache and durability != "none"
        self._max_tokens, self._max_cost = max_tokens, max_cost
        self._clock = clock or SystemClock()
        self._environ = dict(os.environ if environ is None else environ)
        self._keys, self._keys_lock = keys, threading.Lock()
        self._search_paths = [str(Path(each).absolute()) for each in search_paths]
        self._grace_s = next(each for each in (grace_s, config.grace_s, _GRACE_S) if each is not None)
        self._numbers = count(1)
        self._registry = Registry(self.state)
        self._runs = LiveRuns()
        self._lock = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._is_stopping = False
        self._stops_at = 0.0  # monotonic: until then what runs has a grace that was promised
        self._listeners: list[threading.Thread] = []
        self._inspected: dict[str, dict[str, Any]] = {}
        user = load_user_config(self._environ)
        self._actors = ActorSystem(
            self.state,
            self.keys,
            clock=self._clock,
            environ=self._environ,
            confine=lambda make_proxy: make_confinement(
                self.project,
                config.sandbox,
                user=user,
                environ=self._environ,
                mode=sandbox,
                reads=[*map(str, reads), *self._search_paths],
                main_path=main_file(),
                make_proxy=make_proxy,
            ),
            breakers={**config.breakers, **_policies(breakers or {})},
            workers=self.workers,
            search_paths=self._search_paths,
            grace_s=self._grace_s,
            durable=durability != "none",
            secrets=user.secrets,
            grants_inputs=grants_inputs,
            make_pool=pool,
        )
        self.audit = self._actors.audit
        SWITCHING.shorten()
        self._opening = Opening(
            self.state,
            self.keys,
            clock=self._clock,
            numbers=lambda: next(self._numbers),
            ports=None,
            version=package_version(),
            search_paths=self._search_paths,
            audit=self.audit,
        )

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Supervisor of {self.project}, {self.durability}{', closed' if self._closed else ''}>"

    def keys(self) -> KeyRing:
        """The keys of this supervisor's state, found (or made) when they are first needed."""
        with self._keys_lock:
            if self._keys is None:
                self._keys = load_keys(environ=self._environ)
                note_project(self.project, self._environ)
            return self._keys

    # ------------------------------------------------------------------ runs

    def start(
        self,
        flow: Workflow | WorkflowSpec,
        *,
        run_id: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        fresh: bool = False,
        must_exist: bool = False,
        join: bool = False,
        repair: bool = False,
        accept_changes: Accept = False,
        on_event: Callable[[Event], None] | None = None,
        listening: bool = True,
    ) -> Run:
        """Begin a run, or continue the one with that id, and return at once.

        Args:
            run_id: by default made from the workflow's name and inputs. The same id again continues the run; if it
                has succeeded, it gives its results again.
            fresh: archive what exists under that id and start anew.
            must_exist: refuse if there is nothing to continue.
            join: if this supervisor is already carrying out the run, with the same definition and inputs, return its
                `Run`: two simultaneous requests with one id get one run.
            repair: first cut a damaged journal back to its longest valid prefix; the rest is kept aside.
            accept_changes: what to do if the run exists under another definition and results would be lost:
                True to go on, or a function that is told what would run again and decides.
            on_event: called with each event, in a thread of its own for each run.
            listening: False: make no events at all (saves a microsecond or two a node).

        Raises:
            DefinitionError: as `check`, or an input is invalid.
            RunLockedError: another process owns the run, or this supervisor is carrying it out already (see `join`).
            ChangedDefinitionError, NoCheckpointError, StateCorruptedError, WrongKeyError, StorageError.
        """
        self._check_usable()
        refuse_others(flow, run_id, inputs)
        self._actors.start_workers()
        spec = self._looked_at(flow)
        values = unpack(pack(resolve_inputs(spec, inputs or {}), what="the inputs"))  # as a resume reads them
        name = check_run_id(default_run_id(spec, values) if run_id is None else run_id)
        options = self._options(spec, listening)
        for node_id, node in _with_own_sandbox(spec):
            if node.operation.sandbox == "trusted":
                self.audit.record("trusted", name, node=node_id)
        with self._claim(name, join=join) as running:
            if running is not None:
                return self._joined(running, spec, values, on_event)
            if self.durability == "none":
                if must_exist:
                    raise NoCheckpointError("durability none keeps nothing that could be resumed")
                opened = self._opening.volatile(name, spec, values, options)
            else:
                opened = self._opening.durable(
                    name,
                    spec,
                    values,
                    options,
                    fresh=fresh,
                    must_exist=must_exist,
                    do_repair=repair,
                    accept=accept_changes,
                )
            return self._begin(opened, on_event)

    def resume(
        self,
        run_id: str,
        *,
        from_node: str | None = None,
        new_run_id: str | None = None,
        repair: bool = False,
        reads_inputs: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> Run:
        """Continue a run with the definition that its journal holds.

        Args:
            from_node: make a new run (`new_run_id`, by default `<run>-from-<node>`) that keeps everything
                that is not downstream of this node.
            repair: as `start`.
            reads_inputs: operations may read paths outside the project that the run's inputs name, if no worker of
                this supervisor has started yet. The command line allows this because its user typed them.

        Raises:
            NoCheckpointError: there is no such run; and as `start`.
        """
        if self.durability == "none":
            raise UsageError("durability none keeps nothing that could be resumed")
        name = check_run_id(run_id)
        notices: list[str] = []
        if from_node is not None:
            from sage_actors.supervisor.recovery.forking import fork

            notices = self._opening.repair(name) if repair else []
            name = fork(self.state, self.keys(), name, from_node, new_run_id, clock=self._clock)
        with self._claim(name):
            opened = self._opening.durable(
                name, None, None, self._options(None, True), must_exist=True, do_repair=repair and not notices
            )
            core = opened.core
            opened.notices[:0] = notices
            named = paths_named_by(core.root.inputs, self.project) if reads_inputs else []
            self._actors.start_workers([*core.search_paths, *named])
            spec = core.plan.spec
            core.options = replace(core.options, concurrency=spec.concurrency, timeout=spec.timeout)
            return self._begin(opened, on_event)

    def run(
        self,
        flow: Workflow | WorkflowSpec,
        *,
        timeout: float | None = None,
        **options: Unpack[_StartOptions],
    ) -> Outcome:
        """`start` and wait for the end. Takes what `start` takes; `timeout` seconds as `Run.result` does."""
        listens = options.get("on_event") is not None or bool(options.get("join")) or self._has_control
        options.setdefault("listening", listens)
        return self.start(flow, **options).result(timeout)

    def check(self, flow: Workflow | WorkflowSpec) -> None:
        """Check a workflow as `start` does before it begins anything.

        Raises:
            DefinitionError: lists everything that is wrong: calls that cannot be imported or whose arguments do not
                fit, servers, tools or skills that do not exist, a sandbox that is wider than what is granted.
        """
        self._check_usable()
        self._looked_at(flow)

    def inspect_calls(self, calls: Collection[str]) -> dict[str, dict[str, Any]]:
        """What a worker finds out about import paths (`package.module:name`), each imported there once, never here:
        whether it is `ok`, else its `error`; `is_async`, `policy`, `parameters`."""
        infos: list[dict[str, Any]] = []
        if unknown := sorted(set(calls) - self._inspected.keys()):
            self._check_usable()
            self._actors.start_workers()
            infos = self._actors.ask(lambda answer: Ask(NOBODY, ("inspect", unknown), answer), _INSPECT_S)
        said = {info["call"]: info for info in infos}
        self._inspected.update(
            {call: info for call, info in said.items() if info["ok"]}
        )  # others may be mended
        return {call: said.get(call) or self._inspected[call] for call in calls}

    def unfinished(self) -> list[str]:
        """The ids of runs to `resume`: those of the project whose process was killed or stopped, and that no process
        carries out now. Runs that failed, were cancelled or wait for a decision are not among them.

        Raises:
            WrongKeyError, KeyUnusableError: there is no key to read them with.
        """
        from sage_actors.supervisor.recovery.unfinished import unfinished_runs

        self._check_usable()
        return [] if self.durability == "none" else unfinished_runs(self.state, self.keys())

    def stop(self, grace_s: float = 10.0) -> None:
        """Start no further nodes. Running ones get `grace_s` seconds to end; then runs end as paused ("interrupted").
        Returns at once; `close` waits for that time."""
        check_amount("grace_s", grace_s)
        if self._is_mine():
            self._is_stopping = True
            self._stops_at = time.monotonic() + grace_s
            self._actors.tell(Stop(grace_s))

    def abort(self) -> None:
        """Stop everything at once. Runs stay resumable."""
        if self._is_mine():
            self._is_stopping = True
            self._stops_at = 0.0
            self._actors.tell(Stop(0))

    def close(self) -> None:
        """Stop what runs (after the time that `stop` has given it, if any), end every process, and answer everyone
        who waits. A second call does nothing, nor does a call in a fork of the process."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if not self._is_mine():
            return
        live = list(self._runs)
        for handle in live:
            handle._done.wait(max(0.0, self._stops_at - time.monotonic()))
        if any(not handle.done for handle in live) and self._actors.is_alive():
            self.abort()
            for handle in live:
                handle._done.wait(self._grace_s + 10.0)
        self._actors.close()
        if self._control is not None:
            self._control.close()
        until = time.monotonic() + _LISTEN_S
        for listener in self._listeners:
            if listener is not threading.current_thread():
                listener.join(max(0.0, until - time.monotonic()))
        SWITCHING.restore()

    def statistics(self) -> Any:
        """Current figures of the worker pool."""
        return self._actors.pool.statistics()

    # ------------------------------------------------------------------ parts

    def _wider(self, spec: WorkflowSpec) -> Iterator[Problem]:
        """What asks for more than the policy grants."""
        policy = self._actors.confinement.policy
        for node_id, node in _with_own_sandbox(spec):
            yield from policy.problems(wire_spec(node.operation), node_id)

    def _begin(self, opened: Opened, on_event: Callable[[Event], None] | None) -> Run:
        core = opened.core
        confinement = self._actors.confinement
        if confinement.mode == "degrade" and confinement.gaps:
            opened.notices.append(describe_gaps(confinement.tier, confinement.gaps, " here"))
        handle = Run(
            core.run_id,
            resumed=opened.resumed,
            completed=core.counts["succeeded"],
            notices=opened.notices,
            listening=core.options.listening,
        )
        self._listen(handle, on_event)
        if opened.finished:
            self._tell_finished(handle, opened)
            return handle
        handle._ask = self._ask
        handle.begun_with = core.plan.spec, core.root.inputs
        if opened.lock is not None:
            try:
                self._registry.note_started(core.run_id, core.plan.spec.name, os.getpid())
            except BaseException:  # a full disk: nothing has begun
                opened.lock.release()
                raise
        self._runs.add(handle)
        try:
            self._actors.supervisor.tell(
                AddRun(
                    handle=handle,
                    core=core,
                    writer=opened.writer,
                    store=opened.store,
                    lock=opened.lock,
                    first=opened.first,
                    resumed=opened.resumed,
                    breakers=opened.breakers,
                    on_end=lambda status: self._note_end(handle, status, durable=opened.lock is not None),
                    audit=opened.audit,
                )
            )
        except BaseException:  # an interrupt: nobody would ever end it
            self._runs.remove(handle)
            raise
        if self._has_control and opened.lock is not None:
            self._serve(handle)
        return handle

    def _serve(self, run: Run) -> None:
        """Open the control socket of `run`. Where there is no place for one it goes on without, and says so."""
        from sage_actors.supervisor.control.library import RunControl  # half of what a supervisor imports

        with self._lock:
            if self._control is None:
                self._control = RunControl(self.project)
        if problem := self._control.serve(run):
            run.notices.append(problem)
            _log.warning("run %s: %s", run.run_id, problem)

    def _joined(
        self,
        run: Run,
        spec: WorkflowSpec,
        inputs: Mapping[str, Any],
        on_event: Callable[[Event], None] | None,
    ) -> Run:
        begun = run.begun_with
        if begun is not None and (
            pack(dict(begun[1])) != pack(dict(inputs)) or pack_definition(begun[0]) != pack_definition(spec)
        ):
            raise ChangedDefinitionError(
                f"this supervisor is carrying out run {run.run_id!r} already, with another definition or other inputs: "
                "wait for its end, or use another run_id"
            )
        self._listen(run, on_event)
        return run

    def _listen(self, run: Run, on_event: Callable[[Event], None] | None) -> None:
        if on_event is None:
            return
        listener = threading.Thread(
            target=_forward, args=(run.events(), on_event), name="sage-events", daemon=True
        )
        self._listeners = [each for each in self._listeners if each.is_alive()] + [listener]
        listener.start()

    def _tell_finished(self, handle: Run, opened: Opened) -> None:
        core, now = opened.core, self._clock.now()
        outcome = outcome_of(core, seconds=0.0, status="succeeded", reason="")
        if core.options.listening:
            data: dict[str, Any] = {"workflow": core.plan.spec.name, "nodes": core.total, "resumed": True}
            data["completed"] = outcome.counts["succeeded"]
            handle.publish(Event("run_started", core.run_id, now, None, data))
            handle.publish(finished_event(outcome, at=now))
        handle.finish(outcome, core=core)

    def _note_end(self, handle: Run, status: str, *, durable: bool) -> None:
        self._runs.remove(handle)
        if durable:
            self._registry.note_ended(handle.run_id, status)

    def _is_mine(self) -> bool:
        """Whether this is the process that made it: a fork has none of its threads and none of its workers."""
        return os.getpid() == self._pid

    def _check_usable(self) -> None:
        if not self._is_mine():
            raise UsageError(
                "this Supervisor belongs to the process that this one was forked from; make one here"
            )

    def _claim(self, run_id: str, *, join: bool = False) -> AbstractContextManager[Run | None]:
        self._check_usable()
        with self._lock:
            if self._closed:
                raise ActorDeadError("this supervisor is closed; make a new one")
            if self._is_stopping:
                raise ActorDeadError(
                    "this supervisor was told to stop and starts nothing further; make a new one"
                )
        if not self._actors.is_alive():
            raise ActorDeadError("the supervisor actor has failed; make a new Supervisor and resume")
        return self._runs.claim(run_id, join=join)

    def _options(self, spec: WorkflowSpec | None, listening: bool) -> RunOptions:
        return RunOptions(
            durability=self.durability,
            concurrency=spec.concurrency if spec else None,
            timeout=spec.timeout if spec else None,
            waits_for_people=self._waits_for_people,
            listening=listening,
            cache=self._may_cache,
            max_tokens=self._max_tokens,
            max_cost=self._max_cost,
            sandbox=self._actors.confinement.describe(),
        )

    def _ask(self, handle: Run, *request: Any) -> Any:
        self._check_usable()
        return self._actors.ask(lambda answer: Ask(handle, request, answer), ANSWER_S)

    def _looked_at(self, flow: Workflow | WorkflowSpec) -> WorkflowSpec:
        """The definition with what a worker says about calls of which only the name is known. Raises as `check`."""
        if isinstance(flow, Workflow):
            spec, calls = flow.to_spec(), flow.unsure_calls()
        else:
            spec, calls = flow, calls_of(flow)
        problems: list[Problem] = []
        if calls:
            problems += unusable_calls(spec, self.inspect_calls(calls))
            spec = informed(spec, self._inspected)
        problems += self._wider(spec)
        problems += project_problems(spec, self.project)
        if problems:
            raise DefinitionError(problems, source=spec.name)
        return spec


def _with_own_sandbox(spec: WorkflowSpec) -> list[tuple[str, NodeSpec]]:
    """The nodes that say how they are to be confined, by their ids."""
    if all(each.sandbox is None for each in all_operations(spec)):
        return []
    return [each for each in nodes_by_id(spec) if each[1].operation.sandbox is not None]


def _policies(given: Mapping[str, BreakerPolicy | Mapping[str, Any]]) -> dict[str, BreakerPolicy]:
    return {
        endpoint: each if isinstance(each, BreakerPolicy) else BreakerPolicy.from_dict(each, place=endpoint)
        for endpoint, each in given.items()
    }


def _forward(events: Any, on_event: Callable[[Event], None]) -> None:
    for event in events:
        try:
            on_event(event)
        except Exception:  # noqa: BLE001 - a listener's mistake is its own: the run goes on, later events come
            _log.exception("a listener failed on %s of run %s", event.event, event.run_id)

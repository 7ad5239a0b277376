"""What is known of one run: its nodes by number, their states, what was reported of them. Decides nothing."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage_actors.actors.clock import Clock
from sage_actors.actors.operations.types import LANES
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import StorageError
from sage_actors.messages.events import Event
from sage_actors.messages.records import Record
from sage_actors.messages.secret_values import KnownValues
from sage_actors.supervisor.core.permits import PermitLine
from sage_actors.supervisor.core.plan import Plan
from sage_actors.supervisor.core.ports import Ports, RunOptions, Scope
from sage_actors.supervisor.core.ready_queue import ReadyQueue

__all__ = ["CHILD", "RunState"]

CHILD = 1 << 32  # in an urgency: it belongs to a child of an expansion


class RunState:
    """One run, as the decisions in `RunCore` find and leave it."""

    def __init__(
        self,
        *,
        number: int,
        run_id: str,
        run_key: str,
        plan: Plan,
        inputs: Mapping[str, Any],
        ports: Ports,
        clock: Clock,
        options: RunOptions,
    ) -> None:
        self.number, self.run_id, self.run_key = number, run_id, run_key
        self.plan, self.ports, self.clock, self.options = plan, ports, clock, options
        self.strict = options.durability == "strict"
        self.volatile = options.durability == "none"
        self.search_paths: list[str] = []  # where its operations' modules are looked for
        size = plan.size

        # Columns by node; an expansion appends its children.
        self.state = bytearray(size)
        self.simple = bytearray(plan.simple)  # see Plan; 0 where a node must be considered
        self.bad = bytearray(size)  # 1: something that it depends on did not succeed
        self.indegree = array("i", plan.indegree)  # dependencies that have not ended
        self.attempts = array("I", bytes(4 * size))
        self.where_stored = array("Q", bytes(8 * size))  # the place of its result, see `note_location`
        self.root = Scope(plan, 0, inputs)
        self.scopes: list[Scope] = []  # of the dynamic nodes, by node - plan.size

        # What is to be done, and who does it.
        self.todo: deque[int] = deque()  # their dependencies have ended: to be considered
        self.ready = tuple(ReadyQueue() for _ in LANES)
        self.solo: tuple[list[int], ...] = tuple([] for _ in LANES)  # heaps of those that run alone
        self.alone: set[int] = set()  # suspects, which run alone from now on
        self.hungry: dict[int, Any] = {}  # the engine's: who has something ready notes itself there
        # Where something may be ready; from `Engine.add` on it is the engine's own set.
        self.lanes = {kind - 1 for kind in set(self.simple) if kind}
        self.op_numbers: list[tuple[int, float | None, bool] | None] = [None] * len(plan.ops)
        self.workers_busy: dict[int, int] = {}  # worker -> how many of its tasks are this run's
        self.running = 0  # nodes that are handed out, or carried out here
        self.unacknowledged = 0  # tokens that `persist` was given and that did not come back
        self.open = size  # nodes that have not ended

        # Results, see run_values.py.
        self.frames: list[Any] = []  # of the journal, as `where_stored` numbers them
        self.values: dict[int, bytes] = {}  # those that somebody needs yet
        self.uses: dict[int, int] = dict(plan.value_uses)  # how many need each yet
        self.decoded: dict[int, Any] = {}  # the last few that were opened
        self.secrets = KnownValues()  # what was handed over, and what must not come back
        self.withholds = _withholds(plan)

        # What went wrong.
        self.tries: dict[int, int] = {}  # attempts that failed, in this retry budget
        self.crashes: dict[int, int] = {}  # workers that it killed
        self.errors: dict[int, dict[str, Any]] = {}  # of the last attempt
        self.fallen_back: dict[int, dict[str, Any]] = {}  # succeeded by their fallback -> why they took it
        self.skip_reasons: dict[int, str] = {}
        self.failed: set[int] = set()  # of the definition itself, not of expansions
        self.excused_failures: set[int] = set()  # of phases that met their `min_success`

        # What nodes wait for.
        self.held: dict[int, str] = {}  # node -> why
        self.doubts: set[int] = set()  # in doubt, until a person says what happened
        self.permits: dict[int, str] = {}  # node -> the endpoint that it may call
        self.line = PermitLine(lambda node, endpoint: self.ports.request_permit(self, node, endpoint))
        self.too_far: set[int] = set()  # nodes whose open endpoint stays open for longer than the patience
        self.asked_cache: set[int] = set()
        self.failing: dict[int, tuple[dict[str, Any], int, dict[str, Any] | None]] = {}  # but for the cache
        self.reserved: dict[int, tuple[int, float]] = {}  # tokens and cost that a node may use

        # Nodes that became many.
        self.children: dict[int, tuple[int, int]] = {}  # the first child and how many
        self.left: dict[int, int] = {}  # children of a foreach that have not ended
        self.sizes: dict[int, int] = {}  # bytes of the results of an expanded node's own children
        self.inner: dict[int, Scope] = {}  # of a sub-workflow, by its node
        self.rooms: dict[int, Any] = {}  # by the node of a sub-workflow that limits its concurrency
        self.roomy: set[int] = set()  # of those, where a place became free and somebody waits
        self.overdue: set[int] = set()  # sub-workflows whose time is up, and which have not ended
        self.spent_s: dict[int, float] = {}  # of their timeouts, in earlier processes

        # What it took. Earlier processes are included, but for `started_at`.
        self.started_at = 0.0
        self.busy_us = 0
        self.busy_before_us = 0  # the part of earlier processes
        self.usage: dict[str, float] = {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
        self.measured: dict[str, Any] = {}  # sizes around digests, tokens that hits saved, artifacts
        self.server_starts: dict[str, int] = {}
        self.printed: dict[int, int] = {}  # characters of output, by node, in this process
        self.counts = {"succeeded": 0, "failed": 0, "skipped": 0, "cached": 0, "retries": 0}
        self.gaps = options.gaps  # what did not confine operations, to be told with each result

        # How it ends.
        self.stopping: str | None = None  # reason; no further dispatch
        self.cancelled = False
        self.timed_out = False
        self.paused: str | None = None  # why it is about to pause, or has
        self.storage_error: StorageError | None = None
        self.status: str | None = None  # once it has ended
        self._ending = False  # the record of its end is written, and not acknowledged

        # What a resume found, for `begin`.
        self.resumed_waits: list[tuple[str, int, float | None]] = []  # reason, node, seconds left
        self.resumed_doubts: list[tuple[int, int]] = []  # node, attempt
        self.resumed_fallbacks: list[int] = []
        self.resumed_failures: list[tuple[int, dict[str, Any]]] = []  # node, error

    # ------------------------------------------------------------------ who is who

    def where(self, node: int) -> tuple[Scope, int]:
        """The scope of a node, and its number inside that scope's plan."""
        size = self.plan.size
        if node < size:
            return self.root, node
        scope = self.scopes[node - size]
        return scope, scope.only if scope.only >= 0 else node - scope.base

    def operation(self, node: int) -> OperationSpec:
        scope, local = self.where(node)
        return scope.plan.ops[scope.plan.op_of[local]]

    def op_number_of(self, node: int) -> int:
        if node < self.plan.size:
            return self.ports.operation_number(self, self.plan.ops[self.plan.op_of[node]])
        return self.ports.operation_number(self, self.operation(node))

    def id_of(self, node: int) -> str:
        scope, local = self.where(node)
        if scope.only >= 0:
            return f"{scope.prefix}[{scope.index}]"
        return scope.prefix + scope.plan.ids[local]

    def is_gate(self, node: int) -> bool:
        scope, local = self.where(node)
        return local >= scope.plan.visible and scope.only < 0

    def find(self, node_id: str) -> int | None:
        """The number of a node by its id, children of expansions included."""
        found = self.plan.by_id.get(node_id)
        if found is not None:
            return found
        for node in range(self.plan.size, self.plan.size + len(self.scopes)):
            if not self.is_gate(node) and self.id_of(node) == node_id:
                return node
        return None

    @property
    def total(self) -> int:
        """Nodes that a person would count: no gates."""
        return self.plan.visible + sum(
            1 for node in range(self.plan.size, len(self.state)) if not self.is_gate(node)
        )

    def _key(self, node: int) -> int:
        """Urgency as one integer: the rank, then for children their order; the node can be read from it."""
        size = self.plan.size
        if node < size:
            return self.plan.rank[node] << 33
        owner = node
        while owner >= size:
            owner = self.scopes[owner - size].owner
        return (self.plan.rank[owner] << 33) | CHILD | (node - size)

    def _node(self, key: int) -> int:
        if key & CHILD:
            return self.plan.size + (key & 0xFFFFFFFF)
        return self.plan.order[key >> 33]

    # ------------------------------------------------------------------ how it stands

    @property
    def is_live(self) -> bool:
        return self.status is None and not self._ending

    @property
    def is_hungry(self) -> bool:
        """Whether a worker would have something to do for it."""
        return (any(self.ready) or any(self.solo)) and self.may_dispatch

    @property
    def may_dispatch(self) -> bool:
        return self.stopping is None and self.storage_error is None and not self._ending

    def uses_endpoint(self, endpoint: str) -> bool:
        """Whether any node of the run names that endpoint, or one holds or waits for it now."""
        return endpoint in self.permits.values() or any(
            operation.endpoint == endpoint
            for plan in (self.plan, *(inner.plan for inner in self.inner.values()))
            for operation in plan.ops
        )

    def forgive(self, rows: Iterable[Sequence[Any]]) -> None:
        """These nodes succeeded, as the rows of `NodesSucceeded` say: what failed before is over."""
        for row in rows:
            error = self.errors.pop(row[0], None)
            if error is not None and row[4] and row[4].get("fallback"):
                self.fallen_back[row[0]] = error
            else:
                self.fallen_back.pop(row[0], None)  # it was made again

    def reason(self, status: str) -> str:
        """Why the run ends with `status`; "" where it succeeded."""
        if status == "paused":
            return self.paused or str(self.stopping)
        if self.timed_out:
            return str(self.stopping)
        if status != "failed":
            return status if status == "cancelled" else ""
        failed = sorted(self.failed - self.excused_failures)
        if not failed:
            return "a node failed"
        first = self.errors.get(failed[0], {})
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        name, kind, text = self.id_of(failed[0]), first.get("type", ""), first.get("message", "")
        return f"{name} failed{more}: {kind}: {text}"

    # ------------------------------------------------------------------ what is told

    def emit(self, event: str, node: int | None, **data: Any) -> None:
        if self.options.listening:
            self.ports.emit(
                self,
                Event(event, self.run_id, self.clock.now(), None if node is None else self.id_of(node), data),
            )

    def persist_records(self, records: list[Record]) -> None:
        """Write something about the run that nothing waits for."""
        self._persist(records)

    def _persist(self, records: list[Record], *, sync: bool = False, token: object | None = None) -> None:
        if self.storage_error is not None:
            return
        if token is not None:
            self.unacknowledged += 1
        self.ports.persist(self, records, sync=sync, token=token)

    def add_usage(self, usage: dict[str, Any]) -> None:
        """Add what an attempt used, and what was measured of it, to what the run did before."""
        for name in self.usage:
            amount = usage.get(name)
            if isinstance(amount, (int, float)):
                self.usage[name] += amount
        if not usage.keys() <= self.usage.keys():
            self._add_measured(usage)

    def _add_measured(self, usage: dict[str, Any]) -> None:
        """What else an operation reported. It comes from a worker: anything may be in it."""
        if usage.get("cached"):
            self.counts["cached"] += 1
        for name in ("raw_bytes", "kept_bytes", "raw_tokens", "kept_tokens", "saved_tokens"):
            amount = usage.get(name)
            if type(amount) is int and amount >= 0:
                self.measured[name] = self.measured.get(name, 0) + amount
        if type(usage.get("tokenizer")) is str:
            self.measured["tokenizer"] = usage["tokenizer"]
        paths = usage.get("artifacts")
        if type(paths) is list:
            known = self.measured.setdefault("artifacts", [])
            known.extend(each for each in paths if type(each) is str and each not in known)
        starts = usage.get("server_starts")
        if type(starts) is dict:
            for server, times in starts.items():
                if type(times) is int and times >= 0:
                    self.server_starts[str(server)] = self.server_starts.get(str(server), 0) + times

    @property
    def context_reloads(self) -> int:
        """Server starts beyond the first of each server."""
        return sum(times - 1 for times in self.server_starts.values() if times > 1)


def _withholds(plan: Plan) -> bool:
    """Whether any node keeps its result secret, sub-workflows included."""
    return any(op.secret_outputs for op in plan.ops) or any(map(_withholds, plan.subplans.values()))

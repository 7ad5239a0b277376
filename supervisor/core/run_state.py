"""What is known of one run: its nodes by number, their states, their values. Decides nothing.

A result stays packed; what a reference means, and what a worker gets, is worked out here.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack

from sage_actors.actors.clock import Clock
from sage_actors.actors.operations.types import LANES
from sage_actors.actors.workers.redaction import add_note
from sage_actors.messages.codec import MAX_RESULT_BYTES, WITHHELD, embed, pack, reveal, unpack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import ExpressionError, ProtocolError, ResultError, SageError, StorageError
from sage_actors.messages.events import Event
from sage_actors.messages.records import LogLines, Record
from sage_actors.messages.secret_scan import Finding, redact_packed, without_known
from sage_actors.messages.secret_values import KnownValues, hand_over
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.permits import PermitLine
from sage_actors.supervisor.core.plan import Plan, node_number
from sage_actors.supervisor.core.ports import Ports, RunOptions, Scope
from sage_actors.supervisor.core.ready_queue import ReadyQueue
from sage_actors.supervisor.definitions.references import Reference, Template

__all__ = ["CHILD", "GATHER", "RunState"]

GATHER = b""  # the packed result of an expanded node: made of its children's when it is read
CHILD = 1 << 32  # in an urgency: it belongs to a child of an expansion
_NIL = pack(None)
# Of the 64 that say where a result is: its record in the frame (which holds at most 64 MiB), and its row in the
# record (of one worker's answers). The rest counts frames.
_RECORD_BITS, _ROW_BITS = 24, 16


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
        self.root = Scope(plan, 0, inputs)
        size = plan.size
        self.state = bytearray(size)
        self.simple = bytearray(plan.simple)
        self.bad = bytearray(size)
        self.indegree = array("i", plan.indegree)
        self.attempts = array("I", bytes(4 * size))
        self.where_stored = array("Q", bytes(8 * size))
        self.frames: list[Any] = []
        self.scopes: list[Scope] = []  # of the dynamic nodes, by node - plan.size
        self.search_paths: list[str] = []  # where its operations' modules are looked for
        self.hungry: dict[int, Any] = {}  # the engine's: who has something ready notes itself there
        self.op_numbers: list[tuple[int, float | None, bool] | None] = [None] * len(plan.ops)
        self.ready = tuple(ReadyQueue() for _ in LANES)
        self.solo: tuple[list[int], ...] = tuple([] for _ in LANES)
        # Where something may be ready; from `Engine.add` on it is the engine's own set.
        self.lanes = {kind - 1 for kind in set(self.simple) if kind}
        self.alone: set[int] = set()
        self.values: dict[int, bytes] = {}
        self.uses: dict[int, int] = dict(plan.value_uses)
        self.decoded: dict[int, Any] = {}
        self.tries: dict[int, int] = {}
        self.crashes: dict[int, int] = {}
        self.errors: dict[int, dict[str, Any]] = {}
        self.skip_reasons: dict[int, str] = {}
        self.children: dict[int, tuple[int, int]] = {}
        self.left: dict[int, int] = {}  # children of a foreach that have not ended
        self.sizes: dict[int, int] = {}  # bytes of the results of an expanded node's own children
        self.inner: dict[int, Scope] = {}
        self.rooms: dict[int, Any] = {}  # by the node of a sub-workflow that limits its concurrency
        self.roomy: set[int] = set()  # of those, where a place became free and somebody waits
        self.overdue: set[int] = set()  # sub-workflows whose time is up, and which have not ended
        self.spent_s: dict[int, float] = {}  # of their timeouts, in earlier processes
        self.held: dict[int, str] = {}
        self.doubts: set[int] = set()
        self.permits: dict[int, str] = {}
        self.asked_cache: set[int] = set()
        self.failing: dict[int, tuple[dict[str, Any], int, dict[str, Any] | None]] = {}  # but for the cache
        self.reserved: dict[int, tuple[int, float]] = {}  # tokens and cost that a node may use
        self.line = PermitLine(lambda node, endpoint: self.ports.request_permit(self, node, endpoint))
        self.failed: set[int] = set()
        self.excused_failures: set[int] = set()
        self.todo: deque[int] = deque()
        self.open = size
        self.running = 0
        self.unacknowledged = 0
        self.workers_busy: dict[int, int] = {}
        self.started_at = 0.0
        self.began_seconds = 0.0
        self.busy_us = 0
        self.busy_before_us = 0  # in earlier processes
        self.usage: dict[str, float] = {"input_tokens": 0, "output_tokens": 0, "cost": 0.0}
        self.measured: dict[str, Any] = {}  # sizes around digests, tokens that hits saved, artifacts
        self.server_starts: dict[str, int] = {}
        self.counts = {"succeeded": 0, "failed": 0, "skipped": 0, "cached": 0, "retries": 0}
        self.stopping: str | None = None  # reason; no further dispatch
        self.cancelled = False
        self.timed_out = False
        self.too_far: set[int] = set()  # nodes whose open endpoint stays open for longer than the patience
        self.paused: str | None = None
        self.storage_error: StorageError | None = None
        self.status: str | None = None
        self.deadline: float | None = None
        self.resumed_waits: list[tuple[str, int, float | None]] = []
        self.resumed_doubts: list[tuple[int, int]] = []
        self.resumed_fallbacks: list[int] = []
        self.resumed_failures: list[tuple[int, dict[str, Any]]] = []
        self._ending = False
        self.secrets = KnownValues()  # what was handed over, and what must not come back
        self.withholds = _withholds(plan)
        self.gaps = options.gaps  # what did not confine operations, to be told with each result

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

    def results(self) -> dict[str, Any]:
        """Results of the nodes that nothing depends on, by id."""
        out: dict[str, Any] = {}
        for node in self.plan.leaves():
            packed = self.value(node)
            out[self.plan.ids[node]] = None if packed is None else reveal(packed)
        return out

    # ------------------------------------------------------------------ values

    def value(self, node: int) -> bytes | None:
        """The packed result of a node as anybody may see it, None if it has none."""
        if self.state[node] not in (st.SUCCEEDED, st.COMMITTING):
            return None
        if self.withholds and self.operation(node).secret_outputs:
            return WITHHELD
        return self._value(node)

    def _value(self, node: int) -> bytes | None:
        packed = self.values.get(node)
        if packed is None:
            if not self.where_stored[node]:
                return None  # what is being written down is a failure
            packed = self.ports.stored_value(self, self._location(node))
        if packed == GATHER:
            packed = self._gather(node)
        return packed

    def stored(self, node: int) -> bytes:
        """The result of a node as it is on disk: empty where it is that of its children."""
        return self.ports.stored_value(self, self._location(node))

    def _location(self, node: int) -> tuple[Any, int, int]:
        stored = self.where_stored[node]
        record = (stored >> _ROW_BITS) & ((1 << _RECORD_BITS) - 1)
        return self.frames[(stored >> _ROW_BITS + _RECORD_BITS) - 1], record, stored & ((1 << _ROW_BITS) - 1)

    def note_location(self, rows: list[Any], location: Any, first_record: int) -> None:
        if location is None:
            return
        if not self.frames or self.frames[-1] != location:
            self.frames.append(location)
        place = (len(self.frames) << _ROW_BITS + _RECORD_BITS) | (first_record << _ROW_BITS)
        stored = self.where_stored
        for i, row in enumerate(rows):
            stored[row[0]] = place | i
        if self.values:
            for row in rows:
                node = row[0]
                if not self.uses.get(node) and node not in self.children:
                    self.values.pop(node, None)

    def _gather(self, node: int) -> bytes:
        """An expanded node's result, put together from its children's without decoding them."""
        inner = self.inner.get(node)
        if inner is not None:
            leaves = inner.plan.leaves()
            parts = [_map_header(len(leaves))]
            for leaf in leaves:
                parts += [pack(inner.plan.ids[leaf]), self.value(inner.base + leaf) or _NIL]
        else:
            first, count = self.children[node]
            parts = [_array_header(count)]
            parts += [self.value(first + i) or _NIL for i in range(count)]
        if sum(map(len, parts)) > MAX_RESULT_BYTES:
            raise ResultError(self._too_large(node))
        return b"".join(parts)

    def _too_large(self, node: int) -> str:
        return (
            f"the results of {self.id_of(node)} together exceed {MAX_RESULT_BYTES:,} bytes: have its operations write "
            "files, and return their paths"
        )

    def weigh(self, node: int, packed: bytes) -> None:
        """`node` has this result, which may be a part of another one's."""
        scope, local = self.where(node)
        if scope.owner >= 0 and (scope.only >= 0 or scope.plan.is_leaf(local)):
            self.sizes[scope.owner] = self.sizes.get(scope.owner, 0) + len(packed)

    def _size_of(self, node: int) -> int:
        """Bytes of an expanded node's result, about: what `_gather` would make of it."""
        first, count = self.children[node]
        inner = self.inner.get(node)
        nested = [each for each in range(first, first + count) if each in self.children]
        if inner is not None:
            nested = [each for each in nested if inner.plan.is_leaf(each - inner.base)]
        return self.sizes.get(node, 0) + sum(map(self._size_of, nested))

    def _handed(self, node: int) -> bytes | None:
        """The packed result of a node for a worker that needs it, secret or not."""
        packed = self.value(node)
        if packed != WITHHELD:
            return packed
        packed = self.values.get(node)
        if packed is None:
            raise ResultError(
                f"the secret output of {self.id_of(node)} is gone; change its `version`, and resume"
            )
        return packed

    def _decoded(self, node: int) -> Any:
        if node in self.decoded:
            return self.decoded[node]
        packed = self._handed(node)
        if packed is None:
            return None  # it may still get one, when it is tried again
        value = unpack(packed)
        while len(self.decoded) >= 8:
            self.decoded.pop(next(iter(self.decoded)))
        self.decoded[node] = value
        return value

    def _release_values(self, node: int) -> None:
        """`node` ended: what it referred to may be forgotten once nobody else needs it."""
        if self.volatile:
            return
        scope, local = self.where(node)
        used = scope.plan.references.get(local)
        if used is None or scope.only >= 0:
            return
        for each in used:
            number = scope.base + each
            left = self.uses.get(number, 0) - 1
            self.uses[number] = left
            if left <= 0:
                self.values.pop(number, None)
                self.decoded.pop(number, None)

    # ------------------------------------------------------------------ templates

    def evaluate(self, scope: Scope, local: int, template: Template) -> Any:
        """`template` with every value opened."""
        return template.evaluate(self._look_up(scope, local, closed=False))

    def _look_up(
        self, scope: Scope, local: int, *, closed: bool, told: list[tuple[str, str]] | None = None
    ) -> Callable[[Reference], Any]:
        """Finds what a reference means. `closed`: whole results stay packed, for a worker to open.

        told: collects the secrets that a worker is handed. What the engine itself evaluates gets none: it
        would write them down.
        """
        phase = scope.plan.spec.nodes[local].phase

        def find(reference: Reference) -> Any:
            kind = reference.kind
            if kind == "node":
                node = scope.base + node_number(scope.plan, phase, reference.name)
                if self.withholds and self.operation(node).secret_outputs:
                    self._tell(told, self._texts_of(node), reference)
                if closed and reference.expression is None and reference.whole:
                    packed = self._handed(node)
                    return None if packed is None else embed(packed)
                return self._decoded(node)
            if kind == "input":
                return scope.inputs.get(reference.name)
            if kind == "item":
                return scope.item
            if kind == "index":
                return scope.index
            secret = self.ports.secret(kind, reference.name)
            self._tell(told, [(f"{kind}.{reference.name}", secret)], reference)
            return secret

        return find

    def _tell(
        self, told: list[tuple[str, str]] | None, secrets: list[tuple[str, str]], reference: Reference
    ) -> None:
        if told is None:
            raise ExpressionError(
                f"{reference.place}: ${{{reference.name}}} is a secret: it can be handed to a worker only, "
                "in `arguments` or in a field of an operation that a worker carries out"
            )
        told += secrets

    def _texts_of(self, node: int) -> list[tuple[str, str]]:
        """(id, text) for each text in a secret result."""
        packed = self._handed(node)
        return [] if packed is None else [(self.id_of(node), text) for text in _texts(reveal(packed))]

    def payload(self, node: int) -> bytes:
        """What the worker gets: the arguments, packed, and which secrets are in them."""
        scope, local = self.where(node)
        payload = scope.plan.payloads[local]
        if isinstance(payload, bytes):
            return payload
        told: list[tuple[str, str]] = []
        value = payload.evaluate(self._look_up(scope, local, closed=True, told=told))
        packed = pack(value, what=f"the arguments of {self.id_of(node)}")
        if not told:
            return packed
        self.secrets.add(told)
        return hand_over(packed, told)

    # ------------------------------------------------------------------ secrets

    def without_secrets(self, value: Any) -> Any:
        """A value from a worker without what this run knows to be secret."""
        return without_known(value, self.secrets) if self.secrets else value

    def cleaned(self, packed: bytes) -> bytes:
        """The same for a packed value."""
        return self._without_known(packed)[0] if self.secrets else packed

    def _clean(self, rows: list[list[Any]]) -> None:
        """Take known secrets out of result rows: not every worker was told of them, nor is each to be believed."""
        for row in rows:
            if self.withholds and self.operation(row[1]).secret_outputs:
                continue
            row[5], findings = self._without_known(row[5])
            row[6] = add_note(self._clean_usage(row[6]), findings)

    def _without_known(self, packed: bytes) -> tuple[bytes, list[Finding]]:
        try:
            return redact_packed(packed, known=self.secrets, only_known=True)
        except ProtocolError as cause:  # nobody could read it: not even whether it holds a secret
            return pack(f"[cannot be read: {cause}]"), []

    def _clean_usage(self, usage: dict[str, Any] | None) -> dict[str, Any] | None:
        whole = usage.pop("whole", None) if usage else None
        usage = self.without_secrets(usage)
        if usage is not None and whole is not None:
            usage["whole"] = self.cleaned(whole)
        return usage

    def _withhold(self, row: list[Any]) -> None:
        """Keep a secret result, [node, attempt, microseconds, result, usage], in memory; the row says there is one."""
        node = row[0]
        self.values[node] = row[3]
        self.secrets.add(self._texts_of(node))
        row[3] = WITHHELD

    def _opened(self, scope: Scope, local: int) -> dict[str, Any]:
        """The payload of a node that the engine itself carries out, with every value opened."""
        payload = scope.plan.payloads[local]
        return dict(unpack(payload) if isinstance(payload, bytes) else self.evaluate(scope, local, payload))

    def _config(self, scope: Scope, local: int) -> dict[str, Any]:
        return dict(self._opened(scope, local)["config"])

    def _question(self, node: int) -> str:
        """What an approval asks."""
        try:
            return str(self._config(*self.where(node)).get("message") or "")
        except SageError:
            return ""  # a value that it shows cannot be read any more; the question stands all the same

    # ------------------------------------------------------------------ what is told

    def emit(self, event: str, node: int | None, **data: Any) -> None:
        if self.options.listening:
            self.ports.emit(
                self,
                Event(event, self.run_id, self.clock.now(), None if node is None else self.id_of(node), data),
            )

    def log_lines(self, rows: list[list[Any]]) -> None:
        """Output of operations, rows of [node, attempt, stream, text]; those of no node are dropped."""
        rows = self.without_secrets([row for row in rows if 0 <= row[0] < len(self.state)])
        self._persist([LogLines(self.clock.now(), rows)])
        for node, attempt, stream, text in rows:
            self.emit("node_log", node, attempt=attempt, stream=stream, text=text)

    def persist_records(self, records: list[Record]) -> None:
        """Write something about the run that nothing waits for."""
        self._persist(records)

    def _persist(self, records: list[Record], *, sync: bool = False, token: object | None = None) -> None:
        if self.storage_error is not None:
            return
        if token is not None:
            self.unacknowledged += 1
        self.ports.persist(self, records, sync=sync, token=token)

    def _add_usage(self, usage: dict[str, Any]) -> None:
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


def _array_header(count: int) -> bytes:
    return bytes(msgpack.Packer().pack_array_header(count))


def _map_header(count: int) -> bytes:
    return bytes(msgpack.Packer().pack_map_header(count))


def _withholds(plan: Plan) -> bool:
    """Whether any node keeps its result secret, sub-workflows included."""
    return any(op.secret_outputs for op in plan.ops) or any(map(_withholds, plan.subplans.values()))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)

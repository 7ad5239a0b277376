"""The decisions about one run: plain code without I/O, threads or randomness. Events in, calls on `ports` out.

A node's way is drawn in `states.py`. Everything that must survive is told to `ports.persist`, with a token; its
acknowledgement comes back through `acknowledged` and only then counts (strict): that is the one place where
a finished node makes its dependents ready.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sage_actors.actors.operations.types import QUEUED
from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import ResultError, SageError, StorageError
from sage_actors.messages.records import (
    DecisionTaken,
    NodeExpanded,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesStarted,
    NodesSucceeded,
    NodeWaiting,
    PhaseCompleted,
    Record,
    RunFinished,
    RunPaused,
)
from sage_actors.messages.wire import Evidence, error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.ports import Ports, RunOptions, Scope
from sage_actors.supervisor.core.run_instances import RunInstances
from sage_actors.supervisor.core.run_state import CHILD, GATHER
from sage_actors.supervisor.definitions.references import parse_template, truthy

__all__ = ["Ports", "RunCore", "RunOptions", "Scope"]

_MAX_CHILDREN = 1_000_000
_TOLD = (
    "raw_bytes",
    "kept_bytes",
    "raw_tokens",
    "kept_tokens",
    "tokenizer",
    "saved_tokens",
    "server_starts",
    "artifacts",
    "stale",
    "redacted",
)


class RunCore(RunInstances):
    """One run. The engine calls in, `ports` is called out; nothing here blocks."""

    # ------------------------------------------------------------------ begin

    def begin(self, *, resumed: bool) -> None:
        """Everything that has no open dependency becomes ready. After `restore`, if there was anything."""
        self.started_at = self.clock.now()
        self.busy_before_us = self.busy_us
        if self.is_limited:
            self.simple = bytearray(len(self.simple))  # each is weighed
        completed = self.counts["succeeded"]
        if self.options.listening:
            said = {} if self.options.sandbox is None else {"sandbox": dict(self.options.sandbox)}
            self.emit("run_started", None, nodes=self.total, resumed=resumed, completed=completed, **said)
        if self.options.timeout is not None:
            self.ports.timer(self, self.clock.monotonic() + self.options.timeout, ("run_timeout", -1, 0))
        self._take_up_waits()
        indegree, state = self.indegree, self.state
        self.todo.extend(
            node for node in range(len(state)) if state[node] == st.PENDING and indegree[node] == 0
        )
        if self.is_limited and (reason := self._spent()) is not None:
            self.stop(reason)
        for node in list(self.children):
            if self.state[node] == st.EXPANDED:
                self._time_instance(node)
            if self.left.get(node) == 0 or (node in self.inner and self.inner[node].open == 0):
                self._close_expansion(node)
        self.settle()

    def _take_up_waits(self) -> None:
        """What waited when the last process ended waits on; what it executed with effect `once` is in doubt."""
        now = self.clock.now()
        for reason, node, delay in self.resumed_waits:
            if reason == "approval":
                self.emit("node_waiting", node, reason=reason, until=None, message=self._question(node))
            else:
                self.ports.timer(self, self.clock.monotonic() + delay, (reason, node, self.attempts[node]))
                self.emit("node_waiting", node, reason=reason, until=now + delay)
        evidence = Evidence(exitcode=None, reason="supervisor died")
        for node, attempt in self.resumed_doubts:
            self.state[node] = st.IN_DOUBT
            self.doubts.add(node)
            record = NodeLost(now, node, attempt, evidence.to_dict(), False, True)
            self._persist([record], sync=True, token=("held",))
        for node in self.doubts:
            self.emit("node_waiting", node, reason="in_doubt", until=None)
        for node, error in self.resumed_failures:
            self.running += 1
            self._fail(node, error)
        for node in self.resumed_fallbacks:
            self.running += 1
            self._take_fallback(node)

    # ------------------------------------------------------------------ readiness

    def settle(self) -> None:
        """Consider every node whose dependencies are done, then look whether the run is at its end."""
        todo = self.todo
        while todo:
            node = todo.popleft()
            if self.state[node] == st.PENDING:
                if self.simple[node] and not self.bad[node]:
                    self._make_ready(node, self.simple[node] - 1)
                else:
                    self._consider(node)
        if self.roomy:
            self._fill_rooms()
        if self.is_hungry:
            self.hungry[self.number] = self
        self._look_for_the_end()

    def _make_ready(self, node: int, lane: int) -> None:
        self.state[node] = st.READY
        self.ready[lane].push(self._key(node))

    def _consider(self, node: int) -> None:
        """All dependencies of `node` ended: run, skip, expand, or wait for something else."""
        if self.overdue and self.is_cut(node):
            self._cut(node)
            return
        scope, local = self.where(node)
        if scope.only < 0 and local in scope.plan.gates:
            self._judge_gate(node, scope, local)
            return
        operation = scope.plan.ops[scope.plan.op_of[local]]
        reason = self._trigger_says_no(node, scope, local, operation) if self.bad[node] else None
        if reason is not None:
            self._skip(node, reason, st.SKIPPED)
            return
        try:
            if scope.only < 0 and not self._condition_holds(scope, local):
                condition = scope.plan.spec.nodes[local].when
                self._skip(node, f"its condition {condition!r} is false", st.EXCUSED)
                return
            if scope.only < 0 and local in scope.plan.foreaches:
                self._expand_foreach(node, scope, local)
            elif operation.type in _ENGINE:
                _ENGINE[operation.type](self, node, scope, local, operation)
            else:
                self._to_worker(node, operation)
        except SageError as error:
            self._fail_undispatched(node, error)

    def _condition_holds(self, scope: Scope, local: int) -> bool:
        when = scope.plan.whens.get(local)
        return when is None or truthy(self.evaluate(scope, local, when))

    def _to_worker(self, node: int, operation: OperationSpec) -> None:
        if self.overdue and self.is_cut(node):
            self._cut(node)
            return
        if self._asks_cache(node, operation) or self._is_over_budget(node, operation):
            return
        if operation.endpoint is not None and node not in self.permits:
            self.state[node] = st.HELD
            self.held[node] = "breaker"
            self.line.want(node, operation.endpoint)
        elif self.rooms and self._waits_for_room(node):
            return
        elif operation.effect == "once" or node in self.alone:
            self.state[node] = st.READY
            heapq.heappush(self.solo[operation.lane], self._key(node))
        else:
            self._make_ready(node, operation.lane)

    def _trigger_says_no(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> str | None:
        """Why `node` must be skipped, or None: its trigger against how its dependencies ended."""
        if operation.trigger == "all_done":
            return None
        parents = [scope.base + each for each in scope.plan.parents_of(local)]
        if operation.trigger == "any_success":
            if not parents or any(self.state[each] == st.SUCCEEDED for each in parents):
                return None
            return "nothing that it depends on succeeded"
        phase = scope.plan.spec.nodes[local].phase
        for each in parents:
            state = self.state[each]
            if state in (st.SUCCEEDED, st.TOLERATED):
                continue
            other = each - scope.base
            if other in scope.plan.gates:
                return f"phase {scope.plan.ids[other]} did not complete"
            elsewhere = phase is not None and scope.plan.spec.nodes[other].phase != phase
            if elsewhere and state != st.EXCUSED:
                continue  # whether that is good enough is judged at the gate of its phase
            if state in (st.SKIPPED, st.EXCUSED):
                return f"{self.id_of(each)} was skipped"
            return f"{self.id_of(each)} failed"
        return None

    def _judge_gate(self, node: int, scope: Scope, local: int) -> None:
        phase = scope.plan.gates[local]
        members = [scope.base + each for each in scope.plan.phase_of.get(phase.id, ())]
        before = [scope.base + each for each in scope.plan.parents_of(local) if each in scope.plan.gates]
        ends = [self.state[each] for each in members]
        succeeded = ends.count(st.SUCCEEDED)
        judged = len(ends) - ends.count(st.EXCUSED)
        if any(self.state[each] != st.SUCCEEDED for each in before):
            good = False
        elif phase.min_success is None:
            good = all(each in (st.SUCCEEDED, st.TOLERATED, st.EXCUSED) for each in ends)
        else:
            good = succeeded >= phase.min_success * judged - 1e-9
            if not good:
                self.paused = (
                    f"phase {scope.prefix}{phase.id}: {succeeded} of {judged} operations succeeded, "
                    f"min_success is {phase.min_success:g}; resume to try the failed ones again"
                )
                return
            self.excused_failures.update(each for each in members if self.state[each] == st.FAILED)
        self._persist([PhaseCompleted(self.clock.now(), scope.prefix + phase.id, succeeded, len(members))])
        self.emit(
            "phase_completed",
            None,
            phase=scope.prefix + phase.id,
            succeeded=succeeded,
            total=len(members),
            ok=good,
        )
        self._end(node, st.SUCCEEDED if good else st.FAILED)

    def _skip(self, node: int, reason: str, state: int) -> None:
        self.skip_reasons[node] = reason
        self.counts["skipped"] += 1
        self._persist([NodeSkipped(self.clock.now(), node, reason)])
        self.emit("node_skipped", node, reason=reason)
        self._end(node, state)

    # ------------------------------------------------------------------ dispatch

    def take(
        self, *, target_us: float, cap: int, estimates: dict[int, float], lane: int
    ) -> tuple[list[tuple[Any, ...]], float]:
        """Up to `cap` ready nodes for one worker, about `target_us` of work: task rows, and the estimate."""
        rows: list[tuple[Any, ...]] = []
        starts: list[tuple[int, int]] = []
        ready, state, attempts, plan = self.ready[lane], self.state, self.attempts, self.plan
        ids, payloads, op_of, order = plan.ids, plan.payloads, plan.op_of, plan.order
        number, key, known = self.number, self.run_key, self.op_numbers
        load = cost = 0.0
        queued = lane in QUEUED
        last_op = -1
        while load < target_us and len(rows) < cap:
            room = cap - len(rows)
            if queued:
                room = int(min(room, (target_us - load) / cost + 1)) if cost else 1
            group = ready.take(room)
            if not group:
                break
            for i, urgency in enumerate(group):
                if urgency & CHILD:
                    node = self._node(urgency)
                    node_id, timeout = self.id_of(node), self.operation(node).timeout
                    payload, op = None, self.op_number_of(node)
                    guarded = self.operation(node).endpoint is not None
                else:
                    node = order[urgency >> 33]
                    node_id, payload = ids[node], payloads[node]
                    op, timeout, guarded = known[op_of[node]] or self._number_operation(op_of[node])
                if op != last_op:
                    cost = 0.0 if not queued else target_us if guarded else estimates.get(op, target_us)
                    last_op = op
                    if rows and load + cost > 2 * target_us:  # a long one: the short ones go without it
                        ready.extend(group[i:])
                        load = target_us
                        break
                if type(payload) is not bytes:
                    try:
                        payload = self.payload(node)
                    except SageError as error:
                        self._fail_undispatched(node, error)
                        continue
                attempt = attempts[node] = attempts[node] + 1
                state[node] = st.RUNNING
                starts.append((node, attempt))
                rows.append((number, node, attempt, op, node_id, key, timeout, payload))
                load += cost
        if rows:
            self.running += len(rows)
            if self.permits:
                for row in rows:
                    self._call_begins(row[1])
            self._persist([NodesStarted(self.clock.now(), starts)])
        return rows, load

    def _number_operation(self, i: int) -> tuple[int, float | None, bool]:
        operation = self.plan.ops[i]
        number = self.ports.operation_number(self, operation)
        # what is guarded never waits in a worker's queue: its permit is for now
        found = self.op_numbers[i] = (number, operation.timeout, operation.endpoint is not None)
        return found

    def take_solo(self, *, lane: int) -> tuple[Any, ...] | None:
        """One node that must run with nothing else in its worker; its start is to be on disk first."""
        solo = self.solo[lane]
        while solo:
            node = self._node(heapq.heappop(solo))
            operation = self.operation(node)
            try:
                payload = self.payload(node)
            except SageError as error:
                self._fail_undispatched(node, error)
                continue
            op = self.ports.operation_number(self, operation)
            attempt = self.attempts[node] = self.attempts[node] + 1
            self.state[node] = st.RUNNING
            self.running += 1
            self._call_begins(node)
            return (
                self.number,
                node,
                attempt,
                op,
                self.id_of(node),
                self.run_key,
                operation.timeout,
                payload,
            )
        return None

    def persist_solo_start(self, row: tuple[Any, ...], token: object) -> None:
        self._persist([NodesStarted(self.clock.now(), [(row[1], row[2])])], sync=True, token=token)

    def announce(self, rows: list[tuple[Any, ...]], worker: int) -> None:
        if self.options.listening:
            for row in rows:
                self.emit("node_started", row[1], attempt=row[2], worker=worker)

    # ------------------------------------------------------------------ answers

    def succeeded(self, rows: list[list[Any]]) -> None:
        """Attempts that answered, as result rows (which are used up); each was checked to be the current one."""
        state, uses, values, size = self.state, self.uses, self.values, self.plan.size
        keep_all, withholds = self.volatile, self.withholds
        if self.secrets:
            self._clean(rows)
        for row in rows:
            del (
                row[3],
                row[0],
            )  # what is left is the journal's row: node, attempt, microseconds, result, usage
            node = row[0]
            state[node] = st.COMMITTING
            if keep_all or node >= size or uses.get(node):
                values[node] = row[3]
            if withholds and self.operation(node).secret_outputs:
                self._withhold(row)
            self.busy_us += row[2]
            if row[4] is not None:
                self._add_usage(row[4])
            if self.asked_cache or row[4] is not None:
                self._keep(row)
        if self.is_limited:
            self._mind_budget()
        if self.permits:
            for row in rows:
                self._return_permit(row[0], True, None)
        if self.rooms:
            for row in rows:
                self._leave(row[0])
        self._commit(rows)

    def _commit(self, rows: Sequence[Sequence[Any]], extra: tuple[Record, ...] = ()) -> None:
        record = NodesSucceeded(self.clock.now(), list(rows))
        early = not self.strict
        self._persist([record, *extra], sync=self.strict, token=("done", rows, early))
        if early and not self.volatile:
            self._finish_rows(rows)

    def _finish_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        """Results are as durable as this run asks: their dependents may start."""
        state, indegree, bad, simple = self.state, self.indegree, self.bad, self.simple
        plan = self.plan
        offsets, targets, size, todo = plan.offsets, plan.targets, plan.size, self.todo
        references, rank = plan.references, plan.rank
        push = [queue.fresh.append for queue in self.ready]
        self.running -= len(rows)
        for node, _attempt, _micros, _payload, _usage in rows:
            state[node] = st.SUCCEEDED
            if node >= size:
                self._end(node, st.SUCCEEDED, counted=True)
                continue
            self.open -= 1
            if references and node in references:
                self._release_values(node)
            for child in targets[offsets[node] : offsets[node + 1]]:
                left = indegree[child] = indegree[child] - 1
                if left == 0:
                    kind = simple[child]
                    if kind and not bad[child]:
                        state[child] = st.READY
                        push[kind - 1](rank[child] << 33)
                    else:
                        todo.append(child)
        if self.errors:
            for row in rows:
                self.errors.pop(row[0], None)  # of an attempt before the one that succeeded
        self.counts["succeeded"] += len(rows)

    def attempt_failed(
        self, node: int, error: dict[str, Any], *, micros: int = 0, usage: dict[str, Any] | None = None
    ) -> None:
        """An attempt ended with an error: try again later, take the fallback, or fail."""
        error, usage = self.without_secrets(error), self.without_secrets(usage)
        operation = self.operation(node)
        self.busy_us += micros
        if usage is not None:
            self._add_usage(usage)
            self._mind_budget()
        retry_after = error.get("retry_after")
        answered: bool | None = bool(
            (error.get("details") or {}).get("answered")
        )  # the endpoint did: it is well
        if error["type"] == "SandboxViolation":
            answered = None  # it was never asked
        self._return_permit(node, answered, retry_after)
        self._leave(node)
        tries = self.tries[node] = self.tries.get(node, 0) + 1
        policy = operation.retry
        wanted = error["type"] in policy.on if policy.on else error.get("retryable", True)
        wanted = wanted and not self.is_cut(node)
        self.errors[node] = error
        attempt = self.attempts[node]
        if wanted and tries < policy.max_attempts:  # also in a cancelled run: resumed, it goes on there
            delay = self._delay(operation, tries, retry_after)
            at = self.clock.now() + delay
            self.counts["retries"] += 1
            self.running -= 1
            self._hold(node, "retry", delay)
            self._persist([NodeFailed(self.clock.now(), node, attempt, error, at, "", micros, usage)])
            self.emit(
                "node_failed", node, attempt=attempt, error=error, will_retry=True, retry_in=round(delay, 3)
            )
        elif not self._asks_for_stale(node, error, micros, usage):
            self._give_up(node, error, micros, usage)

    def _give_up(self, node: int, error: dict[str, Any], micros: int, usage: dict[str, Any] | None) -> None:
        """No further attempt: the fallback, or failure."""
        if not self.operation(node).has_fallback:
            self._fail(node, error, micros=micros, usage=usage)
            return
        attempt = self.attempts[node]
        self._persist([NodeFailed(self.clock.now(), node, attempt, error, None, "", micros, usage)])
        self.emit("node_failed", node, attempt=attempt, error=error, will_retry=False, fallback=True)
        self._take_fallback(node)

    def _delay(self, operation: OperationSpec, tries: int, retry_after: Any) -> float:
        """Exponential backoff with jitter; the other side's Retry-After is a lower bound, up to an hour."""
        policy = operation.retry
        try:
            delay = min(policy.backoff * policy.factor ** (tries - 1), policy.max_delay)
        except OverflowError:
            delay = policy.max_delay
        delay *= 1.0 + policy.jitter * (2.0 * self.ports.random() - 1.0)
        if isinstance(retry_after, (int, float)):
            delay = max(delay, min(float(retry_after), 3600.0))
        return max(delay, 0.0)

    def _hold(self, node: int, why: str, delay: float) -> None:
        self.state[node] = st.HELD
        self.held[node] = why
        self.ports.timer(self, self.clock.monotonic() + delay, (why, node, self.attempts[node]))

    def _fail(
        self, node: int, error: dict[str, Any], *, micros: int = 0, usage: dict[str, Any] | None = None
    ) -> None:
        """For good, under the node's `on_failure`. The node counts as ended when that is on disk."""
        operation = self.operation(node)
        error = self.without_secrets(error)
        self.errors[node] = error
        self.state[node] = st.COMMITTING
        record = NodeFailed(
            self.clock.now(), node, self.attempts[node], error, None, operation.on_failure, micros, usage
        )
        self._persist([record], sync=True, token=("failed", node, operation.on_failure))

    def _fail_undispatched(self, node: int, error: SageError) -> None:
        """Something was wrong before a worker was asked: arguments, a reference, a secret."""
        self.running += 1
        self.attempts[node] += 1
        self._return_permit(node, None, None)
        self._leave(node)
        if self.operation(node).has_fallback:
            self._take_fallback(node)
        else:
            self._fail(node, error_map(type(error).__name__, str(error), retryable=False))

    def _take_fallback(self, node: int) -> None:
        """The node's fallback becomes its result (it must be counted as running)."""
        operation = self.operation(node)
        scope, local = self.where(node)
        try:
            value = self.evaluate(scope, local, parse_template(operation.fallback, place="fallback"))
            packed = self.cleaned(pack(value, what=f"the fallback of {self.id_of(node)}"))
        except SageError as error:
            self._fail(node, error_map(type(error).__name__, str(error), retryable=False))
            return
        self.state[node] = st.COMMITTING
        if self.volatile or self.uses.get(node) or node >= self.plan.size:
            self.values[node] = packed
        self._commit([(node, self.attempts[node], 0, packed, {"fallback": True})])

    def _succeed_here(
        self, node: int, value: bytes, usage: dict[str, Any] | None = None, *extra: Record
    ) -> None:
        """A node that the engine itself carried out, or the cache."""
        if usage is not None:
            self._add_usage(usage)
        value = self.cleaned(value)
        self.running += 1
        self.attempts[node] = max(self.attempts[node], 1)
        self.state[node] = st.COMMITTING
        if self.volatile or self.uses.get(node) or node >= self.plan.size:
            self.values[node] = value
        self._commit([(node, self.attempts[node], 0, value, usage)], extra)

    def _end(self, node: int, state: int, *, counted: bool = False) -> None:
        """`node` ended: tell its dependents, or the expansion that it belongs to."""
        self.state[node] = state
        if state == st.FAILED and not self.is_gate(node):
            self.counts["failed"] += 1
            if node < self.plan.size:
                self.failed.add(node)
        elif state in (st.TOLERATED, st.DROPPED):
            self.counts["failed"] += 1
        elif state == st.SUCCEEDED and not counted and not self.is_gate(node):
            self.counts["succeeded"] += 1
        self.open -= 1
        scope, local = self.where(node)
        self._release_values(node)
        if scope.only < 0:
            indegree, bad, base = self.indegree, self.bad, scope.base
            for child in scope.plan.children(local):
                number = base + child
                if state != st.SUCCEEDED:
                    bad[number] = 1
                left = indegree[number] = indegree[number] - 1
                if left == 0:
                    self.todo.append(number)
        if scope.owner >= 0:
            scope.open -= 1
            if scope.only < 0:
                if state == st.FAILED and local not in scope.plan.gates:
                    scope.failed.append(node)
                if scope.open == 0:
                    self._close_expansion(scope.owner)
            else:
                self._child_ended(scope.owner)

    # ------------------------------------------------------------------ expansions

    def _expand_foreach(self, node: int, scope: Scope, local: int) -> None:
        items = self.evaluate(scope, local, scope.plan.foreaches[local])
        if not isinstance(items, list):
            kind = "null" if items is None else type(items).__name__
            raise ResultError(
                f"foreach of {self.id_of(node)} needs a list, {scope.plan.spec.nodes[local].foreach!r} is {kind}"
            )
        if len(items) > _MAX_CHILDREN:
            raise ResultError(
                f"foreach of {self.id_of(node)}: {len(items)} items; the limit is {_MAX_CHILDREN}"
            )
        if not items:
            self._succeed_here(node, pack([]))
            return
        self._record_expansion(node, pack(items), len(items))

    def _start_workflow(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> None:
        from sage_actors.supervisor.definitions.loading import resolve_inputs

        source = self._opened(scope, local)
        subplan = scope.plan.subplans[local]
        inputs = resolve_inputs(subplan.spec, {**source["arguments"], **source["inputs"]})
        self._record_expansion(node, pack(inputs), subplan.size)

    def _record_expansion(self, node: int, packed: bytes, count: int) -> None:
        self.state[node] = st.EXPANDED
        first = self.expand(node, packed, count)
        record = NodeExpanded(self.clock.now(), node, first, count, hashlib.sha256(packed).digest(), packed)
        self._persist([record], sync=True, token=("expanded", node))

    def expand(self, node: int, packed: bytes, count: int) -> int:
        """Number the children of `node`; they start when `release_children` is called. Returns the first."""
        scope, local = self.where(node)
        first = len(self.state)
        prefix = self.id_of(node)
        data = unpack(packed)
        is_foreach = scope.only < 0 and local in scope.plan.foreaches
        self.children[node] = (first, count)
        self.state[node] = st.EXPANDED
        if is_foreach:
            for i, item in enumerate(data):
                self.scopes.append(
                    Scope(scope.plan, scope.base, scope.inputs, node, prefix, item, i, local, open=1)
                )
            self.indegree.extend([0] * count)
        else:
            subplan = scope.plan.subplans[local]
            inner = Scope(subplan, first, data, node, prefix + "/", scope.item, scope.index, open=count)
            self.inner[node] = inner
            self._open_room(node)
            self.scopes.extend([inner] * count)
            self.indegree.extend(subplan.indegree)
            for each, uses in subplan.value_uses.items():
                self.uses[first + each] = uses
        for column in (self.state, self.simple, self.bad):
            column.extend(bytes(count))
        self.attempts.extend([0] * count)
        self.where_stored.extend([0] * count)
        self.open += count
        self.left[node] = count
        return first

    def release_children(self, node: int) -> None:
        first, count = self.children[node]
        self._time_instance(node)
        self.todo.extend(
            each for each in range(first, first + count) if self.indegree[each] == 0 and not self.state[each]
        )
        if self.left.get(node) == 0:
            self._close_expansion(node)

    def _child_ended(self, owner: int) -> None:
        self.left[owner] -= 1
        if self.left[owner] == 0:
            self._close_expansion(owner)

    def _close_expansion(self, node: int) -> None:
        """All children of `node` ended: its own result, or its own failure."""
        if self.state[node] != st.EXPANDED:
            return
        self.rooms.pop(node, None)
        if self.overdue and self.is_cut(node):
            self._cut(node)
            return
        first, count = self.children[node]
        inner = self.inner.get(node)
        failed = (
            [each for each in inner.failed if each not in self.excused_failures]
            if inner is not None
            else [each for each in range(first, first + count) if self.state[each] == st.FAILED]
        )
        if inner is None:
            failed = failed or [
                each for each in range(first, first + count) if self.state[each] == st.DROPPED
            ]
        self.running += 1
        self.attempts[node] = max(self.attempts[node], 1)
        if node in self.overdue:
            self._fail_overdue(node)
            return
        if failed:
            cause = self.errors.get(failed[0], {}).get("message", "")
            text = f"{len(failed)} of {count} children failed; the first: {self.id_of(failed[0])}: {cause}"
            self._expansion_failed(node, error_map("OperationError", text, retryable=False))
            return
        self.state[node] = st.COMMITTING
        if self.volatile or self.uses.get(node) or node >= self.plan.size:
            self.values[node] = GATHER
        self._commit([(node, self.attempts[node], 0, GATHER, None)])

    def _expansion_failed(self, node: int, error: dict[str, Any]) -> None:
        error = self.without_secrets(error)
        if not self.operation(node).has_fallback:
            self._fail(node, error)
            return
        attempt = self.attempts[node]
        self.errors[node] = error
        self._persist([NodeFailed(self.clock.now(), node, attempt, error, None, "", 0, None)])
        self.emit("node_failed", node, attempt=attempt, error=error, will_retry=False, fallback=True)
        self._take_fallback(node)

    # ------------------------------------------------------------------ people, clocks, breakers

    def _wait(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> None:
        config = self._config(scope, local)
        seconds = _seconds_to_wait(config, self.clock.now())
        until = self.clock.now() + seconds
        self.state[node] = st.HELD
        self.held[node] = "wait"
        self._persist(
            [NodeWaiting(self.clock.now(), node, "wait", until)], sync=True, token=("waiting", node, seconds)
        )
        self.emit("node_waiting", node, reason="wait", until=until)

    def _ask_person(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> None:
        config = self._config(scope, local)
        self.state[node] = st.HELD
        self.held[node] = "approval"
        self._persist([NodeWaiting(self.clock.now(), node, "approval", None)], sync=True, token=("held",))
        self.emit("node_waiting", node, reason="approval", until=None, message=config.get("message", ""))

    def decide(self, node: int, *, approved: bool, data: Any, by: str, token: object) -> None:
        """A person answered an approval. `token` is acknowledged when the answer is on disk."""
        now, data = self.clock.now(), self.without_secrets(data)
        record = DecisionTaken(now, node, "approve" if approved else "reject", data, by)
        result = pack({"approved": True, "data": data, "by": by}, what="the given data")
        del self.held[node]
        if approved:
            self._succeed_here(node, result, None, record)
            self._persist([], sync=True, token=token)
        else:
            self._persist([record], sync=True, token=token)
            self.running += 1
            self.attempts[node] = max(self.attempts[node], 1)
            text = f"{self.id_of(node)} was rejected by {by}" + (f": {data}" if data is not None else "")
            self._fail(node, error_map("RejectedError", text, retryable=False))
        self.settle()

    def resolve(self, node: int, *, how: str, result: Any, by: str, token: object) -> None:
        """A person settled an in-doubt node: how = "retry", "result" or "fail"."""
        result = self.without_secrets(result)
        record = DecisionTaken(self.clock.now(), node, f"resolve-{how}", result, by)
        packed = pack(result, what="the given result")
        self.doubts.discard(node)
        if how == "result":
            self._succeed_here(node, packed, None, record)
            self._persist([], sync=True, token=token)
        elif how == "fail":
            self._persist([record], sync=True, token=token)
            self.running += 1
            text = f"{self.id_of(node)} was in doubt, and was resolved as failed by {by}"
            self._fail(node, error_map("RejectedError", text, retryable=False))
        else:
            self._persist([record], sync=True, token=token)
            self.state[node] = st.PENDING
            self.todo.append(node)
        self.settle()

    def timer_fired(self, why: str, node: int, attempt: int) -> None:
        if why == "run_timeout":
            self.time_out()
            return
        if not self.is_live:
            return  # the run's last record is on its way; a resume goes on here
        if why == "instance_timeout":
            self._cut_off(node)
            self.settle()
            return
        if self.held.get(node) != why or (why == "retry" and self.attempts[node] != attempt):
            return
        del self.held[node]
        if why == "wait":
            self._succeed_here(node, pack({"waited": True}))
        else:
            self.state[node] = st.PENDING
            self._to_worker(node, self.operation(node))
        self.settle()

    def time_out(self) -> None:
        """The whole run took too long."""
        if self.is_live and self.stopping is None:
            self.stopping = f"the run took longer than its timeout of {self.options.timeout:g} s"
            self.timed_out = True

    def permit_granted(self, node: int, endpoint: str) -> None:
        if self.held.get(node) not in ("breaker", "open breaker") or not self.is_live:
            self.ports.report_permit(self, node, endpoint, None, None)
            self.line.left(node, endpoint)
            return
        del self.held[node]
        self.permits[node] = endpoint
        self.state[node] = st.PENDING
        self._to_worker(node, self.operation(node))
        self.settle()

    def permit_waits(self, node: int, endpoint: str, reason: str, until: float | None) -> bool:
        """The endpoint cannot be called now. Returns False if the node does not wait (it has a fallback)."""
        if self.held.get(node) not in ("breaker", "open breaker") or not self.is_live:
            return False
        if reason == "open" and self.operation(node).has_fallback:
            del self.held[node]
            self.line.left(node, endpoint)
            self.running += 1
            self.attempts[node] = max(self.attempts[node], 1)
            self._take_fallback(node)
            self.settle()
            return False
        self.held[node] = "open breaker" if reason == "open" else "breaker"
        self.emit(
            "node_waiting",
            node,
            reason=f"{reason} breaker" if reason == "open" else reason,
            until=until,
            endpoint=endpoint,
        )
        if reason == "open" and until and until > self.clock.now() + self.options.patience_s:
            self.too_far.add(node)
        else:
            self.too_far.discard(node)
        self.settle()
        return True

    def _return_permit(self, node: int, ok: bool | None, retry_after: Any) -> None:
        endpoint = self.permits.pop(node, None)
        if endpoint is not None:
            self.ports.report_permit(self, node, endpoint, ok, retry_after)
            self.line.left(node, endpoint)
            if ok is False:
                self._recall_permits(endpoint)

    def _recall_permits(self, endpoint: str) -> None:
        """A call failed: permits that no node uses yet, and those on their way, are asked for again behind it."""
        unused = [
            node
            for node in self.line.asked(endpoint)
            if self.state[node] in (st.HELD, st.READY) and self.held.get(node) != "open breaker"
        ]
        self._withdraw({self._key(node) for node in unused if node in self.permits})
        for node in unused:
            self.permits.pop(node, None)
            self._leave(node)
            self.state[node] = st.HELD
            self.held[node] = "breaker"
            self.ports.report_permit(self, node, endpoint, None, None)
            self.ports.request_permit(self, node, endpoint)

    def _withdraw(self, urgencies: set[int]) -> None:
        """These are not ready any more."""
        if urgencies:
            for ready, solo in zip(self.ready, self.solo, strict=True):
                ready.discard(urgencies)
                solo[:] = [each for each in solo if each not in urgencies]
                heapq.heapify(solo)

    def _call_begins(self, node: int) -> None:
        """A node that holds a permit was handed to a worker."""
        endpoint = self.permits.get(node)
        if endpoint is not None:
            self.line.left(node, endpoint)

    # ------------------------------------------------------------------ lost workers

    def given_back(self, node: int) -> None:
        """It was queued and never started: ready again, no mark."""
        self.running -= 1
        self.state[node] = st.PENDING
        self._to_worker(node, self.operation(node))

    def not_started(self, node: int, attempt: int) -> None:
        """Its start was written down ahead, and then it was not handed over: no resume shall doubt that."""
        evidence = Evidence(exitcode=None, reason="not started")
        self._persist([NodeLost(self.clock.now(), node, attempt, evidence.to_dict(), False, False)])
        self.given_back(node)

    def lost(self, node: int, evidence: Evidence, *, charged: bool, suspect: bool) -> None:
        """The worker that executed `node` is gone, and there is no answer."""
        operation = self.operation(node)
        doubtful = operation.effect == "once"
        attempt = self.attempts[node]
        self._persist(
            [
                NodeLost(
                    self.clock.now(), node, attempt, evidence.to_dict(), charged and not doubtful, doubtful
                )
            ],
            sync=doubtful,
            token=("doubt", node) if doubtful else None,
        )
        self._return_permit(node, None, None)
        self._leave(node)
        if doubtful:
            self.state[node] = st.IN_DOUBT
            self.doubts.add(node)
            self.running -= 1
            self.emit("node_waiting", node, reason="in_doubt", until=None, evidence=evidence.describe())
            return
        if charged:
            crashes = self.crashes[node] = self.crashes.get(node, 0) + 1
            if crashes >= operation.max_crashes:
                text = f"{self.id_of(node)} killed its worker {crashes} times: {evidence.describe()}"
                self.errors[node] = error = error_map(
                    "PoisonedError", text, retryable=False, details=evidence.to_dict()
                )
                if operation.has_fallback:
                    self._take_fallback(node)
                else:
                    self._fail(node, error)
                return
        if charged or suspect:
            self.alone.add(node)
            self.simple[node] = 0
        self.running -= 1
        self.state[node] = st.PENDING
        self.todo.append(node)

    def abandoned(self, node: int, evidence: Evidence) -> None:
        """Stopped by us (cancel, stop): runs again when the run is resumed."""
        self.lost(node, evidence, charged=False, suspect=False)

    # ------------------------------------------------------------------ durability

    def acknowledged(self, token: Any, location: Any, first_record: int) -> None:
        """What was persisted under `token` is on disk (as far as the durability of this run goes)."""
        self.unacknowledged -= 1
        kind = token[0]
        if self.status is not None:
            return  # it has ended
        if kind == "done":
            rows, early = token[1], token[2]
            self.note_location(rows, location, first_record)
            if not early or self.volatile:
                self._finish_rows(rows)
            self._announce_done(rows)
        elif kind == "failed":
            self._failure_is_durable(token[1], token[2])
        elif kind == "expanded":
            self.release_children(token[1])
        elif kind == "waiting":
            self.ports.timer(self, self.clock.monotonic() + token[2], ("wait", token[1], 0))
        elif kind == "end":
            self.status = token[1]
            self.ports.ended(self)
            return
        self.settle()

    def _announce_done(self, rows: list[Any]) -> None:
        if not self.options.listening:
            return
        for node, attempt, micros, _payload, usage in rows:
            tokens = (usage or {}).get("input_tokens", 0) + (usage or {}).get("output_tokens", 0)
            data: dict[str, Any] = {
                "attempt": attempt,
                "seconds": micros / 1e6,
                "cached": bool(usage and usage.get("cached")),
                "tokens": tokens,
            }
            if usage:
                data |= {name: usage[name] for name in _TOLD if name in usage}
            if usage and usage.get("fallback"):
                data["fallback"] = True
            self.emit("node_succeeded", node, **data)

    def _failure_is_durable(self, node: int, on_failure: str) -> None:
        self.running -= 1
        error = self.errors[node]
        self.emit("node_failed", node, attempt=self.attempts[node], error=error, will_retry=False)
        self._end(node, {"fail": st.FAILED, "continue": st.TOLERATED, "skip": st.DROPPED}[on_failure])

    def storage_failed(self, error: StorageError) -> None:
        """A write failed: dispatch stops, running nodes end, the run pauses and can be resumed."""
        if self.storage_error is None:
            self.storage_error = error
            self.stopping = self.stopping or "storage"
            self._ending = False  # if it was about to end: that could not be written
            self.settle()

    # ------------------------------------------------------------------ the end

    def stop(self, reason: str, *, cancelled: bool = False) -> None:
        """No further dispatch; the run ends as paused (or cancelled) when what runs has ended."""
        if self.stopping is None or cancelled:
            self.stopping = reason
            self.cancelled = self.cancelled or cancelled
        self.settle()

    def _look_for_the_end(self) -> None:
        if self._ending or self.status is not None:
            return
        if self.storage_error is not None:
            if self._executing() == 0:
                self._ending = True
                self._return_permits()
                self.status = "paused"
                self.paused = f"storage: {self.storage_error}"
                self.emit("run_paused", None, reason=self.paused)
                self.ports.ended(self)
            return
        if self.running or self.unacknowledged:
            return
        if self.stopping is not None:
            self._finish_stopped()
        elif self.open == 0:
            failed = self.failed - self.excused_failures
            self._finish("failed" if failed else "succeeded")
        elif not any(self.ready) and not any(self.solo) and not self.todo:
            self._consider_pause()

    def _executing(self) -> int:
        return sum(self.workers_busy.values())

    def _finish_stopped(self) -> None:
        if self.cancelled:
            self._finish("cancelled")
        elif self.timed_out:
            self._finish("failed")
        else:
            self._pause(str(self.stopping))

    def _consider_pause(self) -> None:
        """Nothing runs and nothing is ready: pause unless a clock or a breaker will bring more."""
        waits = set(self.held.values())
        if waits & {"retry", "wait", "breaker", "cache"}:
            return
        if "open breaker" in waits:
            far = all(node in self.too_far for node, why in self.held.items() if why == "open breaker")
            if far and waits <= {"open breaker", "approval"}:
                self._pause("open breaker: an endpoint that is needed stays open")
            return
        if self.doubts:
            ids = ", ".join(sorted(self.id_of(node) for node in self.doubts))
            self._pause(f"in doubt: {ids}; say what happened with `sage-actors resolve`")
        elif self.paused is not None:
            self._pause(self.paused)
        elif "budget" in waits:
            self._pause(self._why_over_budget())
        elif "approval" in waits and not self.options.waits_for_people:
            ids = ", ".join(sorted(self.id_of(node) for node, why in self.held.items() if why == "approval"))
            self._pause(f"approval: {ids}; answer with `sage-actors approve`")

    def _return_permits(self) -> None:
        """What was granted and will not be used."""
        for node in list(self.permits):
            self._return_permit(node, None, None)

    def _pause(self, reason: str) -> None:
        self._ending = True
        self._return_permits()
        self.paused = reason
        self.emit("run_paused", None, reason=reason)
        self._persist([RunPaused(self.clock.now(), reason)], sync=True, token=("end", "paused"))

    def _finish(self, status: str) -> None:
        self._ending = True
        self._return_permits()
        seconds = self.clock.now() - self.started_at
        record = RunFinished(self.clock.now(), status, seconds, dict(self.counts), self.reason(status))
        self._persist([record], sync=True, token=("end", status))


def _seconds_to_wait(config: Mapping[str, Any], now: float) -> float:
    if config.get("until") is not None:
        until = config["until"]
        if isinstance(until, (int, float)) and math.isfinite(until):
            return max(0.0, float(until) - now)
        try:
            moment = datetime.fromisoformat(str(until))
        except ValueError as cause:
            raise ResultError(f"`until` is no ISO 8601 time: {until!r}") from cause
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    seconds = config.get("seconds", 0)
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not math.isfinite(seconds) or seconds < 0:
        raise ResultError(f"`seconds` must be a number that is not negative, not {seconds!r}")
    return float(seconds)


_ENGINE: dict[str, Callable[[RunCore, int, Scope, int, OperationSpec], None]] = {
    "approval": RunCore._ask_person,
    "wait": RunCore._wait,
    "workflow": RunCore._start_workflow,
}

"""The decisions about one run: plain code without I/O, threads or randomness. Events in, calls on `ports` out.

A node's way is drawn in `states.py`. Everything that must survive is told to `ports.persist`, with a token; its
acknowledgement comes back through `acknowledged` and only then counts (strict): that is the one place where
a finished node makes its dependents ready.

One run is one object, written in layers, each of which knows the ones below it:

    RunCore         what is ready, what is handed out, what was lost, what is on disk
    RunEnding       when it is over          RunWaits       people, clocks, breakers
    RunExpansions   foreach, sub-workflows   RunAnswers     results, retries, fallbacks, failure
    RunInstances    a sub-workflow's limits  RunSavings     cache and budgets
    RunValues       results, secrets         RunState       what else is known
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from sage_actors.actors.operations.types import QUEUED
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import SageError, StorageError
from sage_actors.messages.records import (
    NodeLost,
    NodeSkipped,
    NodesStarted,
    PhaseCompleted,
)
from sage_actors.messages.wire import Evidence, error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.ports import Ports, RunOptions, Scope
from sage_actors.supervisor.core.run_ending import RunEnding
from sage_actors.supervisor.core.run_state import CHILD
from sage_actors.supervisor.definitions.references import truthy

__all__ = ["Ports", "RunCore", "RunOptions", "Scope"]

_FEW = 4  # nodes that are taken one by one
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
    "sandbox",
)


class RunCore(RunEnding):
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
            name = self.plan.spec.name
            self.emit(
                "run_started",
                None,
                workflow=name,
                nodes=self.total,
                resumed=resumed,
                completed=completed,
                **said,
            )
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
            if reason == "approval" and delay == 0:
                # A timer would fire only after the pause that asks for the answer.
                del self.held[node]
                self._waited_too_long(node)
                continue
            if delay is not None:
                self.ports.timer(self, self.clock.monotonic() + delay, (reason, node, self.attempts[node]))
            told = {"message": self._question(node)} if reason == "approval" else {}
            self._tell_waiting(node, reason, None if delay is None else now + delay, **told)
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
        self.lanes.add(lane)
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
            self.lanes.add(operation.lane)
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
        complete = all(self.state[each] == st.SUCCEEDED for each in before)
        if not complete and (phase.min_success is None or not succeeded):
            good = False  # nothing here could begin, but for what does not ask how others ended
        elif phase.min_success is None:
            good = all(each in (st.SUCCEEDED, st.TOLERATED, st.EXCUSED) for each in ends)
        else:
            good = succeeded >= phase.min_success * judged - 1e-9
            if not good and complete:
                self.paused = (
                    f"phase {scope.prefix}{phase.id}: {succeeded} of {judged} operations succeeded, "
                    f"min_success is {phase.min_success:g}; resume to try the failed ones again"
                )
                return
            if good:
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
        ready, state, attempts, plan = self.ready[lane], self.state, self.attempts, self.plan
        ids, payloads, op_of, order = plan.ids, plan.payloads, plan.op_of, plan.order
        number, key, known = self.number, self.run_key, self.op_numbers
        load = cost = 0.0
        queued = lane in QUEUED
        last_op = last = -1
        while load < target_us and len(rows) < cap:
            room = cap - len(rows)
            if queued:
                room = int(min(room, (target_us - load) / cost + 1)) if cost else 1
            group = ready.take(room)
            if not group:
                break
            if len(group) > _FEW and (alike := self._alike(group, last)):
                rows += self._started(alike, last_op)
                load += cost * len(alike)
                continue
            for i, urgency in enumerate(group):
                if urgency & CHILD:
                    node = self._node(urgency)
                    node_id, timeout = self.id_of(node), self.operation(node).timeout
                    payload, op, last = None, self.op_number_of(node), -1
                    guarded = self.operation(node).endpoint is not None
                else:
                    node = order[urgency >> 33]
                    node_id, payload, last = ids[node], payloads[node], op_of[node]
                    op, timeout, guarded = known[last] or self._number_operation(last)
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
                rows.append((number, node, attempt, op, node_id, key, timeout, payload))
                load += cost
        if rows:
            self.running += len(rows)
            if self.permits:
                for row in rows:
                    self._call_begins(row[1])
            self._persist([NodesStarted(self.clock.now(), [(row[1], row[2]) for row in rows])])
        return rows, load

    def _alike(self, group: list[int], op: int) -> list[int] | None:
        """The nodes of these urgencies, where each executes plan.ops[op] and nothing is missing in what it is given."""
        plan = self.plan
        if op < 0 or len(self.state) > plan.size:  # some may be children
            return None
        order, op_of, payloads = plan.order, plan.op_of, plan.payloads
        nodes = [order[urgency >> 33] for urgency in group]
        if {op_of[node] for node in nodes} != {op} or {type(payloads[node]) for node in nodes} != {bytes}:
            return None
        return nodes

    def _started(self, nodes: list[int], op: int) -> list[tuple[Any, ...]]:
        """Task rows of nodes that all execute one operation."""
        attempts, state, plan = self.attempts, self.state, self.plan
        number, key, ids, payloads = self.number, self.run_key, plan.ids, plan.payloads
        timeout = self.operation(nodes[0]).timeout
        for node in nodes:
            attempts[node] += 1
            state[node] = st.RUNNING
        return [(number, node, attempts[node], op, ids[node], key, timeout, payloads[node]) for node in nodes]

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
                times = "once" if crashes == 1 else f"{crashes} times"
                text = f"{self.id_of(node)} killed its worker {times}: {evidence.describe()}"
                error = error_map("PoisonedError", text, retryable=False, details=evidence.to_dict())
                self._give_up(node, error, 0, None)
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
            self.ports.timer(self, self.clock.monotonic() + token[2], (token[3], token[1], 0))
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
        self._tell_failed(node, self.errors[node], will_retry=False)
        self._end(node, {"fail": st.FAILED, "continue": st.TOLERATED, "skip": st.DROPPED}[on_failure])

    def storage_failed(self, error: StorageError) -> None:
        """A write failed: dispatch stops, running nodes end, the run pauses and can be resumed."""
        if self.storage_error is None:
            self.storage_error = error
            self.stopping = self.stopping or "storage"
            self._ending = False  # if it was about to end: that could not be written
            self.settle()


_ENGINE: dict[str, Callable[[RunCore, int, Scope, int, OperationSpec], None]] = {
    "approval": RunCore._ask_person,
    "wait": RunCore._wait,
    "workflow": RunCore._start_workflow,
}

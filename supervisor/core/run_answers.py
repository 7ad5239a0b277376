"""What becomes of an attempt that answered: its result, another try, the fallback, failure; and who hears of it.

answer -> journal (COMMITTING) -> acknowledged -> dependents are due     [relaxed: due at once]
error  -> retry timer | an expired result of the cache | fallback | failed, under `on_failure`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import SageError
from sage_actors.messages.records import NodeFailed, NodesSucceeded, Record
from sage_actors.messages.wire import error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_instances import RunInstances
from sage_actors.supervisor.definitions.references import parse_template

__all__ = ["RunAnswers"]


class RunAnswers(RunInstances):
    """The part of a run's decisions about answers. `RunCore` is the whole."""

    if TYPE_CHECKING:

        def _child_ended(self, owner: int) -> None: ...
        def _close_expansion(self, node: int) -> None: ...

    def succeeded(self, rows: list[list[Any]]) -> None:
        """Attempts that answered, as result rows (which are used up); each was checked to be the current one."""
        state, uses, values, size = self.state, self.uses, self.values, self.plan.size
        keep_all, withholds = self.volatile, self.withholds
        if self.secrets:
            self._clean(rows)
        for row in rows:
            # What is left is the journal's row: node, attempt, microseconds, result, usage.
            del row[3], row[0]
            node = row[0]
            state[node] = st.COMMITTING
            if keep_all or node >= size or uses.get(node):
                values[node] = row[3]
            if withholds and self.operation(node).secret_outputs:
                self._withhold(row)
            self.busy_us += row[2]
            if row[4] is not None:
                self.add_usage(row[4])
            if self.asked_cache or row[4] is not None:
                self._keep(row)
        if self.gaps is not None:
            for row in rows:
                row[4] = {**(row[4] or {}), "sandbox": self.gaps}
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
        for node, _attempt, _micros, payload, _usage in rows:
            state[node] = st.SUCCEEDED
            if node >= size:
                self.weigh(node, payload)
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
        if self.errors or self.fallen_back:
            self.forgive(rows)
        self.counts["succeeded"] += len(rows)

    def attempt_failed(
        self, node: int, error: dict[str, Any], *, micros: int = 0, usage: dict[str, Any] | None = None
    ) -> None:
        """An attempt ended with an error: try again later, take the fallback, or fail."""
        error, usage = self.without_secrets(error), self.without_secrets(usage)
        operation = self.operation(node)
        self.busy_us += micros
        if usage is not None:
            self.add_usage(usage)
            self._mind_budget()
        retry_after = error.get("retry_after")
        # Whether the endpoint answered, and so is well; None where it was never asked.
        answered: bool | None = bool((error.get("details") or {}).get("answered"))
        if error["type"] == "SandboxViolation":
            answered = None
        if self.gaps is not None:
            usage = {**(usage or {}), "sandbox": self.gaps}
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
            self._tell_failed(node, error, will_retry=True, retry_in=round(delay, 3))
        elif not self._asks_for_stale(node, error, micros, usage):
            self._give_up(node, error, micros, usage)

    def _tell_failed(self, node: int, error: dict[str, Any], **more: Any) -> None:
        """An attempt failed, and what did not confine it."""
        told = {} if self.gaps is None else {"sandbox": self.gaps}
        self.emit("node_failed", node, attempt=self.attempts[node], error=error, **more, **told)

    def _give_up(
        self, node: int, error: dict[str, Any], micros: int = 0, usage: dict[str, Any] | None = None
    ) -> None:
        """No further attempt: the fallback, or failure."""
        if not self.operation(node).has_fallback:
            self._fail(node, error, micros=micros, usage=usage)
            return
        error = self.errors[node] = self.without_secrets(error)
        attempt = self.attempts[node]
        self._persist([NodeFailed(self.clock.now(), node, attempt, error, None, "", micros, usage)])
        self._tell_failed(node, error, will_retry=False, fallback=True)
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
        """For good, under the node's `on_failure`. The node counts as ended when that is as durable as a result."""
        operation = self.operation(node)
        error = self.without_secrets(error)
        self.errors[node] = error
        self.state[node] = st.COMMITTING
        record = NodeFailed(
            self.clock.now(), node, self.attempts[node], error, None, operation.on_failure, micros, usage
        )
        self._persist([record], sync=self.strict, token=("failed", node, operation.on_failure))

    def _fail_undispatched(self, node: int, error: SageError) -> None:
        """Something was wrong before a worker was asked: arguments, a reference, a secret."""
        self.running += 1
        self.attempts[node] += 1
        self._return_permit(node, None, None)
        self._leave(node)
        self._give_up(node, error_map(type(error).__name__, str(error), retryable=False))

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
            self.add_usage(usage)
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

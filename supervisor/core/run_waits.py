"""Nodes that wait for something else than a worker: a person, a clock, a circuit breaker."""

from __future__ import annotations

import heapq
import math
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import ResultError
from sage_actors.messages.records import DecisionTaken, NodeWaiting
from sage_actors.messages.units import parse_duration
from sage_actors.messages.wire import error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.ports import Scope
from sage_actors.supervisor.core.run_expansions import RunExpansions
from sage_actors.supervisor.core.run_state import RunState

__all__ = ["TOO_LONG", "RunWaits", "resolved_as_failed", "said_of"]

TOO_LONG = "timeout"  # why a `wait` is held that ends with its timeout, before it is over


def said_of(why: str) -> str:
    """Why a node is held, for people."""
    return "wait" if why == TOO_LONG else why


def resolved_as_failed(run: RunState, node: int, by: str) -> dict[str, Any]:
    """The error of a node in doubt of which a person said that it failed: no resume runs it on its own."""
    node_id = run.id_of(node)
    text = (
        f"{node_id} was in doubt, and was resolved as failed by {by}; it runs again after "
        f"`{shlex.join(['sage-actors', 'resolve', run.run_id, node_id, '--retry'])}` only"
    )
    return error_map("RejectedError", text, retryable=False)


class RunWaits(RunExpansions):
    """The part of a run's decisions about waiting nodes. `RunCore` is the whole."""

    def _wait(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> None:
        config = self._config(scope, local)
        seconds, limit = _seconds_to_wait(config, self.clock.now()), operation.timeout
        self._begin_wait(
            node, *(("wait", seconds) if limit is None or seconds <= limit else (TOO_LONG, limit))
        )

    def _ask_person(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> None:
        config = self._config(scope, local)
        self._begin_wait(node, "approval", operation.timeout, message=config.get("message", ""))

    def _begin_wait(self, node: int, why: str, seconds: float | None, **told: Any) -> None:
        """Hold `node`, for `seconds` from now, whatever happens to this process; None: until somebody says so."""
        until = None if seconds is None else self.clock.now() + seconds
        self.state[node] = st.HELD
        self.held[node] = why
        token = ("held",) if seconds is None else ("waiting", node, seconds, why)
        self._persist([NodeWaiting(self.clock.now(), node, why, until)], sync=True, token=token)
        self._tell_waiting(node, why, until, **told)

    def _tell_waiting(self, node: int, why: str, until: float | None, **told: Any) -> None:
        self.emit("node_waiting", node, reason=said_of(why), until=until, **told)

    def _waited_too_long(self, node: int) -> None:
        """The node's `timeout` is over, and nobody answered, or the moment has not come."""
        self.running += 1
        self.attempts[node] = max(self.attempts[node], 1)
        operation = self.operation(node)
        what = "nobody answered within" if operation.type == "approval" else "it waited longer than"
        text = f"{self.id_of(node)}: {what} its timeout of {operation.timeout or 0:g} s"
        self._give_up(node, error_map("TimeoutExceeded", text, retryable=False), 0, None)

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
            self._give_up(node, error_map("RejectedError", text, retryable=False), 0, None)
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
            self._give_up(node, resolved_as_failed(self, node, by), 0, None)
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
        elif why in (TOO_LONG, "approval"):
            self._waited_too_long(node)
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
    seconds = _as_seconds(config.get("seconds", 0))
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not math.isfinite(seconds) or seconds < 0:
        raise ResultError(f"`seconds` must be a number that is not negative, not {seconds!r}")
    return float(seconds)


def _as_seconds(value: Any) -> Any:
    """A duration such as "2h" as its seconds, whether it stands in the definition or a reference gave it."""
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except ValueError as cause:
        raise ResultError(f"`seconds`: {cause}") from cause

"""The supervisor's side of the breaker actor: who asked whether an endpoint may be called, and what was answered.

    a node that names an endpoint     request() -> Granted | Waiting          -> report()
    `context.guard` in an operation   GuardRequest -> Granted | Refused       -> GuardEnded
    any of them                       Transition -> the journal and the events of each run that it concerns

A token names the question, not the node: an answer to one that was taken back is not taken for another's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pykka

from sage_actors.actors.breaker import actor as br
from sage_actors.actors.clock import Clock
from sage_actors.actors.egress.rules import split_authority
from sage_actors.actors.pool import protocol as pp
from sage_actors.messages.records import BreakerChanged
from sage_actors.messages.wire import error_map
from sage_actors.supervisor.core.engine import Engine
from sage_actors.supervisor.core.run_core import RunCore

__all__ = ["OutsideCalls"]

_MOST_GUARDS = 10_000  # of one worker at once, which has room for 1,024 operations
_MOST_BLAMED = 10_000  # that are remembered of one worker


_Token: TypeAlias = tuple[str, int, int]


class OutsideCalls:
    """Lives in the supervisor's thread. `handlers`: message type -> who takes it."""

    def __init__(
        self, engine: Engine, breaker: pykka.ActorRef[Any], pool: pp.WorkerPool, clock: Clock
    ) -> None:
        self._engine, self._breaker, self._pool, self._clock = engine, breaker, pool, clock
        self.states: dict[str, str] = {}  # of each endpoint that changed
        self._asked: dict[tuple[int, int], int] = {}  # (run, node) -> number of its request
        self._requests = 0
        self._guards: dict[int, dict[_Token, pp.Key]] = {}  # by worker: who asked
        self._blamed: dict[int, set[tuple[pp.Key, str]]] = {}  # by worker: who said that an endpoint failed
        self._callers: set[int] = set()  # runs that asked for something
        self._ending: dict[
            int, tuple[RunCore, Callable[[RunCore], None]]
        ] = {}  # of those, which ended a moment ago
        self.handlers: dict[type, Callable[[Any], None]] = {
            pp.GuardRequest: self._guard_request,
            pp.GuardEnded: self._guard_ended,
            br.Granted: self._granted,
            br.Waiting: self._waiting,
            br.Refused: self._refused,
            br.Transition: self._transition,
            br.Settled: self._settled,
        }

    def restore(self, states: Mapping[str, tuple[str, float]]) -> None:
        """What a journal says: endpoint -> (state, until)."""
        for endpoint, (state, until) in states.items():
            self._breaker.tell(br.Restore(endpoint, br.State(state), until))

    def request(self, run: RunCore, node: int, endpoint: str) -> None:
        self._requests += 1
        self._asked[run.number, node] = self._requests
        self._callers.add(run.number)
        self._breaker.tell(br.Request(endpoint, (run.number, node, self._requests)))

    def report(
        self, run: RunCore, node: int, endpoint: str, ok: bool | None, retry_after: float | None
    ) -> None:
        token = (run.number, node, self._asked.pop((run.number, node), 0))
        if ok is None:
            self._breaker.tell(br.Forget(token))
        else:
            self._breaker.tell(br.Report(endpoint, token, ok, retry_after))

    def worker_lost(self, worker: int) -> None:
        """Nobody will say how the calls of its operations ended."""
        for token in self._guards.pop(worker, {}):
            self._breaker.tell(br.Forget(token))
        self._blamed.pop(worker, None)

    def settle(self, run: RunCore, then: Callable[[RunCore], None]) -> None:
        """`then(run)` once all that its last calls did to a breaker was told: it belongs into its journal."""
        if run.number not in self._callers:
            then(run)
            return
        self._ending[run.number] = (run, then)
        try:
            self._breaker.tell(br.Settle(run.number))
        except pykka.ActorDeadError:
            self._settled(br.Settled(run.number))

    def forget(self, run: RunCore) -> None:
        """It has ended."""
        self._callers.discard(run.number)
        for key in [key for key in self._asked if key[0] == run.number]:
            del self._asked[key]

    def _settled(self, message: br.Settled) -> None:
        found = self._ending.pop(message.run, None)
        if found is not None:
            run, then = found
            then(run)

    def _guard_request(self, message: pp.GuardRequest) -> None:
        token = ("guard", message.worker, message.token)
        asked = self._guards.setdefault(message.worker, {})
        if len(asked) >= _MOST_GUARDS:  # it would cost all runs their time, and the supervisor its memory
            self._pool.kill(message.worker, "protocol", grace_s=0.0)
            return
        asked[token] = (message.run, message.node, message.attempt)
        self._callers.add(message.run)
        self._breaker.tell(br.Request(message.endpoint, token))

    def _guard_ended(self, message: pp.GuardEnded) -> None:
        token = ("guard", message.worker, message.token)
        asker = self._guards.get(message.worker, {}).pop(token, None)
        if asker is None or (not message.ok and self._was_said(message, asker)):
            self._breaker.tell(br.Forget(token))
        else:
            self._breaker.tell(br.Report(message.endpoint, token, message.ok))

    def _was_said(self, message: pp.GuardEnded, asker: pp.Key) -> bool:
        """Whether this attempt said already that the endpoint fails, which is not its own alone.

        A node that names an endpoint has one voice an attempt; one that does not shall not have more, and so close to
        others by itself what they name.
        """
        if not self._is_of_others(message.endpoint, asker):
            return False
        said = self._blamed.setdefault(message.worker, set())
        if (asker, message.endpoint) in said:
            return True
        if len(said) >= _MOST_BLAMED:
            said.clear()
        said.add((asker, message.endpoint))
        return False

    def _is_of_others(self, endpoint: str, asker: pp.Key) -> bool:
        """Whether nodes of a run, or the egress proxy, ask the breaker of that name as well."""
        run = self._engine.runs.get(asker[0])
        if (
            run is not None
            and 0 <= asker[1] < len(run.state)
            and run.operation(asker[1]).endpoint == endpoint
        ):
            return False
        return _is_host(endpoint) or any(each.uses_endpoint(endpoint) for each in self._engine.runs.values())

    def _granted(self, message: br.Granted) -> None:
        token: Any = message.token
        if token[0] == "guard":
            self._pool.permit(token[1], token[2], True)
            return
        run = self._engine.runs.get(token[0])
        if run is None or self._is_old(token):
            self._breaker.tell(br.Forget(token))
        else:
            run.permit_granted(token[1], message.endpoint)
            self._engine.dispatch()

    def _is_old(self, token: Any) -> bool:
        """Whether this answers a request that was taken back: it may have been on its way already."""
        return bool(self._asked.get((token[0], token[1])) != token[2])

    def _waiting(self, message: br.Waiting) -> None:
        token: Any = message.token
        if token[0] == "guard":
            if message.reason == "open":
                self._breaker.tell(br.Withdraw(token))
                self._refuse_guard(token, message.endpoint, _why_open(message.until))
            return
        if self._is_old(token):
            return
        run = self._engine.runs.get(token[0])
        if run is None or not run.permit_waits(token[1], message.endpoint, message.reason, message.until):
            self._asked.pop((token[0], token[1]), None)
            self._breaker.tell(br.Withdraw(token))
        self._engine.dispatch()

    def _refused(self, message: br.Refused) -> None:
        token: Any = message.token
        if token[0] == "guard":
            self._refuse_guard(token, message.endpoint, message.reason)

    def _refuse_guard(self, token: _Token, endpoint: str, why: str) -> None:
        self._guards.get(token[1], {}).pop(token, None)
        error = error_map("BreakerOpenError", f"endpoint {endpoint!r} may not be called now: {why}")
        self._pool.permit(token[1], token[2], False, error)

    def _transition(self, message: br.Transition) -> None:
        self.states[message.endpoint] = new = str(message.new)
        record = BreakerChanged(self._clock.now(), message.endpoint, new, message.open_until)
        for run in [*self._engine.runs.values(), *(run for run, _ in self._ending.values())]:
            if run.uses_endpoint(message.endpoint):
                run.persist_records([record])
                run.emit(
                    "breaker",
                    None,
                    endpoint=message.endpoint,
                    state=new,
                    open_until=message.open_until or None,
                    failures=message.failures,
                )


def _is_host(endpoint: str) -> bool:
    """Whether it is named as the proxy names hosts."""
    try:
        split_authority(endpoint)
    except ValueError:
        return False
    return True


def _why_open(until: float | None) -> str:
    moment = f" until {datetime.fromtimestamp(until, UTC):%H:%M:%S} UTC" if until else ""
    hint = "give the operation a `retry`, or name the endpoint as its `endpoint`: then it waits"
    return f"its circuit breaker is open{moment}; {hint}"

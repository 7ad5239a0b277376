"""The actors of one supervisor, started together and ended in the reverse order.

StateActor        writes checkpoints            AuditActor     records, in a log of its own
SupervisorActor   decides; it serves the pool   BreakerActor   whether an endpoint may be called
worker pool       executes                      CacheActor     whether something was asked before
                                                EgressProxy    the way out, once somebody takes it
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pykka

from sage_actors.actors.audit.actor import Audit
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.breaker.actor import BreakerActor, BreakerPolicy
from sage_actors.actors.cache.actor import CacheActor
from sage_actors.actors.cache.store import ResultCache
from sage_actors.actors.clock import Clock
from sage_actors.actors.confinement.plan import Confinement
from sage_actors.actors.egress.doorman import Proxy
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.pool.protocol import WorkerPool
from sage_actors.actors.state.actor import StateActor
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import ActorDeadError, SageError
from sage_actors.messages.secret_scan import SecretsPolicy
from sage_actors.supervisor.host_process import main_path
from sage_actors.supervisor.supervisor import SupervisorActor

if TYPE_CHECKING:
    from sage_actors.actors.egress.decisions import Decision
    from sage_actors.actors.egress.gate import BreakerGate
    from sage_actors.actors.pool.io_loop import IoLoop

__all__ = ["ANSWER_S", "ActorSystem"]

ANSWER_S = 60.0
"""For an actor to answer, or to end."""


class ActorSystem:
    """Speak to `supervisor` by `tell`, or by `ask` here.

    Args:
        keys: those of the state, asked for when they are first needed.
        confine: what workers may touch, made with what makes the egress proxy.
        breakers: the policy of each endpoint; "*" is that of all others.
        search_paths: where workers find modules, besides the project and sys.path.
        grace_s: between SIGTERM and SIGKILL.
        durable: False records nothing in an audit log.
        make_pool: makes another pool than the local one, given who takes its events.
    """

    def __init__(
        self,
        state: StateDirectory,
        keys: Callable[[], KeyRing],
        *,
        clock: Clock,
        environ: Mapping[str, str],
        confine: Callable[[Callable[[], Proxy]], Confinement],
        breakers: Mapping[str, BreakerPolicy],
        workers: int,
        search_paths: Sequence[str],
        grace_s: float,
        durable: bool,
        secrets: SecretsPolicy,
        grants_inputs: bool,
        make_pool: Callable[[Callable[[Any], None]], WorkerPool] | None,
    ) -> None:
        self._state, self._keys, self._clock, self._environ = state, keys, clock, environ
        self._breakers, self._search_paths, self._grace_s = dict(breakers), list(search_paths), grace_s
        self._gate: BreakerGate | None = None
        self._lock = threading.Lock()
        self._has_workers = False
        self.confinement = confine(self._make_proxy)
        self.audit = Audit(self._open_audit_log if durable else None)
        self.audit.sandbox = self.confinement.describe()
        self._state_actor = StateActor.start()
        self.supervisor = SupervisorActor.start(
            clock=clock,
            workers=workers,
            state=self._state_actor,
            make_pool=self._local_pool if make_pool is None else lambda deliver, loop: make_pool(deliver),
            make_breaker=self._start_breaker,
            make_cache=self._start_cache,
            random=random.Random().random,
            environ=environ,
            grants_inputs=grants_inputs,
            secrets=secrets,
        )
        proxy: Any = self.supervisor.proxy()
        self.pool: WorkerPool = proxy.pool.get(timeout=ANSWER_S)

    def start_workers(self, reads: Sequence[str] = ()) -> None:
        """The keeper starts with the first run: what that names (`reads`) can then be shown to all workers."""
        with self._lock:
            if not self._has_workers:
                self.confinement.policy.add_reads(reads)
                self.pool.start()
                self._has_workers = True

    def is_alive(self) -> bool:
        """Whether the supervisor actor still decides."""
        return self.supervisor.is_alive()

    def tell(self, message: Any) -> None:
        """To the supervisor actor, if there still is one."""
        with contextlib.suppress(pykka.ActorDeadError):  # closed: nothing runs
            self.supervisor.tell(message)

    def ask(
        self, message_with: Callable[[Callable[[Any, BaseException | None], None]], Any], timeout_s: float
    ) -> Any:
        """What the supervisor actor answers to the message that `message_with` makes with who takes the answer.

        Raises:
            ActorDeadError: it has stopped. SageError: it did not answer in time. Or what it answers with.
        """
        done = threading.Event()
        box: list[Any] = []

        def answer(value: Any, error: BaseException | None) -> None:
            box.extend((value, error))
            done.set()

        try:
            self.supervisor.tell(message_with(answer))
        except pykka.ActorDeadError as cause:
            raise ActorDeadError("the supervisor has stopped") from cause
        if not done.wait(timeout_s):
            raise SageError(f"the supervisor did not answer within {timeout_s:g} s")
        if box[1] is not None:
            raise box[1]
        return box[0]

    def close(self) -> None:
        """End every process, and then every actor; each answers whoever waits for it."""
        for step in (
            lambda: self.pool.close(),
            lambda: self.supervisor.stop(timeout=ANSWER_S),
            lambda: self._breaker.stop(timeout=ANSWER_S),
            lambda: self._cache.stop(timeout=ANSWER_S),
            lambda: self._state_actor.stop(timeout=ANSWER_S),
            lambda: self.audit.close(),
        ):
            with contextlib.suppress(pykka.ActorDeadError):
                step()

    # ------------------------------------------------------------------ each of them

    def _local_pool(self, deliver: Callable[[Any], None], loop: IoLoop) -> WorkerPool:
        from sage_actors.actors.pool.ahead import import_paths
        from sage_actors.actors.pool.pool import LocalPool

        return LocalPool(
            project=self._state.project,
            deliver=deliver,
            loop=loop,
            environ={key: value for key, value in self._environ.items() if key != "SAGE_STATE_KEY"},
            main_path=main_path(),
            sys_path=import_paths(),
            user_paths=self._search_paths,
            grace_s=self._grace_s,
            confinement=self.confinement,
        )

    def _start_cache(self, deliver: Callable[[Any], None]) -> pykka.ActorRef[Any]:
        project = self._state.project

        def open_cache() -> ResultCache:
            return ResultCache(project / ".sage" / "cache", self._keys(), now=self._clock.now)

        self._cache: pykka.ActorRef[Any] = CacheActor.start(
            open_cache=open_cache, deliver=deliver, project=project, clock=self._clock
        )
        return self._cache

    def _start_breaker(
        self, deliver: Callable[[Any], None], call_at: Callable[..., None]
    ) -> pykka.ActorRef[Any]:
        policies = self._breakers.copy()
        default = policies.pop("*", BreakerPolicy())

        def lead(event: Any) -> None:
            """The proxy's answers to its gate, all others to the supervisor."""
            if self._gate is None or not self._gate.deliver(event):
                deliver(event)

        self._breaker: pykka.ActorRef[Any] = BreakerActor.start(policies, default, self._clock, lead, call_at)
        return self._breaker

    def _open_audit_log(self) -> AuditLog:
        return AuditLog(self._state, self._keys(), now=self._clock.now)

    def _make_proxy(self) -> Proxy:
        """The way out of the sandbox, once somebody takes it."""
        from sage_actors.actors.egress.gate import BreakerGate
        from sage_actors.actors.egress.proxy import EgressProxy

        self._gate = BreakerGate(self._breaker.tell)
        return EgressProxy(self._on_egress, gate=self._gate)

    def _on_egress(self, decision: Decision) -> None:
        """Told in the proxy's thread. What was refused is also said in the node's log, with what would grant it."""
        run, _, node = decision.label.partition("/")
        said = {name: value for name, value in asdict(decision).items() if value not in ("", 0)}
        self.audit.record("egress", run if node else None, **said)
        if decision.decision == "allow":
            self.audit.check()  # what cannot be recorded does not go out: the proxy refuses it
        tell = getattr(self.pool, "note", None)
        if decision.decision == "deny" and node and tell is not None:
            where = f"{decision.host}:{decision.port}"
            hint = f"; {decision.hint}" if decision.hint else ""
            tell(decision.label, f"sandbox: {where} is refused: {decision.why}{hint}\n")

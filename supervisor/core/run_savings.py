"""What a run saves and what it may spend: nodes that the cache answers, and tokens and money that are reserved.

due -> budget: does what the node may use fit beside what was used and is reserved?   no: HELD, "budget"
    -> cache:  was this asked before?                                                  yes: its result
    -> permit, worker                                                                  (run_core)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sage_actors.actors.cache.actor import CacheQuestion
from sage_actors.actors.cache.store import DEFAULT_TTL_S, CacheEntry
from sage_actors.messages.definition import OperationSpec
from sage_actors.servers.catalog import SAGE_SERVERS
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_values import RunValues

__all__ = ["RunSavings", "question_of"]

_WORKING = (st.READY, st.RUNNING)
_LARGER = "resume with a larger budget (--max-tokens; max_tokens= or max_cost= of a Supervisor)"
_TOLD_AGAIN = ("raw_bytes", "kept_bytes", "raw_tokens", "kept_tokens", "tokenizer")


class RunSavings(RunValues):
    """The part of a run's decisions that asks the cache and minds the budget. `RunCore` is the whole."""

    if TYPE_CHECKING:

        def _to_worker(self, node: int, operation: OperationSpec) -> None: ...
        def _succeed_here(self, node: int, value: bytes, usage: dict[str, Any] | None) -> None: ...
        def _give_up(
            self, node: int, error: dict[str, Any], micros: int = 0, usage: dict[str, Any] | None = None
        ) -> None: ...
        def stop(self, reason: str, *, cancelled: bool = False) -> None: ...
        def settle(self) -> None: ...

    # ------------------------------------------------------------------ cache

    def _asks_cache(self, node: int, operation: OperationSpec) -> bool:
        """Whether `node` waits for the cache now: it is asked once, before the first attempt."""
        if node in self.asked_cache or not _is_cacheable(operation) or not self.options.cache:
            return False
        self.asked_cache.add(node)
        self._ask(node, operation, stale=False)
        return True

    def _asks_for_stale(
        self, node: int, error: dict[str, Any], micros: int, usage: dict[str, Any] | None
    ) -> bool:
        """Whether a node that failed for good waits for an expired result (RFC 5861, stale-if-error)."""
        operation = self.operation(node)
        if not (
            self.options.cache and _is_cacheable(operation) and (operation.cache or {}).get("stale_if_error")
        ):
            return False
        self.failing[node] = (error, micros, usage)
        self.running -= 1
        self._ask(node, operation, stale=True)
        return True

    def _ask(self, node: int, operation: OperationSpec, *, stale: bool) -> None:
        self.state[node] = st.HELD
        self.held[node] = "cache"
        self.ports.ask_cache(self, node, question_of(operation, self.payload(node)), stale=stale)

    def cache_answered(self, node: int, entry: CacheEntry | None) -> None:
        """The cache has `entry`, or nothing."""
        if self.held.get(node) != "cache" or not self.is_live:
            return
        del self.held[node]
        failing = self.failing.pop(node, None)
        if entry is not None:
            self._succeed_here(node, entry.value, _usage_of_hit(entry, stale=failing is not None))
        elif failing is not None:
            self.running += 1
            self._give_up(node, *failing)
        else:
            self.state[node] = st.PENDING
            self._to_worker(node, self.operation(node))
        self.settle()

    def _keep(self, row: list[Any]) -> None:
        """A worker's answer is the cache's, and the whole of it, where dependents see a digest."""
        node, _attempt, micros, value, usage = row
        whole = usage.pop("whole", None) if usage else None
        if whole is not None and not self.volatile:  # which writes nothing, and needs no key
            self.ports.keep_whole(self, node, whole)
        if node in self.asked_cache:
            self.asked_cache.discard(node)
            self.ports.keep_result(self, node, value, micros, usage or {})

    # ------------------------------------------------------------------ budget

    @property
    def is_limited(self) -> bool:
        return self.options.max_tokens is not None or self.options.max_cost is not None

    def _is_over_budget(self, node: int, operation: OperationSpec) -> bool:
        """Whether `node` must wait: what it may use is reserved beforehand, so that nothing is overshot."""
        if not self.is_limited or node in self.reserved:
            return False
        need = _need_of(operation)
        self._drop_reservations()
        tokens = self._used_tokens() + sum(each[0] for each in self.reserved.values())
        cost = self.usage["cost"] + sum(each[1] for each in self.reserved.values())
        options = self.options
        too_much = options.max_tokens is not None and tokens + need[0] > options.max_tokens
        if too_much or (options.max_cost is not None and cost + need[1] > options.max_cost):
            self.state[node] = st.HELD
            self.held[node] = "budget"
            return True
        if need != (0, 0.0):
            self.reserved[node] = need
        return False

    def _drop_reservations(self) -> None:
        """Of nodes that neither execute nor are about to: what they used is counted by now."""
        for node in [each for each in self.reserved if self.state[each] not in _WORKING]:
            if self.held.get(node) not in ("breaker", "open breaker", "cache"):
                del self.reserved[node]

    def _mind_budget(self) -> None:
        """After something was used: nodes that waited for the budget look again; at its end the run stops."""
        if not self.is_limited:
            return
        if (reason := self._spent()) is not None:
            self.stop(reason)
            return
        self._drop_reservations()
        for node in [node for node, why in self.held.items() if why == "budget"]:
            del self.held[node]
            self.state[node] = st.PENDING
            self._to_worker(node, self.operation(node))

    def _spent(self) -> str | None:
        """Why nothing more may start, if the budget is used up."""
        options = self.options
        if options.max_tokens is not None and self._used_tokens() >= options.max_tokens:
            return f"budget: {self._used_tokens():,.0f} tokens are used, of {options.max_tokens:,}; {_LARGER}"
        if options.max_cost is not None and self.usage["cost"] >= options.max_cost:
            return f"budget: {self.usage['cost']:g} is spent, of {options.max_cost:g}; {_LARGER}"
        return None

    def _why_over_budget(self) -> str:
        """For a run in which nothing goes on but nodes that do not fit."""
        node = next(node for node, why in self.held.items() if why == "budget")
        tokens, cost = _need_of(self.operation(node))
        limits = []
        if self.options.max_tokens is not None:
            limits.append(
                f"{tokens:,} tokens where {self._used_tokens():,.0f} of {self.options.max_tokens:,} are used"
            )
        if self.options.max_cost is not None:
            limits.append(f"{cost:g} where {self.usage['cost']:g} of {self.options.max_cost:g} is spent")
        return f"budget: {self.id_of(node)} may use {' and '.join(limits)}; {_LARGER}"

    def _used_tokens(self) -> float:
        return self.usage["input_tokens"] + self.usage["output_tokens"]


def _is_cacheable(operation: OperationSpec) -> bool:
    said = operation.cache
    return said is not None and bool(said.get("enabled", True)) and operation.effect != "once"


def _need_of(operation: OperationSpec) -> tuple[int, float]:
    said: Mapping[str, Any] = operation.budget or {}
    return int(said.get("tokens") or 0), float(said.get("cost") or 0.0)


def _usage_of_hit(entry: CacheEntry, *, stale: bool) -> dict[str, Any]:
    """What the journal notes of a hit: nothing was used; how large it was, and what using it again saved."""
    usage: dict[str, Any] = {name: entry.usage[name] for name in _TOLD_AGAIN if name in entry.usage}
    usage["cached"] = True
    saved = int(entry.usage.get("input_tokens") or 0) + int(entry.usage.get("output_tokens") or 0)
    if saved:
        usage["saved_tokens"] = saved
    if stale:
        usage["stale"] = True
    return usage


def question_of(operation: OperationSpec, payload: bytes) -> CacheQuestion:
    """What the cache is asked for an operation with these arguments (`payload`, as a worker gets them)."""
    config, said = operation.config, operation.cache or {}
    kind, name = operation.type, ""
    label = kind
    code = ("", "")
    local = bool(said.get("repository"))
    if kind == "python":
        name = str(config.get("call"))
        code = ("python", name)
    elif kind == "mcp":
        name = f"{config.get('server')}/{config.get('tool')}"
        is_sage = config.get("server") in SAGE_SERVERS
        code = ("sage" if is_sage else "mcp", str(config.get("server")))
        local = local or is_sage
    elif kind == "skill":
        name = str(config.get("skill"))
        code = ("skill", name)
    if operation.version is not None:
        label += f" v{operation.version}"
    ttl = said.get("ttl")
    return CacheQuestion(
        label=f"{label} {name}".strip(),
        material=payload,
        code=code,
        repository=local,
        ttl_s=DEFAULT_TTL_S if ttl is None else float(ttl),
    )

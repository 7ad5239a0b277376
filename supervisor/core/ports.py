"""What a run's decisions need from outside: the ports, the options, and where references look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sage_actors.actors.cache.actor import CacheQuestion
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.events import Event
from sage_actors.messages.records import Record
from sage_actors.supervisor.core.plan import Plan

__all__ = ["Ports", "RunOptions", "Scope"]


class Ports(Protocol):
    """What the core may ask of the world. Calls return at once; answers come back as events. run: a RunCore."""

    def persist(self, run: Any, records: list[Record], *, sync: bool, token: object | None) -> None: ...
    def emit(self, run: Any, event: Event) -> None: ...
    def timer(self, run: Any, at: float, token: tuple[str, int, int]) -> None: ...
    def request_permit(self, run: Any, node: int, endpoint: str) -> None: ...
    def report_permit(
        self, run: Any, node: int, endpoint: str, ok: bool | None, retry_after: float | None
    ) -> None: ...
    def stored_value(self, run: Any, location: tuple[Any, int, int]) -> bytes: ...
    def secret(self, kind: str, name: str) -> str: ...
    def random(self) -> float: ...
    def operation_number(self, run: Any, operation: OperationSpec) -> int: ...
    def ended(self, run: Any) -> None: ...
    def ask_cache(self, run: Any, node: int, question: CacheQuestion, *, stale: bool) -> None: ...
    def keep_result(self, run: Any, node: int, value: bytes, micros: int, usage: dict[str, Any]) -> None: ...
    def keep_whole(self, run: Any, node: int, value: bytes) -> None: ...


@dataclass(slots=True)
class RunOptions:
    """How one run is carried out. waits_for_people: False ends the run as paused when only approvals remain.

    patience_s: how long a run may wait for nothing but an open breaker before it pauses. cache: nodes that say so
    ask the cache first. max_tokens, max_cost: what the run may use over all its processes. sandbox: mode, tier and
    gaps of the confinement, to be told.
    """

    durability: str = "strict"
    concurrency: int | None = None
    waits_for_people: bool = True
    listening: bool = False
    patience_s: float = 900.0
    timeout: float | None = None
    cache: bool = False
    max_tokens: int | None = None
    max_cost: float | None = None
    sandbox: Mapping[str, Any] | None = None

    @property
    def gaps(self) -> dict[str, Any] | None:
        """{tier, gaps}, for every result, where less than what is wanted may confine (`degrade`) and does."""
        said = self.sandbox or {}
        if said.get("mode") != "degrade" or not said.get("gaps"):
            return None
        return {"tier": said["tier"], "gaps": list(said["gaps"])}


@dataclass(slots=True)
class Scope:
    """Where a node's references look: one plan laid at `base`, its inputs, and the item of a `foreach`.

    owner: the expanded node that this belongs to, -1 at the top. prefix: of the ids of its nodes.
    """

    plan: Plan
    base: int
    inputs: Mapping[str, Any]
    owner: int = -1
    prefix: str = ""
    item: Any = None
    index: int | None = None
    only: int = -1  # a foreach child stands for this one node of the plan
    open: int = 0  # nodes in it that have not ended
    failed: list[int] = field(default_factory=list)

"""What the egress proxy decided, told once for each burst, so that no client can fill the audit log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

__all__ = ["BURST_S", "Decision", "DecisionLog", "Report"]

BURST_S = 60.0
"""The same denial is told again after so many seconds, with the number of those in between."""

_MAX_KINDS = 100  # of denials of one label in a burst; more are told as one, without their hosts


@dataclass(frozen=True, slots=True)
class Decision:
    """One event. label: of the grant; "" for a client without one. host, port: as asked for; "" and 0 if unknown.

    decision: "allow" comes before the first byte goes out, "end" when that connection is over, with the bytes in
    both directions. hint: what to add, where that would grant it. address: the one that was connected to.
    repeats: equal denials since the last that was told.
    """

    decision: Literal["allow", "deny", "end"]
    label: str
    host: str = ""
    port: int = 0
    why: str = ""
    hint: str = ""
    address: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0
    repeats: int = 0


_log = logging.getLogger(__name__)

Report: TypeAlias = Callable[[Decision], None]


@dataclass(slots=True)
class _Burst:
    last: Decision
    until: float
    repeats: int = 0


class DecisionLog:
    """Passes decisions on to `report`. Called in one thread. monotonic: seconds."""

    def __init__(self, report: Report, monotonic: Callable[[], float]) -> None:
        self._report = report
        self._monotonic = monotonic
        self._bursts: dict[str, dict[tuple[str, int], _Burst]] = {}

    def tell(self, decision: Decision) -> None:
        """Reports it at once, unless it repeats a denial of this burst. An "allow" that cannot be told raises."""
        if decision.decision == "allow":
            self._report(decision)
        elif decision.decision == "end":
            self._report_over(decision)
        else:
            self._deny(decision)

    def _deny(self, decision: Decision) -> None:
        now = self._monotonic()
        bursts = self._bursts.setdefault(decision.label, {})
        decision = self._lumped(decision, bursts, now)
        key = (decision.host, decision.port)
        burst = bursts.get(key)
        if burst is not None and now < burst.until:
            burst.repeats += 1
            return
        bursts[key] = _Burst(decision, now + BURST_S)
        self._report_over(replace(decision, repeats=burst.repeats if burst else 0))

    def _report_over(self, decision: Decision) -> None:
        """What is decided stays so, whether it can be told or not."""
        try:
            self._report(decision)
        except Exception:  # noqa: BLE001  the border to whoever listens
            _log.exception("a decision of the egress proxy could not be reported: %r", decision)

    def _lumped(self, decision: Decision, bursts: dict[tuple[str, int], _Burst], now: float) -> Decision:
        if (decision.host, decision.port) in bursts or len(bursts) < _MAX_KINDS:
            return decision
        for key in [key for key, burst in bursts.items() if now >= burst.until and not burst.repeats]:
            del bursts[key]
        if len(bursts) < _MAX_KINDS:
            return decision
        return Decision("deny", decision.label, why=f"{_MAX_KINDS} other hosts were denied before")

    def forget(self, label: str) -> None:
        """The grants of this label ended: tells what was not told yet."""
        for burst in self._bursts.pop(label, {}).values():
            if burst.repeats:
                self._report_over(replace(burst.last, repeats=burst.repeats))

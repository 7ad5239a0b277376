"""What a run tells those who watch it: one typed stream for command line, library and control socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["Event"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    event: `run_started`, `node_started`, `node_succeeded`, `node_failed`, `node_waiting`, `node_skipped`,
    `node_log`, `node_progress`, `phase_completed`, `worker_lost`, `breaker`, `run_paused`, `run_finished`.
    time: Unix time in seconds. node: the node's id, where there is one. data: the fields of that event.
    """

    event: str
    run_id: str
    time: float
    node: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As one JSON object, `time` in ISO 8601, UTC."""
        out: dict[str, Any] = {
            "event": self.event,
            "run_id": self.run_id,
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="microseconds"),
        }
        if self.node is not None:
            out["node"] = self.node
        return out | self.data

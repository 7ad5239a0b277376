"""What supervisor and workers say to each other. One frame carries many messages of one kind.

    supervisor -> worker                        worker -> supervisor
    EXPECT      profile
    PROFILE     {tier, profile, environ, alone}
    OPERATIONS  [[op, spec], ...]               READY     [pid, kind]
    TASKS       [task row, ...]                 RESULTS   [result row, ...]
    GIVE_BACK   nil                             GIVEN_BACK [[run, node, attempt], ...]
    CANCEL      [[run, node, attempt], ...]     LOGS      [[run, node, attempt, stream, text], ...]
    PERMIT      [token, granted, error]         PROGRESS  [[run, node, attempt, data], ...]
    INSPECT     [token, [call, ...]]            GUARD     [token, run, node, attempt, endpoint]
    STOP        nil                             GUARDED   [endpoint, token, ok]
                                                INSPECTED [token, [info, ...]]
                                                HEARTBEAT [[run, node, attempt], ...]
                                                BLOCKED   [[run, node, attempt]] or []

`run` is the supervisor's number for one segment of one run (a run id and its segment number, so an old
owner's number never matches); with `node` and `attempt` it is the fencing token of the attempt.

PROFILE comes before anything else, if the worker was forked to be confined. alone: in a process namespace of its own.
EXPECT may come before it: a profile that is likely, for a worker of one task to prepare while it waits.
HEARTBEAT lists what executes: async workers send it twice a second, any worker as it starts a limited task.
BLOCKED says which attempt blocks the event loop, where that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from sage_actors.messages.limits import describe_limit

__all__ = [
    "FAILED",
    "OK",
    "STREAMS",
    "Evidence",
    "Kind",
    "TaskRow",
]


class Kind(IntEnum):
    """The first element of a frame."""

    OPERATIONS = 1
    TASKS = 2
    GIVE_BACK = 3
    CANCEL = 4
    PERMIT = 5
    INSPECT = 6
    STOP = 7
    PROFILE = 8
    EXPECT = 9

    READY = 20
    RESULTS = 21
    GIVEN_BACK = 22
    LOGS = 23
    PROGRESS = 24
    GUARD = 25
    GUARDED = 26
    INSPECTED = 27
    HEARTBEAT = 28
    BLOCKED = 29
    BEGUN = 30


# A task row: [run, node, attempt, op, node id, idempotency key or run id, timeout or nil, arguments packed]
TaskRow = tuple[int, int, int, int, str, str, float | None, bytes]

STREAMS: Final = frozenset(("stdout", "stderr", "log"))
"""Where a line of LOGS was written to."""

# A result row: [run, node, attempt, status, microseconds, payload, usage]
#   status OK: payload is the packed result. FAILED: payload is an error map, see `error_map`.
#   usage: nil or {"input_tokens": int, "output_tokens": int, "cost": float}
OK: Final = 0
FAILED: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known about the end of a worker.

    exitcode: negative is a signal, None is unknown. reason: "" if it died by itself, else why the pool ended
    it ("timeout", "cancelled", "limit", "heartbeat", "protocol", "stopped"), or "keeper": its keeper was killed.
    limit: {"kind", "limit", "seen"}.
    peak_rss_bytes: the most that was seen of the process tree. last_lines: end of what it printed.
    """

    exitcode: int | None
    reason: str = ""
    limit: dict[str, Any] | None = None
    peak_rss_bytes: int = 0
    last_lines: tuple[str, ...] = field(default=())

    def describe(self) -> str:
        """One sentence for a person."""
        if self.limit is not None:
            return describe_limit(self.limit)
        if self.reason == "heartbeat":
            text = "the worker was ended: its event loop was blocked"
        elif self.exitcode is None:
            text = "the worker process is gone"
        elif self.exitcode < 0:
            text = f"the worker was killed by signal {-self.exitcode}"
        else:
            text = f"the worker exited with code {self.exitcode}"
        if self.peak_rss_bytes:
            text += f", peak memory {self.peak_rss_bytes / 1048576:.0f} MiB"
        if self.last_lines:
            text += f"; last output: {self.last_lines[-1]!r}"
        return text

    def to_dict(self) -> dict[str, Any]:
        return {
            "exitcode": self.exitcode,
            "reason": self.reason,
            "limit": self.limit,
            "peak_rss_bytes": self.peak_rss_bytes,
            "last_lines": list(self.last_lines),
        }


def error_map(
    kind: str,
    message: str,
    *,
    traceback: str = "",
    retryable: bool = True,
    retry_after: float | None = None,
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An attempt's error as it crosses a border and as it is journaled. `kind` is the class name."""
    out: dict[str, Any] = {"type": kind, "message": message, "retryable": retryable}
    if traceback:
        out["traceback"] = traceback
    if retry_after is not None:
        out["retry_after"] = retry_after
    if details:
        out["details"] = details
    return out

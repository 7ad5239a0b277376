"""The states of a node, and what may follow what.

    PENDING -> READY -> RUNNING -> COMMITTING -> SUCCEEDED
       |         |         |            `------> (storage failed: stays, the run pauses)
       |         |         +-> HELD (retry timer, breaker, approval, wait) -> READY
       |         |         +-> IN_DOUBT (effect `once`, no answer) -> READY | COMMITTING | FAILED
       |         |         `-> FAILED | TOLERATED | DROPPED
       |         +-> HELD
       |         `-> EXPANDED (children run) -> COMMITTING | FAILED | TOLERATED | DROPPED
       `-> SKIPPED | EXCUSED

Only SUCCEEDED is final over a resume, and a doubt that a person resolved as FAILED.
TOLERATED is a failure under `on_failure: continue`, DROPPED one under
`on_failure: skip`. EXCUSED is a node whose own `when` was false; SKIPPED is one that something before it stopped.
"""

from __future__ import annotations

from typing import Final

PENDING: Final = 0
READY: Final = 1
HELD: Final = 2
RUNNING: Final = 3
COMMITTING: Final = 4
EXPANDED: Final = 5
IN_DOUBT: Final = 6

SUCCEEDED: Final = 10  # from here on: ended
FAILED: Final = 11
TOLERATED: Final = 12
DROPPED: Final = 13
SKIPPED: Final = 14
EXCUSED: Final = 15

NAMES: Final = {
    PENDING: "pending",
    READY: "ready",
    HELD: "waiting",
    RUNNING: "running",
    COMMITTING: "running",
    EXPANDED: "running",
    IN_DOUBT: "in_doubt",
    SUCCEEDED: "succeeded",
    FAILED: "failed",
    TOLERATED: "failed",
    DROPPED: "failed",
    SKIPPED: "skipped",
    EXCUSED: "skipped",
}

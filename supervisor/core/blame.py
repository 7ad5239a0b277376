"""Who is to blame for the death of a worker: only what it was executing can be, and that is not always known."""

from __future__ import annotations

from collections.abc import Sequence

from sage_actors.messages.wire import Evidence
from sage_actors.supervisor.core.worker import Key, Worker

__all__ = ["blame"]

_CERTAIN_S = 0.05  # a head that ran this long is what the worker executed: results are flushed after 2 ms


def blame(
    worker: Worker, evidence: Evidence, culprits: Sequence[Key], *, now: float
) -> tuple[set[Key], set[Key]]:
    """Which of the worker's tasks caused its death, and which perhaps did. What only waited in its queue is in neither.

    culprits: the attempts that the pool names. now: when it died, monotonic.
    """
    keys = list(worker.tasks)
    named = set(culprits) & set(keys)
    if named:
        return named, set()
    if not worker.ready:
        return set(), set()
    if worker.is_async and worker.dying == "timeout" and worker.doomed in keys:
        return {worker.doomed}, set()
    if worker.is_async and len(keys) > 1:
        return set(), set(keys)
    if worker.doomed is not None and worker.doomed not in keys:
        return set(), set(keys[:1])  # it answered at the last moment: whoever came after is not to blame
    if len(keys) <= 1:
        return set(keys), set()
    certain = now - worker.head_since > _CERTAIN_S
    if worker.dying or evidence.reason in ("timeout", "limit", "cancelled") or certain:
        return {keys[0]}, set()
    return set(), set(keys)

"""What the pool looks at while workers work: limits of operations, memory, and whether an event loop still turns.

Nothing is looked at without need: limits while an operation that has some executes, memory while a worker is busy and
silent. Looking at one process tree takes at most a tenth of the loop's time, however large it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sage_actors.actors.pool.io_loop import IoLoop
from sage_actors.actors.pool.pool_worker import WorkerHandle
from sage_actors.actors.pool.protocol import Key
from sage_actors.actors.pool.watch import LimitWatch, tree_memory

__all__ = ["Watching"]

_LIMIT_POLL_S = 0.05
_SAMPLE_S = 0.25
_LOOK_SHARE = 10  # looking at processes takes at most one part of so many
_FIRST_HEARTBEAT_S = 5.0
_MCP_LOAD_S = 60.0  # a second of imports on an idle machine


class Watching:
    """Lives in the thread of `loop`.

    workers: by number, the pool's own. receive: reads what a worker has sent by now. kill: (worker, reason).
    on_choking: told of a worker that cannot read its own output any more.
    """

    def __init__(
        self,
        loop: IoLoop,
        workers: Mapping[int, WorkerHandle],
        *,
        heartbeat_s: float,
        receive: Callable[[WorkerHandle], object],
        kill: Callable[[int, str], object],
        on_choking: Callable[[WorkerHandle], object],
    ) -> None:
        self._loop, self._workers, self._heartbeat_s = loop, workers, heartbeat_s
        self._receive, self._kill, self._on_choking = receive, kill, on_choking
        self._is_sampling = False

    def limits(self, handle: WorkerHandle, keys: list[Key]) -> None:
        """These operations execute: those of them that have limits are looked at."""
        for key in keys:
            limits = handle.limits.get(key)
            if limits is not None and handle.pid is not None and key not in handle.watches:
                handle.watches[key] = LimitWatch(handle.pid, limits)
                self._loop.call_at(time.monotonic(), lambda key=key: self._check_limits(handle, key))  # type: ignore[misc]

    def memory(self) -> None:
        """Some worker is busy from now on. Any thread."""
        if not self._is_sampling:
            self._is_sampling = True
            self._loop.call_at(time.monotonic() + _SAMPLE_S, self._sample)

    def heartbeat(self, handle: WorkerHandle) -> None:
        """Expects signs of life from a worker with an event loop, which was launched just now."""
        first_s = _MCP_LOAD_S if handle.kind == "mcp" else _FIRST_HEARTBEAT_S
        handle.heartbeat_at = time.monotonic() + first_s
        self._loop.call_at(time.monotonic() + 1.0, lambda: self._check_heartbeat(handle))

    def _check_limits(self, handle: WorkerHandle, key: Key) -> None:
        self._receive(handle)  # it may have ended meanwhile: what runs now is another's
        watch = handle.watches.get(key)
        if handle.lost or handle.ending == "limit" or watch is None:
            return
        began = time.monotonic()
        excess = watch.exceeded()
        handle.peak_bytes = max(handle.peak_bytes, watch.peak_bytes)
        if excess is None:
            again = _after(began, _LIMIT_POLL_S)
            self._loop.call_at(again, lambda: self._check_limits(handle, key))
            return
        handle.limit = excess
        handle.culprits = (key,)
        self._kill(handle.number, "limit")

    def _sample(self) -> None:
        """Peak memory of workers that were busy and silent for a while."""
        now = time.monotonic()
        busy = [each for each in self._workers.values() if each.busy]
        for handle in busy:
            if handle.pid is not None and now - handle.heard_at > _SAMPLE_S:
                handle.peak_bytes = max(handle.peak_bytes, tree_memory(handle.pid))
                if handle.is_choking():
                    self._on_choking(handle)
        self._is_sampling = bool(busy)
        if busy:
            self._loop.call_at(_after(now, _SAMPLE_S), self._sample)

    def _check_heartbeat(self, handle: WorkerHandle) -> None:
        if handle.lost or handle.ending:
            return
        now = time.monotonic()
        late = now - handle.heartbeat_at > self._heartbeat_s
        if late and handle.overdue:  # twice: this process itself may have been stopped
            handle.culprits = handle.blockers
            self._kill(handle.number, "heartbeat")
            return
        handle.overdue = late
        self._loop.call_at(now + min(0.5, self._heartbeat_s / 4), lambda: self._check_heartbeat(handle))


def _after(began: float, pause_s: float) -> float:
    """When to look again, after a look that began then and ends now."""
    now = time.monotonic()
    return now + max(pause_s, _LOOK_SHARE * (now - began))

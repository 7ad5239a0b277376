"""Workers whose tasks take long: when to look at them again, and what is done then.

blocking   the head runs for 20 ms        the queue behind it is asked back
           the head exceeds its timeout   the worker is killed
async      the worker itself cancels what exceeds its timeout; it is killed if that is not heeded
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sage_actors.actors.clock import Clock
from sage_actors.supervisor.core.timers import Timers
from sage_actors.supervisor.core.worker import Key, Worker

__all__ = ["WorkerWatch"]

_OVERRUN_S = 0.02  # a node that runs this long gives the queue behind it back
_IMPORT_S = 120.0  # for the first use of an operation in a worker, besides its timeout
_HEED_S = 5.0  # what is cancelled may take this long to end
_LOOP_S = 15.0  # an import may stop an event loop for so long; then it counts as hung


class WorkerWatch:
    """workers: those of the engine, by number. timeout_of: seconds that an attempt may take, None for no limit.

    kill(worker, reason, key): key is the attempt that it is for, None for the one that began first.
    ask_back(worker): for what it has not begun.
    """

    def __init__(
        self,
        workers: dict[int, Worker],
        timers: Timers,
        clock: Clock,
        *,
        timeout_of: Callable[[Key], float | None],
        kill: Callable[[Worker, str, Key | None], None],
        ask_back: Callable[[Worker], None],
    ) -> None:
        self._workers, self._timers, self._clock = workers, timers, clock
        self._timeout_of, self._kill, self._ask_back = timeout_of, kill, ask_back

    def head(self, worker: Worker, now: float) -> None:
        """Look at a blocking worker again when its head may have overrun, or timed out."""
        if not worker.tasks or worker.dying:
            return
        when = worker.head_since + _OVERRUN_S if len(worker.tasks) > 1 else math.inf
        timeout = self._head_timeout(worker)
        if timeout is not None:
            when = min(when, worker.head_since + timeout)
        self._look_at(worker, max(when, now))

    def tasks(self, worker: Worker, keys: list[Key]) -> None:
        """Look later whether an async worker has ended each of these in time."""
        late: dict[float, list[Key]] = {}
        for key in keys:
            timeout = self._timeout_of(key)
            if timeout is not None:
                first = 0.0 if worker.tasks[key] in worker.loaded else _LOOP_S
                late.setdefault(timeout + first, []).append(key)
        for after, those in late.items():
            self.ending(worker, those, "timeout", after=after)

    def ending(self, worker: Worker, keys: list[Key], reason: str, *, after: float = 0.0) -> None:
        """Kill the worker for `reason` if it still holds any of these a while after it was to end them.

        after: seconds from now until it is to end them.
        """
        number = worker.number

        def look(now: float) -> None:
            held = self._workers.get(number)
            key = next((key for key in keys if held is not None and key in held.tasks), None)
            if held is not None and key is not None:
                self._kill(held, reason, key)

        self._timers.at(self._clock.monotonic() + after + _HEED_S, look)

    def check(self, worker: Worker, now: float) -> None:
        """Kill a blocking worker whose head has timed out; ask back what waits behind one that overran."""
        if not worker.tasks or worker.dying or worker.is_async:
            return
        timeout = self._head_timeout(worker)
        if timeout is not None and now >= worker.head_since + timeout:  # as it was planned, to the last bit
            self._kill(worker, "timeout", None)
            return
        if now >= worker.head_since + _OVERRUN_S:
            worker.overrun = True
            self._ask_back(worker)
            if timeout is not None:
                self._look_at(worker, worker.head_since + timeout)
            return
        self.head(worker, now)

    def _look_at(self, worker: Worker, when: float) -> None:
        """The earliest wish counts; a later check that was asked for before finds nothing to do."""
        if when >= worker.check_at:
            return
        worker.check_at = when
        number = worker.number

        def look(now: float) -> None:
            held = self._workers.get(number)
            if held is not None:
                if held.check_at <= now:
                    held.check_at = math.inf
                self.check(held, now)

        self._timers.at(when, look)

    def _head_timeout(self, worker: Worker) -> float | None:
        """Seconds that the head may take; more where it must import its operation first."""
        key, op = next(iter(worker.tasks.items()))
        timeout = self._timeout_of(key)
        return timeout if timeout is None or op in worker.loaded else timeout + _IMPORT_S

"""The decisions about all runs and workers together: who gets the next slot, and what a lost worker means.

Plain code without I/O: events come in as method calls, `ports` is called out (see `EnginePorts`). Each event
ends with `dispatch`, which fills workers with ready nodes: runs in turn, the most urgent node of a run first,
about a millisecond of work ahead for short operations and exactly one for long ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Protocol

from sage_actors.actors.clock import Clock
from sage_actors.actors.operations.types import CROWDED, LANES, QUEUED
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import StorageError
from sage_actors.messages.limits import limit_error
from sage_actors.messages.wire import OK, Evidence, error_map
from sage_actors.supervisor.core.blame import blame
from sage_actors.supervisor.core.ports import Ports
from sage_actors.supervisor.core.restart_policy import RestartIntensity, RestartPolicy
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.core.timers import Timers
from sage_actors.supervisor.core.worker import AHEAD_US, ASYNC_ROWS, MOST_ROWS, OWN, Key, Worker
from sage_actors.supervisor.core.worker_watch import WorkerWatch

__all__ = ["Engine", "EnginePorts"]

_MCP = LANES.index("mcp")  # one worker holds every session
_LEAST_US = 8.0  # what any task costs a worker, however short
_WEIGHT = 0.3  # of the newest batch in the estimate of what an operation costs
_ASYNC_SHARE = 128  # from how many coroutines on another async worker is worth its start
_SPENT = "spent"  # a worker of one task that has answered


class EnginePorts(Ports, Protocol):
    """`Ports`, and workers."""

    def start_worker(self, kind: str) -> int: ...
    def submit(self, worker: int, rows: Sequence[Any]) -> None: ...
    def define(self, op: int, operation: OperationSpec) -> None: ...
    def forget(self, ops: Sequence[int]) -> None: ...
    def give_back(self, worker: int) -> None: ...
    def cancel(self, worker: int, keys: Sequence[Key]) -> None: ...
    def kill(self, worker: int, reason: str) -> None: ...
    def retire(self, worker: int) -> None: ...
    def tick_at(self, when: float) -> None: ...
    def worker_lost(self, run: RunCore, evidence: Evidence, nodes: list[str]) -> None: ...


class Engine:
    """All runs of one supervisor, and its workers."""

    def __init__(
        self, ports: EnginePorts, clock: Clock, *, workers: int, restart: RestartPolicy | None = None
    ) -> None:
        self.ports, self.clock = ports, clock
        self.max_workers = workers
        self.runs: dict[int, RunCore] = {}
        self.hungry: dict[int, RunCore] = {}  # runs with ready nodes, in the order of their turns
        self.lanes: set[int] = set()  # that any run ever needed: the others are not looked at
        self.workers: dict[int, Worker] = {}
        self.intensity = RestartIntensity(restart or RestartPolicy())
        self.estimates: dict[int, float] = {}
        self.deferred = False
        self._aborting: set[int] = set()  # runs whose tasks are to end
        self._last_of_dead_keeper = -1  # no later worker was its
        self.refused = 0  # answers of attempts that had been given up
        self._op_numbers: dict[int, dict[OperationSpec, int]] = {}  # by run: two may share a definition
        self._next_op = count(1)
        self._timers = Timers(ports.tick_at)
        self._watch = WorkerWatch(
            self.workers,
            self._timers,
            clock,
            timeout_of=self._timeout_of,
            kill=self._kill,
            ask_back=self._ask_back,
        )

    # ------------------------------------------------------------------ runs

    def add(self, run: RunCore, *, resumed: bool) -> None:
        """Take a run in; its journal exists. Nodes start as workers allow."""
        self.runs[run.number] = run
        run.hungry = self.hungry
        self.lanes |= run.lanes
        run.lanes = self.lanes
        run.begin(resumed=resumed)
        self.dispatch()

    def remove(self, run: RunCore) -> None:
        """A run ended."""
        self.runs.pop(run.number, None)
        self.hungry.pop(run.number, None)
        self._aborting.discard(run.number)
        numbers = list(self._op_numbers.pop(run.number, {}).values())
        for number in numbers:
            self.estimates.pop(number, None)
        if numbers:
            self.ports.forget(numbers)

    def operation_number(self, run: RunCore, operation: OperationSpec) -> int:
        mine = self._op_numbers.setdefault(run.number, {})
        number = mine.get(operation)
        if number is None:
            number = mine[operation] = next(self._next_op)
            self.ports.define(number, operation)
        return number

    def acknowledged(self, run: RunCore, acks: Iterable[tuple[Any, Any, int]]) -> None:
        """Records are on disk."""
        for token, location, first_record in acks:
            if token[0] == "solo":
                run.unacknowledged -= 1
                self._submit_solo(run, token[1], token[2])
            else:
                run.acknowledged(token, location, first_record)
        self.dispatch()

    def storage_failed(self, run: RunCore, error: StorageError) -> None:
        """A write failed. Solo starts that waited for it never happen."""
        for worker in self.workers.values():
            if worker.solo and not worker.dying and not worker.head_since:
                for key in [key for key in worker.tasks if key[0] == run.number]:
                    self._forget_task(worker, key)
                    run.running -= 1
                    worker.solo = False
        run.storage_failed(error)
        self.dispatch()

    def cancel(self, run: RunCore) -> None:
        run.stop("cancelled", cancelled=True)
        self._stop_tasks(run)
        run.settle()

    def stop(self, grace_s: float) -> None:
        """No further dispatch; what runs gets the grace, then is stopped."""
        for run in list(self.runs.values()):
            run.stop("interrupted")
        for worker in self.workers.values():
            self._ask_back(worker)
        self._timers.at(self.clock.monotonic() + grace_s, lambda now: self.abort())

    def abort(self) -> None:
        """Stop everything now; all runs stay resumable."""
        for run in list(self.runs.values()):
            run.stop("interrupted")
            self._stop_tasks(run)
            run.settle()

    def _stop_tasks(self, run: RunCore) -> None:
        """End what executes, and take back what waits: nothing is given up while it might still begin."""
        self._aborting.add(run.number)
        self._end_tasks(run)

    def _end_tasks(self, run: RunCore) -> None:
        """Those of a run that is to end, else those of its sub-workflows whose time is up."""
        everything = run.number in self._aborting
        for worker in list(self.workers.values()):
            mine = (key for key in worker.tasks if key[0] == run.number)
            keys = [key for key in mine if everything or run.is_cut(key[1])]
            if not keys:
                continue
            if worker.is_async:
                self.ports.cancel(worker.number, keys)
                self._watch.ending(worker, keys, "cancelled")
                continue
            head = next(iter(worker.tasks))
            if worker.solo and not worker.head_since:
                continue  # its start is not on disk yet; the acknowledgement finds the run stopped
            if head in keys:
                self._kill(worker, "cancelled")
            else:
                self._ask_back(worker)

    # ------------------------------------------------------------------ dispatch

    def dispatch(self) -> None:
        """Give ready nodes to workers that can take them, and start workers while there is need.

        While `deferred` is set, nothing: who set it calls again after all events that wait were told.
        """
        if self.deferred or not self.hungry:
            return
        for lane in sorted(self.lanes):
            if not self.hungry:
                return
            self._fill(lane)

    def _fill(self, lane: int) -> None:
        mine = [worker for worker in self.workers.values() if worker.lane == lane and worker.dying != _SPENT]
        most = 1 if lane == _MCP else self.max_workers
        if len(mine) >= most and not any(worker.accepts() for worker in mine):
            return
        if not any(run.ready[lane] or run.solo[lane] for run in self.hungry.values()):
            return
        kept = self._serve_solo(mine, lane)
        self._give_all([worker for worker in mine if worker.accepts() and worker is not kept])
        while self.hungry and len(mine) < most and self._wants_worker(mine, lane):
            worker = self._start_worker(lane)
            mine.append(worker)
            self._give_solo(worker)
            if worker.accepts():
                self._give(worker, accepting=1)
            if worker.is_idle():
                return

    def _serve_solo(self, mine: list[Worker], lane: int) -> Worker | None:
        """Nodes that run alone, in turn with the others: an idle worker takes one if its last work was shared.

        Returns a worker that is to get nothing, so that it becomes idle: else a steady stream of short nodes
        would keep those that need a worker of their own waiting for ever.
        """
        if not any(run.solo[lane] for run in self.hungry.values()):
            return None
        shared = any(run.ready[lane] and run.may_dispatch for run in self.hungry.values())
        for worker in mine:
            if worker.is_idle() and not (shared and worker.was_solo):
                self._give_solo(worker)
            worker.was_solo = worker.solo
        waiting = [run for run in self.hungry.values() if run.solo[lane] and run.may_dispatch]
        busy = [
            worker
            for worker in mine
            if worker.accepts() and worker.tasks and any(self._room(worker, run) > 0 for run in waiting)
        ]
        return min(busy, key=lambda worker: len(worker.tasks), default=None)

    def _give_all(self, accepting: list[Worker]) -> None:
        for i, worker in enumerate(accepting):
            if not self._give(worker, accepting=len(accepting) - i):
                return

    def _give(self, worker: Worker, *, accepting: int) -> bool:
        """Fill one worker from the hungry runs in turn, in one frame. False if none has anything for its kind."""
        lane = worker.lane
        ready = sum([len(run.ready[lane]) for run in self.hungry.values()])
        share = max(1, -(-ready // accepting))
        batch: list[Any] = []
        given: list[tuple[RunCore, list[Any]]] = []
        for number, run in list(self.hungry.items()):
            if not run.is_hungry:
                del self.hungry[number]
                continue
            cap = min(self._room(worker, run), share - len(batch)) if run.ready[lane] else 0
            if cap <= 0:
                continue
            self.hungry[number] = self.hungry.pop(number)  # to the end of the line
            target = AHEAD_US - worker.load_us if lane in QUEUED else math.inf
            rows, load = run.take(target_us=target, cap=cap, estimates=self.estimates, lane=lane)
            if not run.is_hungry:
                self.hungry.pop(number, None)
            if rows:
                self._book(worker, run, rows, load)
                batch += rows
                given.append((run, rows))
                if len(batch) >= share or worker.load_us >= AHEAD_US or not worker.accepts():
                    break
        if batch:
            self.ports.submit(worker.number, batch)
            for run, rows in given:
                run.announce(rows, worker.number)
                if worker.is_async:
                    self._watch.tasks(worker, [(row[0], row[1], row[2]) for row in rows])
            if not worker.is_async:
                self._watch.head(worker, self.clock.monotonic())
        return bool(batch)

    def _room(self, worker: Worker, run: RunCore) -> int:
        """How many tasks of `run` this worker may take now."""
        most = ASYNC_ROWS if worker.is_async else 1 if worker.lane == OWN else MOST_ROWS
        cap = most - len(worker.tasks)
        limit = run.options.concurrency
        if limit is None:
            return cap
        executing = self.executing(run)
        if worker.is_async:
            return min(cap, limit - executing)
        return cap if worker.number in run.workers_busy or executing < limit else 0

    def executing(self, run: RunCore) -> int:
        """Nodes of `run` that execute: one in each blocking worker that holds any, all in async workers."""
        total = 0
        for number, held in run.workers_busy.items():
            worker = self.workers.get(number)
            total += held if worker is None or worker.is_async else 1
        return total

    def _book(self, worker: Worker, run: RunCore, rows: list[Any], load: float) -> None:
        """These tasks are the worker's."""
        tasks = worker.tasks
        if not tasks:
            worker.head_since = self.clock.monotonic()
        for row in rows:
            tasks[row[0], row[1], row[2]] = row[3]
        worker.load_us += load
        run.workers_busy[worker.number] = run.workers_busy.get(worker.number, 0) + len(rows)

    def _give_solo(self, worker: Worker) -> None:
        for number, run in list(self.hungry.items()):
            if not run.solo[worker.lane] or not run.may_dispatch or self._room(worker, run) <= 0:
                continue
            row = run.take_solo(lane=worker.lane)
            if row is None:
                continue
            self.hungry[number] = self.hungry.pop(number)  # to the end of the line
            worker.solo = worker.was_solo = True
            worker.tasks[row[0], row[1], row[2]] = row[3]
            worker.head_since = 0.0
            run.workers_busy[worker.number] = 1
            run.persist_solo_start(row, ("solo", worker.number, row))
            return

    def _submit_solo(self, run: RunCore, number: int, row: tuple[Any, ...]) -> None:
        """The start is on disk: now the worker may have it."""
        worker = self.workers.get(number)
        if worker is None or worker.dying or not run.may_dispatch or run.is_cut(row[1]):
            key = (row[0], row[1], row[2])
            if worker is not None and key in worker.tasks:
                self._forget_task(worker, key)
                worker.solo = False
                run.not_started(row[1], row[2])
            run.settle()
            return
        worker.head_since = self.clock.monotonic()
        self.ports.submit(number, [row])
        run.announce([row], number)
        if worker.is_async:
            self._watch.tasks(worker, [(row[0], row[1], row[2])])
        else:
            self._watch.head(worker, worker.head_since)

    def _wants_worker(self, mine: list[Worker], lane: int) -> bool:
        """Whether one more worker of that kind would have something to do at once."""
        waiting = 0
        for run in self.hungry.values():
            if run.may_dispatch:
                limit = run.options.concurrency
                if limit is None or self.executing(run) < limit:
                    waiting += len(run.ready[lane]) + len(run.solo[lane])
        if not waiting:
            return False
        if lane not in CROWDED or not mine:
            return True
        held = sum(len(worker.tasks) for worker in mine)
        return any(run.solo[lane] for run in self.hungry.values()) or held + waiting > _ASYNC_SHARE * len(
            mine
        )

    def _start_worker(self, lane: int) -> Worker:
        number = self.ports.start_worker(LANES[lane])
        worker = self.workers[number] = Worker(number, lane)
        return worker

    # ------------------------------------------------------------------ answers

    def results(self, number: int, rows: list[list[Any]]) -> None:
        """Answers of one worker; those of attempts that were given up are refused."""
        worker = self.workers.get(number)
        if worker is None:
            self.refused += len(rows)
            return
        tasks, held = worker.tasks, len(worker.tasks)
        by_run: dict[int, list[list[Any]]] = {}
        spent: dict[int, tuple[int, int]] = {}
        for row in rows:
            op = tasks.pop((row[0], row[1], row[2]), None)
            if op is None:
                self.refused += 1
                continue
            mine = by_run.get(row[0])
            if mine is None:
                mine = by_run[row[0]] = []
            mine.append(row)
            micros, times = spent.get(op, (0, 0))
            spent[op] = (micros + row[4], times + 1)
        if not by_run:
            return
        self._learn(spent)
        worker.loaded.update(spent)
        worker.load_us = worker.load_us * len(tasks) / held if held else 0.0
        worker.head_since = self.clock.monotonic()
        worker.ready = True
        if worker.overrun:
            worker.overrun = False
            self._watch.head(worker, worker.head_since)
        worker.solo = worker.solo and bool(tasks)
        if worker.lane == OWN and not worker.dying:
            worker.dying = _SPENT
            self.ports.retire(number)
        for run_number, mine in by_run.items():
            run = self.runs.get(run_number)
            if run is None:
                continue
            self._less_busy(run, number, len(mine))
            self._sort_answers(worker, run, mine)
            if run.stopping is not None:  # perhaps only now: its budget is used up
                for holder in [self.workers[each] for each in run.workers_busy if each in self.workers]:
                    self._ask_back(holder)
            run.settle()
        self.dispatch()

    def _learn(self, spent: dict[int, tuple[int, int]]) -> None:
        """What operations cost: an exponentially weighted mean. spent: op -> (microseconds, how many)."""
        estimates = self.estimates
        for op, (micros, times) in spent.items():
            mean = max(micros / times, _LEAST_US)
            old = estimates.get(op)
            estimates[op] = mean if old is None else old + _WEIGHT * (mean - old)

    def _sort_answers(self, worker: Worker, run: RunCore, rows: list[list[Any]]) -> None:
        bad = [row for row in rows if row[3] != OK]
        good = [row for row in rows if row[3] == OK] if bad else rows
        if good:
            run.succeeded(good)
        for row in bad:
            self._bad_answer(worker, run, row)

    def _bad_answer(self, worker: Worker, run: RunCore, row: list[Any]) -> None:
        _, node, attempt, _status, micros, error, usage = row
        kind = error["type"]
        stopped = kind == "OperationCancelled" and (run.stopping is not None or run.is_cut(node))
        unanswered = (
            kind in ("OperationCancelled", "TimeoutExceeded") and run.operation(node).effect == "once"
        )
        if stopped or unanswered:
            reason = "cancelled" if kind == "OperationCancelled" else "timeout"
            run.abandoned(node, Evidence(exitcode=None, reason=reason))
        elif kind == "OperationCancelled" and worker.is_async and worker.dying:
            if worker.dying == "timeout" and worker.doomed == (run.number, node, attempt):
                run.attempt_failed(node, self._overtime(run, node), micros=micros, usage=usage)
            else:
                run.given_back(node)  # it was there when the worker was ended for another's sake
        else:
            run.attempt_failed(node, error, micros=micros, usage=usage)

    def _overtime(self, run: RunCore, node: int, details: dict[str, Any] | None = None) -> dict[str, Any]:
        timeout = run.operation(node).timeout
        text = f"{run.id_of(node)} took longer than its timeout of {timeout:g} s" if timeout else "timeout"
        return error_map("TimeoutExceeded", text, details=details)

    def given_back(self, number: int, keys: list[Key]) -> None:
        """A worker returned what it had not started. One that was not asked to gives nothing back: what executes in it
        would begin once more, without a mark."""
        worker = self.workers.get(number)
        if worker is None or not worker.giving_back:
            return
        worker.giving_back = False
        for key in keys:
            if key in worker.tasks:
                run = self._forget_task(worker, key)
                if run is not None:
                    run.given_back(key[1])
        for run in list(self.runs.values()):
            if run.number in self._aborting or run.overdue:
                self._end_tasks(run)  # one of it may have begun meanwhile
            run.settle()
        self.dispatch()

    def _forget_task(self, worker: Worker, key: Key) -> RunCore | None:
        """Fence an attempt off: its answer will be refused."""
        worker.load_us -= worker.load_us / len(worker.tasks)
        del worker.tasks[key]
        if not worker.tasks:
            worker.overrun = False  # nothing is left whose answer would say that it is over
        run = self.runs.get(key[0])
        if run is not None:
            self._less_busy(run, worker.number, 1)
        return run

    def _less_busy(self, run: RunCore, number: int, by: int) -> None:
        left = run.workers_busy[number] - by
        if left:
            run.workers_busy[number] = left
        else:
            del run.workers_busy[number]

    # ------------------------------------------------------------------ lost workers

    def lost(self, number: int, evidence: Evidence, culprits: Sequence[Key] = ()) -> None:
        """A worker is gone with everything that it had started."""
        worker = self.workers.pop(number, None)
        if worker is None:
            return
        keys = list(worker.tasks)
        guilty, suspects = blame(worker, evidence, culprits, now=self.clock.monotonic())
        self._tell_lost(keys, evidence)
        touched: dict[int, RunCore] = {}
        for key in keys:
            run = self._forget_task(worker, key)
            if run is None:
                continue
            touched[run.number] = run
            if worker.solo and not worker.head_since:
                run.not_started(key[1], key[2])
            elif evidence.reason == "keeper":
                run.abandoned(key[1], evidence)
            elif key in guilty:
                self._charge(run, key[1], evidence, worker.dying or evidence.reason)
            elif key in suspects:
                run.lost(key[1], evidence, charged=False, suspect=True)
            else:
                run.given_back(key[1])
        if self._is_idle_death(worker, keys, evidence) and self.intensity.died(self.clock.monotonic()):
            self._give_up(evidence)
        for run in touched.values():
            run.settle()
        self.dispatch()

    def _is_idle_death(self, worker: Worker, keys: list[Key], evidence: Evidence) -> bool:
        """Whether it counts for the restart intensity. A keeper that dies takes all its workers along: one death, and
        only if it did not get as far as a worker that was ready."""
        if worker.dying:
            return False
        if evidence.reason != "keeper":
            return not (keys and worker.ready) and evidence.reason in ("", "heartbeat", "protocol")
        if worker.ready or worker.number <= self._last_of_dead_keeper:
            return False
        self._last_of_dead_keeper = max(worker.number, *self.workers, 0)
        return True

    def _charge(self, run: RunCore, node: int, evidence: Evidence, reason: str) -> None:
        once = run.operation(node).effect == "once"
        if reason in ("cancelled", "stopped"):
            run.abandoned(node, evidence)
        elif once or reason not in ("timeout", "limit"):
            run.lost(node, evidence, charged=True, suspect=False)
        elif reason == "timeout":
            run.attempt_failed(node, self._overtime(run, node, evidence.to_dict()))
        else:
            text = f"{run.id_of(node)}: {evidence.describe()}"
            details = {**evidence.to_dict(), **(evidence.limit or {})}
            again = evidence.limit is None or limit_error(evidence.limit).retryable
            run.attempt_failed(node, error_map("LimitExceeded", text, retryable=again, details=details))

    def ready(self, number: int) -> None:
        """A worker has started: from here on it executes."""
        worker = self.workers.get(number)
        if worker is not None:
            worker.ready = True
            if worker.head_since:
                worker.head_since = self.clock.monotonic()

    def begun(self, number: int, key: Key) -> None:
        """A worker has imported what this attempt needs: its time counts from here."""
        worker = self.workers.get(number)
        if worker is None or key not in worker.tasks:
            return
        op = worker.tasks[key]
        if op in worker.loaded:
            return  # said twice, it would put its timeout off for ever
        worker.loaded.add(op)
        if worker.is_async:
            self._watch.tasks(worker, [each for each, its in worker.tasks.items() if its == op])
            return
        now = worker.head_since = self.clock.monotonic()
        self._watch.head(worker, now)

    def _tell_lost(self, keys: list[Key], evidence: Evidence) -> None:
        if evidence.reason == "stopped":
            return
        by_run: dict[int, list[str]] = {}
        for run_number, node, _attempt in keys:
            run = self.runs.get(run_number)
            if run is not None:
                by_run.setdefault(run_number, []).append(run.id_of(node))
        for run_number, nodes in by_run.items():
            self.ports.worker_lost(self.runs[run_number], evidence, nodes)

    def _give_up(self, evidence: Evidence) -> None:
        policy = self.intensity.policy
        reason = (
            f"restart intensity: more than {policy.max_restarts} workers that executed nothing died within "
            f"{policy.window_s:g} s; the last: {evidence.describe()}"
        )
        for run in list(self.runs.values()):
            run.stop(reason)
            self._stop_tasks(run)
            run.settle()

    def _kill(self, worker: Worker, reason: str, key: Key | None = None) -> None:
        """key: the attempt that it is for; by default the one that it began first."""
        if not worker.dying:
            worker.dying = reason
            worker.doomed = key or next(iter(worker.tasks), None)
            self.ports.kill(worker.number, reason)

    def _ask_back(self, worker: Worker) -> None:
        if len(worker.tasks) > 1 and not (worker.giving_back or worker.is_async or worker.dying):
            worker.giving_back = True
            self.ports.give_back(worker.number)

    # ------------------------------------------------------------------ time

    def tick(self) -> None:
        """Time has come for something."""
        self._timers.run_due(self.clock.monotonic())
        self.dispatch()

    def set_timer(self, run: RunCore, at: float, token: tuple[str, int, int]) -> None:
        """Tell the run of `token` at that time (monotonic), if it is still there."""
        number = run.number
        self._timers.at(at, lambda now: self._run_timer(number, token))

    def _run_timer(self, number: int, token: tuple[str, int, int]) -> None:
        run = self.runs.get(number)
        if run is None:
            return
        run.timer_fired(*token)
        if run.timed_out:
            self._stop_tasks(run)
            run.settle()
        elif run.overdue:
            self._end_tasks(run)

    def _timeout_of(self, key: Key) -> float | None:
        run = self.runs.get(key[0])
        return None if run is None else run.operation(key[1]).timeout

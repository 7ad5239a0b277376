"""A seeded world around the decision core: what happens next is drawn, what must hold is checked all the while.

    seed -> scripts (runs with their definitions, fates, disk errors)
         -> lives of supervisors: open what is not done, step by step, until all ended or the supervisor dies
         -> checks at the end: oracle, journal, an undisturbed run

The same seed always gives the same history.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from sage_actors.actors.breaker.core import BreakerPolicy
from sage_actors.messages.wire import OK, Evidence
from sage_actors.testing import FakeClock
from simulation.definitions import PATIENT, approval_of, random_spec
from simulation.ledger import Script, check_end, ensure
from simulation.life import Life
from simulation.pool import FakeWorker

__all__ = ["Settings", "World"]

_FLUSH_S = 0.002  # a worker does not keep a result for longer
_MOST_STEPS = 30_000
_MOST_OPENINGS = 80
_WORDS = ("storage", "interrupted", "restart intensity", "in doubt", "approval", "open breaker")

Choice = tuple[float, Callable[..., None], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How large and how rough the world is. The numbers are the most of each; 0 is a calm one."""

    nodes: int = 12
    runs: int = 3
    workers: int = 3
    supervisor_deaths: int = 4
    worker_deaths: int = 5
    disk_errors: int = 2
    decisions: int = 2  # cancels, stops
    stale: int = 3


class World:
    """seed: of everything. settings: limits of what is drawn."""

    def __init__(self, seed: int | str, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.seed, self.settings = seed, settings
        self.rng = Random(f"world {seed}")
        self.clock = FakeClock()
        self.clock.advance(1_000.0)
        self.trace: list[tuple[Any, ...]] = []
        self.workers = self.rng.randint(1, max(1, settings.workers))
        self.policy = BreakerPolicy(
            failures=self.rng.choice([1, 2, 5]),
            open_s=self.rng.choice([0.5, 5.0, 60.0]),
            successes=self.rng.choice([1, 2]),
            max_concurrent=self.rng.choice([None, 1, 2]),
            rate=self.rng.choice([None, None, 2.0]),
        )
        self._numbers = itertools.count(1)
        draw = self.rng.randint
        self.supervisor_deaths = draw(0, settings.supervisor_deaths)
        self.worker_deaths = draw(0, settings.worker_deaths)
        self.decisions = draw(0, settings.decisions)
        self.stale = draw(0, settings.stale)
        self.scripts = [self._script(i) for i in range(draw(1, max(1, settings.runs)))]
        if len(self.scripts) > 1 and self.rng.random() < 0.3:
            self.scripts[1].spec = self.scripts[0].spec  # the same flow, twice at once
        self.life: Life | None = None
        self.lives = 0
        self.cache: dict[tuple[str, str], bytes] = {}  # outlives supervisors

    def next_number(self) -> int:
        return next(self._numbers)

    def _script(self, index: int) -> Script:
        rng = self.rng
        errors = rng.choice([0, 0, rng.randint(0, self.settings.disk_errors)])
        durability = rng.choice(["strict"] * 5 + ["relaxed"] * 3 + ["none"])
        return Script(
            index=index,
            seed=f"{self.seed}.{index}",
            spec=random_spec(rng, self.settings.nodes),
            inputs={"topic": rng.choice(["a", 7, [1, 2]])},
            durability=durability,
            waits_for_people=rng.random() < 0.6 or durability == "none",
            timeout=rng.choice([None] * 7 + [3.0]) if self.settings.decisions else None,
            patience_s=rng.choice([900.0, 900.0, 2.0]) if durability != "none" else 900.0,
            disk_fails_at=[rng.randint(1, 40) for _ in range(errors)],
        )

    # ------------------------------------------------------------------ a history

    def run(self) -> World:
        """The whole history. Raises Violation."""
        while any(not script.final for script in self.scripts):
            self._live()
        for script in self.scripts:
            check_end(script)
        return self

    def _live(self) -> None:
        self.lives += 1
        self.trace.append(("life", self.lives))
        life = self.life = Life(self)
        todo = [script for script in self.scripts if not script.final]
        for steps in itertools.count():
            ensure(steps < _MOST_STEPS, "G-13", "it goes on and on")
            while todo and (len(life.cores) == 0 or self.rng.random() < 0.3):
                life.open(todo.pop(0))
            goes_on = self._step(life)
            for script in self.scripts if self.life is not None else ():
                if script.status and not script.final:
                    goes_on = True
                    self._consider_end(script, life, todo)
            if not goes_on:
                break
        self.life = None

    def _consider_end(self, script: Script, life: Life, todo: list[Script]) -> None:
        """A run ended: is that its end, or does its user go on?"""
        ensure(script.status != "paused" or script.reason, "G-13", "a run paused and does not say why")
        if script.status == "succeeded":
            script.final = True
        elif script.status == "paused" and script.reason.startswith(_WORDS):
            ensure(
                script.openings < _MOST_OPENINGS, "G-13", f"{script.run_id}: resumed {script.openings} times"
            )
            self._advance(life, 7.0 if script.reason.startswith("open") else 0.1)
            if script.openings > 20:
                script.patience_s = 900.0  # its user learns
        elif script.status == "cancelled" or script.reason.startswith("the run took longer"):
            pass
        elif script.asks and not script.volatile:
            ensure(
                script.openings < _MOST_OPENINGS, "G-13", f"{script.run_id}: resumed {script.openings} times"
            )
        elif script.volatile or script.openings > 3 or self.rng.random() < 0.5:
            script.final = True
        if not script.final:
            if script.volatile:
                script.lose(power=False)
            if not life.stopping:
                todo.append(script)
        if script.final:
            self.trace.append(("final", script.run_id, script.status))
        else:
            script.status = ""

    def _step(self, life: Life) -> bool:
        """One thing happens. False when this life is over."""
        choices = self._choices(life)
        if life.engine.deferred and self.rng.random() < 0.5:
            life.engine.deferred = False
            life.engine.dispatch()
            life.after()
            return True
        if not choices or not any(weight >= 1 for weight, _, _ in choices):
            if not life.cores and not life.engine.deferred:
                if not self._quiet(life):
                    return True
                self._check_nothing_is_held(life)
                return False
            if life.engine.deferred:
                return True
            if not choices or self.rng.random() < 0.7:
                return self._wait(life, choices)
        weights = [weight for weight, _, _ in choices]
        _, action, arguments = self.rng.choices(choices, weights)[0]
        # The actor tells many events before it dispatches.
        life.engine.deferred = life.engine.deferred or self.rng.random() < 0.2
        action(*arguments)
        return self.life is not None

    def _choices(self, life: Life) -> list[Choice]:
        rng = self.rng
        out: list[Choice] = []
        add = out.append
        for number, disk in life.disks.items():
            if disk.out:
                add((6.0, life.take_from_disk, (number,)))
            if disk.may_step():
                add((5.0, disk.step, (rng,)))
        if life.breaker_in:
            add((6.0, life.breaker_reads, ()))
        if life.cache_in:
            add((5.0, life.answer_cache, ()))
        if life.breaker_out:
            add((6.0, life.breaker_speaks, ()))
        for worker in life.workers.values():
            self._of_worker(life, worker, add)
        if life.ticks and life.ticks[0] <= self.clock.monotonic():
            add((4.0, self._tick, (life,)))
        wakeup = life.breaker.next_wakeup()
        if wakeup is not None and wakeup <= self.clock.now():
            add((4.0, self._breaker_tick, (life,)))
        for core in list(life.engine.runs.values()):
            if core.is_live and (core.doubts or "approval" in core.held.values()):
                add((0.6, self._person, (life, core)))
        if life.cores:
            add((0.9, self._advance, (life, rng.choice([0.0001, 0.001, 0.0015]))))
            self._disturbances(life, add)
        return out

    def _of_worker(self, life: Life, worker: FakeWorker, add: Callable[[Choice], None]) -> None:
        if worker.out:
            add((5.0, life.take_from_worker, (worker,)))
        if worker.lost:
            return
        if worker.inbox:
            add((5.0, worker.read, ()))
        if not worker.ready:
            add((3.0, worker.start, ()))
        if worker.may_begin():
            add((5.0, worker.begin, (self.clock.monotonic(),)))
        for task in worker.may_finish():
            add((3.0, worker.finish, (task,)))
        if worker.results:
            add((2.0, worker.flush, ()))
        if worker.ending:
            add((1.5, life.dies, (worker, Evidence(exitcode=143, reason=worker.ending))))
        for task in worker.may_end_itself():
            add((2.0, self._end_itself, (life, worker, task)))
        if worker.is_async:
            for task in worker.executing.values():
                timeout = task.row[6]
                if task.how == "hang" and self.clock.monotonic() >= task.began_at + timeout:
                    add((3.0, worker.time_out, (task,)))

    def _disturbances(self, life: Life, add: Callable[[Choice], None]) -> None:
        if self.supervisor_deaths:
            add((0.35, self._die, (life,)))
        if self.worker_deaths and life.workers:
            add((0.3, self._kill_worker, (life,)))
        if self.decisions:
            add((0.2, self._decide, (life,)))
        if self.stale and life.answered:
            add((0.3, self._stale, (life,)))
        if life.ticks:
            add((0.1, self._jump, (life,)))

    # ------------------------------------------------------------------ time

    def _wait(self, life: Life, choices: list[Choice]) -> bool:
        """Nothing but time can bring more."""
        moments = [life.ticks[0]] if life.ticks else []
        wakeup = life.breaker.next_wakeup()
        if wakeup is not None:
            moments.append(self.clock.monotonic() + max(0.0, wakeup - self.clock.now()))
        for worker in life.workers.values():
            if worker.is_async:
                moments += [t.began_at + t.row[6] for t in worker.executing.values() if t.how == "hang"]
        people = [choice for choice in choices if choice[1] == self._person]
        if people and (not moments or self.rng.random() < 0.3):
            people[0][1](*people[0][2])
            return True
        waits = {core.run_id: dict(core.held) for core in life.engine.runs.values()}
        ensure(moments, "G-13", f"nothing will ever happen; held: {waits}")
        self._advance(life, max(0.0, min(moments) - self.clock.monotonic()) + 1e-6)
        return True

    def _jump(self, life: Life) -> None:
        if life.ticks:
            self._advance(life, max(0.0, life.ticks[0] - self.clock.monotonic()) + 1e-6)

    def _advance(self, life: Life, seconds: float) -> None:
        if seconds >= _FLUSH_S:
            self._calm_workers(life)
        self.clock.advance(seconds)

    def _calm_workers(self, life: Life) -> None:
        """Before much time passes, workers do what takes them none: nothing that is well times out."""
        busy = True
        while busy:
            busy = False
            for worker in list(life.workers.values()):
                while not worker.lost and (worker.inbox or worker.may_begin() or worker.executing):
                    if worker.may_end_itself():
                        self._end_itself(life, worker, worker.may_end_itself()[0])
                        break
                    if not (worker.inbox or worker.may_begin() or worker.may_finish()):
                        break  # what it executes hangs
                    busy = True
                    if worker.inbox:
                        worker.read()
                    elif worker.may_begin():
                        worker.begin(self.clock.monotonic())
                    else:
                        worker.finish(worker.may_finish()[0])
                if not worker.lost:
                    worker.flush()
                while worker.out:
                    busy = True
                    life.take_from_worker(worker)
                if not worker.ready and not worker.lost:
                    worker.start()
                    busy = True

    def _tick(self, life: Life) -> None:
        heapq.heappop(life.ticks)
        life.engine.tick()
        life.after()

    def _breaker_tick(self, life: Life) -> None:
        life.breaker_out.extend(life.breaker.tick(self.clock.now()))

    # ------------------------------------------------------------------ what goes wrong

    def _end_itself(self, life: Life, worker: FakeWorker, task: Any) -> None:
        if task.how == "limit":
            limit = {"kind": "memory", "limit": 1, "seen": 2}
            life.dies(worker, Evidence(exitcode=-9, reason="limit", limit=limit), (task.key,))
        elif worker.is_async and self.rng.random() < 0.5:
            life.dies(worker, Evidence(exitcode=-9, reason=worker.ending or "heartbeat"), (task.key,))
        else:
            life.dies(worker, Evidence(exitcode=-11, reason=worker.ending))

    def _kill_worker(self, life: Life) -> None:
        """The machine takes a worker; not one with a node whose crashes are counted here."""
        worker = self.rng.choice(list(life.workers.values()))
        held = life.engine.workers[worker.number].tasks if worker.number in life.engine.workers else {}
        counted = any(life.cores[key[0]].operation(key[1]).max_crashes < PATIENT for key in held)
        if not worker.lost and not counted:
            self.worker_deaths -= 1
            life.dies(worker, Evidence(exitcode=-9, reason=worker.ending))

    def _die(self, life: Life) -> None:
        """The supervisor dies, in one of two cases with the machine."""
        self.supervisor_deaths -= 1
        power = self.rng.random() < 0.5
        self.trace.append(("supervisor dies", "power" if power else "process"))
        for script in self.scripts:
            if not script.final and script.openings:
                if power and not script.volatile:
                    script.journal.lose_power(self.rng)
                script.lose(power=power)
                script.status = ""
        self.life = None

    def _decide(self, life: Life) -> None:
        """Somebody cancels a run, or stops the supervisor."""
        self.decisions -= 1
        runs = list(life.engine.runs.values())
        if runs and self.rng.random() < 0.6:
            run = self.rng.choice(runs)
            self.trace.append(("cancel", run.run_id))
            life.engine.cancel(run)
        elif not life.stopping:
            grace = self.rng.choice([0.0, 3.0])
            self.trace.append(("stop", grace))
            life.stopping = True
            if grace:
                life.engine.stop(grace)
            else:
                life.engine.abort()
        life.after()

    def _stale(self, life: Life) -> None:
        """An answer comes again, or from an attempt that was given up: it must change nothing."""
        self.stale -= 1
        number, row = self.rng.choice(list(life.answered))
        worker = life.engine.workers.get(number)
        forged = [*row[:3], OK, 1, b"\xa5stale", None]
        if self.rng.random() < 0.3:
            forged[self.rng.choice([0, 2])] += 1_000
        key = (forged[0], forged[1], forged[2])
        if worker is not None and key in worker.tasks:
            return
        before = {core.number: bytes(core.state) for core in life.engine.runs.values()}
        refused = life.engine.refused
        life.engine.results(number, [forged])
        life.after()
        ensure(life.engine.refused == refused + 1, "G-06", f"{key} was not refused")
        for each, state in before.items():
            core = life.cores[each]
            # a dispatch may follow every event; nothing else may change
            changed = [
                (a, b) for a, b in zip(state, bytes(core.state), strict=False) if a != b and (a, b) != (1, 3)
            ]
            ensure(not changed, "G-06", f"a stale answer changed {changed}")

    # ------------------------------------------------------------------ people

    def _person(self, life: Life, core: Any) -> None:
        waiting = [node for node, why in core.held.items() if why == "approval"]
        doubts = sorted(core.doubts)
        if not waiting and not doubts:
            return
        node = self.rng.choice([*waiting, *doubts])
        node_id, script = core.id_of(node), life.scripts[core.number]
        token = ("answer", node)
        if node in core.doubts:
            how, result = life.settle_doubt(script, node_id)
            self.trace.append(("resolve", core.run_id, node_id, how))
            core.resolve(node, how=how, result=result, by="sim", token=token)
        else:
            approved, data = approval_of(script.seed, node_id)
            self.trace.append(("approve", core.run_id, node_id, approved))
            core.decide(node, approved=approved, data=data, by="sim", token=token)
        life.engine.dispatch()
        life.after()

    # ------------------------------------------------------------------ the end of a life

    def _quiet(self, life: Life) -> bool:
        """All runs ended: what is still on its way arrives."""
        if life.breaker_in:
            life.breaker_reads()
        elif life.breaker_out:
            life.breaker_speaks()
        else:
            return True
        return False

    def _check_nothing_is_held(self, life: Life) -> None:
        held = {name: one.in_use for name, one in life.breaker.status().items() if one.in_use}
        ensure(not held, "G-16", f"all runs ended, and calls are still held: {held}")
        left = {number: list(worker.tasks) for number, worker in life.engine.workers.items() if worker.tasks}
        ensure(not left, "G-13", f"all runs ended, and workers still hold {left}")

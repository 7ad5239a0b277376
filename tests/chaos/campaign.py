"""Kills a real run again and again, at random instants and at every named fault point, and checks it.

    a life:  generation 1 --kill--> generation 2 --kill--> ... generation n: finishes        (one run id)

Each generation is `program.py` as a process of its own. What is checked: every generation carries on, the
last gives the results of an undisturbed run; a node whose success was announced never starts again; an effect
happens once; generations never overlap; one second after a kill nothing of the dead one lives; no lock, no
traceback, no mode but 0700 and 0600; nobody innocent is charged with a crash.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sage_actors
from chaos.nursery import Nursery
from chaos.program import EFFECTS, GENERATION, SABOTAGE, SIDE_LOG, build
from sage_actors.actors.audit.check import verify_audit
from sage_actors.actors.clock import SystemClock
from sage_actors.actors.keys.provider import load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.actors.state.journal import read_journal
from sage_actors.actors.state.locks import holder
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import SageError
from sage_actors.messages.records import NodeLost, NodesSucceeded, Record
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions
from sage_actors.supervisor.recovery.restore import replay

__all__ = ["WORKER_POINTS", "Campaign", "Report", "fault_points"]

RUN = "chaos"
ORPHAN_LIMIT_S = 1.0
HANG_S = 60.0
_ELSEWHERE = ("audit.rotated", "reencrypt.")  # that no run here comes to: tests of their own kill there
WORKER_POINTS = ("worker.before_result", "worker.after_result")
_MARK = "SAGE_CHAOS_MARK"
_MOST_CRASHES = 2  # worker deaths in one life: a node that was hit three times would rightly be poisonous
_NODES = ("seed", "square[3]", "fetch-2", "pay", "flaky", "daemon", "second-1", "chain-2", "sums/two", "join")
_KINDS = {"supervisor": 17, "aimed": 17, "fault": 34, "together": 10, "worker": 9, "sabotage": 9, "keeper": 4}
_AIM_S = 0.03


def fault_points() -> list[str]:
    """Every name that the package gives to a fault point on a run's way, from its source."""
    pattern = re.compile(r'fault_point\("([a-z_.]+)"\)')
    package = Path(sage_actors.__file__).parent
    folders = [package / name for name in ("actors", "supervisor")]
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    found = {name for path in sources for name in pattern.findall(path.read_text())}
    return sorted(name for name in found if not name.startswith(_ELSEWHERE))


@dataclass
class Report:
    """What a campaign did. kills: by kind; struck: by fault point; failures: each with its life and seed."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    finished: int = 0
    resumes: int = 0
    resumed: int = 0
    doubts: int = 0
    late_resolves: int = 0
    slowest_orphan_s: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line for people."""
        rate = 100.0 * self.resumed / max(1, self.resumes)
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kills.items()))
        return (
            f"chaos: {self.kills.total()} kills ({kinds}) in {self.lives} runs, {self.finished} finished; "
            f"{self.resumed} of {self.resumes} resumes went well ({rate:.2f} %); {self.doubts} paused in doubt, "
            f"{self.late_resolves} of them as the answer came; "
            f"last orphan gone after {self.slowest_orphan_s * 1000:.0f} ms; {len(self.failures)} failures; "
            f"seed {self.seed}; {self.seconds:.0f} s"
        )


class Generation:
    """One process that carries the run on. `events`: those that it told before it ended."""

    def __init__(self, life: Life, number: int, *, fault: str = "", **options: bool) -> None:
        self.mark = f"{life.mark}-{number}"
        self.number = number
        environ = {GENERATION: str(number), _MARK: self.mark, "SAGE_FAULT": fault}
        self.process = life.campaign.nursery.start([str(life.project), RUN, json.dumps(options)], environ)
        self.events: list[dict[str, Any]] = []
        self.stderr = ""
        self._news = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=each, daemon=True) for each in (self._read, self._read_errors)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                with self._news:
                    self.events.append(json.loads(line))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        self.stderr = self.process.stderr.read().decode(errors="replace")

    def wait_for(self, event: str) -> bool:
        """Until that event was told; False if the process ended without."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self.find(event) is not None, HANG_S)
        return self.find(event) is not None

    def wait_for_start(self, node: str) -> bool:
        """Until that node starts; False if the process ended without."""

        def started() -> bool:
            return any(each["event"] == "node_started" and each["node"] == node for each in self.events)

        with self._news:
            self._news.wait_for(lambda: self._ended or started(), HANG_S)
        return started()

    def wait_until_ended(self, timeout_s: float) -> None:
        """For so long, or less if it ends."""
        with self._news:
            self._news.wait_for(lambda: self._ended, timeout_s)

    def find(self, event: str) -> dict[str, Any] | None:
        return next((each for each in self.events if each["event"] == event), None)

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> int | None:
        """The exit code, once its output is read to the end; None if it hangs (then it is killed)."""
        code = self.process.wait(HANG_S)
        if code is None:
            self.kill()
            self.process.wait(HANG_S)
        for thread in self._threads:
            thread.join(HANG_S)
        return code

    def processes(self) -> list[int]:
        """Every live process that descends from this one, daemons too: the environment tells."""
        needle = f"{_MARK}={self.mark}\0".encode()
        return [pid for pid in _pids() if pid != self.process.pid and needle in _environ(pid)]

    def keeper(self) -> int | None:
        return next((pid for pid in self.processes() if _parent(pid) == self.process.pid), None)

    def workers(self) -> list[int]:
        keeper = self.keeper()
        return [] if keeper is None else [pid for pid in self.processes() if _parent(pid) == keeper]


class Life:
    """One run, from its first process to the one that finishes it."""

    def __init__(self, campaign: Campaign, number: int) -> None:
        self.campaign, self.number = campaign, number
        self.random = random.Random(f"{campaign.report.seed}-{number}")
        self.project = campaign.folder / f"life-{number}"
        self.project.mkdir()
        self.mark = f"{os.getpid()}-{campaign.report.seed}-{number}"
        self.state = StateDirectory(self.project)
        self.generations: list[Generation] = []
        self.crashes = 0
        self.sabotaged: set[str] = set()
        self.blind_crashes = 0  # deaths of workers whose node nobody knows
        self.after_kill = False
        self.failed = False

    def live(self, kills: int) -> None:
        """Up to `kills` kills, then to the end."""
        for _ in range(kills):
            if self._generation(self._choose_kind()) or self.failed:
                break
        else:
            for _ in range(8):
                if self._generation("none") or self.failed:
                    break
            else:
                self.fail("it never finished")
        self.check()

    def fail(self, text: str) -> None:
        self.failed = True
        generation = self.generations[-1]
        said = generation.stderr.strip()[-3000:]
        self.campaign.add_failure(f"life {self.number}, generation {generation.number}: {text}\n{said}")

    # ------------------------------------------------------------------ one generation

    def _choose_kind(self) -> str:
        kinds = dict(_KINDS)
        if not self.generations:  # each kind has its turn, however short the campaign
            return list(kinds)[self.number % len(kinds)]
        if self.crashes >= _MOST_CRASHES:
            for kind in ("worker", "sabotage", "keeper", "together"):
                del kinds[kind]
        return self.random.choices(list(kinds), list(kinds.values()))[0]

    def _generation(self, kind: str) -> bool:
        """Whether the run is finished."""
        fault, point = "", ""
        if kind == "fault":
            point, fault = self.campaign.next_fault(self.random)
        if kind == "sabotage" or point == "run.worker_lost":
            self._plan_sabotage()
        settle = kind == "none" or self.random.random() < 0.5
        generation = Generation(self, len(self.generations) + 1, fault=fault, settle=settle)
        self.generations.append(generation)
        resuming, self.after_kill = self.after_kill, False
        struck = self._strike(generation, kind)
        code = generation.wait()
        ended = time.monotonic()
        if kind == "fault" and code == -signal.SIGKILL:
            self.campaign.count_kill("fault", point)
            struck = True
        elif struck and (code == -signal.SIGKILL or kind in ("worker", "keeper")):  # it may have been late
            self.campaign.count_kill(kind)
        if kind == "sabotage" and not (self.project / SABOTAGE).exists():
            self.campaign.count_kill("sabotage", self._sabotage_point)
        (self.project / SABOTAGE).unlink(missing_ok=True)
        killed = code == -signal.SIGKILL and struck
        finished = self._judge(generation, code, killed)
        self.campaign.count_resume(resuming, not self.failed)
        self.after_kill = killed
        keeper_died = kind == "keeper" and struck
        self.campaign.watch_orphans(self, generation, ended, excepted=keeper_died)
        return finished

    def _plan_sabotage(self) -> None:
        node = self.random.choice(_NODES)
        self._sabotage_point = self.campaign.next_sabotage()
        (self.project / SABOTAGE).write_text(f"{node} {self._sabotage_point}")
        self.sabotaged.add(node)
        self.crashes += 1
        if self._sabotage_point != "operation":
            self.blind_crashes += 1  # what comes next in that worker may be hit

    def _strike(self, generation: Generation, kind: str) -> bool:
        if kind in ("none", "fault", "sabotage"):
            return False
        if kind == "aimed":
            return self._strike_at(generation, self.random.choice(("pay", self.random.choice(_NODES))))
        first = "ready" if kind == "supervisor" else "run_started"
        if not generation.wait_for(first):
            return False
        span = self.campaign.span_s if first == "ready" else self.campaign.run_span_s
        generation.wait_until_ended(self.random.uniform(0.0, span))
        if kind == "supervisor":
            generation.kill()
            return True
        if kind == "keeper":
            return self._kill_all([generation.keeper()])
        workers = generation.workers()
        if kind == "worker":
            return self._kill_all([self.random.choice(workers)] if workers else [])
        victims = [generation.process.pid, *workers]
        self.random.shuffle(victims)
        return self._kill_all(victims)

    def _strike_at(self, generation: Generation, node: str) -> bool:
        """Kills the supervisor while that node executes, or just after."""
        if not generation.wait_for_start(node):
            return False
        generation.wait_until_ended(self.random.uniform(0.0, _AIM_S))
        generation.kill()
        return True

    def _kill_all(self, pids: Sequence[int | None]) -> bool:
        struck = False
        self.crashes += 1
        self.blind_crashes += 4
        for pid in pids:
            try:
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    struck = True
            except ProcessLookupError:
                pass
        return struck

    def _judge(self, generation: Generation, code: int | None, killed: bool) -> bool:
        if "Traceback" in generation.stderr:
            self.fail("a traceback on stderr")
        if killed:
            return False
        outcome = generation.find("outcome") or {}
        self.campaign.report.late_resolves += generation.find("resolve_too_late") is not None
        if code == 5 and str(outcome.get("reason")).startswith("in doubt: pay"):
            self.campaign.report.doubts += 1
            return False
        if code != 0 or outcome.get("status") != "succeeded":
            self.fail(f"exit code {code}, outcome {outcome}")
        elif outcome["results"] != self.campaign.expected:
            self.fail(f"other results: {outcome['results']}")
        return code == 0

    # ------------------------------------------------------------------ the whole life

    def check(self) -> None:
        """Everything that can be said once the run is finished."""
        if self.failed:
            return
        for complaint in self.complaints():
            self.fail(complaint)
        if not self.failed:
            self.campaign.report.finished += 1

    def complaints(self) -> Iterator[str]:
        yield from self._complain_about_repeats()
        yield from self._complain_about_order()
        yield from self._complain_about_overlaps()
        yield from self._complain_about_files()
        yield from self._complain_about_journal()
        yield from self._complain_about_audit()
        effects = (self.project / EFFECTS).read_text().splitlines()
        if len(effects) != 1:
            yield f"the effect happened {len(effects)} times: {effects}"

    def side_log(self) -> Iterator[tuple[int, str, str, float]]:
        """(generation, node, start|end, time)"""
        for line in (self.project / SIDE_LOG).read_text().splitlines():
            generation, node, _attempt, _pid, what, at = line.split()
            yield int(generation), node, what, float(at)

    def _complain_about_repeats(self) -> Iterator[str]:
        done: dict[str, float] = {}
        for generation in self.generations:
            for event in generation.events:
                node = event.get("node")
                if event["event"] == "node_succeeded":
                    if node in done:
                        yield f"{node} was announced as succeeded twice"
                    done[str(node)] = datetime.fromisoformat(event["time"]).timestamp()
                elif event["event"] == "node_started" and node in done:
                    yield f"{node} was started after it had succeeded"
        for number, node, what, at in self.side_log():
            if what == "start" and at > done.get(node, at):
                yield f"{node} executed in generation {number} after it had succeeded"

    def _complain_about_order(self) -> Iterator[str]:
        """Nothing that others had begun to build on may execute again: its result was to be on disk first."""
        used: set[str] = set()
        for number, node, what, _at in self.side_log():
            whole = re.split(r"[\[/]", node)[0]  # a part of an expansion stands for all of it
            if what == "start" and whole in used:
                yield f"{node} executed in generation {number} after others had used its result"
            used |= self.campaign.parents[whole]

    def _complain_about_overlaps(self) -> Iterator[str]:
        newest = 0
        for number, node, what, _at in self.side_log():
            if number < newest:
                yield f"{node} of generation {number} still ran ({what}) beside generation {newest}"
            newest = max(newest, number)

    def _complain_about_files(self) -> Iterator[str]:
        if holder(self.state, RUN) is not None or list(self.state.locks.glob("chaos*")):
            yield "a lock was left"
        for path in [self.state.root, *self.state.root.rglob("*")]:
            mode = path.stat().st_mode & 0o777
            if mode != (0o700 if path.is_dir() else 0o600):
                yield f"{path.relative_to(self.project)} has mode {mode:o}"

    def _complain_about_journal(self) -> Iterator[str]:
        succeeded: Counter[int] = Counter()
        charged: list[int] = []

        def look(location: Any, record: Record) -> None:
            if isinstance(record, NodesSucceeded):
                succeeded.update(row[0] for row in record.rows)
            elif isinstance(record, NodeLost) and record.charged:
                charged.append(record.node)

        image = read_journal(self.state.run_dir(RUN), self.campaign.keys)
        core = replay(image.frames, _empty_run, watch=look).run
        assert core is not None
        for node, times in succeeded.items():
            if times != 1:
                yield f"{core.id_of(node)} succeeded {times} times in the journal"
        names = [core.id_of(node) for node in charged]
        innocent = [name for name in names if name not in self.sabotaged]
        if len(innocent) > self.blind_crashes:
            yield f"charged with a crash, but innocent: {innocent}"

    def _complain_about_audit(self) -> Iterator[str]:
        """However often it was killed, the log has all that the journal has, once."""
        try:
            yield from verify_audit(self.state, self.campaign.keys, run_id=RUN).notices
        except SageError as error:
            yield f"the audit log does not prove itself: {error}"


class Campaign:
    """Lives, two at a time, until there were enough kills."""

    def __init__(self, folder: Path, *, kills: int, seed: int, lanes: int = 2) -> None:
        self.folder, self.wanted, self.lanes = folder, kills, lanes
        self.report = Report(seed)
        self.key = "sak1-" + base64.b64encode(random.Random(seed).randbytes(32)).decode()
        self.keys = load_keys(environ={"SAGE_STATE_KEY": self.key})
        self.points = [name for name in fault_points() if not name.startswith("worker.")]
        self._lock = threading.Lock()
        self._passes: dict[str, int] = {}
        self._turn = self._sabotages = 0
        self.expected: Any = None
        self.parents = _parents(build().to_spec())
        self.span_s = self.run_span_s = 1.0

    def run(self) -> Report:
        """The whole campaign."""
        began = time.monotonic()
        with Nursery(self._environ()) as self.nursery:
            self._look_undisturbed()
            with (
                ThreadPoolExecutor(self.lanes + 8) as self._watchers,
                ThreadPoolExecutor(self.lanes) as lanes,
            ):
                for each in [lanes.submit(self._lane) for _ in range(self.lanes)]:
                    each.result()
        self.report.seconds = time.monotonic() - began
        return self.report

    def _environ(self) -> dict[str, str]:
        """What all generations share."""
        # measuring what is about to be killed costs half of its time, and tears the measurements
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        source = str(Path(sage_actors.__file__).parents[1])
        return inherited | {"SAGE_STATE_KEY": self.key, "PYTHONPATH": source}

    def _look_undisturbed(self) -> None:
        """The results, how long it takes, and how often it passes each fault point."""
        fault = ",".join(f"{point}:1000000000:kill" for point in self.points)
        life = Life(self, 0)
        generation = Generation(life, 1, fault=fault, passes=True)
        life.generations.append(generation)
        assert generation.wait_for("ready"), generation.stderr
        began = time.monotonic()
        assert generation.wait_for("run_started"), generation.stderr
        started = time.monotonic()
        assert generation.wait() == 0, generation.stderr
        self.span_s, self.run_span_s = time.monotonic() - began, time.monotonic() - started
        outcome, passes = generation.find("outcome"), generation.find("passes")
        assert outcome is not None
        assert passes is not None
        self.expected, self._passes = outcome["results"], passes["passes"]

    def _lane(self) -> None:
        while True:
            with self._lock:
                left = self.wanted - self.report.kills.total()
                enough = left <= 0 or len(self.report.failures) >= 5
                self.report.lives += not enough
                number = self.report.lives
            if enough:
                return
            life = Life(self, number)
            life.live(min(left, life.random.randint(2, 8)))

    def next_fault(self, rng: random.Random) -> tuple[str, str]:
        """The next fault point in turn, and how to arm it: at its first pass, later at any. After the first round
        those come first whose life had ended before it came to them."""
        with self._lock:
            missed = [each for each in self.points if not self.report.struck[each]]
            turns = missed if missed and self._turn >= len(self.points) else self.points
            point = turns[self._turn % len(turns)]
            first = point in missed
            self._turn += 1
        passes = max(1, self._passes.get(point, 1))
        count = 1 if first else 1 + int(passes * rng.random())
        return point, f"{point}:{count}:kill"

    def next_sabotage(self) -> str:
        """Where a worker dies next, in turn."""
        points = ("operation", *WORKER_POINTS)
        with self._lock:
            self._sabotages += 1
            return points[self._sabotages % len(points)]

    def count_kill(self, kind: str, point: str = "") -> None:
        with self._lock:
            self.report.kills[kind] += 1
            if point:
                self.report.struck[point] += 1

    def count_resume(self, resuming: bool, well: bool) -> None:
        with self._lock:
            self.report.resumes += resuming
            self.report.resumed += resuming and well

    def add_failure(self, text: str) -> None:
        with self._lock:
            self.report.failures.append(text)

    def watch_orphans(self, life: Life, generation: Generation, ended: float, *, excepted: bool) -> None:
        """Beside the next generation, which may begin at once."""
        self._watchers.submit(self._watch_orphans, life, generation, ended, excepted)

    def _watch_orphans(self, life: Life, generation: Generation, ended: float, excepted: bool) -> None:
        left = generation.processes()
        while left and time.monotonic() < ended + ORPHAN_LIMIT_S:
            time.sleep(0.01)
            left = generation.processes()
        gone = time.monotonic() - ended
        if left and not excepted:
            told = ", ".join(f"{pid} {_command(pid)}" for pid in left)
            life.fail(f"orphans of generation {generation.number}: {told}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if not excepted:
            with self._lock:
                self.report.slowest_orphan_s = max(self.report.slowest_orphan_s, gone)


def _empty_run(spec: Any, header: dict[str, Any]) -> RunCore:
    return RunCore(
        number=1,
        run_id=RUN,
        run_key=RUN,
        plan=compile_plan(spec),
        inputs=header["inputs"],
        ports=None,  # type: ignore[arg-type]  # it is only read
        clock=SystemClock(),
        options=RunOptions(),
    )


def _parents(spec: WorkflowSpec) -> dict[str, set[str]]:
    """What each node needs the success of."""
    plan = compile_plan(spec)
    tolerant = {node.id for node in spec.nodes if node.operation.on_failure == "continue"}
    numbers = {node.id: i for i, node in enumerate(spec.nodes)}
    return {
        node: {plan.ids[each] for each in plan.parents_of(number)} - tolerant
        for node, number in numbers.items()
    }


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()  # empty for zombies
    except OSError:
        return b""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80]
    except OSError:
        return "(gone)"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        report = Campaign(Path(folder), kills=int(sys.argv[1]), seed=int(sys.argv[2])).run()
        print(report.summary(), report.struck, *report.failures, sep="\n")

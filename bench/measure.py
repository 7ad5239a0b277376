"""What a benchmark hands back, what it costs while it runs, and how a group of them is run alone."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import psutil

from bench.budgets import BUDGETS, Better
from sage_actors.actors.state.disk import Disk

__all__ = ["Benchmark", "Figure", "Meter", "Size", "figure", "run_group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured number, in `unit`.

    spread: (least, most) of the repeats that `value` is the median of. budget: None where there is none, and
    the figure only explains. note: what was counted, and where the time goes.
    """

    name: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    budget: float | None = None
    better: Better = "lower"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None without a budget."""
        if self.budget is None:
            return None
        return self.value <= self.budget if self.better == "lower" else self.value >= self.budget

    @property
    def verdict(self) -> str:
        """`met`, `MISSED by 1.4x`, or nothing."""
        if self.budget is None:
            return ""
        if self.met:
            return "met"
        over = self.value / self.budget if self.better == "lower" else self.budget / self.value
        return f"MISSED by {over:.2f}x" if over >= 1.005 else f"MISSED by {over - 1:.2%}"

    def value_text(self) -> str:
        """The value, in as many digits as it takes to see it beyond a budget that it misses."""
        digits = 3
        if self.budget is not None and not self.met:
            while digits < 12 and number(self.value, digits) == number(self.budget, digits):
                digits += 1
        return f"{number(self.value, digits)} {self.unit}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Figure:
        spread = data["spread"]
        return cls(**{**data, "spread": None if spread is None else (spread[0], spread[1])})

    def line(self) -> str:
        """For a terminal: name, value, spread, budget, verdict."""
        text = f"{self.name:<22}{self.value_text():>12}  {self.spread_text():<22}"
        if self.budget is not None:
            text += f"  budget {self.bound_text():<12}  {self.verdict}"
        return text.rstrip()

    def spread_text(self) -> str:
        return "" if self.spread is None else f"({number(self.spread[0])} .. {number(self.spread[1])})"

    def bound_text(self) -> str:
        if self.budget is None:
            return ""
        return f"{'<=' if self.better == 'lower' else '>='} {quantity(self.budget, self.unit)}"


def number(value: float, digits: int = 3) -> str:
    """Three digits (or more), or all of them before the point."""
    if abs(value) >= 100:
        return f"{value:,.{digits - 3}f}"
    return f"{value:.{digits}g}"


def quantity(value: float, unit: str) -> str:
    return f"{number(value)} {unit}"


def figure(
    name: str, values: Sequence[float], unit: str, *, budgets: Sequence[float] = (), note: str = ""
) -> Figure:
    """The median of `values` with their spread, beside its budget if `name` has one.

    budgets: of each repeat, where the run works the budget out: their median counts.
    """
    budget = BUDGETS.get(name)
    limit = statistics.median(budgets) if budgets else budget.limit if budget else None
    return Figure(
        name=name,
        value=statistics.median(values),
        unit=unit,
        spread=(min(values), max(values)) if len(values) > 1 else None,
        budget=limit,
        better=budget.better if budget else "lower",
        note=note,
    )


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure. repeat: how often each is measured; None leaves it to the benchmark."""

    quick: bool = False
    repeat: int | None = None

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def repeats(self, full: int = 3, quick: int = 1) -> int:
        return self.repeat or self.pick(full, quick)


@dataclass(slots=True)
class Meter:
    """What happens between enter and exit, as seen from this process.

    wall_s: wall time. cpu_s: CPU of this process, all threads, user and system. children_cpu_s: of the
    processes below it that live at the end (10 ms steps). syncs, sync_s: fsyncs and fdatasyncs of the
    engine, and the time in them. threads: CPU of each thread, by name.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    children_cpu_s: float = 0.0
    syncs: int = 0
    sync_s: float = 0.0
    threads: dict[str, float] = field(default_factory=dict)
    _undo: Callable[[], None] = field(default=lambda: None, repr=False)

    def __enter__(self) -> Meter:
        gc.collect()  # what came before is not charged here
        self._count_syncs()
        self.threads = _threads_cpu()
        self.children_cpu_s = -_children_cpu()
        self.cpu_s = -time.process_time()
        self.wall_s = -time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wall_s += time.perf_counter()
        self.cpu_s += time.process_time()
        self.children_cpu_s += _children_cpu()
        before, after = self.threads, _threads_cpu()
        self.threads = {name: used - before.get(name, 0.0) for name, used in after.items()}
        self._undo()

    def where(self, nodes: int) -> str:
        """CPU per node of the threads that used most of it."""
        used = sorted(self.threads.items(), key=lambda each: -each[1])
        parts = [f"{name} {number(cpu / nodes * 1e6)}" for name, cpu in used if cpu > 0.01 * self.cpu_s]
        return "CPU us/node by thread: " + ", ".join(parts)

    def _count_syncs(self) -> None:
        lock = threading.Lock()

        def counting(call: Callable[[Disk, int], None]) -> Callable[[Disk, int], None]:
            def counted(disk: Disk, fd: int) -> None:
                began = time.perf_counter()
                call(disk, fd)
                took = time.perf_counter() - began
                with lock:
                    self.syncs += 1
                    self.sync_s += took

            return counted

        data, whole = Disk.sync_data, Disk.sync

        def undo() -> None:
            Disk.sync_data = data  # type: ignore[method-assign]
            Disk.sync = whole  # type: ignore[method-assign]

        self._undo = undo
        Disk.sync_data = counting(data)  # type: ignore[method-assign, assignment]
        Disk.sync = counting(whole)  # type: ignore[method-assign, assignment]


def _children_cpu() -> float:
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue  # it ended
        total += times.user + times.system
    return total


def _threads_cpu() -> dict[str, float]:
    """Seconds of CPU of every live thread by name; nothing where there is no /proc."""
    names = {each.native_id: each.name for each in threading.enumerate()}
    used: dict[str, float] = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            ran_ns = int(path.read_text().split()[0])
        except (OSError, ValueError):
            continue  # the thread ended
        name = names.get(int(path.parent.name), "other threads")
        used[name] = used.get(name, 0.0) + ran_ns / 1e9
    return used


Benchmark: TypeAlias = Callable[[Size], list[Figure]]


def run_group(about: str, benchmarks: Mapping[str, Benchmark], argv: Sequence[str] | None = None) -> int:
    """The main program of a group: measure what is asked for, print each figure when it is known."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all, or of: {', '.join(benchmarks)}", default=[]
    )
    parser.add_argument("--quick", action="store_true", help="the small size that CI runs")
    parser.add_argument("--repeat", type=int, metavar="N", help="measure everything N times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args(argv)
    if unknown := set(given.names) - set(benchmarks):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(benchmarks)}")
    size = Size(given.quick, given.repeat)
    figures, failed = _measure_all(
        {n: b for n, b in benchmarks.items() if n in (given.names or benchmarks)}, size
    )
    if given.json:
        given.json.write_text(json.dumps([each.to_dict() for each in figures]))
    return 1 if failed else 0


def _measure_all(benchmarks: Mapping[str, Benchmark], size: Size) -> tuple[list[Figure], list[str]]:
    figures: list[Figure] = []
    failed: list[str] = []
    for name, benchmark in benchmarks.items():
        try:
            found = benchmark(size)
        except Exception:  # noqa: BLE001 - the other benchmarks are measured all the same
            traceback.print_exc()
            print(f"{name}: could not be measured", file=sys.stderr)
            failed.append(name)
            continue
        for each in found:
            print(each.line(), flush=True)
            if each.note:
                print(f"    {each.note}", flush=True)
        figures += found
    return figures, failed

"""What a process and everything it started use: memory, CPU time, how many there are; and whether they live.

Read from /proc where there is one (a tenth of a millisecond a process), else with psutil. Light: the keeper
and every worker import this.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

__all__ = [
    "LimitWatch",
    "TreeUsage",
    "children_of",
    "descendants_of",
    "is_alive",
    "process_started_at",
    "tree_memory",
    "tree_usage",
]

_HAS_CHILDREN_FILE = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_HAS_PROC = os.path.exists("/proc/self/stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """memory_bytes: anonymous, shared and swapped memory. cpu_s: of the living and of those they reaped.
    processes: how many descend from the root, which is not counted itself."""

    memory_bytes: int
    cpu_s: float
    processes: int


def process_started_at(pid: int) -> float | None:
    """When `pid` started, in seconds on a clock of this boot; None if there is no such process (a zombie is
    none). With the pid it names a process for good: pids are used again, start times are not."""
    if not _HAS_PROC:
        return _psutil_started_at(pid)
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return int(fields[19]) / _TICKS_PER_S


def is_alive(pid: int, started_at: float) -> bool:
    """Whether the very process that `process_started_at` described still lives."""
    return process_started_at(pid) == started_at


def children_of(pid: int) -> list[int]:
    """The direct children of `pid`, zombies too; empty if it is gone."""
    if _HAS_CHILDREN_FILE:
        return _children_from_file(pid)
    if _HAS_PROC:
        return [child for child, parent in _all_parents() if parent == pid]
    return _psutil_children(pid)


def descendants_of(pid: int) -> list[int]:
    """Everything below `pid`, parents before their children."""
    found = children_of(pid)
    for child in found:  # grows while it is walked
        found.extend(children_of(child))
    return found


def tree_usage(pid: int) -> TreeUsage:
    """What `pid` and its descendants use now."""
    below = descendants_of(pid)
    memory, cpu = 0, 0.0
    for member in (pid, *below):
        memory += _memory(member)
        cpu += _cpu(member)
    return TreeUsage(memory, cpu, len(below))


def tree_memory(pid: int) -> int:
    """Only the memory of `tree_usage`, in bytes."""
    return sum(_memory(member) for member in (pid, *descendants_of(pid)))


class LimitWatch:
    """Compares what a worker's process tree uses with the limits of the operation it executes.

    memory (bytes) and processes are absolute, cpu_seconds counts from the start of the watch. Fork copies
    show the same pages in each process, so that the cheap sum is an upper bound: near the limit the exact
    share (Pss) decides.
    """

    def __init__(self, pid: int, limits: dict[str, Any]) -> None:
        self.pid = pid
        self.peak_bytes = 0
        self._memory = limits.get("memory")
        self._cpu = limits.get("cpu_seconds")
        self._processes = limits.get("processes")
        self._cpu_before = tree_usage(pid).cpu_s if self._cpu is not None else 0.0

    def exceeded(self) -> dict[str, Any] | None:
        """{"kind", "limit", "seen"} of the first limit that is exceeded now, for the evidence."""
        usage = tree_usage(self.pid)
        self.peak_bytes = max(self.peak_bytes, usage.memory_bytes)
        if self._processes is not None and usage.processes > self._processes:
            return _excess("processes", self._processes, usage.processes)
        if self._cpu is not None and usage.cpu_s - self._cpu_before > self._cpu:
            return _excess("cpu_seconds", self._cpu, round(usage.cpu_s - self._cpu_before, 2))
        if self._memory is not None and usage.memory_bytes > self._memory:
            exact = _exact_memory(self.pid)
            self.peak_bytes = max(self.peak_bytes, exact)
            if exact > self._memory:
                return _excess("memory", self._memory, exact)
        return None


def _excess(kind: str, limit: float, seen: float) -> dict[str, Any]:
    return {"kind": kind, "limit": limit, "seen": seen}


def _exact_memory(pid: int) -> int:
    """The tree's memory where each shared page counts once."""
    total = 0
    for member in (pid, *descendants_of(pid)):
        text = _read(f"/proc/{member}/smaps_rollup")
        total += _sum_kib(text, (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")) if text else _memory(member)
    return total


def _memory(pid: int) -> int:
    if not _HAS_PROC:
        return _psutil_memory(pid)
    return _sum_kib(_read(f"/proc/{pid}/status"), (b"RssAnon:", b"RssShmem:", b"VmSwap:"))


def _sum_kib(text: bytes, names: tuple[bytes, ...]) -> int:
    """The sum, in bytes, of the lines `Name:   123 kB` that start with one of `names`."""
    total = 0
    for line in text.splitlines():
        if line.startswith(names):
            total += int(line.split()[1])
    return total * 1024


def _cpu(pid: int) -> float:
    if not _HAS_PROC:
        return _psutil_cpu(pid)
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS_PER_S if fields else 0.0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (the state) on: the second may hold blanks and brackets."""
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    return text[text.rindex(b")") + 2 :].decode("ascii").split()


def _read(path: str) -> bytes:
    """A /proc file; empty if the process is gone meanwhile, or not ours to read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        chunks = []
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _children_from_file(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        found.extend(map(int, _read(f"/proc/{pid}/task/{thread}/children").split()))
    return found


def _all_parents() -> list[tuple[int, int]]:
    """(pid, parent) of every process, for kernels built without the children file."""
    pairs = []
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))) is not None:
            pairs.append((int(name), int(fields[1])))
    return pairs


def _psutil_started_at(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def _psutil_children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _psutil_memory(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _psutil_cpu(pid: int) -> float:
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return 0.0

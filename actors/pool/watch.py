"""What a process and everything it started use, and whether that is more than it may."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sage_actors.actors.pool.proc import (
    ProcessTimes,
    anonymous_bytes,
    children_of,
    exact_bytes,
    is_alive,
    is_namespace_init,
    memfd_bytes,
    process_started_at,
    process_times,
    unattached_bytes,
)
from sage_actors.messages.limits import limit_hit

__all__ = [
    "CpuMeter",
    "LimitWatch",
    "children_of",
    "descendants_of",
    "is_alive",
    "process_started_at",
    "tree_memory",
]


def descendants_of(pid: int, *, most: int | None = None) -> list[int]:
    """Everything below `pid`, parents before their children. `most`: enough are found once there are more."""
    found = children_of(pid)
    for child in found:  # grows while it is walked
        if most is not None and len(found) > most:
            break
        found.extend(children_of(child))
    return found


def tree_memory(pid: int) -> int:
    """Memory of `pid` and its descendants, in bytes: anonymous, shared and swapped; shared pages count in each. The
    first process of a namespace only waits, and does not count."""
    below = descendants_of(pid)
    return _upper_bound(below if below and is_namespace_init(pid) else (pid, *below))


class CpuMeter:
    """CPU time that a tree has used since the first look, in seconds. It never goes back.

    What a process used shows three times: as its own, as its reaper's once it was waited for, and, where its parent
    ignores SIGCHLD, not at all after its end. So each process is counted as far as it was seen, and what a reaper
    shows later only as far as it is more than that.
    """

    def __init__(self) -> None:
        self.used_s = 0.0
        self._seen: dict[tuple[int, float], ProcessTimes] | None = None
        self._gone_s = 0.0  # counted of processes that are gone, and not yet shown by a reaper

    def look(self, members: Collection[int]) -> float:
        """Counts what `members` have used since the last look; all in all so far."""
        known, now = self._seen, self._times(members)
        self._seen = now
        if known is None:
            return 0.0
        reaped = 0.0
        for key, times in now.items():
            before = known.get(key)
            self.used_s += times.own_s - (before.own_s if before else 0.0)
            reaped += times.reaped_s - (before.reaped_s if before else 0.0)
        self._gone_s += sum(each.own_s + each.reaped_s for key, each in known.items() if key not in now)
        shown = min(self._gone_s, reaped)
        self._gone_s -= shown
        self.used_s += reaped - shown
        return self.used_s

    def _times(self, members: Collection[int]) -> dict[tuple[int, float], ProcessTimes]:
        """Also of who was a member and lives: a walk may overlook a process while others come and go."""
        pids = {*members, *(pid for pid, _ in self._seen or ())}
        found = {}
        for pid in pids:
            times = process_times(pid)
            if times is not None and (pid in members or (pid, times.started_at) in (self._seen or ())):
                found[pid, times.started_at] = times
        return found


class LimitWatch:
    """Compares what a worker's process tree uses with the limits of the operation it executes.

    pid: the worker, or the first process of its process namespace, which only waits for it. limits: by name, see
    `definition.Limits`; those that the kernel enforces (files, file_size, tmp) and `result` are not looked at here.
    memory and processes are absolute, cpu_seconds and output count from the start of the watch. Fork copies
    show the same pages in each process, so that the cheap sum is an upper bound: beyond the limit the exact
    share (Pss) decides. A look costs a millisecond for ten processes.
    """

    def __init__(self, pid: int, limits: Mapping[str, Any]) -> None:
        self.pid = pid
        self.peak_bytes = 0
        self._memory = limits.get("memory")
        self._cpu = limits.get("cpu_seconds")
        self._processes = limits.get("processes")
        self._output = limits.get("output")
        self._printed = 0
        self._walks = any(each is not None for each in (self._memory, self._cpu, self._processes))
        self._worker: int | None = None  # where it is not `pid`
        self._meter = CpuMeter()
        if self._cpu is not None:
            self._meter.look((pid, *descendants_of(pid)))

    def printed(self, size_bytes: int) -> None:
        """The operation printed so much more."""
        self._printed += size_bytes

    def exceeded(self) -> dict[str, Any] | None:
        """{"kind", "limit", "seen"} of the first limit that is exceeded now, for the evidence."""
        if self._output is not None and self._printed > self._output:
            return limit_hit("output", self._output, self._printed)
        return self._tree_exceeded() if self._walks else None

    def _tree_exceeded(self) -> dict[str, Any] | None:
        most = None if self._processes is None else self._processes + 1
        below = descendants_of(self.pid, most=most)
        members = (self.pid, *below)
        worker = self._worker_among(below)
        if self._processes is not None:
            count = len(below) - (worker in below)
            if count > self._processes:
                return limit_hit("processes", self._processes, count)
        if self._cpu is not None:
            used = round(self._meter.look(members), 2)  # the kernel's ticks are hundredths
            if used > self._cpu:
                return limit_hit("cpu_seconds", self._cpu, used)
        if self._memory is None:
            return None
        return self._memory_exceeded(below if worker in below else members, self._memory)

    def _memory_exceeded(self, members: Collection[int], limit: int) -> dict[str, Any] | None:
        used = _upper_bound(members)
        if used > limit:
            used = _exact(members)
        self.peak_bytes = max(self.peak_bytes, used)
        return limit_hit("memory", limit, used) if used > limit else None

    def _worker_among(self, below: Collection[int]) -> int | None:
        """The worker, where it is below `pid`: the first that the first process of its namespace started."""
        if self._worker is None and below and is_namespace_init(self.pid):
            self._worker = next(iter(below))
        return self._worker


def _upper_bound(pids: Collection[int]) -> int:
    return sum(map(anonymous_bytes, pids)) + memfd_bytes(pids) + unattached_bytes(pids)


def _exact(pids: Collection[int]) -> int:
    """The tree's memory where each shared page counts once."""
    return sum(map(exact_bytes, pids)) + memfd_bytes(pids, unmapped=True) + unattached_bytes(pids)

"""What the system says of one process: its start, its children, its CPU time, its memory.

Read from /proc where there is one (a tenth of a millisecond a process), else with psutil. Light: the keeper
and every worker import this. Whoever is gone meanwhile, or is not ours to look at, has nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass

__all__ = [
    "ProcessTimes",
    "anonymous_bytes",
    "children_of",
    "exact_bytes",
    "is_alive",
    "is_namespace_init",
    "memfd_bytes",
    "process_started_at",
    "process_times",
    "unattached_bytes",
]

_HAS_CHILDREN_FILE = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_HAS_PROC = os.path.exists("/proc/self/stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """started_at: seconds on a clock of this boot. own_s: CPU of its threads; reaped_s: of the children that it
    waited for, and of theirs. is_zombie: it has ended, and nobody waited for it yet."""

    started_at: float
    own_s: float
    reaped_s: float
    is_zombie: bool


def process_times(pid: int) -> ProcessTimes | None:
    """The times of `pid`; None if there is no such process."""
    if not _HAS_PROC:
        return _psutil_times(pid)
    fields = _stat(pid)
    if fields is None:
        return None
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return ProcessTimes(
        int(fields[19]) / _TICKS_PER_S, own / _TICKS_PER_S, reaped / _TICKS_PER_S, fields[0] in ("Z", "X")
    )


def process_started_at(pid: int) -> float | None:
    """When `pid` started, in seconds on a clock of this boot; None if there is no such process (a zombie is
    none). With the pid it names a process for good: pids are used again, start times are not."""
    times = process_times(pid)
    return None if times is None or times.is_zombie else times.started_at


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


def is_namespace_init(pid: int) -> bool:
    """Whether `pid` is the first process of a process namespace below ours."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"NSpid:"):
            numbers = line.split()[1:]
            return len(numbers) > 1 and numbers[-1] == b"1"
    return False


def anonymous_bytes(pid: int) -> int:
    """What `pid` has mapped and no file backs: anonymous, shared and swapped. Pages that several processes
    share count in each."""
    if not _HAS_PROC:
        return _psutil_memory(pid)
    return _sum_kib(_read(f"/proc/{pid}/status"), (b"RssAnon:", b"RssShmem:", b"VmSwap:"))


def exact_bytes(pid: int) -> int:
    """As `anonymous_bytes`, but of a page that n processes share, one n-th. A fifth of a millisecond."""
    text = _read(f"/proc/{pid}/smaps_rollup")
    if not text:
        return anonymous_bytes(pid)
    return _sum_kib(text, (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"))


def memfd_bytes(pids: Collection[int], *, unmapped: bool = False) -> int:
    """What the anonymous files (memfd_create) hold that these processes have open, each file once.

    unmapped: only what none of them has mapped, which `exact_bytes` does not see.
    """
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        for path in _memfd_paths(pid):
            try:
                status = os.stat(path)
            except OSError:
                continue
            files[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
    total = sum(files.values())
    if total and unmapped:
        total -= sum(_mapped_memfd_bytes(pid) for pid in pids)
    return max(0, total)


def unattached_bytes(pids: Collection[int]) -> int:
    """What System V segments hold that one of these processes made and none has attached now."""
    total = 0
    for line in _read("/proc/sysvipc/shm").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 15 and int(fields[4]) in pids and fields[6] == b"0":
            total += int(fields[14]) + int(fields[15])
    return total


def _memfd_paths(pid: int) -> list[str]:
    """The names under /proc of the descriptors of `pid` that are anonymous files."""
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{name}"
            try:
                if os.readlink(path).startswith("/memfd:"):
                    found.append(path)
            except OSError:  # closed meanwhile
                continue
    except OSError:
        return []
    return found


def _mapped_memfd_bytes(pid: int) -> int:
    total, counts = 0, False
    for line in _read(f"/proc/{pid}/smaps").splitlines():
        first = line.split(b" ", 1)[0]
        if b"-" in first:  # the head of a mapping: its addresses first, its file last
            counts = b" /memfd:" in line
        elif counts and first == b"Pss:":
            total += int(line.split()[1]) * 1024
    return total


def _sum_kib(text: bytes, names: tuple[bytes, ...]) -> int:
    """The sum, in bytes, of the lines `Name:   123 kB` that start with one of `names`."""
    total = 0
    for line in text.splitlines():
        if line.startswith(names):
            total += int(line.split()[1])
    return total * 1024


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


def _psutil_times(pid: int) -> ProcessTimes | None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ProcessTimes(float(process.create_time()), 0.0, 0.0, True)
        times = process.cpu_times()
        return ProcessTimes(
            float(process.create_time()),
            float(times.user + times.system),
            float(times.children_user + times.children_system),
            False,
        )
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

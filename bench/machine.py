"""The machine that is measured on: its facts, its disk, and what one write + fdatasync costs there."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from sage_actors.actors.state.directory import filesystem_type

__all__ = ["disk_directory", "facts", "sync_times"]

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def disk_directory() -> Path:
    """A directory for temporary files that is on a disk: $BENCH_DIR, the usual one, /var/tmp or this one.

    Raises:
        RuntimeError: all of them are in memory, where an fsync costs nothing and no figure means anything.
    """
    given = os.environ.get("BENCH_DIR")
    candidates = [given] if given else [tempfile.gettempdir(), "/var/tmp", "."]
    for each in candidates:
        path = Path(each).absolute()
        if path.is_dir() and os.access(path, os.W_OK) and filesystem_type(path) not in _IN_MEMORY:
            return path
    raise RuntimeError(f"none of {', '.join(candidates)} is on a disk; set BENCH_DIR to a directory that is")


def sync_times(directory: Path, size_bytes: int, times: int = 100) -> list[float]:
    """Seconds that appending `size_bytes` and fdatasync took here, each of `times`."""
    block, took = os.urandom(size_bytes), []
    fd, name = tempfile.mkstemp(dir=directory)
    try:
        for _ in range(times):
            began = time.perf_counter()
            os.write(fd, block)
            os.fdatasync(fd)
            took.append(time.perf_counter() - began)
    finally:
        os.close(fd)
        os.unlink(name)
    return took


def facts() -> dict[str, str]:
    """What a reader must know to judge the figures."""
    where = disk_directory()
    load = " ".join(f"{each:.2f}" for each in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "CPU": _cpu_model(),
        "cores": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load average before": load,
        "file system": filesystem_type(where) or "unknown",
        "write of 4 KiB + fdatasync": f"{statistics.median(sync_times(where, 4096)) * 1e6:,.0f} us",
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no Linux
    return platform.processor() or platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        edited = [
            line for line in git("status", "--porcelain", "-uno").splitlines() if "RESULTS.md" not in line
        ]
        return git("rev-parse", "--short", "HEAD") + (f" and {len(edited)} edited files" if edited else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git)"

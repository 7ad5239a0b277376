"""What the command line costs before it does anything: the CPU of `sage-actors --help`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.ground import ground
from bench.measure import Benchmark, Figure, Size, figure, number, run_group

__all__ = ["BENCHMARKS"]


def measure_help(size: Size) -> list[Figure]:
    """CPU of the whole process, after one run that compiled what was not compiled yet."""
    times = size.repeats(20, 5)
    with ground() as here:
        command, how = _command()
        _cpu_ms([*command, "--help"], here.environ)
        costs = [_cpu_ms([*command, "--help"], here.environ) for _ in range(times)]
        bare = [_cpu_ms([sys.executable, "-c", "pass"], here.environ) for _ in range(times)]
    note = f"{how}; user and system; the bare interpreter takes {number(sorted(bare)[times // 2])} ms of it"
    return [figure("help-cpu", costs, "ms", note=note)]


def _command() -> tuple[list[str], str]:
    script = Path(sys.executable).parent / "sage-actors"
    if script.exists():
        return [str(script)], "the installed script"
    return [sys.executable, "-m", "sage_actors"], "python -m sage_actors"


def _cpu_ms(command: Sequence[str], environ: dict[str, str]) -> float:
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


BENCHMARKS: dict[str, Benchmark] = {"help": measure_help}

if __name__ == "__main__":
    sys.exit(run_group(str(__doc__), BENCHMARKS))

"""`python -m bench`: every group in a process of its own, then bench/RESULTS.md.

    python -m bench                               full size
    python -m bench --repositories ../a ../b ../c research measured on these instead of this repository
    python -m bench --quick --no-write            the size that CI runs: two minutes or so
    python -m bench --only engine.chain cli       some of them (nothing is written)
    python -m bench report --repository ../mine   a report on a repository: see final_report.py
    python -m bench rivals                        other engines beside ours: see rivals/__init__.py

Exit code 0 also when budgets are missed; 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.budgets import BUDGETS, GROUPS
from bench.machine import facts
from bench.measure import Figure
from bench.report import campaigns_of, missing, render, summary
from bench.sage_ground import REPOSITORIES

RESULTS = Path(__file__).with_name("RESULTS.md")
_GROUP_TIMEOUT_S = 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["report"]:
        from bench.final_report import main as report

        return report(argv[1:])
    if argv[:1] == ["rivals"]:
        from bench.rivals.compare import main as rivals

        return rivals(argv[1:])
    given = _parser().parse_args(argv)
    if given.repositories:
        os.environ[REPOSITORIES] = os.pathsep.join(given.repositories)
    wanted = _wanted(given.only)
    machine = facts()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    if given.quick:
        print("quick size: smaller graphs than the budgets are about")
    began = time.monotonic()
    figures: list[Figure] = []
    failed: list[str] = []
    for group, names in wanted.items():
        print(f"\n== {group}", flush=True)
        found, ok = _measure(group, names, quick=given.quick, repeat=given.repeat)
        figures += found
        failed += [] if ok else [group]
    print(f"\n{summary(figures)}; {time.monotonic() - began:.0f} s")
    unanswered = [] if given.only else missing(figures)
    for name in unanswered:
        print(f"no figure for: {name} ({BUDGETS[name].measured_by})", file=sys.stderr)
    if not given.only and not given.no_write:
        page = render(figures, machine, quick=given.quick, failed=failed)
        noted = campaigns_of(RESULTS.read_text()) if RESULTS.exists() else ""
        RESULTS.write_text(f"{page}\n{noted}" if noted else page)
        print(f"written to {RESULTS}")
    return 1 if failed or unanswered else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure every budget of the design.",
        epilog="Exit code 0 also when budgets are missed. `python -m bench report` and `python -m bench rivals` "
        "have a --help of their own.",
    )
    parser.add_argument("--quick", action="store_true", help="the small size that CI runs: two minutes or so")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help=f"of: {', '.join(GROUPS)}; or one benchmark of a group: engine.chain. Nothing is written then",
    )
    parser.add_argument(
        "--repositories",
        nargs="+",
        metavar="PATH",
        default=[],
        help="real repositories for what is measured on them (this one)",
    )
    parser.add_argument("--no-write", action="store_true", help="leave bench/RESULTS.md as it is")
    parser.add_argument("--repeat", type=int, metavar="N", help="measure everything N times")
    return parser


def _wanted(only: Sequence[str]) -> dict[str, list[str]]:
    """group -> its benchmarks, none for all of them."""
    if not only:
        return {group: [] for group in GROUPS}
    wanted: dict[str, list[str]] = {}
    for name in only:
        group, _, benchmark = name.partition(".")
        if group not in GROUPS:
            _parser().error(f"no benchmarks {name!r}; there are: {', '.join(GROUPS)}")
        wanted.setdefault(group, []).append(benchmark)
    return {group: [] if "" in names else names for group, names in wanted.items()}


def _measure(
    group: str, names: Sequence[str], *, quick: bool, repeat: int | None
) -> tuple[list[Figure], bool]:
    """The figures of a group, and whether all of them could be measured."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "figures.json"
        command = [sys.executable, "-m", f"bench.{group}", *names, "--json", str(path)]
        command += ["--quick"] if quick else []
        command += ["--repeat", str(repeat)] if repeat else []
        try:
            code = subprocess.run(command, timeout=_GROUP_TIMEOUT_S).returncode
        except subprocess.TimeoutExpired:
            print(f"{group}: stopped after {_GROUP_TIMEOUT_S:.0f} s", file=sys.stderr)
            code = 1
        figures = json.loads(path.read_text()) if path.exists() else []
    return [Figure.from_dict(each) for each in figures], code == 0


if __name__ == "__main__":
    sys.exit(main())

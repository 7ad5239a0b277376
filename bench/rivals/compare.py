"""`python -m bench rivals`: installs what it can into environments of their own, and runs the same graph in all.

    python -m bench rivals                           300 nodes in layers of 50, three rounds, then kills
    python -m bench rivals --environment DIR         keep (and use again) the virtual environments
    python -m bench rivals --only langgraph          some of them
    python -m bench rivals --temporal HOST:PORT      a Temporal server that runs, instead of its development server
    python -m bench rivals --markdown RIVALS.md      and write the tables there

The engines take turns: in every round each has a fresh process, a fresh state, one run that is not counted, and one
that is. After that each has a run that is killed three times, and started again. Exit code 0 also when a rival was left
out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.ground import ground
from bench.machine import facts
from bench.rivals.engines import KEYS, Engine, engines
from bench.rivals.killed import killed_and_restarted
from bench.rivals.pages import KILLED, page, recovery_line, speed_line
from bench.rivals.processes import install, last_line, run_to_end

__all__ = ["main"]

_RUN_S = 300.0
_KILLED_NODES, _KILLED_WIDTH = 100, 10


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    compared = engines(given.only, given.temporal)
    machine = facts()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="sage-rivals-") as made:
        _measure(compared, given.environment or Path(made), given)
    compared.sort(key=lambda one: statistics.median(one.us) if one.us else float("inf"))
    what = (
        f"Wall per node: {given.nodes} no-op nodes in layers of {given.width}, {given.repeat} runs, in turn."
    )
    print("", what, *map(speed_line, compared), sep="\n")
    print("", KILLED, *map(recovery_line, compared), sep="\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in compared]))
    if given.markdown:
        given.markdown.write_text(page(what, machine, compared))
    return 0 if all(each.us for each in compared if each.ours) else 1


def _measure(compared: Sequence[Engine], environments: Path, given: argparse.Namespace) -> None:
    for each in compared:
        install(each, environments)
    for number in range(given.repeat):
        for each in compared:
            print(f"round {number + 1}: {each.name}", flush=True)
            take_time(each, environments, given.nodes, given.width)
    for each in compared:
        if given.kill and not each.left_out:
            print(f"kill -9: {each.name}", flush=True)
            with ground() as here:
                each.recovery = killed_and_restarted(
                    each, environments, here, _KILLED_NODES, _KILLED_WIDTH, _RUN_S
                )


def take_time(engine: Engine, environments: Path, nodes: int, width: int) -> None:
    """One round of one engine; what fails once is left out from then on."""
    if engine.left_out:
        return
    with ground() as here:
        done = run_to_end(engine, environments, here, (str(nodes), str(width), "1"), _RUN_S)
    if done.code is None:
        engine.left_out = f"it took longer than {_RUN_S:.0f} s"
    elif done.code:
        engine.left_out = f"it failed: {last_line(done.errors)}"
    else:
        said = json.loads(done.output.splitlines()[-1])
        engine.us += said["us"]
        engine.version, engine.durability = said["version"], said["durability"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench rivals", description="The same durable graph in other engines."
    )
    parser.add_argument("--nodes", type=int, default=300, metavar="N", help="(300)")
    parser.add_argument("--width", type=int, default=50, metavar="N", help="nodes of a layer (50)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (3)")
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="kill nobody")
    parser.add_argument("--only", nargs="+", choices=KEYS, metavar="NAME", default=[], help=", ".join(KEYS))
    parser.add_argument(
        "--temporal",
        default="",
        metavar="HOST:PORT",
        help="a Temporal server that runs; none is installed then",
    )
    parser.add_argument("--environment", type=Path, metavar="DIR", help="where the virtual environments are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the same as tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())

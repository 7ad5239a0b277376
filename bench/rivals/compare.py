"""`python -m bench rivals`: installs what it can into a virtual environment of its own, and runs the same graph in all.

    python -m bench rivals                           300 nodes in layers of 50, three rounds
    python -m bench rivals --environment DIR         keep (and use again) the virtual environment
    python -m bench rivals --only langgraph          some of them
    python -m bench rivals --markdown RIVALS.md      and write the table there

The engines take turns: in every round each has a fresh process, a fresh state, one run that is not counted, and one
that is. Exit code 0 also when a rival was left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.ground import ROOT, Ground, ground
from bench.machine import facts
from bench.measure import number

__all__ = ["RIVALS", "Engine", "main"]

_HERE = Path(__file__).resolve().parent
_INSTALL_S, _RUN_S = 600.0, 300.0


@dataclass(slots=True)
class Engine:
    """packages: for pip; none for ours. left_out: why it could not be measured."""

    name: str
    file: str
    packages: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    us: list[float] = field(default_factory=list)
    version: str = ""
    durability: str = ""
    left_out: str = ""

    @property
    def key(self) -> str:
        """As `--only` takes it."""
        return self.name.partition(",")[0]

    def line(self) -> str:
        if self.left_out or not self.us:
            return f"{self.name:<24}left out: {self.left_out or 'not run'}"
        spread = f"({number(min(self.us))} .. {number(max(self.us))})"
        value = f"{number(statistics.median(self.us))} us"
        return f"{self.name:<24}{value:>10} {spread:<20} {self.version:<9} {self.durability}"


_OURS = (
    Engine("sage-actors, strict", "sage.py", environ={"SAGE_DURABILITY": "strict"}),
    Engine("sage-actors, relaxed", "sage.py", environ={"SAGE_DURABILITY": "relaxed"}),
)
RIVALS = (
    Engine("langgraph", "langgraph_sqlite.py", ("langgraph", "langgraph-checkpoint-sqlite")),
    Engine("dbos", "dbos_sqlite.py", ("dbos",)),
    Engine("dbos, WAL set by us", "dbos_sqlite.py", ("dbos",), {"DBOS_JOURNAL": "wal"}),
)


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    engines = [*_OURS, *(each for each in RIVALS if not given.only or each.key in given.only)]
    machine = facts()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="sage-rivals-") as made:
        python = _environment(given.environment or Path(made))
        for each in engines:
            _install(each, python)
        for _ in range(given.repeat):
            for each in engines:
                _run(each, python, given.nodes, given.width)
    engines.sort(key=lambda one: statistics.median(one.us) if one.us else float("inf"))
    what = (
        f"Wall per node: {given.nodes} no-op nodes in layers of {given.width}, {given.repeat} runs, in turn."
    )
    print("", what, *(each.line() for each in engines), sep="\n", flush=True)
    if given.json:
        given.json.write_text(json.dumps([_told(each) for each in engines]))
    if given.markdown:
        given.markdown.write_text(_page(what, machine, engines))
    return 0 if all(each.us for each in engines if not each.packages) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench rivals", description="The same durable graph in other engines."
    )
    parser.add_argument("--nodes", type=int, default=300, metavar="N", help="(300)")
    parser.add_argument("--width", type=int, default=50, metavar="N", help="nodes of a layer (50)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (3)")
    parser.add_argument(
        "--only", nargs="+", choices=sorted({each.key for each in RIVALS}), metavar="NAME", default=[]
    )
    parser.add_argument("--environment", type=Path, metavar="DIR", help="the virtual environment to use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there, too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the same as a table")
    return parser


def _environment(directory: Path) -> Path:
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    return python


def _install(engine: Engine, python: Path) -> None:
    if not engine.packages:
        return
    print(f"installing {', '.join(engine.packages)}", flush=True)
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *engine.packages,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        engine.left_out = f"pip took longer than {_INSTALL_S:.0f} s"
        return
    if done.returncode:
        engine.left_out = f"it could not be installed: {_last_line(done.stderr)}"


def _run(engine: Engine, python: Path, nodes: int, width: int) -> None:
    """One round of one engine; what fails once is left out from then on."""
    if engine.left_out:
        return
    with ground() as here:
        try:
            done = _process(engine, python, nodes, width, here)
        except subprocess.TimeoutExpired:
            engine.left_out = f"it took longer than {_RUN_S:.0f} s"
            return
    if done.returncode:
        engine.left_out = f"it failed: {_last_line(done.stderr)}"
        return
    said = json.loads(done.stdout.splitlines()[-1])
    engine.us += said["us"]
    engine.version, engine.durability = said["version"], said["durability"]


def _process(
    engine: Engine, python: Path, nodes: int, width: int, here: Ground
) -> subprocess.CompletedProcess[str]:
    """A rival in its environment, which has nothing of ours; ours in this one."""
    numbers = [str(nodes), str(width), "1", str(here.project)]
    if engine.packages:
        command, environ = [str(python), str(_HERE / engine.file)], _bare() | engine.environ
    else:
        command = [sys.executable, "-m", f"bench.rivals.{Path(engine.file).stem}"]
        environ = {**here.environ, **engine.environ}
    return subprocess.run(
        [*command, *numbers], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=_RUN_S
    )


def _bare() -> dict[str, str]:
    """No paths of ours, and nothing sent to anybody."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**environ, "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")[
        :300
    ]


def _page(what: str, machine: Mapping[str, str], engines: Sequence[Engine]) -> str:
    lines = ["# The same graph in other engines", "", f"Written by `python -m bench rivals`. {what}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items()), ""]
    lines += [
        "| engine | version | us per node | spread | what is on disk when a node is done |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(_cells(each))} |" for each in engines]
    return "\n".join([*lines, ""])


def _cells(engine: Engine) -> tuple[str, ...]:
    if not engine.us:
        return (engine.name, engine.version, "not measured", "", engine.left_out.replace("|", "\\|"))
    spread = f"{number(min(engine.us))} .. {number(max(engine.us))}"
    return (engine.name, engine.version, number(statistics.median(engine.us)), spread, engine.durability)


def _told(engine: Engine) -> dict[str, object]:
    names = ("name", "us", "version", "durability", "left_out")
    return {name: getattr(engine, name) for name in names}


if __name__ == "__main__":
    sys.exit(main())

"""Where benchmarks run: a project of their own on a disk, a key of their own, and the graphs they share."""

from __future__ import annotations

import base64
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import operations
from bench.machine import disk_directory
from sage_actors import Node, Outcome, Supervisor, Workflow

__all__ = ["ROOT", "Ground", "chain", "ground", "layers", "parents", "wait_for"]

ROOT = Path(__file__).resolve().parent.parent
_WARM_S = 0.2


@dataclass(slots=True)
class Ground:
    """A project directory, and the environment of all that runs there. The user's key is not touched."""

    project: Path
    environ: dict[str, str]
    _runs: int = field(default=0)

    def supervisor(self, durability: str = "strict", *, workers: int = 2) -> Supervisor:
        return Supervisor(
            self.project,
            workers=workers,
            durability=durability,
            environ=self.environ,
            search_paths=[ROOT],
        )

    def warm(self, supervisor: Supervisor, workers: int = 2) -> None:
        """Start every worker and import all that is imported, so that only the engine's own cost is left."""
        flow = Workflow("warm-up")
        for _ in range(workers):
            flow.add(operations.sleep, seconds=_WARM_S)
        for _ in range(200):
            flow.add(operations.noop)
        succeeded(supervisor.run(flow, run_id=self.new_id("warm")))

    def new_id(self, name: str) -> str:
        self._runs += 1
        return f"{name}-{self._runs}"

    def run_directory(self, run_id: str) -> Path:
        return self.project / ".sage" / "state" / run_id

    def journal_bytes(self, run_id: str) -> int:
        return sum(path.stat().st_size for path in self.run_directory(run_id).glob("journal-*.sage"))


@contextmanager
def ground() -> Iterator[Ground]:
    """A fresh ground, removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="sage-bench-", dir=disk_directory()))
    try:
        for name in ("project", "config", "runtime"):
            (home / name).mkdir(mode=0o700)
        environ = {
            **os.environ,
            "SAGE_STATE_KEY": "sak1-" + base64.b64encode(os.urandom(32)).decode(),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_RUNTIME_DIR": str(home / "runtime"),
            "PYTHONPATH": os.pathsep.join(str(Path(each).absolute()) for each in sys.path if each),
        }
        yield Ground(home / "project", environ)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def succeeded(outcome: Outcome) -> Outcome:
    """Refuse to take the time of a run that failed for a figure."""
    if outcome.status != "succeeded":
        raise RuntimeError(f"run {outcome.run_id} {outcome.status}: {outcome.reason} {dict(outcome.errors)}")
    return outcome


def parents(number: int, width: int) -> tuple[int, ...]:
    """In layers of `width`, a node waits for the one above it and for that one's neighbour."""
    if number < width:
        return ()
    row, column = divmod(number, width)
    above = (row - 1) * width
    return tuple({above + column, above + (column + 1) % width})


def layers(nodes: int, width: int, *, name: str = "layers", first: Node | None = None) -> Workflow:
    """No-op nodes in layers; with `first`, in the workflow of that node, and the first layer waits for it."""
    flow = first.workflow if first else Workflow(name)
    roots = [first] if first else []
    added: list[Node] = []
    for number in range(nodes):
        after = [added[each] for each in parents(number, width)] or roots
        added.append(flow.add(operations.noop, id=f"n{number}", after=after))
    return flow


def chain(nodes: int, operation: Callable[..., Any]) -> Workflow:
    """One node after another."""
    flow = Workflow("chain")
    last: list[Node] = []
    for number in range(nodes):
        last = [flow.add(operation, id=f"n{number}", after=last)]
    return flow


def wait_for(path: Path, *, deadline_s: float, alive: Callable[[], bool] = lambda: True) -> str:
    """The content of a file that another process puts there.

    Raises:
        RuntimeError: it did not come, or who should write it is gone.
    """
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        if path.exists():
            return path.read_text()
        if not alive():
            raise RuntimeError(f"the process that should write {path.name} ended")
        time.sleep(0.0005)
    raise RuntimeError(f"{path.name} did not appear within {deadline_s:g} s")

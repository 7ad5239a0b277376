"""Ours: nodes in two worker processes, encrypted. `sage.py` is run as a rival's file is; `SAGE_DURABILITY` chooses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.ground import layers, succeeded
from bench.rivals.graph import measured
from sage_actors import Supervisor

_DURABILITY = os.environ.get("SAGE_DURABILITY", "strict")
_SAID = {
    "strict": "a node's dependents start when its result is fsynced",
    "relaxed": "a node's dependents start when its result is written; it is fsynced a little later",
}


def prepare(nodes: int, width: int, directory: Path) -> Callable[[str], int]:
    supervisor = Supervisor(directory, workers=2, durability=_DURABILITY)

    def run(name: str) -> int:
        outcome = succeeded(supervisor.run(layers(nodes, width), run_id=name))
        return outcome.counts["succeeded"]

    return run


def durability(directory: Path) -> str:
    return f"{_DURABILITY}, encrypted: {_SAID[_DURABILITY]}; nodes in two worker processes"


if __name__ == "__main__":
    measured("sage-actors", durability, prepare)

"""Ours: nodes in two worker processes, encrypted. `sage.py` is run as a rival's file is; `SAGE_DURABILITY` chooses."""

from __future__ import annotations

import os
from pathlib import Path

from bench.ground import layers, succeeded
from bench.rivals.graph import Runs, measured, parents, traced
from sage_actors import Node, Supervisor, Workflow

_DURABILITY = os.environ.get("SAGE_DURABILITY", "strict")
_TRACE = os.environ.get("RIVAL_TRACE", "")
_SAID = {
    "strict": "a node's dependents start when its result is fsynced",
    "relaxed": "a node's dependents start when its result is written; it is fsynced a little later",
}


def prepare(nodes: int, width: int, directory: Path) -> Runs:
    supervisor = Supervisor(directory, workers=2, durability=_DURABILITY)

    def run(name: str) -> int:
        flow = _traced_layers(nodes, width) if _TRACE else layers(nodes, width)
        outcome = succeeded(supervisor.run(flow, run_id=name))  # an id that exists is resumed
        return outcome.counts["succeeded"]

    return Runs(run)


def _traced_layers(nodes: int, width: int) -> Workflow:
    """The same graph of nodes that leave a trace. Workers have a clean environment, so they are told where."""
    flow = Workflow("layers")
    added: list[Node] = []
    for number in range(nodes):
        after = [added[each] for each in parents(number, width)]
        added.append(flow.add(traced, trace=_TRACE, number=number, id=f"n{number}", after=after))
    return flow


def durability(directory: Path) -> str:
    return f"{_DURABILITY}, encrypted: {_SAID[_DURABILITY]}; nodes in two worker processes"


if __name__ == "__main__":
    measured("sage-actors", durability, prepare)

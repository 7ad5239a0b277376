"""The order of execution as the command `graph` shows it: batches, and what each node waits for.

Batch 1: [A, B]
Batch 2: [C]  C depends on [A, B]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.supervisor.core.graph import DependencyGraph
from sage_actors.supervisor.definitions.edges import direct_dependencies, edges_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Batch", "describe_batches", "graph_as_json", "graph_of", "render"]

_SHOWN = 12  # ids of a list that are written out; the rest is counted


@dataclass(frozen=True, slots=True)
class Batch:
    """Nodes that could run at once. `depends_on`: what each of them waits for, in their order."""

    number: int
    nodes: tuple[str, ...]
    depends_on: tuple[tuple[str, ...], ...]


def graph_of(spec: WorkflowSpec) -> DependencyGraph:
    """The whole graph of a valid workflow, phases expanded: quadratic between phases, for display."""
    graph = DependencyGraph()
    for node in spec.nodes:
        graph.add_node(node.id)
    for waiting, dependency in edges_of(spec):
        graph.add_edge(waiting, dependency)
    return graph


def describe_batches(spec: WorkflowSpec) -> list[Batch]:
    """The batches in order. CycleError if there is a cycle."""
    graph = graph_of(spec)
    return [
        Batch(number, tuple(nodes), tuple(tuple(graph.dependencies(node)) for node in nodes))
        for number, nodes in enumerate(graph.batches(), start=1)
    ]


def render(spec: WorkflowSpec, console: Console | None = None) -> str:
    """The picture as plain text; with a console it is also printed there, in colours where it has any."""
    lines = [_line(batch) for batch in describe_batches(spec)]
    text = "\n".join(f"{head} {nodes}{waits}" for head, nodes, waits in lines)
    if console is not None:
        from rich.text import Text

        for head, nodes, waits in lines:
            line = Text.assemble((head, "bold"), " ", (nodes, "cyan"), (waits, "dim"))
            console.print(line, soft_wrap=True)
    return text


def graph_as_json(spec: WorkflowSpec) -> dict[str, Any]:
    """The same for programs: `needs` is what a node names itself or by its phase's dependencies."""
    graph = graph_of(spec)
    batches = graph.batches()
    batch_of = {node: number for number, batch in enumerate(batches, start=1) for node in batch}
    return {
        "name": spec.name,
        "nodes": [
            {
                "id": node.id,
                "type": node.operation.type,
                "phase": node.phase,
                "needs": graph.dependencies(node.id),
                "direct": direct_dependencies(node),
                "batch": batch_of[node.id],
            }
            for node in spec.nodes
        ],
        "batches": batches,
        "edges": sum(len(graph.dependencies(node)) for node in graph),
        "critical_path": graph.critical_path()[0],
    }


def _line(batch: Batch) -> tuple[str, str, str]:
    """(head, nodes, what they wait for) of one batch; nodes that wait for the same are said together."""
    waiting: dict[tuple[str, ...], list[str]] = {}
    for node, needs in zip(batch.nodes, batch.depends_on, strict=True):
        if needs:
            waiting.setdefault(needs, []).append(node)
    said = [f"{_subject(nodes)} {_listed(needs)}" for needs, nodes in waiting.items()]
    more = f"; {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    waits = f"  {'; '.join(said[:_SHOWN])}{more}" if said else ""
    return f"Batch {batch.number}:", _listed(batch.nodes), waits


def _subject(nodes: Sequence[str]) -> str:
    if len(nodes) == 1:
        return f"{nodes[0]} depends on"
    return f"{', '.join(_shortened(nodes))} depend on"


def _listed(nodes: Sequence[str]) -> str:
    return f"[{', '.join(_shortened(nodes))}]"


def _shortened(nodes: Sequence[str]) -> Iterable[str]:
    if len(nodes) <= _SHOWN:
        return nodes
    return [*nodes[: _SHOWN - 2], f"... {len(nodes) - _SHOWN + 2} more"]

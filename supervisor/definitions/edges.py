"""The edges of a workflow as people see them: needs, references, and phases expanded to their nodes."""

from __future__ import annotations

from collections.abc import Iterator

from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.supervisor.definitions.references import find_references, parse_template
from sage_actors.supervisor.definitions.validation import resolve_name, templates_of

__all__ = ["direct_dependencies", "edges_of"]


def edges_of(spec: WorkflowSpec) -> Iterator[tuple[str, str]]:
    """(node, what it depends on), each pair once; of a workflow that is valid.

    Between phases that depend on each other every pair of nodes is an edge: quadratic, for display only.
    """
    members: dict[str, list[str]] = {phase.id: [] for phase in spec.phases}
    for node in spec.nodes:
        if node.phase is not None:
            members[node.phase].append(node.id)
    before = {
        phase.id: [each for name in phase.dependencies for each in members[name]] for phase in spec.phases
    }
    for node in spec.nodes:
        found = dict.fromkeys(before[node.phase] if node.phase is not None else ())
        found.update(dict.fromkeys(direct_dependencies(node)))
        for name in found:
            yield node.id, name


def direct_dependencies(node: NodeSpec) -> list[str]:
    """The full ids that the node itself names, in `needs` and in references, each once."""
    found = dict.fromkeys(node.needs)
    operation = node.operation
    values = [(value, at) for _, value, at in templates_of(operation)]
    values += [(value, None) for value in (node.arguments, node.when, node.foreach) if value]
    if operation.has_fallback:
        values.append((operation.fallback, None))
    for value, quote_at in values:
        references = (
            find_references(value)
            if quote_at is None
            else parse_template(value, quote_at=quote_at).references
        )
        for reference in references:
            if reference.kind == "node":
                found[resolve_name(reference.name, node.phase)] = None
    return list(found)

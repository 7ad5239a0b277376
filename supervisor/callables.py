"""What workers say about the callables that a definition names, put into the definition."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.messages.errors import Problem
from sage_actors.messages.node_columns import NodeColumns, operations_of
from sage_actors.supervisor.core.graph import nearest

__all__ = [
    "all_operations",
    "call_problems",
    "calls_in",
    "calls_of",
    "informed",
    "is_found",
    "nodes_by_id",
    "unusable_calls",
]


def nodes_by_id(spec: WorkflowSpec, owner: str = "") -> Iterator[tuple[str, NodeSpec]]:
    """The nodes of a definition and of the sub-workflows embedded in it, by their ids in a run."""
    from sage_actors.supervisor.definitions.specs import spec_from_dict

    for node in spec.nodes:
        yield f"{owner}{node.id}", node
        if node.operation.type == "workflow":
            yield from nodes_by_id(spec_from_dict(node.operation.config["definition"]), f"{owner}{node.id}/")


def all_operations(spec: WorkflowSpec) -> list[OperationSpec]:
    """What these nodes execute, each once."""
    from sage_actors.supervisor.definitions.specs import spec_from_dict

    operations = operations_of(spec.nodes)
    for each in list(operations):
        if each.type == "workflow":
            operations += all_operations(spec_from_dict(each.config["definition"]))
    return operations


def calls_of(spec: WorkflowSpec) -> set[str]:
    """The callables of its `python` operations."""
    return {str(each.config["call"]) for each in all_operations(spec) if each.type == "python"}


def calls_in(operation: OperationSpec) -> set[str]:
    """The same of a `workflow` operation."""
    from sage_actors.supervisor.definitions.specs import spec_from_dict

    return calls_of(spec_from_dict(operation.config["definition"]))


def is_found(name: str) -> bool:
    """Whether workers surely find the module of that name: it is loaded here, from where an import would find it.

    Some ten microseconds. False is no verdict: a worker, which looks into the project and the search paths too, is
    to be asked. What cannot be looked up here, `__main__`, counts as found.
    """
    if name == "__main__":
        return True
    top = name.partition(".")[0]
    loaded = getattr(sys.modules.get(top), "__spec__", None)
    if loaded is None or name not in sys.modules:
        return False
    for finder in sys.meta_path:
        found = finder.find_spec(top, None)
        if found is not None:
            return bool(found.origin == loaded.origin)
    return False


def unusable_calls(spec: WorkflowSpec, infos: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """The nodes that call what could not be imported, or with arguments that do not fit; by their ids."""
    for node_id, node in nodes_by_id(spec):
        if node.operation.type == "python" and (info := infos.get(node.operation.config["call"])) is not None:
            yield from call_problems(node_id, info, node.arguments)


def call_problems(place: str, info: Mapping[str, Any], arguments: Iterable[str]) -> Iterator[Problem]:
    """What is wrong with the call of the node at `place`, of which a worker said `info`."""
    call = info["call"]
    if not info["ok"]:
        hint = "is its module in the project, beside the workflow file, installed, or in `search_paths`?"
        yield Problem(f"{place}.call", f"{call}: {info['error']}", hint)
        return
    parameters = info.get("parameters")
    if parameters is None:
        return
    given = list(arguments)
    takes: list[str] | None = parameters["takes"]  # None: any
    unknown = [] if takes is None else [name for name in given if name not in takes]
    for name in unknown:
        hint = nearest(name, takes or (), otherwise=f"it takes {', '.join(takes or ()) or 'none'}")
        yield Problem(f"{place}.arguments.{name}", f"{call} takes no argument {name!r}", hint)
    for name in parameters["needs"]:
        if name not in given:
            yield Problem(f"{place}.arguments", f"{call} needs the argument {name!r}", f"add {name}: ...")


def informed(spec: WorkflowSpec, infos: Mapping[str, Mapping[str, Any]]) -> WorkflowSpec:
    """`spec` with what workers said about its callables, those of embedded workflows too; others stay as they are."""
    nodes = NodeColumns.of(spec.nodes)
    return replace(spec, nodes=nodes.executing([_with_info(each, infos) for each in nodes.operations]))


def _with_info(operation: OperationSpec, infos: Mapping[str, Mapping[str, Any]]) -> OperationSpec:
    """What a worker said about the callable: async or not, and the policies of its decorator."""
    if operation.type == "workflow":
        from sage_actors.supervisor.definitions.specs import spec_from_dict

        inner = informed(spec_from_dict(operation.config["definition"]), infos)
        return replace(operation, config={**operation.config, "definition": inner.to_dict()})
    if operation.type != "python":
        return operation
    info = infos.get(operation.config["call"])
    if info is None:
        return operation
    if info.get("policy"):
        operation = _with_policy(operation, info["policy"])
    return operation if not info["is_async"] else replace(operation, is_async=True)


def _with_policy(operation: OperationSpec, policy: Mapping[str, Any]) -> OperationSpec:
    """The decorator's policies, where the file says nothing else."""
    from sage_actors.supervisor.definitions.operation import build_operation

    own = build_operation("python", dict(operation.config), dict(policy))
    plain = OperationSpec(type="python")
    names = [name for name in policy if getattr(operation, name) == getattr(plain, name)]
    changes = {name: getattr(own, name) for name in names}
    if "fallback" in changes and not operation.has_fallback:
        changes["has_fallback"] = True
    return replace(operation, **changes)

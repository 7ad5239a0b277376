"""What workers say about the callables that a definition names, put into the definition."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sage_actors.messages.definition import NodeSpec, OperationSpec, WorkflowSpec
from sage_actors.messages.errors import DefinitionError, Problem

__all__ = ["all_nodes", "calls_in", "calls_of", "informed", "is_found", "refuse_unusable", "unusable"]


def all_nodes(spec: WorkflowSpec) -> list[NodeSpec]:
    """The nodes of a definition and of the sub-workflows embedded in it."""
    from sage_actors.supervisor.definitions.specs import spec_from_dict

    nodes = list(spec.nodes)
    for node in spec.nodes:
        if node.operation.type == "workflow":
            nodes += all_nodes(spec_from_dict(node.operation.config["definition"]))
    return nodes


def calls_of(spec: WorkflowSpec) -> set[str]:
    """The callables of its `python` operations."""
    operations = [node.operation for node in all_nodes(spec)]
    return {str(each.config["call"]) for each in operations if each.type == "python"}


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


def refuse_unusable(spec: WorkflowSpec, bad: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises DefinitionError where a node calls one of `bad`, which could not be imported."""
    problems = []
    for node in all_nodes(spec):
        if node.operation.type == "python" and node.operation.config["call"] in bad:
            call = node.operation.config["call"]
            problems.append(unusable(f"{node.id}.call", bad[call]))
    if problems:
        raise DefinitionError(problems, source=spec.name)


def unusable(place: str, info: Mapping[str, Any], line: int | None = None) -> Problem:
    """What is wrong where a call stands that a worker could not import."""
    hint = "is its module in the project, beside the workflow file, installed, or in `search_paths`?"
    return Problem(place, f"{info['call']}: {info['error']}", hint, line)


def informed(spec: WorkflowSpec, infos: Mapping[str, Mapping[str, Any]]) -> WorkflowSpec:
    """`spec` with what workers said about its callables, those of embedded workflows too; others stay as they are."""
    placed = {id(node.operation): _with_info(node.operation, infos) for node in spec.nodes}
    return _with_operations(spec, placed)


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


def _with_operations(spec: WorkflowSpec, placed: Mapping[int, OperationSpec]) -> WorkflowSpec:
    nodes = [
        each
        if placed[id(each.operation)] is each.operation
        else replace(each, operation=placed[id(each.operation)])
        for each in spec.nodes
    ]
    return replace(spec, nodes=nodes)


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

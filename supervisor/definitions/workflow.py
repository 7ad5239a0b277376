"""Workflows written in Python: functions become operations, calls become nodes, arguments become edges."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import InputSpec, NodeSpec, OperationSpec, WorkflowSpec, policy_in_file
from sage_actors.messages.errors import DefinitionError, Problem, ResultError
from sage_actors.messages.node_columns import NodeColumns
from sage_actors.messages.units import counted
from sage_actors.supervisor.definitions.operation import (
    POLICIES,
    Operation,
    build_operation,
    call_path,
    names_of,
    refuse_another,
)

__all__ = ["Node", "Workflow"]

_MISSING: Any = object()
_ID = re.compile(r"[A-Za-z0-9_-]+\Z")
_MAX_ID = 200  # characters, as in files
_RESERVED = frozenset({"inputs", "env", "keyring", "item", "index"})


@dataclass(slots=True, frozen=True, eq=False)
class Node:
    """A step of a Workflow. Given as an argument of another node it stands for its result."""

    id: str
    workflow: Workflow = field(repr=False)


class Workflow:
    """A directed acyclic graph of operations, built by `add`.

    name: the default ids of its runs begin with it. concurrency: how many of its nodes may execute at the same time;
    None is no limit. timeout: seconds for the whole run. inputs: the names that `"${inputs.NAME}"` may refer to, each
    with its default value or an `InputSpec`.

    >>> import statistics
    >>> flow = Workflow("averages")
    >>> average = flow.add(statistics.mean, data=[1, 2, 6])
    >>> flow.add(statistics.median, id="middle", data=[average, 4])
    Node(id='middle')
    >>> flow.to_spec().nodes[1].arguments
    {'data': ['${mean}', 4]}
    """

    def __init__(
        self,
        name: str,
        *,
        description: str = "",
        inputs: Mapping[str, Any] | None = None,
        concurrency: int | None = None,
        timeout: float | str | timedelta | None = None,
    ) -> None:
        self.name, self.description = name, description
        self.inputs = {key: _input(value) for key, value in (inputs or {}).items()}
        self.concurrency = _concurrency(concurrency)
        _check_head(name, description, self.inputs, timeout)
        self.timeout = None if timeout is None else _seconds(timeout)
        self._nodes = NodeColumns.empty()
        self._numbers: dict[str, int] = {}  # of nodes, by id
        self._is_plain = True  # its references are all that could be wrong with it
        self._last_numbers: dict[str, int] = {}  # of ids that were made from an operation's name
        self._operations: dict[Any, OperationSpec] = {}
        self._names: dict[Any, frozenset[str] | None] = {}  # of an operation's parameters
        self._functions: dict[str, Any] = {}  # by import path; None where only that was given

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return f"<Workflow {self.name}, {counted(len(self._nodes), 'node')}>"

    def add(
        self,
        operation: Operation[Any, Any] | Callable[..., Any] | str | Workflow | WorkflowSpec,
        /,
        id: str | None = None,
        *,
        after: Iterable[Node | str] = (),
        arguments: Mapping[str, Any] | None = None,
        when: str | Node | None = None,
        foreach: Any = None,
        **given: Any,
    ) -> Node:
        """Add a step.

        Args:
            operation: a function, an `@operation`, a workflow (what is `given` are then its inputs), or a type name
                (`"shell"`, `"http"`, `"mcp"`, ...) whose own fields (`command=`, `url=`, ...) are then given as
                keywords.
            id: by default the function's name, with a number added if the name is taken or reserved.
            after: nodes that must have ended first, but whose results are not passed.
            arguments, given: the arguments for the function. A Node stands for its result, also inside lists
                and dicts; a string may contain references such as `"${note | title}"`. Policies (timeout,
                retry, ...) among the keywords override the operation's own, unless the function has a parameter
                of that name: then the value is its argument, and the policy stays the decorator's.
            when, foreach: as in workflow files; a Node may be given.

        Raises:
            DefinitionError: the id is taken or malformed, the function cannot be imported by a worker or has no
                parameter of that name, or a node of another workflow is used.
        """
        given_policy = {
            key: self._value(given.pop(key), id, key)
            for key in list(given)
            if key in POLICIES and _is_policy(operation, key)
        }
        spec = self._operation(operation, given_policy, given, id)
        node_id = self._new_id(id, operation)
        own = {**arguments, **given} if arguments else given
        if not isinstance(operation, (str, Workflow, WorkflowSpec)):
            self._check_names(operation, own, node_id)
        if isinstance(after, (str, Node)):
            raise DefinitionError(
                [Problem(f"{node_id}.after", "must be a list of nodes", "put it into a list")]
            )
        needs = [self._number(each, node_id, "after") for each in after] if after else ()
        data = None
        if own or when is not None or foreach is not None:
            data = NodeSpec(
                node_id,
                spec,
                self._value(own, node_id, "arguments"),
                tuple([self._nodes.ids[each] for each in needs]),
                None if when is None else self._value(when, node_id, "when"),
                None if foreach is None else self._value(foreach, node_id, "foreach"),
            )
        self._is_plain = self._is_plain and when is None and foreach is None and _is_plain(spec)
        self._numbers[node_id] = len(self._numbers)
        self._nodes.add(node_id, spec, needs, data)
        return Node(node_id, self)

    def to_spec(self) -> WorkflowSpec:
        """The workflow in the form that the engine carries out.

        Raises:
            DefinitionError: there are no nodes, or a function is not where workers look for it.
            SecretInStateError: a value holds a secret itself.
        """
        if not self._nodes:
            raise DefinitionError([Problem("", "there are no nodes", "add one")], source=self.name)
        for call, function in self._functions.items():
            if function is not None:
                refuse_another(call, function, is_complete=True)
        spec = WorkflowSpec(
            name=self.name,
            nodes=self._nodes.copy(),
            description=self.description,
            inputs=self.inputs,
            concurrency=self.concurrency,
            timeout=self.timeout,
        )
        if not self._is_plain:
            from sage_actors.supervisor.definitions.validation import check_spec

            check_spec(spec)
            return spec
        # Not loaded by a worker, which only imports the script.
        from sage_actors.supervisor.definitions.literals import refuse_literals

        refuse_literals(spec, self._nodes.ids)
        return spec

    def unsure_calls(self) -> set[str]:
        """The import paths that workers perhaps do not find, or of which nothing else is known."""
        from sage_actors.supervisor.callables import is_found

        found = {module: is_found(module) for module in {call.partition(":")[0] for call in self._functions}}
        return {
            call
            for call, function in self._functions.items()
            if function is None or not found[call.partition(":")[0]]
        }

    def to_dict(self) -> dict[str, Any]:
        """The workflow in the file format."""
        return self.to_spec().to_dict()

    def _new_id(self, given: str | None, operation: Any) -> str:
        if given is not None:
            if type(given) is not str:
                hint = "the second is the id: what the function is called with is given by keywords"
                raise DefinitionError([Problem(repr(given)[:80], "this cannot be the id of a node", hint)])
            if not _ID.match(given) or given in _RESERVED or len(given) > _MAX_ID:
                hint = f"use A-Z a-z 0-9 _ -, at most {_MAX_ID}, and none of " + ", ".join(sorted(_RESERVED))
                raise DefinitionError([Problem(str(given)[:80], "this cannot be the id of a node", hint)])
            if given in self._numbers:
                raise DefinitionError(
                    [Problem(given, "there is a node of this id already", "give another id=")]
                )
            return given
        base = operation if type(operation) is str else _name_of(operation)
        number = self._last_numbers.get(base, 1)
        node_id = base if number == 1 and base not in _RESERVED else f"{base}-{number}"
        while node_id in self._numbers:
            number += 1
            node_id = f"{base}-{number}"
        self._last_numbers[base] = number
        return node_id

    def _operation(
        self, operation: Any, policy: dict[str, Any], given: dict[str, Any], node_id: str | None
    ) -> OperationSpec:
        """What a node executes; takes what are no arguments out of `given`."""
        if type(operation) is str:
            own = [key for key in given if operation != "python" or key == "call"]
            config = {key: self._value(given.pop(key), node_id, key) for key in own}
            if operation == "workflow":
                return self._sub_workflow(config, policy)
            key = _key(operation, config, policy)
            spec = self._operations.get(key) or build_operation(operation, config, policy)
            if operation == "python":
                self._functions.setdefault(config["call"], None)
            return self._shared(key, spec)
        if isinstance(operation, (Workflow, WorkflowSpec)):
            return self._sub_workflow({"definition": operation}, policy)
        key = _key(operation, {}, policy)
        if (known := self._operations.get(key)) is not None:
            return known
        decorated = operation if isinstance(operation, Operation) else Operation(operation, {})
        call = call_path(decorated.function)
        self._functions[call] = decorated.function
        spec = build_operation("python", {"call": call}, {**decorated.policy, **policy})
        if inspect.iscoroutinefunction(decorated.function):
            spec = replace(spec, is_async=True)
        return self._shared(key, spec)

    def _shared(self, key: Any, spec: OperationSpec) -> OperationSpec:
        """Nodes that say the same have one operation: a worker is handed such nodes together."""
        if key is not None:
            self._operations[key] = spec
        return spec

    def _check_names(self, operation: Any, given: Mapping[str, Any], node_id: str) -> None:
        """DefinitionError for what a call of the function could not be given: a policy that is misspelt, for one."""
        known = self._names.get(operation, _MISSING)
        if known is _MISSING:
            function = operation.function if isinstance(operation, Operation) else operation
            known = self._names[operation] = names_of(function)
        if known is None or given.keys() <= known:
            return
        from sage_actors.supervisor.core.graph import nearest

        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise DefinitionError(
            [
                Problem(
                    f"{node_id}.arguments.{name}",
                    "the function has no such parameter, and there is no such policy",
                    nearest(str(name), known | POLICIES, otherwise=has),
                )
                for name in given
                if name not in known
            ],
            source=self.name,
        )

    def _sub_workflow(self, config: dict[str, Any], policy: dict[str, Any]) -> OperationSpec:
        from sage_actors.supervisor.callables import calls_in

        spec = build_operation("workflow", _embedded(config), policy)
        inner = config.get("definition")
        known = inner._functions if isinstance(inner, Workflow) else {}
        for call in calls_in(spec):
            self._functions.setdefault(call, known.get(call))
        return spec

    def _number(self, node: Node | str, at: str | None, name: str) -> int:
        """The number of `node`, which is said in the field `name` of the node `at`."""
        node_id = node.id if isinstance(node, Node) else node
        number = self._numbers.get(node_id)
        if number is None or (isinstance(node, Node) and node.workflow is not self):
            raise DefinitionError(
                [Problem(f"{at or ''}.{name}", f"{node_id!r} is no node of this workflow", "add it first")],
                source=self.name,
            )
        return number

    def _value(self, value: Any, at: str | None, name: str) -> Any:
        """`value` with every Node in it as a reference."""
        if type(value) is Node:
            return f"${{{self._nodes.ids[self._number(value, at, name)]}}}"
        if isinstance(value, Mapping):
            return {key: self._value(each, at, name) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(each, at, name) for each in value]
        return value


def _is_policy(operation: Any, key: str) -> bool:
    """Whether a keyword of `add` is a policy: a function's own parameter of that name comes first."""
    if type(operation) is str:
        return True
    if isinstance(operation, (Workflow, WorkflowSpec)):
        return key not in operation.inputs
    function = operation.function if isinstance(operation, Operation) else operation
    try:
        return key not in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True


def _is_plain(operation: OperationSpec) -> bool:
    """Whether nothing about it could be wrong that is not found when the graph is compiled: in a workflow of a
    hundred thousand such nodes a check of each would take as long again."""
    return operation.type == "python" and not (operation.secret_outputs or operation.has_fallback)


def _key(operation: Any, config: Mapping[str, Any], policy: Mapping[str, Any]) -> Any:
    """What nodes have in common that say the same of an operation; None where that cannot be compared."""
    if not config and not policy:
        return operation
    said = {name: each if name == "fallback" else policy_in_file(each) for name, each in policy.items()}
    try:
        return operation, pack([dict(config), said])  # unlike hash and ==, it tells 1 from 1.0 from True
    except ResultError:
        return None


def _name_of(operation: Any) -> str:
    """What a node without an id is called after."""
    if not isinstance(operation, (Workflow, WorkflowSpec)):
        return str(operation.__name__)
    return operation.name if _ID.match(operation.name) else "workflow"


def _embedded(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a sub-workflow with its definition, whether it is given as a file, an object or a map.

    Raises:
        DefinitionError: it cannot be read, or what is wrong with it.
    """
    said, path = config.get("definition"), config.get("workflow")
    if isinstance(said, (Workflow, WorkflowSpec)):
        spec = said.to_spec() if isinstance(said, Workflow) else said
        return {**config, "definition": spec.to_dict()}
    if isinstance(said, Mapping):
        from sage_actors.supervisor.definitions.loading import load_dict

        return {**config, "definition": load_dict(dict(said)).to_dict()}
    if said is None and isinstance(path, (str, os.PathLike)):
        from sage_actors.supervisor.templates.library import load_workflow

        return {**config, "workflow": os.fspath(path), "definition": load_workflow(Path(path)).to_dict()}
    return config  # the shape says what is wrong


def _check_head(
    name: str, description: str, inputs: Mapping[str, InputSpec], timeout: float | str | timedelta | None
) -> None:
    """DefinitionError for what a file could not say either."""
    if _is_simple(name, 1) and _is_simple(description) and not inputs and timeout is None:
        return  # the file format's models take 150 ms to import
    from sage_actors.supervisor.definitions.inputs import input_problem
    from sage_actors.supervisor.definitions.shape import check_shape

    said = {
        "name": name,
        "description": description,
        "timeout": policy_in_file(timeout),
        "inputs": {key: _input_fields(each) for key, each in inputs.items()},
        "nodes": [{"id": "any", "type": "approval"}],
    }
    problems = check_shape(said)[0]
    for key, each in inputs.items():
        if not (isinstance(key, str) and _ID.match(key)):
            problems.append(
                Problem(f"inputs.{key!s:.80}", "bad name", "names are made of A-Z a-z 0-9 _ and -")
            )
        elif not problems and each.default is not None and (wrong := input_problem(each, each.default)):
            problems.append(Problem(f"inputs.{key}.default", wrong))
    if problems:
        raise DefinitionError(problems, source=str(name)[:80])


def _is_simple(text: Any, least: int = 0) -> bool:
    return type(text) is str and text.isascii() and least <= len(text) <= _MAX_ID


def _input_fields(each: InputSpec) -> dict[str, Any]:
    enum = list(each.enum) if isinstance(each.enum, (list, tuple)) else each.enum
    return {"type": each.type, "description": each.description, "enum": enum}


def _seconds(value: float | str | timedelta) -> float:
    from sage_actors.messages.units import parse_duration

    if isinstance(value, timedelta):
        return value.total_seconds()
    return parse_duration(value) if isinstance(value, str) else float(value)


def _concurrency(value: Any) -> int | None:
    if value is None or (type(value) is int and value >= 1):
        return value
    raise DefinitionError([Problem("concurrency", f"must be a whole number of at least 1, not {value!r}")])


def _input(value: Any) -> InputSpec:
    if not isinstance(value, InputSpec):
        return InputSpec(required=False, default=value)
    has_default = value.required and value.default is not None
    return replace(value, required=False) if has_default else value

"""A function as an operation: the policies under which it runs, and the name under which workers import it."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypedDict, TypeVar, Unpack, overload

from sage_actors.messages.definition import (
    CALL_PATTERN,
    Effect,
    Limits,
    OnFailure,
    OperationSpec,
    RetryPolicy,
    Trigger,
    policy_in_file,
)
from sage_actors.messages.errors import DefinitionError, Problem

__all__ = [
    "POLICIES",
    "Operation",
    "build_operation",
    "call_path",
    "names_of",
    "operation",
    "refuse_another",
]

P = ParamSpec("P")
R = TypeVar("R")

_MISSING = object()
POLICIES = frozenset(
    each.name
    for each in fields(OperationSpec)
    if each.name not in ("type", "config", "has_fallback", "is_async", "lane")
)


class Policies(TypedDict, total=False):
    """What a decorator may say, for type checkers; what is wrong with the values is found when a workflow uses them."""

    timeout: float | str | timedelta | None
    retry: int | Mapping[str, Any] | RetryPolicy | None
    on_failure: OnFailure
    trigger: Trigger
    effect: Effect
    limits: Mapping[str, Any] | Limits | None
    endpoint: str | None
    fallback: Any
    priority: int
    version: str | None
    max_crashes: int
    cache: bool | Mapping[str, Any] | None
    digest: Mapping[str, Any] | None
    budget: Mapping[str, Any] | None
    sandbox: str | Mapping[str, Any] | None
    secret_outputs: bool


class Operation(Generic[P, R]):
    """A function with the policies under which it runs as a node. Called directly, it is just the function."""

    def __init__(self, function: Callable[P, R], policy: dict[str, Any]) -> None:
        self.function = function
        self.policy = policy  # checked when a workflow uses it: workers import this too, and need no checks
        unknown = sorted(policy.keys() - POLICIES)
        if unknown:
            known = ", ".join(sorted(POLICIES))
            raise DefinitionError(
                [Problem(f"@operation {each}", "unknown policy", known) for each in unknown]
            )
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<operation {call_path(self.function)}>"


@overload
def operation(function: Callable[P, R], /) -> Operation[P, R]: ...


@overload
def operation(**policy: Unpack[Policies]) -> Callable[[Callable[P, R]], Operation[P, R]]: ...


def operation(function: Any = None, /, **policy: Any) -> Any:
    """Make a function an operation: `@operation` or `@operation(timeout=30, retry=3, endpoint="api")`.

    Policies: timeout (seconds or "30s"), retry (attempts in all, a map, or a RetryPolicy), on_failure, trigger,
    effect, limits, endpoint, fallback, priority, version, max_crashes, cache, digest, budget, sandbox,
    secret_outputs.

    Raises:
        DefinitionError: an unknown policy or a bad value, or a function that a worker could not import.

    >>> @operation(timeout=30)
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double(21)
    42
    """
    if function is not None:
        return Operation(function, policy)
    return lambda decorated: Operation(decorated, policy)


def build_operation(kind: str, config: dict[str, Any], policy: dict[str, Any]) -> OperationSpec:
    """The operation, checked as one in a file is.

    Raises:
        DefinitionError: everything that is wrong with its fields and policies.
    """
    from sage_actors.supervisor.definitions.specs import spec_from_dict

    own = {key: _seconds(each) for key, each in config.items()}
    said = {"id": "operation", "type": kind, **own, **{key: _policy(key, policy[key]) for key in policy}}
    whole = {"name": "workflow", "nodes": [said]}
    if not (kind == "python" and config.keys() == {"call"} and _is_path(config["call"]) and not policy):
        _check_operation(whole, config.get("call", kind))
    return spec_from_dict(whole).nodes[0].operation


def names_of(function: Callable[..., Any]) -> frozenset[str] | None:
    """The parameters that can be given by name; None where that may be any, or cannot be known."""
    try:
        found = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # built in, without a signature
        return None
    if any(each.kind is each.VAR_KEYWORD for each in found):
        return None
    return frozenset(
        each.name for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    )


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _policy(name: str, value: Any) -> Any:
    return value if name == "fallback" else policy_in_file(value)


def _is_path(call: Any) -> bool:
    """Whether it is `module:name`. Asked here because the file format's models take 150 ms to import."""
    return type(call) is str and re.fullmatch(CALL_PATTERN, call) is not None


def _check_operation(whole: dict[str, Any], name: Any) -> None:
    from sage_actors.supervisor.definitions.shape import check_shape

    problems, _faults = check_shape(whole)
    if problems:
        raise DefinitionError(
            [replace(each, place=each.place.replace("nodes[0]", str(name), 1)) for each in problems]
        )


def call_path(function: Any) -> str:
    """`package.module:qualname`, if a worker process can find the function under it.

    Raises:
        DefinitionError: it cannot: a lambda, a closure, a bound method, something without a module, or what is
            another object than the one that workers would find.
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if inspect.ismethod(function) and inspect.isclass(function.__self__):
        module, name = _path_of_class_method(function)
    if not module or not name or not callable(function):
        raise _unusable(repr(function), "it has no importable name", "use a function defined in a module")
    if "<lambda>" in name or "<locals>" in name:
        kind = "a lambda" if "<lambda>" in name else "defined inside a function"
        raise _unusable(
            name, f"it is {kind}, and workers import operations by name", "define it at module level"
        )
    if inspect.ismethod(function) and not inspect.isclass(function.__self__):
        raise _unusable(name, "it is a method of an object, which workers do not have", "use a function")
    if module == "__main__" and not _has_file(sys.modules.get("__main__")):
        raise _unusable(
            name, "it was defined interactively, and workers have no file to import", "put it in a file"
        )
    call = f"{module}:{name}"
    if not call.isascii():
        raise _unusable(
            call,
            "names of operations are made of A-Z a-z 0-9 and _",
            "rename it, or call it from another one",
        )
    refuse_another(call, function)
    return call


def _has_file(main: Any) -> bool:
    """Whether workers can load it: a script, or a module after `python -m`; no prompt, and no standard input."""
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return True
    path = getattr(main, "__file__", None)
    return path is not None and os.path.exists(path)


def _path_of_class_method(function: Any) -> tuple[str, str]:
    """Where workers find it bound to the class that was meant, not to the one that defines it."""
    owner = function.__self__
    return owner.__module__, f"{owner.__qualname__}.{getattr(function, '__name__', '')}"


def refuse_another(call: str, function: Any, *, is_complete: bool = False) -> None:
    """DefinitionError if a worker that imports `call` would get something else than `function`.

    is_complete: what is not there now will not be there later; while a module is still being imported, the name
    of a function may be bound after a decorator has added it to a workflow.
    """
    module, _, name = call.partition(":")
    found: Any = sys.modules.get(module)
    if found is None:
        return  # imported by other means than its name: the worker says whether it can
    owner = None
    for part in name.split("."):
        owner, found = found, getattr(found, part, _MISSING)
        if found is _MISSING:
            if is_complete:
                raise _unusable(call, f"{module} has no {name!r}", "bind it there under its own name")
            return
    if not _is_same(_bare(found), _bare(function)):
        raise _unusable(
            call,
            f"{call} is another object, and workers import operations by name",
            "decorate where it is defined, with functools.wraps, or give it a `def` of its own",
        )
    if inspect.isclass(owner) and _needs_self(owner, name.rpartition(".")[2]):
        raise _unusable(
            name,
            "it is a method of an object, which workers do not have",
            "make it a static method, or a function",
        )


def _bare(function: Any) -> Any:
    while isinstance(function, Operation):
        function = function.function
    return function


def _is_same(found: Any, function: Any) -> bool:
    if found is function or (inspect.ismethod(found) and found == function):
        return True
    return (  # its module was loaded again: the same text at the same place
        inspect.isfunction(found)
        and inspect.isfunction(function)
        and found.__closure__ is function.__closure__ is None
        and found.__code__ == function.__code__
    )


def _needs_self(owner: type, name: str) -> bool:
    """Whether what `owner` has under `name` is a plain method, which has to be called on an object."""
    method = inspect.getattr_static(owner, name)
    if isinstance(method, Operation):
        method = method.function
    if not inspect.isfunction(method):
        return False
    return next(iter(inspect.signature(method).parameters), "") == "self"


def _unusable(name: str, why: str, hint: str) -> DefinitionError:
    return DefinitionError([Problem(name, f"cannot be an operation: {why}", hint)])

"""Secrets that stand in a definition or among inputs themselves: refused before anything is written or run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import Problem, ResultError, SecretInStateError
from sage_actors.messages.node_columns import first_uses, nodes_with_data
from sage_actors.messages.secret_patterns import candidates
from sage_actors.messages.secret_scan import Allowed, secret_problems

__all__ = ["literal_problems", "problems_in", "refuse_literals"]

_BATCH = 256  # values that are looked at in one go; almost never does one of them need a second look


def literal_problems(spec: WorkflowSpec, places: Sequence[str]) -> list[Problem]:
    """One problem for each secret in `spec`, with its place; `places` are those of the nodes."""
    return problems_in(_values(spec, places))


def refuse_literals(spec: WorkflowSpec, places: Sequence[str]) -> None:
    """SecretInStateError if `spec` holds a secret itself."""
    if problems := literal_problems(spec, places):
        raise SecretInStateError(problems, source=spec.name)


def problems_in(values: Iterable[tuple[str, Any]]) -> list[Problem]:
    """The same for (place, value). What the user's configuration allows is no problem."""
    suspects = [each for batch in _batches(values) if _may_hold(batch) for each in batch]
    found = [problem for place, value in suspects for problem in secret_problems(value, place)]
    if found and (allow := _allowed()):
        found = [
            problem for place, value in suspects for problem in secret_problems(value, place, allow=allow)
        ]
    return found


def _values(spec: WorkflowSpec, places: Sequence[str]) -> Iterator[tuple[str, Any]]:
    yield "description", spec.description
    for name, declared in spec.inputs.items():
        yield f"inputs.{name}", {"default": declared.default, "enum": declared.enum}
    for number, node in nodes_with_data(spec.nodes):
        if node.arguments:
            yield f"{places[number]}.arguments", node.arguments
        if node.foreach is not None:
            yield f"{places[number]}.foreach", node.foreach
    for number, operation in first_uses(spec.nodes):  # a million nodes share a handful
        yield places[number], operation.config
        if operation.has_fallback:
            yield f"{places[number]}.fallback", operation.fallback


def _batches(values: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    batch: list[tuple[str, Any]] = []
    for each in values:
        batch.append(each)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch


def _may_hold(batch: list[tuple[str, Any]]) -> bool:
    try:
        return bool(candidates(pack([value for _, value in batch])))
    except ResultError:
        return True  # something in it cannot be packed: each is looked at alone


def _allowed() -> tuple[Allowed, ...]:
    from sage_actors.actors.user_config import load_user_config

    return load_user_config().secrets.allow

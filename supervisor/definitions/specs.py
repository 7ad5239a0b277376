"""Checked or trusted data in the file format to a WorkflowSpec: fast, and without pydantic.

Nodes that say the same share one OperationSpec: a million nodes have a handful of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import msgpack

from sage_actors.messages.definition import (
    InputSpec,
    Limits,
    NodeSpec,
    OperationSpec,
    PhaseSpec,
    RetryPolicy,
    WorkflowSpec,
)
from sage_actors.messages.limits import BYTE_LIMITS
from sage_actors.messages.units import parse_duration, parse_size

__all__ = ["DEFAULT_ATTEMPTS", "DEFAULT_CONCURRENCY", "spec_from_dict"]

DEFAULT_ATTEMPTS = 3  # of a `retry` that does not say how many
DEFAULT_CONCURRENCY = 6
_NODE_FIELDS = frozenset({"id", "needs", "arguments", "when", "foreach", "description"})
_POLICIES = frozenset(each.name for each in fields(OperationSpec)) - {
    "config",
    "has_fallback",
    "is_async",
    "lane",
}
_NOTHING: Mapping[str, Any] = {}


def spec_from_dict(data: Mapping[str, Any]) -> WorkflowSpec:
    """The workflow that `data` says, which must have passed the checks before: a few microseconds a node.

    `spec_from_dict(spec.to_dict())` says the same as `spec`.
    """
    make = _OperationTable()
    phases: list[PhaseSpec] = []
    nodes: list[NodeSpec] = []
    for raw in data.get("nodes") or ():
        nodes.append(_node(raw, raw["id"], tuple(raw.get("needs") or ()), None, make))
    for phase in data.get("phases") or ():
        phases.append(_phase(phase))
        name = phase["id"]
        for raw in phase["operations"]:
            needs = tuple(each if "/" in each else f"{name}/{each}" for each in raw.get("needs") or ())
            nodes.append(_node(raw, f"{name}/{raw['id']}", needs, name, make))
    timeout = data.get("timeout")
    return WorkflowSpec(
        name=data["name"],
        nodes=nodes,
        description=data.get("description") or "",
        inputs={name: _input(each) for name, each in (data.get("inputs") or {}).items()},
        phases=phases,
        concurrency=data.get("concurrency", DEFAULT_CONCURRENCY),
        timeout=None if timeout is None else _seconds(timeout),
        budget=data.get("budget"),
    )


class _OperationTable:
    """Operations by what they say."""

    def __init__(self) -> None:
        self._known: dict[bytes, OperationSpec] = {}
        self._pack = msgpack.Packer().pack  # reused: the table belongs to one call in one thread

    def __call__(self, raw: Mapping[str, Any]) -> OperationSpec:
        said = {name: raw[name] for name in raw if name not in _NODE_FIELDS}
        try:
            key: bytes = self._pack(said)  # unlike hash and ==, it tells 1 from 1.0 from True
        except (TypeError, ValueError, OverflowError):
            return _operation(said)  # validation says what is wrong with such a value
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = _operation(said)
        return found


def _node(
    raw: Mapping[str, Any], full_id: str, needs: tuple[str, ...], phase: str | None, make: _OperationTable
) -> NodeSpec:
    get = raw.get
    return NodeSpec(
        full_id, make(raw), get("arguments") or _NOTHING, needs, get("when"), get("foreach"), phase
    )


def _operation(said: Mapping[str, Any]) -> OperationSpec:
    config: dict[str, Any] = {}
    policies: dict[str, Any] = {}
    for name, value in said.items():
        if name == "fallback":
            policies.update(has_fallback=True, fallback=value)
        elif name not in _POLICIES:
            config[name] = value
        elif value is not None:
            read = _READ.get(name)
            policies[name] = value if read is None else read(value)
    return OperationSpec(config=config, **policies)


def _retry(value: Any) -> RetryPolicy:
    if not isinstance(value, Mapping):
        return RetryPolicy(max_attempts=value)
    said = {"max_attempts": DEFAULT_ATTEMPTS, **value}
    for name in ("backoff", "max_delay"):
        if name in said:
            said[name] = _seconds(said[name])
    said["on"] = tuple(said.get("on") or ())
    policy = RetryPolicy(**said)
    if (
        policy.max_delay == RetryPolicy().max_delay < policy.backoff
    ):  # nobody said that the first wait is too long
        policy = replace(policy, max_delay=policy.backoff)
    return policy


def _limits(value: Mapping[str, Any]) -> Limits:
    said: dict[str, Any] = {
        name: parse_size(each) if isinstance(each, str) and name in BYTE_LIMITS else each
        for name, each in value.items()
    }
    if value.get("cpu_seconds") is not None:
        said["cpu_seconds"] = _seconds(value["cpu_seconds"])
    return Limits(**said)


def _cache(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"enabled": value}
    ttl = value.get("ttl")
    return {**value, "ttl": _seconds(ttl)} if ttl is not None else dict(value)


def _seconds(value: Any) -> float:
    return parse_duration(value) if isinstance(value, str) else float(value)


def _digest(value: Mapping[str, Any]) -> dict[str, Any]:
    size = value.get("max_bytes")
    return {**value, "max_bytes": parse_size(size)} if isinstance(size, str) else dict(value)


_READ: dict[str, Any] = {
    "retry": _retry,
    "limits": _limits,
    "cache": _cache,
    "digest": _digest,
    "timeout": _seconds,
}


def _phase(raw: Mapping[str, Any]) -> PhaseSpec:
    return PhaseSpec(
        id=raw["id"],
        name=raw.get("name") or "",
        dependencies=tuple(raw.get("dependencies") or ()),
        min_success=raw.get("min_success"),
    )


def _input(raw: Mapping[str, Any]) -> InputSpec:
    enum = raw.get("enum")
    required = raw.get("required")
    return InputSpec(
        type=raw.get("type") or "any",
        description=raw.get("description") or "",
        required="default" not in raw if required is None else required,
        default=raw.get("default"),
        enum=None if enum is None else tuple(enum),
    )

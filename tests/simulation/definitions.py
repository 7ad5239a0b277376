"""Random workflows, and the fate of each of their nodes: both from a seed, so that every life of a run agrees."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import Any

from sage_actors.messages.definition import OperationSpec, WorkflowSpec
from sage_actors.supervisor.definitions.specs import spec_from_dict

ALWAYS = 1_000_000
PATIENT = 100  # crashes that an operation survives when its definition does not say how many
ERROR_NAMES = {"error": "SimError", "limit": "LimitExceeded", "hang": "TimeoutExceeded"}
_ASYNC = "sim.ops:later"


@dataclass(frozen=True, slots=True)
class Fate:
    """What an operation does before it succeeds. kind: ok, error, limit, hang or crash; times: how often."""

    kind: str
    times: int = 0


def value_of(node_id: str, arguments: Any) -> dict[str, Any]:
    """What an operation returns: made of its id and its arguments, and good for `when` and `foreach`."""
    said = json.dumps([node_id, arguments], sort_keys=True, default=str).encode()
    n = int.from_bytes(blake2b(said, digest_size=4).digest(), "big")
    return {"id": node_id, "n": n % 997, "list": list(range(n % 4)), "yes": n % 3 > 0}


@lru_cache(maxsize=20_000)
def fate_of(seed: str, node_id: str, operation: OperationSpec) -> Fate:
    """The fate of one node. It never depends on what else happens: that is what makes results comparable."""
    rng = Random(f"{seed}/{node_id}")
    policy = operation.retry
    kinds = ["ok"] * 12 + ["error"] * 4 + ["limit", "crash", "crash"]
    if operation.timeout is not None:
        kinds += ["hang"] * 4
    kind = rng.choice(kinds)
    if kind == "ok":
        return Fate("ok")
    if kind == "crash":
        poison = operation.max_crashes < PATIENT and operation.effect != "once" and rng.random() < 0.5
        return Fate("crash", ALWAYS if poison else rng.randint(1, min(2, operation.max_crashes - 1)))
    if operation.effect == "once" and kind in ("hang", "limit"):
        return Fate(kind, 1)
    wanted = not policy.on or ERROR_NAMES[kind] in policy.on
    if rng.random() < 0.4 or policy.max_attempts == 1 or not wanted:
        return Fate(kind, ALWAYS)
    return Fate(kind, rng.randint(1, policy.max_attempts - 1))


def approval_of(seed: str, node_id: str) -> tuple[bool, Any]:
    """What the person says to an approval: (approved, data)."""
    rng = Random(f"{seed}/{node_id}/approval")
    return rng.random() < 0.8, rng.choice([None, {"n": rng.randint(0, 9)}])


def random_spec(rng: Random, max_nodes: int) -> WorkflowSpec:
    """A workflow whose nodes stand in topological order."""
    definition = random_definition(rng, max_nodes)
    spec = spec_from_dict(definition)
    as_async: dict[int, OperationSpec] = {}
    for node in spec.nodes:
        operation = node.operation
        if operation.config.get("call") == _ASYNC:
            node.operation = as_async.setdefault(id(operation), replace(operation, is_async=True))
    return spec


def random_definition(rng: Random, max_nodes: int, depth: int = 0) -> dict[str, Any]:
    """One in the file format."""
    out: dict[str, Any] = {
        "name": "sim",
        "inputs": {"topic": {"type": "any", "default": depth}},
        "concurrency": rng.choice([None, None, 1, 2, 3, 6]),
    }
    count = rng.randint(1, max(1, max_nodes if depth == 0 else min(4, max_nodes)))
    if count > 2 and rng.random() < (0.35 if depth == 0 else 0.2):
        out["phases"] = _phases(rng, count, depth)
        return out
    nodes: list[dict[str, Any]] = []
    for i in range(count):
        nodes.append(_node(rng, f"n{i}", [each["id"] for each in nodes], depth))
    out["nodes"] = nodes
    return out


def _phases(rng: Random, count: int, depth: int) -> list[dict[str, Any]]:
    phases: list[dict[str, Any]] = []
    names: dict[str, list[str]] = {}
    left = count
    while left > 0:
        name = f"p{len(phases)}"
        before = sorted(rng.sample(sorted(names), rng.randint(1, min(2, len(names))))) if names else []
        operations: list[dict[str, Any]] = []
        afar = [f"{phase}/{each}" for phase in before for each in names[phase]]
        for i in range(min(left, rng.randint(1, 4))):
            operations.append(_node(rng, f"n{i}", [each["id"] for each in operations], depth, afar))
        phase: dict[str, Any] = {"id": name, "dependencies": before, "operations": operations}
        if rng.random() < 0.4:
            phase["min_success"] = rng.choice([0.0, 0.25, 0.5, 0.5, 0.75, 1.0])
        names[name] = [each["id"] for each in operations]
        phases.append(phase)
        left -= len(operations)
    return phases


def _node(
    rng: Random, name: str, near: list[str], depth: int, afar: list[str] | None = None
) -> dict[str, Any]:
    parents = rng.sample(near, min(len(near), rng.choice([0, 1, 1, 2, 3])))
    if afar and rng.random() < 0.5:
        parents.append(rng.choice(afar))
    kind = rng.choice(["python"] * 15 + ["approval", "wait"] + (["workflow"] * 2 if depth < 2 else []))
    arguments: dict[str, Any] = {}
    needs = []
    for i, parent in enumerate(parents):
        how = rng.random()
        if how < 0.3 and "/" not in parent:
            needs.append(parent)
        else:
            arguments[f"a{i}"] = f"${{{parent}}}" if how < 0.7 else f"is ${{{parent} | n}} and [1]"
    node: dict[str, Any] = {"id": name, "type": kind, **_common(rng)}
    if needs:
        node["needs"] = needs
    if parents and rng.random() < 0.15:
        node["when"] = f"${{{rng.choice(parents)} | yes}}"
    is_foreach = rng.random() < 0.15
    if is_foreach:
        choices = [[1, 2, 3], [{"deep": 1}], []] + [f"${{{each} | list}}" for each in parents] * 3
        node["foreach"] = rng.choice(choices)
    _FILL[kind](rng, node, arguments, is_foreach, depth, parents)
    return node


def _common(rng: Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if rng.random() < 0.3:
        out["on_failure"] = rng.choice(["continue", "skip"])
    if rng.random() < 0.25:
        out["trigger"] = rng.choice(["all_done", "any_success"])
    if rng.random() < 0.15:
        out["priority"] = rng.choice([-5, 5])
    return out


def _python(
    rng: Random, node: dict[str, Any], arguments: dict[str, Any], each: bool, depth: int, parents: list[str]
) -> None:
    node["call"] = _ASYNC if depth == 0 and rng.random() < 0.3 else "sim.ops:now"
    node["max_crashes"] = rng.choice([PATIENT, PATIENT, PATIENT, 2, 3])
    if each and rng.random() < 0.8:
        arguments |= {"item": "${item}", "at": "number ${index}"}
    if rng.random() < 0.2:
        arguments["topic"] = "${inputs.topic}"
    node["arguments"] = arguments
    if rng.random() < 0.6:
        retry: dict[str, Any] = {"max_attempts": rng.randint(1, 4), "backoff": rng.choice([0.0, 0.02, 0.5])}
        if rng.random() < 0.2:
            retry["on"] = rng.choice([["SimError"], ["TimeoutExceeded", "LimitExceeded"]])
        node["retry"] = retry
    if rng.random() < 0.3:
        node["timeout"] = rng.choice([0.01, 0.3, 4.0])
    if rng.random() < 0.15:
        node["effect"] = "once"
    if rng.random() < 0.2:
        node["endpoint"] = rng.choice(["api0", "api1"])
    if rng.random() < 0.15:
        node["fallback"] = (
            f"${{{parents[0]}}}" if parents and rng.random() < 0.5 else {"instead": 1, "yes": True}
        )


def _workflow(
    rng: Random, node: dict[str, Any], arguments: dict[str, Any], each: bool, depth: int, parents: list[str]
) -> None:
    node["definition"] = random_definition(rng, 4, depth + 1)
    if arguments:
        node["inputs"] = {"topic": "${item}" if each else next(iter(arguments.values()))}
    if rng.random() < 0.25:
        node["fallback"] = {"instead": 2}


def _approval(
    rng: Random, node: dict[str, Any], arguments: dict[str, Any], each: bool, depth: int, parents: list[str]
) -> None:
    node["message"] = "may it?" if not parents else f"may ${{{parents[0]} | n}}?"
    if rng.random() < 0.2:
        node["fallback"] = {"instead": 3}


def _wait(
    rng: Random, node: dict[str, Any], arguments: dict[str, Any], each: bool, depth: int, parents: list[str]
) -> None:
    node["seconds"] = rng.choice([0, 0.05, 3, 40])
    if rng.random() < 0.2:
        node["timeout"] = 4.0
    if rng.random() < 0.1:
        node["fallback"] = {"instead": 4}


_FILL = {"python": _python, "workflow": _workflow, "approval": _approval, "wait": _wait}

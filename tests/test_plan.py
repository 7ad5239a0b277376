"""Plans: what decides whether a finished node still counts, and what a worker is told of an operation."""

from __future__ import annotations

from typing import Any

import pytest
from core_harness import flow, node

from sage_actors.supervisor.core.plan import compile_plan, fingerprint, wire_spec


def only(**more: Any) -> bytes:
    return fingerprint(flow({"nodes": [node("a", **more), node("b")]}).nodes[0])


@pytest.mark.parametrize(
    "more",
    [
        {"call": "module:other"},
        {"arguments": {"x": 1}},
        {"when": "${b}"},
        {"foreach": [1]},
        {"foreach": [1, {"y": (1, 2)}]},
        {"version": "2"},
        {"type": "shell", "command": ["true"]},
    ],
)
def test_what_a_node_does_is_in_its_fingerprint(more: dict[str, Any]) -> None:
    assert only(**more) != only()


def test_policies_and_the_order_of_keys_are_not() -> None:
    assert only(retry=3, timeout=5, priority=1, on_failure="skip") == only()
    assert only(arguments={"x": {"a": 1, "b": [2]}}) == only(arguments={"x": {"b": [2], "a": 1}})


def test_a_worker_is_told_type_call_and_limits() -> None:
    plan = compile_plan(
        flow({"nodes": [node("a", limits={"memory": 5}), node("s", type="shell", command="ls")]})
    )
    assert [wire_spec(each) for each in plan.ops] == [
        {"type": "python", "call": "module:function", "limits": {"memory": 5}},
        {"type": "shell"},
    ]


def test_leaves_are_what_nothing_depends_on() -> None:
    phases = [
        {"id": "p", "dependencies": [], "operations": [node("a")]},
        {"id": "q", "dependencies": ["p"], "operations": [node("b"), node("c", "b")]},
        {"id": "r", "dependencies": ["p"], "operations": [node("d")]},
    ]
    plan = compile_plan(flow({"phases": phases}))
    assert [plan.ids[each] for each in plan.leaves()] == ["q/c", "r/d"]
    assert list(plan.children(0)) == [plan.visible]

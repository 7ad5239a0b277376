"""Plans: what decides whether a finished node still counts, and what a worker is told of an operation."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from core_harness import flow, node
from simulation.definitions import random_spec

from sage_actors.messages.definition import operation_to_dict
from sage_actors.supervisor.core.plan import Plan, compile_plan, fingerprint, wire_spec
from sage_actors.supervisor.definitions.specs import spec_from_dict
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.recovery.admission import definition_from, pack_definition


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


# ---------------------------------------------------------------------- from columns


def columns_of(plan: Plan) -> dict[str, Any]:
    """Everything of a plan that is data."""
    names = set(Plan.__slots__) - {"spec", "subplans", "compiled", "payloads", "whens", "foreaches"}
    said: dict[str, Any] = {name: getattr(plan, name) for name in names}
    said["ops"] = [(operation_to_dict(each), each.lane, each.is_async, each.endpoint) for each in plan.ops]
    said["payloads"] = [type(each) if not isinstance(each, bytes) else each for each in plan.payloads]
    said["subplans"] = {node: columns_of(inner) for node, inner in plan.subplans.items()}
    return said | {"whens": sorted(plan.whens), "foreaches": sorted(plan.foreaches)}


def twice(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some plain nodes say a need twice."""
    for each in nodes[::3]:
        if each.get("needs"):
            each["needs"] = [*each["needs"], each["needs"][0]]
    return nodes


@pytest.mark.parametrize("seed", range(60))
def test_a_journaled_definition_makes_the_plan_that_the_file_made(seed: int) -> None:
    spec = random_spec(Random(seed), 40)
    plan = compile_plan(spec)
    again = definition_from(pack_definition(spec))
    assert columns_of(compile_plan(again)) == columns_of(plan)
    assert again.to_dict() == definition_from(pack_definition(again)).to_dict()


@pytest.mark.parametrize("every", [1, 2, 7, 1000])
def test_plain_nodes_between_others_keep_their_needs(every: int) -> None:
    nodes: list[dict[str, Any]] = []
    for i in range(200):
        one: dict[str, Any] = {
            "id": f"n{i}",
            "type": "python",
            "call": "m:f",
            "needs": [f"n{j}" for j in (i - 1, i // 2) if 0 <= j < i],
        }
        if i and i % every == 0:
            one["arguments"] = {"value": f"${{n{i // 3}}}", "other": f"${{n{i - 1}}}"}
        nodes.append(one)
    spec = spec_from_dict({"name": "mixed", "nodes": twice(nodes)})
    plan = compile_plan(spec)
    assert columns_of(compile_plan(definition_from(pack_definition(spec)))) == columns_of(plan)
    assert columns_of(compile_plan(definition_from(pack_definition(spec, plan)))) == columns_of(plan)


def test_nodes_in_columns_read_like_a_list() -> None:
    spec = random_spec(Random(1), 30)
    nodes = definition_from(pack_definition(spec)).nodes
    expected = [(each.id, each.needs, each.phase, each.when) for each in spec.nodes]
    assert [(each.id, each.needs, each.phase, each.when) for each in nodes] == expected
    assert [nodes[i].id for i in range(-len(nodes), len(nodes))] == [each[0] for each in expected] * 2
    assert [each.id for each in nodes[1:3]] == [each[0] for each in expected[1:3]]
    with pytest.raises(IndexError):
        nodes[len(nodes)]


def test_sub_workflows_of_one_definition_share_their_operations() -> None:
    """Each had operations of its own, which a worker was told one by one."""
    inner, other = (Workflow(name) for name in ("inner", "other"))
    for each in (inner, other):
        each.add("shell", id="a", command="true", retry=2)
    flow = Workflow("flow")
    for i, definition in enumerate((inner, inner, other)):
        flow.add("workflow", id=f"s{i}", definition=definition.to_dict(), timeout=10 + i)
    plans = compile_plan(flow.to_spec()).subplans
    assert plans[0] is plans[1]
    assert plans[2] is not plans[0]

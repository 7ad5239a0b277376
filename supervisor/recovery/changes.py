"""What an edited definition, or another input, changes about a run: which results stay, and who is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.messages.errors import ChangedDefinitionError
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import compile_plan, fingerprint
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.recovery.carrying import top_of
from sage_actors.supervisor.recovery.restore import Restored

__all__ = ["Accept", "ask", "changed_nodes", "is_other", "refuse_to_repeat", "what_differs"]

Accept = bool | Callable[[list[str]], bool]


def changed_nodes(restored: Restored, spec: WorkflowSpec, inputs: Mapping[str, Any]) -> list[str]:
    """Ids in `spec` whose results cannot be kept: changed, new, or downstream of such a node, in order.

    A node whose arguments refer to an input with another value is changed. A succeeded node with effect `once`
    is never in it.
    """
    assert restored.spec is not None
    assert restored.run is not None
    old = {node.id: node for node in restored.spec.nodes}
    other_inputs = _other_inputs(restored, inputs)
    plan = compile_plan(spec)
    dirty = bytearray(plan.size)
    for i, node in enumerate(spec.nodes):
        before = old.get(node.id)
        if before is None or _differs(before, node) or _uses_inputs(node, other_inputs):
            dirty[i] = 1
    run = restored.run
    for number in plan.topological():
        if dirty[number]:
            for child in plan.children(number):
                dirty[child] = 1
    out = []
    for i, node_spec in enumerate(spec.nodes):
        before_number = run.plan.by_id.get(node_spec.id)
        kept_once = (
            node_spec.operation.effect == "once"
            and before_number is not None
            and run.state[before_number] == st.SUCCEEDED
        )
        if dirty[i] and not kept_once:
            out.append(node_spec.id)
    return out


def refuse_to_repeat(old: RunCore, new: RunCore, changed: list[str]) -> None:
    """A `once` node inside an expansion that would be made anew has happened, or may have."""
    ids = set(changed) & new.plan.by_id.keys()
    for node in range(old.plan.size, len(old.state)):
        if old.state[node] not in (st.SUCCEEDED, st.IN_DOUBT, st.RUNNING):
            continue
        top = old.id_of(top_of(old, node))
        if top in ids and old.operation(node).effect == "once":
            raise ChangedDefinitionError(
                f"run {old.run_id!r}: {old.id_of(node)} has effect `once` and was started; it would be repeated "
                f"if {top} ran again. Undo the change to {top}, give it another id, or use another --run-id"
            )


def _differs(before: NodeSpec, after: NodeSpec) -> bool:
    return fingerprint(before) != fingerprint(after)


def _other_inputs(restored: Restored, inputs: Mapping[str, Any]) -> set[str]:
    before = restored.header["inputs"]  # NaN is not equal to itself: what is stored is compared
    return {
        name
        for name in {*inputs, *before}
        if (name in inputs) != (name in before) or pack(inputs.get(name)) != pack(before.get(name))
    }


def _uses_inputs(node: NodeSpec, names: set[str]) -> bool:
    if not names:
        return False
    from sage_actors.supervisor.definitions.references import find_references

    said = [dict(node.arguments), dict(node.operation.config), node.when, node.foreach]
    said[1].pop("definition", None)
    return any(each.kind == "input" and each.name in names for each in find_references(said))


def is_other(restored: Restored, spec: WorkflowSpec, inputs: Mapping[str, Any]) -> bool:
    """Whether nodes were removed, policies edited, or inputs changed: results stay, the definition is new."""
    return not _is_same(restored, spec) or bool(_other_inputs(restored, inputs))


def _is_same(restored: Restored, spec: WorkflowSpec) -> bool:
    from sage_actors.supervisor.recovery.admission import pack_definition

    assert restored.spec is not None
    return pack_definition(restored.spec) == pack_definition(spec)


def what_differs(restored: Restored, spec: WorkflowSpec, inputs: Mapping[str, Any]) -> str:
    """Under what else the run exists: two topics that differ in case and blanks alone share a run id."""
    if not _is_same(restored, spec):
        return "another definition"
    others = sorted(_other_inputs(restored, inputs))
    return f"another value of the input{'s' if len(others) > 1 else ''} {', '.join(map(repr, others))}"


def ask(
    run_id: str,
    changed: list[str],
    restored: Restored,
    spec: WorkflowSpec,
    accept: Accept,
    notices: list[str],
    other: str,
) -> None:
    """What an edit changes is told node by node; what would run needs a yes."""
    run, before = restored.run, restored.spec
    assert run is not None
    assert before is not None
    done = {each for each, node in run.plan.by_id.items() if run.state[node] == st.SUCCEEDED}
    lost = [each for each in changed if each in done]
    text = [f"{each} will run again" for each in lost]
    text += [f"{each} is new or was not done" for each in changed if each not in done]
    now = {node.id: node for node in spec.nodes}
    harmless = [
        f"{node.id} is no more, and its result is not kept"
        for node in before.nodes
        if node.id in done and node.id not in now
    ]
    harmless += [
        f"{node.id} keeps the result of its old definition: it has `effect: once`"
        for node in before.nodes
        if node.id in done and node.id in now and node.id not in changed and _differs(node, now[node.id])
    ]
    told = text + harmless
    notices += [f"changed definition: {each}" for each in told[:50]]
    if len(told) > 50:
        notices.append(f"changed definition: and {len(told) - 50} more nodes")
    if not text:
        if not harmless:
            notices.append("the definition was edited; every result stays valid")
        return
    agreed = accept(text) if callable(accept) else accept
    if not agreed:
        shown = "; ".join(text[:10]) + (f"; and {len(text) - 10} more" if len(text) > 10 else "")
        raise ChangedDefinitionError(
            f"run {run_id!r} exists under {other}: {shown}. Use --accept-changes "
            "(accept_changes=True) to keep what did not change and run the rest, --fresh (fresh=True) to start anew, "
            "or another --run-id (run_id=)"
        )

"""A run goes on under an edited definition: what stays, in the numbers of the new one.

Nothing is copied. The readers of a journal do this whenever they come to the edited definition, from the state that
the records before it made, so that it needs no records of its own and cannot be half written.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.run_core import RunCore

__all__ = ["Transient", "carry_nodes", "items_of", "settled_in", "started_inside", "top_of"]

# What was open, by old number; where it goes, by new number.
Transient = tuple[dict[int, Any], dict[int, Any]]


def top_of(run: RunCore, node: int) -> int:
    """The node of the definition that `node` is, or is a part of."""
    while node >= run.plan.size:
        node = run.scopes[node - run.plan.size].owner
    return node


def started_inside(run: RunCore, refused: Container[int]) -> dict[int, int]:
    """The expansions in which a `once` node has happened, or may have: the node of the definition -> the first such."""
    found: dict[int, int] = {}
    for node in range(run.plan.size, len(run.state)):
        started = run.state[node] in (st.SUCCEEDED, st.IN_DOUBT, st.RUNNING) or node in refused
        if started and run.operation(node).effect == "once":
            found.setdefault(top_of(run, node), node)
    return found


def items_of(run: RunCore, node: int) -> bytes:
    """The packed list (or the inputs) from which `node` was expanded."""
    inner = run.inner.get(node)
    if inner is not None:
        return pack(dict(inner.inputs), what="the inputs of a sub-workflow")
    first, count = run.children[node]
    start = first - run.plan.size
    return pack([each.item for each in run.scopes[start : start + count]], what="the list of a foreach")


def settled_in(run: RunCore) -> dict[int, int]:
    """Nodes inside expansions that succeeded, with their states: that result was made of how they ended."""
    settled: dict[int, int] = {}
    for node, (first, count) in run.children.items():  # the outer ones come first
        if run.state[node] == st.SUCCEEDED or node in settled:
            for each in range(first, first + count):
                if run.state[each] != st.SUCCEEDED:
                    settled[each] = run.state[each] if run.state[each] > st.SUCCEEDED else st.SKIPPED
    return settled


def carry_nodes(
    old: RunCore,
    new: RunCore,
    changed: Iterable[str],
    *,
    doubts: Mapping[int, int],
    open_nodes: Iterable[Transient],
) -> dict[int, int]:
    """Give `new` what `old` knows of the nodes that are not in `changed` (ids, downstream ones included).

    Their expansions go over with all children. A node in doubt stays in doubt, changed or not.

    Returns:
        The new number of each node that is there still, changed or not.
    """
    dropped = set(changed)
    ids = old.plan.ids[: old.plan.visible]
    same_id = {node: new.plan.by_id[each] for node, each in enumerate(ids) if each in new.plan.by_id}
    kept = {node: here for node, here in same_id.items() if ids[node] not in dropped}
    new.frames = old.frames
    _expand_again(old, new, kept)
    for node, here in kept.items():
        if old.state[node] == st.SUCCEEDED:
            _carry_result(old, new, node, here)
            if node in old.fallen_back:
                new.fallen_back[here] = old.fallen_back[node]
        if node in old.crashes:
            new.crashes[here] = old.crashes[node]
        if node in old.tries:
            new.tries[here] = old.tries[node]
    for node, state in settled_in(old).items():
        if node in kept:
            _carry_end(old, new, node, kept[node], state)
    for before, after in open_nodes:
        after.update((kept[node], said) for node, said in before.items() if node in kept)
    same = same_id | kept
    for node, attempt in doubts.items():
        place = same.get(node)
        if place is not None:
            new.state[place], new.attempts[place] = st.IN_DOUBT, attempt
            new.doubts.add(place)
    new.busy_us, new.usage = old.busy_us, old.usage
    return same


def _expand_again(old: RunCore, new: RunCore, kept: dict[int, int]) -> None:
    """In the same order; adds the children to `kept`."""
    for node, (first, count) in old.children.items():
        if node in kept:
            begins = new.expand(kept[node], items_of(old, node), count)
            new.sizes[kept[node]] = old.sizes.get(node, 0)
            kept.update((first + i, begins + i) for i in range(count))


def _carry_result(old: RunCore, new: RunCore, node: int, here: int) -> None:
    new.state[here] = st.SUCCEEDED
    new.attempts[here] = old.attempts[node]
    new.where_stored[here] = old.where_stored[node]
    if not new.is_gate(here):
        new.counts["succeeded"] += 1


def _carry_end(old: RunCore, new: RunCore, node: int, here: int, state: int) -> None:
    """How a part of what succeeded ended, which did not itself."""
    new.state[here], new.attempts[here] = state, old.attempts[node]
    if node in old.errors:
        new.errors[here] = old.errors[node]
    if node in old.skip_reasons:
        new.skip_reasons[here] = old.skip_reasons[node]

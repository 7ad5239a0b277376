"""Nodes that an edit took out of a definition, and what comes back with them if a later one has them again.

A result stays in the journal when its node is removed. It counts again where the node returns as it was, fed by the
very results and inputs that it had then. What has effect `once` is known for ever: neither its result nor the doubt
about it goes with the definition.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sage_actors.messages.definition import NodeSpec
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import fingerprint
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.recovery.carrying import started_inside

__all__ = ["Removed", "give_back", "stored_at", "take_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A node as it was. stored: where its result is, 0 for none. parents: id -> where the results are that it got.

    inputs: of the run then. is_doubtful, refused_by: as of a `once` node whose end nobody saw, or that was resolved as
    failed. inside: a `once` node that was started in its expansion.
    """

    node: NodeSpec
    attempts: int
    stored: int = 0
    parents: Mapping[str, int]
    inputs: Mapping[str, Any]
    is_doubtful: bool = False
    refused_by: str | None = None
    inside: str = ""

    def is_done_once(self, now: NodeSpec) -> bool:
        return bool(self.stored) and self.node.operation.effect == now.operation.effect == "once"

    def is_same(self, now: NodeSpec) -> bool:
        """Whether its result could count for `now`. (That of a secret is on no disk; a phase feeds by its gate.)"""
        plain = not self.node.operation.secret_outputs and self.node.phase is None
        return bool(self.stored) and plain and fingerprint(self.node) == fingerprint(now)


def take_out(
    run: RunCore,
    inputs: Mapping[str, Any],
    kept: Container[str],
    *,
    doubts: Mapping[int, int],
    refused: Mapping[int, str],
) -> dict[str, Removed]:
    """What is to be known of the nodes of `run` whose ids are not in `kept`."""
    out: dict[str, Removed] = {}
    gone = [number for number in range(run.plan.visible) if run.plan.ids[number] not in kept]
    inside = started_inside(run, refused) if gone else {}
    for number in gone:
        node_id = run.plan.ids[number]
        is_done = run.state[number] == st.SUCCEEDED
        if is_done or number in doubts or number in refused or number in inside:
            out[node_id] = Removed(
                node=run.plan.spec.nodes[number],
                attempts=doubts.get(number, run.attempts[number]),
                stored=run.where_stored[number] if is_done and number not in run.children else 0,
                parents={run.id_of(each): stored_at(run, each) for each in run.plan.parents_of(number)},
                inputs=inputs,
                is_doubtful=number in doubts,
                refused_by=refused.get(number),
                inside=run.id_of(inside[number]) if number in inside else "",
            )
    return out


def stored_at(run: RunCore, node: int) -> int:
    """Where the result of a node is, 0 for none: two that are at one place are one result."""
    return run.where_stored[node] if run.state[node] == st.SUCCEEDED else 0


def give_back(
    removed: dict[str, Removed], new: RunCore, changed: Iterable[str], *, refused: dict[int, str]
) -> None:
    """Put what is known of the nodes that are back into `new` and `refused`, and forget it in `removed`."""
    dropped = set(changed)
    for node_id in removed.keys() & new.plan.by_id.keys():
        was, here = removed.pop(node_id), new.plan.by_id[node_id]
        if was.is_doubtful:
            new.state[here], new.attempts[here] = st.IN_DOUBT, was.attempts
            new.doubts.add(here)
        elif was.refused_by is not None:
            refused[here], new.attempts[here] = was.refused_by, was.attempts
        elif was.stored and node_id not in dropped:
            new.state[here], new.attempts[here] = st.SUCCEEDED, was.attempts
            new.where_stored[here] = was.stored
            new.counts["succeeded"] += 1

"""What an edited definition, or another input, changes about a run: which results stay, and who is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from sage_actors.messages.codec import pack
from sage_actors.messages.definition import NodeSpec, WorkflowSpec
from sage_actors.messages.errors import ChangedDefinitionError
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import compile_plan, fingerprint
from sage_actors.supervisor.core.run_core import RunCore
from sage_actors.supervisor.recovery.carrying import started_inside
from sage_actors.supervisor.recovery.removed import Removed, stored_at
from sage_actors.supervisor.recovery.restore import Restored

__all__ = ["Accept", "Edit"]

Accept = bool | Callable[[list[str]], bool]

_MOST_TOLD = 50
_MOST_REFUSED = 10


class Edit:
    """The definition and the inputs that a run is to be continued with, against those it began with.

    changed: ids whose results cannot be kept, in order: new (or back, not as it was), different, given an input with
    another value, or downstream of such a node. A succeeded node with effect `once` is never in it.
    """

    def __init__(self, restored: Restored, spec: WorkflowSpec, inputs: Mapping[str, Any]) -> None:
        assert restored.run is not None
        assert restored.spec is not None
        self.spec, self.inputs = spec, inputs
        self._run, self._before, self._refused = restored.run, restored.spec, restored.refused
        self._removed = restored.removed
        ids = {node.id for node in spec.nodes} if restored.removed else set()
        self._back = {each: was for each, was in restored.removed.items() if each in ids}
        self._other_inputs = _differences(restored.header["inputs"], inputs)
        self.changed = self._changed()

    @property
    def is_empty(self) -> bool:
        """Nothing differs. A node that was removed, or a policy, is a difference too, though no result is lost."""
        return not self.changed and self._is_same_definition and not self._other_inputs

    @cached_property
    def _is_same_definition(self) -> bool:
        from sage_actors.supervisor.recovery.admission import pack_definition

        return pack_definition(self._before) == pack_definition(self.spec)

    def agree(self, accept: Accept) -> list[str]:
        """What is to be told of the edit, node by node, once `accept` has agreed to what would run.

        Raises:
            ChangedDefinitionError: it has not.
        """
        costs, harmless = self._costs(), self._harmless()
        if costs and not (accept(costs) if callable(accept) else accept):
            raise ChangedDefinitionError(
                f"run {self._run.run_id!r} exists under {self._what_differs()}: {_some(costs)}. Use --accept-changes "
                "(accept_changes=True) to keep what did not change and run the rest, --fresh (fresh=True) to start "
                "anew, or another --run-id (run_id=)"
            )
        told = costs + harmless
        if not told:
            return ["the definition was edited; every result stays valid"]
        notices = [f"changed definition: {each}" for each in told[:_MOST_TOLD]]
        if len(told) > _MOST_TOLD:
            notices.append(f"changed definition: and {len(told) - _MOST_TOLD} more nodes")
        return notices

    def refuse_to_repeat(self, new: RunCore) -> None:
        """ChangedDefinitionError: a `once` node has happened, or may have, in an expansion that would be made anew."""
        old = self._run
        ids = set(self.changed) & new.plan.by_id.keys()
        started = {
            old.id_of(top): old.id_of(node) for top, node in started_inside(old, self._refused).items()
        }
        started |= {node_id: was.inside for node_id, was in self._removed.items() if was.inside}
        for top, node in started.items():
            if top in ids:
                raise ChangedDefinitionError(
                    f"run {old.run_id!r}: {node} has effect `once` and was started; it would be repeated "
                    f"if {top} ran again. Undo the change to {top}, give it another id, or use another --run-id"
                )

    def _changed(self) -> list[str]:
        plan = compile_plan(self.spec)
        before = {node.id: node for node in self._before.nodes}
        dirty = bytearray(
            self._is_new(node, self._back[node.id])
            if node.id in self._back
            else _is_other(before.get(node.id), node) or _uses_inputs(node, self._other_inputs)
            for node in self.spec.nodes
        ).ljust(plan.size, b"\0")  # gates of phases follow
        for number in plan.topological():
            if number < plan.visible and (was := self._back.get(plan.ids[number])) and not dirty[number]:
                dirty[number] = was.parents != {
                    plan.ids[each]: self._stored_at(plan.ids[each]) for each in plan.parents_of(number)
                }
            if dirty[number]:
                for child in plan.children(number):
                    dirty[child] = 1
        return [
            node.id for i, node in enumerate(self.spec.nodes) if dirty[i] and not self._is_done_once(node)
        ]

    def _is_new(self, node: NodeSpec, was: Removed) -> bool:
        return not was.is_same(node) or _uses_inputs(node, _differences(was.inputs, self.inputs))

    def _stored_at(self, node_id: str) -> int:
        """Where the result is that a node of this id has if nothing changes it."""
        if node_id in self._back:
            return self._back[node_id].stored
        number = self._run.plan.by_id.get(node_id)
        return 0 if number is None else stored_at(self._run, number)

    def _is_done_once(self, node: NodeSpec) -> bool:
        was = self._back.get(node.id)
        if was is not None:
            return was.is_done_once(node)
        return node.operation.effect == "once" and self._is_done(node.id)

    def _is_done(self, node_id: str) -> bool:
        number = self._run.plan.by_id.get(node_id)
        return number is not None and self._run.state[number] == st.SUCCEEDED

    def _costs(self) -> list[str]:
        """What would run: what is lost first."""
        lost = [f"{each} will run again" for each in self.changed if self._is_done(each)]
        kept = self._stays_failed()
        return lost + [
            f"{each} is new or was not done"
            for each in self.changed
            if not self._is_done(each) and each not in kept
        ]

    def _stays_failed(self) -> list[str]:
        """What is edited, and was resolved as failed: an edit is no word about what happened."""
        refused = {self._run.id_of(node) for node in self._refused}
        return [each for each in self.changed if each in refused]

    def _harmless(self) -> list[str]:
        now = {node.id: node for node in self.spec.nodes}
        done = [node for node in self._before.nodes if self._is_done(node.id)]
        gone = [f"{node.id} is no more" for node in done if node.id not in now]
        changed = set(self.changed)
        gone += [
            f"{each} is back, with its result"
            for each, was in self._back.items()
            if was.stored and each not in changed
        ]
        stays = [f"{each} stays failed, as it was resolved" for each in self._stays_failed()]
        return [*gone, *stays] + [
            f"{node.id} keeps the result of its old definition: it has `effect: once`"
            for node in done
            if node.id in now and node.id not in changed and _is_other(node, now[node.id])
        ]

    def _what_differs(self) -> str:
        """Two topics that differ in case and blanks alone share a run id."""
        if not self._is_same_definition:
            return "another definition"
        others = sorted(self._other_inputs)
        return f"another value of the input{'s' if len(others) > 1 else ''} {', '.join(map(repr, others))}"


def _is_other(before: NodeSpec | None, after: NodeSpec) -> bool:
    return before is None or fingerprint(before) != fingerprint(after)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Names of inputs. NaN is not equal to itself: what is stored is compared."""
    return {
        name
        for name in {*after, *before}
        if (name in after) != (name in before) or pack(after.get(name)) != pack(before.get(name))
    }


def _uses_inputs(node: NodeSpec, names: set[str]) -> bool:
    if not names:
        return False
    from sage_actors.supervisor.definitions.references import find_references

    said = [dict(node.arguments), dict(node.operation.config), node.when, node.foreach]
    said[1].pop("definition", None)
    return any(each.kind == "input" and each.name in names for each in find_references(said))


def _some(items: list[str]) -> str:
    more = len(items) - _MOST_REFUSED
    return "; ".join(items[:_MOST_REFUSED]) + (f"; and {more} more" if more > 0 else "")

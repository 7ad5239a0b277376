"""Nodes that become many: `foreach`, one child an item, and sub-workflows, one child a node.

A child's number follows the last one that there is; the expansion is on disk before a child starts. Its result is not
written: it is made of its children's when it is read.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sage_actors.messages.codec import MAX_RESULT_BYTES, pack, unpack
from sage_actors.messages.definition import OperationSpec
from sage_actors.messages.errors import ResultError
from sage_actors.messages.records import NodeExpanded
from sage_actors.messages.units import counted
from sage_actors.messages.wire import error_map
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.ports import Scope
from sage_actors.supervisor.core.run_answers import RunAnswers
from sage_actors.supervisor.core.run_values import GATHER

__all__ = ["RunExpansions"]

_MAX_CHILDREN = 1_000_000


class RunExpansions(RunAnswers):
    """The part of a run's decisions about nodes with children. `RunCore` is the whole."""

    def _expand_foreach(self, node: int, scope: Scope, local: int) -> None:
        items = self.evaluate(scope, local, scope.plan.foreaches[local])
        if not isinstance(items, list):
            said = str(scope.plan.spec.nodes[local].foreach)
            raise ResultError(
                f"foreach of {self.id_of(node)} needs a list; {said} is {_no_list(items, said)}"
            )
        if len(items) > _MAX_CHILDREN:
            raise ResultError(
                f"foreach of {self.id_of(node)}: {len(items)} items; the limit is {_MAX_CHILDREN}"
            )
        if not items:
            self._succeed_here(node, pack([]))
            return
        self._record_expansion(node, pack(items), len(items))

    def _start_workflow(self, node: int, scope: Scope, local: int, operation: OperationSpec) -> None:
        from sage_actors.supervisor.definitions.inputs import resolve_inputs

        source = self._opened(scope, local)
        subplan = scope.plan.subplans[local]
        inputs = resolve_inputs(subplan.spec, {**source["arguments"], **source["inputs"]})
        self._record_expansion(node, pack(inputs), subplan.size)

    def _record_expansion(self, node: int, packed: bytes, count: int) -> None:
        self.state[node] = st.EXPANDED
        first = self.expand(node, packed, count)
        record = NodeExpanded(self.clock.now(), node, first, count, hashlib.sha256(packed).digest(), packed)
        self._persist([record], sync=True, token=("expanded", node))

    def expand(self, node: int, packed: bytes, count: int) -> int:
        """Number the children of `node`; they start when `release_children` is called. Returns the first."""
        scope, local = self.where(node)
        first = len(self.state)
        prefix = self.id_of(node)
        data = unpack(packed)
        is_foreach = scope.only < 0 and local in scope.plan.foreaches
        self.children[node] = (first, count)
        self.state[node] = st.EXPANDED
        if is_foreach:
            for i, item in enumerate(data):
                self.scopes.append(
                    Scope(scope.plan, scope.base, scope.inputs, node, prefix, item, i, local, open=1)
                )
            self.indegree.extend([0] * count)
        else:
            subplan = scope.plan.subplans[local]
            inner = Scope(subplan, first, data, node, prefix + "/", scope.item, scope.index, open=count)
            self.inner[node] = inner
            self._open_room(node)
            self.scopes.extend([inner] * count)
            self.indegree.extend(subplan.indegree)
            for each, uses in subplan.value_uses.items():
                self.uses[first + each] = uses
        for column in (self.state, self.simple, self.bad):
            column.extend(bytes(count))
        self.attempts.extend([0] * count)
        self.where_stored.extend([0] * count)
        self.open += count
        self.left[node] = count
        return first

    def release_children(self, node: int) -> None:
        first, count = self.children[node]
        self._time_instance(node)
        self.todo.extend(
            each for each in range(first, first + count) if self.indegree[each] == 0 and not self.state[each]
        )
        if self.left.get(node) == 0:
            self._close_expansion(node)

    def _child_ended(self, owner: int) -> None:
        self.left[owner] -= 1
        if self.left[owner] == 0:
            self._close_expansion(owner)

    def _close_expansion(self, node: int) -> None:
        """All children of `node` ended: its own result, or its own failure."""
        if self.state[node] != st.EXPANDED:
            return
        self.rooms.pop(node, None)
        if self.overdue and self.is_cut(node):
            self._cut(node)
            return
        self.running += 1
        self.attempts[node] = max(self.attempts[node], 1)
        if node in self.overdue:
            self._fail_overdue(node)
            return
        if failed := self._failed_children(node):
            count = self.children[node][1]
            cause = self.errors.get(failed[0], {}).get("message", "")
            text = f"{len(failed)} of {count} children failed; the first: {self.id_of(failed[0])}: {cause}"
            self._give_up(node, error_map("OperationError", text, retryable=False))
            return
        if node < self.plan.visible and self.plan.is_leaf(node) and self._size_of(node) > MAX_RESULT_BYTES:
            self._give_up(node, error_map("ResultError", self._too_large(node), retryable=False))
            return  # else the run had no result that anybody could be told
        self.state[node] = st.COMMITTING
        if self.volatile or self.uses.get(node) or node >= self.plan.size:
            self.values[node] = GATHER
        self._commit([(node, self.attempts[node], 0, GATHER, None)])

    def _failed_children(self, node: int) -> list[int]:
        """The children for which their node fails; of a `foreach`, if none failed, those under `on_failure: skip`."""
        inner = self.inner.get(node)
        if inner is not None:
            return [each for each in inner.failed if each not in self.excused_failures]
        first, count = self.children[node]
        ended = range(first, first + count)
        failed = [each for each in ended if self.state[each] == st.FAILED]
        return failed or [each for each in ended if self.state[each] == st.DROPPED]


def _no_list(value: Any, said: str) -> str:
    """What `value` is, to which the reference `said` led, and what to do. Quotes no data: it may be secret."""
    if value is None:
        return "null: there is nothing under that path, or what it names failed under `on_failure: continue`"
    if isinstance(value, dict):
        lists = sorted(name for name in value if isinstance(value[name], list) and name.isidentifier())
        if not lists:
            return f"a map of {counted(len(value), 'key')}: name a list in it with a path, or return one"
        path = f"{said[:-1].rstrip()}{'.' if '|' in said else ' | '}{lists[0]}}}"
        return f"a map, in which {', '.join(lists[:5])} {'is a list' if len(lists) == 1 else 'are lists'}: write {path}"
    if isinstance(value, str):
        return f"a text of {counted(len(value), 'character')}: make a list of it in an operation before"
    return f"{'true or false' if isinstance(value, bool) else 'a number'}: name a list, or return one"

"""The nodes of a large definition as columns: each is made into a NodeSpec only when somebody asks for it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from sage_actors.messages.definition import NodeSpec, OperationSpec

__all__ = ["NodeColumns"]

_NO_ARGUMENTS: Mapping[str, object] = {}


class NodeColumns(Sequence[NodeSpec]):
    """Reads like a list of nodes.

    Node i has the operation operations[ops[i]] and needs the nodes needs[ends[i - 1] : ends[i]]. data: the whole
    NodeSpec of those that have arguments, a condition, a `foreach` or a phase; all others have none of these.
    distinct: it is known that no node says a need twice.
    """

    __slots__ = ("data", "distinct", "ends", "ids", "needs", "operations", "ops")

    def __init__(
        self,
        *,
        ids: list[str],
        operations: list[OperationSpec],
        ops: array[int],
        ends: array[int],
        needs: array[int],
        data: dict[int, NodeSpec],
        distinct: bool = False,
    ) -> None:
        self.distinct = distinct
        self.ids, self.operations, self.ops = ids, operations, ops
        self.ends, self.needs, self.data = ends, needs, data

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> NodeSpec: ...
    @overload
    def __getitem__(self, index: slice) -> list[NodeSpec]: ...
    def __getitem__(self, index: int | slice) -> NodeSpec | list[NodeSpec]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self.ids)))]
        if index < 0:
            index += len(self.ids)
        return self.data.get(index) or self._plain(index)

    def __iter__(self) -> Iterator[NodeSpec]:
        get, plain = self.data.get, self._plain
        for index in range(len(self.ids)):
            yield get(index) or plain(index)

    def needs_of(self, index: int) -> array[int]:
        """The numbers of the nodes that one needs."""
        return self.needs[self.ends[index - 1] if index else 0 : self.ends[index]]

    def _plain(self, index: int) -> NodeSpec:
        needs = tuple([self.ids[each] for each in self.needs_of(index)])
        return NodeSpec(self.ids[index], self.operations[self.ops[index]], _NO_ARGUMENTS, needs)

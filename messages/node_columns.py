"""The nodes of a definition as columns: each is made into a NodeSpec only when somebody asks for it.

A million nodes are so a few arrays, which need no look by Python's collector and are compiled in one go.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import overload

from sage_actors.messages.definition import NodeSpec, OperationSpec
from sage_actors.messages.errors import DefinitionError, Problem

__all__ = ["NodeColumns", "first_uses", "nodes_with_data", "operations_of"]

_NO_ARGUMENTS: Mapping[str, object] = {}


class NodeColumns(Sequence[NodeSpec]):
    """Reads like a list of nodes.

    Node i has the operation operations[ops[i]] and needs the nodes needs[ends[i - 1] : ends[i]]. data: the whole
    NodeSpec of those that have arguments, a condition, a `foreach` or a phase; all others have none of these.
    distinct: no node says a need twice; looked at where it is not known.
    """

    __slots__ = ("_places", "data", "distinct", "ends", "ids", "needs", "operations", "ops")

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
        self.distinct = distinct or _are_distinct(ends, needs)
        self.ids, self.operations, self.ops = ids, operations, ops
        self.ends, self.needs, self.data = ends, needs, data
        self._places = {each: i for i, each in enumerate(operations)}

    @classmethod
    def empty(cls) -> NodeColumns:
        return cls(
            ids=[],
            operations=[],
            ops=array("I"),
            ends=array("I"),
            needs=array("I"),
            data={},
            distinct=True,
        )

    @classmethod
    def of(cls, nodes: Sequence[NodeSpec]) -> NodeColumns:
        """`nodes` as columns. DefinitionError: one needs a node that is not among them."""
        if isinstance(nodes, cls):
            return nodes
        columns = cls.empty()
        numbers = {node.id: i for i, node in enumerate(nodes)}
        for node in nodes:
            is_plain = not node.arguments and (node.when, node.foreach, node.phase) == (None, None, None)
            try:
                needs = [numbers[each] for each in node.needs] if node.needs else ()
            except KeyError as unknown:
                problem = Problem(f"{node.id}.needs", f"there is no node {unknown.args[0]!r}")
                raise DefinitionError([problem]) from None
            columns.add(node.id, node.operation, needs, None if is_plain else node)
        return columns

    def add(self, id: str, operation: OperationSpec, needs: Sequence[int], data: NodeSpec | None) -> None:
        """One more node, which needs those of the numbers `needs`. data: see above; None of a plain one."""
        if data is not None:
            self.data[len(self.ids)] = data
        self.ids.append(id)
        place = self._places.get(operation)
        if place is None:
            place = self._places[operation] = len(self.operations)
            self.operations.append(operation)
        self.ops.append(place)
        if needs:
            if len(needs) > 1 and len(set(needs)) < len(needs):
                self.distinct = False
            self.needs.extend(needs)
        self.ends.append(len(self.needs))

    def copy(self) -> NodeColumns:
        return self._with(self.operations[:], self.data.copy())

    def executing(self, operations: list[OperationSpec]) -> NodeColumns:
        """The same nodes with these operations in the place of their own."""
        data = {i: replace(node, operation=operations[self.ops[i]]) for i, node in self.data.items()}
        return self._with(operations, data)

    def _with(self, operations: list[OperationSpec], data: dict[int, NodeSpec]) -> NodeColumns:
        return NodeColumns(
            ids=self.ids[:],
            operations=operations,
            ops=self.ops[:],
            ends=self.ends[:],
            needs=self.needs[:],
            data=data,
            distinct=self.distinct,
        )

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


def _are_distinct(ends: array[int], needs: array[int]) -> bool:
    start = 0
    for end in ends:
        if end - start > 1 and len(set(needs[start:end])) < end - start:
            return False
        start = end
    return True


def operations_of(nodes: Sequence[NodeSpec]) -> list[OperationSpec]:
    """What they execute, each once."""
    if isinstance(nodes, NodeColumns):
        return list(nodes.operations)
    return list(dict.fromkeys([node.operation for node in nodes]))


def first_uses(nodes: Sequence[NodeSpec]) -> list[tuple[int, OperationSpec]]:
    """Each operation with the number of the first node that executes it."""
    numbers = range(len(nodes) - 1, -1, -1)
    if isinstance(nodes, NodeColumns):
        first = dict(zip(reversed(nodes.ops), numbers, strict=True))
        return [(first[i], operation) for i, operation in enumerate(nodes.operations)]
    used = {node.operation: number for number, node in zip(numbers, reversed(nodes), strict=True)}
    return [(number, operation) for operation, number in used.items()]


def nodes_with_data(nodes: Sequence[NodeSpec]) -> Iterable[tuple[int, NodeSpec]]:
    """(number, node) of all that have more than an operation and needs, at least."""
    return nodes.data.items() if isinstance(nodes, NodeColumns) else enumerate(nodes)

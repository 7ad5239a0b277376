"""Nodes as columns read like the list that they were made of."""

from __future__ import annotations

import pytest

from sage_actors.messages.definition import NodeSpec, OperationSpec
from sage_actors.messages.errors import DefinitionError
from sage_actors.messages.node_columns import NodeColumns, first_uses, operations_of

ONE, TWO = OperationSpec("python", {"call": "m:one"}), OperationSpec("shell", {"command": "true"})


def nodes() -> list[NodeSpec]:
    return [
        NodeSpec("a", ONE),
        NodeSpec("b", TWO, {"x": 1}, ("a",)),
        NodeSpec("c", ONE, needs=("b", "a"), when="${b}"),
        NodeSpec("d", TWO, needs=("c",)),
    ]


def fields(each: NodeSpec) -> tuple[object, ...]:
    return (
        each.id,
        each.operation,
        dict(each.arguments),
        tuple(each.needs),
        each.when,
        each.foreach,
        each.phase,
    )


def test_every_node_comes_back_as_it_went_in() -> None:
    columns = NodeColumns.of(nodes())
    assert [fields(each) for each in columns] == [fields(each) for each in nodes()]
    assert fields(columns[-1]) == fields(nodes()[-1])
    assert [each.id for each in columns[1:3]] == ["b", "c"]
    assert sorted(columns.data) == [1, 2]  # the others are plain


def test_operations_are_kept_once_with_their_first_use() -> None:
    for given in (nodes(), NodeColumns.of(nodes())):
        assert operations_of(given) == [ONE, TWO]
        assert sorted(first_uses(given)) == [(0, ONE), (1, TWO)]
    assert not operations_of([])
    assert not first_uses([])


def test_a_copy_does_not_grow_with_what_it_was_made_of() -> None:
    columns = NodeColumns.of(nodes())
    copy = columns.copy()
    columns.add("e", OperationSpec("wait", {"seconds": 1}), (3,), None)
    assert len(copy) == 4
    assert len(copy.operations) == 2
    assert columns[4].needs == ("d",)


def test_other_operations_take_the_place_of_all_that_were_the_same() -> None:
    other = OperationSpec("python", {"call": "m:one"}, is_async=True)
    changed = NodeColumns.of(nodes()).executing([other, TWO])
    assert [each.operation for each in changed] == [other, TWO, other, TWO]
    assert changed[2].when == "${b}"


@pytest.mark.parametrize(("needs", "distinct"), [(("a", "b"), True), (("a", "a"), False), (("a",), True)])
def test_a_need_that_is_said_twice_is_noticed(needs: tuple[str, ...], distinct: bool) -> None:
    columns = NodeColumns.of([NodeSpec("a", ONE), NodeSpec("b", ONE), NodeSpec("c", ONE, needs=needs)])
    assert columns.distinct is columns.copy().distinct is distinct


def test_a_need_that_is_not_there_is_named() -> None:
    with pytest.raises(DefinitionError, match="there is no node 'z'"):
        NodeColumns.of([NodeSpec("a", ONE, needs=("z",))])

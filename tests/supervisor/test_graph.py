"""The dependency graph, against networkx as an independent implementation."""

from __future__ import annotations

import itertools
import os
import resource
import time
from array import array

import networkx as nx  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.messages.errors import CycleError, DefinitionError
from sage_actors.supervisor.core.graph import (
    DependencyGraph,
    build_rows,
    kahn_levels,
    longest_path_to_end,
    nearest,
)

Edges = list[tuple[int, int]]


@st.composite
def graphs(draw: st.DrawFn, *, acyclic: bool = False) -> tuple[int, Edges]:
    """A count of nodes, and edges (node, what it depends on)."""
    count = draw(st.integers(1, 25))
    node = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=60))
    if acyclic:
        order = draw(st.permutations(range(count)))
        edges = [(max(a, b), min(a, b)) for a, b in edges if a != b]
        edges = [(order[a], order[b]) for a, b in edges]
    return count, edges


def build(count: int, edges: Edges) -> tuple[DependencyGraph, nx.DiGraph]:
    ours, theirs = DependencyGraph(), nx.DiGraph()
    for node in range(count):
        ours.add_node(f"n{node}")
        theirs.add_node(f"n{node}")
    for node, dependency in edges:
        ours.add_edge(f"n{node}", f"n{dependency}")
        theirs.add_edge(f"n{dependency}", f"n{node}")
    return ours, theirs


@pytest.mark.requirement("ORCH-007")
@given(graphs(acyclic=True))
def test_batches_are_the_topological_generations_of_networkx(sample: tuple[int, Edges]) -> None:
    ours, theirs = build(*sample)
    expected = [sorted(each, key=lambda name: int(name[1:])) for each in nx.topological_generations(theirs)]
    assert ours.batches() == expected


@pytest.mark.requirement("ORCH-007")
@given(graphs(acyclic=True))
def test_the_order_has_every_node_once_and_after_its_dependencies(sample: tuple[int, Edges]) -> None:
    ours, theirs = build(*sample)
    position = {name: at for at, name in enumerate(ours.topological_order())}
    assert len(position) == len(ours) == len(ours.topological_order())
    assert all(position[before] < position[after] for before, after in theirs.edges)


@pytest.mark.requirement("ORCH-008")
@given(graphs())
def test_a_cycle_is_found_exactly_if_networkx_finds_one_and_it_is_real(sample: tuple[int, Edges]) -> None:
    ours, theirs = build(*sample)
    cycle = ours.find_cycle()
    assert (cycle is None) == nx.is_directed_acyclic_graph(theirs)
    if cycle is None:
        assert not [each for each in ours.validate() if "cycle" in each.message]
        return
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    for node, needs in itertools.pairwise(cycle):
        assert theirs.has_edge(needs, node)
    with pytest.raises(CycleError, match=" -> "):
        ours.topological_order()


@given(graphs())
def test_every_knot_of_cycles_is_reported_at_once(sample: tuple[int, Edges]) -> None:
    ours, theirs = build(*sample)
    knots = [
        knot
        for knot in nx.strongly_connected_components(theirs)
        if len(knot) > 1 or theirs.has_edge(min(knot), min(knot))
    ]
    reported = [each.place for each in ours.validate() if each.message.startswith("cycle")]
    assert len(reported) >= min(len(knots), 10)
    if len(reported) < 10:
        assert all(any(place in knot for place in reported) for knot in knots)


@given(graphs(acyclic=True), st.data())
def test_the_critical_path_is_as_long_as_networkx_says(
    sample: tuple[int, Edges], data: st.DataObject
) -> None:
    ours, theirs = build(*sample)
    weights = {name: float(data.draw(st.integers(0, 9))) for name in ours}
    path, length = ours.critical_path(weights)
    for before, after in theirs.edges:
        theirs.edges[before, after]["weight"] = weights[after]
    theirs.add_edges_from(("start", name, {"weight": weights[name]}) for name in weights)
    assert length == nx.dag_longest_path_length(theirs)
    assert sum(weights[name] for name in path) == length
    assert all(theirs.has_edge(a, b) for a, b in itertools.pairwise(path))
    unweighted, steps = ours.critical_path()
    assert len(unweighted) == steps == len(ours.batches())


@given(graphs())
def test_neighbours_parts_and_downstream_agree_with_networkx(sample: tuple[int, Edges]) -> None:
    ours, theirs = build(*sample)
    for name in ours:
        assert sorted(ours.dependencies(name)) == sorted(theirs.predecessors(name))
        assert sorted(ours.dependents(name)) == sorted(theirs.successors(name))
        assert ours.downstream([name]) - {name} == nx.descendants(theirs, name)
    assert {*map(frozenset, ours.components())} == {*map(frozenset, nx.weakly_connected_components(theirs))}
    assert ours.roots() == [name for name in ours if theirs.in_degree(name) == 0]
    assert ours.leaves() == [name for name in ours if theirs.out_degree(name) == 0]


@given(graphs(acyclic=True))
def test_the_rows_give_the_longest_path_to_an_end(sample: tuple[int, Edges]) -> None:
    count, edges = sample
    _, theirs = build(count, edges)
    rows = build_rows(count, [b for _, b in edges], [a for a, _ in edges])
    indegree = array("I", bytes(4 * count))
    for node, _ in edges:
        indegree[node] += 1
    before = indegree[:]
    order, bounds = kahn_levels(indegree, rows.offsets, rows.targets)
    assert indegree == before
    assert bounds[-1] == len(order) == count
    depth = longest_path_to_end(rows.offsets, rows.targets, order)
    expected = dict.fromkeys(theirs, 0)
    for name in reversed(list(nx.topological_sort(theirs))):
        expected[name] = max((expected[after] + 1 for after in theirs.successors(name)), default=0)
    assert list(depth) == [expected[f"n{node}"] for node in range(count)]


@pytest.mark.requirement("ORCH-009")
def test_a_chain_and_a_diamond_run_in_the_order_one_expects() -> None:
    graph = DependencyGraph()
    for name in "DCBA":
        graph.add_node(name)
    for node, needs in (("B", "A"), ("C", "A"), ("D", "B"), ("D", "C")):
        graph.add_edge(node, needs)
    assert graph.batches() == [["A"], ["C", "B"], ["D"]]
    assert graph.topological_order() == ["A", "C", "B", "D"]
    assert graph.downstream(["B"]) == {"D"}


@pytest.mark.requirement("ORCH-009")
def test_sixty_nodes_in_six_layers_are_six_batches() -> None:
    graph = DependencyGraph()
    for node in range(60):
        graph.add_node(f"n{node}")
        for needs in range(10) if node >= 10 else ():
            graph.add_edge(f"n{node}", f"n{node - node % 10 - 10 + needs}")
    assert [len(batch) for batch in graph.batches()] == [10] * 6


def test_an_edge_may_come_before_its_nodes() -> None:
    graph = DependencyGraph()
    graph.add_edge("b", "a")
    graph.add_node("b")
    graph.add_node("a")
    assert graph.topological_order() == ["a", "b"]


@pytest.mark.requirement("ORCH-008")
def test_an_unknown_dependency_is_refused_with_the_nearest_name() -> None:
    graph = DependencyGraph()
    graph.add_node("market")
    graph.add_node("report")
    graph.add_edge("report", "markte")
    (problem,) = graph.validate()
    assert problem.place == "report"
    assert "'markte'" in problem.message
    assert problem.hint == "did you mean 'market'?"
    with pytest.raises(DefinitionError, match="markte"):
        graph.batches()


def test_a_graph_without_a_node_to_start_with_says_so() -> None:
    graph = DependencyGraph()
    graph.add_node("a")
    graph.add_node("b")
    graph.add_edge("a", "b")
    graph.add_edge("b", "a")
    messages = [each.message for each in graph.validate()]
    assert messages == ["cycle: a -> b -> a", "no entry point: every node waits for another"]


def test_separate_parts_are_a_problem_only_where_asked() -> None:
    graph = DependencyGraph()
    graph.add_node("a")
    graph.add_node("b")
    assert graph.validate() == []
    (problem,) = graph.validate(connected=True)
    assert "2 separate parts" in problem.message


def test_an_id_can_be_added_once() -> None:
    graph = DependencyGraph()
    graph.add_node("a")
    with pytest.raises(DefinitionError, match="already"):
        graph.add_node("a")
    assert len(graph) == 1


def test_an_empty_graph_has_nothing_in_it() -> None:
    graph = DependencyGraph()
    assert not graph.batches()
    assert not graph.topological_order()
    assert not graph.components()
    assert not graph.validate()
    assert graph.critical_path() == ([], 0.0)
    assert graph.find_cycle() is None


def test_a_cycle_of_a_hundred_thousand_nodes_needs_no_deep_stack() -> None:
    graph = DependencyGraph()
    count = 100_000
    for node in range(count):
        graph.add_node(f"n{node}")
        graph.add_edge(f"n{node}", f"n{(node + 1) % count}")
    cycle = graph.find_cycle()
    assert cycle is not None
    assert len(cycle) == count + 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("markt", "did you mean 'a/market'?"), ("market", "did you mean 'a/market'?"), ("zzz", "none")],
)
def test_the_nearest_name_is_guessed(name: str, hint: str) -> None:
    assert nearest(name, ["a/market", "b/write"], otherwise="none") == hint


@pytest.mark.slow
@pytest.mark.requirement("ORCH-007")
@pytest.mark.no_cover
def test_many_nodes_are_ordered_in_linear_time_and_under_a_kilobyte_each() -> None:
    def cost(count: int) -> float:
        start = time.process_time()
        graph = DependencyGraph()
        for node in range(count):
            graph.add_node(f"n{node}")
        for node in range(1000, count):
            graph.add_edge(f"n{node}", f"n{node - 1000}")
            graph.add_edge(f"n{node}", f"n{max(node - 1500, 0)}")
        assert len(graph.batches()) == count // 1000
        return (time.process_time() - start) / count

    many = 1_000_000 if os.environ.get("SAGE_LONG_TESTS") else 200_000
    small = min(cost(20_000) for _ in range(3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    large = cost(many)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < many  # KiB: 1 KB a node
    assert large < small * 5  # far from quadratic, which would be 10 times as much


settings.register_profile("graph", deadline=None)
settings.load_profile("graph")

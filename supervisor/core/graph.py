"""The dependency graph: Kahn's order, batches, cycles, critical path; linear in nodes and edges.

Nodes are numbers inside, edges two flat arrays of 32-bit integers, so that a million nodes fit. Neighbours
are looked up in compressed rows (CSR): the targets of node `i` are `targets[offsets[i]:offsets[i + 1]]`.
The functions below the class work on such rows alone; the engine uses them directly at admission.
"""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from sage_actors.messages.errors import CycleError, DefinitionError, Problem

__all__ = ["DependencyGraph", "Rows", "build_rows", "kahn_levels", "longest_path_to_end", "nearest"]

_MAX_CYCLES = 10  # reported at once; each is disjoint from the others


class Rows(NamedTuple):
    """Compressed rows: the neighbours of node `i` are `targets[offsets[i]:offsets[i + 1]]`."""

    offsets: array[int]
    targets: array[int]

    def of(self, node: int) -> array[int]:
        return self.targets[self.offsets[node] : self.offsets[node + 1]]


class DependencyGraph:
    """Nodes by id and what each depends on; ids may be referred to before they are added.

    >>> graph = DependencyGraph()
    >>> for node in "ABC":
    ...     graph.add_node(node)
    >>> graph.add_edge("C", "A"); graph.add_edge("C", "B")
    >>> graph.batches()
    [['A', 'B'], ['C']]
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._number: dict[str, int] = {}
        self._edge_from = array("I")  # the node that is depended on
        self._edge_to = array("I")
        self._pending: list[tuple[str, str]] = []  # edges of which an end is not known yet
        self._forward: Rows | None = None
        self._backward: Rows | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, node: object) -> bool:
        return node in self._number

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def add_node(self, node: str) -> None:
        """Add a node; definition order is the order of these calls. DefinitionError if it exists."""
        if self._number.setdefault(node, len(self._ids)) != len(self._ids):
            raise DefinitionError([Problem(node, "there is already a node of this id", "rename one of them")])
        self._ids.append(node)
        self._forward = self._backward = None

    def add_edge(self, node: str, depends_on: str) -> None:
        """Say that `node` waits for `depends_on`. Either may be added later; `validate` says if it is not."""
        number = self._number
        try:
            source, target = number[depends_on], number[node]
        except KeyError:
            self._pending.append((node, depends_on))
        else:
            self._edge_from.append(source)
            self._edge_to.append(target)
        self._forward = self._backward = None

    def topological_order(self) -> list[str]:
        """Every node after all it depends on: batch after batch, in definition order inside a batch.

        Kahn's algorithm (A. B. Kahn, "Topological sorting of large networks", 1962), O(V + E).

        Raises:
            CycleError: there is a cycle. DefinitionError: an edge names an unknown node.
        """
        return list(chain.from_iterable(self.batches()))

    def batches(self) -> list[list[str]]:
        """Nodes by level: those of a batch depend on earlier batches only. Raises as `topological_order`."""
        order, bounds = self._levels()
        level_of = array("I", bytes(4 * len(self)))
        for level in range(len(bounds) - 1):
            for node in order[bounds[level] : bounds[level + 1]]:
                level_of[node] = level
        batches: list[list[str]] = [[] for _ in range(len(bounds) - 1)]
        for node, name in enumerate(self._ids):  # by number: definition order without a sort
            batches[level_of[node]].append(name)
        return batches

    def find_cycle(self) -> list[str] | None:
        """A cycle as a path: each node depends on the next, and the first is repeated at the end. Or None."""
        return next(self._cycles(), None)

    def validate(self, *, connected: bool = False) -> list[Problem]:
        """All that is wrong: unknown ids (with the nearest name), cycles, no node to start with.

        With `connected`, more than one separate part is a problem too.
        """
        problems = list(self._unknown_problems())
        for cycle in self._cycles():
            hint = "remove one of these dependencies"
            problems.append(Problem(cycle[0], f"cycle: {' -> '.join(cycle)}", hint))
        if self._ids and not self.roots():
            problems.append(
                Problem("", "no entry point: every node waits for another", "let one wait for none")
            )
        if connected and len(parts := self.components()) > 1:
            heads = ", ".join(part[0] for part in parts[:5])
            message = f"the graph falls into {len(parts)} separate parts, those of {heads}"
            problems.append(Problem("", message, "connect them with `needs`"))
        return problems

    def components(self) -> list[list[str]]:
        """The separate parts, each in definition order, ordered by their first nodes."""
        forward, backward = self._rows()
        part_of: list[int] = [-1] * len(self)
        count = 0
        for start in range(len(self)):
            if part_of[start] >= 0:
                continue
            part_of[start] = count
            stack = [start]
            while stack:
                node = stack.pop()
                for other in chain(forward.of(node), backward.of(node)):
                    if part_of[other] < 0:
                        part_of[other] = count
                        stack.append(other)
            count += 1
        parts: list[list[str]] = [[] for _ in range(count)]
        for name, part in zip(self._ids, part_of, strict=True):
            parts[part].append(name)
        return parts

    def critical_path(self, weights: Mapping[str, float] | None = None) -> tuple[list[str], float]:
        """The heaviest path and its weight; a node weighs `weights[id]` (0 if absent), or 1 without weights.

        Raises as `topological_order`.
        """
        order, _ = self._levels()
        forward, _ = self._rows()
        total, following = _heaviest(self._ids, order, forward, weights)
        if not total:
            return [], 0.0
        node = max(range(len(total)), key=total.__getitem__)
        length, path = total[node], []
        while node >= 0:
            path.append(self._ids[node])
            node = following[node]
        return path, length

    def roots(self) -> list[str]:
        """Nodes that depend on nothing, in definition order."""
        return _without_neighbours(self._ids, self._rows()[1])

    def leaves(self) -> list[str]:
        """Nodes that nothing depends on, in definition order."""
        return _without_neighbours(self._ids, self._rows()[0])

    def dependencies(self, node: str) -> list[str]:
        """What `node` depends on directly, each once. KeyError for an unknown id."""
        return [self._ids[other] for other in dict.fromkeys(self._rows()[1].of(self._number[node]))]

    def dependents(self, node: str) -> list[str]:
        """What depends directly on `node`, each once. KeyError for an unknown id."""
        return [self._ids[other] for other in dict.fromkeys(self._rows()[0].of(self._number[node]))]

    def downstream(self, nodes: Iterable[str]) -> set[str]:
        """All that depends on one of `nodes`, directly or not; one of them is in it only if so reached."""
        forward, _ = self._rows()
        seen: set[int] = set()
        stack = [self._number[node] for node in nodes]
        while stack:
            fresh = [other for other in forward.of(stack.pop()) if other not in seen]
            seen.update(fresh)
            stack.extend(fresh)
        return {self._ids[node] for node in seen}

    def _rows(self) -> tuple[Rows, Rows]:
        """(dependents, dependencies) as compressed rows; edges to unknown nodes are left out."""
        if self._forward is None or self._backward is None:
            self._settle_pending()
            self._forward = build_rows(len(self), self._edge_from, self._edge_to)
            self._backward = build_rows(len(self), self._edge_to, self._edge_from)
        return self._forward, self._backward

    def _settle_pending(self) -> None:
        pending, self._pending = self._pending, []
        for node, depends_on in pending:
            self.add_edge(node, depends_on)

    def _levels(self) -> tuple[array[int], array[int]]:
        forward, backward = self._rows()
        if self._pending:
            raise DefinitionError(list(self._unknown_problems()))
        order, bounds = kahn_levels(_row_lengths(backward), forward.offsets, forward.targets)
        if len(order) < len(self):
            raise CycleError(self.find_cycle() or ())
        return order, bounds

    def _unknown_problems(self) -> Iterator[Problem]:
        self._settle_pending()
        for node, depends_on in dict.fromkeys(self._pending):
            for name in (node, depends_on):
                if name not in self._number:
                    text = f"depends on {depends_on!r}, which does not exist"
                    message = text if name == depends_on else f"edge of a node that does not exist: {node!r}"
                    yield Problem(node, message, nearest(name, self._ids))

    def _cycles(self) -> Iterator[list[str]]:
        """Disjoint cycles, at most ten: run Kahn dry, take one cycle out, run on."""
        forward, backward = self._rows()
        left = list(_row_lengths(backward))
        done = bytearray(len(self))
        frontier = [node for node, waits in enumerate(left) if not waits]
        start = 0
        for _ in range(_MAX_CYCLES):
            _run_dry(frontier, left, done, forward)
            start = done.find(0, start)
            if start < 0:
                return
            cycle = _walk_back(start, done, backward)
            yield [self._ids[node] for node in [*cycle, cycle[0]]]
            for node in cycle:
                done[node] = 1
            frontier = cycle


def build_rows(count: int, sources: Sequence[int], targets: Sequence[int]) -> Rows:
    """The edges `sources[i] -> targets[i]` among `count` nodes as compressed rows, in order of the edges."""
    lengths = [0] * (count + 1)
    for source in sources:
        lengths[source + 1] += 1
    position = list(accumulate(lengths))
    offsets = array("I", position)
    row = array("I", bytes(4 * len(targets)))
    for source, target in zip(sources, targets, strict=True):
        at = position[source]
        row[at] = target
        position[source] = at + 1
    return Rows(offsets, row)


def kahn_levels(
    indegree: Sequence[int], offsets: array[int], targets: array[int]
) -> tuple[array[int], array[int]]:
    """Kahn's algorithm, level by level, O(V + E).

    Arguments: for each node how many edges lead into it (not changed), and the edges as compressed rows
    (`offsets` has one element more than there are nodes).

    Returns `(order, bounds)`: level `k` is `order[bounds[k]:bounds[k + 1]]`. The first level is in number
    order, later ones in order of release. `order` is shorter than `indegree` exactly if there is a cycle.
    """
    left = list(indegree)
    order = array("I")
    bounds = array("I", (0,))
    frontier = [node for node, waits in enumerate(left) if not waits]
    while frontier:
        order.fromlist(frontier)
        bounds.append(len(order))
        following: list[int] = []
        release = following.append
        for node in frontier:
            for target in targets[offsets[node] : offsets[node + 1]]:
                waits = left[target] - 1
                left[target] = waits
                if not waits:
                    release(target)
        frontier = following
    return order, bounds


def longest_path_to_end(offsets: array[int], targets: array[int], order: Sequence[int]) -> array[int]:
    """For each node, the number of edges on the longest path from it to an end. `order`: topological."""
    depth = [0] * (len(offsets) - 1)
    for node in reversed(order):
        start, end = offsets[node], offsets[node + 1]
        if start != end:
            longest = 0
            for target in targets[start:end]:  # a loop: max() of two costs twice as much
                if depth[target] > longest:
                    longest = depth[target]
            depth[node] = longest + 1
    return array("I", depth)


def nearest(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """A hint such as "did you mean 'market'?", or `otherwise` if nothing in `known` is near."""
    # difflib is quadratic in the length and linear in the names: a huge graph gets no guess
    names = list(known)
    close = difflib.get_close_matches(name[:100], names[:20_000], n=1) if len(name) <= 200 else []
    if not close and "/" not in name:  # inside a phase the short name may have been meant
        close = [each for each in names[:20_000] if each.endswith(f"/{name}")][:1]
    return f"did you mean {close[0]!r}?" if close else otherwise


def _row_lengths(rows: Rows) -> array[int]:
    offsets = rows.offsets
    return array("I", map(int.__sub__, offsets[1:], offsets))


def _without_neighbours(ids: list[str], rows: Rows) -> list[str]:
    return [name for name, length in zip(ids, _row_lengths(rows), strict=True) if not length]


def _run_dry(frontier: list[int], left: list[int], done: bytearray, forward: Rows) -> None:
    """Kahn's algorithm from `frontier` on, until nothing more can be released."""
    stack = frontier[:]
    while stack:
        node = stack.pop()
        done[node] = 1
        for target in forward.of(node):
            left[target] -= 1
            if not left[target] and not done[target]:
                stack.append(target)


def _walk_back(start: int, done: bytearray, backward: Rows) -> list[int]:
    """A cycle among the nodes that are not done: each of them has a dependency that is not done either."""
    seen: dict[int, int] = {}
    path: list[int] = []
    node = start
    while node not in seen:
        seen[node] = len(path)
        path.append(node)
        node = next(other for other in backward.of(node) if not done[other])
    cycle = path[seen[node] :]
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]


def _heaviest(
    ids: list[str], order: Sequence[int], forward: Rows, weights: Mapping[str, float] | None
) -> tuple[list[float], list[int]]:
    """For each node the weight of the heaviest path from it to an end, and the next node on it (or -1)."""
    weigh: Callable[[str], float] = (
        (lambda _: 1.0) if weights is None else (lambda name: weights.get(name, 0.0))
    )
    total = [0.0] * len(ids)
    following = [-1] * len(ids)
    for node in reversed(order):
        best, best_node = 0.0, -1
        for other in forward.of(node):
            if best_node < 0 or total[other] > best:
                best, best_node = total[other], other
        total[node] = best + weigh(ids[node])
        following[node] = best_node
    return total, following

"""What imports what, and what nothing imports: the part that is the same for every language."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from repo_report.languages import language_of

__all__ = ["FAMILIES", "Graph", "Sources", "import_report"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "Python": ("Python",),
    "JavaScript": ("JavaScript", "TypeScript", "Vue", "Svelte"),
    "TypeScript": ("JavaScript", "TypeScript", "Vue", "Svelte"),
}
MAX_ROWS = 15
MAX_THIRD_PARTY = 80
_WORD = re.compile(r"[\w@./-]*\w")


@dataclass(slots=True)
class Sources:
    """The files of one language and its relatives, by path, and other files that may name them."""

    language: str
    texts: dict[str, str]
    tests: set[str]
    reported: set[str]
    mentions: Iterable[tuple[str, str]] = ()


@dataclass(slots=True)
class Graph:
    """What reading the imports gave, as paths; `third_party` maps a name to the files that import it."""

    edges: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # importer to imported
    at_load: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # those that run on import
    third_party: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    optional: set[str] = field(default_factory=set)  # third-party names that are imported inside a `try` only
    mentioned: set[str] = field(default_factory=set)  # named in a string or found by a loader
    entry_points: set[str] = field(default_factory=set)
    dynamic: set[str] = field(default_factory=set)  # files that import by a computed name
    unparsed: set[str] = field(default_factory=set)
    # how other files may call one
    names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def import_report(sources: Sources) -> dict[str, Any]:
    """Never imported, imported by tests only, most imported, cycles, third-party packages; top rows each."""
    from repo_report import imports_javascript, imports_python

    read = imports_python.read if sources.language == "Python" else imports_javascript.read
    graph = read(sources)
    importers: dict[str, set[str]] = defaultdict(set)
    for importer, targets in graph.edges.items():
        for target in targets - {importer}:
            importers[target].add(importer)
    candidates = sources.reported - sources.tests - graph.entry_points - graph.unparsed
    unused = {path for path in candidates if not importers[path]} - graph.mentioned
    unused -= _named_elsewhere(unused, graph.names, sources.mentions)
    only_tests = {
        path for path in candidates - graph.mentioned if importers[path] and importers[path] <= sources.tests
    }
    counts = Counter(
        {path: len(importers[path] - sources.tests) for path in sources.reported if importers[path]}
    )
    cycles = [cycle for cycle in _cycles(graph.at_load) if cycle[0] in sources.reported]
    return {
        "never_imported": _by_size(unused, sources.texts),
        "never_imported_count": len(unused),
        "only_tests": _by_size(only_tests, sources.texts),
        "only_tests_count": len(only_tests),
        "judged": len(candidates),
        "entry_points": len(graph.entry_points & sources.reported),
        "named_in_text": len((candidates & graph.mentioned) - set(importers)),
        "dynamic": sorted(graph.dynamic)[:MAX_ROWS],
        "dynamic_count": len(graph.dynamic),
        "unparsed": sorted(graph.unparsed)[:MAX_ROWS],
        "unparsed_count": len(graph.unparsed),
        "most_imported": [
            {"path": path, "by": number} for path, number in counts.most_common(10) if number > 1
        ],
        "cycles": [
            {"files": len(cycle), "loop": _shortest_loop(set(cycle), graph.at_load)[:10]}
            for cycle in cycles[:8]
        ],
        "cycles_count": len(cycles),
        **_third_party(graph, sources),
    }


def _named_elsewhere(
    unused: set[str], names: dict[str, set[str]], mentions: Iterable[tuple[str, str]]
) -> set[str]:
    """Those of `unused` that a configuration, script, page or notebook names."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for path in unused:
        for name in (path, path.rpartition("/")[2], *names.get(path, ())):
            wanted[name].add(path)
    found: set[str] = set()
    if wanted:
        for _, text in mentions:
            for word in set(_words(text)):
                found |= wanted.get(word, set())
    return found


def _words(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        word = match[0].removeprefix("./").removeprefix("/")
        yield word
        if "/" in word:
            yield word.rpartition("/")[2]


def _by_size(paths: set[str], texts: dict[str, str]) -> list[dict[str, Any]]:
    ordered = sorted(paths, key=lambda path: (-texts[path].count("\n"), path))
    rows = [{"path": path, "lines": texts[path].count("\n")} for path in ordered[:MAX_ROWS]]
    return rows


def _third_party(graph: Graph, sources: Sources) -> dict[str, Any]:
    others = set(FAMILIES) - {sources.language}  # their files are in their own report
    counted = {path for path in sources.texts if path in sources.reported or language_of(path) not in others}
    found = {name: own for name, paths in graph.third_party.items() if (own := paths & counted)}
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        "third_party": [
            {
                "name": name,
                "files": len(paths),
                "example": min(paths - sources.tests or paths),
                "tests_only": paths <= sources.tests,
                "optional": name in graph.optional,
            }
            for name, paths in ordered[:MAX_THIRD_PARTY]
        ],
        "third_party_left_out": max(0, len(ordered) - MAX_THIRD_PARTY),
    }


def _cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files that import each other, largest first: Tarjan's strongly connected components."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    found: list[list[str]] = []

    def enter(node: str) -> tuple[str, Iterator[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        return node, iter(sorted(edges.get(node, ())))

    for start in sorted(edges):
        work = [] if start in index else [enter(start)]
        while work:
            node, targets = work[-1]
            target = next(targets, None)
            if target is not None:
                if target not in index:
                    work.append(enter(target))
                elif target in on_stack:
                    low[node] = min(low[node], index[target])
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[node])
            if low[node] == index[node]:
                cut = stack.index(node)
                group, stack[cut:] = stack[cut:], []
                on_stack.difference_update(group)
                if len(group) > 1:
                    found.append(sorted(group))
    return sorted(found, key=lambda group: (-len(group), group))


def _shortest_loop(group: set[str], edges: dict[str, set[str]]) -> list[str]:
    """One way round, the shortest from any of the first fifty files: where to cut."""
    loops = [loop for start in sorted(group)[:50] if (loop := _loop_from(start, group, edges))]
    return min(loops, key=len, default=[])


def _loop_from(start: str, group: set[str], edges: dict[str, set[str]]) -> list[str]:
    before: dict[str, str] = {}
    queue = [start]
    for node in queue:
        for target in sorted(edges.get(node, set()) & group):
            if target == start:
                loop = [start]
                while node != start:
                    loop.append(node)
                    node = before[node]
                return [start, *reversed(loop[1:]), start]
            if target not in before:
                before[target] = node
                queue.append(target)
    return []

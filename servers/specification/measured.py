"""What code_quality measured, as research hands it over: hot spots, functions, repetitions; each place checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_actors.servers.corpus.sources import Sources

__all__ = ["ComplexFunction", "HotSpot", "Measured"]

_MOST = 100
_TEXT = 200


@dataclass(frozen=True, slots=True)
class HotSpot:
    """A file, by the sum of its functions' complexity and its commits. line: of its most complex function."""

    path: str
    line: int
    complexity: int
    commits: int | None
    worst_function: str
    worst_complexity: int


@dataclass(frozen=True, slots=True)
class ComplexFunction:
    """A function and its figures."""

    name: str
    path: str
    line: int
    lines: int
    complexity: int
    nesting: int


@dataclass(slots=True)
class Measured:
    """All that was measured, the worst first, as far as a digest left it. method: how, in the server's words."""

    hot_spots: list[HotSpot] = field(default_factory=list)
    functions: list[ComplexFunction] = field(default_factory=list)
    repetitions: list[list[str]] = field(default_factory=list)
    method: str = ""

    def take(self, result: Mapping[str, Any], sources: Sources) -> None:
        """Adds what `result` measured; a result of another kind has nothing of it."""
        self.hot_spots += _hot_spots(result, sources)
        found = [*self.functions, *_functions(result, sources)]
        self.functions = sorted(found, key=lambda each: -each.complexity)
        self.repetitions += _repetitions(result, sources)
        if self.hot_spots and isinstance(result.get("method"), str):
            self.method = result["method"][:600]

    def of(self, path: str) -> HotSpot | None:
        """The figures of a file."""
        return next((spot for spot in self.hot_spots if spot.path == path), None)


def _hot_spots(result: Mapping[str, Any], sources: Sources) -> Iterator[HotSpot]:
    for each, path, line in _placed(result.get("hot_spots"), sources):
        yield HotSpot(
            path,
            line,
            _count(each, "complexity"),
            _count(each, "commits") if each.get("commits") is not None else None,
            str(each.get("worst_function") or "")[:_TEXT],
            _count(each, "worst_complexity"),
        )


def _functions(result: Mapping[str, Any], sources: Sources) -> Iterator[ComplexFunction]:
    for each, path, line in _placed(result.get("complex_functions"), sources):
        name = str(each.get("name") or "")[:_TEXT]
        figures = (_count(each, part) for part in ("lines", "complexity", "nesting"))
        if name:
            yield ComplexFunction(name, path, line, *figures)


def _repetitions(result: Mapping[str, Any], sources: Sources) -> Iterator[list[str]]:
    for each in _mappings(result.get("repetitions")):
        listed = each.get("places")
        places = [place for place in (listed if isinstance(listed, list) else []) if _holds(place, sources)]
        if len(places) > 1:
            yield places[:_MOST]


def _holds(place: Any, sources: Sources) -> bool:
    path, _, line = place.rpartition(":") if isinstance(place, str) else ("", "", "")
    return line.isdecimal() and sources.holds(path, int(line))


def _placed(listed: Any, sources: Sources) -> Iterator[tuple[Mapping[str, Any], str, int]]:
    for each in _mappings(listed):
        path, line = each.get("file"), each.get("line")
        if isinstance(path, str) and type(line) is int and sources.holds(path, line):
            yield each, path, line


def _mappings(listed: Any) -> Iterator[Mapping[str, Any]]:
    yield from (
        each for each in (listed[:_MOST] if isinstance(listed, list) else []) if isinstance(each, Mapping)
    )


def _count(each: Mapping[str, Any], name: str) -> int:
    value = each.get(name)
    return value if type(value) is int and 0 <= value < 10**9 else 0

"""What research handed over, made safe to build on: whole or shortened, null or garbage, every place checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_actors.servers.corpus.sources import Sources
from sage_actors.servers.specification.measured import Measured

__all__ = ["Evidence", "Item", "gather"]

_MAX_TEXT = 4000
_MAX_ITEMS = 500
_MAX_RESULTS = 50


@dataclass(frozen=True, slots=True)
class Item:
    """One finding whose place exists. `score`: within its operation, 1 is that operation's best."""

    text: str
    kind: str
    source: str
    line: int | None
    score: float
    operation: str

    @property
    def place(self) -> str:
        """As it is cited."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(slots=True)
class Evidence:
    """items: best first. notes: what the operations said they did not determine. missing: handed over as null.

    unverified: findings left out because their place is not there or is out of range.
    """

    items: list[Item] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)
    missing: int = 0
    unverified: int = 0

    def of(self, *kinds: str) -> list[Item]:
        """The items of those kinds, best first."""
        return [item for item in self.items if item.kind in kinds]


def gather(research: Any, sources: Sources) -> Evidence:
    """The findings in `research` (a list of results, or one), each place once; nothing raises."""
    evidence = Evidence()
    results = research if isinstance(research, list) else [research]
    for result in results[:_MAX_RESULTS]:
        if not isinstance(result, Mapping):
            evidence.missing += 1
            continue
        _take(result, sources, evidence)
    best: dict[tuple[str, int | None], Item] = {}
    for item in sorted(evidence.items, key=lambda item: -item.score):
        best.setdefault((item.source, item.line), item)
    evidence.items = list(best.values())[:_MAX_ITEMS]
    return evidence


def _take(result: Mapping[str, Any], sources: Sources, evidence: Evidence) -> None:
    operation = _text(result.get("operation")) or "research"
    evidence.operations.append(operation)
    evidence.measured.take(result, sources)
    evidence.notes += [_text(note) for note in _list(result.get("notes")) if _text(note)]
    found = [finding for finding in _list(result.get("findings")) if isinstance(finding, Mapping)]
    highest = max((_score(finding) for finding in found), default=0.0) or 1.0
    for finding in found[:_MAX_ITEMS]:
        items = list(_items(finding, operation, highest, sources))
        evidence.items += items
        evidence.unverified += not items


def _items(finding: Mapping[str, Any], operation: str, highest: float, sources: Sources) -> Iterator[Item]:
    citation = finding.get("citation")
    text = _text(finding.get("text"))
    if not isinstance(citation, Mapping) or not text:
        return
    source, line = citation.get("source"), citation.get("line")
    numbered = line is None or (isinstance(line, int) and not isinstance(line, bool))
    if isinstance(source, str) and numbered and sources.holds(source, line):
        kind = _text(finding.get("kind")) or "documentation"
        yield Item(text, kind, source, line, max(0.0, _score(finding) / highest), operation)


def _score(finding: Mapping[str, Any]) -> float:
    score = finding.get("score")
    return float(score) if isinstance(score, int | float) and -1e9 < score < 1e9 else 0.0


def _text(value: Any) -> str:
    return value.strip()[:_MAX_TEXT] if isinstance(value, str) else ""


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []

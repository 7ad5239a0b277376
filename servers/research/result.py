"""From what was found to what is said: the budget, the citations, and what was looked at without result."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from sage_actors.messages.findings import Citation, Finding, ResearchResult, TokenCount
from sage_actors.messages.passages import Passage
from sage_actors.messages.ranking import Ranked, select
from sage_actors.servers.corpus.corpus import Corpus
from sage_actors.servers.corpus.relevance import Found, Query, stems

__all__ = ["Evidence", "Limits", "found_evidence", "looked_at", "result_of", "scaled"]

_TITLE_CHARS = 120
_FOCUS = 0.6  # of what a list covers of the topic, for one item to stand for it
_ITEM = re.compile(r"^\s{0,3}(?:[-*+]|\d{1,3}[.)])\s", re.MULTILINE)
_TOPIC_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of what was found is kept. threshold: share of the best score below which nothing is."""

    top: int = 5
    max_bytes: int = 8000
    per_source: int = 2
    threshold: float = 0.25


@dataclass(frozen=True, slots=True)
class Evidence:
    """A finding before it is chosen. Text and citation are as they will be shown."""

    text: str
    kind: str
    source: str
    line: int | None
    score: float


@dataclass(slots=True)
class _Sizes:
    raw: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def count(self) -> TokenCount:
        return TokenCount.of("\n".join(self.raw), "\n".join(self.kept))


def found_evidence(found: Iterable[Found], topic: str) -> list[Evidence]:
    """The passages as evidence: with the heading or the definition that they stand in, where they do not show it.

    Of a list in a document only the items that are on the topic.
    """
    query = Query(topic)
    return [_evidence(_focused(hit, query)) for hit in found]


def _evidence(hit: Found) -> Evidence:
    passage = hit.piece.passage
    return Evidence(_shown(hit), passage.kind, passage.source, passage.line, hit.score)


def _focused(hit: Found, query: Query) -> Found:
    """The one item that covers nearly what its whole passage covers of the topic, if there is one."""
    passage = hit.piece.passage
    starts = [match.start() for match in _ITEM.finditer(passage.text)]
    if passage.kind not in ("documentation", "history") or len(starts) < 3 or passage.line is None:
        return hit
    items = [(at, passage.text[at:end]) for at, end in pairwise([*starts, len(passage.text)])]
    at, best = max(items, key=lambda item: query.covered(stems(item[1])))
    if query.covered(stems(best)) < _FOCUS * query.covered(stems(passage.text)):
        return hit
    line = passage.line + passage.text.count("\n", 0, at)
    return replace(hit, piece=replace(hit.piece, passage=replace(passage, text=best.rstrip(), line=line)))


def result_of(
    operation: str,
    topic: str,
    evidence: Sequence[Evidence],
    limits: Limits,
    *,
    notes: Iterable[str] = (),
    summary: str = "",
) -> ResearchResult:
    """The best of `evidence` within the limits. Without any: no findings, level `none`."""
    ordered = sorted(evidence, key=lambda each: (-round(each.score, 2), each.source, each.line or 0))
    kept = _chosen(ordered, limits)
    sizes = _Sizes([each.text for each in ordered], [each.text for each in kept])
    findings = [_finding(each) for each in kept]
    return ResearchResult(
        operation=operation,
        topic=topic[:_TOPIC_CHARS],
        summary=summary if findings else "",
        findings=findings,
        citations=list(dict.fromkeys(str(finding.citation) for finding in findings)),
        provenance="local",
        evidence_level="cited" if findings else "none",
        tokens=sizes.count(),
        notes=list(notes),
    )


def looked_at(corpus: Corpus, topic: str, kinds: Sequence[str]) -> str:
    """What a search that found nothing went through."""
    sizes = ", ".join(f"{corpus.sizes.get(kind, 0)} {kind}" for kind in kinds)
    words = ", ".join(Query(topic).wanted) or "no words that could be looked for"
    return f"nothing on the topic among the passages that were looked at ({sizes}); looked for: {words}"


def _chosen(ordered: Sequence[Evidence], limits: Limits) -> list[Evidence]:
    passages = [Passage(e.text, e.source, e.line, e.kind) for e in ordered]
    by_passage = dict(zip(map(id, passages), ordered, strict=True))
    ranked = [Ranked(passage, e.score) for passage, e in zip(passages, ordered, strict=True)]
    kept = select(
        ranked,
        max_bytes=limits.max_bytes,
        top=limits.top,
        per_source=limits.per_source,
        threshold=limits.threshold,
    )
    return [by_passage[id(each.passage)] for each in kept]


def _finding(evidence: Evidence) -> Finding:
    citation = Citation(source=evidence.source, line=evidence.line)
    return Finding(text=evidence.text, kind=evidence.kind, citation=citation, score=round(evidence.score, 3))


def _shown(hit: Found) -> str:
    piece = hit.piece
    text, title = piece.passage.text.rstrip(), piece.title[:_TITLE_CHARS]
    if not title or (piece.passage.kind in ("history", "dependency") and title in text):
        return text
    if piece.passage.kind in ("code", "test"):
        return f"{title} ({'definition' if piece.defines else 'inside'}):\n{text}"
    return text if title in text else f"[{title}] {text}"


def scaled(found: Iterable[Found], factors: dict[str, float]) -> list[Found]:
    """`found` with scores multiplied by the factor of their kind (1 where there is none)."""
    return [replace(hit, score=hit.score * factors.get(hit.piece.passage.kind, 1.0)) for hit in found]

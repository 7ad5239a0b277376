"""Research in the project itself: what it already says on a topic, with the place of every word.

Nothing is asked of a network or a model. Where the project says nothing, the result says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sage_actors.messages.findings import ResearchResult
from sage_actors.messages.passages import Passage, split_passages
from sage_actors.messages.ranking import PassageIndex
from sage_actors.messages.units import counted
from sage_actors.servers.corpus.code import Piece
from sage_actors.servers.corpus.corpus import Corpus, corpus_of
from sage_actors.servers.corpus.relevance import Found, Query, first_scores, weigh
from sage_actors.servers.research.result import (
    Limits,
    found_evidence,
    looked_at,
    result_of,
    scaled,
)
from sage_actors.servers.skills.discovery import OWN_SKILL, discover_skills

__all__ = ["best_practices", "competitive_analysis", "market_research"]

_LOCAL = "local evidence only: what this project says itself; no market, no user and no website was asked"
_SKILL_FACTOR = 3.0  # a skill was written to be followed
_DEMAND = re.compile(
    r"feature request|would be (nice|great|useful|helpful)|\bwish|not (yet )?(supported|implemented|possible)"
    r"|unsupported|planned|roadmap|limitation|known issue|users? (want|need|ask|report)|requested|work-?around"
    r"|in the future|proposal|closes? #\d+|fix(es|ed)? #\d+|\bissues?/\d+|\bTODO\b|\bFIXME\b",
    re.I,
)
_RIVALRY = re.compile(
    r"\balternatives?\b|\binstead of\b|\bcompared (to|with)\b|\bunlike\b|\bversus\b|\bvs\.?\s|\bsimilar to\b"
    r"|\binspired by\b|\bmigrat(e|ing|ion) from\b|\breplaces?\b",
    re.I,
)
_GUIDANCE = re.compile(
    r"(contributing|agents|claude|security|standards?|style|conventions?"
    r"|guidelines?|guides?|best.?practices?|recommendations?|architecture|design|decisions?|adr|howto|how-to|testing|development)",
    re.I,
)
_ADVICE = re.compile(
    r"\b(should|must|never|always|avoid|prefer|recommend\w*|do not|don't|make sure|best practice|important)\b",
    re.I,
)


def market_research(project: Path, topic: str, limits: Limits) -> ResearchResult:
    """Signs of demand: open notes and items, commits and changelog entries, documents that mention the topic."""
    corpus = corpus_of(project)
    kinds = ("todo", "history", "documentation")
    found = scaled(corpus.search(topic, kinds=kinds), {"todo": 1.3, "documentation": 0.8})
    found = _raised(found, _DEMAND, 1.4)
    what = _by_kind(
        found,
        todo=("open note", "open notes"),
        history=("commit or changelog entry", "commits and changelog entries"),
        documentation=("passage", "passages"),
    )
    return _result(
        "market_research",
        topic,
        corpus,
        found,
        kinds,
        limits,
        f"Signs of demand in the project: {what}.",
        [_LOCAL],
    )


def competitive_analysis(project: Path, topic: str, limits: Limits) -> ResearchResult:
    """What among declared and installed dependencies is on the topic, and where documents compare."""
    corpus = corpus_of(project)
    packages = corpus.search(topic, kinds=("dependency",))
    compared = [
        hit
        for hit in corpus.search(topic, kinds=("documentation",))
        if _RIVALRY.search(hit.piece.passage.text)
    ]
    found = packages + [replace(hit, score=hit.score * 0.7) for hit in compared]
    declared = sum(1 for package in corpus.packages if package.path)
    notes = [
        f"looked at: {declared} declared and {len(corpus.packages) - declared} other installed packages;"
        " no registry was asked, so that packages that are not installed are not known"
    ]
    known = counted(len(corpus.packages), "known package")
    what = f"{len(packages)} of {known} {'is' if len(packages) == 1 else 'are'} on the topic"
    summary = f"{what}, {counted(len(compared), 'passage compares', 'passages compare')} something."
    return _result(
        "competitive_analysis", topic, corpus, found, ("dependency", "documentation"), limits, summary, notes
    )


def best_practices(project: Path, topic: str, limits: Limits) -> ResearchResult:
    """Skills that fit, and what standards, guides and documents of the project advise."""
    corpus = corpus_of(project)
    kinds = ("documentation", "code", "configuration")
    found = scaled(corpus.search(topic, kinds=kinds), {"code": 0.55, "configuration": 0.4})
    found = _raised(found, _ADVICE, 1.25)
    found = [
        replace(hit, score=hit.score * 1.3) if _GUIDANCE.search(hit.piece.passage.source) else hit
        for hit in found
    ]
    skills = scaled(_skills(project, topic), {"skill": _SKILL_FACTOR})
    notes = [] if skills else ["no skill of the project or its user fits the topic"]
    if not any(file.path.lower().rpartition("/")[2].startswith("contributing") for file, _ in corpus.files):
        notes.append("the project has no CONTRIBUTING file")
    what = _by_kind(
        found,
        documentation=("passage of documents", "passages of documents"),
        code=("definition or comment", "definitions and comments"),
    )
    summary = f"{counted(len(skills), 'skill fits', 'skills fit')}; {what} on the topic."
    return _result("best_practices", topic, corpus, skills + found, kinds, limits, summary, notes)


def _result(
    operation: str,
    topic: str,
    corpus: Corpus,
    found: list[Found],
    kinds: tuple[str, ...],
    limits: Limits,
    summary: str,
    notes: Iterable[str],
) -> ResearchResult:
    evidence = found_evidence(found, topic)
    missing = [] if evidence else [looked_at(corpus, topic, kinds)]
    return result_of(
        operation, topic, evidence, limits, summary=summary, notes=[*notes, *missing, *corpus.notes]
    )


def _raised(found: list[Found], pattern: re.Pattern[str], factor: float) -> list[Found]:
    return [
        replace(hit, score=hit.score * factor) if pattern.search(hit.piece.passage.text) else hit
        for hit in found
    ]


def _by_kind(found: list[Found], **names: tuple[str, str]) -> str:
    """How many of each kind were found; `names`: what one and what many of a kind are called."""
    counts = Counter(hit.piece.passage.kind for hit in found)
    parts = [counted(counts[kind], one, many) for kind, (one, many) in names.items() if counts[kind]]
    return ", ".join(parts) or "nothing"


def _skills(project: Path, topic: str) -> list[Found]:
    """Every skill's instructions in passages; those that fit the topic, cited by the skill's file."""
    pieces: list[Piece] = []
    for skill in discover_skills(project):
        if skill.name == OWN_SKILL:
            continue
        try:
            text = skill.path.read_text("utf-8", "replace")
        except OSError:
            continue
        source = skill.place or str(skill.path)
        for passage in split_passages(text, source, kind="skill", weight=1.2):
            pieces.append(Piece(passage, skill.name, extra=skill.description))
    return _searched(pieces, topic)


def _searched(pieces: list[Piece], topic: str) -> list[Found]:
    query = Query(topic)
    searchable = {}
    for piece in pieces:
        passage = piece.passage
        text = f"{passage.text}\n{piece.title}\n{piece.extra}"
        searchable[Passage(text, passage.source, passage.line, passage.kind, passage.weight)] = piece
    ranked = PassageIndex(list(searchable)).search(query.searched, limit=200)
    return weigh(query, first_scores((searchable[each.passage], each) for each in ranked))

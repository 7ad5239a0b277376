"""Where a change would go: the places of the project that speak for themselves, ranked, each with its reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sage_actors.servers.corpus.project_facts import Fact
from sage_actors.servers.corpus.sources import Symbol
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.survey import Candidate
from sage_actors.servers.specification.tests import TestFile, find_tests, is_common
from sage_actors.servers.specification.topic import SURFACE_WORDS

__all__ = ["Spot", "doc_files", "near", "spots"]

_NEAR = 8
_HOOKS = 4
_SURFACE = 5
_FLOOR = 0.45  # of the best score


@dataclass(slots=True)
class Spot:
    """A definition where work would begin. `role`: near the topic, a way to extend, or of the public surface."""

    symbol: Symbol
    role: str
    reasons: list[str] = field(default_factory=list)
    tests: list[TestFile] = field(default_factory=list)


def near(study: Study) -> list[Candidate]:
    """Definitions near the topic. The strongest alone decide: what has a rare word of it keeps others out."""
    candidates = study.survey.candidates
    if not candidates:
        return []
    floor = _FLOOR * candidates[0].score
    kept: list[Candidate] = []
    for candidate in candidates:
        same_file = sum(other.symbol.path == candidate.symbol.path for other in kept)
        same_name = sum(other.symbol.short_name == candidate.symbol.short_name for other in kept)
        if candidate.score >= floor and same_file < 4 and same_name < 2:
            kept.append(candidate)
    return _told_once(study, kept[:_NEAR] + _of_the_place(study, kept))


def _told_once(study: Study, candidates: list[Candidate]) -> list[Candidate]:
    """Of overloads, or of a property and its setter, the one that says what it does, else the first."""
    kept: dict[tuple[str, str], Candidate] = {}
    for candidate in candidates:
        key = (candidate.symbol.path, candidate.symbol.name)
        known = kept.setdefault(key, candidate)
        if study.survey.doc_of(known.symbol) is None and study.survey.doc_of(candidate.symbol) is not None:
            kept[key] = candidate
    return list(kept.values())


def _of_the_place(study: Study, kept: list[Candidate]) -> list[Candidate]:
    """The best definitions of the place that the topic names, where the thing's words pushed them all out."""
    if not study.topic.place_stems or any(candidate.in_place for candidate in kept):
        return []
    there = [candidate for candidate in study.survey.candidates if candidate.in_place][:3]
    return [candidate for candidate in there if candidate.score >= _FLOOR * there[0].score]


def spots(study: Study) -> list[Spot]:
    """The places to begin, the strongest first, each definition once."""
    found: dict[tuple[str, int], Spot] = {}
    for candidate in likely(study)[:4]:
        _join(found, candidate.symbol, "near the topic", candidate.reasons)
    hooks = study.survey.in_place(study.survey.extension_points) if hooks_matter(study) else []
    for symbol in hooks[:_HOOKS]:
        _join(found, symbol, "a way to extend the project", [_mentions(study, symbol)])
    if names_the_surface(study):
        for symbol in study.survey.in_place(study.survey.surface)[:_SURFACE]:
            _join(found, symbol, "public surface", [_mentions(study, symbol)])
    for spot in found.values():
        spot.tests = find_tests(spot.symbol.path, study.sources, study.survey.words, spot.symbol)
    return list(found.values())


def hooks_matter(study: Study) -> bool:
    """Whether the ways to extend the project are of interest: not where the topic itself leads to definitions, or
    names nothing."""
    if study.kind == "feature" and not study.topic.stems:
        return False
    return names_the_surface(study) or not _of_the_thing(study)


def likely(study: Study) -> list[Candidate]:
    """Those near the topic at which work would begin: research says so, or they have the words of the thing.

    One word of several says too little: a body limit has nothing to do with rate limiting. But what bears the last
    one alone as its name is the thing itself, in general: a `Timeout` for timeouts per route. Where nothing is, what
    stands in the place that the topic names.
    """
    return _of_the_thing(study) or [candidate for candidate in _outer(study) if candidate.in_place]


def _of_the_thing(study: Study) -> list[Candidate]:
    enough = min(2, len(study.topic.thing_stems))
    return [
        each
        for each in _outer(study)
        if each.by_research or (enough and each.shared >= enough) or _is_the_thing(study, each.symbol)
    ]


def _outer(study: Study) -> list[Candidate]:
    return [candidate for candidate in near(study) if not study.survey.is_inner(candidate.symbol)]


def _is_the_thing(study: Study, symbol: Symbol) -> bool:
    *_, last = study.topic.thing_stems or ("",)
    is_free = "." not in symbol.name and study.survey.is_public(symbol)
    return is_free and study.survey.words.stems(symbol.name) == {last}


def names_the_surface(study: Study) -> bool:
    """Whether the topic speaks of what users of the project see."""
    return bool(SURFACE_WORDS.intersection(study.topic.stems))


def _join(found: dict[tuple[str, int], Spot], symbol: Symbol, role: str, reasons: list[str]) -> None:
    spot = found.setdefault((symbol.path, symbol.line), Spot(symbol, role))
    spot.reasons += [reason for reason in reasons if reason not in spot.reasons]


def _mentions(study: Study, symbol: Symbol) -> str:
    words = study.survey.words
    code = words.mentions(symbol.short_name, "code") - 1
    tests = words.mentions(symbol.short_name, "test")
    docs = words.mentions(symbol.short_name, "documentation")
    counted = ((code, "in other code"), (tests, "in tests"), (docs, "in documentation"))
    parts = [f"{count}× {where}" for count, where in counted if count > 0]
    return "its name stands " + ", ".join(parts) if parts else "its name stands nowhere else"


def doc_files(study: Study, symbols: list[Symbol]) -> list[Fact]:
    """Documentation that names these definitions: where a change of them has to be written down."""
    counts: dict[str, list[tuple[str, int]]] = {}
    for name in dict.fromkeys(symbol.short_name for symbol in symbols):
        if len(name) < 4 or name.startswith("_"):
            continue
        there = study.survey.words.files_with(name, "documentation")
        for path in [path for path in there if not study.is_elsewhere(path) and not _tells_of_changes(path)][
            :5
        ]:
            if (line := _shown_at(study, name, path)) is not None:
                counts.setdefault(path, []).append((name, line))
    ranked = sorted(counts.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [Fact(named[0][0], path, named[0][1]) for path, named in ranked[:3]]


def _tells_of_changes(path: str) -> bool:
    """What is told there is over: how to come from an old version to a newer one."""
    return re.search(r"(^|[/_-])(upgrad|migrat)", path.lower()) is not None


def _shown_at(study: Study, name: str, path: str) -> int | None:
    """The first line that has the name; of a common word the first that has it as code."""
    if not is_common(name):
        return study.survey.words.first_line(name, path)
    as_code = re.compile(rf"[`.:]{re.escape(name)}\b|\b{re.escape(name)}\(")
    return next((n for n, line in enumerate(study.sources.lines(path), 1) if as_code.search(line)), None)

"""The specification of a feature: what there is, where it would go, what holds, and what is still to be said."""

from __future__ import annotations

from sage_actors.servers.specification import background, sections
from sage_actors.servers.specification.markdown import Document, code, plain, unmarked
from sage_actors.servers.specification.places import Spot, spots
from sage_actors.servers.specification.requirements import (
    Requirements,
    feature_requirements,
    project_requirements,
)
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.topic import SURFACE_WORDS

__all__ = ["questions", "write_feature"]


def write_feature(study: Study, document: Document) -> tuple[Requirements, list[Spot], list[str]]:
    """All sections of the document; the requirements, the places and the questions in it."""
    found = spots(study)
    into = Requirements(document)
    document.add(f"# Specification: {plain(study.topic.text, 120)}")
    document.heading("Summary")
    document.bullet(f"**Asked for:** {plain(study.topic.text)}")
    sections.project_line(study, document)
    sections.presence(study, document)
    _begin(study, document, found)
    sections.existing(study, document)
    sections.where(study, document, found)
    sections.constraints(study, document)
    feature_requirements(study, found, into)
    project_requirements(study, found, into)
    sections.requirements(into.listed, document)
    background.alternatives(study, document)
    background.history(study, document)
    asked = questions(study, document, found)
    sections.open_questions(asked, document)
    sections.evidence_table(document)
    return into, found, asked


def _begin(study: Study, document: Document, found: list[Spot]) -> None:
    if found:
        first: dict[str, Spot] = {}
        for spot in [spot for spot in found if spot.role != "public surface"] or found:
            first.setdefault(spot.role, spot)
        shown = ", ".join(f"{code(s.symbol.name)} ({document.at_place(s.symbol)})" for s in first.values())
        document.bullet(f"**Where to begin reading:** {shown}.")


def questions(study: Study, document: Document, found: list[Spot]) -> list[str]:
    """What the evidence leaves open, each with the reason why."""
    has_code = bool(study.sources.files("code"))
    asked = _placing(document, found)
    if study.kind == "feature":
        asked = [*_offered(study, document), *_meaning(study), *asked, *_running(study, document)]
        asked += _configuring(study, document) if has_code else []
    if study.test_check is None and has_code:
        asked.append("How is it tested? No test command was found in the project's files.")
    untested = [spot for spot in found[:4] if not spot.tests and len(spot.symbol.short_name) > 3]
    if untested and study.test_check is not None:
        shown = ", ".join(f"{code(spot.symbol.name)} ({document.at_place(spot.symbol)})" for spot in untested)
        asked.append(f"What covers {shown}? No test file was found by name or by mention.")
    if study.evidence.missing:
        asked.append(
            f"{study.evidence.missing} of the research operations gave no result;"
            " what they would have found is not in here."
        )
    return asked


def _offered(study: Study, document: Document) -> list[str]:
    """What the documentation sends users to already."""
    said = [study.survey.sentence(hit) for hit in background.offered(study)[:3]]
    return [
        f"Does this not do it already: “{plain(unmarked(hit.text), 200)}” ({document.at(hit.path, hit.line)})?"
        for hit in said
        if hit is not None
    ][:1]


def _meaning(study: Study) -> list[str]:
    topic, asked = study.topic, list[str]()
    if not topic.stems:
        return [
            f"What is to be made? “{plain(topic.text, 120)}” names no thing: with a few words on what it is, and"
            " where, the research and this document begin to say something."
        ]
    if topic.thing_stems and not study.survey.whole("code", "documentation", "test"):
        asked.append(
            f"What exactly is “{plain(topic.thing)}” to do here: its limits, defaults,"
            " and what a user sees when it acts?"
            " Nothing in the project says: its words stand together nowhere."
        )
    clear = SURFACE_WORDS if study.survey.surface else frozenset[str]()  # those definitions are what it means
    unknown = [
        part
        for part in (topic.place_stems if study.sources.files("code") else ())
        if part not in clear and not any(part in hit.stems for hit in study.survey.hits if hit.kind == "code")
    ]
    if topic.place and unknown:
        words = ", ".join(f"“{plain(word)}”" for word in topic.words_of(unknown))
        known = len(unknown) < len(
            topic.place_stems
        )  # then the words themselves are the question, not the phrase
        meant = words if known else f"“{plain(topic.place)}”"
        asked.append(
            f"What is meant by {meant}? No line of code has {'it' if known and len(unknown) == 1 else words}."
        )
    return asked


def _placing(document: Document, found: list[Spot]) -> list[str]:
    """Where the files name several places: which one fits is a decision that no count can take."""
    hooks = [spot for spot in found if spot.role.startswith("a way")]
    close = [spot for spot in found if spot.role == "near the topic"]
    if hooks and close:
        a, b = hooks[0].symbol, close[0].symbol
        return [
            f"At {code(a.name)} ({document.at_place(a)}), around the code, or in {code(b.name)}"
            f" ({document.at_place(b)}), inside it? The files name both; which one fits is a decision."
        ]
    if len(hooks or close) > 1:
        shown = ", ".join(
            f"{code(spot.symbol.name)} ({document.at_place(spot.symbol)})" for spot in (hooks or close)[:3]
        )
        why = "The topic does not say." if hooks else "The words of the topic lead to each."
        return [f"Which of these is the place, or which of them are: {shown}? {why}"]
    return []


def _running(study: Study, document: Document) -> list[str]:
    """Whether both ways of calling have to be served, where the public definitions have both."""
    public = [symbol for symbol in study.sources.symbols if study.survey.is_public(symbol)]
    waiting = [
        s
        for s in public
        if s.signature.startswith(("async def", "async function", "export async", "pub async fn"))
    ]
    plain_ones = [s for s in public if s.signature.startswith(("def ", "function ", "pub fn "))]
    if min(len(waiting), len(plain_ones)) * 20 < len(public) or not waiting:
        return []
    return [
        f"For asynchronous callers, synchronous ones, or both? {len(waiting)} public functions are asynchronous,"
        " such as"
        f" {document.at_place(waiting[0])}, and {len(plain_ones)} are not, such as {document.at_place(plain_ones[0])}."
    ]


def _configuring(study: Study, document: Document) -> list[str]:
    settings = study.settings
    if not settings and study.environment_reads:
        place = document.at_place(study.environment_reads[0])
        return [
            f"How is it configured: by arguments, or by the environment, as {place} is? No settings type was found."
        ]
    return []

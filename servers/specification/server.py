"""The server sage-specification: what is asked for, as a document that cites the project."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.to_thread
from mcp.server import MCPServer
from mcp_types import CallToolResult
from pydantic import Field

from sage_actors.messages.backend import TokenUsage
from sage_actors.messages.findings import EvidenceLevel, TokenCount
from sage_actors.servers.documents.documents import write_document
from sage_actors.servers.documents.drafting import Drafted, SpecificationDraft, ask, cleaned
from sage_actors.servers.documents.slugs import choose_slug
from sage_actors.servers.documents.tools import WRITES, answer, tool_errors
from sage_actors.servers.sage_server import SageServer
from sage_actors.servers.settings import ServerSettings
from sage_actors.servers.specification import sections
from sage_actors.servers.specification.bugfix import write_bugfix
from sage_actors.servers.specification.enhancement import write_enhancement
from sage_actors.servers.specification.feature import write_feature
from sage_actors.servers.specification.markdown import Document, plain
from sage_actors.servers.specification.models import Section, SpecificationResult, TouchedPlace
from sage_actors.servers.specification.places import Spot
from sage_actors.servers.specification.requirements import Requirements
from sage_actors.servers.specification.study import Kind, Study

__all__ = ["create_server", "create_specification"]

_INSTRUCTIONS = (
    "Writes docs/specs/<slug>/spec.md for a topic: what the project has of it, where it would go, requirements and"
    " open questions, every claim with its file:line. Without a model nothing is invented:"
    " a section without evidence says so."
)
_WRITERS: dict[Kind, Callable[[Study, Document], tuple[Requirements, list[Spot], list[str]]]] = {
    "feature": write_feature,
    "bugfix": write_bugfix,
    "enhancement": write_enhancement,
}
_DRAFT = (
    "Draft the design of this {kind} for the project: {topic!r}. Sections: the behaviour that users see, the design in"
    " terms of the code that is there, and the alternatives weighed. Add requirements that can be tested."
)


def create_server(settings: ServerSettings) -> MCPServer:
    """The server, for `settings.project` only."""
    server = SageServer("sage-specification", instructions=_INSTRUCTIONS)

    @server.tool(annotations=WRITES)
    async def specification_create(
        topic: Annotated[str, Field(min_length=1, max_length=100_000)],
        slug: str | None = None,
        kind: Kind = "feature",
        research: Any = None,
        patterns: Any = None,
        skills: Any = None,
        output: str | None = None,
    ) -> Annotated[CallToolResult, SpecificationResult]:
        """Writes the specification of a feature, a bug's fix or an enhancement into the project.

        topic: what is wanted, such as "rate limiting for the public API"; for a bugfix the error text, the
        traceback or the failing test's output. research: results of sage-research; patterns: of relevant_patterns;
        skills: of skills_search; each may be null or shortened. output: a path in the project instead of
        docs/specs/<slug>/spec.md. A version that a person changed, and one
        of another topic or kind, is kept beside it. The same project and
        arguments give the same document. Runs no code of the project.
        """
        with tool_errors():
            result, usage = await create_specification(
                settings,
                topic,
                slug=slug,
                kind=kind,
                research=research,
                patterns=patterns,
                skills=skills,
                output=output,
            )
        return answer(result, usage)

    return server


async def create_specification(
    settings: ServerSettings,
    topic: str,
    *,
    slug: str | None = None,
    kind: Kind = "feature",
    research: Any = None,
    patterns: Any = None,
    skills: Any = None,
    output: str | None = None,
) -> tuple[SpecificationResult, TokenUsage | None]:
    """What the tool does; the usage of the backend where one was asked.

    Raises:
        UsageError: `output` or `slug` is no place in the project.
        StorageError: the document cannot be written.
        ValueError: `slug` is malformed.
    """
    name = choose_slug(topic, slug)
    handed = json.dumps([research, patterns, skills], ensure_ascii=False, default=str)
    study = await anyio.to_thread.run_sync(
        lambda: Study(settings.project, topic, kind, research=research, patterns=patterns, skills=skills)
    )
    made = await anyio.to_thread.run_sync(_make, study, None)
    drafted = None
    if settings.backend is not None:
        drafted = await ask(
            settings.backend, _DRAFT.format(kind=kind, topic=topic[:500]), made.text, SpecificationDraft
        )
        if drafted.draft is not None:
            made = await anyio.to_thread.run_sync(_make, study, (drafted, settings.backend.name, made))
    written = await anyio.to_thread.run_sync(
        write_document, settings.project, output or f"docs/specs/{name}/spec.md", made.text
    )
    result = SpecificationResult(
        path=written.path,
        slug=name,
        kind=kind,
        document=written.state,
        backup=written.backup,
        sections=[Section(title=title, undetermined=why) for title, why in made.document.sections],
        requirements=made.requirements.listed,
        places=[_touched(spot) for spot in made.spots],
        open_questions=made.questions,
        citations=list(made.document.citations),
        provenance=made.provenance,
        evidence_level=made.level,
        tokens=TokenCount.of(handed, made.text),
        notes=[*written.notes, *_notes(study, drafted)],
    )
    return result, drafted.usage if drafted else None


@dataclass(slots=True)
class _Made:
    document: Document
    requirements: Requirements
    spots: list[Spot]
    questions: list[str]
    provenance: str
    level: EvidenceLevel
    text: str


def _make(study: Study, draft: tuple[Drafted, str, _Made] | None) -> _Made:
    """The document, with the draft's sections and requirements behind those of the evidence."""
    document = Document(study.sources)
    provenance = draft[1] if draft else "local"
    requirements, spots, asked = _WRITERS[study.kind](study, document)
    if draft:
        _add_draft(draft[0], draft[1], set(draft[2].document.citations), document, requirements, asked)
    level: EvidenceLevel = "inferred" if draft else ("cited" if document.citations else "none")
    head = Document(study.sources)
    sections.front_matter(study, head, provenance, level)
    return _Made(
        document, requirements, spots, asked, provenance, level, head.text() + "\n" + document.text()
    )


def _add_draft(
    drafted: Drafted, name: str, known: set[str], document: Document, into: Requirements, asked: list[str]
) -> None:
    draft: SpecificationDraft = drafted.draft
    document.heading(f"Drafted by {plain(name)}")
    document.add("A model's words about the evidence above; to be read as a proposal.")
    for section in draft.sections:
        document.heading(plain(section.title), 3)
        document.add(cleaned(section.body, known, drafted))
    document.heading("Requirements drafted", 3)
    for one in draft.requirements:
        rests = [place for place in one.citations if place in known]
        drafted.removed += len(one.citations) - len(rests)
        acceptance = [cleaned(line, known, drafted) for line in one.acceptance]
        made = into.add(one.kind, cleaned(one.text, known, drafted), "proposed", rests, acceptance)
        document.bullet(
            f"**{made.id}** (proposed) {made.text}"
            + (f" ({', '.join(f'`{p}`' for p in rests)})" if rests else "")
        )
        for line in made.acceptance:
            document.bullet(f"Accepted when {line}.", 1)
    questions = [cleaned(question, known, drafted) for question in draft.open_questions]
    if questions:
        document.heading("Open questions drafted", 3)
        document.add(*(f"- {question}" for question in questions))
        asked += questions


def _touched(spot: Spot) -> TouchedPlace:
    symbol = spot.symbol
    reason = "; ".join([spot.role, *spot.reasons])
    return TouchedPlace(path=symbol.path, line=symbol.line, symbol=symbol.name, reason=reason)


def _notes(study: Study, drafted: Drafted | None) -> list[str]:
    evidence, notes = study.evidence, []
    if evidence.missing:
        notes.append(f"{evidence.missing} results of research were null or not readable")
    if evidence.unverified:
        notes.append(f"{evidence.unverified} findings were left out: their places are not in the project")
    notes += [f"research: {note}" for note in evidence.notes[:10]]
    notes += study.sources.repository.notes
    if drafted and drafted.note:
        notes.append(f"{drafted.note}; the document is from the evidence alone")
    if drafted and drafted.removed:
        notes.append(
            f"{drafted.removed} citations of the draft were removed: the evidence does not have them"
        )
    return notes

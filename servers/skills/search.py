"""Skills ranked by a topic, and what a step is told of them: the tool `skills_search` of sage-research.

A project has few skills, and rarities of words mean little among few texts. So a skill's score is the share of the
topic's words that it covers: those in its name, description, category or languages count whole, those in its
instructions half. BM25 decides between equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.messages.findings import EvidenceLevel, Provenance, TokenCount
from sage_actors.messages.passages import Passage, split_passages
from sage_actors.messages.ranking import PassageIndex, query_words
from sage_actors.servers.skills.discovery import OWN_SKILL, Skill, find_skills

__all__ = ["SkillFound", "SkillHit", "SkillsFound", "search_skills", "skills_search"]

_BODY_WEIGHT = 0.5
_LEAST_SCORE = 0.15  # a skill that shares one word in seven, in its instructions only, is not on the topic
_MOST_WORDS = 10  # of a topic: a traceback has many words, and a skill for it needs few of them
_EXCERPT_CHARS = 500


@dataclass(frozen=True, slots=True)
class SkillHit:
    """score: 0 to 1, the share of the topic that the skill covers. excerpt: its passage nearest to the topic."""

    skill: Skill
    score: float
    excerpt: str = ""
    line: int | None = None


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SkillFound(_Data):
    """A skill for the topic. `path`: its file, relative to the project, or `~/...` for one of the user's."""

    name: str
    description: str
    path: str
    origin: str = Field(description="project or user")
    score: float = Field(ge=0, le=1, description="the share of the topic that it covers")
    excerpt: str = Field("", description="the passage of its instructions that is nearest to the topic")
    scripts: list[str] = Field(default_factory=list, description="what it can execute, with consent")
    tools: list[str] = Field(default_factory=list, description="programs that it needs, such as git>=2.30")
    knowledge: list[str] = Field(
        default_factory=list, description="what it builds on: skills, or what to know"
    )


class SkillsFound(_Data):
    """The skills for a topic, best first. `notes`: what was left out, and why."""

    operation: str = "skills_search"
    topic: str
    skills: list[SkillFound]
    citations: list[str] = Field(description="the files of the skills, as file:line")
    provenance: Provenance = "local"
    evidence_level: EvidenceLevel
    tokens: TokenCount
    notes: list[str] = Field(default_factory=list)


def search_skills(skills: Sequence[Skill], topic: str, top: int | None = 5) -> list[SkillHit]:
    """Those of `skills` that are on the topic, best first, `top` at most (None: all)."""
    words = query_words(topic)
    heads = [Passage(_head(skill), str(at)) for at, skill in enumerate(skills)]
    bodies = [passage for at, skill in enumerate(skills) for passage in _body(skill, str(at))]
    if not words or not heads:
        return []
    index = PassageIndex([*heads, *bodies])
    head_words = _words_of(PassageIndex(heads), words)
    body_words = _words_of(PassageIndex(bodies), words) if bodies else {}
    nearness: dict[str, tuple[float, Passage | None]] = {}
    for ranked in index.search(topic):
        score, passage = nearness.get(ranked.passage.source, (0.0, None))
        is_body = ranked.passage.line is not None
        nearness[ranked.passage.source] = (
            score + ranked.score,
            ranked.passage if passage is None and is_body else passage,
        )
    hits = []
    for at, skill in enumerate(skills):
        own = str(at)
        in_head = head_words.get(own, set())
        share = (len(in_head) + _BODY_WEIGHT * len(body_words.get(own, set()) - in_head)) / min(
            len(words), _MOST_WORDS
        )
        if share >= _LEAST_SCORE:
            near, passage = nearness.get(own, (0.0, None))
            text = passage.text[:_EXCERPT_CHARS] if passage else ""
            hits.append(
                (
                    share,
                    near,
                    SkillHit(skill, round(min(1.0, share), 3), text, passage.line if passage else None),
                )
            )
    hits.sort(key=lambda each: (-each[0], -each[1]))
    return [hit for *_, hit in hits][:top]


def skills_search(project: Path, topic: str, top: int = 5, *, home: Path | None = None) -> SkillsFound:
    """The skills of `project` and its user for `topic`, as a step of a workflow is given them."""
    found = find_skills(project, home)
    hits = search_skills([skill for skill in found.skills if skill.name != OWN_SKILL], topic, top)
    raw = "\n".join(f"{_head(skill)}\n{_instructions(skill)}" for skill in found.skills)
    notes = list(found.warnings)  # of skills that are used, too
    if not hits:
        notes.insert(
            0,
            f"none of the {len(found.skills)} skills is on the topic"
            if found.skills
            else "there are no skills",
        )
    skills = [_found(hit) for hit in hits]
    return SkillsFound(
        topic=topic,
        skills=skills,
        citations=[_citation(hit) for hit in hits],
        evidence_level="cited" if hits else "none",
        tokens=_count(raw, skills),
        notes=notes,
    )


def _head(skill: Skill) -> str:
    return "\n".join((skill.name, skill.description, skill.category, " ".join(skill.languages)))


def _body(skill: Skill, source: str) -> list[Passage]:
    try:
        text, line = skill.read_from()
    except OSError:  # removed since it was found
        return []
    return split_passages(text, source, kind="skill", first_line=line)


def _words_of(index: PassageIndex, words: Sequence[str]) -> dict[str, set[str]]:
    """By source: which of `words` stand in it, in any form that the index takes for the same word."""
    found: dict[str, set[str]] = {}
    for word in words:
        for ranked in index.search(word, limit=100_000):
            found.setdefault(ranked.passage.source, set()).add(word)
    return found


def _found(hit: SkillHit) -> SkillFound:
    skill = hit.skill
    return SkillFound(
        name=skill.name,
        description=skill.description,
        path=skill.place,
        origin=skill.origin,
        score=hit.score,
        excerpt=hit.excerpt,
        scripts=list(skill.scripts),
        tools=list(skill.tools),
        knowledge=list(skill.knowledge),
    )


def _citation(hit: SkillHit) -> str:
    return f"{hit.skill.place}:{hit.line or 1}"


def _instructions(skill: Skill) -> str:
    return "\n".join(passage.text for passage in _body(skill, ""))


def _count(raw: str, kept: Sequence[SkillFound]) -> TokenCount:
    text = "\n".join(each.model_dump_json() for each in kept)
    return TokenCount.of(raw, text)

"""Everything a document is written from: the project, the topic, what research, patterns and skills handed over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sage_actors.servers.corpus.project_facts import ProjectFacts, collect_facts
from sage_actors.servers.corpus.sources import Sources, sources_of
from sage_actors.servers.documents.slugs import headline
from sage_actors.servers.implementation.checks import Check, best_check, detect_checks
from sage_actors.servers.specification.evidence import Evidence, gather
from sage_actors.servers.specification.survey import Survey
from sage_actors.servers.specification.topic import Topic

__all__ = ["Habit", "Kind", "SkillHint", "Study"]

Kind = Literal["feature", "bugfix", "enhancement"]

_MAX_HABITS = 8
_MAX_SKILLS = 5
_EMPTY = re.compile(r"\b0 of \d+\b|\(0 %\)|most often handled otherwise")
"""Habits that say only what is not done, or not how: nothing to keep to."""


@dataclass(frozen=True, slots=True)
class Habit:
    """A pattern of the code in one sentence. `path` and `line` show it; "" where a digest left the examples out."""

    statement: str
    category: str
    path: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class SkillHint:
    """A skill that was found for the topic. `place`: its file, "" where the result does not say."""

    name: str
    description: str
    place: str


class Study:
    """The inputs of one document, each checked. Made anew for every document: the project may have changed."""

    def __init__(
        self,
        project: Path,
        topic: str,
        kind: Kind,
        *,
        research: Any = None,
        patterns: Any = None,
        skills: Any = None,
    ) -> None:
        self.kind: Kind = kind
        self.topic = Topic(topic)
        self.sources = sources_of(project)
        self.evidence: Evidence = gather(research if research is not None else [], self.sources)
        self.survey = Survey(self.sources, self.topic, self.evidence)
        self.patterns_given = isinstance(patterns, Mapping)
        self.habits = list(_habits(patterns, self.sources))[:_MAX_HABITS]
        self.skills = list(_skills(skills))[:_MAX_SKILLS]

    @cached_property
    def facts(self) -> ProjectFacts:
        """What the project says about itself."""
        return self.sources.once(collect_facts)

    @cached_property
    def checks(self) -> list[Check]:
        """Its checks."""
        return self.sources.once(detect_checks)

    @property
    def test_check(self) -> Check | None:
        """The check that runs its tests."""
        return best_check(self.checks, "test")

    @property
    def name(self) -> str:
        """The project's name by its manifest, else of its folder."""
        return self.facts.name.text if self.facts.name else self.sources.repository.root.name

    @property
    def title(self) -> str:
        """What the documents are called: the topic; of an error text the line that says what it is about."""
        return headline(self.topic.text) if self.kind == "bugfix" else self.topic.text

    @cached_property
    def churn(self) -> Counter[str]:
        """Commits by file, of the known history."""
        counts: Counter[str] = Counter()
        for commit in self.sources.history:
            counts.update(set(commit.files))
        return counts

    def changed_with(self, path: str) -> list[tuple[str, int]]:
        """Files that changed in the same commits as `path`, and in how many; commits of over 30 files aside."""
        counts: Counter[str] = Counter()
        for commit in self.sources.history:
            if path in commit.files and len(commit.files) <= 30:
                counts.update(set(commit.files) - {path})
        return [(other, n) for other, n in counts.most_common(5) if n > 1 and self.sources.has(other)]


def _habits(patterns: Any, sources: Sources) -> Iterator[Habit]:
    listed = patterns.get("patterns") if isinstance(patterns, Mapping) else patterns
    for pattern in listed if isinstance(listed, list) else []:
        if not isinstance(pattern, Mapping) or not isinstance(pattern.get("statement"), str):
            continue
        statement, category = pattern["statement"][:300], str(pattern.get("category") or "")
        examples = pattern.get("citations")
        shown = (_shown(example, sources) for example in (examples if isinstance(examples, list) else []))
        path, line = next(filter(None, shown), ("", 0))
        if _EMPTY.search(statement):
            continue
        if path or isinstance(pattern.get("total"), int):
            yield Habit(statement, category, path, line)


def _shown(example: Any, sources: Sources) -> tuple[str, int] | None:
    if not isinstance(example, Mapping):
        return None
    path, line = example.get("file"), example.get("line")
    if isinstance(path, str) and isinstance(line, int) and sources.holds(path, line):
        return path, line
    return None


def _skills(skills: Any) -> Iterator[SkillHint]:
    listed: Any = skills
    if isinstance(skills, Mapping):
        listed = next(
            (skills[key] for key in ("skills", "findings", "results") if isinstance(skills.get(key), list)),
            [],
        )
    for skill in listed if isinstance(listed, list) else []:
        if not isinstance(skill, Mapping):
            continue
        name, description = skill.get("name"), skill.get("description") or skill.get("text") or ""
        place = skill.get("path") or skill.get("place") or ""
        citation = skill.get("citation")
        if not place and isinstance(citation, Mapping):
            place = citation.get("source") or ""
        name = name or (str(place).split("/")[-2] if str(place).count("/") else "")
        if isinstance(name, str) and name:
            yield SkillHint(name, str(description), str(place))

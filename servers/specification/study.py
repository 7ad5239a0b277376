"""Everything a document is written from: the project, the topic, what research, patterns and skills handed over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sage_actors.servers.corpus.parts import part_of, parts
from sage_actors.servers.corpus.project_facts import ProjectFacts, collect_facts, of_part
from sage_actors.servers.corpus.sources import Sources, sources_of
from sage_actors.servers.documents.slugs import headline
from sage_actors.servers.implementation.checks import Check, best_check, detect_checks
from sage_actors.servers.patterns.rules import RULES
from sage_actors.servers.specification.evidence import Evidence, gather
from sage_actors.servers.specification.survey import Place, Survey
from sage_actors.servers.specification.topic import Topic

__all__ = ["Habit", "Kind", "SkillHint", "Study"]

Kind = Literal["feature", "bugfix", "enhancement"]

_MAX_HABITS = 8
_MAX_SKILLS = 5
_MAX_TOUCHED = 8
_CLOSE = 0.45  # of the best score
_EMPTY = re.compile(r"\b0 of \d+\b|\(0 %\)|most often handled otherwise")
"""Habits that say only what is not done, or not how: nothing to keep to."""
_NO_HABITS = frozenset(
    (
        *(
            "architecture.file_size",
            "architecture.function_size",
            "architecture.entry",
            "architecture.entry_points",
        ),
        "tooling.checks",  # they have rows of their own
    )
)
_LEAST = 3
_CLEAR = 0.75  # of what was counted: what fewer do is no habit
_LISTS = frozenset(rule.name for rule in RULES if rule.mode == "list")
_TELLING = frozenset({"errorHandling", "logging", "types", "architecture"})
"""What lists of what there is are worth a line: what is used most has to be known there."""
_LANGUAGES = {
    "python": "python",
    "typescript": "javascript",
    "javascript": "javascript",
    "go": "go",
    "rust": "rust",
}
"""Of a pattern, and of the files that have it."""


@dataclass(frozen=True, slots=True)
class Habit:
    """A pattern of the code in one sentence. `path` and `line` show it; "" where a digest left the examples out.

    language: as of a file's class; "" for the whole project, or where the result does not say. binds: it says how
    nearly all is done, so that what is new can be held to it; else it only tells what there is.
    """

    statement: str
    category: str
    path: str = ""
    line: int = 0
    language: str = ""
    binds: bool = True


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
        self.topic = Topic(topic, is_there=kind == "enhancement")
        self.sources = sources_of(project)
        self.evidence: Evidence = gather(research if research is not None else [], self.sources)
        self.survey = Survey(self.sources, self.topic, self.evidence)
        self.patterns_given = isinstance(patterns, Mapping)
        self._habits = list(_habits(patterns, self.sources))
        self.skills = list(_skills(skills))[:_MAX_SKILLS]

    @cached_property
    def facts(self) -> ProjectFacts:
        """What the project says about itself; in a monorepo of the part that the topic touches first."""
        whole = self.sources.once(collect_facts)
        return of_part(self.sources, whole, self._part) if self._part else whole

    @cached_property
    def habits(self) -> list[Habit]:
        """The patterns to keep to: those of the languages that the topic touches, and of the project as a whole."""
        classes = self.sources.classes
        near = (path for path in self._touched() if path in classes and not self.is_elsewhere(path))
        touched = {classes[path].language for path in near} - {""}
        kept = [each for each in self._habits if not touched or each.language in touched | {""}]
        return kept[:_MAX_HABITS]

    @cached_property
    def settings(self) -> list[Place]:
        """Definitions that hold configuration, those of other parts of a monorepo left out."""
        return [place for place in self.survey.settings if not self.is_elsewhere(place.path)]

    @cached_property
    def environment_reads(self) -> list[Place]:
        """The lines of code that read environment variables, likewise."""
        return [place for place in self.survey.environment_reads if not self.is_elsewhere(place.path)]

    def is_elsewhere(self, path: str) -> bool:
        """Whether a file is of another part of a monorepo than the topic touches first."""
        return bool(self._part) and part_of(path, self._parts) not in ("", self._part)

    @cached_property
    def _parts(self) -> list[str]:
        return parts(file.path for file in self.sources.repository.files)

    @cached_property
    def _part(self) -> str:
        return part_of(next(self._touched(), ""), self._parts)

    @cached_property
    def checks(self) -> list[Check]:
        """Its checks: the main folder's, and of its parts those that the topic touches, if it touches one."""
        found = self.sources.once(detect_checks)
        folders = {f"{check.folder}/" for check in found if check.folder}
        touched = {part_of(path, folders).rstrip("/") for path in self._touched()} if folders else set[str]()
        kept = [check for check in found if not check.folder or check.folder in touched]
        return kept if touched else found

    def _touched(self) -> Iterator[str]:
        """The files of the best definitions near the topic, and those that its text names."""
        best = self.survey.candidates[:_MAX_TOUCHED]
        yield from (each.symbol.path for each in best if each.score >= _CLOSE * best[0].score)
        yield from (item.source for item in self.evidence.of("code", "test")[:_MAX_TOUCHED])

    def test_check_of(self, path: str) -> Check | None:
        """The check that runs the tests of a file; None where its part of the project declares none."""
        return best_check(self.checks, "test", path)

    @property
    def test_check(self) -> Check | None:
        """The check that runs the project's tests; in a monorepo those of the best definition near the topic."""
        near = self.survey.candidates[:1] if any(check.folder for check in self.checks) else []
        own = self.test_check_of(near[0].symbol.path) if near else None
        return own or best_check(self.checks, "test")

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
        total = pattern.get("total")
        if pattern.get("name") in _NO_HABITS or _rests_on_little(pattern, category) or _is_mixed(pattern):
            continue
        if path or isinstance(total, int):
            language = _LANGUAGES.get(str(pattern.get("language")), "")
            yield Habit(statement, category, path, line, language, pattern.get("name") not in _LISTS)


def _rests_on_little(pattern: Mapping[str, Any], category: str) -> bool:
    """Of one or two things nobody knows whether they are a habit; one test shows what tests are written with."""
    total = pattern.get("total")
    tells = category in ("architecture", "tooling") or pattern.get("name") == "testing.framework"
    return isinstance(total, int) and total < _LEAST and not tells


def _is_mixed(pattern: Mapping[str, Any]) -> bool:
    """Whether too many do it otherwise, or it says only what there is; which framework runs the tests has to be known
    all the same."""
    count, total, name = (pattern.get(key) for key in ("count", "total", "name"))
    if not (isinstance(count, int) and isinstance(total, int)) or name == "testing.framework":
        return False
    return count < _CLEAR * total if name not in _LISTS else pattern.get("category") not in _TELLING


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

"""Which patterns matter to a topic or to a file, and which of their examples show it best."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from sage_actors.messages.passages import Passage
from sage_actors.messages.ranking import PassageIndex
from sage_actors.servers.patterns.facts import LANGUAGES, is_test_path
from sage_actors.servers.patterns.model import Category, DetectedContext, Example, Pattern, PatternSet
from sage_actors.servers.patterns.rules import RULES

__all__ = ["SHOWN_EXAMPLES", "context_of", "rank", "with_examples", "within_level"]

SHOWN_EXAMPLES = 3

_ESSENTIAL = {rule.name: rule.essential for rule in RULES} | {
    "architecture.layout": 0.95,
    "tooling.checks": 0.9,
    "tooling.line_length": 0.5,
    "architecture.file_size": 0.5,
    "architecture.function_size": 0.5,
}
_ALWAYS = frozenset(
    {
        "testing.framework",
        "testing.location",
        "testing.placement",
        "naming.functions",
        "architecture.layout",
        "errors.raised",
        "errors.checked",
        "errors.propagated",
        "tooling.checks",
    }
)
"""Whoever writes code here needs these, whatever it is about."""
_LEVELS: dict[str, frozenset[Category]] = {
    "critical": frozenset({"naming", "types"}),
    "core": frozenset({"naming", "types", "errorHandling", "testing", "imports", "logging"}),
}
_ALIASES: dict[Category, str] = {
    "naming": "names naming convention identifiers style",
    "types": "types typing annotations type hints model schema data class",
    "testing": "tests testing test coverage fixtures mocks assertions regression",
    "errorHandling": "errors error handling exception exceptions failure fail retry crash bug fix",
    "logging": "logging logs log output print metrics observability monitoring",
    "architecture": "architecture layout structure modules folders entry point command line api service",
    "documentation": "documentation docs docstring comments reference",
    "concurrency": "concurrency async asynchronous parallel threads lock queue timeout cancel rate limit worker",
    "imports": "imports modules packages dependencies libraries",
    "style": "style formatting quotes",
    "tooling": "tooling lint linter checks continuous integration format",
}
_FILE_TYPES = (
    ("configuration", r"config|settings|conf\b"),
    ("interface", r"api|routes?|views?|handlers?|controllers?|endpoints?|server"),
    ("command line", r"cli|cmd|commands?|main"),
    ("model", r"models?|schemas?|entities|types"),
    ("component", r"components?|\.[jt]sx$"),
    ("utility", r"utils?|helpers?|common"),
)
_WORD = re.compile(r"[a-z0-9]{3,}")


def rank(
    patterns: PatternSet,
    topic: str,
    *,
    top: int,
    threshold: float = 0.0,
    languages: Collection[str] = (),
) -> list[Pattern]:
    """At most `top` patterns, most relevant first; those of `_ALWAYS` before others where `top` cuts.

    Relevance is `e + (1 - e) * t`. `e` is what the pattern is worth to whoever writes code here, whatever it is
    about (1.0 the test framework, 0.95 how functions are named), times the share of the project that is written
    in its language. `t` is how well the pattern and its examples answer the topic, as a share of the best.

    languages: of the code that the topic is about, as patterns name them: to that nothing else is worth anything.
    Without any the language counts that most of the project is written in.
    """
    topical = _topical(patterns.patterns, topic)
    ranked = [
        (_relevance(_worth(patterns, each, languages), topical.get(at, 0.0)), -at, each)
        for at, each in enumerate(patterns.patterns)
    ]
    wanted = {"project", *(languages or _main_languages(patterns))}
    always = [each for each in ranked if each[2].name in _ALWAYS and each[2].language in wanted]
    rest = [each for each in ranked if each not in always]
    chosen = sorted(always, key=_first, reverse=True)[:top]
    chosen += sorted(rest, key=_first, reverse=True)[: top - len(chosen)]
    return [
        with_examples(each, topic, relevance=relevance)
        for relevance, _, each in sorted(chosen, key=_first, reverse=True)
        if relevance >= threshold
    ]


def _first(ranked: tuple[float, int, Pattern]) -> tuple[float, int]:
    """More relevant ones first, then in their order."""
    return ranked[:2]


def _main_languages(patterns: PatternSet) -> list[str]:
    """The language that most of it is written in, as patterns name it."""
    main = patterns.primary_language
    return [] if main is None else ["typescript" if main == "javascript" else main]


def _relevance(worth: float, topical: float) -> float:
    return round(worth + (1 - worth) * topical, 3)


def _worth(patterns: PatternSet, pattern: Pattern, languages: Collection[str]) -> float:
    """A language that is a tenth of the project is worth a tenth, unless the topic is about that tenth."""
    essential = _ESSENTIAL.get(pattern.name, 0.3)
    files = sum(patterns.languages.values())
    if pattern.language == "project" or not files:
        return essential
    if languages:
        return essential if pattern.language in languages else 0.0
    return essential * min(1.0, 2 * patterns.languages.get(pattern.language, 0) / files)


def _topical(patterns: Sequence[Pattern], topic: str) -> dict[int, float]:
    passages = [Passage(_searched(each), str(at)) for at, each in enumerate(patterns)]
    found = PassageIndex(passages).search(topic, limit=len(passages))
    best = found[0].score if found else 1.0
    return {int(each.passage.source): max(0.0, each.score / best) for each in found}


def _searched(pattern: Pattern) -> str:
    shown = " ".join(f"{each.file} {each.text}" for each in pattern.citations)
    values = " ".join(pattern.values)
    return f"{pattern.statement} {_ALIASES[pattern.category]} {values} {shown}"


def with_examples(pattern: Pattern, topic: str, *, relevance: float | None = None) -> Pattern:
    """The pattern with the few examples that share most words with the topic."""
    wanted = set(_WORD.findall(topic.lower()))

    def shared(example: Example) -> int:
        return len(wanted.intersection(_WORD.findall(f"{example.file} {example.text}".lower())))

    best = sorted(pattern.citations, key=shared, reverse=True)[:SHOWN_EXAMPLES]
    return pattern.model_copy(update={"citations": best, "relevance": relevance})


def context_of(path: str) -> DetectedContext:
    """What a path says: kind of file, what it is about, and the part of the project it lies in."""
    pure = PurePosixPath(path)
    lower = path.lower()
    kind = "test" if is_test_path(path) else "source"
    if kind == "source":
        kind = next(
            (name for name, words in _FILE_TYPES if re.search(rf"(^|[/_.-])({words})([/_.-]|$)", lower)), kind
        )
    feature = re.sub(r"^test_|_test$|\.(test|spec)$", "", pure.stem)
    return DetectedContext(fileType=kind, feature=feature, domain=pure.parent.name or "the root")


def within_level(sets: Sequence[PatternSet], path: str, level: str) -> list[Pattern]:
    """The patterns for a file: of its language and the project's; for a test always those of testing."""
    language = LANGUAGES.get(PurePosixPath(path).suffix, "")
    language = "typescript" if language == "javascript" else language
    wanted = _LEVELS.get(level)
    is_test = is_test_path(path)
    return [
        with_examples(pattern, path)
        for each in sets
        for pattern in each.patterns
        if pattern.language in (language, "project")
        and (wanted is None or pattern.category in wanted or (is_test and pattern.category == "testing"))
    ]

"""From the sightings of many files to patterns: counts, shares, the sentence, and lines that show it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from sage_actors.servers.patterns.facts import FileFacts, Place, is_side_path
from sage_actors.servers.patterns.model import Example, Pattern, lower_bound
from sage_actors.servers.patterns.rules import RULES, Rule

__all__ = ["GROUPS", "Manifests", "language_patterns", "percent"]

GROUPS = {
    "python": ("python",),
    "typescript": ("typescript", "javascript"),
    "go": ("go",),
    "rust": ("rust",),
}
"""Languages that share their patterns."""

_EXAMPLES = 6  # saved; an answer shows the three that fit its topic best
_VALUES = 8
_LISTED = 6
_CLEAR_SHARE = 0.6  # below it there is no one habit
_RARE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Manifests:
    """What is known from outside the sources. test_runner: of JavaScript. go_modules: paths of go.mod files."""

    test_runner: str | None = None
    go_modules: tuple[str, ...] = ()


@dataclass(slots=True)
class _Value:
    count: int = 0
    places: list[tuple[str, Place]] = field(default_factory=list)

    def add(self, path: str, count: int, places: Iterable[Place]) -> None:
        self.count += count
        self.places += [(path, place) for place in places]


class _Sightings:
    """All sightings of one kind, by value."""

    def __init__(self) -> None:
        self.values: dict[str, _Value] = {}

    def add(self, value: str, path: str, count: int, places: Iterable[Place]) -> None:
        self.values.setdefault(value, _Value()).add(path, count, places)

    def ranked(self) -> list[tuple[str, _Value]]:
        return sorted(self.values.items(), key=lambda item: (-item[1].count, item[0]))

    @property
    def total(self) -> int:
        return sum(each.count for each in self.values.values())

    def count(self, value: str) -> int:
        return self.values[value].count if value in self.values else 0

    def places(self, value: str) -> list[tuple[str, Place]]:
        return self.values[value].places if value in self.values else []


_Kinds = dict[str, _Sightings]


def language_patterns(
    language: str, files: Sequence[FileFacts], manifests: Manifests, *, read_share: float
) -> list[Pattern]:
    """The patterns of one of `GROUPS`. read_share: of the sources that exist, from 0 to 1.

    Examples, benchmarks and documentation show no habits of the project, unless there is nothing else.
    """
    files = [each for each in files if not is_side_path(each.path)] or files
    kinds = _merged(files)
    _derive(language, files, manifests, kinds)
    found = [
        _pattern(rule, language, kinds[rule.name], read_share)
        for rule in RULES
        if rule.name in kinds and kinds[rule.name].total
    ]
    return [each for each in found if each is not None] + _sizes(language, files, read_share)


def _merged(files: Sequence[FileFacts]) -> _Kinds:
    kinds: _Kinds = {}
    for file in files:
        for (kind, value), tally in file.tallies.items():
            kinds.setdefault(kind, _Sightings()).add(value, file.path, tally.count, tally.places)
    return kinds


def _derive(language: str, files: Sequence[FileFacts], manifests: Manifests, kinds: _Kinds) -> None:
    """Adds what only all files together tell."""
    own = _own_names(language, files, manifests)
    _derive_imports(language, files, own, kinds)
    _derive_own_errors(kinds)
    if language != "rust":
        kinds["testing.framework"] = _frameworks(language, files, manifests)


def _own_names(language: str, files: Sequence[FileFacts], manifests: Manifests) -> frozenset[str]:
    if language == "go":
        return frozenset(manifests.go_modules)
    names: set[str] = set()
    for file in files:
        path = PurePosixPath(file.path)
        names.update(path.parts[:-1])
        names.add(path.stem)
    return frozenset(name.replace("-", "_") if language == "rust" else name for name in names)


def _derive_imports(language: str, files: Sequence[FileFacts], own: frozenset[str], kinds: _Kinds) -> None:
    """Parts imports into the project's own and other people's; a package counts once a file."""
    packages, inner = _Sightings(), _Sightings()
    for file in files:
        seen: dict[str, Place] = {}
        for (kind, value), tally in file.tallies.items():
            if kind == "imports.relative":
                inner.add("relative imports (from .x)", file.path, tally.count, tally.places)
            elif kind == "imports.modules":
                package = _package(language, value, own)
                if package is None:
                    inner.add("their full name", file.path, tally.count, tally.places)
                else:
                    seen.setdefault(package, tally.places[0])
        for package, place in seen.items():
            packages.add(package, file.path, 1, [place])
    kinds["imports.packages"] = packages
    if language == "python":
        kinds["imports.own"] = inner


def _package(language: str, module: str, own: frozenset[str]) -> str | None:
    """The package that a module is of; None for the project's own."""
    if language == "go":
        if any(module == each or module.startswith(f"{each}/") for each in own):
            return None
        parts = module.split("/")
        return "/".join(parts[:3] if parts[0] in ("github.com", "gitlab.com", "bitbucket.org") else parts)
    top = module if language == "typescript" else module.partition(".")[0]
    return None if top in own and language != "typescript" else top


def _derive_own_errors(kinds: _Kinds) -> None:
    raised, classes = kinds.get("errors.raised"), kinds.get("errors.classes")
    if raised is None or classes is None:
        return
    own = _Sightings()
    for name, value in raised.values.items():
        answer = "yes" if name in classes.values else "no"
        for path, place in value.places:
            own.add(answer, path, 0, [place])
        own.add(answer, "", value.count, [])
    kinds["errors.own"] = own


def _frameworks(language: str, files: Sequence[FileFacts], manifests: Manifests) -> _Sightings:
    """One vote a test file."""
    votes = _Sightings()
    for file in files:
        if file.is_test:
            named = _framework(language, file, manifests)
            if named is not None:
                votes.add(named[0], file.path, 1, [named[1]])
    return votes


def _framework(language: str, file: FileFacts, manifests: Manifests) -> tuple[str, Place] | None:
    seen = {
        value: tally.places[0] for (kind, value), tally in file.tallies.items() if kind == "testing.imports"
    }
    style = next(
        (tally.places[0] for (kind, _), tally in file.tallies.items() if kind == "testing.style"), None
    )
    cases = file.tallies.get(("testing.framework", "unittest"))
    if language == "python":
        if cases is not None:
            return "unittest", cases.places[0]
        place = seen.get("pytest") or style
        return ("pytest", place) if place is not None else None
    if language == "go":
        if "testing" not in seen:
            return None
        name = next((f"testing with {each}" for each in ("testify", "ginkgo") if each in seen), "testing")
        return name, seen["testing"]
    for name, place in seen.items():
        return name, place
    return (manifests.test_runner, style) if manifests.test_runner and style is not None else None


def _pattern(rule: Rule, language: str, seen: _Sightings, read_share: float) -> Pattern | None:
    ranked = seen.ranked()
    total = seen.total
    if rule.mode == "list":
        count, sentence = sum(each.count for _, each in ranked[:_LISTED]), rule.sentence
        places = _one_of_each([value.places for _, value in ranked])
        confidence = round(read_share, 3)
    elif rule.mode == "share":
        count = seen.count("yes")
        if count < _RARE_SHARE * total and rule.rare is None:
            return None
        is_rare = count < _RARE_SHARE * total
        sentence = (rule.rare or rule.sentence) if is_rare else rule.sentence
        places = seen.places("yes") or seen.places("no")
        confidence = lower_bound(max(count, total - count), total)
    else:
        count, sentence = ranked[0][1].count, rule.sentence
        places = ranked[0][1].places
        confidence = lower_bound(count, total)
    return Pattern(
        name=rule.name,
        category=rule.category,
        language=language,
        statement=_stated(rule, sentence, count, total, ranked),
        count=count,
        total=total,
        percentage=_percentage(count, total),
        confidence=confidence,
        values={value: each.count for value, each in ranked[:_VALUES]},
        citations=_examples(places),
        relevance=None,
    )


def _stated(rule: Rule, sentence: str, count: int, total: int, ranked: list[tuple[str, _Value]]) -> str:
    often = any(each.count > 1 for _, each in ranked)
    values = ", ".join(f"{value} ({each.count})" if often else value for value, each in ranked[:_LISTED])
    if rule.mode == "list" and len(ranked) > _LISTED:
        values += f" and {len(ranked) - _LISTED} more"
    stated = sentence.format(
        count=count, total=total, percent=percent(count, total), value=ranked[0][0], values=values
    )
    if rule.mode == "most" and count < _CLEAR_SHARE * total:
        stated += f" There is no one habit: {values}."
    return stated


def percent(count: int, total: int) -> str:
    """A share in whole per cent, which says 100 % of all only and 0 % of none only."""
    if not total:
        return "0 %"
    rounded = round(100 * count / total)
    if count < total:
        rounded = min(rounded, 99)
    return f"{max(rounded, 1) if count else 0} %"


def _percentage(count: int, total: int) -> float:
    return round(100 * count / total, 1) if total else 0.0


def _one_of_each(groups: list[list[tuple[str, Place]]]) -> list[tuple[str, Place]]:
    return [group[0] for group in groups if group]


def _examples(places: Sequence[tuple[str, Place]]) -> list[Example]:
    """Spread over the files: the first place of each first, then second ones."""
    nth: Counter[str] = Counter()
    ordered = []
    for path, place in places:
        ordered.append((nth[path], path, place))
        nth[path] += 1
    firsts = [each for each in ordered if each[0] == 0]
    step = max(1, len(firsts) // _EXAMPLES)
    chosen = firsts[::step][:_EXAMPLES]
    chosen += [each for each in ordered if each[0] > 0][: _EXAMPLES - len(chosen)]
    return [Example(file=path, line=place.line, text=place.text) for _, path, place in chosen]


def _sizes(language: str, files: Sequence[FileFacts], read_share: float) -> list[Pattern]:
    code = [each for each in files if not each.is_test and each.line_count]
    functions = [(file, each) for file in code for each in file.functions]
    of_files = _size(
        "architecture.file_size",
        language,
        [(each.line_count, each.path, each.opening) for each in code],
        "A source file has {median} lines in the middle; nine of ten have at most {most}.",
        read_share,
    )
    of_functions = _size(
        "architecture.function_size",
        language,
        [(each.lines, file.path, Place(each.line, each.name)) for file, each in functions],
        "A function has {median} lines in the middle; nine of ten have at most {most}.",
        read_share,
    )
    return of_files + of_functions


def _size(
    name: str, language: str, sizes: list[tuple[int, str, Place]], sentence: str, read_share: float
) -> list[Pattern]:
    """The median and the ninth decile (nearest rank), shown by what lies in the middle."""
    if not sizes:
        return []
    sizes.sort(key=lambda each: (each[0], each[1], each[2].line))
    middle = (len(sizes) - 1) // 2
    most = sizes[-(-9 * len(sizes) // 10) - 1][0]
    count = sum(size <= most for size, _, _ in sizes)
    around = sizes[max(0, middle - 1) : middle + 2]
    return [
        Pattern(
            name=name,
            category="architecture",
            language=language,
            statement=sentence.format(median=sizes[middle][0], most=most),
            count=count,
            total=len(sizes),
            percentage=_percentage(count, len(sizes)),
            confidence=round(read_share, 3),
            values={"median": sizes[middle][0], "ninth decile": most, "largest": sizes[-1][0]},
            citations=[Example(file=path, line=place.line, text=place.text) for _, path, place in around],
            relevance=None,
        )
    ]


def test_runner_of(package_json: str) -> str | None:
    """The test runner that a package.json names among what it needs or in its scripts."""
    for name in ("vitest", "jest", "mocha", "ava", "tape", "jasmine", "tap"):
        if re.search(rf'"{name}"\s*:|"test"\s*:\s*"[^"]*\b{name}\b', package_json):
            return name
    return "node:test" if re.search(r'"test"\s*:\s*"[^"]*node[^"]*--test', package_json) else None

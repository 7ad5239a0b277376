"""Which code an error leads to: its frames, the lines that raise it, what research found; ranked with reasons."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property

from sage_actors.messages.ranking import UNSPACED
from sage_actors.servers.corpus.sources import Sources, Symbol
from sage_actors.servers.documents.slugs import headline
from sage_actors.servers.specification.error_text import Frame, located, parse_error
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.survey import Place
from sage_actors.servers.specification.topic import stem

__all__ = ["Investigation", "Suspect"]

_MAX_SITES = 6
_MAX_SUSPECTS = 6
_MAX_TESTED = 4
_MAX_MEANT = 2
_STOP_WORDS = "test on to in of the a an is are and or with for no not when that it from"
_STOP_STEMS = frozenset(map(stem, _STOP_WORDS.split()))
_ALONE, _BESIDE = 1.5, 0.9  # that research found it: by itself, and beside what the report says
_RECENT = 30  # commits
_COMMON_WORDS = "Error Exception TypeError ValueError KeyError RuntimeError AssertionError IndexError OSError"
_NAMED = re.compile(  # `(*Type).Method`, `Type.method`, `Type::method`, `function()`
    r"\(?\*?(?P<owner>[^\W\d]\w*)\)?(?:\.|::|\#)(?P<member>[^\W\d]\w*)|\b(?P<function>[^\W\d]\w*)\(\)"
)
_NO_WORDS = re.compile(  # what a language says of any program, and places: no words of this one
    r"(?:object )?has no attribute|object is not (?:callable|iterable|subscriptable)|takes \d+ positional arguments?"
    r"|missing \d+ required positional arguments?|got an unexpected keyword argument"
    r"|cannot read propert(?:y|ies) of|is not a function|is not defined"
    r"|runtime error: (?:index out of range|invalid memory address or nil pointer dereference)"
    r"|\S+/\S+|\bline \d+",
    re.IGNORECASE,
)
_COMMON = frozenset(_COMMON_WORDS.split())
_UNSPACED = re.compile(rf"{UNSPACED}{{4,}}")
_MAX_BODY = 80  # lines of a test
_CASE = re.compile(r"\s*(?:test|it|specify)\b")


@dataclass(slots=True)
class Suspect:
    """A line where the cause may be. `score`: by its reasons alone; a rank, no probability."""

    path: str
    line: int
    symbol: Symbol | None
    score: float = 0.0
    reasons: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The definition, or the place where there is none."""
        return self.symbol.name if self.symbol else f"{self.path}:{self.line}"


class Investigation:
    """Reads the error text of a study against the project."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.report = parse_error(study.topic.text)

    @cached_property
    def frames(self) -> list[Place]:
        """The frames that stand in the project, innermost last; each line once."""
        found = [place for frame in self.report.frames if (place := self._resolve(frame)) is not None]
        return list(dict.fromkeys(found))

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Type and text of each error; of a traceback the last line, whatever its class is called."""
        if self.report.messages:
            return list(self.report.messages)
        kind, separator, text = headline(self.study.topic.text).partition(": ")
        return [(kind, text)] if separator and re.fullmatch(r"[\w.]+", kind) else []

    @property
    def foreign_frames(self) -> int:
        """How many frames lead out of the project: to its callers, or to what it calls."""
        return sum(self._file_of(frame) is None for frame in self.report.frames)

    @property
    def lost_frames(self) -> int:
        """How many lead to lines that files of the project no longer have."""
        found = sum(self._resolve(frame) is not None for frame in self.report.frames)
        return len(self.report.frames) - self.foreign_frames - found

    @cached_property
    def moved(self) -> list[tuple[Place, str]]:
        """Frames whose line is in another function now than the report says: it comes from another version."""
        found = []
        for frame in self.report.frames:
            place = self._resolve(frame)
            line = frame.line if place is None or not frame.code else place.line
            symbol = self.study.sources.symbol_at(place.path, line) if place is not None else None
            if place is not None and symbol is not None and frame.name not in ("", symbol.short_name):
                found.append((Place(place.path, line), frame.name))
        return found

    def _resolve(self, frame: Frame) -> Place | None:
        path = self._file_of(frame)
        line = located(frame, path, self.study.sources) if path is not None else None
        return Place(path, line, frame.function) if path is not None and line is not None else None

    def _file_of(self, frame: Frame) -> str | None:
        """A path of another machine is matched by its longest end that one file alone has."""
        sources = self.study.sources
        parts = [part for part in frame.path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            fitting = [path for path in sources.classes if path == end or path.endswith("/" + end)]
            if len(fitting) == 1 or end in fitting:
                return end if end in fitting else fitting[0]
            if fitting:
                return None
        return None

    @cached_property
    def sites(self) -> list[Place]:
        """Lines of code that hold the message's own words, or raise its type."""
        found: list[Place] = []
        if self.report.tests and not self.messages:
            return []  # the name of a test is no message
        for kind, text in self.messages or [("", headline(self.study.topic.text))]:
            found += _lines_with(self.study.sources, _NO_WORDS.sub(" ", text)) or _raises(
                self.study.sources, kind
            )
        return list(dict.fromkeys(found))[:_MAX_SITES]

    @cached_property
    def named(self) -> list[Place]:
        """The definitions that the first line of the report calls by name."""
        wanted = {
            (match["owner"] or "", match["member"] or match["function"])
            for match in _NAMED.finditer(headline(self.study.topic.text))
        }
        sources = self.study.sources
        found = [
            Place(path, symbol.line, symbol.name)
            for path in sources.files("code")
            if wanted
            for symbol in sources.symbols_of(path)
            for owner, member in wanted
            if symbol.short_name == member and (not owner or owner in re.split(r"\W+", symbol.name))
        ]
        return list(dict.fromkeys(found))[:_MAX_SITES]

    @cached_property
    def failing_tests(self) -> list[Place]:
        """The failing tests that the text names, where they stand."""
        sources = self.study.sources
        found: list[Place] = []
        for path, name in self.report.tests:
            short = re.split(r"[.:]+", name)[-1]
            for test in [
                *sources.files("test"),
                *(each for each in sources.files("code") if each.endswith(".rs")),
            ]:
                if path and not test.endswith(path.rpartition("/")[2]):
                    continue
                if " " in name:
                    found += _quoting(sources, test, re.split(r" [›>] ", name)[-1])
                first = 0 if sources.classes[test].kind == "test" else sources.tests_begin(test)
                symbols = sources.symbols_of(test) if first < math.inf else []
                found += [
                    Place(test, s.line, s.name) for s in symbols if s.short_name == short and s.line > first
                ]
        return list(dict.fromkeys(found))[:5]

    @cached_property
    def tested(self) -> list[Place]:
        """What the failing tests name of the project's code: names that one definition alone has.

        Those that share most words with the test's own name come first, then those that fewest tests mention.
        """
        survey, found = self.study.survey, dict[Place, tuple[int, int]]()
        defined: dict[str, list[Symbol]] = {}
        for symbol in self.study.sources.symbols if self.failing_tests else ():
            defined.setdefault(symbol.short_name, []).append(symbol)
        for test in self.failing_tests[:2]:
            stems = survey.words.stems(test.text)
            for name in self._names_in(test):
                symbols = defined.get(name, [])
                if len(symbols) == 1 and len(name) > 3 and not name.startswith("_"):
                    shared = len(stems & survey.words.stems(name))
                    place = Place(symbols[0].path, symbols[0].line, symbols[0].name)
                    found.setdefault(place, (-shared, survey.words.mentions(name, "test")))
        return sorted(found, key=lambda place: (*found[place], place.path, place.line))[:_MAX_TESTED]

    @cached_property
    def meant_by_tests(self) -> dict[Place, str]:
        """What shares words with the failing test's name: what the test names, and code that has most of them."""
        survey, found = self.study.survey, dict[Place, str]()
        for test in self.failing_tests[:2]:
            stems = survey.words.stems(test.text.rpartition(".")[2]) - _STOP_STEMS
            for place in self.tested:
                if stems & survey.words.stems(place.text):
                    found.setdefault(place, "the failing test names it")
            for symbol, shared in self._having(stems)[:_MAX_MEANT]:
                words = ", ".join(f"“{each}”" for each in sorted(shared))
                reason = f"it has the words {words} of the failing test's name"
                found.setdefault(Place(symbol.path, symbol.line, symbol.name), reason)
        return found

    def _having(self, stems: frozenset[str]) -> list[tuple[Symbol, frozenset[str]]]:
        """The definitions of the project that have half of these stems, three at least; most first."""
        sources, bodies = self.study.sources, dict[Symbol, set[str]]()
        for hit in self.study.survey.words.hits(stems):
            symbol = sources.symbol_at(hit.path, hit.line) if sources.is_product(hit.path) else None
            if symbol is not None:
                bodies.setdefault(symbol, set()).update(hit.stems)
        least = max(3, math.ceil(len(stems) / 2))
        found = [(symbol, frozenset(shared)) for symbol, shared in bodies.items() if len(shared) >= least]
        return sorted(found, key=lambda pair: (-len(pair[1]), pair[0].path, pair[0].line))

    def _names_in(self, test: Place) -> list[str]:
        """The identifiers between the beginning of a test and the next definition that is not inside of it."""
        sources = self.study.sources
        begins = _CASE.match(sources.lines(test.path)[test.line - 1])
        after = [
            number
            for number, line in enumerate(sources.lines(test.path)[test.line :], test.line + 1)
            if begins and line.startswith(begins[0])
        ]
        after += [
            symbol.line
            for symbol in sources.symbols_of(test.path)
            if symbol.line > test.line
            and not symbol.is_nested
            and not symbol.name.startswith(f"{test.text}.")
        ]
        end = min(after, default=len(sources.lines(test.path)) + 1) - 1
        text = "\n".join(sources.lines(test.path)[test.line : min(end, test.line + _MAX_BODY)])
        return re.findall(r"[^\W\d]\w*", text)

    @cached_property
    def suspects(self) -> list[Suspect]:
        """The likeliest lines first; of one definition only one."""
        found: dict[tuple[str, int], Suspect] = {}
        own = [place for place in self.frames if self.study.sources.is_product(place.path)]
        for depth, place in enumerate(own, 1):
            last = depth == len(own)
            reason = "innermost frame of the project's code" if last else "on the stack"
            self._suspect(found, place, 3.0 if last else 2.0 * depth / len(own), reason)
        for place in self.named:
            if self.study.sources.is_product(place.path):
                self._suspect(found, place, 2.5, "the report names it")
        for place, reason in self.meant_by_tests.items():
            self._suspect(found, place, 1.8, reason)
        for place in self.sites:
            if self.study.sources.is_product(place.path):
                self._suspect(found, place, 2.0, "it holds the words or the type of the message")
        self._by_research(found)
        self._count_recent(found)
        return sorted(found.values(), key=lambda s: (-s.score, s.path, s.line))[:_MAX_SUSPECTS]

    def _by_research(self, found: dict[tuple[str, int], Suspect]) -> None:
        """What research found counts once, however many operations did: they read the same frames and words."""
        before = {key: suspect.score for key, suspect in found.items()}
        for item in self.study.evidence.of("code"):
            if item.line and self.study.sources.is_product(item.source):
                place = Place(item.source, item.line)
                self._suspect(found, place, _ALONE * item.score, f"found by {item.operation}")
        for key, suspect in found.items():
            known = before.get(key)
            most = _ALONE if known is None else known + _BESIDE
            suspect.score = min(suspect.score, most)

    def _suspect(
        self, found: dict[tuple[str, int], Suspect], place: Place, score: float, reason: str
    ) -> None:
        if place.line >= self.study.sources.tests_begin(place.path):
            return
        symbol = self.study.sources.symbol_at(place.path, place.line)
        key = (place.path, symbol.line if symbol else place.line)
        suspect = found.setdefault(key, Suspect(place.path, place.line, symbol))
        if reason not in suspect.reasons:
            suspect.score += score
            suspect.reasons.append(reason)

    def _count_recent(self, found: dict[tuple[str, int], Suspect]) -> None:
        """What changed lately is likelier: one of the newest commits touched the file."""
        recent = self.study.sources.history[:_RECENT]
        if len(self.study.sources.history) < 2:
            return  # of one import commit every file is recent
        for suspect in found.values():
            count = sum(suspect.path in commit.files for commit in recent)
            if count:
                suspect.score += 0.2 * min(count, 5)
                suspect.reasons.append(f"its file changed in {count} of the last {len(recent)} commits")


def _quoting(sources: Sources, path: str, name: str) -> list[Place]:
    """Where a test file calls something with that name in quotes, as tests in JavaScript have theirs."""
    if name not in sources.text(path):
        return []
    quoted = [f"{mark}{name}{mark}" for mark in ("'", '"', "`")]
    return [
        Place(path, number, name)
        for number, line in enumerate(sources.lines(path), 1)
        if any(each in line for each in quoted)
    ]


def _lines_with(sources: Sources, message: str) -> list[Place]:
    """Lines that hold the longest run of the message's words that any line has, of at least three.

    What is written without spaces is no run of words: the longest such part of the message is looked for as it is.
    """
    words = re.findall(r"[^\W\d_][\w'-]+", message)[:24]
    for length in range(min(8, len(words)), 2, -1):
        runs = [words[n : n + length] for n in range(len(words) - length + 1)]
        pattern = re.compile("|".join(r"\W{1,3}".join(map(re.escape, run)) for run in runs))
        if found := _matching(sources, pattern):
            return found
    unspaced = max(_UNSPACED.findall(message), key=len, default="")
    return _matching(sources, re.compile(re.escape(unspaced))) if unspaced else []


def _matching(sources: Sources, pattern: re.Pattern[str]) -> list[Place]:
    return [
        Place(path, number, line.strip())
        for path in sources.files("code")
        if pattern.search(sources.text(path))
        for number, line in enumerate(sources.lines(path), 1)
        if pattern.search(line)
    ]


def _raises(sources: Sources, kind: str) -> list[Place]:
    """Lines that raise an error type of the project; the language's own types say too little."""
    name = kind.rpartition(".")[2]
    if not name or name in _COMMON or name in ("panic", "panicked", "error"):
        return []
    pattern = re.compile(rf"(raise|throw new|throw)\s+(\w+\.)*{re.escape(name)}\b")
    return [
        Place(path, number, line.strip())
        for path in sources.files("code")
        if name in sources.text(path)
        for number, line in enumerate(sources.lines(path), 1)
        if pattern.search(line)
    ]

"""Which code an error leads to: its frames, the lines that raise it, what research found; ranked with reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

from sage_actors.messages.ranking import UNSPACED
from sage_actors.servers.corpus.sources import Sources, Symbol
from sage_actors.servers.documents.slugs import headline
from sage_actors.servers.specification.error_text import Frame, parse_error
from sage_actors.servers.specification.study import Study
from sage_actors.servers.specification.survey import Place

__all__ = ["Investigation", "Suspect"]

_MAX_SITES = 6
_MAX_SUSPECTS = 6
_RECENT = 30  # commits
_COMMON_WORDS = "Error Exception TypeError ValueError KeyError RuntimeError AssertionError IndexError OSError"
_NAMED = re.compile(  # `(*Type).Method`, `Type.method`, `Type::method`, `function()`
    r"\(?\*?(?P<owner>[^\W\d]\w*)\)?(?:\.|::|\#)(?P<member>[^\W\d]\w*)|\b(?P<function>[^\W\d]\w*)\(\)"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_UNSPACED = re.compile(rf"{UNSPACED}{{4,}}")


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
        """How many frames lead out of the project, or to lines that it no longer has."""
        return len(self.report.frames) - sum(self._resolve(frame) is not None for frame in self.report.frames)

    @cached_property
    def moved(self) -> list[tuple[Place, str]]:
        """Frames whose line is in another function now than the report says: it comes from another version."""
        found = []
        for place in self.frames:
            symbol = self.study.sources.symbol_at(place.path, place.line)
            said = re.split(r"[.:]+", place.text.strip())[-1].strip("<>()* ")
            if (
                symbol is not None
                and said.isidentifier()
                and said not in ("module", "lambda", symbol.short_name)
            ):
                found.append((place, said))
        return found

    def _resolve(self, frame: Frame) -> Place | None:
        """A path of another machine is matched by its longest end that one file alone has."""
        sources = self.study.sources
        parts = [part for part in frame.path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            fitting = [path for path in sources.classes if path == end or path.endswith("/" + end)]
            if len(fitting) == 1 or end in fitting:
                path = end if end in fitting else fitting[0]
                line = frame.line_in(sources.lines(path))
                return Place(path, line, frame.function) if line is not None else None
            if fitting:
                return None
        return None

    @cached_property
    def sites(self) -> list[Place]:
        """Lines of code that hold the message's own words, or raise its type."""
        found: list[Place] = []
        for kind, text in self.messages or [("", headline(self.study.topic.text))]:
            found += _lines_with(self.study.sources, text) or _raises(self.study.sources, kind)
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
        found = []
        for path, name in self.report.tests:
            short = re.split(r"[.:]+", name)[-1]
            for test in self.study.sources.files("test"):
                if not path or test.endswith(path.rpartition("/")[2]):
                    found += [
                        Place(test, s.line, s.name)
                        for s in self.study.sources.symbols_of(test)
                        if s.short_name == short
                    ]
        return list(dict.fromkeys(found))[:5]

    @cached_property
    def suspects(self) -> list[Suspect]:
        """The likeliest lines first; of one definition only one."""
        found: dict[tuple[str, int], Suspect] = {}
        own = [place for place in self.frames if self.study.sources.is_product(place.path)]
        for depth, place in enumerate(own, 1):
            last = depth == len(own)
            self._suspect(
                found,
                place,
                3.0 * depth / len(own),
                "innermost frame of the project's code" if last else "on the stack",
            )
        for place in self.named:
            if self.study.sources.is_product(place.path):
                self._suspect(found, place, 2.5, "the report names it")
        for place in self.sites:
            if self.study.sources.is_product(place.path):
                self._suspect(found, place, 2.0, "it holds the words or the type of the message")
        for item in self.study.evidence.of("code"):
            if item.line and self.study.sources.is_product(item.source):
                self._suspect(
                    found, Place(item.source, item.line), 1.5 * item.score, f"found by {item.operation}"
                )
        self._count_recent(found)
        return sorted(found.values(), key=lambda s: (-s.score, s.path, s.line))[:_MAX_SUSPECTS]

    def _suspect(
        self, found: dict[tuple[str, int], Suspect], place: Place, score: float, reason: str
    ) -> None:
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

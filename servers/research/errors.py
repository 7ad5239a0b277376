"""From an error to the code: its frames, the tests it names, where its message comes from, and what is near.

Lines are shown with their numbers; `>` marks the one that the citation names.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from sage_actors.messages.findings import ResearchResult
from sage_actors.messages.units import counted
from sage_actors.servers.corpus.corpus import Corpus, corpus_of
from sage_actors.servers.corpus.relevance import Query
from sage_actors.servers.corpus.repository import shown_name
from sage_actors.servers.research.result import Evidence, Limits, found_evidence, looked_at, result_of, scaled
from sage_actors.servers.specification.error_text import ErrorReport, Frame, located, parse_error

__all__ = ["error_analysis"]

_AROUND = 4  # lines shown above and below
_MAX_FRAMES = 12
_MAX_PLACES = 3  # of one message or name
_FIRST_WORDS = 3  # of a message, where all of it is found nowhere
_LEAST_FRAGMENT = 9  # characters of a message that are worth looking for
_TOPIC_CHARS = 2000
_VARYING = re.compile(r"""'[^'\n]*'|"[^"\n]*"|`[^`\n]*`|\d[\d.,:x]*|/[\w./-]+|<[^>\n]*>|0x[0-9a-f]+""")
_DEFINES = (
    r"^[ \t]*(?:export\s+)?(?:pub\s+)?(?:async\s+)?"
    r"(?:def|class|func|fn|function|struct|enum|type)\s+(?:\([^)]*\)\s*)?{}\b"
)
_RAISES = r"\b(?:raise|throw new|throw|panic!?\(|errors\.New\(|Err\()\s*.{{0,40}}\b{}\b"
_TRACEBACK_LINE = re.compile(r'^\s*(File "|at |Traceback|\^+|~+|E\s)', re.MULTILINE)


def error_analysis(project: Path, error: str, limits: Limits) -> ResearchResult:
    """What of the project the error text leads to, the innermost frame first."""
    corpus = corpus_of(project)
    report = parse_error(error)
    places = _Places(corpus)
    evidence = [*_frames(places, report), *_tests(places, report), *_origins(places, report)]
    certain = len(evidence)
    evidence += _related(corpus, error, report, {(e.source, e.line) for e in evidence})
    notes = [*places.notes(report), *corpus.notes]
    if not evidence:
        notes.insert(0, looked_at(corpus, _words(error, report), ("code", "test", "history")))
    summary = (
        f"The text names {counted(len(report.frames), 'place')}, {counted(len(report.messages), 'message')} and "
        f"{counted(len(report.tests), 'test')}; {counted(certain, 'place')} in the project "
        f"{'belongs' if certain == 1 else 'belong'} to them, the rest is related by its words."
    )
    return result_of("error_analysis", error.strip(), evidence, limits, summary=summary, notes=notes)


class _Places:
    """Finds the files that an error text means: paths of other machines and folders are matched by their ends."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self._node_name = ""
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in corpus.repository.files:
            self._by_name[PurePosixPath(file.path).name].append(shown_name(file.path))
        self.outside: list[str] = []
        self._real = {each.removeprefix("src/") for names in self._by_name.values() for each in names}
        with suppress(ValueError, AttributeError):
            manifest = corpus.repository.read_bytes("package.json") or b"{}"
            self._node_name = str(json.loads(manifest).get("name", ""))

    def resolve(self, path: str) -> str | None:
        """The file of the project with the longest common end; None where none has its name, or several do."""
        parts = self._own_part(PurePosixPath(path.replace("\\", "/")).parts)
        if not parts:
            return None
        scored = [
            (_common_end(parts, PurePosixPath(each).parts), each) for each in self._by_name.get(parts[-1], [])
        ]
        scored.sort(reverse=True)
        if not scored or (len(scored) > 1 and scored[0][0] == scored[1][0]):
            return None
        length, best = scored[0]
        whole = length == len(PurePosixPath(best).parts) or length == len(
            [p for p in parts if p not in ("/", ".")]
        )
        return best if whole or (len(scored) == 1 and length > 1) else None

    def _own_part(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Of a file of an installed package what is below its folder, if the package is this project's own."""
        for folder in ("site-packages", "dist-packages", "node_modules"):
            if folder in parts:
                at = len(parts) - 1 - parts[::-1].index(folder)
                below = parts[at + 1 :]
                own = (
                    "/".join(below) in self._real
                    if folder != "node_modules"
                    else below[:1] == (self._node_name,)
                )
                return (below if folder != "node_modules" else below[1:]) if own else ()
        return parts

    def lines_of(self, source: str) -> list[str]:
        """The lines of a file; none where it is no text."""
        text = self.corpus.text(source)
        return text.split("\n") if text is not None else []

    def shown(self, source: str, line: int) -> str | None:
        """The lines around one, numbered; None where the file has no such line."""
        lines = self.lines_of(source)
        if not 1 <= line <= len(lines):
            return None
        first, last = max(1, line - _AROUND), min(len(lines), line + _AROUND)
        return "\n".join(
            f"{'>' if number == line else ' '} {number:>4} {lines[number - 1].rstrip()[:200]}"
            for number in range(first, last + 1)
        )

    def lines(
        self, pattern: re.Pattern[str], kinds: tuple[str, ...] = ("code", "test")
    ) -> Iterator[tuple[str, int, str]]:
        """(source, line, kind) of every line that matches, sources before tests."""
        for wanted in kinds:
            for file, kind in self.corpus.files:
                text = self.corpus.text(shown_name(file.path)) if kind.kind == wanted else None
                if text is not None and pattern.search(text):
                    for number, line in enumerate(text.split("\n"), 1):
                        if pattern.search(line):
                            yield shown_name(file.path), number, wanted

    def kind(self, source: str) -> str:
        kinds = {shown_name(file.path): kind.kind for file, kind in self.corpus.files}
        return kinds.get(source, "code")

    def notes(self, report: ErrorReport) -> list[str]:
        notes = []
        if self.outside:
            notes.append(
                f"frames outside the project, or whose file is not clear: {', '.join(self.outside[:6])}"
            )
        if not (report.frames or report.messages or report.tests):
            notes.append("the text has no known form of an error: it was searched for by its words")
        return notes


def _frames(places: _Places, report: ErrorReport) -> Iterator[Evidence]:
    """Innermost first: there it was raised. The line of a frame is that of the code when the error happened."""
    frames = list(reversed(report.frames))[:_MAX_FRAMES]
    for depth, frame in enumerate(frames):
        source = places.resolve(frame.path)
        line = located(frame, source, places.corpus.sources) if source else None
        shown = places.shown(source, line) if source and line else None
        if source is None or line is None or shown is None:
            places.outside.append(f"{frame.path}:{frame.line}")
            continue
        where = f" in {frame.function}" if frame.function else ""
        text = f"frame {len(frames) - depth} of {len(frames)}{where}{_moved(places, source, frame, line)}:\n{shown}"
        yield Evidence(text, places.kind(source), source, line, 100.0 - 4 * depth)


def _moved(places: _Places, source: str, frame: Frame, line: int) -> str:
    """A hint where the file is not what it was: the line stands elsewhere, or its function is above it no more."""
    if line != frame.line:
        return f" (line {frame.line} then: the file has changed since)"
    name = frame.function.rpartition(".")[2]
    if not source.endswith(".py") or not name.isidentifier():
        return ""
    lines = places.lines_of(source)
    enclosing = any(re.match(rf"\s*(async )?(def|class) {name}\b", line) for line in lines[: frame.line])
    return "" if enclosing else " (the file has changed since: the function is not there)"


def _tests(places: _Places, report: ErrorReport) -> Iterator[Evidence]:
    for path, name in report.tests:
        last = re.split(r"::|/", name)[-1].strip()
        source = places.resolve(path) if path else None
        pattern = _defining(last) if last.isidentifier() else re.compile(re.escape(last))
        found = [hit for hit in places.lines(pattern, ("test", "code")) if source in (None, hit[0])]
        for source_found, line, kind in found[:1]:
            shown = _body(places, source_found, line)
            yield Evidence(f"test {name}:\n{shown}", kind, source_found, line, 90.0)


def _body(places: _Places, source: str, line: int) -> str:
    lines = places.lines_of(source)[line - 1 : line + 19]
    return "\n".join(
        f"{'>' if n == 0 else ' '} {line + n:>4} {text.rstrip()[:200]}" for n, text in enumerate(lines)
    )


def _origins(places: _Places, report: ErrorReport) -> Iterator[Evidence]:
    """Where a message is written in the sources, and where its type is defined or raised."""
    for kind, message in report.messages[:6]:
        for patterns in (_message_patterns(message), _type_patterns(kind)):
            score, found = _first_found(places, patterns)
            for source, line, of in found:
                text = f"origin of {f'{kind}: {message}'[:120]!r}:\n{places.shown(source, line)}"
                yield Evidence(text, of, source, line, score if of == "code" else score - 30)


def _first_found(
    places: _Places, patterns: Iterator[tuple[float, re.Pattern[str]]]
) -> tuple[float, list[tuple[str, int, str]]]:
    """The places of the first pattern that has any; patterns go from the exact to the rough."""
    for score, pattern in patterns:
        if found := list(islice(places.lines(pattern), _MAX_PLACES)):
            return score, found
    return 0.0, []


def _message_patterns(message: str) -> Iterator[tuple[float, re.Pattern[str]]]:
    """The whole message, its constant parts, its longest one, its first words."""
    parts = [part.strip(" .:,;()[]{}=-") for part in _VARYING.split(message)]
    constant = [re.escape(part) for part in parts if len(part) > 3][:3]  # more, or shorter, may take for ever
    if len(message) >= _LEAST_FRAGMENT:
        yield 85.0, re.compile(re.escape(message))
    if len(constant) > 1:
        yield 82.0, re.compile(".{0,60}?".join(constant))
    if len(fragment := max(parts, key=len, default="")) >= _LEAST_FRAGMENT:
        yield 80.0, re.compile(re.escape(fragment))
    if len(words := message.split()) > _FIRST_WORDS:
        yield 75.0, re.compile(re.escape(" ".join(words[:_FIRST_WORDS])))


def _type_patterns(kind: str) -> Iterator[tuple[float, re.Pattern[str]]]:
    """Where the project defines it, else where it raises it."""
    name = kind.rpartition(".")[2]
    if name not in ("error", "panic", "panicked", "Error", "Exception", "AssertionError"):
        yield 60.0, _defining(name)
        yield 55.0, re.compile(_RAISES.format(re.escape(name)))


def _defining(name: str) -> re.Pattern[str]:
    return re.compile(_DEFINES.format(re.escape(name)), re.MULTILINE)


def _related(
    corpus: Corpus, error: str, report: ErrorReport, known: set[tuple[str, int | None]]
) -> list[Evidence]:
    """Sources, tests and commits that share its words, below all that is certain."""
    query = _words(error, report)
    found = corpus.search(query, kinds=("code", "test", "history", "todo", "documentation"))
    weights = {"test": 0.8, "history": 1.0, "documentation": 0.7, "todo": 0.9}
    evidence = [e for e in found_evidence(scaled(found, weights), query) if (e.source, e.line) not in known]
    best = max((e.score for e in evidence), default=1.0)
    capped = partial(min, 50.0)
    return [Evidence(e.text, e.kind, e.source, e.line, capped(50.0 * e.score / best)) for e in evidence]


def _words(error: str, report: ErrorReport) -> str:
    """What to search for: messages, functions and tests; the whole text only where it has none of them."""
    parts = [f"{kind} {message}" for kind, message in report.messages[:4]]
    parts += [frame.function for frame in report.frames[-3:]] + [name for _, name in report.tests[:3]]
    text = " ".join(filter(None, parts)) or _TRACEBACK_LINE.sub(" ", error[:_TOPIC_CHARS])
    return " ".join(dict.fromkeys(Query(text).text.split()))


def _common_end(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            return count
        count += 1
    return count

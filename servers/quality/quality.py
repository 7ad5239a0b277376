"""How good the code is, measured: size, complexity, nesting, tests nearby, repetition, and the hot spots.

A hot spot is complex and changes often: its score is complexity times commits (A. Tornhill, "Your Code as a Crime
Scene", 2015; there with lines of code for complexity). Complexity is cyclomatic (T. McCabe, "A Complexity Measure",
IEEE Transactions on Software Engineering 2(4), 1976), counted as servers/patterns/facts.py says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.messages.findings import EvidenceLevel, Provenance, TokenCount
from sage_actors.messages.passages import Passage
from sage_actors.messages.ranking import PassageIndex
from sage_actors.messages.units import counted
from sage_actors.servers.corpus.repository import Repository
from sage_actors.servers.patterns.facts import FileFacts, FunctionFacts
from sage_actors.servers.patterns.scan import Scan, Sources
from sage_actors.servers.quality.churn import Churn, read_churn
from sage_actors.servers.quality.tests import TestsNearby

__all__ = ["FileQuality", "FunctionQuality", "QualityResult", "Repetition", "Todo", "measure_quality"]

METHOD = (
    "complexity: 1 for each function + each if, else-if, loop (also of a comprehension), catch/except clause, case or "
    "match arm that is not the default, conditional expression, and further operand of and/or (after McCabe 1976); "
    "of a file: the sum. score: complexity x commits (hot spots after Tornhill 2015). tests nearby: test files whose "
    "name is the file's, or tests in the file itself; a test under another name is not seen."
)
_REPEATED_LINES = 6
_MAX_FILES = 1_000
_TOPICAL_SHARE = 0.25  # of the best score: below it a file only shares a common word with the topic
_SHOWN_TODOS = 20
_SHOWN_SKIPPED = 20


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FunctionQuality(_Data):
    """One function. `nesting`: the deepest inside it. `parameters`: without self and receiver."""

    name: str
    file: str
    line: int
    lines: int
    complexity: int
    nesting: int
    parameters: int


class FileQuality(_Data):
    """One file that is no test. commits and authors: in the months that `churn` says; null without a history."""

    file: str
    line: int = Field(description="of its most complex function; 1 without one")
    language: str
    lines: int
    functions: int
    complexity: int
    worst_function: str | None
    worst_complexity: int
    commits: int | None
    authors: int | None
    last_changed: str | None = Field(description="date of the newest of those commits")
    todos: int
    tests: list[str] = Field(
        description="test files nearby, by name; the file itself where its tests are in it"
    )
    score: int


class Repetition(_Data):
    """Functions whose bodies are the same except for white space."""

    lines: int
    places: list[str]


class Todo(_Data):
    """A line that says TODO, FIXME, XXX or HACK."""

    file: str
    line: int
    text: str


class QualityResult(_Data):
    """What was measured below `path`; lists are ranked, the worst first."""

    topic: str
    path: str
    summary: str
    method: str = METHOD
    churn: str = Field(description="what history the commits were counted in")
    files: int
    test_files: int
    functions: int
    lines: int
    median_complexity: int = Field(description="of a function that is no test")
    hot_spots: list[FileQuality]
    complex_functions: list[FunctionQuality]
    without_tests: list[str] = Field(
        description="files with functions and no tests nearby, the most complex first"
    )
    repetitions: list[Repetition]
    todos: list[Todo]
    skipped: list[str]
    citations: list[str]
    provenance: Provenance = "local"
    evidence_level: EvidenceLevel
    tokens: TokenCount
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Measured:
    facts: FileFacts
    quality: FileQuality


def measure_quality(sources: Sources, path: Path, *, topic: str = "", top: int = 15) -> QualityResult:
    """The quality of the sources at `path`, a folder or a file in the project; about `topic` where one is given."""
    churn = read_churn(Repository(sources.project))
    scan = sources.scan(path, max_files=_MAX_FILES, first=churn.files)
    tests = TestsNearby(sources.paths())
    measured = [_Measured(each, _file_quality(each, churn, tests)) for each in scan.files if not each.is_test]
    focus, notes = _focus(measured, topic)
    relative = path.relative_to(sources.project).as_posix()
    return _result(scan, relative, topic, measured, focus, churn, notes + _notes(scan, churn), top)


def _file_quality(facts: FileFacts, churn: Churn, tests: TestsNearby) -> FileQuality:
    code = [each for each in facts.functions if not each.is_test]
    worst = max(code, key=lambda each: (each.complexity, -each.line), default=None)
    complexity = facts.top_level_complexity + sum(each.complexity for each in code)
    seen = churn.of(facts.path)
    return FileQuality(
        file=facts.path,
        line=worst.line if worst else 1,
        language=facts.language,
        lines=facts.line_count,
        functions=len(code),
        complexity=complexity,
        worst_function=worst.name if worst else None,
        worst_complexity=worst.complexity if worst else 0,
        commits=seen.commits if churn.is_known else None,
        authors=len(seen.authors) if churn.is_known else None,
        last_changed=seen.newest,
        todos=len(facts.todos),
        tests=tests.of(facts),
        score=complexity * seen.commits if churn.is_known else complexity,
    )


def _focus(measured: Sequence[_Measured], topic: str) -> tuple[list[_Measured], list[str]]:
    """The files whose path and functions are named after the topic; all where none is."""
    if not topic.strip():
        return list(measured), []
    passages = [Passage(_named(each.facts), str(at)) for at, each in enumerate(measured)]
    found = PassageIndex(passages).search(topic, limit=len(passages))
    if not found:
        return list(measured), [f"no file or function is named after {topic!r}: the whole is ranked"]
    least = _TOPICAL_SHARE * found[0].score
    chosen = [measured[int(each.passage.source)] for each in found if each.score >= least]
    return chosen, [
        f"{len(chosen)} of {len(measured)} files have names that are about {topic!r}; the rest is left out"
    ]


def _named(facts: FileFacts) -> str:
    names = " ".join(each.name.replace(".", " ") for each in facts.functions)
    return f"{facts.path.replace('/', ' ')} {facts.opening.text} {names}"


def _result(
    scan: Scan,
    path: str,
    topic: str,
    measured: Sequence[_Measured],
    focus: Sequence[_Measured],
    churn: Churn,
    notes: list[str],
    top: int,
) -> QualityResult:
    functions = sorted(_functions(measured), key=lambda each: each.complexity)
    hot = sorted(
        (each.quality for each in focus), key=lambda each: (-each.score, -each.complexity, each.file)
    )[:top]
    complex_ = sorted(
        _functions(focus), key=lambda each: (-each.complexity, -each.lines, each.file, each.line)
    )[:top]
    result = QualityResult(
        topic=topic,
        path=path,
        summary=_summary(measured, functions, hot),
        churn=churn.described,
        files=len(measured),
        test_files=sum(each.is_test for each in scan.files),
        functions=len(functions),
        lines=sum(each.facts.line_count for each in measured),
        median_complexity=functions[(len(functions) - 1) // 2].complexity if functions else 0,
        hot_spots=hot,
        complex_functions=complex_,
        without_tests=_without_tests(focus)[:top],
        repetitions=_repetitions(focus)[:top],
        todos=_todos(focus)[:_SHOWN_TODOS],
        skipped=[f"{each.path}: {each.reason}" for each in scan.skipped[:_SHOWN_SKIPPED]],
        citations=_citations(hot, complex_),
        evidence_level="measured" if measured else "none",
        tokens=TokenCount(raw_bytes=0, kept_bytes=0, raw_tokens=0, kept_tokens=0, tokenizer=""),
        notes=notes,
    )
    return result.model_copy(update={"tokens": _tokens(measured, result)})


def _functions(measured: Iterable[_Measured]) -> list[FunctionQuality]:
    return [
        FunctionQuality(
            name=function.name,
            file=each.facts.path,
            line=function.line,
            lines=function.lines,
            complexity=function.complexity,
            nesting=function.nesting,
            parameters=function.parameters,
        )
        for each in measured
        for function in each.facts.functions
        if not function.is_test
    ]


def _summary(
    measured: Sequence[_Measured], functions: Sequence[FunctionQuality], hot: Sequence[FileQuality]
) -> str:
    if not measured:
        return "No source in Python, TypeScript, JavaScript, Go or Rust was found here."
    above = sum(each.complexity > 10 for each in functions)
    said = f"{counted(len(functions), 'function')} in {counted(len(measured), 'file')}; "
    said += f"{counted(above, 'is', 'are')} more complex than 10."
    if not hot:
        return said
    first = hot[0]
    changes = f", {counted(first.commits, 'commit')}" if first.commits is not None else ""
    return f"{said} The hottest spot is {first.file} (complexity {first.complexity}{changes})."


def _without_tests(focus: Sequence[_Measured]) -> list[str]:
    found = [each.quality for each in focus if each.quality.functions and not each.quality.tests]
    return [each.file for each in sorted(found, key=lambda each: (-each.complexity, each.file))]


def _repetitions(focus: Sequence[_Measured]) -> list[Repetition]:
    groups: dict[int, list[tuple[str, FunctionFacts]]] = {}
    for each in focus:
        for function in each.facts.functions:
            if not function.is_test and function.lines >= _REPEATED_LINES:
                groups.setdefault(function.fingerprint, []).append((each.facts.path, function))
    found = [
        Repetition(lines=group[0][1].lines, places=[f"{path}:{function.line}" for path, function in group])
        for group in groups.values()
        if len(group) > 1
    ]
    return sorted(found, key=lambda each: (-each.lines * len(each.places), each.places))


def _todos(focus: Sequence[_Measured]) -> list[Todo]:
    return [
        Todo(file=each.facts.path, line=place.line, text=place.text)
        for each in sorted(focus, key=lambda each: -each.quality.score)
        for place in each.facts.todos
    ]


def _citations(hot: Sequence[FileQuality], functions: Sequence[FunctionQuality]) -> list[str]:
    places = [f"{each.file}:{each.line}" for each in hot] + [f"{each.file}:{each.line}" for each in functions]
    return list(dict.fromkeys(places))


def _notes(scan: Scan, churn: Churn) -> list[str]:
    notes = []
    if scan.sampled < scan.found:
        notes.append(
            f"{scan.sampled} of {scan.found} sources were measured: what changed first, then by the hash of the path"
        )
    if scan.skipped:
        skipped = counted(len(scan.skipped), "source was", "sources were")
        notes.append(f"{skipped} not measured; `skipped` says which and why")
    if not churn.is_known:
        notes.append(f"churn: not determined, because {churn.described}; the score is the complexity alone")
    return notes


def _tokens(measured: Sequence[_Measured], result: QualityResult) -> TokenCount:
    """Raw: the measures of every file and function, which this answer was chosen from."""
    raw = "".join(each.quality.model_dump_json() for each in measured)
    raw += "".join(each.model_dump_json() for each in _functions(measured))
    kept = result.model_dump_json(exclude={"tokens"})
    return TokenCount.of(raw, kept)

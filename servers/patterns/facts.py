"""What one source file shows, counted: sightings of habits, and its functions with their measures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

__all__ = [
    "LANGUAGES",
    "FileFacts",
    "FunctionFacts",
    "Place",
    "Tally",
    "UnreadableError",
    "is_side_path",
    "is_test_path",
    "name_style",
    "see_file_name",
    "summary_line",
    "yes_or_no",
]

LANGUAGES = {
    ".py": "python",
    ".ts": "typescript",
    ".mts": "typescript",
    ".cts": "typescript",
    ".tsx": "typescript",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".jsx": "javascript",
    ".go": "go",
    ".rs": "rust",
}
"""The languages that are read, by the ending of the file's name."""

_EXAMPLES_PER_FILE = 2
_EXAMPLE_CHARS = 160
_VALUE_CHARS = 120
_TEST_FOLDERS = frozenset({"test", "tests", "__tests__", "spec", "specs", "e2e"})
_SIDE_FOLDERS = frozenset(
    (
        "example",
        "examples",
        "sample",
        "samples",
        "demo",
        "demos",
        "bench",
        "benches",
        "benchmarks",
        "doc",
        "docs",
    )
)
_TEST_NAMES = re.compile(
    r"^(test_.*|.*_test|conftest)\.py$|_test\.go$|\.(test|spec)\.[cm]?[jt]sx?$|^tests?\.(py|rs|[jt]s)$"
)
_WORDS = re.compile(r"[^\W\d_]{2,}")
_BOILERPLATE = re.compile(
    r"copyright|licen[cs]e|spdx|all rights reserved|applicable law|warrant|permission|redistribut|^#!|coding[:=]|"
    r"use strict|^\s*(from|import|use|pub use|package|extern)\b|\brequire\(|@ts-|eslint",
    re.IGNORECASE,
)
_TODO = re.compile(r"(?:#|//|/\*|\*|--)\s*\W{0,3}(TODO|FIXME|XXX|HACK)\b")


class UnreadableError(Exception):
    """The file cannot be parsed; the text says why."""


class Place(NamedTuple):
    """A line of the file, from 1, and what stands there."""

    line: int
    text: str


@dataclass(slots=True)
class Tally:
    """How often one value was seen in a file, and the first places."""

    count: int = 0
    places: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class FunctionFacts:
    """The measures of one function; what is nested in it and has a name is counted apart.

    complexity: 1 + its branches: each if, else-if, loop (also of a comprehension), catch or except clause, case
    or match arm that is not the default, conditional expression, and further operand of a logical and/or
    (after T. McCabe, "A Complexity Measure", IEEE TSE 2(4), 1976).
    nesting: how many of if, loop, switch, try and with enclose its innermost statement.
    parameters: without self, cls and the receiver. fingerprint: equal for bodies that differ in white space only.
    """

    name: str
    line: int
    end_line: int
    parameters: int = 0
    complexity: int = 1
    nesting: int = 0
    is_test: bool = False
    fingerprint: int = 0

    @property
    def lines(self) -> int:
        return self.end_line - self.line + 1


@dataclass(slots=True)
class FileFacts:
    """All that was counted in one file. `path` is relative to the project, with `/`."""

    path: str
    language: str
    is_test: bool
    size_bytes: int
    lines: Sequence[str] = ()
    """Only while the file is read: `finish` lets go of them."""
    line_count: int = 0
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    functions: list[FunctionFacts] = field(default_factory=list)
    todos: list[Place] = field(default_factory=list)
    opening: Place = field(default_factory=lambda: Place(1, ""))
    """The first line that says something: no blank one, no licence."""
    top_level_complexity: int = 0
    """Branches outside all functions."""

    def see(self, kind: str, value: str, line: int) -> None:
        """Counts one sighting of `value` at `line`."""
        value = value[:_VALUE_CHARS]
        tally = self.tallies.get((kind, value))
        if tally is None:
            tally = self.tallies[kind, value] = Tally()
        tally.count += 1
        if len(tally.places) < _EXAMPLES_PER_FILE:
            tally.places.append(Place(line, self._text(line)))

    @property
    def complexity(self) -> int:
        """Of the file: that of its functions, and the branches outside them."""
        return self.top_level_complexity + sum(each.complexity for each in self.functions)

    def finish(self) -> FileFacts:
        """Counts what needs no syntax, and lets go of the text."""
        self.line_count = len(self.lines)
        first = next((number for number, text in enumerate(self.lines[:60], 1) if _says_something(text)), 1)
        self.opening = Place(first, self._text(first))
        for number, text in enumerate(self.lines, 1):
            if "TODO" in text or "FIXME" in text or "XXX" in text or "HACK" in text:
                self._see_todo(number, text)
        self.functions.sort(key=lambda each: (each.line, -each.end_line))
        for function in self.functions:
            body = [text.strip() for text in self.lines[function.line : function.end_line]]
            function.fingerprint = hash(tuple(text for text in body if text))
        self.lines = ()
        return self

    def _see_todo(self, number: int, text: str) -> None:
        if _TODO.search(text):
            self.todos.append(Place(number, summary_line(text)))

    def _text(self, line: int) -> str:
        return summary_line(self.lines[line - 1]) if 0 < line <= len(self.lines) else ""


def _says_something(text: str) -> bool:
    """A line with words that is neither of a licence nor for a tool."""
    return len(_WORDS.findall(text)) > 1 and not _BOILERPLATE.search(text)


def summary_line(text: str) -> str:
    """A line as an example: without its indentation and control characters, of bounded length."""
    text = text.strip()
    if not text.isprintable():  # what a terminal would obey
        text = "".join(each if each.isprintable() else " " for each in text)
    return text if len(text) <= _EXAMPLE_CHARS else text[: _EXAMPLE_CHARS - 1] + "…"


def is_test_path(path: str) -> bool:
    """Whether the name, or a folder above, says that this is test code."""
    parts = PurePosixPath(path).parts
    if _TEST_NAMES.search(parts[-1]):
        return True
    return any(_is_test_folder(depth, part) for depth, part in enumerate(parts[:-1]))


def _is_test_folder(depth: int, name: str) -> bool:
    """A folder `testing` inside of a package is what it offers for the tests of others."""
    return name.lower() in _TEST_FOLDERS or (depth == 0 and name.lower() == "testing")


def is_side_path(path: str) -> bool:
    """Whether it is an example, a benchmark or documentation: code that shows, not code that is the project."""
    return any(part.lower() in _SIDE_FOLDERS for part in PurePosixPath(path).parts[:-1])


def yes_or_no(value: object) -> str:
    """How a fact of two values is counted."""
    return "yes" if value else "no"


def name_style(name: str) -> str | None:
    """`snake_case`, `camelCase`, `PascalCase`, `UPPER_CASE`, `kebab-case` or `mixed`; None: too short to tell.

    A name of one lower-case word fits several styles and shows none.
    """
    name = name.strip("_$#")
    if not name or not name[0].isalpha():
        return None
    if "-" in name:
        return "kebab-case" if name == name.lower() else "mixed"
    if "_" in name:
        if name == name.lower():
            return "snake_case"
        return "UPPER_CASE" if name == name.upper() else "mixed"
    if name == name.lower():
        return None
    if name == name.upper():
        return "UPPER_CASE" if len(name) > 1 else None
    return "PascalCase" if name[0].isupper() else "camelCase"


def see_file_name(facts: FileFacts) -> None:
    """Counts the style of the file's name, and for a test how it is named and where it lies."""
    path = PurePosixPath(facts.path)
    if not facts.is_test:
        style = name_style(path.name.split(".")[0])
        if style is not None:
            facts.see("naming.files", style, 1)
        return
    has_tests = any(kind in ("testing.style", "testing.framework") for kind, _ in facts.tallies)
    named = _test_name_form(path, has_tests=has_tests)
    if named is not None:
        facts.see("testing.file_names", named, 1)
        facts.see("testing.location", _test_location(path), 1)


def _test_name_form(path: PurePosixPath, *, has_tests: bool) -> str | None:
    """What the names of tests have in common; None for what only helps them."""
    stem, ending = path.stem, path.suffix
    if stem.startswith("test_"):
        return f"test_*{ending}"
    if stem.endswith("_test"):
        return f"*_test{ending}"
    for middle in (".test", ".spec"):
        if stem.endswith(middle):
            return f"*{middle}{ending}"
    return f"freely, in a folder of tests (*{ending})" if has_tests else None


def _test_location(path: PurePosixPath) -> str:
    for depth, part in enumerate(path.parts[:-1]):
        if _is_test_folder(depth, part):
            return f"in {part}/ at the root" if depth == 0 else f"in {part}/ below the code's folders"
    return "beside the code"

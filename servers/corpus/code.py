"""Source text in pieces: definitions with their names and comments, and the notes left in comments.

Definitions are found line by line by patterns, not by parsing: one mechanism for every language, whole
repositories in a second, files that do not compile included. What a piece cites is always the text that stands there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice

from sage_actors.messages.passages import Passage

__all__ = ["Definition", "Piece", "code_pieces", "definitions", "note_pieces"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JS_METHOD = r"(?!(?:if|for|while|switch|catch|return|function|with|do|else|await|new|typeof|super)\b)"
_MODIFIERS = (
    r"(?:(?:export|default|declare|abstract|async|static|public|private|protected|internal|final|override|sealed|open"
    r"|data|inline|readonly|unsafe|extern|pub(?:\([\w: ]+\))?|const|virtual|synchronized|partial|local|suspend)\s+)*"
)
_PATTERNS: dict[str, str] = {
    "python": r"(?P<indent>[ \t]*)(?:async\s+)?(?P<what>def|class)\s+(?P<name>\w+)",
    "javascript": (
        rf"(?P<indent>[ \t]*){_MODIFIERS}(?:"
        r"(?P<what>function|class|interface|enum|type|namespace)\b[\s*]*(?P<name>[\w$]+)"
        r"|(?:const|let|var)\s+(?P<name2>[\w$]+)[^=]*=\s*(?:async\s*)?(?:function\b|\([^()]*\)\s*(?::[^=]+)?=>|[\w$]+\s*=>)"
        r"|(?P<name3>[\w$.]+)\s*=\s*(?:async\s+)?function\b"
        rf"|(?:get\s+|set\s+|\*\s*)?#?{_JS_METHOD}(?P<name4>[\w$]+)\s*(?:<[^>]*>)?\((?:(?!=>|\bfunction\b)[^;])*\{{\s*$)"
    ),
    "go": (
        r"(?P<indent>)(?:(?P<what>func)\s+(?:\(\s*(?:\w+\s+)?\*?(?P<owner>\w+)[^)]*\)\s*)?(?P<name>\w+)"
        r"|(?P<what2>type|var|const)\s+(?P<name2>\w+))"
    ),
    "rust": (
        rf"(?P<indent>[ \t]*){_MODIFIERS}(?:(?P<what>fn|struct|enum|trait|mod|type|union|macro_rules!)\s+(?P<name>\w+)"
        r"|(?P<what2>impl)(?:<[^{]*?>)?\s+(?:[\w:<>, ']+\s+for\s+)?(?P<name2>\w+))"
    ),
    "c": (
        r"(?P<indent>)(?:(?:typedef\s+)?(?P<what>struct|class|enum|union|namespace)\s+(?P<name>\w+)\s*(?:[:{]|$)"
        r"|(?:[A-Za-z_][\w:<>,&*\s]*?[\s*&])(?P<name2>[\w:~]+)\s*\([^;]*$|#define\s+(?P<name3>\w+)\()"
    ),
    "shell": r"(?P<indent>[ \t]*)(?:function\s+(?P<name>[\w:-]+)|(?P<name2>[\w:-]+)\s*\(\))",
    "other": (
        rf"(?P<indent>[ \t]*){_MODIFIERS}(?:(?P<what>class|interface|struct|enum|trait|object|record|protocol|module"
        r"|defmodule|func|fun|fn|def|defp|function|sub|message|service|extension|actor)\s+(?P<name>[\w.]+[!?]?)"
        r"|[\w<>\[\],.?]+\s+(?P<name2>\w+)\s*\([^;]*\)\s*(?:throws [\w, ]+)?\{\s*$)"
    ),
}
_COMPILED = {language: re.compile(pattern) for language, pattern in _PATTERNS.items()}
_HINTS = {  # one of them is in each line that defines something: cheaper than a pattern
    "python": ("def ", "class "),
    "go": ("func", "type", "var", "const"),
}
_PIECE_CHARS = 900
_TRIPLE = ('"""', "'''")
_IMPORTING = re.compile(
    r"\s*(?:import\b|from\b|use\b|require|\}? from\b|[\w.*, ]+,?$|[({})\]]+,?;?$|\"[\w./-]+\"$|if TYPE_CHECKING:)"
)
_IMPORTS_WEIGHT = 0.3
_MOSTLY = 0.6
_CONTAINERS = _words("class interface impl trait struct enum mod namespace module defmodule object extension")
_ABOVE = re.compile(r"\s*(#(?!include|define|if|endif|!)|//|/\*|\*|--|@|///|;;|%%|\[\w)")
_NOTE = re.compile(r"(?:#|//|/\*|^\s*\*|--|;|<!--|%)[^\n]{0,80}?\b(TODO|FIXME|XXX|HACK)\b")
_NOTE_WORDS = ("TODO", "FIXME", "XXX", "HACK")
_COMMENT = re.compile(r"\s*(#|//|\*|--|;|%)")


@dataclass(frozen=True, slots=True)
class Definition:
    """`name`: qualified by its class or module. `line`: of the keyword; `first_line`: of the comment above it."""

    name: str
    line: int
    first_line: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage and what it is about: a heading, or the name of a definition. `defines`: it begins there.

    extra: words that find it and are not shown.
    """

    passage: Passage
    title: str = ""
    defines: bool = False
    extra: str = ""


def definitions(lines: Sequence[str], language: str) -> Iterator[Definition]:
    """What the lines of a file define, in their order; nested ones qualified as `Outer.inner`."""
    pattern = _COMPILED.get(language)
    if pattern is None:
        return
    hints = _HINTS.get(language)
    quoted = _in_strings(lines) if language == "python" else _in_comments(lines)
    owners: list[tuple[int, str]] = []  # containers that are open, by indentation
    last = 0
    for number, line in enumerate(lines) if hints is None else _holding(hints, lines):
        if not line or len(line) > 300:
            continue
        if number in quoted or (match := pattern.match(line)) is None:
            continue
        groups = match.groupdict()
        name = groups.get("name") or groups.get("name2") or groups.get("name3") or groups.get("name4") or ""
        indent = len(groups["indent"].expandtabs(4))
        while owners and owners[-1][0] >= indent:
            owners.pop()
        outer = [each for _, each in owners]
        if owner := groups.get("owner"):
            outer.append(owner)
        qualified = ".".join([*outer, name])
        if (groups.get("what") or groups.get("what2")) in _CONTAINERS:
            owners.append((indent, name))
        first = number
        while first > last and _ABOVE.match(lines[first - 1]):
            first -= 1
        last = number + 1
        yield Definition(qualified, number + 1, first + 1)


def _holding(words: Collection[str], lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The lines that hold one of `words`, with their indices."""
    text = "\n".join(lines)
    wanted = [word for word in words if word in text]
    for number, line in enumerate(lines) if wanted else ():
        for word in wanted:
            if word in line:
                yield number, line
                break


def _in_strings(lines: Sequence[str]) -> Set[int]:
    """The lines inside Python's triple-quoted strings: an example in a docstring defines nothing.

    A mark that is never closed opens nothing: it stood in a comment or in another string.
    """
    found: set[int] = set()
    opened, mark = 0, ""
    for number, line in enumerate(lines):
        if mark:
            if mark in line:
                found.update(range(opened + 1, number + 1))
                mark = ""
        elif '"""' in line or "'''" in line:
            first = min((at, each) for each in _TRIPLE if (at := line.find(each)) >= 0)[1]
            if line.count(first) % 2:
                opened, mark = number, first
    return found


def _in_comments(lines: Sequence[str]) -> Set[int]:
    """The lines inside comments of several lines, except the first: an example in a comment defines nothing."""
    found: set[int] = set()
    is_open = False
    for number, line in enumerate(lines):
        if is_open:
            found.add(number)
            is_open = "*/" not in line
        elif "/*" in line and line.lstrip().startswith("/*"):
            is_open = "*/" not in line
    return found


def code_pieces(
    lines: Sequence[str], defined: Sequence[Definition], source: str, kind: str, weight: float
) -> Iterator[Piece]:
    """The lines cut before every definition; what stands above the first one is a piece of its own.

    Of a test only the beginning is taken: tests are half of many projects, and more alike than anything else.
    """
    found = [Definition("", 1, 1), *defined] if not defined or defined[0].first_line > 1 else defined
    ends = [d.first_line - 1 for d in found[1:]] + [len(lines)]
    for definition, end in zip(found, ends, strict=True):
        defines = bool(definition.name)
        cuts = _cuts(lines, definition.first_line - 1, end)
        # A test says at its beginning what it tests.
        for first, last in islice(cuts, 1) if kind == "test" else cuts:
            text = "\n".join(line.rstrip()[:_PIECE_CHARS] for line in lines[first:last])
            own = weight if definition.name or not _mostly_imports(text) else weight * _IMPORTS_WEIGHT
            passage = Passage(text.rstrip(), source, first + 1, kind, own)
            yield Piece(passage, definition.name, defines=defines)
            defines = False


def _mostly_imports(text: str) -> bool:
    """Whether it is mostly the list of imports at the top of a file: that has many words and says nothing."""
    lines = [line for line in text.split("\n") if line.strip()]
    return sum(1 for line in lines if _IMPORTING.match(line)) >= _MOSTLY * len(lines)


def _cuts(lines: Sequence[str], first: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of lines of at most `_PIECE_CHARS`, cut at a blank line where one is in the second half."""
    while first < end:
        if not lines[first].strip():
            first += 1
            continue
        size, last, blank = 0, first, 0
        while last < end and (size := size + len(lines[last]) + 1) <= _PIECE_CHARS:
            last += 1
            if size > _PIECE_CHARS // 2 and last < end and not lines[last].strip():
                blank = last
        last = max(last if last == end else blank or last, first + 1)
        yield first, last
        first = last


def note_pieces(lines: Sequence[str], source: str, weight: float) -> Iterator[Piece]:
    """TODO, FIXME, XXX and HACK in comments, each with the comment lines that go on below it."""
    for number, line in _holding(_NOTE_WORDS, lines):
        if len(line) < 400 and _NOTE.search(line):
            end = number + 1
            while end < min(number + 4, len(lines)) and _COMMENT.match(lines[end]):
                end += 1
            note = "\n".join(part.rstrip() for part in lines[number:end])
            yield Piece(Passage(note, source, number + 1, "todo", weight))

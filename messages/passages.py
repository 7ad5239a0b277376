"""Passages: pieces of a text that can be read alone, each with the line it begins at.

A text is cut where its author paused: at headings, blank lines, list items and code fences, and in
source text before definitions. A heading stays with what follows it. Every passage is a run of
whole lines, so that `source:line` leads to it; only a line longer than a passage is cut inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Passage", "split_passages"]

_SOURCE_TEXT = frozenset({"code", "test", "configuration", "dependency"})
_HEADING = re.compile(r"#{1,6}\s")
_UNDERLINE = re.compile(r"([=\-~^\"*+#`:.'_])\1{2,}\s*$")
_BEGINNING = re.compile(r"#{1,6}\s|\s*([-*+•]\s|\d{1,3}[.)]\s|`{3}|~{3})")  # heading, list item, fence
_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_DEFINITION = re.compile(
    r"(@|(export |pub(\([a-z]+\))? |async |static |default |abstract |public |private |unsafe )*"
    r"(def|class|func|fn|function|struct|enum|trait|impl|interface|type|mod|namespace)\b)"
)
_SENTENCE_END = re.compile(r"[.!?;。！？]\s+|\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """`source`: where it stands, as a citation names it. `line`: its first, from 1; None where lines mean nothing.

    `weight` multiplies its score in a ranking: above 1 for what counts more.
    """

    text: str
    source: str
    line: int | None = None
    kind: str = "documentation"
    weight: float = 1.0


@dataclass(slots=True)
class _Block:
    """Lines [first, end) that belong together. `opens`: begins a section. `heading`: is nothing but a heading."""

    first: int
    end: int
    opens: bool = False
    heading: bool = False


def split_passages(
    text: str,
    source: str,
    *,
    kind: str = "documentation",
    first_line: int = 1,
    max_chars: int = 700,
    weight: float = 1.0,
) -> list[Passage]:
    """The passages of `text`, in its order, none longer than `max_chars` characters.

    `kind` code, test, configuration or dependency: source text, in which `#` is no heading.
    `first_line`: the line of the file at which `text` begins. Blank text has no passages.
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}: a passage holds at least one character")
    lines = [line.rstrip() for line in text.split("\n")]
    blocks = _code_blocks(lines) if kind in _SOURCE_TEXT else _prose_blocks(lines)
    return [
        Passage(piece, source, first_line + line, kind, weight)
        for first, end in _gathered(blocks, lines, max_chars)
        for line, piece in _pieces(lines, first, end, max_chars)
    ]


def _prose_blocks(lines: list[str]) -> Iterator[_Block]:
    """Headings, paragraphs, list items and fenced code of Markdown, reStructuredText or plain text."""
    at = 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        end, heading = _block_end(lines, at)
        yield _Block(at, end, opens=heading, heading=heading)
        at = end


def _block_end(lines: list[str], at: int) -> tuple[int, bool]:
    """Where the block that begins at a line ends, and whether it is a heading."""
    if _HEADING.match(lines[at]):
        return at + 1, True
    if at + 1 < len(lines) and _UNDERLINE.match(lines[at + 1]) and not _UNDERLINE.match(lines[at]):
        return at + 2, True
    if fence := _FENCE.match(lines[at]):
        return _fence_end(lines, at, fence[1]), False
    end = at + 1
    while end < len(lines) and lines[end] and not _begins(lines, end):
        end += 1
    return end, False


def _begins(lines: list[str], at: int) -> bool:
    """Whether a line begins a block of its own, though no blank line is above it."""
    if _BEGINNING.match(lines[at]):
        return True
    below = lines[at + 1] if at + 1 < len(lines) else ""
    return len(lines[at]) <= len(below) and bool(_UNDERLINE.match(below))


def _fence_end(lines: list[str], at: int, fence: str) -> int:
    """Behind the closing fence; a fence that nobody closed ends with the text."""
    for end in range(at + 1, len(lines)):
        if lines[end].strip().startswith(fence):
            return end + 1
    return len(lines)


def _code_blocks(lines: list[str]) -> Iterator[_Block]:
    """Runs of lines without a blank one, cut also before definitions that stand at the left."""
    first: int | None = None
    for at, line in enumerate(lines):
        opens = bool(_DEFINITION.match(line)) and not (at and lines[at - 1].startswith("@"))
        if first is not None and (not line or opens):
            yield _Block(first, at, opens=bool(_DEFINITION.match(lines[first])))
            first = None
        if line and first is None:
            first = at
    if first is not None:
        yield _Block(first, len(lines), opens=bool(_DEFINITION.match(lines[first])))


def _gathered(blocks: Iterator[_Block], lines: list[str], max_chars: int) -> Iterator[tuple[int, int]]:
    """Neighbouring blocks of one section in one passage, as long as they fit."""
    first = end = -1
    length, only_heading = 0, True
    for block in blocks:
        longer = length + _length(lines, end, block.end)
        apart = block.opens or longer > max_chars + 1
        if first >= 0 and apart and not only_heading:
            yield first, end
            first = -1
        if first < 0:
            first, only_heading = block.first, True
            longer = _length(lines, first, block.end)
        end, length = block.end, longer
        only_heading = only_heading and block.heading
    if first >= 0:
        yield first, end


def _length(lines: list[str], first: int, end: int) -> int:
    """Of the lines with their line ends."""
    return sum(map(len, lines[first:end])) + end - first


def _pieces(lines: list[str], first: int, end: int, max_chars: int) -> Iterator[tuple[int, str]]:
    """(line, text) of lines [first, end): whole where it fits, else greedily line by line."""
    start = first
    while start < end:
        if not lines[start]:
            start += 1
            continue
        if len(lines[start]) > max_chars:
            for piece in _cut_line(lines[start], max_chars):
                yield start, piece
            start += 1
            continue
        stop, length = start + 1, len(lines[start])
        while stop < end and length + 1 + len(lines[stop]) <= max_chars:
            length += 1 + len(lines[stop])
            stop += 1
        yield start, "\n".join(lines[start:stop]).rstrip()
        start = stop


def _cut_line(line: str, max_chars: int) -> Iterator[str]:
    """A line longer than a passage: at the end of a sentence, else between words, else anywhere."""
    at = 0
    while len(line) - at > max_chars:
        window = line[at : at + max_chars]
        cuts = list(_SENTENCE_END.finditer(window, max_chars // 2))
        sentences = [m for m in cuts if not m[0][0].isspace()]
        best = sentences or cuts
        length = best[-1].end() if best else max_chars
        if piece := window[:length].strip():
            yield piece
        at += length
    if piece := line[at:].strip():
        yield piece

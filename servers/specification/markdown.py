"""Markdown that says exactly what it was given: text of a repository cannot become markup, and places are counted.

But for secrets, which are redacted before anything is cut: a document is handed to agents and models, and committed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from sage_actors.messages.secret_scan import redact_text
from sage_actors.servers.corpus.sources import Sources

__all__ = ["Document", "HasPlace", "block", "code", "plain", "shortened", "unmarked"]

_MARKUP = re.compile(r"([\\`*<\[\]]|(?<!\w)_|_(?!\w))")
_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]*)[^)]*\)")


class HasPlace(Protocol):
    """Something that stands at a line of a file."""

    @property
    def path(self) -> str: ...
    @property
    def line(self) -> int: ...


def shortened(text: str, limit: int = 160) -> str:
    """One line of at most `limit` characters, cut at a word."""
    text = redact_text(" ".join(text.split()))[0]
    return text if len(text) <= limit else text[: limit - 2].rpartition(" ")[0].rstrip(",;") + " …"


def plain(text: str, limit: int = 300) -> str:
    """Text that shows as itself: characters that Markdown or HTML give a meaning are escaped."""
    return _MARKUP.sub(r"\\\1", shortened(text, limit))


def unmarked(text: str) -> str:
    """A quotation without the marks of its own format: emphasis, code, list items, links as `text (address)`."""
    text = _LINK.sub(lambda m: f"{m[1]} ({m[2]})" if m[2].startswith("http") else m[1], text)
    text = re.sub(r"(?::\w+)+:`~?\.?([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", text)  # roles of reStructuredText
    return re.sub(r"\*\*|``?|^\s*(?:[-*+•]|\d+[.)]|#+|>)\s+", "", text).strip()


def code(text: str, limit: int = 160) -> str:
    """An inline code span of any text."""
    text = shortened(text, limit) or " "
    ticks = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def block(lines: Sequence[str], language: str = "") -> list[str]:
    """A fenced block; the fence is longer than any in the text."""
    lines = redact_text("\n".join(lines))[0].split("\n")
    longest = max((len(run) for line in lines for run in re.findall(r"`{3,}", line)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}{language}", *(line[:400] for line in lines), fence]


class Document:
    """Lines that are added, and what they cite. A place that is not in the project cannot be cited."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lines: list[str] = []
        self.citations: dict[str, list[str]] = {}
        self.sections: list[tuple[str, str]] = []

    def front_matter(self, fields: Iterable[tuple[str, str]]) -> None:
        """YAML between `---`; every value is a quoted text, without a tag for who takes it for Markdown."""
        said = ((key, json.dumps(value, ensure_ascii=False)) for key, value in fields)
        self._lines += [
            "---",
            *(f"{key}: {value.replace('<', chr(92) + 'u003c')}" for key, value in said),
            "---",
            "",
        ]

    def heading(self, title: str, level: int = 2) -> None:
        """A heading; of level 2 it opens a section."""
        self._lines += ["", f"{'#' * level} {title}", ""]
        if level == 2:
            self.sections.append((title, ""))

    def undetermined(self, why: str) -> None:
        """Says that the section has no evidence, and why."""
        self._lines.append(f"Not determined: {why}")
        title, _ = self.sections[-1]
        self.sections[-1] = (title, why)

    def add(self, *lines: str) -> None:
        """Lines as they are."""
        self._lines += lines

    def bullet(self, text: str, depth: int = 0) -> None:
        self._lines.append(f"{'  ' * depth}- {text}")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; cells must be Markdown already and hold no line ends."""
        cells = [[cell.replace("\n", " ").replace("|", "\\|") for cell in row] for row in rows]
        self._lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        self._lines += ["| " + " | ".join(row) + " |" for row in cells]

    def at(self, source: str, line: int | None = None, what: str = "") -> str:
        """The citation of a place, as code, and remembered for the table of evidence.

        Raises:
            ValueError: the place does not exist: a claim without ground must not reach the document.
        """
        if not self._sources.holds(source, line):
            raise ValueError(f"{source}:{line} is not in the project")
        place = source if line is None else f"{source}:{line}"
        said = self.citations.setdefault(place, [])
        if what and what not in said:
            said.append(what)
        return code(place)

    def at_place(self, place: HasPlace, what: str = "") -> str:
        """As `at`, for what has a path and a line."""
        return self.at(place.path, place.line, what)

    def text(self) -> str:
        """The document, with no more than one empty line in a row."""
        text = redact_text("\n".join(self._lines))[0]
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

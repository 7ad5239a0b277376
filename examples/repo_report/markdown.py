"""Markdown out of text that others wrote: it is shown, never interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["bar", "code", "number", "plain", "table"]

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>|~#&])")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def plain(text: object, limit: int = 200) -> str:
    """Text as it is: nothing in it is markup, and it stays on its line."""
    return _ACTIVE.sub(r"\\\1", _visible(str(text), limit))


def code(text: object, limit: int = 200) -> str:
    """Text in a code span, fit for a table cell."""
    shown = _visible(str(text), limit).replace("|", "\\|")
    if not shown.strip():
        return "` `"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{shown}{space}{fence}"


def number(value: float) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}"


def bar(value: float, largest: float, width: int = 20) -> str:
    """A bar in proportion; anything above nothing shows."""
    return "█" * max(1, round(width * value / largest)) if value and largest else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table. Cells are finished Markdown; a column of numbers is set to the right.

    >>> table(["a", "b"], [["x", 1]])
    ['', '| a | b |', '|---|--:|', '| x | 1 |', '']
    """
    body = [
        ["" if cell is None else number(cell) if isinstance(cell, int) else str(cell) for cell in row]
        for row in rows
    ]
    right = [
        bool(body) and all(re.fullmatch(r"[\d.,%≥ +−-]*", row[at]) for row in body) for at in range(len(head))
    ]
    rule = "|".join("--:" if is_right else "---" for is_right in right)
    return ["", _line(head), f"|{rule}|", *(_line(row) for row in body), ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _visible(text: str, limit: int) -> str:
    shown = _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"

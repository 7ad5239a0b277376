"""TODO, FIXME, HACK and XXX in comments, and how old each line is, by git blame."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from repo_report.git import GitError, ask, display
from repo_report.languages import PROSE_AND_DATA
from repo_report.tree import File, Read

__all__ = ["todos"]

MAX_SHOWN = 12
MAX_BLAMED_FILES = 150
MAX_LINES_PER_FILE = 50
MAX_TEXT = 100
BLAME_BUDGET_S = 90.0
_MARKER = re.compile(
    r"""(?:\#|//|/\*|\(\*|^\s*\*|--|;|<!--|%|!|\"\"\"|''')      # only behind what opens a comment,
        [^\n"'`]{0,80}?\b(TODO|FIXME|HACK|XXX)\b(?![\w"'`=|-])
      | ^\s*(TODO|FIXME|HACK|XXX)\b[:( ]                        # or first on a line of a longer one
    """,
    re.VERBOSE,
)


def todos(
    root: str, head: str, reads: Iterable[Read], shallow: bool = False, now: float | None = None
) -> dict[str, Any]:
    """The marked lines of `reads`, oldest first; `days` is None where blame was left out, to save time."""
    now = time.time() if now is None else now
    found = [(read.file, hits) for read in reads if (hits := _marked(read))]
    deadline = time.monotonic() + BLAME_BUDGET_S
    rows: list[dict[str, Any]] = []
    for number, (file, hits) in enumerate(found):
        may_blame = number < MAX_BLAMED_FILES and time.monotonic() < deadline
        ages = (
            _blame(root, head, file, [line for line, _, _ in hits][:MAX_LINES_PER_FILE]) if may_blame else {}
        )
        rows += [_row(file, hit, ages.get(hit[0]), shallow, now) for hit in hits]
    rows.sort(key=lambda row: (-(row["days"] if row["days"] is not None else -1), row["path"], row["line"]))
    return {
        "count": len(rows),
        "kinds": dict(Counter(row["kind"] for row in rows).most_common()),
        "older_than_a_year": sum((row["days"] or 0) > 365 for row in rows),
        "without_age": sum(row["days"] is None for row in rows),
        "oldest": rows[:MAX_SHOWN],
    }


def _marked(read: Read) -> list[tuple[int, str, str]]:
    """(line number from 1, kind, text) of each marked line."""
    if read.text is None or read.file.role == "generated" or read.file.language in PROSE_AND_DATA | {None}:
        return []
    if not any(word in read.text for word in ("TODO", "FIXME", "HACK", "XXX")):
        return []
    hits = []
    for number, line in enumerate(read.text.split("\n"), 1):
        if len(line) < 1000 and (match := _MARKER.search(line)):
            start = match.start(match.lastindex or 0)
            hits.append((number, match[match.lastindex or 0], line[start:].strip()[:MAX_TEXT]))
    return hits


def _row(
    file: File, hit: tuple[int, str, str], blamed: tuple[int, str, bool] | None, shallow: bool, now: float
) -> dict[str, Any]:
    line, kind, text = hit
    row: dict[str, Any] = {"path": file.path, "line": line, "kind": kind, "text": text}
    at, author, boundary = blamed or (None, None, False)
    days = None if at is None else max(0, int((now - at) / 86_400))
    return {**row, "days": days, "at_least": boundary and shallow, "author": author}


def _blame(root: str, head: str, file: File, lines: list[int]) -> dict[int, tuple[int, str, bool]]:
    """Line number to (author's time, author, whether history ends there); empty where git cannot tell."""
    ranges = [f"-L{line},{line}" for line in lines]
    try:
        porcelain = ask(
            root, "blame", "--porcelain", "--no-textconv", *ranges, head, "--", file.raw, timeout_s=30
        )
    except GitError:
        return {}
    return _parse(display(porcelain))


def _parse(porcelain: str) -> dict[int, tuple[int, str, bool]]:
    """Facts about a commit are printed the first time that it occurs, and hold for its later lines."""
    commits: dict[str, dict[str, str]] = {}
    lines: dict[int, str] = {}
    facts: dict[str, str] = {}
    for line in porcelain.split("\n"):
        if line.startswith("\t"):
            continue
        key, _, value = line.partition(" ")
        if len(key) >= 40 and key.isalnum() and value[:1].isdigit():
            facts = commits.setdefault(key, {})
            lines[int(value.split()[1])] = key
        elif key:
            facts[key] = value
    return {
        number: (int(facts.get("author-time", "0")), facts.get("author", "?"), "boundary" in facts)
        for number, facts in ((number, commits[commit]) for number, commit in lines.items())
    }

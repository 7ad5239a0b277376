"""What happened: commits, authors, the trend, and which files change most."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from repo_report.git import GitError, ask, display, records
from repo_report.languages import PROSE_AND_DATA
from repo_report.tree import File, list_files, read_texts

__all__ = ["churn", "hotspots", "ownership"]

MAX_AUTHORS = 12
MAX_CHANGED = 150
MAX_HOTSPOTS = 15
YEAR_S = 365.25 * 86_400
_BOTS = ("[bot]", "dependabot", "renovate", "github-actions", "pre-commit-ci", "greenkeeper", "snyk-bot")


@dataclass(slots=True)
class _Commit:
    at: int
    author: str
    # (lines added, lines removed, path, path before a rename)
    changes: list[tuple[int, int, bytes, bytes | None]] = field(default_factory=list)

    @property
    def is_by_bot(self) -> bool:
        return any(mark in self.author.lower() for mark in _BOTS)


@dataclass(slots=True)
class _Tally:
    commits: int = 0
    added: int = 0
    deleted: int = 0
    last: int = 0
    authors: Counter[str] = field(default_factory=Counter)

    def count(self, commit: _Commit, added: int, deleted: int) -> None:
        self.commits += 1
        self.added += added
        self.deleted += deleted
        self.last = max(self.last, commit.at)
        if not commit.is_by_bot:
            self.authors[commit.author] += 1


def churn(root: str, head: str | None, max_commits: int = 10_000) -> dict[str, Any]:
    """The newest `max_commits` commits (merges aside): who, when, and which files of today they touched."""
    if head is None:
        return {"commits": 0}
    total = int(ask(root, "rev-list", "--count", "--no-merges", head))
    merges = int(ask(root, "rev-list", "--count", "--merges", head))
    here = {file.raw: file for file in list_files(root, head)[0]}
    people: dict[str, list[int]] = {}
    files: dict[bytes, _Tally] = {}
    months: dict[str, _Tally] = {}
    seen, bots = 0, 0
    for commit in _commits_following_renames(root, head, max_commits):
        seen += 1
        added, deleted = sum(each[0] for each in commit.changes), sum(each[1] for each in commit.changes)
        months.setdefault(_month(commit.at), _Tally()).count(commit, added, deleted)
        for plus, minus, raw, _ in commit.changes:
            if raw in here:
                files.setdefault(raw, _Tally()).count(commit, plus, minus)
        if commit.is_by_bot:
            bots += 1
        else:
            people.setdefault(commit.author, []).append(commit.at)
    return {
        "commits": seen,
        "left_out": max(0, total - seen),
        "merges": merges,
        "bot_commits": bots,
        **_people(people),
        "months": _months(months),
        **_changed(files, here),
    }


def hotspots(root: str, head: str | None, changed: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The files of `changed` (from `churn`) that are large and often changed; the worst has score 100."""
    wanted = {row["path"]: row for row in changed or []}
    rows = []
    for read in read_texts(root, (file for file in list_files(root, head)[0] if file.path in wanted)):
        row = wanted[read.file.path]
        if read.text and row["is_code"] and row["commits"] > 1 and read.file.role != "generated":
            rows.append({**row, "lines": read.text.count("\n") + (not read.text.endswith("\n"))})
    worst = max((row["lines"] * row["commits"] for row in rows), default=1)
    for row in rows:
        row["score"] = round(100 * row["lines"] * row["commits"] / worst)
    return sorted(rows, key=lambda row: (-row["score"], row["path"]))[:MAX_HOTSPOTS]


def ownership(
    root: str, head: str | None, prefix: str, without: list[str], max_commits: int = 3000
) -> dict[str, Any]:
    """Who changed a directory, how often, and when last."""
    if head is None:
        return {"commits": 0, "authors": 0}
    paths = [
        f":(top,literal){prefix}" if prefix else ":(top)",
        *(f":(top,exclude,literal){each}" for each in without),
    ]
    tally = _Tally()
    for commit in _commits(root, head, max_commits, "--", *paths):
        tally.count(commit, 0, 0)
    leader, most = _leader(tally.authors)
    return {
        "commits": tally.commits,
        "capped": tally.commits == max_commits,
        "authors": len(tally.authors),
        "main_author": leader,
        "main_share": round(most / max(1, tally.authors.total()), 2),
        "last": tally.last or None,
    }


def _commits_following_renames(root: str, head: str, limit: int) -> Iterator[_Commit]:
    """The commits, newest first, where each path is the one that the file has today."""
    now: dict[bytes, bytes] = {}
    for commit in _commits_with_changes(root, head, limit):
        commit.changes = [
            (plus, minus, now.get(path, path), old) for plus, minus, path, old in commit.changes
        ]
        yield commit
        now.update({old: path for _, _, path, old in commit.changes if old is not None})


def _commits_with_changes(root: str, head: str, limit: int) -> Iterator[_Commit]:
    options = ("--no-ext-diff", "--no-textconv", "-M90%", "-l400")
    yielded = 0
    try:
        for commit in _commits(root, head, limit, "--numstat", *options):
            yielded += 1
            yield commit
    except GitError:
        if yielded:
            raise
        # A partial clone has no old contents: the names alone can still be had, lines count as 0.
        yield from _commits(root, head, limit, "--name-only", "--no-renames", *options[:2])


def _commits(root: str, head: str, limit: int, *options: str) -> Iterator[_Commit]:
    what = (
        "log",
        "-z",
        "--no-merges",
        "--encoding=UTF-8",
        f"--max-count={limit}",
        "--format=%x01%at%x1f%aE%x1f%aN",
    )
    split = options.index("--") if "--" in options else len(options)
    names: dict[str, str] = {}
    commit: _Commit | None = None
    stream = records(root, *what, *options[:split], head, *options[split:])
    for record in stream:
        record = record.removeprefix(b"\n")
        if record.startswith(b"\x01"):
            if commit is not None:
                yield commit
            at, email, name = display(record[1:]).split("\x1f", 2)
            commit = _Commit(_sane(at), names.setdefault(email.lower(), name.strip() or email))
        elif record and commit is not None:
            commit.changes.append(_change(record, stream, with_lines="--numstat" in options))
    if commit is not None:
        yield commit


def _change(record: bytes, stream: Iterator[bytes], with_lines: bool) -> tuple[int, int, bytes, bytes | None]:
    if not with_lines:
        return 0, 0, record, None
    plus, minus, path = record.split(b"\t", 2)
    before = None
    if not path:  # a rename: the two paths are records of their own
        before, path = next(stream, b""), next(stream, b"")
    return (int(plus) if plus.isdigit() else 0, int(minus) if minus.isdigit() else 0, path, before)


def _people(people: dict[str, list[int]]) -> dict[str, Any]:
    counts = Counter({name: len(times) for name, times in people.items()})
    total = sum(counts.values())
    newest = max((max(times) for times in people.values()), default=0)
    rows = [
        {
            "name": name,
            "commits": number,
            "share": round(number / total, 3),
            "first": min(people[name]),
            "last": max(people[name]),
        }
        for name, number in counts.most_common(MAX_AUTHORS)
    ]
    recent = {name: sum(at > newest - YEAR_S for at in times) for name, times in people.items()}
    return {
        "authors": rows,
        "author_count": len(people),
        "bus_factor": _bus_factor(counts),
        "recent_authors": sum(number > 0 for number in recent.values()),
        "recent_bus_factor": _bus_factor(Counter(recent)),
        "first": min((min(times) for times in people.values()), default=None),
        "last": newest or None,
    }


def _bus_factor(counts: Counter[str]) -> int:
    """The fewest authors who together made more than half of the commits."""
    half, together = sum(counts.values()) / 2, 0
    for number, (_, commits) in enumerate(counts.most_common(), 1):
        together += commits
        if together > half:
            return number
    return 0


def _months(months: dict[str, _Tally]) -> list[dict[str, Any]]:
    """The twelve months up to the newest commit, empty ones included."""
    if not months:
        return []
    year, month = (int(part) for part in max(months).split("-"))
    rows = []
    for _ in range(12):
        tally = months.get(f"{year:04}-{month:02}", _Tally())
        counts = {
            "commits": tally.commits,
            "authors": len(tally.authors),
            "added": tally.added,
            "deleted": tally.deleted,
        }
        rows.append({"month": f"{year:04}-{month:02}", **counts})
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
    return rows[::-1]


def _changed(files: dict[bytes, _Tally], here: dict[bytes, File]) -> dict[str, Any]:
    own = {raw: tally for raw, tally in files.items() if here[raw].role in ("source", "test")}
    ordered = sorted(
        own.items(), key=lambda item: (-item[1].commits, -item[1].added - item[1].deleted, item[0])
    )
    rows = [_changed_row(here[raw], tally) for raw, tally in ordered[:MAX_CHANGED]]
    return {"files": rows, "files_left_out": len(own) - len(rows)}


def _changed_row(file: File, tally: _Tally) -> dict[str, Any]:
    leader, most = _leader(tally.authors)
    return {
        "path": file.path,
        "commits": tally.commits,
        "added": tally.added,
        "deleted": tally.deleted,
        "authors": len(tally.authors),
        "main_author": leader,
        "main_share": round(most / max(1, tally.authors.total()), 2),
        "last": tally.last,
        "is_code": file.language is not None and file.language not in PROSE_AND_DATA,
        "is_test": file.role == "test",
    }


def _leader(authors: Counter[str]) -> tuple[str | None, int]:
    return authors.most_common(1)[0] if authors else (None, 0)


def _sane(stamp: str) -> int:
    """Seconds since 1970 within what a calendar can show; broken clocks wrote all kinds of things."""
    return min(max(int(stamp) if stamp.lstrip("-").isdigit() else 0, 0), 253_402_300_799)


def _month(at: int) -> str:
    return time.strftime("%Y-%m", time.gmtime(at))

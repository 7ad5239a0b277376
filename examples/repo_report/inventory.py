"""What there is: the repository itself, its files by language and directory, the largest ones."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repo_report.git import GitError, ask
from repo_report.languages import COMMENT_PREFIXES, PROSE_AND_DATA
from repo_report.tree import File, list_files, read_texts, within

__all__ = ["count_lines", "inventory", "repository"]

MAX_LANGUAGES = 20
MAX_DIRECTORIES = 14
MAX_LARGEST = 15
REPORT_MARK = "<!-- sage-actors repo-report -->"


def repository(path: str = ".", output: str = "report.md") -> dict[str, Any]:
    """Where the repository is and which commit is looked at; the other steps build on that commit.

    Raises:
        ValueError: `path` is no git repository, or `output` is a file that this report did not write.
    """
    where = os.path.abspath(os.path.expanduser(path))
    if not os.path.isdir(where):
        raise ValueError(f"{where} is not a directory; name a git repository with -i path=DIRECTORY")
    _refuse_foreign(output)
    try:
        git_dir, bare, shallow = _lines(
            where, "--absolute-git-dir", "--is-bare-repository", "--is-shallow-repository"
        )
        root = git_dir if bare == "true" else _lines(where, "--show-toplevel")[0]
    except GitError as cause:
        raise ValueError(f"{where} cannot be read as a git repository: {cause}") from cause
    head = _optional(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return {
        "root": root,
        "name": Path(root).name.removesuffix(".git") or root,
        "head": head,
        "branch": _optional(root, "symbolic-ref", "--short", "--quiet", "HEAD"),
        "shallow": shallow == "true",
        "committed_at": int(_optional(root, "log", "-1", "--format=%ct", head) or 0) if head else None,
    }


def inventory(root: str, head: str | None) -> dict[str, Any]:
    """Files and lines by language, the directories worth a look of their own, and the largest files."""
    files, aside = list_files(root, head)
    skipped: Counter[str] = Counter(aside)
    languages: dict[str, Counter[str]] = {}
    sizes: list[tuple[int, str, str]] = []
    for read in read_texts(root, (file for file in files if file.role != "vendored")):
        if read.text is None or read.file.role == "generated":
            skipped[read.reason or "generated"] += 1
            continue
        name = read.file.language or "Other"
        counts = count_lines(read.text, name)
        counts.update(files=1, **{f"{read.file.role}_files": 1, f"{read.file.role}_lines": counts["lines"]})
        languages.setdefault(name, Counter()).update(counts)
        if _is_code(name):
            sizes.append((counts["lines"], read.file.path, name))
    skipped["vendored"] += sum(file.role == "vendored" for file in files)
    return {
        "files": len(files),
        "bytes": sum(file.size_bytes for file in files),
        **_by_language(languages),
        "directories": _directories(files),
        "largest": [
            {"path": path, "lines": lines, "language": name}
            for lines, path, name in sorted(sizes, reverse=True)[:MAX_LARGEST]
        ],
        "heaviest": _heaviest(files),
        "skipped": {reason: number for reason, number in sorted(skipped.items()) if number},
    }


def count_lines(text: str, language: str) -> Counter[str]:
    """Lines in all, blank ones, and those that are nothing but a comment (docstrings are not)."""
    prefixes = COMMENT_PREFIXES.get(language, ())
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    stripped = [line.strip() for line in lines]
    return Counter(
        lines=len(lines),
        blank=sum(not line for line in stripped),
        comment=sum((line + "\n").startswith(prefixes) for line in stripped if line) if prefixes else 0,
    )


def _by_language(languages: dict[str, Counter[str]]) -> dict[str, Any]:
    ordered = sorted(languages.items(), key=lambda item: (not _is_code(item[0]), -item[1]["lines"], item[0]))
    fields = ("files", "lines", "blank", "comment", "source_lines", "test_lines", "test_files")
    rows = [
        {"name": name, "is_code": _is_code(name), **{field: counts[field] for field in fields}}
        for name, counts in ordered
    ]
    code = [row for row in rows if row["is_code"]]
    return {
        "lines": sum(row["lines"] for row in rows),
        "code_lines": sum(row["source_lines"] for row in code),
        "test_lines": sum(row["test_lines"] for row in code),
        "languages": rows[:MAX_LANGUAGES],
        "languages_left_out": max(0, len(rows) - MAX_LANGUAGES),
    }


def _is_code(language: str) -> bool:
    return language not in PROSE_AND_DATA and language != "Other"


def _directories(files: list[File]) -> list[dict[str, Any]]:
    """At most MAX_DIRECTORIES directories that share all files, each with what it leaves to the others.

    The root is split into the directory below it that holds most, that one again, and so on: a repository
    whose code is all in `src/package/` still comes apart into useful pieces.
    """
    paths = [file.path for file in files if file.role != "vendored"]
    weights: Counter[str] = Counter(prefix for path in paths for prefix in _prefixes(path))
    chosen = {""}  # always there: it takes what no other does
    smallest = max(2, len(paths) // 50)
    candidates = {prefix for prefix in weights if prefix.count("/") == 1}
    while candidates and len(chosen) < MAX_DIRECTORIES:
        best = max(sorted(candidates), key=weights.__getitem__)
        if weights[best] < smallest:
            break
        candidates.remove(best)
        chosen.add(best)
        depth = best.count("/") + 1
        candidates |= {each for each in weights if each.startswith(best) and each.count("/") == depth}
    large = [row["prefix"] for row in _groups(sorted(chosen), paths) if row["files"] >= smallest]
    return _groups(sorted({"", *large}), paths)


def _groups(chosen: list[str], paths: list[str]) -> list[dict[str, Any]]:
    groups = []
    for prefix in chosen:
        without = [other for other in chosen if other != prefix and other.startswith(prefix)]
        number = sum(within(path, prefix, without) for path in paths)
        if number:
            groups.append({"prefix": prefix, "without": without, "files": number})
    return groups


def _prefixes(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: depth + 1]) + "/" for depth in range(min(len(parts), 6)))


def _heaviest(files: list[File]) -> list[dict[str, Any]]:
    heavy = sorted(
        (file for file in files if file.size_bytes > 512 * 1024), key=lambda file: -file.size_bytes
    )
    return [{"path": file.path, "bytes": file.size_bytes, "role": file.role} for file in heavy[:10]]


def _lines(root: str, *options: str) -> list[str]:
    return os.fsdecode(ask(root, "rev-parse", *options)).splitlines()


def _optional(root: str, *arguments: str) -> str | None:
    try:
        return ask(root, *arguments).decode("utf-8", "replace").strip() or None
    except GitError:
        return None


def _refuse_foreign(output: str) -> None:
    target = Path(output)
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ValueError(f"{target} cannot be written: it is a directory, or its directory does not exist")
    if target.exists() and not target.read_bytes()[:200].startswith(REPORT_MARK.encode()):
        raise ValueError(
            f"{target} exists and is no report of this workflow; name another with -i output=FILE"
        )

"""One language: how its files are sized, and, where imports can be read, what imports what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from repo_report.imports import FAMILIES, Sources, import_report
from repo_report.inventory import count_lines
from repo_report.tree import Read, list_files, read_texts

__all__ = ["examine"]

LONG_FILE_LINES = 600
_DECLARATIONS = (".pyi", ".d.ts", ".d.mts", ".d.cts")  # say what other files hold; nothing runs them
MAX_MENTION_BYTES = 256 * 1024


def examine(root: str, head: str, language: str) -> dict[str, Any]:
    """The files of `language`, a name from `inventory`; `imports` is None where imports are not read."""
    family = FAMILIES.get(language, (language,))
    own: list[Read] = []
    relatives: list[Read] = []
    for read in _texts(root, head, (*family, None)):  # None: a script that its first line tells
        if read.file.language == language and read.file.role != "generated":
            own.append(read)
        if read.file.language in family and not read.file.path.endswith(_DECLARATIONS):
            relatives.append(read)
    sizes = sorted(count_lines(read.text or "", language)["lines"] for read in own)
    return {
        "name": language,
        "files": len(own),
        "median_lines": sizes[len(sizes) // 2] if sizes else 0,
        "long_files": sum(size > LONG_FILE_LINES for size in sizes),
        "longest_lines": sizes[-1] if sizes else 0,
        "imports": import_report(_sources(root, head, language, family, relatives))
        if language in FAMILIES
        else None,
    }


def _sources(root: str, head: str, language: str, family: tuple[str, ...], reads: list[Read]) -> Sources:
    texts = {read.file.path: read.text or "" for read in reads}
    mentions = (
        (read.file.path, read.text or "")
        for read in _texts(root, head)
        if read.file.language not in family
        and read.file.size_bytes <= MAX_MENTION_BYTES
        and read.file.language not in ("Markdown", "Text", "CSV")  # prose names what is gone, too
    )
    return Sources(
        language=language,
        texts=texts,
        tests={read.file.path for read in reads if read.file.role == "test"},
        reported={
            read.file.path
            for read in reads
            if read.file.language == language and read.file.role != "generated"
        },
        mentions=mentions,
    )


def _texts(root: str, head: str, languages: tuple[str | None, ...] = ()) -> Iterator[Read]:
    every = (file for file in list_files(root, head)[0] if file.role != "vendored")
    files = (file for file in every if not languages or file.language in languages)
    return (read for read in read_texts(root, files) if read.text is not None)

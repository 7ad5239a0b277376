"""One directory: its code and tests, its TODOs with their age, and who works on it."""

from __future__ import annotations

from typing import Any

from repo_report.history import ownership
from repo_report.languages import PROSE_AND_DATA
from repo_report.todos import todos
from repo_report.tree import Read, list_files, read_texts, within

__all__ = ["examine"]


def examine(root: str, head: str, directory: dict[str, Any], shallow: bool = False) -> dict[str, Any]:
    """`directory` is one of `inventory`'s `directories`: a prefix, and what below it belongs to others."""
    prefix, without = directory["prefix"], directory["without"]
    files = [
        file
        for file in list_files(root, head)[0]
        if file.role in ("source", "test") and within(file.path, prefix, without)
    ]
    reads = [
        read for read in read_texts(root, files) if read.text is not None and read.file.role != "generated"
    ]
    return {
        "name": (prefix or "./") + (" (rest)" if without else ""),
        "files": directory["files"],
        "code_lines": sum(_code_lines(read, "source") for read in reads),
        "test_lines": sum(_code_lines(read, "test") for read in reads),
        "todos": todos(root, head, reads, shallow),
        "ownership": ownership(root, head, prefix, without),
    }


def _code_lines(read: Read, role: str) -> int:
    if read.text is None or read.file.role != role or read.file.language in PROSE_AND_DATA | {None}:
        return 0
    return read.text.count("\n") + (bool(read.text) and not read.text.endswith("\n"))

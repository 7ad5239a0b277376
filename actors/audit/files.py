"""The files of an audit log: their names, their last lines, and all lines of all of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sage_actors.messages.errors import StateError, StorageError

__all__ = [
    "LOG_NAME",
    "LogFiles",
    "Tail",
    "log_files",
    "old_files",
    "read_tail",
    "rotated_files",
    "rotated_name",
]

LOG_NAME = "audit.jsonl"
_ROTATED = re.compile(r"audit-(\d{6,10})\.jsonl")
_CHUNK_BYTES = 64 * 1024
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Tail(NamedTuple):
    """The end of a file: its last whole line (without newline; empty if there is none), and what is torn after it."""

    line: bytes
    valid_bytes: int
    torn_bytes: int


def rotated_name(number: int) -> str:
    """The name of the `number`th full file (1-based)."""
    return f"audit-{number:06d}.jsonl"


def rotated_files(directory: Path) -> list[Path]:
    """The full files, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = [(int(match[1]), name) for name in names if (match := _ROTATED.fullmatch(name))]
    return [directory / name for _, name in sorted(found)]


def log_files(directory: Path) -> list[Path]:
    """All files of the log, in the order of the chain."""
    current = directory / LOG_NAME
    return [*rotated_files(directory), *([current] if os.path.lexists(current) else [])]


def old_files(directory: Path, moment: float) -> list[Path]:
    """The full files, from the oldest on, that nothing was written to since `moment` (Unix time)."""
    return list(takewhile(lambda path: path.stat().st_mtime < moment, rotated_files(directory)))


def read_tail(path: Path) -> Tail:
    """The end of `path`. A line without its newline is torn, and so are zeros (a loss of power leaves them)."""
    with _open(path) as file:
        size = file.seek(0, os.SEEK_END)
        length = _CHUNK_BYTES
        while True:
            start = max(0, size - length)
            file.seek(start)
            data = file.read(size - start)
            valid = data.rstrip(b"\0").rfind(b"\n") + 1
            before = data.rfind(b"\n", 0, max(0, valid - 1)) + 1
            if start == 0 or before > 0:
                line = data[before : max(before, valid - 1)]
                return Tail(line, start + valid, size - start - valid)
            length *= 4


class LogFiles:
    """The files as they were at one moment, open: a rotation meanwhile changes nothing. A context manager."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        with ExitStack() as opening:
            self.files = [(path, opening.enter_context(_open(path))) for path in log_files(directory)]
            self._stack = opening.pop_all()

    def __enter__(self) -> LogFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def lines(self) -> Iterator[tuple[Path, int, bytes, bool]]:
        """(file, number of the line from 1, line without newline, whether it is whole), in the order of the chain."""
        for path, file in self.files:
            for number, line in enumerate(file, 1):
                yield path, number, line.rstrip(b"\n"), line.endswith(b"\n")


def _open(path: Path) -> BinaryIO:
    try:
        fd = os.open(path, _READ_FLAGS)
    except OSError as cause:
        if path.is_symlink():
            raise StateError(f"{path} is a link; the audit log must lie in the project itself") from cause
        raise StorageError(f"cannot read {path}: {cause}") from cause
    return open(fd, "rb", buffering=_CHUNK_BYTES)

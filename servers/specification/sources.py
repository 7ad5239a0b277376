"""The project's text files as the writers of documents see them: read once, by line, each citation checkable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sage_actors.servers.corpus.code import Definition, definitions
from sage_actors.servers.corpus.files import MAX_FILE_BYTES, FileClass, classify, decoded
from sage_actors.servers.corpus.repository import Repository, shown_name

__all__ = ["Sources", "Symbol"]

_MAX_TOTAL_BYTES = 60_000_000
_MAX_HISTORY = 2000
_ASIDE_WORDS = "docs doc tools tool scripts script build ci .ci .github bench benchmarks integration hack"
_ASIDE = frozenset(_ASIDE_WORDS.split())


@dataclass(frozen=True, slots=True)
class Symbol:
    """A definition and where it stands. `name`: qualified by its class; `signature`: its first line."""

    name: str
    path: str
    line: int
    signature: str
    language: str
    is_nested: bool = False  # inside a function: others cannot name it

    @property
    def short_name(self) -> str:
        """The last part of the name: how others refer to it."""
        return self.name.rpartition(".")[2]


class Sources:
    """What is known of the files below `project`, as of the first look; bounded in bytes."""

    def __init__(self, project: Path) -> None:
        self.repository = Repository(project)
        self._lines: dict[str, list[str]] = {}
        self._symbols: dict[str, list[Symbol]] = {}
        self._known = {file.path: file.size_bytes for file in self.repository.files}

    @cached_property
    def classes(self) -> dict[str, FileClass]:
        """Every file that is evidence, what matters most first. Names that are not UTF-8 are left out."""
        found = {
            path: kind
            for path, size in self._known.items()
            if (kind := classify(path, size)) is not None and shown_name(path) == path
        }
        ordered = sorted(found, key=lambda path: (found[path].priority, path))
        kept: dict[str, FileClass] = {}
        total = 0
        for path in ordered:
            total += self._known[path]
            if total > _MAX_TOTAL_BYTES:
                break
            kept[path] = found[path]
        return kept

    def has(self, path: str) -> bool:
        """Whether `path` is a regular file of the project."""
        return path in self._known

    def files(self, *kinds: str) -> list[str]:
        """The paths of those kinds of evidence, sorted."""
        return sorted(path for path, file in self.classes.items() if file.kind in kinds)

    def lines(self, path: str) -> list[str]:
        """The lines of a file, without their ends; none where it is no text or not there."""
        if path not in self._lines:
            data = self.repository.read_bytes(path, MAX_FILE_BYTES) if path in self._known else None
            text = decoded(data) if data else None
            lines = text.split("\n") if text else []
            self._lines[path] = [line.rstrip("\r") for line in (lines[:-1] if lines[-1:] == [""] else lines)]
        return self._lines[path]

    def text(self, path: str) -> str:
        """The whole file with `\\n` between the lines of `lines`."""
        return "\n".join(self.lines(path))

    def holds(self, source: str, line: int | None) -> bool:
        """Whether a citation leads somewhere: a line of a file, a file, a commit, a package."""
        if source.startswith("git:"):
            return self.has_commit(source.removeprefix("git:"))
        if source.startswith("package:"):
            return len(source) > len("package:")
        if not self.has(source):
            return False
        return line is None or 1 <= line <= len(self.lines(source))

    def has_commit(self, commit: str) -> bool:
        """Whether the history has a commit whose id begins so (at least seven digits)."""
        return len(commit) >= 7 and any(known.commit.startswith(commit) for known in self.history)

    @cached_property
    def history(self) -> list[_Commit]:
        """The newest commits, newest first."""
        return [_Commit(c.commit, c.date, c.subject, c.files) for c in self.repository.history(_MAX_HISTORY)]

    @cached_property
    def symbols(self) -> list[Symbol]:
        """What the project's own code defines, examples and tests aside."""
        return [
            symbol for path in self.files("code") if self.is_product(path) for symbol in self.symbols_of(path)
        ]

    def is_product(self, path: str) -> bool:
        """Whether a file is code that the project ships: no test, example, script, tool or documentation."""
        file = self.classes.get(path)
        folders = path.lower().split("/")[:-1]
        return file is not None and file.kind == "code" and file.weight >= 1.0 and _ASIDE.isdisjoint(folders)

    def symbols_of(self, path: str) -> list[Symbol]:
        """What one file defines, in its order."""
        if path not in self._symbols:
            self._symbols[path] = self._defined(path)
        return self._symbols[path]

    def _defined(self, path: str) -> list[Symbol]:
        file = self.classes.get(path)
        if file is None or not file.language:
            return []
        lines = self.lines(path)
        found = definitions("\n".join(lines), file.language)
        return [_symbol(definition, path, lines, file.language) for definition in found if definition.name]

    def symbol_at(self, path: str, line: int) -> Symbol | None:
        """The definition that `line` stands in or below: the last one that begins at or before it."""
        above = [symbol for symbol in self.symbols_of(path) if symbol.line <= line]
        return above[-1] if above else None


@dataclass(frozen=True, slots=True)
class _Commit:
    commit: str
    date: str
    subject: str
    files: tuple[str, ...]


def _symbol(definition: Definition, path: str, lines: list[str], language: str) -> Symbol:
    line = lines[definition.line - 1]
    nested = line[:1].isspace() and "." not in definition.name and language in ("python", "javascript")
    return Symbol(
        definition.name, path, definition.line, line.strip().rstrip("{:").rstrip(), language, nested
    )

"""The text of one state of a project: each file read and taken apart once, for all who ask in this process.

    project -> Repository (a look: names, times, ids of contents) -> state -> Sources -> once(Corpus), once(WordIndex)

Reading a large repository costs seconds. So what was read is shared by all tools and calls as long as the files stay
what they are; whoever asks while it is being made waits for it.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sage_actors.servers.corpus.code import Definition, definitions
from sage_actors.servers.corpus.files import MAX_FILE_BYTES, FileClass, classify, decoded
from sage_actors.servers.corpus.repository import Commit, Repository, shown_name

__all__ = ["Sources", "Symbol", "sources_of"]

_T = TypeVar("_T")
_MAX_TOTAL_BYTES = 60_000_000
_HELD_BYTES = 24_000_000  # of text that stays in memory; what is beyond it is read again when it is asked for
_KEPT = 2  # projects of which the last state stays in memory
_MAX_HISTORY = 2000
_ASIDE_WORDS = "docs doc tools tool scripts script build ci .ci .github bench benchmarks integration hack"
_ASIDE = frozenset(_ASIDE_WORDS.split())
_BUILDS = re.compile(
    r"setup\.py|noxfile\.py|fabfile\.py|build\.rs|gulpfile\.\w+|gruntfile\.\w+|.+\.config\.[cm]?[jt]s"
)


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


def sources_of(project: Path) -> Sources:
    """The text of the project as its files are now: the same object as long as they stay so."""
    arrived = time.monotonic()
    root = Repository(project).root
    with _LOCK:
        slot = _SLOTS.setdefault(root, _Slot())
        _SLOTS.move_to_end(root)
        while len(_SLOTS) > _KEPT:
            _SLOTS.popitem(last=False)
    with slot.lock:
        if slot.sources is None or slot.looked_at < arrived:  # else another one looked while this one waited
            slot.looked_at = time.monotonic()
            repository = Repository(root)
            state = repository.state_hash()
            if slot.sources is None or slot.sources.state != state:
                slot.sources = Sources(repository, state)
        return slot.sources


class Sources:
    """What is known of the files of a project, as of the first look; bounded in bytes. Several threads may ask."""

    def __init__(self, project: Path | Repository, state: str = "") -> None:
        self.repository = project if isinstance(project, Repository) else Repository(project)
        self.state = state
        self._lines: dict[str, list[str]] = {}
        self._held_bytes = 0
        self._definitions: dict[str, list[Definition]] = {}
        self._symbols: dict[str, list[Symbol]] = {}
        self._known = {file.path: file.size_bytes for file in self.repository.files}
        self._made: dict[Callable[[Any], Any], _Made] = {}

    def once(self, make: Callable[[Sources], _T]) -> _T:
        """What `make` makes of this state: made by the first who asks, the same for all others."""
        made = self._made.setdefault(make, _Made())
        with made.lock:
            if not made.is_done:
                made.value, made.is_done = make(self), True
            value: _T = made.value
            return value

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
        known = self._lines.get(path)
        if known is None:
            known = self._read(path)
            if self._held_bytes < _HELD_BYTES:
                self._held_bytes += self._known.get(path, 0)
                self._lines[path] = known
        return known

    def _read(self, path: str) -> list[str]:
        data = self.repository.read_bytes(path, MAX_FILE_BYTES) if path in self._known else None
        text = decoded(data) if data else None
        if not text:
            return []
        lines = (text.replace("\r\n", "\n") if "\r" in text else text).split("\n")
        return lines[:-1] if not lines[-1] else lines

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
    def history(self) -> list[Commit]:
        """The newest commits, newest first."""
        return self.repository.history(_MAX_HISTORY)

    @cached_property
    def symbols(self) -> list[Symbol]:
        """What the project's own code defines, examples and tests aside."""
        return [
            symbol
            for path in self.files("code")
            if self.is_product(path)
            for symbol in self.symbols_of(path)
            if symbol.line < self.tests_begin(path)
        ]

    def tests_begin(self, path: str) -> float:
        """The line from which on a source file of Rust has its own tests; infinity where it has none."""
        if not path.endswith(".rs") or "#[cfg(test)]" not in self.text(path):
            return math.inf
        return next((n for n, line in enumerate(self.lines(path), 1) if line == "#[cfg(test)]"), math.inf)

    def is_product(self, path: str) -> bool:
        """Whether a file is code that the project ships: no test, example, script, tool, build or documentation."""
        file = self.classes.get(path)
        *folders, name = path.lower().split("/")
        is_code = file is not None and file.kind == "code" and file.weight >= 1.0
        return is_code and _ASIDE.isdisjoint(folders) and _BUILDS.fullmatch(name) is None

    def definitions_of(self, path: str, language: str) -> list[Definition]:
        """What the lines of one file define, in their order."""
        known = self._definitions.get(path)
        if known is None:
            known = self._definitions[path] = list(definitions(self.lines(path), language))
        return known

    def symbols_of(self, path: str) -> list[Symbol]:
        """What one file defines, in its order; with names that others can use."""
        if path not in self._symbols:
            self._symbols[path] = self._named(path)
        return self._symbols[path]

    def _named(self, path: str) -> list[Symbol]:
        file = self.classes.get(path)
        if file is None or not file.language:
            return []
        found, lines = self.definitions_of(path, file.language), self.lines(path)
        return [_symbol(definition, path, lines, file.language) for definition in found if definition.name]

    def symbol_at(self, path: str, line: int) -> Symbol | None:
        """The definition that `line` stands in or below: the last one that begins at or before it."""
        above = [symbol for symbol in self.symbols_of(path) if symbol.line <= line]
        return above[-1] if above else None


@dataclass(slots=True)
class _Made:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    is_done: bool = False


@dataclass(slots=True)
class _Slot:
    """looked_at: when the last look at the project began (monotonic)."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    looked_at: float = 0.0
    sources: Sources | None = None


_LOCK = threading.Lock()
_SLOTS: OrderedDict[Path, _Slot] = OrderedDict()


def _symbol(definition: Definition, path: str, lines: list[str], language: str) -> Symbol:
    line = lines[definition.line - 1]
    nested = line[:1].isspace() and "." not in definition.name and language in ("python", "javascript")
    return Symbol(
        definition.name, path, definition.line, line.strip().rstrip("{:").rstrip(), language, nested
    )

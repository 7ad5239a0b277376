"""Where the words of a topic stand in a project, and how often a name is mentioned: one pass over its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sage_actors.servers.corpus.sources import Sources
from sage_actors.servers.specification.topic import split_name, stem

__all__ = ["Hit", "WordIndex"]

_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]{1,60}", re.ASCII)
_ANY_IDENTIFIER = re.compile(r"(?!\d)[\w$]{2,61}")  # in any script; slower
_MAX_LINE = 400


@dataclass(frozen=True, slots=True)
class Hit:
    """A line that has words of the topic, by their stems."""

    path: str
    line: int
    kind: str
    stems: frozenset[str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


class WordIndex:
    """Counts of every identifier and word, by file."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._stems_of: dict[str, frozenset[str]] = {}
        self._last_hits: tuple[frozenset[str], list[Hit]] = (frozenset(), [])

    @cached_property
    def _counted(self) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
        """By file, and by kind of file."""
        files: dict[str, Counter[str]] = {}
        kinds: dict[str, Counter[str]] = {}
        for path, file in self._sources.classes.items():
            words = _identifiers(self._sources.text(path))
            files[path] = Counter(words)
            kinds.setdefault(file.kind, Counter()).update(words)
        return files, kinds

    @property
    def _counts(self) -> dict[str, Counter[str]]:
        return self._counted[0]

    @property
    def _by_kind(self) -> dict[str, Counter[str]]:
        return self._counted[1]

    def mentions(self, name: str, *kinds: str) -> int:
        """How often `name` stands in files of those kinds, as a whole word."""
        return sum(counts[name] for kind, counts in self._by_kind.items() if kind in kinds)

    def files_with(self, name: str, *kinds: str) -> list[str]:
        """The files of those kinds that mention `name`, most mentions first."""
        found = [
            (-counts[name], path)
            for path, counts in self._counts.items()
            if name in counts and self._sources.classes[path].kind in kinds
        ]
        return [path for _, path in sorted(found)]

    def has(self, name: str, path: str) -> bool:
        """Whether a file mentions `name`."""
        return name in self._counts.get(path, ())

    def files_with_any(self, names: frozenset[str], *kinds: str) -> list[str]:
        """The files of those kinds that mention one of `names`, sorted."""
        found = (path for path, counts in self._counts.items() if not names.isdisjoint(counts))
        return sorted(path for path in found if self._sources.classes[path].kind in kinds)

    def first_line(self, name: str, path: str) -> int | None:
        """The first line of a file that mentions `name`."""
        pattern = re.compile(rf"(?<![\w$]){re.escape(name)}(?![\w$])")
        return next((n for n, line in enumerate(self._sources.lines(path), 1) if pattern.search(line)), None)

    def hits(self, stems: Iterable[str]) -> list[Hit]:
        """Every line with a word of one of these stems. Specification and plan ask for the same: the last are kept."""
        wanted = frozenset(stems)
        known, found = self._last_hits
        if known != wanted:
            found = self._find(wanted)
            self._last_hits = wanted, found
        return found

    def _find(self, wanted: frozenset[str]) -> list[Hit]:
        words = {
            word
            for word in set().union(*self._by_kind.values())
            if _may_have(word, wanted) and not wanted.isdisjoint(self.stems(word))
        }
        if not words:
            return []
        pattern = re.compile(rf"(?<![\w$])(?:{'|'.join(map(re.escape, sorted(words)))})(?![\w$])")
        return [
            hit
            for path, counts in self._counts.items()
            if not words.isdisjoint(counts)
            for hit in self._hits_in(path, words, pattern, wanted)
        ]

    def _hits_in(
        self, path: str, words: set[str], pattern: re.Pattern[str], wanted: frozenset[str]
    ) -> list[Hit]:
        """The pattern decides, but is slow; a line that it finds has a stem in it, and one of the words as a name."""
        kind = self._sources.classes[path].kind
        found = []
        for number, line in enumerate(self._sources.lines(path), 1):
            if len(line) > _MAX_LINE or not _may_have(line, wanted) or words.isdisjoint(_identifiers(line)):
                continue
            if named := pattern.findall(line):
                stems = frozenset().union(*(self.stems(word) for word in named)) & wanted
                found.append(Hit(path, number, kind, stems, line.strip()))
        return found

    def stems(self, word: str) -> frozenset[str]:
        """The stems of the words in a name."""
        known = self._stems_of.get(word)
        if known is None:
            known = self._stems_of[word] = frozenset(stem(part) for part in split_name(word))
        return known


def _identifiers(text: str) -> list[str]:
    return (_IDENTIFIER if text.isascii() else _ANY_IDENTIFIER).findall(text)


def _may_have(word: str, stems: frozenset[str]) -> bool:
    """Whether a part of the word can have one of these stems: each begins what it is the stem of."""
    lower = word.lower()
    return any(each in lower for each in stems)

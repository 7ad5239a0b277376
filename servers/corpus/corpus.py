"""What a project says about itself, in passages that can be searched: one corpus for each state of a project.

Documents, source text, tests, notes in comments, settings, dependencies, skills and the history. It is built from the
text that `sources.py` shares, and shared as that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from sage_actors.messages.passages import Passage, split_passages
from sage_actors.messages.ranking import PassageIndex
from sage_actors.servers.corpus.code import Piece, code_pieces, note_pieces
from sage_actors.servers.corpus.files import MAX_FILE_BYTES, FileClass, classify, decoded
from sage_actors.servers.corpus.packages import Package, package_pieces, packages
from sage_actors.servers.corpus.relevance import Found, Query, first_scores, weigh
from sage_actors.servers.corpus.repository import EXCLUDED, Commit, SourceFile, shown_name
from sage_actors.servers.corpus.sources import Sources, sources_of

__all__ = ["Corpus", "corpus_of"]

MAX_TEXT_BYTES = 30_000_000
_BODY_CHARS = 600
_HEADING = re.compile(r"(?:#{1,6}[ \t]+(?P<marked>.+)|(?P<plain>\S.*)\n[=\-~^\"*+]{3,}\s*$)", re.MULTILINE)
_OPEN_ITEM = re.compile(r"\s*[-*]\s+\[ \]\s+\S")


def corpus_of(project: Path) -> Corpus:
    """The corpus of the project as its files are now; built at the first call for a state, then shared."""
    return sources_of(project).once(Corpus)


class Corpus:
    """All passages of one state of a project. Safe to search from several threads."""

    def __init__(self, sources: Sources) -> None:
        self.repository = repository = sources.repository
        self.sources = sources
        self.files: list[tuple[SourceFile, FileClass]] = []
        self.notes = list(repository.notes)
        self.commits: list[Commit] = sources.history
        self.packages: list[Package]
        self.packages, notes = packages(repository)
        self.notes += notes
        self.pieces = list(self._pieces())
        self._searchable = {_searchable(piece): piece for piece in self.pieces}
        self._index = PassageIndex(list(self._searchable))

    def search(self, query: str, *, kinds: Collection[str] | None = None, limit: int = 500) -> list[Found]:
        """The pieces that fit `query`, best first: by words, and by how much of the query they are about."""
        parsed = Query(query)
        ranked = self._index.search(parsed.searched, kinds=kinds, limit=limit)
        return weigh(parsed, first_scores((self._searchable[each.passage], each) for each in ranked))

    def text(self, path: str) -> str | None:
        """The text of a file of the project, as shown by `Passage.source`; None if there is no such text."""
        real = self._real_names.get(path)
        data = self.repository.read_bytes(real, MAX_FILE_BYTES) if real is not None else None
        return None if data is None else decoded(data)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many passages there are of each kind."""
        return dict(Counter(piece.passage.kind for piece in self.pieces))

    @cached_property
    def _real_names(self) -> dict[str, str]:
        return {shown_name(file.path): file.path for file in self.repository.files}

    def _pieces(self) -> Iterator[Piece]:
        yield from self._file_pieces()
        yield from package_pieces(self.packages, shown_name)
        for commit in self.commits:
            yield _commit_piece(commit)

    def _file_pieces(self) -> Iterator[Piece]:
        classified = [(f, c) for f in self.repository.files if (c := classify(f.path, f.size_bytes))]
        classified = [(f, c) for f, c in classified if not f.path.startswith(EXCLUDED)]
        classified.sort(key=lambda pair: (pair[1].priority, pair[0].path))
        taken = 0
        for number, (file, kind) in enumerate(classified):
            if taken + file.size_bytes > MAX_TEXT_BYTES:
                self.notes.append(_left_out(len(classified) - number, taken))
                return
            lines = self.sources.lines(file.path)
            if lines and _is_script(file, kind, lines[0]):
                taken += file.size_bytes
                self.files.append((file, kind))
                yield from self._pieces_of(file.path, lines, kind)

    def _pieces_of(self, path: str, lines: list[str], kind: FileClass) -> Iterator[Piece]:
        source = shown_name(path)
        if not kind.language:
            yield from _text_pieces("\n".join(lines), source, kind)
            return
        defined = self.sources.definitions_of(path, kind.language)
        yield from code_pieces(lines, defined, source, kind.kind, kind.weight)
        yield from note_pieces(lines, source, kind.weight)


def _searchable(piece: Piece) -> Passage:
    """What is searched for a piece: its text and also its title, its path, and words that it does not show."""
    passage = piece.passage
    text = "\n".join((passage.text, *filter(None, (piece.title, passage.source, piece.extra))))
    return Passage(text, passage.source, passage.line, passage.kind, passage.weight)


def _left_out(files: int, taken_bytes: int) -> str:
    return (
        f"{files} files were left out: {taken_bytes:,} bytes of documents and sources were read before them"
    )


def _is_script(file: SourceFile, kind: FileClass, first_line: str) -> bool:
    """A file without an ending counts as source if it says what runs it."""
    bare = kind.language == "shell" and "." not in file.path.rpartition("/")[2]
    return not bare or first_line.startswith("#!")


def _text_pieces(text: str, source: str, kind: FileClass) -> Iterator[Piece]:
    passages = split_passages(text, source, kind=kind.kind, weight=kind.weight)
    title = ""
    for passage in passages:
        if kind.kind != "configuration" and (heading := _HEADING.match(passage.text)):
            title = (heading["marked"] or heading["plain"]).strip()[:120]
        yield Piece(passage, title)
    if kind.kind == "documentation":
        yield from _open_items(text, source)


def _open_items(text: str, source: str) -> Iterator[Piece]:
    """Unticked boxes of Markdown lists: what somebody wants to be done."""
    for number, line in enumerate(text.split("\n"), 1):
        if _OPEN_ITEM.match(line):
            yield Piece(Passage(line.strip()[:400], source, number, "todo"))


def _commit_piece(commit: Commit) -> Piece:
    body = f"\n{commit.body[:_BODY_CHARS]}" if commit.body else ""
    files = f"\nfiles: {', '.join(commit.files[:8])}" if commit.files else ""
    more = f" and {len(commit.files) - 8} more" if len(commit.files) > 8 else ""
    text = f"{commit.subject} ({commit.date[:10]}){body}{files}{more}"
    return Piece(Passage(text, f"git:{commit.commit[:12]}", None, "history"), commit.subject)

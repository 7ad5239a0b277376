"""Where the code is that matters to a topic: definitions first, then their callers; and how it was changed before."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sage_actors.messages.findings import ResearchResult
from sage_actors.messages.units import counted
from sage_actors.servers.corpus.corpus import Corpus, corpus_of
from sage_actors.servers.corpus.relevance import Found, stems
from sage_actors.servers.corpus.repository import shown_name
from sage_actors.servers.research.result import Evidence, Limits, found_evidence, looked_at, result_of, scaled

__all__ = ["code_search", "similar_changes"]

_CALLED = 4  # definitions whose callers are looked for
_CALLS_EACH = 2
_COMMON = 60  # a name that is called more often says nothing
_SHORT = 4
_NAMESAKES = 2  # of a name that more things have, nobody knows which one a call means
_STATISTICS = 3  # commits whose diff statistics are shown
_CALL_SHARE = 0.6  # of the score of what is called


def code_search(project: Path, topic: str, limits: Limits) -> ResearchResult:
    """Definitions on the topic, best first, and where the best of them are called from."""
    corpus = corpus_of(project)
    found = scaled(corpus.search(topic, kinds=("code", "test")), {"test": 0.6})
    found.sort(key=lambda hit: -hit.score)
    named = _exactly_named(corpus, topic)
    known = {id(hit.piece) for hit in named}
    found = named + [hit for hit in found if id(hit.piece) not in known]
    evidence = found_evidence(found, topic)
    calls = list(_calls(corpus, found))
    files = len({hit.piece.passage.source for hit in found})
    on_topic = counted(len(found), "piece"), counted(files, "file"), "is" if len(found) == 1 else "are"
    summary = (
        f"{on_topic[0]} of source in {on_topic[1]} {on_topic[2]} on the topic; "
        f"{counted(len(calls), 'call site was', 'call sites were')} found."
    )
    notes = [] if evidence else [looked_at(corpus, topic, ("code", "test"))]
    return result_of(
        "code_search", topic, evidence + calls, limits, summary=summary, notes=[*notes, *corpus.notes]
    )


def similar_changes(project: Path, topic: str, limits: Limits) -> ResearchResult:
    """Commits on the topic by message and touched files, the best with their diff statistics; changelog entries."""
    corpus = corpus_of(project)
    found = corpus.search(topic, kinds=("history",))
    found = [hit if _is_commit(hit) else replace(hit, score=hit.score * 0.6) for hit in found]
    found += _by_files(corpus, topic, {hit.piece.passage.source for hit in found})
    found.sort(key=lambda hit: -hit.score)
    commits = [hit for hit in found if _is_commit(hit)]
    evidence = [
        _with_statistics(corpus, each) if number < _STATISTICS and each.source.startswith("git:") else each
        for number, each in enumerate(found_evidence(found, topic))
    ]
    entries = len(found) - len(commits)
    said = f"{len(commits)} of {counted(len(corpus.commits), 'commit')}"
    summary = f"{said} and {counted(entries, 'changelog entry', 'changelog entries')} are similar."
    notes = [] if evidence else [looked_at(corpus, topic, ("history",))]
    if not corpus.commits:
        notes.append("there is no git history to look at")
    return result_of(
        "similar_changes", topic, evidence, limits, summary=summary, notes=[*notes, *corpus.notes]
    )


def _exactly_named(corpus: Corpus, topic: str) -> list[Found]:
    """Definitions that the topic names as they are written: `Session.send`, `rate_limit`."""
    names = set(re.findall(r"[A-Za-z_][\w.]*[\w]", topic))
    marked = {n for n in names if "_" in n or "." in n or re.search(r"[a-z][A-Z]", n)} or (
        names if len(topic.split()) == 1 else set()
    )
    hits = [p for p in corpus.pieces if p.defines and marked & {p.title, p.title.rpartition(".")[2]}]
    return [
        Found(piece, (60.0 if piece.passage.kind == "code" else 30.0) * piece.passage.weight)
        for piece in hits[:20]
    ]


def _calls(corpus: Corpus, found: list[Found]) -> Iterator[Evidence]:
    """Lines that call the best definitions: outside tests first, not in the definition's own lines."""
    best = [hit for hit in found if hit.piece.defines and hit.piece.passage.kind == "code"][:_CALLED]
    names = {hit.piece.title.rpartition(".")[2]: hit for hit in reversed(best)}
    defined = Counter(piece.title.rpartition(".")[2] for piece in corpus.pieces if piece.defines)
    names = {
        n: hit for n, hit in names.items() if len(n) >= _SHORT and defined[n] <= _NAMESAKES and n[:2] != "__"
    }
    if not names:
        return
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\s*\(")
    sites: dict[str, list[tuple[int, str, int, str]]] = {name: [] for name in names}
    for file, kind in corpus.files:
        text = corpus.text(shown_name(file.path)) if kind.kind in ("code", "test") else None
        if text is not None and any(name in text for name in names):
            for number, line, name in _matching_lines(text, pattern):
                sites[name].append((kind.kind == "test", shown_name(file.path), number, line))
    for name, hit in names.items():
        if len(sites[name]) <= _COMMON:
            for _, source, number, line in sorted(sites[name])[:_CALLS_EACH]:
                where = f"{hit.piece.passage.source}:{hit.piece.passage.line}"
                text = f"{line.strip()[:300]}  (calls {hit.piece.title}, {where})"
                yield Evidence(text, "code", source, number, hit.score * _CALL_SHARE)


def _matching_lines(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if (match := pattern.search(line)) and not re.match(
            r"\s*((async def|def|func|fn|function|class)\b|#|//|\*|--)", line
        ):
            yield number, line, match[1]


def _is_commit(hit: Found) -> bool:
    return hit.piece.passage.source.startswith("git:")


def _by_files(corpus: Corpus, topic: str, known: set[str]) -> list[Found]:
    """Commits that touch the files the topic is about, though their message does not say so."""
    files = [hit.piece.passage.source for hit in corpus.search(topic, kinds=("code",), limit=60)[:8]]
    wanted = dict.fromkeys(files)
    pieces = {
        piece.passage.source: piece for piece in corpus.pieces if piece.passage.source.startswith("git:")
    }
    found = []
    for commit in corpus.commits:
        source = f"git:{commit.commit[:12]}"
        touched = [name for name in commit.files if name in wanted]
        if touched and source not in known and len(commit.files) <= 20:
            said = len(set(stems(commit.subject)) & set(stems(topic)))
            found.append(Found(pieces[source], 0.5 + 0.5 * len(touched) + said))
    return sorted(found, key=lambda hit: -hit.score)[:10]


def _with_statistics(corpus: Corpus, evidence: Evidence) -> Evidence:
    short = evidence.source.removeprefix("git:")
    full = next((commit.commit for commit in corpus.commits if commit.commit.startswith(short)), None)
    statistics = corpus.repository.change_statistics(full) if full else ""
    return replace(evidence, text=f"{evidence.text}\n{statistics}") if statistics else evidence

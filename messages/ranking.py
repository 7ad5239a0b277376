"""Which passages answer a question: BM25 over stemmed words, near-duplicates out, as much as a budget holds.

The index is SQLite's FTS5 (porter stemmer, `bm25()`) in memory; where a Python was built without
it, the same formula in Python. Identifiers count as their words too: "rate limit" finds
`RateLimiter` and `rate_limit`.

Source of the formula: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and
Beyond", 2009. What was tried to beat it stands, measured, in `bench/retention.py`.
"""

from __future__ import annotations

import heapq
import math
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

from sage_actors.messages.passages import Passage
from sage_actors.messages.tokens import count_tokens

__all__ = ["UNSPACED", "PassageIndex", "Ranked", "has_fts5", "pairs_of", "select", "shingles"]

UNSPACED = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
"""A character of Chinese, Japanese or Korean, as a pattern: these write no spaces, or not between all words."""

_K1, _B = 1.2, 0.75  # as FTS5 has them
_SHINGLE_WORDS = 5
_SAME = 0.7  # of the shorter passage's shingles: a copy with a few words changed
_MAX_QUERY_WORDS = 64
_LENDERS, _LENT = 3, 0.4  # the best passages lend their neighbours this share of their score
_NEAR_LINES = 10

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_HUMPED_NAMES = re.compile(r"\b(?:[a-z0-9_]++[A-Z]|[A-Z][a-z0-9_]++[A-Z]|[A-Z]{2,}+[a-z])\w*").findall
_HAS_HUMPS = re.compile(r"[A-Z](?:(?<=[a-z0-9_][A-Z])|[A-Z][a-z])").search  # a quick look, at capitals alone
_UNSPACED = re.compile(rf"{UNSPACED}{{2,}}")
_COMMON = (
    "a an and are as at be by can do does for from has have how i if in is it its my of on or that the "
    "there this to was what when where which who why will with you your isn t s don should not we our"
)
_STOP_WORDS = frozenset(_COMMON.split())


@dataclass(frozen=True, slots=True)
class Ranked:
    """`score`: higher is better, comparable within one search; above 0."""

    passage: Passage
    score: float


class _Engine(Protocol):
    def scores(self, words: Sequence[str]) -> Iterable[tuple[int, float]]: ...


class PassageIndex:
    """Passages to be searched any number of times, from any thread. Held in memory; nothing to close."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = list(passages)
        texts = [_searchable(each.text) for each in self._passages]
        self._engine: _Engine = _Fts5(texts) if has_fts5() else _Bm25(texts)
        self._beside = _neighbours(self._passages)

    def search(self, query: str, *, kinds: Collection[str] | None = None, limit: int = 500) -> list[Ranked]:
        """At most `limit` passages, best first; of equal ones the earlier.

        They share a word with `query`, or stand next to one of the best: an answer rarely repeats the
        words of its question in every paragraph. `query` is plain text in any language, and never an
        error. `kinds`: of these kinds only.
        """
        words = query_words(query)
        if not words:
            return []
        scores = {
            at: score * self._passages[at].weight
            for at, score in self._engine.scores(words)
            if kinds is None or self._passages[at].kind in kinds
        }
        scores = self._with_neighbours(scores, kinds)
        found = sorted(scores, key=lambda at: (-scores[at], at))[:limit]
        return [Ranked(self._passages[at], scores[at]) for at in found]

    def _with_neighbours(self, scores: dict[int, float], kinds: Collection[str] | None) -> dict[int, float]:
        lent: dict[int, float] = {}
        for at in heapq.nlargest(_LENDERS, scores, key=scores.__getitem__):
            for beside in self._beside.get(at, ()):
                if kinds is None or self._passages[beside].kind in kinds:
                    lent[beside] = max(lent.get(beside, 0.0), _LENT * scores[at])
        return {**scores, **{at: scores.get(at, 0.0) + lent[at] for at in lent}}


def _neighbours(passages: Sequence[Passage]) -> dict[int, list[int]]:
    """The passages above and below each, in the same source and only a few lines away."""
    beside: dict[int, list[int]] = {}
    places = sorted((each.source, each.line, at) for at, each in enumerate(passages) if each.line is not None)
    for (source, line, at), (other, below, next_at) in pairwise(places):
        if source == other and below - line - passages[at].text.count("\n") <= _NEAR_LINES:
            beside.setdefault(at, []).append(next_at)
            beside.setdefault(next_at, []).append(at)
    return beside


def select(
    ranked: Iterable[Ranked],
    *,
    max_bytes: int | None = 8000,
    max_tokens: int | None = None,
    top: int | None = None,
    per_source: int | None = 3,
    threshold: float = 0.0,
) -> list[Ranked]:
    """The best of `ranked` (best first) that fit together, in their order.

    Greedy: a passage that does not fit is passed over, a later, shorter one may. Passages of which
    nearly all was kept already are left out (five-word shingles, containment above 0.7).

    max_bytes: of the texts in UTF-8. max_tokens: of the texts, as `count_tokens` counts them.
    top: passages at most. per_source: of one source at most. threshold: 0 to 1, share of the best
    score below which nothing is kept.
    """
    kept: list[Ranked] = []
    seen = Seen()
    sources: Counter[str] = Counter()
    room_bytes = math.inf if max_bytes is None else max_bytes
    room_tokens = math.inf if max_tokens is None else max_tokens
    least: float | None = None
    for each in ranked:
        least = each.score * threshold if least is None else least
        if len(kept) == top or each.score < least:
            break
        size = len(each.passage.text.encode("utf-8", "surrogatepass"))
        if size > room_bytes or (per_source is not None and sources[each.passage.source] >= per_source):
            continue
        tokens = 0 if max_tokens is None else count_tokens(each.passage.text)
        if tokens > room_tokens or not seen.is_new(each.passage.text):
            continue
        kept.append(each)
        sources[each.passage.source] += 1
        room_bytes -= size
        room_tokens -= tokens
    return kept


class Seen:
    """Texts that were kept; `is_new` says whether one more adds something, and if so keeps it."""

    def __init__(self) -> None:
        self._texts_of: dict[int, list[int]] = {}
        self._sizes: list[int] = []

    def is_new(self, text: str) -> bool:
        own = shingles(text)
        shared = Counter(at for each in own for at in self._texts_of.get(each, ()))
        if any(count > _SAME * min(len(own), self._sizes[at]) for at, count in shared.items()):
            return False
        for each in own:
            self._texts_of.setdefault(each, []).append(len(self._sizes))
        self._sizes.append(len(own))
        return True


def shingles(text: str) -> frozenset[int]:
    """Every run of five words, hashed; a shorter text is one shingle."""
    words = text.lower().split()
    runs = max(1, len(words) - _SHINGLE_WORDS + 1)
    return frozenset(hash(tuple(words[at : at + _SHINGLE_WORDS])) for at in range(runs))


def query_words(query: str) -> list[str]:
    """The words to search for, each once; common ones only if there are no others."""
    words = list(dict.fromkeys(_words(_searchable(query))))[:_MAX_QUERY_WORDS]
    return [each for each in words if each not in _STOP_WORDS] or words


def _words(text: str) -> list[str]:
    return [each.lower() for each in _WORD.findall(text)]


def _searchable(text: str) -> str:
    """`text`, and behind it what a tokenizer by spaces does not see in it.

    The words of CamelCase identifiers (snake_case is split as it stands), and the pairs of characters
    of scripts that write no spaces.
    """
    names = sorted({*_HUMPED_NAMES(text)}) if _HAS_HUMPS(text) else ()
    more = [*map(_humps_apart, names)]
    if not text.isascii():
        more += [pair for run in _UNSPACED.findall(text) for pair in pairs_of(run)]
    return "\n".join([text, *more]) if more else text


def pairs_of(run: str) -> list[str]:
    """The overlapping pairs of characters that stand for the words of a text without spaces."""
    return [run[at : at + 2] for at in range(len(run) - 1)]


@lru_cache(maxsize=1 << 15)
def _humps_apart(name: str) -> str:
    """`rateLimitPolicy` as `rate Limit Policy`."""
    return _HUMP.sub(" ", name)


def has_fts5() -> bool:
    """Whether this Python's SQLite can search."""
    return _FTS5


def _probe() -> bool:
    with sqlite3.connect(":memory:") as database:
        try:
            database.execute("CREATE VIRTUAL TABLE probe USING fts5(text, tokenize='porter unicode61')")
        except sqlite3.OperationalError:
            return False
        return True


_FTS5 = _probe()


class _Fts5:
    def __init__(self, texts: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(text, content='', tokenize='porter unicode61')"
        )
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO passages(rowid, text) VALUES (?, ?)",
            ((at, each.encode("utf-8", "replace").decode()) for at, each in enumerate(texts)),
        )
        self._database.execute("COMMIT")

    def scores(self, words: Sequence[str]) -> list[tuple[int, float]]:
        query = " OR ".join(f'"{each}"' for each in words)  # words have neither quotes nor operators
        with self._lock:
            rows = self._database.execute(
                "SELECT rowid, -bm25(passages) FROM passages WHERE passages MATCH ?", (query,)
            )
            return list(rows)


class _Bm25:
    """The same ranking without FTS5: about ten times as slow, and endings are cut more roughly."""

    def __init__(self, texts: Iterable[str]) -> None:
        counts = [Counter(map(_stem, _words(each))) for each in texts]
        self._lengths = [sum(each.values()) for each in counts]
        self._average = sum(self._lengths) / max(1, len(counts)) or 1.0
        self._places: dict[str, list[tuple[int, int]]] = {}
        for at, words in enumerate(counts):
            for word, times in words.items():
                self._places.setdefault(word, []).append((at, times))

    def scores(self, words: Sequence[str]) -> list[tuple[int, float]]:
        total: dict[int, float] = {}
        for word in words:
            places = self._places.get(_stem(word), [])
            rarity = max(1e-6, math.log((len(self._lengths) - len(places) + 0.5) / (len(places) + 0.5)))
            for at, times in places:
                norm = _K1 * (1 - _B + _B * self._lengths[at] / self._average)
                total[at] = total.get(at, 0.0) + rarity * times * (_K1 + 1) / (times + norm)
        return sorted(total.items())


_ENDING = re.compile(r"(?<=[a-z]{3})(ations?|ings?|edly|ed|ers?|ies|es|s|ly|e|y)$")


def _stem(word: str) -> str:
    return _ENDING.sub("", word)

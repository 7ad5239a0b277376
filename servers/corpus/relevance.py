"""How much of a query a passage is about: beyond single words, whether it is their subject.

A ranking by words alone prefers a passage that says one rare word often to one that is about all of them. Here its
score is multiplied by the share of the query that it covers, and raised where the words stand in its title or
side by side. What follows a preposition says where, not what, and counts half. Words of the trade count for each
other a little: someone who asks for rate limiting wants the throttle.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from sage_actors.messages.ranking import UNSPACED, Ranked, pairs_of
from sage_actors.servers.corpus.code import Piece

__all__ = ["Found", "Query", "first_scores", "kindred", "stems", "weigh"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(UNSPACED)
_SCRIPTS = re.compile(rf"{UNSPACED}{{2,}}|(?:(?!{UNSPACED}{{2}}).)+")
_SUFFIX = re.compile(r"(?:ations?|ings?|ers?|ors?|ed|es|s|e|ions?|able|ly)$")
_JOINED = re.compile(
    r"\b(start|time|back|log|set|clean|shut|roll|set|web|fall)[-_ ](up|out|off|in|down|hook|back)(?=s?\b|_)",
    re.I,
)
_STOP = _words(
    "a an and are as at be by but can do does for from has have how i if in into is it its my no not of on or our so"
    " that the their then there this to too up was we were what when where which who why will with without you your"
    " add adding new use uses using make making support supports supporting implement implementing should must need"
    " fix fixing improve improving all some more than"
)
_KINDRED = """
rate limit: throttle throttling quota 429
throttle: rate limit quota
retry: backoff reconnect resend
backoff: retry exponential jitter
slow: performance latency slowdown bottleneck expensive
fast: performance latency speed
performance: slow latency speed benchmark
startup: boot bootstrap init initialize lazy launch
shutdown: graceful terminate teardown
upload: multipart attachment
download: fetch stream
cache: memoize ttl lru etag
auth: login token credential session oauth
authentication: auth login token credential oauth
login: auth signin session password
timeout: deadline expire
crash: panic segfault fatal abort
leak: unclosed release
concurrency: parallel thread lock
deadlock: lock hang
pagination: page cursor offset
logging: logger trace
metrics: prometheus telemetry statistics
configuration: settings options
validation: schema validator invalid
encryption: cipher tls crypto
notification: email webhook alert
delete: remove purge
mailbox inbox: mailbox inbox queue
bounded: maxsize capacity limit
middleware: hook interceptor transport
websocket: ws socket stream
""".strip()
_CONTEXT = re.compile(r"\s(?:for|of|in|on|from|when|while|during|to|at|by)\s", re.I)
_CONTEXT_WEIGHT = 0.5  # of what stands behind it: rate limiting FOR the public API is about rate limiting
_KIN_WEIGHT = 0.5
_LEAST_COMMON = 0.04  # share of common words in sentences
_LEAST_COVERED = 0.34
_BASE = 3.0


@dataclass(frozen=True, slots=True)
class Found:
    """A piece and its score, comparable within one search."""

    piece: Piece
    score: float

    @property
    def ranked(self) -> Ranked:
        return Ranked(self.piece.passage, self.score)


class Query:
    """What is looked for. `wanted`: stems in order. `searched`: the words for an index, kindred ones too."""

    def __init__(self, text: str) -> None:
        self.text = text
        words = stems(text)
        self.wanted = list(dict.fromkeys(words))[:24]
        head = set(stems(_CONTEXT.split(text, maxsplit=1)[0])) or set(words)
        self.weights = {word: 1.0 if word in head else _CONTEXT_WEIGHT for word in self.wanted}
        self.pairs = {(a, b) for a, b in pairwise(words) if a != b}
        self.kin = {word: _KIN.get(word, frozenset()) - set(self.wanted) for word in self.wanted}
        kindred = dict.fromkeys(k for word in stems(text) for k in _KIN_WORDS.get(word, ()))
        self.searched = " ".join([_joined(text), *kindred, *(_apart(text))])

    def covered(self, words: Collection[str], rarity: dict[str, float] | None = None) -> float:
        """The share of the query, each word by how rare it is, that is among `words`."""
        rarity = rarity or dict.fromkeys(self.weights, 1.0)
        total = sum(rarity[word] * weight for word, weight in self.weights.items()) or 1.0
        return sum(rarity[w] * weight * self._in(w, words) for w, weight in self.weights.items()) / total

    def _in(self, word: str, words: Collection[str]) -> float:
        if word in words:
            return 1.0
        return _KIN_WEIGHT if any(kin in words for kin in self.kin[word]) else 0.0


def stems(text: str) -> list[str]:
    """The words of `text` by their beginnings, in order, joined words parted, common words left out."""
    words = _WORD.findall(_HUMP.sub(" ", _joined(text)))
    if not text.isascii():
        words = [part for word in words for part in _parted(word)]
    return [_stem(word) for word in map(str.lower, words) if word not in _STOP]


def _parted(word: str) -> list[str]:
    """Of what is written without spaces the pairs of characters, as the index has them."""
    parts = _SCRIPTS.findall(word)
    return [each for part in parts for each in (pairs_of(part) if _UNSPACED.match(part) else [part])]


def kindred(word: str) -> tuple[str, ...]:
    """Other words of the trade for the same thing."""
    return _KIN_WORDS.get(_stem(word.lower()), ())


def first_scores(ranked: Iterable[tuple[Piece, Ranked]]) -> list[Found]:
    """By words. In a small project a word is in half of the passages, where BM25 tells nothing apart: hence a base."""
    return [Found(piece, each.score + _BASE * piece.passage.weight) for piece, each in ranked]


def weigh(query: Query, found: list[Found]) -> list[Found]:
    """`found` with scores by coverage, title and neighbourhood, best first; what covers too little is left out."""
    if not query.wanted or not found:
        return found
    looked = [(hit, stems(_about(hit.piece)), stems(_read(hit.piece))) for hit in found]
    counts = Counter(word for _, title, text in looked for word in {*title, *text}.intersection(query.wanted))
    # a word that nothing contains weighs as the rarest: an answer to the rest of the query is no answer to it
    rarity = {word: math.log(2 + len(found) / (counts[word] or 0.5)) for word in query.wanted}
    weighed = [_weighed(query, hit, title, text, rarity) for hit, title, text in looked]
    return sorted(filter(None, weighed), key=lambda hit: -hit.score)


def _weighed(
    query: Query, hit: Found, title: list[str], text: list[str], rarity: dict[str, float]
) -> Found | None:
    covered = query.covered({*title, *text}, rarity)
    if covered < _LEAST_COVERED:
        return None
    near = len(query.pairs & _neighbours(title, text)) / len(query.pairs) if query.pairs else 0.0
    named = query.covered(set(stems(hit.piece.title)), rarity)
    factor = (0.1 + covered) * (1 + 0.5 * query.covered(set(title), rarity) + named) * (1 + near)
    if hit.piece.defines:
        factor *= 1.2
    form = _form(hit.piece)
    return replace(hit, score=hit.score * factor * form) if form else None


def _form(piece: Piece) -> float:
    """0 for what is about nothing: lists of words and names in documents. Less than 1 for the imports of a module."""
    kind, text = piece.passage.kind, piece.passage.text
    if kind == "documentation":
        return 0.0 if _is_list(text, 30) else 1.0
    if kind in ("code", "test") and not piece.defines:
        return 0.2 if text.count("(") < 3 and _is_list(text, 60) else 1.0 if piece.title else 0.75
    return 1.0


def _is_list(text: str, least: int) -> bool:
    """Whether it has at least so many words, and hardly any that sentences need."""
    words = _WORD.findall(text.lower())
    return len(words) > least and sum(word in _STOP for word in words) < _LEAST_COMMON * len(words)


def _neighbours(*texts: list[str]) -> set[tuple[str, str]]:
    return {pair for words in texts for pair in pairwise(words)}


def _about(piece: Piece) -> str:
    source = "" if piece.passage.source.startswith("git:") else piece.passage.source
    return f"{piece.title} {source}"


def _read(piece: Piece) -> str:
    return f"{piece.passage.text} {piece.extra}" if piece.extra else piece.passage.text


def _joined(text: str) -> str:
    """`start-up`, `start_up` and `start up` are one word."""
    return _JOINED.sub(r"\1\2", text)


def _apart(text: str) -> list[str]:
    """The two words of each of those, for an index that holds them apart."""
    return [" ".join(match.groups()) for match in _JOINED.finditer(text)]


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    cut = _SUFFIX.sub("", word)
    kept = cut if len(cut) >= 3 else word
    return kept[:-1] if len(kept) > 3 and kept[-1] in "yi" else kept


_KIN: dict[str, frozenset[str]] = {}
_KIN_WORDS: dict[str, tuple[str, ...]] = {}
for _line in _KINDRED.splitlines():
    _heads, _, _others = _line.partition(":")
    for _head in _heads.split():
        _KIN[_stem(_head)] = _KIN.get(_stem(_head), frozenset()) | frozenset(map(_stem, _others.split()))
        _KIN_WORDS[_stem(_head)] = (*_KIN_WORDS.get(_stem(_head), ()), *_others.split())

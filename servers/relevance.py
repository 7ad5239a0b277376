"""How much of a query a passage is about: beyond single words, whether it is their subject.

A ranking by words alone prefers a passage that says one rare word often to one that is about all of them. Here its
score is multiplied by the share of the query that it covers, and raised where the words stand in its title or
side by side.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from sage_actors.messages.ranking import Ranked
from sage_actors.servers.corpus_code import Piece

__all__ = ["Found", "camel_words", "stems", "weigh"]

_CAMEL = re.compile(r"\b_*[A-Za-z]*[a-z0-9][A-Z]\w*|\b[A-Z]{2,}[a-z]\w*")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")
_SUFFIX = re.compile(r"(?:ings?|ers?|ed|es|s|e|ion|ions|able)$")
_STOP = frozenset(
    "a an and are as at be but by can do does for from has have how i if in into is it its my of on or our so that"
    " the their then there this to too up was we were what when where which who why will with without you your add"
    " new use using make support implement".split()
)
_LEAST_COVERED = 0.34


@dataclass(frozen=True, slots=True)
class Found:
    """A piece and its score, comparable within one search."""

    piece: Piece
    score: float

    @property
    def ranked(self) -> Ranked:
        return Ranked(self.piece.passage, self.score)


def camel_words(text: str) -> str:
    """The parts of joined words: `RateLimiter` gives `Rate Limiter`."""
    return " ".join(_HUMP.sub(" ", word) for word in dict.fromkeys(_CAMEL.findall(text)))


def stems(text: str) -> list[str]:
    """The words of `text` by their beginnings, in order, joined words parted, common words left out."""
    words = _WORD.findall(_HUMP.sub(" ", text))
    return [_stem(word) for word in map(str.lower, words) if word not in _STOP]


def weigh(query: str, found: list[Found]) -> list[Found]:
    """`found` with scores by coverage, title and neighbourhood, best first; what covers too little is left out."""
    wanted = list(dict.fromkeys(stems(query)))
    if not wanted:
        return found
    looked = [(hit, stems(_about(hit.piece)), stems(hit.piece.passage.text)) for hit in found]
    counts = Counter(word for _, title, text in looked for word in {*title, *text} if word in wanted)
    rarity = {word: math.log(2 + len(found) / counts[word]) for word in wanted if counts[word]}
    weighed = [_weighed(hit, title, text, wanted, rarity) for hit, title, text in looked]
    return sorted(filter(None, weighed), key=lambda hit: -hit.score)


def _weighed(
    hit: Found, title: list[str], text: list[str], wanted: list[str], rarity: dict[str, float]
) -> Found | None:
    total = sum(rarity.values()) or 1.0
    names, words = set(title), {*title, *text}
    covered = sum(r for word, r in rarity.items() if word in words) / total
    titled = sum(r for word, r in rarity.items() if word in names) / total
    if covered < _LEAST_COVERED:
        return None
    pairs = set(zip(wanted, wanted[1:], strict=False))
    near = len(pairs & _neighbours(title, text)) / len(pairs) if pairs else 0.0
    factor = (0.25 + covered) * (1 + 0.8 * titled) * (1 + near)
    if hit.piece.defines:
        factor *= 1.2
    return replace(hit, score=hit.score * factor)


def _neighbours(*texts: list[str]) -> set[tuple[str, str]]:
    return {pair for words in texts for pair in zip(words, words[1:], strict=False)}


def _about(piece: Piece) -> str:
    source = "" if piece.passage.source.startswith("git:") else piece.passage.source
    return f"{piece.title} {source}"


def _stem(word: str) -> str:
    cut = _SUFFIX.sub("", word)
    kept = cut if len(cut) >= 3 else word
    return kept[:-1] if len(kept) > 3 and kept[-1] in "yi" else kept

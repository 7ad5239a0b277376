"""What a topic asks about: its words, the phrase that names the thing, and where it is wanted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sage_actors.messages.ranking import UNSPACED, pairs_of
from sage_actors.servers.corpus.relevance import kindred

__all__ = ["SURFACE_WORDS", "VAGUE_WORDS", "Topic", "split_name", "stem"]

SURFACE_WORDS = frozenset(
    {"api", "publ", "public", "interfac", "client", "librar", "endpoint", "cli", "surfac"}
)
"""Stems that mean what users of a project see, and only by chance a word in a name."""

VAGUE_WORDS = SURFACE_WORDS - {"client", "cli", "endpoint"}
"""Those of them that name no place in the code."""

_STOP_WORDS = (
    "a an the and or of to in on for with without by from as at is are be it its this that these those "
    "into onto over under between among across against "
    "add adds adding support supports supporting implement implementing make makes "
    "making new use using allow allowing provide providing create creating introduce enable when while if "
    "can could should would must better improve improving improvement our we i they them then than via "
    "per all any some more most not no do does how what which who feature features fix fixing need needs "
    "want wants let lets get gets so but about"
    " another other others each every same given certain specific has have had having was were been there also just"
    " even already still"
    " faster quicker slower clearer cleaner simpler easier safer smaller larger lower higher less fewer nicer stronger"
    " simplify simplifying reduce reducing optimize optimise optimizing refactor refactoring"
)
_STOP = frozenset(_STOP_WORDS.split())
_QUANTITY = r"\b(?:number|amount)s? of\b"
_EMPTY = re.compile(rf"(?<![-\w])only(?![-\w])|{_QUANTITY}", re.IGNORECASE)
"""What says nothing of the thing; of "read-only" and "max-only" it does."""
_PLACE = re.compile(
    r"\s+(?:for|in|(?<!number\s)(?<!amount\s)(?<!numbers\s)(?<!amounts\s)of|to|on|into|within|inside|when|from|during)\s+(?:the\s+|a\s+|an\s+|our\s+)?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_](?:[^\W_]|[+#])*|\d+")
_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_LETTERS = re.compile(rf"{UNSPACED}+|(?:(?!{UNSPACED})[^\W\d_])+|\d+")
_UNSPACED = re.compile(rf"{UNSPACED}+")
_ENDINGS = (
    "izations",
    "ization",
    "ations",
    "ation",
    "ings",
    "ing",
    "ers",
    "er",
    "ies",
    "ied",
    "ed",
    "ie",
    "es",
    "s",
    "e",
    "y",
)


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """A crude stem for comparing names with words: "limiting", "limiter" and "limits" are "limit"."""
    word = word.lower()
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl" else word


@lru_cache(maxsize=1 << 16)
def split_name(name: str) -> tuple[str, ...]:
    """The words in an identifier: `RateLimiter.try_acquire` is rate, limiter, try, acquire.

    Of a script that writes no spaces the pairs of characters, as the search has them.
    """
    if name.isascii():
        return tuple(part.lower() for part in _PARTS.findall(name))
    return tuple(part.lower() for run in _LETTERS.findall(name) for part in _parts(run))


def _parts(run: str) -> Iterator[str]:
    """Of letters of one kind: pairs, or the words between humps, whatever alphabet the humps are of."""
    if _UNSPACED.match(run):
        yield from pairs_of(run)
        return
    shape = "".join("A" if letter.isupper() else "0" if letter.isdecimal() else "a" for letter in run)
    for part in _PARTS.finditer(shape):
        yield run[part.start() : part.end()]


@dataclass(frozen=True)
class Topic:
    """The text as it was asked, and what is read out of it. Nothing is added to its words.

    is_there: it asks for no new thing but for a better one, so that all of its words say what that is.
    """

    text: str
    is_there: bool = False

    @cached_property
    def thing(self) -> str:
        """What stands before the first "for", "in", "of" ...: what is wanted."""
        return self.text.strip() if self.is_there else _PLACE.split(self.text.strip(), maxsplit=1)[0]

    @cached_property
    def place(self) -> str:
        """What stands behind it: where it is wanted; "" where the topic does not say."""
        match = None if self.is_there else _PLACE.search(self.text.strip())
        return self.text.strip()[match.end() :].strip() if match else ""

    @cached_property
    def thing_stems(self) -> tuple[str, ...]:
        """Stems of the words of `thing` that mean something; of what is to be better, no quality."""
        found = _stems(self.thing)
        return (tuple(part for part in found if part not in _QUALITIES) or found) if self.is_there else found

    @cached_property
    def place_stems(self) -> tuple[str, ...]:
        """Stems of the words of `place`."""
        return _stems(self.place)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """All of them, each once, in the order of the topic."""
        return tuple(dict.fromkeys((*self.thing_stems, *self.place_stems)))

    @cached_property
    def kin(self) -> dict[str, frozenset[str]]:
        """Of each stem of `thing` those of other words for it: someone who asks for a mailbox may mean the inbox."""
        return {
            part: frozenset(_stems(" ".join(kindred(self.word_of(part))))) - {part}
            for part in self.thing_stems
        }

    def word_of(self, part: str) -> str:
        """The word of the topic that has this stem, as it was written."""
        return next((word for word in _words(self.text) if part in _stems_of(word)), part)

    def words_of(self, parts: Iterable[str]) -> list[str]:
        """The words of the topic that have these stems, each once."""
        return list(dict.fromkeys(map(self.word_of, parts)))


_QUALITY_WORDS = (
    "overhead performance speed efficiency efficient quality readability maintainability usability"
)
_QUALITIES = frozenset(map(stem, _QUALITY_WORDS.split()))


def _words(text: str) -> list[str]:
    """As they are written; what has no spaces in it is one word, apart from what other letters stand beside it."""
    if text.isascii():
        return _WORD.findall(text)
    runs = _WORD.findall(unicodedata.normalize("NFC", text))
    parted = (re.findall(rf"{UNSPACED}+|(?:(?!{UNSPACED}).)+", run) for run in runs)
    return [word for words in parted for word in words]


def _stems_of(word: str) -> tuple[str, ...]:
    return tuple(pairs_of(word)) if _UNSPACED.fullmatch(word) else (stem(word),)


def _stems(text: str) -> tuple[str, ...]:
    said = _words(_EMPTY.sub(" ", text))
    words = (word for word in said if word.lower() not in _STOP and len(word) > 1)
    return tuple(dict.fromkeys(part for word in words for part in _stems_of(word)))

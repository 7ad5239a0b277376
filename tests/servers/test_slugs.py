"""Slugs: readable folder names, safe, and different for different topics."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.servers.documents.slugs import MAX_SLUG, check_slug, headline, slug_of


def test_a_plain_topic_becomes_its_words() -> None:
    assert slug_of("  Rate limiting, for the public API ") == "rate-limiting-for-the-public-api"


@pytest.mark.parametrize(
    ("one", "other"), [("C++", "C#"), ("日本語", "中文"), ("naïve", "na ve"), ("a" * 70, "a" * 71)]
)
def test_topics_that_lose_characters_do_not_share_a_slug(one: str, other: str) -> None:
    assert slug_of(one) != slug_of(other)
    assert re.search(r"[0-9a-f]{8}$", slug_of(one))


@given(st.text())
def test_every_text_gives_a_slug_that_a_folder_may_have(text: str) -> None:
    slug = slug_of(text)
    assert check_slug(slug) == slug
    assert len(slug) <= MAX_SLUG


@given(
    st.lists(
        st.text(min_size=1),
        min_size=2,
        max_size=5,
        unique_by=lambda t: re.sub(r"[^a-z0-9]+", "-", t.strip().lower()).strip("-"),
    )
)
def test_different_words_give_different_slugs(topics: list[str]) -> None:
    assert len({slug_of(topic) for topic in topics}) == len(topics)


@pytest.mark.parametrize("wrong", ["", "..", "a/b", "-a", "a--b", "A", "a" * 80, "a\n"])
def test_what_is_no_slug_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="no slug"):
        check_slug(wrong)


def test_the_headline_of_a_traceback_is_its_error() -> None:
    text = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\npkg.InvalidURL: bad url'
    assert headline(text) == "pkg.InvalidURL: bad url"
    assert (
        headline(f"{text}\nFAILED tests/test_a.py::test_f\n1 failed in 0.1 s\n") == "pkg.InvalidURL: bad url"
    )
    assert headline("E   ValueError: no\n=== 1 failed ===") == "ValueError: no"
    assert slug_of(text).startswith("pkg-invalidurl-bad-url-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a\ntests/test_a.py:5: AssertionError\nFAILED tests/test_a.py::T::test_a - assert 0 == 1\n",
            "T::test_a: assert 0 == 1",
        ),
        (
            "thread 'tests::a' panicked at src/lib.rs:4:1:\nindex out of bounds: the len is 0\n",
            "index out of bounds: the len is 0",
        ),
        ("--- FAIL: TestA (0.00s)\n    a_test.go:9:\n        Error Trace: a_test.go:9\n", "TestA"),
        (
            "TAP version 13\n# Subtest: a\nnot ok 3 - refuses what is too much\n  ---\n",
            "refuses what is too much",
        ),
        ("# example.com/shop\n./a.go:3:17: undefined: x\n", "./a.go:3:17: undefined: x"),
    ],
)
def test_the_headline_of_a_test_tool_s_output_is_what_failed(text: str, said: str) -> None:
    assert headline(text) == said

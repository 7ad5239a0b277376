"""Digests: the shape stays, the budget holds whatever the value is, and what is kept is kept as it was."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_actors.messages.digest import CUT, digest_value
from sage_actors.messages.packing import packed, size_of
from sage_actors.messages.tokens import count_tokens, tokenizer_name

CAKE = (
    "Chocolate cake is mixed with number {0} spoons of sugar and {0} eggs, and baked until step {0} is done."
)
LIMIT = "The rate limiter number {0} refuses clients above {0} requests, and writes entry {0} to its log."


def finding(at: int) -> dict[str, Any]:
    text = (LIMIT if at % 20 == 7 else CAKE).format(at)
    return {"text": text, "citation": {"source": f"docs/page{at}.md", "line": at + 1}, "score": at / 10}


def research() -> dict[str, Any]:
    return {
        "operation": "best_practices",
        "findings": [finding(at) for at in range(200)],
        "log": "\n\n".join((LIMIT if at % 100 == 3 else CAKE).format(at) for at in range(1500)),
        "notes": [],
        "complete": True,
    }


def smallest(value: Any) -> int:
    """Bytes below which nothing can be cut: a scalar is never changed."""
    if isinstance(value, str):
        return min(size_of(value), size_of(CUT))
    return 2 if isinstance(value, dict | list | tuple | bytes) else size_of(value)


@pytest.mark.requirement("ORCH-012")
def test_the_shape_stays_and_the_best_of_each_part_is_kept() -> None:
    value = research()
    kept, count = digest_value(value, "rate limiter", max_bytes=4000)
    assert list(kept) == list(value)
    assert (kept["operation"], kept["notes"], kept["complete"]) == ("best_practices", [], True)
    assert all("rate limiter" in each["text"] for each in kept["findings"][:8])
    assert kept["log"].count("rate limiter") >= 6
    assert 3000 < count.kept_bytes == size_of(kept) <= 4000
    assert (count.raw_bytes, count.tokenizer) == (size_of(value), tokenizer_name())
    assert (count.raw_tokens, count.kept_tokens) == (count_tokens(packed(value)), count_tokens(packed(kept)))


def test_kept_elements_are_the_ones_that_were_there_with_their_citations() -> None:
    value = research()["findings"]
    kept, _ = digest_value(value, "rate limiter", max_bytes=2000)
    assert len(kept) > 5
    assert all(any(each is one for one in value) for each in kept)


def test_nothing_that_was_given_is_changed() -> None:
    value = research()
    before = copy.deepcopy(value)
    digest_value(value, "rate limiter", max_bytes=900, top=3, threshold=0.5)
    assert value == before


@pytest.mark.parametrize("limits", [{}, {"max_bytes": 10**6}, {"max_tokens": 10**6}, {"top": 200}])
def test_what_fits_is_returned_as_it_is(limits: dict[str, Any]) -> None:
    value = research()
    kept, count = digest_value(value, "rate limiter", **limits)
    assert kept is value
    assert (count.kept_bytes, count.kept_tokens) == (count.raw_bytes, count.raw_tokens)


@pytest.mark.parametrize("limits", [{"max_bytes": 3000}, {"max_tokens": 700}, {"top": 4}])
def test_a_digest_of_a_digest_is_the_same(limits: dict[str, Any]) -> None:
    once, _ = digest_value(research(), "rate limiter", **limits)
    twice, _ = digest_value(once, "rate limiter", **limits)
    assert twice is once


def test_top_cuts_the_outermost_lists_and_nothing_inside_their_elements() -> None:
    value = {
        "a": {
            "items": [
                {"text": CAKE.format(1), "tags": [1, 2, 3]},
                {"text": "rate limiter", "tags": [4, 5, 6]},
            ]
        }
    }
    kept, _ = digest_value(value, "limiter", top=1)
    assert kept == {"a": {"items": [{"text": "rate limiter", "tags": [4, 5, 6]}]}}


def test_the_threshold_leaves_out_what_has_less_to_do_with_the_query() -> None:
    value = [CAKE.format(at) for at in range(9)] + [
        "rate limiter",
        "a limiter, and a great many other words beside it",
    ]
    assert digest_value(value, "rate limiter", threshold=0.9)[0] == ["rate limiter"]
    assert digest_value(value, "rate limiter", threshold=0.01)[0] == [value[9], value[10]]
    assert digest_value(value, "quantum", threshold=0.9)[0] is value


@pytest.mark.parametrize("query", ["", "?", "quantum chromodynamics"])
def test_a_query_that_finds_nothing_keeps_the_first(query: str) -> None:
    kept, _ = digest_value([CAKE.format(at) for at in range(50)], query, max_bytes=500)
    assert kept == [CAKE.format(at) for at in range(len(kept))]
    assert len(kept) >= 3


def test_near_duplicates_take_no_room_from_others() -> None:
    copies = [
        f"The rate limiter of the public interface refuses every client above its rate, see {at}"
        for at in range(9)
    ]
    kept, _ = digest_value([*copies, LIMIT.format(5), CAKE.format(1) * 9], "rate limiter", max_bytes=400)
    assert len([each for each in kept if each in copies]) == 1
    assert LIMIT.format(5) in kept


def test_figures_and_short_elements_are_no_duplicates() -> None:
    value = {
        "flags": [True, False, True],
        "places": [f"a.py:{at}" for at in range(40)],
        "log": CAKE.format(1) * 50,
    }
    kept, _ = digest_value(value, "limiter", max_bytes=900)
    assert (kept["flags"], kept["places"]) == (value["flags"], value["places"])


def test_a_long_text_keeps_its_passages_in_their_order_and_marks_what_is_missing() -> None:
    text = "\n\n".join(
        [CAKE.format(1) * 7, LIMIT.format(2), CAKE.format(3) * 7, LIMIT.format(4), CAKE.format(5) * 7]
    )
    kept, _ = digest_value(text, "rate limiter", max_bytes=260)
    assert kept == f"{CUT}\n{LIMIT.format(2)}\n{CUT}\n{LIMIT.format(4)}\n{CUT}"


def test_a_text_without_room_for_a_passage_keeps_its_beginning() -> None:
    kept, _ = digest_value("limiter " * 480, "limiter", max_bytes=60)
    assert kept.startswith("limiter limiter")
    assert kept.endswith(CUT)


def test_a_small_part_leaves_its_room_to_a_large_one() -> None:
    value = {"small": CAKE.format(1), "large": research()["log"], "other": research()["log"]}
    kept, count = digest_value(value, "rate limiter", max_bytes=6000)
    assert kept["small"] == value["small"]
    assert count.kept_bytes > 4500
    assert abs(size_of(kept["large"]) - size_of(kept["other"])) < 800


def test_a_large_element_is_cut_around_its_citation() -> None:
    value = [
        {"text": research()["log"], "citation": {"source": "docs/guide.md", "line": at}} for at in range(2)
    ]
    kept, count = digest_value(value, "rate limiter", max_bytes=3000)
    assert kept[0]["citation"] == value[0]["citation"]
    assert "rate limiter" in kept[0]["text"]
    assert count.kept_bytes <= 3000


def test_an_element_whose_citation_has_no_room_is_left_out_rather_than_damaged() -> None:
    value = [{"text": CAKE.format(1), "citation": {"source": "docs/guide.md", "line": 1}}]
    for room in range(2, 120, 3):
        kept, _ = digest_value(value, "cake", max_bytes=room)
        assert all(each["citation"] == value[0]["citation"] for each in kept)


def test_a_map_of_too_many_keys_keeps_the_entries_that_matter() -> None:
    value = {f"docs/page{at}.md": (LIMIT if at == 700 else CAKE).format(at) for at in range(1000)}
    kept, count = digest_value(value, "rate limiter", max_bytes=500)
    assert "docs/page700.md" in kept
    assert count.kept_bytes <= 500


@pytest.mark.parametrize(
    ("value", "least"),
    [
        ({"a": {"b": "x" * 99}}, {}),
        (["x" * 99], []),
        (("x" * 99,), ()),
        ("x" * 99, CUT),
        (b"x" * 99, b""),
        (12345, 12345),
        (None, None),
        ("abc", "abc"),
    ],
)
@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_tokens": 0}, {"max_bytes": -5}])
def test_an_impossible_budget_gives_the_least_and_no_error(
    value: Any, least: Any, limits: dict[str, Any]
) -> None:
    kept, count = digest_value(value, "x", **limits)
    assert kept == least
    assert count.kept_bytes == size_of(least)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40)
TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from([LIMIT, CAKE, "\n\n", "é" * 30, '"', "# A\n"]), max_size=20
).map("".join)
KEYS = (
    st.text(max_size=12)
    | st.integers()
    | st.none()
    | st.booleans()
    | st.tuples(st.integers(), st.text(max_size=3))
)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(KEYS, inner, max_size=6)
        | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None)
@given(value=VALUES, room=st.integers(0, 1500), query=st.sampled_from(["rate limiter", "", "sugar é"]))
def test_no_value_exceeds_its_bytes(value: Any, room: int, query: str) -> None:
    kept, count = digest_value(value, query, max_bytes=room)
    assert type(kept) is type(value)
    assert size_of(kept) == count.kept_bytes <= max(room, smallest(value))
    assert digest_value(kept, query, max_bytes=max(room, smallest(value)))[0] is kept


@settings(max_examples=60, deadline=None)
@given(value=VALUES, room=st.integers(0, 300))
def test_no_value_exceeds_its_tokens(value: Any, room: int) -> None:
    _, count = digest_value(value, "rate limiter", max_tokens=room)
    least, _ = digest_value(value, "rate limiter", max_bytes=0)
    assert count.kept_tokens <= max(room, count_tokens(packed(least)))


def test_both_budgets_hold() -> None:
    _, count = digest_value(research(), "rate limiter", max_bytes=3000, max_tokens=300)
    assert count.kept_tokens <= 300
    _, count = digest_value(research(), "rate limiter", max_bytes=300, max_tokens=3000)
    assert count.kept_bytes <= 300


def test_tokens_are_used_up_and_not_only_kept_to() -> None:
    _, count = digest_value(research(), "rate limiter", max_tokens=1000)
    assert 800 < count.kept_tokens <= 1000


@pytest.mark.no_cover
def test_deep_nesting_is_digested_or_left_out_and_never_an_error() -> None:
    deep: Any = "the rate limiter " * 99
    for _ in range(2000):
        deep = {"in": [deep]}
    kept, count = digest_value({"deep": deep, "log": research()["log"]}, "rate limiter", max_bytes=2000)
    assert count.kept_bytes <= 2000
    assert "rate limiter" in kept["log"]


@pytest.mark.no_cover
def test_ten_megabytes_are_digested_at_once() -> None:
    text = "\n".join((LIMIT if at == 70_001 else CAKE).format(at) for at in range(100_000))
    assert len(text) > 10_000_000
    began = time.process_time()
    kept, count = digest_value({"log": text, "ok": True}, "rate limiter", max_bytes=2000, max_tokens=400)
    assert time.process_time() - began < 20
    assert "limiter number 70001" in kept["log"]
    assert count.kept_tokens <= 400


@pytest.mark.no_cover
def test_a_hundred_thousand_elements_are_digested_at_once() -> None:
    value = [{"name": (LIMIT if at == 70_001 else CAKE).format(at), "line": at} for at in range(100_000)]
    began = time.process_time()
    kept, _ = digest_value(value, "rate limiter", max_tokens=400)
    assert time.process_time() - began < 30
    assert kept[0] is value[70_001]


@pytest.mark.no_cover
def test_one_endless_word_is_cut() -> None:
    kept, count = digest_value("x" * 3_000_000, "limiter", max_bytes=1000)
    assert 0 < len(kept) <= 998
    assert count.kept_bytes <= 1000
    assert json.loads(packed(kept)) == kept


def _found(number: int) -> dict[str, object]:
    text = f"rate limit number {number} " + "of the client " * 20
    return {"text": text, "citation": {"source": f"src/limits_{number}.py", "line": number + 1}, "score": 1.0}


RESEARCH = {
    "topic": "rate limit",
    "findings": [_found(number) for number in range(40)],
    "citations": [f"src/limits_{number}.py:{number + 1}" for number in range(40)],
    "notes": [],
}


@pytest.mark.parametrize("limits", [{"top": 3}, {"max_bytes": 2000}, {"max_tokens": 500, "top": 5}])
def test_a_digest_cites_what_it_keeps_and_nothing_else(limits: dict[str, int]) -> None:
    kept, count = digest_value(RESEARCH, "rate limit", **limits)
    places = [f"{each['citation']['source']}:{each['citation']['line']}" for each in kept["findings"]]
    assert sorted(kept["citations"]) == sorted(places)
    assert 1 < len(places) < 40
    assert list(kept) == list(RESEARCH)
    assert count.kept_bytes <= limits.get("max_bytes", count.kept_bytes)
    assert count.kept_tokens <= limits.get("max_tokens", count.kept_tokens)


def test_citations_that_are_not_those_of_findings_are_left_to_the_budget() -> None:
    value = {**RESEARCH, "citations": ["elsewhere.py:1"]}
    kept, _ = digest_value(value, "rate limit", top=3)
    assert kept["citations"] == ["elsewhere.py:1"]

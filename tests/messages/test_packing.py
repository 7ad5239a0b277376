"""Sizes: as JSON has them, and also of what JSON refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.messages import packing
from sage_actors.messages.packing import key_size, packed, size_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=JSON)
def test_the_way_around_json_writes_the_same(value: Any) -> None:
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert packed(value) == plain == "".join(packing._parts(value))
    assert size_of(value) == len(plain.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({(1, 2): "x"}, '{"[1,2]":"x"}'),
        ({1: 2, None: True}, '{"1":2,"null":true}'),
        ({b"k": b"\x00\xff"}, '{"\\"aw==\\"":"AP8="}'),
        ([], "[]"),
        ((), "[]"),
        ([{}], "[{}]"),
    ],
)
def test_what_json_refuses_has_a_size_too(value: Any, text: str) -> None:
    assert packed(value) == text
    assert size_of(value) == len(text)


def test_keys_count_with_their_quotes() -> None:
    assert [key_size(key) for key in ("ab", 12, "é")] == [4, 4, 4]


@pytest.mark.no_cover
def test_nesting_has_no_limit() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    assert size_of(deep) == 200_003


def test_an_endless_integer_has_a_size() -> None:
    assert size_of(10**20_000) > 16_000


def test_a_value_that_contains_itself_is_refused_and_not_followed() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="Circular"):
        size_of(value)

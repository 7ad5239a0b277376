"""Passages: nothing is lost, nothing is too long, and every line number leads back to the words."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from sage_actors.messages.passages import Passage, split_passages

GUIDE = """\
# Rate limits

Every client has a bucket.

## Settings

- `rate`: requests a second,
  for each client
- `burst`: how many at once

```python
# not a heading
limiter = RateLimiter(rate=5)

limiter.take()
```

## Errors

A client above its rate gets 429.
"""


def assert_lines_lead_back(text: str, passages: list[Passage], first_line: int = 1) -> None:
    """Each passage is in the file where it says: whole lines, or part of one long line."""
    lines = [line.rstrip() for line in text.split("\n")]
    for each in passages:
        assert each.line is not None
        at = each.line - first_line
        own = each.text.split("\n")
        if len(own) > 1:
            assert lines[at : at + len(own)] == own
        else:
            assert own[0] in lines[at]


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("max_chars", [40, 120, 700])
def test_every_passage_stands_at_its_line(max_chars: int) -> None:
    passages = split_passages(GUIDE, "guide.md", max_chars=max_chars)
    assert_lines_lead_back(GUIDE, passages)
    assert words(" ".join(each.text for each in passages)) == words(GUIDE)


def test_sections_are_passages_and_a_heading_stays_with_its_text() -> None:
    passages = split_passages(GUIDE, "guide.md")
    assert [(each.line, each.text.split("\n")[0]) for each in passages] == [
        (1, "# Rate limits"),
        (5, "## Settings"),
        (18, "## Errors"),
    ]
    assert passages[2].text.endswith("A client above its rate gets 429.")


def test_headings_above_each_other_stay_together_with_the_first_text() -> None:
    text = "# Guide\n\n## Limits\n\nFive a second.\n\n## Errors\n\n429."
    assert [each.text for each in split_passages(text, "g")] == [
        "# Guide\n\n## Limits\n\nFive a second.",
        "## Errors\n\n429.",
    ]


def test_an_underlined_heading_opens_a_section_too() -> None:
    text = "Limits\n======\n\nFive a second.\n\nErrors\n------\n\n429."
    assert [each.line for each in split_passages(text, "g.rst")] == [1, 6]


def test_a_comment_in_source_text_is_no_heading_and_definitions_open_passages() -> None:
    text = "# setup\nimport os\n\n\ndef first():\n    return 1\n\n    # why\n\n\n@cached\ndef second():\n    return 2\n"
    passages = split_passages(text, "m.py", kind="code")
    assert [(each.line, each.kind) for each in passages] == [(1, "code"), (5, "code"), (11, "code")]
    assert passages[2].text.startswith("@cached\ndef second")


def test_list_items_and_code_are_cut_between_and_not_inside() -> None:
    items = "\n".join(f"- item {i} says something of its own\n  on two lines" for i in range(12))
    for each in split_passages(items, "list", max_chars=150):
        assert each.text.startswith("- item")
        assert each.text.endswith("on two lines")
    code = "```\n" + "\n\n".join(f"call({i})" for i in range(10)) + "\n```"
    assert [each.text for each in split_passages(f"Before.\n\n{code}\n\nAfter.", "c", max_chars=100)][
        1
    ] == code


def test_a_long_line_is_cut_at_sentences_and_keeps_its_number() -> None:
    line = " ".join(f"Sentence number {i} ends here." for i in range(60))
    passages = split_passages(f"short\n\n{line}\n\nend", "log", max_chars=200)
    inside = [each for each in passages if each.line == 3]
    assert len(inside) > 5
    assert all(each.text.endswith(".") and len(each.text) <= 200 for each in inside)
    assert words(" ".join(each.text for each in inside)) == words(line)


def test_a_part_of_a_file_is_numbered_as_the_file_is() -> None:
    passages = split_passages("\n\nhere", "file", first_line=41, kind="test", weight=1.5)
    assert passages == [Passage("here", "file", 43, "test", 1.5)]


@pytest.mark.parametrize("text", ["", " \n\t\n", "\n" * 1000])
def test_a_blank_text_has_no_passages(text: str) -> None:
    assert split_passages(text, "s") == []


def test_lines_are_those_that_an_editor_counts() -> None:
    text = "one\x0c\u2028still one\r\n\r\nthree\r\n"
    assert [(each.line, words(each.text)) for each in split_passages(text, "s", max_chars=14)] == [
        (1, ["one", "still", "one"]),
        (3, ["three"]),
    ]


def test_a_passage_holds_at_least_a_character() -> None:
    with pytest.raises(ValueError, match="max_chars is 0"):
        split_passages("text", "s", max_chars=0)


@pytest.mark.parametrize("kind", ["documentation", "code"])
def test_the_files_of_this_repository_come_back_whole(kind: str) -> None:
    for path in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "messages").rglob("*.py"))]:
        text = path.read_text()
        passages = split_passages(text, path.name, kind=kind)
        assert_lines_lead_back(text, passages)
        assert words(" ".join(each.text for each in passages)) == words(text)
        assert max(len(each.text) for each in passages) <= 700


TEXTS = st.lists(
    st.sampled_from(
        ["# a", "word ", "\n", "\n\n", "- x", "```", "===", "def f():", "  ", "é", "。", "x" * 30, ". "]
    ),
    max_size=60,
).map("".join)


@given(text=TEXTS, max_chars=st.integers(1, 60), kind=st.sampled_from(["documentation", "code"]))
def test_nothing_is_lost_and_nothing_is_too_long(text: str, max_chars: int, kind: str) -> None:
    passages = split_passages(text, "s", kind=kind, max_chars=max_chars)
    assert all(0 < len(each.text) <= max_chars for each in passages)
    assert re.sub(r"\s", "", "".join(each.text for each in passages)) == re.sub(r"\s", "", text)
    assert_lines_lead_back(text, passages)
    assert [each.line for each in passages] == sorted(each.line or 0 for each in passages)


@pytest.mark.parametrize(
    "text",
    ["word " * 400_000, "x" * 2_000_000, "line\n" * 400_000, "- item\n" * 280_000, "```\n" * 500_000],
    ids=["one line", "one word", "lines", "items", "fences"],
)
@pytest.mark.no_cover
def test_two_megabytes_of_anything_take_seconds(text: str) -> None:
    began = time.process_time()
    passages = split_passages(text, "s")
    assert time.process_time() - began < 15
    assert max(len(each.text) for each in passages) <= 700

"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
from places import SOURCES

PACKAGE = SOURCES / "sage_actors"
FOLDERS = ("", "actors", "messages", "sandbox", "servers", "supervisor")  # the last five are links
MODULES = sorted(
    ".".join(path.relative_to(SOURCES).with_suffix("").parts)
    for folder in FOLDERS
    for path in (PACKAGE / folder).glob("**/*.py" if folder else "*.py")
    if "    >>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_its_examples_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0, "the examples and what they gave are on stdout"

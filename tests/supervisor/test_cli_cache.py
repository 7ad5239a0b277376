"""The command cache, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine, Inside


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    made = CommandLine(tmp_path)
    yield made
    made.close()


@pytest.fixture
def inside(sage: CommandLine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(sage, capsys, monkeypatch)


pytestmark = pytest.mark.requirement("ORCH-019")


def cached_flow(sage: CommandLine, text: str = "kept") -> str:
    node = {"id": "a", "type": "shell", "command": ["echo", text], "cache": True}
    return str(sage.flow(node))


def as_json(inside: Inside, *words: str) -> Any:
    return json.loads(inside("cache", *words, "--json").stdout)


def test_a_second_run_hits_and_the_rate_survives_processes(sage: CommandLine, inside: Inside) -> None:
    flow = cached_flow(sage)
    sage("run", flow)
    said = sage("run", flow, "--fresh", "--plain").stdout
    assert "from the cache" in said
    assert "cache 1 hit" in said
    stats = as_json(inside, "stats")
    assert (stats["hits"], stats["misses"], stats["hit_rate"], stats["entries"]) == (1, 1, 0.5, 1)
    assert "50% of questions" in inside("cache", "stats").stdout


def test_no_cache_asks_nothing(sage: CommandLine, inside: Inside) -> None:
    flow = cached_flow(sage)
    inside("run", flow)
    inside("run", flow, "--fresh", "--no-cache")
    assert as_json(inside, "stats")["hits"] == 0


def test_entries_are_listed_shown_and_cleared(sage: CommandLine, inside: Inside) -> None:
    assert "empty" in inside("cache", "list").stdout
    inside("run", cached_flow(sage))
    (row,) = as_json(inside, "list")
    assert row["operation"] == "shell"
    assert row["name"][:12] in inside("cache", "list").stdout
    assert json.loads(inside("cache", "show", row["name"][:12]).stdout)["stdout"] == "kept\n"
    assert as_json(inside, "clear", "--older-than", "1d") == {"removed": 0}
    assert as_json(inside, "clear", "--operation", "no such") == {"removed": 0}
    assert "Removed 1 entry." in inside("cache", "clear").stdout
    assert as_json(inside, "stats")["misses"] == 0


@pytest.mark.parametrize("words", [("show", "ffff"), ("clear", "--older-than", "soon"), ("nothing",)])
def test_what_cannot_be_done_is_usage(sage: CommandLine, inside: Inside, words: tuple[str, ...]) -> None:
    inside("run", cached_flow(sage))
    assert "Error" in inside("cache", *words, code=2).stderr


def test_the_whole_of_a_digested_result_can_be_shown(sage: CommandLine, inside: Inside) -> None:
    text = "\n\n".join(f"Paragraph {i} is about gardens." for i in range(300))
    (sage.project / "steps.py").write_text(f"def long():\n    return {text!r}\n")
    flow = sage.flow({"id": "a", "type": "python", "call": "steps:long", "digest": {"max_bytes": 500}})
    inside("run", flow)
    assert len(inside("show", "flow", "a").stdout) < 700
    assert inside("show", "flow", "a", "--full").stdout.strip() == text
    inside("cache", "clear")
    done = inside("show", "flow", "a", "--full")
    assert "Nothing more is kept" in done.stderr
    assert "needs a NODE" in inside("show", "flow", "--full", code=2).stderr

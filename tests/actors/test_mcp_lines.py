"""Lines out of a stream, and whose answer a line was that is too long to keep."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_actors.actors.mcp.lines import LineSplitter, LongLine


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.lists(st.binary(max_size=50).filter(lambda line: b"\n" not in line)), st.integers(1, 30))
def test_lines_come_whole_however_they_were_cut(lines: list[bytes], size: int) -> None:
    splitter = LineSplitter(50)
    found = [
        line for chunk in cut(b"".join(line + b"\n" for line in lines), size) for line in splitter.feed(chunk)
    ]
    assert found == lines
    assert splitter.end() == []


@given(st.integers(51, 5000), st.integers(1, 700))
def test_a_long_line_keeps_its_ends_and_the_next_line_is_whole(length: int, size: int) -> None:
    line = b"<" + b"x" * (length - 2) + b">"
    splitter = LineSplitter(50)
    found = [each for chunk in cut(line + b"\nnext\nlast", size) for each in splitter.feed(chunk)]
    long, after = found
    assert isinstance(long, LongLine)
    assert (long.size_bytes, long.head[:1], long.tail[-1:]) == (length, b"<", b">")
    assert len(long.head) <= 256
    assert len(long.tail) <= 256
    assert (after, splitter.end()) == (b"next", [b"last"])


def test_a_line_without_an_end_takes_no_memory() -> None:
    splitter = LineSplitter(1000)
    for _ in range(1000):
        assert splitter.feed(b"x" * 1000) == []
    assert sum(map(len, splitter._parts)) + len(splitter._tail) <= 256


TEXT = "y" * 1000


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ({"jsonrpc": "2.0", "id": 7, "result": TEXT}, 7),
        ({"id": 7, "result": TEXT}, 7),
        ({"result": TEXT, "jsonrpc": "2.0", "id": 7}, 7),
        ({"result": TEXT, "id": 7, "jsonrpc": "2.0"}, 7),
        ({"result": {"text": TEXT, "id": 8}, "jsonrpc": "2.0", "id": 7}, 7),
        ({"jsonrpc": "2.0", "result": {"text": TEXT, "id": 8}}, None),
        ({"jsonrpc": "2.0", "method": "notifications/x", "params": {"text": TEXT, "id": 8}}, None),
        ({"result": {"id": 8}, "text": TEXT}, None),
        ({"jsonrpc": "2.0", "id": "seven", "result": TEXT}, None),
        ([{"id": 7}, TEXT], None),
        (TEXT, None),
    ],
)
@pytest.mark.parametrize("compact", [True, False])
def test_the_id_is_the_messages_own(message: Any, number: int | None, compact: bool) -> None:
    text = json.dumps(message, separators=(",", ":") if compact else None)
    (line,) = LineSplitter(500).feed(text.encode() + b"\r\n")
    assert isinstance(line, LongLine)
    assert line.message_id == number

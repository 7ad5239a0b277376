"""What people read: an event as a line, progress from events, values as JSON, the live picture."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sage_actors.messages.definition import NodeSpec, OperationSpec, PhaseSpec, WorkflowSpec
from sage_actors.messages.events import Event
from sage_actors.supervisor.cli.display import (
    Progress,
    duration,
    line_of,
    measured_lines,
    one_line,
    printable,
    results_text,
)
from sage_actors.supervisor.cli.live_display import picture
from sage_actors.supervisor.json_text import abbreviate, to_json, to_line


def event(name: str, node: str | None = None, at: float = 1000.0, **data: Any) -> Event:
    return Event(name, "run-1", at, node, data)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (event("run_started", nodes=3, resumed=False, completed=0), "run run-1: 3 nodes"),
        (event("run_started", nodes=3, resumed=True, completed=2), "run run-1: continues, 2 of 3 nodes done"),
        (event("node_started", "a", attempt=1), "a: started"),
        (event("node_started", "a", attempt=2), "a: started, attempt 2"),
        (event("node_succeeded", "a", seconds=1.5, tokens=1200), "a: succeeded in 1.5 s, 1,200 tokens"),
        (event("node_succeeded", "a", cached=True), "a: succeeded, from the cache"),
        (
            event("node_failed", "a", error={"type": "E", "message": "x\ny"}, will_retry=True, retry_in=2.0),
            "a: failed: E: x y (again in 2.0 s)",
        ),
        (event("node_failed", "a", error={"type": "E", "message": ""}, will_retry=False), "a: failed: E"),
        (event("node_waiting", "a", reason="approval", until=None, message="Go?"), "a: waits: approval: Go?"),
        (event("node_skipped", "a", reason="b failed"), "a: skipped: b failed"),
        (event("phase_completed", phase="p", succeeded=2, total=3), "phase p: 2 of 3 succeeded"),
        (event("worker_lost", exitcode=-9, nodes=["a"]), "a worker was lost (signal 9) while it executed a"),
        (
            event("worker_lost", exitcode=-9, nodes=["a"], reason="heartbeat"),
            "a worker was lost (its event loop was blocked) while it executed a",
        ),
        (
            event("worker_lost", exitcode=None, nodes=[]),
            "a worker was lost (it is gone); it executed nothing",
        ),
        (event("breaker", endpoint="api", state="open"), "endpoint api: its breaker is open"),
        (event("run_paused", reason="approval"), "paused: approval"),
        (
            event(
                "run_finished", status="failed", seconds=61, tokens={"input_tokens": 5, "output_tokens": 2}
            ),
            "run run-1: failed in 1 min 1 s, 5 tokens in, 2 out",
        ),
        (event("node_log", "a", text="x"), None),
        (event("something_new", "a", other=1), None),
    ],
)
def test_an_event_becomes_one_line(told: Event, line: str | None) -> None:
    assert line_of(told) == line


@given(st.text(), st.text())
def test_no_control_character_reaches_a_terminal(message: str, node: str) -> None:
    line = line_of(event("node_failed", "a", error={"type": node, "message": message}, will_retry=False))
    for text in (line, one_line(node), to_json(message)):
        assert text is not None
        assert text.isprintable() or not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text)
    assert not {"\x1b", "\x9b"} & set(printable(message))


@given(st.floats(min_value=-1, max_value=1e9))
def test_a_duration_is_short_and_never_negative(seconds: float) -> None:
    text = duration(seconds)
    assert len(text) < 20
    assert "-" not in text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_whatever_msgpack_carries_comes_out_as_valid_json(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert "\n" not in to_line(value)
    json.loads(to_line(value), parse_constant=refuse)
    json.loads(to_json(value), parse_constant=refuse)
    json.loads(results_text({"node": value}), parse_constant=refuse)


def test_what_is_long_is_cut_and_says_so() -> None:
    short = abbreviate({"text": "x" * 10_000, "list": list(range(1000)), "bytes": bytes(5000)})
    assert len(to_json(short)) < 3000
    assert "9,400 more characters" in short["text"]
    assert "980 more" in short["list"][-1]


def _spec() -> WorkflowSpec:
    operation = OperationSpec("shell", {"command": "true"})
    nodes = [NodeSpec(f"{phase}/{i}", operation, phase=phase) for phase in ("p", "q") for i in range(3)]
    return WorkflowSpec("flow", nodes, phases=[PhaseSpec("p", "Prepare"), PhaseSpec("q")])


def _fed(*events: Event) -> Progress:
    progress = Progress(_spec())
    for each in events:
        progress.feed(each)
    return progress


def test_progress_follows_starts_retries_waits_and_ends() -> None:
    progress = _fed(
        event("run_started", nodes=6, resumed=False, completed=0),
        event("node_started", "p/0", attempt=1),
        event("node_started", "p/1", attempt=1),
        event(
            "node_failed",
            "p/1",
            error={"type": "E", "message": "m"},
            will_retry=True,
            retry_in=5.0,
            attempt=1,
        ),
        event("node_succeeded", "p/0", seconds=1.0, tokens=7, attempt=1),
        event("node_waiting", "p/2", reason="approval", until=None),
        event("breaker", endpoint="api", state="open"),
    )
    assert (progress.ended, progress.total, progress.retries, progress.tokens) == (1, 6, 1, 7)
    assert progress.running == {}
    assert progress.waiting["p/1"] == ("the next attempt", 1005.0)
    assert progress.waiting["p/2"] == ("approval", None)
    assert progress.phases == {"p": [1, 3], "q": [0, 3]}
    assert progress.breakers == {"api": "open"}


def test_what_remains_is_estimated_from_the_pace_of_this_process_alone() -> None:
    progress = _fed(
        event("run_started", nodes=6, resumed=True, completed=2),
        event("node_succeeded", "p/0", seconds=1.0),
        event("node_succeeded", "p/1", seconds=1.0),
    )
    assert progress.ended == 4
    assert progress.remaining_s(1010.0) == pytest.approx(10.0)
    assert _fed(event("run_started", nodes=6)).remaining_s(1010.0) is None


def test_progress_can_begin_in_the_middle_from_a_status() -> None:
    counts = {"succeeded": 3, "failed": 1, "running": 1}
    progress = _fed(
        event("run_status", total=6, counts=counts, running=["q/0"], waiting={"q/1": "wait"}, seconds=9)
    )
    assert progress.ended == 4
    assert list(progress.running) == ["q/0"]
    assert progress.started_at == 991.0


def _drawn(progress: Progress, height: int = 40) -> str:
    console = Console(width=100, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture(progress, height=height, now=lambda: 1010.0))
    return console.export_text()


def test_the_picture_names_phases_what_runs_what_waits_and_what_failed() -> None:
    text = _drawn(
        _fed(
            event("run_started", nodes=6),
            event("node_started", "p/0", attempt=2),
            event("node_waiting", "p/1", reason="open breaker", until=None),
            event("node_failed", "p/2", error={"type": "Oops", "message": "[red]no[/]"}, will_retry=False),
            event("breaker", endpoint="api[x]", state="open"),
        )
    )
    for said in (
        "run-1",
        "1/6",
        "Prepare",
        "p/0",
        "attempt 2",
        "10.0 s",
        "open breaker",
        "[red]no[/]",
        "1 failed",
    ):
        assert said in text


def test_the_picture_fits_a_low_terminal_however_much_runs() -> None:
    started = [event("node_started", f"n{i}", attempt=1) for i in range(10_000)]
    text = _drawn(_fed(event("run_started", nodes=10_000), *started), height=12)
    assert len(text.splitlines()) <= 12
    assert "more" in text


def test_a_document_that_was_kept_is_told_apart_from_those_written() -> None:
    paths = ["docs/specs/x/spec.md", "docs/specs/x/spec.backup-1.md"]
    assert measured_lines({"artifacts": paths}) == [
        f"wrote {paths[0]}",
        f"kept {paths[1]}: what stood there before",
    ]


def test_json_for_people_shows_what_is_not_seen_and_is_the_same_value() -> None:
    hidden = "a\x7f\u202e\u061c\U000e0041\U0001f680"
    text = to_json([hidden])
    assert json.loads(text) == [hidden]
    assert "\\u007f\\u202e\\u061c\\udb40\\udc41\U0001f680" in text

"""What records say to the audit log: words, ids and states; the corners that few runs come to."""

from __future__ import annotations

from typing import Any

import pytest
from core_harness import Core

from sage_actors.actors.state.journal_format import Location
from sage_actors.messages.records import (
    BreakerChanged,
    DecisionTaken,
    NodeFailed,
    NodeLost,
    NodeSkipped,
    NodesStarted,
    NodesSucceeded,
    NodeWaiting,
    PhaseCompleted,
    Record,
    RunAdmitted,
    RunFinished,
    RunPaused,
    SegmentOpened,
)
from sage_actors.supervisor.audit_events import Transcript
from sage_actors.supervisor.core.run_core import RunCore

pytestmark = [pytest.mark.requirement("ORCH-016"), pytest.mark.requirement("ORCH-023")]

A, B, C = range(3)


def core(*ids: str) -> RunCore:
    return Core().run({"name": "n", "nodes": [{"id": each, "type": "wait", "seconds": 0} for each in ids]})


@pytest.fixture
def transcript() -> Transcript:
    made = Transcript()
    made.begin(core("a", "b", "c"))
    return made


def said(transcript: Transcript, *records: Record) -> list[dict[str, Any]]:
    """The changes without their time."""
    changes = transcript.changes(list(records))
    assert all(change.pop("at") == 1_500_000 for change in changes)
    return changes


def failed(node: int, *, retry_at: float | None = None, final: str = "", **error: Any) -> NodeFailed:
    return NodeFailed(1.5, node, 1, {"type": "E", "message": "secret", **error}, retry_at, final, 0, None)


def lost(node: int, *, in_doubt: bool = False, **evidence: Any) -> NodeLost:
    known = {"exitcode": -9, "reason": "", "limit": None, "last_lines": ["secret"], **evidence}
    return NodeLost(1.5, node, 1, known, not in_doubt, in_doubt)


def test_nodes_that_change_alike_are_one_change_and_others_are_not(transcript: Transcript) -> None:
    started = said(transcript, NodesStarted(1.5, [[A, 1], [B, 1], [C, 2]]))
    assert [(each["attempt"], each["nodes"]) for each in started] == [(1, ["a", "b"]), (2, ["c"])]
    said(transcript, failed(B, retry_at=2.0))
    ended = said(transcript, NodesSucceeded(1.5, [[A, 1, 0, b"secret", None], [B, 1, 0, b"secret", None]]))
    assert [(each["old"], each["new"], each["nodes"]) for each in ended] == [
        ("running", "succeeded", ["a"]),
        ("waiting", "succeeded", ["b"]),
    ]


def test_a_failure_says_what_follows_from_it_and_no_text(transcript: Transcript) -> None:
    said(transcript, NodesStarted(1.5, [[A, 1]]))
    (retried,) = said(transcript, failed(A, retry_at=9.0))
    assert (retried["old"], retried["new"], retried["error"]) == ("running", "waiting", "E")
    said(transcript, NodesStarted(1.5, [[A, 2]]))
    assert said(transcript, failed(A))[0]["new"] == "pending", "its fallback comes"
    (final,) = said(transcript, failed(A, final="skip"))
    assert (final["new"], final["effect"]) == ("failed", "skip")
    assert "secret" not in repr((retried, final))


def test_the_class_of_an_error_cannot_carry_a_text(transcript: Transcript) -> None:
    (change,) = said(transcript, failed(A, final="fail", type="My secret: " + "x" * 500))
    assert change["error"] == ("My_secret:_" + "x" * 500)[:80]


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (
            {"kind": "memory", "limit": 1024, "seen": 2048, "more": "secret"},
            {"limit": {"kind": "memory", "limit": 1024, "seen": 2048}},
        ),
        (
            {"kind": "network", "target": "evil.example:443", "hint": "secret"},
            {"denied": {"kind": "network", "target": "evil.example:443"}},
        ),
        ({"stderr": "secret"}, {}),
        ("secret", {}),
        (None, {}),
    ],
)
def test_limits_that_were_hit_and_what_was_denied_are_named(
    transcript: Transcript, details: Any, expected: dict[str, Any]
) -> None:
    (change,) = said(transcript, failed(A, final="fail", details=details))
    assert {name: change[name] for name in ("limit", "denied") if name in change} == expected
    assert "secret" not in repr(change)


def test_a_lost_attempt_says_how_and_whether_it_is_in_doubt(transcript: Transcript) -> None:
    said(transcript, NodesStarted(1.5, [[A, 1], [B, 1]]))
    limit = {"kind": "memory", "limit": 1, "seen": 2}
    (charged,) = said(transcript, lost(A, limit=limit, reason="limit"))
    assert (charged["new"], charged["charged"], charged["exitcode"]) == ("pending", True, -9)
    assert charged["limit"] == limit
    (doubtful,) = said(transcript, lost(B, in_doubt=True))
    assert (doubtful["old"], doubtful["new"]) == ("running", "in_doubt")
    (decision,) = said(transcript, DecisionTaken(1.5, B, "resolve-retry", "secret", "ann"))
    assert decision == {"event": "decision", "kind": "resolve-retry", "by": "ann", "nodes": ["b"]}
    assert said(transcript, NodesStarted(1.5, [[B, 2]]))[0]["old"] == "pending"
    assert "secret" not in repr((charged, doubtful, decision))


def test_what_a_person_wrote_is_left_out_and_what_waits_is_followed(transcript: Transcript) -> None:
    (waiting,) = said(transcript, NodeWaiting(1.5, A, "approval", None))
    assert (waiting["old"], waiting["new"], waiting["reason"]) == ("pending", "waiting", "approval")
    (skipped,) = said(transcript, NodeSkipped(1.5, B, "because of secret"))
    assert (skipped["old"], skipped["new"]) == ("pending", "skipped")
    (paused,) = said(transcript, RunPaused(1.5, "approval: secret"))
    assert paused["reason"] == "approval"
    (finished,) = said(transcript, RunFinished(1.5, "failed", 1.0, {"failed": 1}, "secret"))
    assert (finished["old"], finished["new"], finished["counts"]) == ("paused", "failed", {"failed": 1})
    assert "secret" not in repr((skipped, paused, finished))


def test_breakers_and_phases_are_there(transcript: Transcript) -> None:
    assert said(transcript, PhaseCompleted(1.5, "p", 2, 3), BreakerChanged(1.5, "api", "open", 9.0)) == [
        {"event": "phase_completed", "phase": "p", "succeeded": 2, "total": 3},
        {"event": "breaker", "endpoint": "api", "new": "open"},
    ]


def test_a_new_definition_numbers_nodes_anew_and_what_waits_keeps_its_name(transcript: Transcript) -> None:
    header = {"run_id": "r"}
    said(transcript, RunAdmitted(1.5, 0, 1, b"", b"", header), SegmentOpened(1.5, 1, "", "start"))
    said(transcript, NodeWaiting(1.5, C, "approval", None))
    transcript.begin(core("c", "x"))
    (opened, changed) = said(
        transcript, SegmentOpened(1.5, 1, "", "resume"), RunAdmitted(1.5, 0, 1, b"", b"", header)
    )
    assert (opened["event"], changed["event"], changed["count"]) == ("run_resumed", "definition_changed", 2)
    (started,) = said(transcript, NodesStarted(1.5, [[0, 1]]))
    assert (started["nodes"], started["old"]) == (["c"], "waiting")


def test_a_replay_gives_only_what_the_log_does_not_have_with_the_right_states_before() -> None:
    transcript = Transcript(audited=(1, 1))
    transcript.begin(core("a", "b", "c"))
    transcript.see(Location(1, 0, 0), SegmentOpened(1.5, 1, "", "start"))
    transcript.see(Location(1, 1, 0), NodesStarted(1.5, [[A, 1]]))
    assert not transcript.late
    transcript.see(Location(1, 2, 0), NodesSucceeded(1.5, [[A, 1, 0, b"", None]]))
    transcript.see(Location(2, 0, 0), SegmentOpened(1.5, 1, "", "resume"))
    succeeded, resumed = transcript.late
    assert (succeeded["old"], succeeded["nodes"]) == ("running", ["a"])
    assert resumed["after"] == [1, 2]

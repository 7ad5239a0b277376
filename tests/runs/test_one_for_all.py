"""One caller's mistake, one run's end, one operation's oddity: the other runs of a supervisor go on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import make_supervisor, wait_until

from sage_actors.messages.codec import pack, unpack
from sage_actors.messages.errors import (
    ActorDeadError,
    NoCheckpointError,
    ResultError,
    StorageError,
    UsageError,
)
from sage_actors.supervisor.definitions.workflow import Workflow

pytestmark = pytest.mark.requirement("ORCH-015")


def one(operation: Any, name: str = "flow", **arguments: Any) -> Workflow:
    flow = Workflow(name)
    flow.add(operation, id="node", **arguments)
    return flow


@pytest.mark.parametrize("durability", ["none", "strict"])
def test_a_key_that_nobody_could_read_again_fails_its_node_alone(tmp_path: Path, durability: str) -> None:
    with make_supervisor(tmp_path, durability=durability) as supervisor:
        outcome = supervisor.run(one(ops.with_odd_key), run_id="odd", timeout=30)
        assert outcome.errors["node"]["type"] == "ResultError"
        assert "the key (1, 2) of value['a'][0]" in outcome.errors["node"]["message"]
        assert supervisor.run(one(ops.echo, value=1), run_id="next", timeout=30)["node"] == 1


@pytest.mark.parametrize("value", [{(1, 2): 3}, [{"a": {(): 1}}], {frozenset(): 1}])
def test_only_scalars_are_keys(value: Any) -> None:
    with pytest.raises(ResultError, match="a key is a str"):
        pack(value)


def test_what_derives_from_plain_types_is_carried_as_them() -> None:
    class Text(str):
        __slots__ = ()

    value = {Text("a"): (1, (2.5, Text("b"))), 3: {"b": b"c"}, None: True}
    assert unpack(pack(value)) == {"a": [1, [2.5, "b"]], 3: {"b": b"c"}, None: True}


def test_what_holds_itself_is_refused_in_few_words() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ResultError, match="nested more than 200") as caught:
        pack(value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": ["node"]},
        {"by": 42},
        {"by": b"x"},
        {"approved": "no"},
        {"data": {(1, 2): 3}},
        {"data": object()},
        {"data": bytes(61 << 20)},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_an_answer_of_the_wrong_kind_is_refused_and_harms_nothing(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(one("approval"), run_id="r")
        wait_until(lambda: run.status().waiting == {"node": "approval"})
        with pytest.raises((UsageError, ResultError)):
            run.approve(**{"node_id": "node", **wrong})
        run.approve("node", by="me", data={"fine": (1, 2)})
        assert run.result(30)["node"] == {"approved": True, "by": "me", "data": {"fine": [1, 2]}}


@pytest.mark.parametrize("wait", [{"seconds": 30 * 24 * 3600}, {"until": "9999-12-31T00:00:00Z"}], ids=str)
def test_a_moment_far_away_is_waited_for_while_others_run(tmp_path: Path, wait: dict[str, Any]) -> None:
    with make_supervisor(tmp_path, durability="none") as supervisor:
        far = supervisor.start(one("wait", "far", **wait), run_id="far")
        assert supervisor.run(one(ops.echo, value=1), run_id="near", timeout=30)["node"] == 1
        assert far.status().waiting == {"node": "wait"}
        far.cancel()
        assert far.result(30).status == "cancelled"


@pytest.mark.parametrize(
    "options",
    [
        {"workers": True},
        {"workers": 0},
        {"max_tokens": "many"},
        {"max_tokens": 0},
        {"max_cost": float("nan")},
        {"grace_s": -1.0},
        {"grace_s": "x"},
    ],
    ids=str,
)
def test_a_setting_of_the_wrong_kind_is_refused_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        make_supervisor(tmp_path, **options)


# ---------------------------------------------------------------------- async operations


def test_a_cancel_finds_what_has_not_taken_its_first_step(tmp_path: Path) -> None:
    """At its start the worker imports: a cancel that comes then was never answered, and took ten seconds."""
    with make_supervisor(tmp_path, durability="none", grace_s=5.0) as supervisor:
        for number in range(3):
            flow = Workflow("many")
            for index in range(20):
                flow.add(ops.sleep_async, id=f"n{index}", seconds=30.0)
            run = supervisor.start(flow, run_id=f"r{number}")
            next(each for each in run.events() if each.event == "node_started")
            begun = time.monotonic()
            run.cancel()
            assert run.result(30).status == "cancelled"
            assert time.monotonic() - begun < 4.0


def test_a_run_that_will_not_end_costs_no_other_run_a_node(tmp_path: Path) -> None:
    """Its worker is ended, with what others have there: that runs again, and is not to blame."""
    with make_supervisor(tmp_path, durability="none", workers=1) as supervisor:
        flow = Workflow("innocent")
        for index in range(3):
            flow.add(ops.sleep_async, id=f"n{index}", seconds=9.0)
        innocent = supervisor.start(flow, run_id="innocent")
        path = tmp_path / "marks"
        rude = supervisor.start(one(ops.refuse_to_end, "rude", path=str(path), seconds=60.0), run_id="rude")
        wait_until(path.exists)
        rude.cancel()
        assert rude.result(30).status == "cancelled"
        outcome = innocent.result(60)
        assert outcome.status == "succeeded", outcome.errors
        assert not [each for each in innocent.events() if each.event == "node_failed"]


def test_a_timeout_holds_for_who_does_not_heed_it(tmp_path: Path) -> None:
    """Also at the first call, whose import takes time of its own: it was given that much more to end."""
    with make_supervisor(tmp_path, durability="none", workers=1) as supervisor:
        flow = Workflow("late")
        flow.add(ops.refuse_to_end, id="late", path=str(tmp_path / "marks"), seconds=90.0, timeout=0.5)
        beside = flow.add(ops.sleep_async, id="beside", seconds=8.0)
        flow.add(ops.echo, id="after", value=beside)
        run = supervisor.start(flow, run_id="late")
        outcome = run.result(80)
        at = {each.event: each.time for each in run.events() if each.node == "late"}
    assert at["node_failed"] - at["node_started"] < 15  # the timeout, 5 s to heed it, and the grace
    assert outcome.errors["late"]["type"] == "TimeoutExceeded"
    assert "0.5 s" in outcome.errors["late"]["message"]
    assert outcome["after"] == 8.0


def test_an_exception_that_cannot_be_told_is_told_as_that(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, durability="none") as supervisor:
        error = supervisor.run(one(ops.fail_untold), run_id="r", timeout=30).errors["node"]
    assert (error["type"], error["retryable"]) == ("Untold", True)
    assert "its text cannot be made: SystemExit" in error["message"]


# ---------------------------------------------------------------------- the end of a supervisor


def test_leaving_after_stop_keeps_the_grace_that_was_given(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, grace_s=1.0) as supervisor:
        path = tmp_path / "marks"
        run = supervisor.start(one(ops.refuse_to_end, path=str(path), seconds=1.5), run_id="r")
        wait_until(path.exists)
        supervisor.stop(grace_s=20.0)
        with pytest.raises(ActorDeadError, match="told to stop"):
            supervisor.start(one(ops.echo), run_id="another")
    assert run.result(0)["node"] == "ended when it liked"
    supervisor.stop()  # and once it is closed: nothing
    supervisor.abort()


def test_a_stop_reaches_a_run_that_is_just_beginning(tmp_path: Path) -> None:
    for number in range(5):
        with make_supervisor(tmp_path) as supervisor:
            run = supervisor.start(one(ops.sleep_async, seconds=30.0), run_id=f"r{number}")
            supervisor.stop(grace_s=0.2)
            assert run.result(20).status == "paused"


def test_listeners_get_every_event_before_the_supervisor_is_gone(tmp_path: Path) -> None:
    seen: list[str] = []

    def listen(event: Any) -> None:
        time.sleep(0.02)
        seen.append(event.event)

    with make_supervisor(tmp_path, durability="none") as supervisor:
        flow = Workflow("flow")
        for index in range(20):
            flow.add(ops.echo, id=f"n{index}")
        supervisor.run(flow, run_id="r", on_event=listen, timeout=30)
    assert seen[-1] == "run_finished"
    assert len(seen) == 42


def test_who_stops_listening_is_forgotten(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, durability="none") as supervisor:
        run = supervisor.start(one(ops.sleep_async, seconds=0.5), run_id="r")
        events = run.events()
        next(events)
        assert len(run._queues) == 1
        events.close()  # type: ignore[attr-defined]
        assert not run._queues
        run.result(30)


def test_a_fork_has_no_part_in_it(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, durability="none") as supervisor:
        supervisor.run(one(ops.echo, value=1), run_id="before", timeout=30)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                begun = time.monotonic()
                with supervisor, pytest.raises(UsageError, match="forked"):
                    supervisor.start(one(ops.echo), run_id="inside")
                code = 0 if time.monotonic() - begun < 5 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert supervisor.run(one(ops.echo, value=2), run_id="after", timeout=30)["node"] == 2


def test_a_start_that_finds_the_disk_full_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_supervisor(tmp_path) as supervisor:
        with monkeypatch.context() as full:

            def refuse(*_: object) -> None:
                raise StorageError("no space left on device")

            full.setattr(supervisor._registry, "note_started", refuse)
            with pytest.raises(StorageError, match="no space"):
                supervisor.start(one(ops.echo, value=1), run_id="r")
        assert supervisor.run(one(ops.echo, value=1), run_id="r", timeout=30)["node"] == 1


def test_without_durability_there_is_nothing_to_continue(tmp_path: Path) -> None:
    with make_supervisor(tmp_path, durability="none") as supervisor, pytest.raises(NoCheckpointError):
        supervisor.start(one(ops.echo), run_id="r", must_exist=True)

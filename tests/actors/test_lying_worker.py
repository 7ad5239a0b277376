"""A worker that ran foreign code says anything: it costs that worker, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import operations_lying as lying
import pytest
from places import SUPPORT

from sage_actors import Supervisor, Workflow
from sage_actors.messages.codec import ValueCheck, reveal
from sage_actors.messages.errors import ProtocolError
from sage_actors.messages.wire_check import MOST_USED, check_result_rows

pytestmark = pytest.mark.requirement("ORCH-023")

OWN: dict[str, Any] = {"limits": {"processes": 1000}}  # a worker for itself


def failure(**fields: Any) -> list[Any]:
    return [["RUN", "NODE", "ATTEMPT", 1, 5, {"type": "X", "message": "", **fields}, None]]


def used(**usage: Any) -> list[Any]:
    return [["RUN", "NODE", "ATTEMPT", 0, 5, msgpack.packb("forged"), usage]]


LIES: dict[str, tuple[int, Any]] = {
    "output-of-no-node": (23, [["RUN", 10**9, 1, "stdout", "forged"]]),
    "output-of-another": (23, [["RUN", 0, 1, "stdout", "forged"]]),
    "output-of-an-attempt-that-never-was": (23, [["RUN", "NODE", 10**9, "stdout", "forged"]]),
    "output-of-a-stream-without-end": (23, [["RUN", "NODE", "ATTEMPT", "s" * 1_000_000, "forged"]]),
    "that-it-never-began": (22, [["RUN", "NODE", "ATTEMPT"]]),
    "progress-of-no-node": (24, [["RUN", -1, 1, {}]]),
    "details-that-are-none": (21, failure(details=5)),
    "a-failure-without-words": (21, failure(message="EXTENSION")),
    "tokens-that-are-none": (21, used(input_tokens="x")),
    "tokens-beyond-counting": (21, used(input_tokens=2**63)),
    "a-cost-that-is-none": (21, used(cost=float("nan"))),
    "where-it-ran": (21, used(sandbox={"tier": 5})),
    "that-it-came-from-the-cache": (21, used(cached=True)),
    "an-endpoint-without-end": (25, [1, "RUN", "NODE", "ATTEMPT", "e" * 1_000_000]),
}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    folder = str(SUPPORT)
    with Supervisor(tmp_path, workers=1, search_paths=[folder], durability="none") as one:
        yield one


def test_a_lie_ends_its_worker_and_no_run(supervisor: Supervisor) -> None:
    flow = Workflow("lies")
    for name, (kind, payload) in LIES.items():
        flow.add(lying.say, id=name, kind=kind, payload=payload, **OWN)
    flow.add(lying.wait, id="honest", after=list(LIES), seconds=0.0, trigger="all_done")
    outcome = supervisor.run(flow, run_id="lies")
    assert outcome["honest"] == "waited"


def test_a_worker_of_one_task_that_goes_on_after_its_answer_is_ended(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    flow = Workflow("late")
    flow.add(lying.answer_and_go_on, id="late", arguments={"path": str(sign)}, **OWN)
    flow.add(lying.wait, id="meanwhile", after=["late"], seconds=2.0)
    outcome = supervisor.run(flow, run_id="late")
    assert outcome["late"] == "over"
    assert time.time() - float(sign.read_text(encoding="utf-8")) > 0.5


def test_a_worker_that_asks_for_permits_without_end_is_ended(supervisor: Supervisor) -> None:
    flow = Workflow("asks")
    flow.add(lying.ask_without_end, id="asks", on_failure="continue", max_crashes=1, **OWN)
    outcome = supervisor.run(flow, run_id="asks")
    assert outcome.errors["asks"]["details"]["reason"] == "protocol"


def test_a_worker_that_does_not_cut_its_output_fills_no_journal(supervisor: Supervisor) -> None:
    flow = Workflow("prints")
    flow.add(lying.print_without_end, id="prints", megabytes=24, **OWN)
    run = supervisor.start(flow, run_id="prints")
    told = sum(len(event.data["text"]) for event in run.events() if event.event == "node_log")
    assert 0 < told < 8 << 20
    assert run.result(30)["prints"] == "said"


UNREADABLE = {
    "no-format": b"\xc1",
    "nothing": b"",
    "two-values": msgpack.packb(1) + msgpack.packb(2),
    "half-a-value": b"\x92\x01",
}
STRANGE = {"no-utf8": b"\xa2\xff\xfe", "an-extension": msgpack.packb(msgpack.ExtType(9, b"x"))}


def test_a_result_that_cannot_be_read_leaves_the_others_readable(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "nobody-knows-this-one")
    flow = Workflow("results")
    liars = {**UNREADABLE, **STRANGE}
    for name, packed in liars.items():
        flow.add(lying.answer, id=name, packed=packed, on_failure="continue", **OWN)
    holder = msgpack.packb(["nobody-knows-this-one", msgpack.ExtType(9, b"x")])
    flow.add(lying.answer, id="secret", arguments={"packed": holder}, on_failure="continue", **OWN)
    flow.add(lying.wait, id="honest", seconds=0.0)
    outcome = supervisor.run(flow, run_id="results")
    assert outcome["honest"] == "waited"
    assert all(outcome.results.get(name) is None for name in UNREADABLE)
    assert all(str(outcome.results[name]).startswith("[cannot be read: ") for name in STRANGE)


@pytest.mark.parametrize("packed", UNREADABLE.values(), ids=UNREADABLE)
def test_bytes_that_are_not_one_value_are_no_result(packed: bytes) -> None:
    check = ValueCheck()
    check(msgpack.packb({"a": [1, b"two"]}))
    with pytest.raises(ProtocolError):
        check(packed)
    check(msgpack.packb("the next one is looked at by itself"))


def test_what_cannot_be_read_is_told_in_its_place() -> None:
    assert reveal(msgpack.packb([1])) == [1]
    assert "malformed" in reveal(b"\xc1")


@pytest.mark.parametrize("amount", [-1, MOST_USED + 1, float("inf"), float("nan"), -0.5])
def test_an_amount_that_cannot_be_added_up_is_no_usage(amount: float) -> None:
    for name in ("input_tokens", "cost", "raw_bytes"):
        with pytest.raises(ProtocolError):
            check_result_rows([[1, 1, 1, 0, 5, b"\xc0", {name: amount}]])
    assert check_result_rows([[1, 1, 1, 0, 5, b"\xc0", {"input_tokens": MOST_USED, "cost": 0.5}]])

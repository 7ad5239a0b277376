"""The state actor: group commit, order, answers, and failures that stay with their run."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pykka
import pytest

from sage_actors.actors.keys.provider import KeyRing, MasterKey
from sage_actors.actors.state import actor as state_module
from sage_actors.actors.state.actor import Append, CloseRun, CommitFailed, Committed, OpenRun, StateActor
from sage_actors.actors.state.disk import Disk
from sage_actors.actors.state.journal import (
    MAX_PLAINTEXT_BYTES,
    FrameStore,
    JournalWriter,
    Location,
    read_journal,
)
from sage_actors.messages.errors import LimitExceeded, SageError, StorageError, UsageError
from sage_actors.messages.records import (
    NodesStarted,
    NodesSucceeded,
    PhaseCompleted,
    Record,
    RunPaused,
    decode_records,
    encode_records,
)

pytestmark = pytest.mark.requirement("ORCH-015")

KEYS = KeyRing((MasterKey(bytes(range(32))),), "environment")
TIMEOUT_S = 30


class CountingDisk(Disk):
    """A real disk that counts, holds fsyncs while a gate is closed, and fails when told to."""

    def __init__(self) -> None:
        self.writes = self.syncs = 0
        self.gate = threading.Event()
        self.gate.set()
        self.in_sync = threading.Event()
        self.fail_write: int | None = None
        self.fail_sync: int | None = None

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self.writes += 1
        if self.fail_write is not None:
            raise OSError(self.fail_write, os.strerror(self.fail_write))
        return super().write(fd, data)

    def sync_data(self, fd: int) -> None:
        self.syncs += 1
        self.in_sync.set()
        assert self.gate.wait(TIMEOUT_S)
        if self.fail_sync is not None:
            raise OSError(self.fail_sync, os.strerror(self.fail_sync))
        super().sync_data(fd)


class Run:
    """A run that is open in the actor, and what it was told."""

    def __init__(self, actor: pykka.ActorRef[StateActor], number: int, directory: Path) -> None:
        self.actor, self.number, self.directory = actor, number, directory
        self.disk = CountingDisk()
        self.events: queue.Queue[Committed | CommitFailed] = queue.Queue()
        self.writer = JournalWriter.create(
            directory, KEYS, run_uuid=b"%016d" % number, previous=None, disk=self.disk
        )
        self.disk.writes = 0  # the birth's
        actor.tell(OpenRun(number, self.writer, self.events.put))

    def append(self, *records: Record, sync: bool = True, token: object | None = None) -> None:
        self.actor.tell(Append(self.number, list(records), sync, token))

    def close(self, token: object = "closed") -> None:
        self.actor.tell(CloseRun(self.number, token))

    def next(self) -> Committed | CommitFailed:
        return self.events.get(timeout=TIMEOUT_S)

    def acks_until(self, last: object) -> list[tuple[Any, Location | None, int]]:
        acks: list[Any] = []
        while not acks or acks[-1][0] != last:
            event = self.next()
            assert isinstance(event, Committed), event
            assert event.run == self.number
            acks += event.acks
        return acks

    def failure(self) -> CommitFailed:
        event = self.next()
        assert isinstance(event, CommitFailed), event
        assert event.run == self.number
        return event

    def on_disk(self) -> list[Record]:
        frames = read_journal(self.directory, KEYS).frames
        return [record for _, plaintext in frames for record in decode_records(plaintext)]


@pytest.fixture
def actor() -> Iterator[pykka.ActorRef[StateActor]]:
    ref = StateActor.start()
    yield ref
    ref.stop(timeout=TIMEOUT_S)


@pytest.fixture
def open_run(actor: pykka.ActorRef[StateActor], tmp_path: Path) -> Callable[..., Run]:
    count = iter(range(1000))
    return lambda: Run(actor, number := next(count), tmp_path / f"run{number}")


def note(number: int) -> Record:
    return NodesStarted(0.0, [[number, 1]])


def number_of(record: Record) -> int:
    assert isinstance(record, NodesStarted)
    return int(record.rows[0][0])


def held(run: Run) -> None:
    """The actor is inside an fsync of `run` and stays there until the gate opens: the inbox fills."""
    run.disk.gate.clear()
    run.disk.in_sync.clear()
    run.append(note(-1), token="held")
    assert run.disk.in_sync.wait(TIMEOUT_S)


def test_an_acknowledged_record_is_synced_and_is_where_the_ack_says(open_run: Callable[[], Run]) -> None:
    run = open_run()
    run.append(note(1), note(2), token="a")
    ((token, location, index),) = run.acks_until("a")
    assert run.disk.syncs == 1
    assert location is not None
    records = decode_records(FrameStore(run.directory, KEYS).read(location))
    assert (token, [number_of(each) for each in records[index:]]) == ("a", [1, 2])


def test_ten_thousand_messages_are_committed_in_order_in_few_groups(open_run: Callable[[], Run]) -> None:
    run = open_run()
    held(run)
    for number in range(10_000):
        run.append(note(number), token=number)
    run.close()
    run.disk.gate.set()
    acks = run.acks_until("closed")
    assert [token for token, _, _ in acks] == ["held", *range(10_000), "closed"]
    assert [number_of(each) for each in run.on_disk()] == [-1, *range(10_000)]
    assert run.disk.syncs <= 3
    store = FrameStore(run.directory, KEYS)
    for token, location, index in acks[1:-1:500]:
        assert location is not None
        assert number_of(decode_records(store.read(location))[index]) == token


def test_messages_from_many_threads_keep_each_senders_order(open_run: Callable[[], Run]) -> None:
    run = open_run()

    def send(sender: int) -> None:
        for number in range(500):
            run.append(note(sender * 1000 + number), sync=number % 7 == 0, token=(sender, number))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.close()
    tokens = [token for token, _, _ in run.acks_until("closed")][:-1]
    assert sorted(tokens) == [(sender, number) for sender in range(4) for number in range(500)]
    found = [number_of(each) for each in run.on_disk()]
    for sender in range(4):
        mine = [number for number in found if number // 1000 == sender]
        assert mine == [sender * 1000 + number for number in range(500)]


def test_records_that_nobody_waits_for_cause_no_fsync_and_ride_with_the_next_group(
    open_run: Callable[[], Run], actor: pykka.ActorRef[StateActor]
) -> None:
    run = open_run()
    run.append(note(1), sync=False)
    other = JournalWriter.create(run.directory / "x", KEYS, run_uuid=bytes(16), previous=None)
    actor.ask(OpenRun(999, other, print), timeout=TIMEOUT_S)  # an answer from behind the append
    assert (run.disk.writes, run.disk.syncs) == (1, 0)
    assert run.events.empty()
    run.append(note(2), token="b")
    run.acks_until("b")
    assert run.disk.syncs == 1
    assert [number_of(each) for each in run.on_disk()] == [1, 2]


def test_a_token_without_sync_is_answered_after_the_write(open_run: Callable[[], Run]) -> None:
    run = open_run()
    run.append(note(1), sync=False, token="written")
    run.acks_until("written")
    assert (run.disk.writes, run.disk.syncs) == (1, 0)


def test_closing_syncs_what_nobody_waited_for(open_run: Callable[[], Run]) -> None:
    run = open_run()
    run.append(note(1), sync=False)
    run.close()
    assert run.acks_until("closed") == [("closed", None, 0)]
    assert run.disk.syncs == 1
    with pytest.raises(StorageError):
        run.writer.append(b"")


def test_an_empty_append_is_answered_and_is_a_barrier(open_run: Callable[[], Run]) -> None:
    run = open_run()
    run.append(note(1), sync=False)
    run.append(token="barrier")
    run.acks_until("barrier")
    assert run.disk.syncs == 1


def test_a_large_group_becomes_several_frames_of_a_limited_size(open_run: Callable[[], Run]) -> None:
    run = open_run()
    held(run)
    for number in range(40):
        run.append(NodesSucceeded(0.0, [[number, 1, 1, bytes(200_000), None]]), token=number)
    run.disk.gate.set()
    acks = run.acks_until(39)
    frames = {location for _, location, _ in acks}
    assert len(frames) > 8
    assert run.disk.syncs == 2
    assert max(len(plaintext) for _, plaintext in read_journal(run.directory, KEYS).frames) < 1 << 21
    assert len(run.on_disk()) == 41


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_joined_lists_are_what_one_list_would_be(count: int) -> None:
    records: list[Record] = [PhaseCompleted(1.0, "p", number, 5) for number in range(count)]
    half = count // 2
    appends = [Append(0, records[:half], True), Append(0, records[half:], True)]
    frames = list(state_module._frames(appends))
    assert [record for _, plaintext in frames for record in decode_records(plaintext)] == records
    if len(frames) == 1:
        assert frames[0][1] == encode_records(records)


def test_an_append_beyond_a_frame_fails_its_run_before_anything_is_written(
    open_run: Callable[[], Run],
) -> None:
    run = open_run()
    run.append(NodesSucceeded(0.0, [[0, 1, 1, bytes(MAX_PLAINTEXT_BYTES), None]]), token="huge")
    failure = run.failure()
    assert isinstance(failure.error, LimitExceeded)
    assert failure.tokens == ["huge"]
    assert run.disk.writes == 0


def test_a_record_that_cannot_be_packed_ends_its_run_and_no_other(open_run: Callable[[], Run]) -> None:
    bad, good = open_run(), open_run()
    bad.append(RunPaused(0.0, object()), token="bad")  # type: ignore[arg-type]
    assert bad.failure().tokens == ["bad"]
    good.append(note(1), token="good")
    good.acks_until("good")


@pytest.mark.parametrize("fault", ["fail_write", "fail_sync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_after_a_failure_the_run_accepts_nothing_and_others_go_on(
    open_run: Callable[[], Run], fault: str, code: int
) -> None:
    broken, sound = open_run(), open_run()
    broken.append(note(0), token="before")
    broken.acks_until("before")
    setattr(broken.disk, fault, code)
    broken.append(note(1), token="lost")
    first = broken.failure()
    assert isinstance(first.error, StorageError)
    assert first.tokens == ["lost"]
    setattr(broken.disk, fault, None)
    calls = broken.disk.writes, broken.disk.syncs
    broken.append(note(2), token="refused")
    second = broken.failure()
    assert (second.error, second.tokens) == (first.error, ["refused"])
    assert (broken.disk.writes, broken.disk.syncs) == calls
    sound.append(note(1), token="fine")
    sound.acks_until("fine")
    broken.close()
    assert broken.acks_until("closed") == [("closed", None, 0)]
    assert broken.events.empty()
    assert number_of(broken.on_disk()[0]) == 0


def test_a_failure_while_closing_is_told_before_the_end(open_run: Callable[[], Run]) -> None:
    run = open_run()
    run.append(note(1), sync=False)
    run.disk.fail_sync = errno.EIO
    run.close()
    assert run.failure().tokens == []
    run.acks_until("closed")


def test_what_waits_in_one_group_with_a_failing_sync_is_not_acknowledged(open_run: Callable[[], Run]) -> None:
    run = open_run()
    held(run)
    for number in range(10):
        run.append(note(number), token=number)
    run.disk.fail_sync = errno.EIO
    run.disk.gate.set()
    assert run.failure().tokens == ["held"]
    assert run.failure().tokens == list(range(10))
    assert run.events.empty()


def test_fsyncs_of_several_runs_overlap(open_run: Callable[[], Run]) -> None:
    first, second, third = open_run(), open_run(), open_run()
    held(first)
    for run in (second, third):
        run.disk.gate.clear()
        run.append(note(1), token="t")
    first.disk.gate.set()
    assert second.disk.in_sync.wait(TIMEOUT_S)
    assert third.disk.in_sync.wait(TIMEOUT_S)  # while the second is still in its own
    second.disk.gate.set()
    third.disk.gate.set()
    for run in (second, third):
        run.acks_until("t")


def test_a_run_can_close_and_open_again_within_one_group(open_run: Callable[[], Run], tmp_path: Path) -> None:
    run = open_run()
    held(run)
    run.append(note(1), token="last")
    run.close()
    again = JournalWriter.create(tmp_path / "again", KEYS, run_uuid=bytes(16), previous=None)
    run.actor.tell(OpenRun(run.number, again, run.events.put))
    run.append(note(2), token="new")
    run.disk.gate.set()
    tokens = [token for token, _, _ in run.acks_until("new")]
    assert tokens == ["held", "last", "closed", "new"]
    assert [number_of(each) for each in run.on_disk()] == [-1, 1]


def test_a_run_cannot_be_opened_twice(open_run: Callable[[], Run], tmp_path: Path) -> None:
    run = open_run()
    other = JournalWriter.create(tmp_path / "other", KEYS, run_uuid=bytes(16), previous=None)
    run.actor.tell(OpenRun(run.number, other, run.events.put))
    assert isinstance(run.failure().error, UsageError)
    run.append(note(1), token="still mine")
    run.acks_until("still mine")


def test_a_listener_that_raises_harms_nobody(
    open_run: Callable[[], Run], actor: pykka.ActorRef[StateActor], tmp_path: Path
) -> None:
    def gone(event: object) -> None:
        raise pykka.ActorDeadError("gone")

    writer = JournalWriter.create(tmp_path / "gone", KEYS, run_uuid=bytes(16), previous=None)
    actor.tell(OpenRun(77, writer, gone))
    actor.tell(Append(77, [note(1)], True, "t"))
    run = open_run()
    run.append(note(1), token="t")
    run.acks_until("t")


def test_who_asks_is_answered_after_the_commit(open_run: Callable[[], Run]) -> None:
    run = open_run()
    held(run)
    asked = [run.actor.ask(Append(run.number, [note(n)], True), block=False) for n in range(3)]
    run.disk.gate.set()
    for future in asked:
        future.get(timeout=TIMEOUT_S)
    assert [number_of(each) for each in run.on_disk()] == [-1, 0, 1, 2]


def test_a_stray_message_harms_nobody(open_run: Callable[[], Run]) -> None:
    run = open_run()
    run.actor.tell("nonsense")
    assert run.actor.ask("nonsense", timeout=TIMEOUT_S) is None
    run.append(note(1), token="t")
    run.acks_until("t")


def test_a_stop_answers_everyone_who_waits(open_run: Callable[[], Run]) -> None:
    run, idle = open_run(), open_run()
    held(run)
    run.append(note(1), token="before the stop")
    stopping = run.actor.stop(block=False)
    run.append(note(2), token="behind the stop")
    asked = run.actor.ask(Append(run.number, [note(3)], True), block=False)
    run.disk.gate.set()
    stopping.get(timeout=TIMEOUT_S)
    assert [token for token, _, _ in run.acks_until("before the stop")] == ["held", "before the stop"]
    failure = run.failure()
    assert failure.tokens == ["behind the stop"]
    assert isinstance(failure.error, StorageError)
    assert isinstance(idle.failure().error, StorageError)
    with pytest.raises(SageError):
        asked.get(timeout=TIMEOUT_S)
    assert [number_of(each) for each in run.on_disk()] == [-1, 1]


def test_if_the_actor_itself_fails_everyone_is_told_and_the_files_are_closed(
    open_run: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run()
    run.append(note(0), token="before")
    run.acks_until("before")
    monkeypatch.setattr(state_module, "_write", lambda run: 1 / 0)
    run.append(note(1), token="t")
    failure = run.failure()
    assert "failed" in str(failure.error)
    deadline = time.monotonic() + TIMEOUT_S
    while run.actor.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with pytest.raises(StorageError):
        run.writer.append(b"")


def test_five_thousand_waiting_messages_cost_one_write_and_one_fsync(open_run: Callable[[], Run]) -> None:
    run = open_run()
    held(run)
    for number in range(5_000):
        run.append(note(number), sync=number == 4_999)
    run.append(sync=True, token="end")
    run.disk.gate.set()
    run.acks_until("end")
    assert (run.disk.writes, run.disk.syncs) == (2, 2)

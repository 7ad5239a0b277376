"""A journal cut at every byte, every byte flipped, every write refused: healed or refused, never wrong."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from golden.make import HERE as STEPS

from sage_actors import SageError, StateCorruptedError, Supervisor, WrongKeyError
from sage_actors.actors import faults
from sage_actors.actors.clock import SystemClock
from sage_actors.actors.keys.provider import KeyRing, format_key, load_keys
from sage_actors.actors.state.journal import read_journal
from sage_actors.actors.state.journal_format import HEADER_BYTES
from sage_actors.actors.state.journal_reader import FrameStore, segment_path
from sage_actors.actors.state.locks import holder
from sage_actors.messages.codec import unpack
from sage_actors.messages.errors import StorageError
from sage_actors.supervisor.core import states as st
from sage_actors.supervisor.core.plan import compile_plan
from sage_actors.supervisor.core.run_core import RunCore, RunOptions
from sage_actors.supervisor.definitions.loading import load_dict
from sage_actors.supervisor.handle import Outcome
from sage_actors.supervisor.recovery.acting import act_on_run
from sage_actors.supervisor.recovery.reopen import prepare
from sage_actors.supervisor.recovery.restore import replay
from sage_actors.supervisor.stored_values import StoredValues

KEYS = load_keys(environ={"SAGE_STATE_KEY": format_key(bytes(range(32)))})
PUBLISHED = {"published": 5, "bytes": b"\x00\xff", "none": None, "share": 0.5}
SEGMENTS = (1, 2)
FLOW = load_dict(
    {
        "name": "damage",
        "concurrency": 2,
        "nodes": [
            {"id": "numbers", "type": "python", "call": "golden_steps:numbers", "arguments": {"count": 3}},
            {
                "id": "square",
                "type": "python",
                "call": "golden_steps:square",
                "foreach": "${numbers}",
                "arguments": {"number": "${item}"},
            },
            {
                "id": "sum",
                "type": "python",
                "call": "golden_steps:sum_up",
                "arguments": {"squares": "${square}"},
            },
            {
                "id": "publish",
                "type": "python",
                "call": "golden_steps:publish",
                "effect": "once",
                "arguments": {"total": "${sum}"},
            },
            {
                "id": "unreliable",
                "type": "python",
                "call": "golden_steps:unreliable",
                "retry": {"max_attempts": 3, "backoff": 0.001},
            },
            {
                "id": "report",
                "type": "python",
                "call": "golden_steps:report",
                "arguments": {"published": "${publish}", "sum": "${sum}", "luck": "${unreliable}"},
            },
        ],
    }
)
RESULTS = {"report": {"published": PUBLISHED, "sum": 5, "luck": "at last"}}
VALUES = {
    "numbers": [0, 1, 2],
    **{f"square[{i}]": {"number": i, "square": i * i} for i in range(3)},
    "square": [{"number": i, "square": i * i} for i in range(3)],
    "sum": 5,
    "publish": PUBLISHED,
    "unreliable": "at last",
    **RESULTS,
}


def make_supervisor(project: Path) -> Supervisor:
    return Supervisor(project, workers=2, keys=KEYS, search_paths=[STEPS], grace_s=0.5)


def finish(supervisor: Supervisor, run_id: str, **options: Any) -> Outcome:
    """Carries the run to its end; a publication that is in doubt is settled by who knows that it happened."""
    outcome = supervisor.run(FLOW, run_id=run_id, timeout=30, **options)
    if outcome.reason.startswith("in doubt: publish"):
        request = {"action": "resolve", "node": "publish", "how": "result", "result": PUBLISHED}
        act_on_run(supervisor.project, KEYS, run_id, request, by="the test")
        outcome = supervisor.run(FLOW, run_id=run_id, timeout=30)
    return outcome


@dataclass(frozen=True)
class Specimen:
    """The journal of a finished run that a disk error interrupted once, with every frame's place."""

    supervisor: Supervisor
    directory: Path
    segments: dict[int, bytes]
    boundaries: dict[int, list[int]]


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Specimen]:
    with make_supervisor(tmp_path_factory.mktemp("specimen")) as supervisor:
        faults.arm("journal.before_write:9:eio")
        try:
            assert supervisor.run(FLOW, run_id="whole", timeout=30).status == "paused"
        finally:
            faults.disarm()
        assert finish(supervisor, "whole").results == RESULTS
        directory = supervisor.state.run_dir("whole")
        segments = {number: segment_path(directory, number).read_bytes() for number in SEGMENTS}
        boundaries: dict[int, list[int]] = {number: [] for number in SEGMENTS}
        for location, _ in read_journal(directory, KEYS).frames:
            boundaries[location.segment].append(location.offset)
        assert all(len(each) >= 3 for each in boundaries.values())
        assert not segment_path(directory, 3).exists()
        yield Specimen(supervisor, directory, segments, boundaries)


@pytest.fixture
def copy(specimen: Specimen, tmp_path: Path) -> Path:
    directory = tmp_path / "copy"
    shutil.copytree(specimen.directory, directory)
    return directory


def open_again(directory: Path, keys: KeyRing = KEYS) -> RunCore | None:
    """What a resume would continue from; None if there is no run."""
    image = read_journal(directory, keys)
    store = FrameStore(directory, keys)

    def make_run(spec: Any, header: dict[str, Any]) -> RunCore:
        return RunCore(
            number=1,
            run_id="whole",
            run_key="whole",
            plan=compile_plan(spec),
            inputs=header["inputs"],
            ports=StoredValues(store),  # pyright: ignore[reportArgumentType]  # values are all it is asked for
            clock=SystemClock(),
            options=RunOptions(),
        )

    try:
        restored = replay(image.frames, make_run)
        if restored.run is None:
            return None
        prepare(restored, now=SystemClock().now())
        check_values(restored.run)
        return restored.run
    finally:
        store.close()


def check_values(run: RunCore) -> None:
    """Whatever counts as done has the result that it had."""
    for node, state in enumerate(run.state):
        if state == st.SUCCEEDED and not run.is_gate(node):
            packed = run.value(node)
            assert packed is not None
            assert unpack(packed) == VALUES[run.id_of(node)]


@pytest.mark.requirement("ORCH-015")
def test_the_last_segment_heals_wherever_it_was_cut(specimen: Specimen, copy: Path) -> None:
    path, whole = segment_path(copy, 2), specimen.segments[2]
    done = []
    for length in range(len(whole) - 1, HEADER_BYTES - 1, -1):
        os.truncate(path, length)
        run = open_again(copy)
        assert run is not None
        done.append(run.counts["succeeded"])
    assert done == sorted(done, reverse=True)
    assert done[-1] >= 1  # what the first segment says


@pytest.mark.requirement("ORCH-015")
def test_the_only_segment_heals_wherever_it_was_cut(specimen: Specimen, copy: Path) -> None:
    segment_path(copy, 2).unlink()
    path, whole = segment_path(copy, 1), specimen.segments[1]
    admitted = specimen.boundaries[1][1]  # the end of the first frame
    for length in range(len(whole) - 1, HEADER_BYTES - 1, -1):
        os.truncate(path, length)
        assert (open_again(copy) is not None) == (length >= admitted)


@pytest.mark.parametrize("segment", SEGMENTS)
def test_a_segment_without_its_whole_header_is_refused(specimen: Specimen, copy: Path, segment: int) -> None:
    path = segment_path(copy, segment)  # it is born with its header or not at all: this is no crash
    for length in range(HEADER_BYTES - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(StateCorruptedError, match=path.name):
            open_again(copy)


def test_a_cut_that_is_followed_by_a_segment_is_refused(specimen: Specimen, copy: Path) -> None:
    path, whole = segment_path(copy, 1), specimen.segments[1]
    for length in range(len(whole) - 1, HEADER_BYTES - 1, -1):
        os.truncate(path, length)
        with pytest.raises(StateCorruptedError, match=path.name):
            open_again(copy)


@pytest.mark.requirement("ORCH-015")
@pytest.mark.parametrize("segment", SEGMENTS)
def test_every_flipped_byte_is_noticed(specimen: Specimen, copy: Path, segment: int) -> None:
    path, whole = segment_path(copy, segment), specimen.segments[segment]
    fd = os.open(path, os.O_RDWR)
    try:
        for offset, byte in enumerate(whole):
            os.pwrite(fd, bytes([byte ^ (1 << offset % 8)]), offset)
            with pytest.raises((StateCorruptedError, WrongKeyError), match=r"journal-\d+"):
                open_again(copy)
            os.pwrite(fd, bytes([byte]), offset)
    finally:
        os.close(fd)
    assert open_again(copy) is not None


# ---------------------------------------------------------------------- the same by the public API


def damage(specimen: Specimen, run_id: str, change: Callable[[Path], None]) -> None:
    """Another run with the same journal, damaged by `change`."""
    directory = specimen.supervisor.state.run_dir(run_id)
    shutil.copytree(specimen.directory, directory)
    change(directory)


def sample(specimen: Specimen, segment: int, step: int) -> list[int]:
    """Places in a segment: around every frame's start, and every `step` bytes."""
    size = len(specimen.segments[segment])
    near = {offset + by for offset in specimen.boundaries[segment] for by in (-1, 0, 1)}
    return sorted(each for each in {*near, *range(0, size, step), size - 1} if 0 <= each < size)


@pytest.mark.requirement("ORCH-017")
def test_a_run_whose_journal_was_cut_finishes_with_its_results(specimen: Specimen) -> None:
    for cut in sample(specimen, 2, 150):
        if cut < HEADER_BYTES:
            continue
        run_id = f"cut-{cut}"
        damage(specimen, run_id, lambda directory, cut=cut: os.truncate(segment_path(directory, 2), cut))  # type: ignore[misc]
        outcome = finish(specimen.supervisor, run_id)
        assert (run_id, outcome.status, dict(outcome.results)) == (run_id, "succeeded", RESULTS)
        assert outcome.errors == {}


@pytest.mark.requirement("ORCH-017")
@pytest.mark.parametrize("segment", SEGMENTS)
def test_a_run_whose_journal_was_altered_is_refused_and_repaired(specimen: Specimen, segment: int) -> None:
    supervisor = specimen.supervisor
    for offset in sample(specimen, segment, 200):
        run_id = f"flip-{segment}-{offset}"
        damage(specimen, run_id, lambda directory, at=offset: flip(segment_path(directory, segment), at))  # type: ignore[misc]
        with pytest.raises((StateCorruptedError, WrongKeyError)) as caught:
            supervisor.start(FLOW, run_id=run_id)
        assert caught.value.exit_code == 4
        with pytest.raises((StateCorruptedError, WrongKeyError)):
            supervisor.resume(run_id)
        assert holder(supervisor.state, run_id) is None
        try:
            outcome = finish(supervisor, run_id, repair=True)
        except SageError:
            assert (segment, offset) < (1, specimen.boundaries[1][1])  # the admission itself: nothing is left
            outcome = finish(supervisor, run_id, fresh=True)
        assert (run_id, outcome.status, dict(outcome.results)) == (run_id, "succeeded", RESULTS)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << offset % 8
    path.write_bytes(data)


# ---------------------------------------------------------------------- a disk that refuses


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with make_supervisor(tmp_path) as supervisor:
        try:
            yield supervisor
        finally:
            faults.disarm()


def attempt(supervisor: Supervisor, run_id: str) -> tuple[str, str, set[str], set[str]]:
    """(status, reason, nodes that started, nodes that succeeded) of one process's part of a run."""
    try:
        run = supervisor.start(FLOW, run_id=run_id)
    except StorageError as error:
        return "refused", f"{error.code}: {error}", set(), set()
    outcome = run.result(30)
    events = list(run.events())
    if outcome.status == "paused":
        assert outcome.exit_code == 5
    started = {str(event.node) for event in events if event.event == "node_started"}
    done = {str(event.node) for event in events if event.event == "node_succeeded"}
    return outcome.status, outcome.reason, started, done


_POINTS = (
    "journal.segment_created",
    "journal.segment_renamed",
    "journal.before_write",
    "journal.after_write",
    "journal.before_fsync",
    "journal.after_fsync",
)


@pytest.mark.requirement("ORCH-015")
@pytest.mark.parametrize("error", ["enospc", "eio"])
@pytest.mark.parametrize("point", _POINTS)
def test_a_disk_that_refuses_pauses_the_run_which_goes_on_later(
    supervisor: Supervisor, point: str, error: str
) -> None:
    strikes = 0
    text = os.strerror(getattr(errno, error.upper()))
    for count in range(1, 100):
        run_id = f"run-{count}"
        faults.arm(f"{point}:{count}:{error}+")
        status, reason, _, done = attempt(supervisor, run_id)
        if status == "succeeded":
            break
        strikes += 1
        assert text in reason
        assert status == "refused" or (status == "paused" and reason.startswith("storage: "))
        assert holder(supervisor.state, run_id) is None
        again, reason, more, _ = attempt(supervisor, run_id)  # the disk is still full
        # What was written is synced before anybody builds on it: if that was all of the run, it has succeeded.
        assert again in ("refused", "succeeded") or reason.startswith("storage: ")
        assert not more & done
        faults.disarm()
        _, _, more, _ = attempt(supervisor, run_id)
        assert not more & done
        outcome = finish(supervisor, run_id)
        assert (run_id, outcome.status, dict(outcome.results)) == (run_id, "succeeded", RESULTS)
    assert strikes >= (1 if "segment" in point else 6)


def test_a_full_disk_costs_no_publication_twice(supervisor: Supervisor) -> None:
    faults.arm("journal.before_write:1:enospc+")
    attempt(supervisor, "r")
    faults.disarm()
    assert finish(supervisor, "r").status == "succeeded"
    assert (supervisor.project / "published.log").read_text() == "5\n"


def test_a_repair_that_leaves_nothing_keeps_the_evidence_and_says_so(tmp_path: Path) -> None:
    """Damage in the admission: there is no run left, and nothing may be thrown away for that."""
    from sage_actors import StateCorruptedError, Supervisor, Workflow
    from sage_actors.actors.state.directory import StateDirectory

    flow = Workflow("tiny")
    flow.add("wait", id="pause", seconds=0)
    with Supervisor(tmp_path) as supervisor:
        assert supervisor.run(flow, run_id="tiny", timeout=60).status == "succeeded"
    segment = StateDirectory(tmp_path).run_dir("tiny") / "journal-000001.sage"
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(data)
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StateCorruptedError, match="kept as journal-000001"):
            supervisor.resume("tiny", repair=True)
        with pytest.raises(StateCorruptedError, match="--fresh"):
            supervisor.start(flow, run_id="tiny")
        assert supervisor.run(flow, run_id="tiny", fresh=True, timeout=60).status == "succeeded"

"""What a list keeps of a run is said again only while the run's journal is the same, to the byte."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import operations_engine as ops
import pytest
from engine_harness import KEYS, make_supervisor, wait_until

from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.keys.ring import new_key
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import SageError
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.recovery.history import History
from sage_actors.supervisor.recovery.summaries import Summaries, forget_summaries

pytestmark = pytest.mark.requirement("ORCH-016")


class Lists:
    """Lists of a project as separate processes make them; counts the journals that are read."""

    def __init__(self, project: Path, keys: KeyRing) -> None:
        self.state, self.keys, self.read = StateDirectory(project), keys, 0

    def __call__(self, *, keys: KeyRing | None = None, shape: int = 1) -> dict[str, Any]:
        """What one says of each run, "unreadable" included; `read` is how many it had to read for that."""
        self.read = 0
        book = Summaries(self.state, keys or self.keys, kind="test", shape=shape, summary=self._summary)
        out: dict[str, Any] = {}
        for run_id in book.run_ids():
            try:
                out[run_id] = book.of(run_id)["status"]
            except SageError:
                out[run_id] = "unreadable"
        book.keep()
        return out

    def _summary(self, past: History) -> dict[str, Any]:
        self.read += 1
        return {"status": past.status, "counts": past.counts}

    def file(self) -> Path:
        return self.state.root / ".summaries-test.sage"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def lists(project: Path) -> Lists:
    project.mkdir()
    flow = Workflow("flow")
    first = flow.add(ops.echo, id="first", value=1)
    flow.add(ops.fail_while, id="second", gate=str(project / "mended"), after=[first])
    with make_supervisor(project) as supervisor:
        for run_id in ("one", "two", "three"):
            assert supervisor.run(flow, run_id=run_id, timeout=60).status == "failed"
    return Lists(project, KEYS)


def segment(lists: Lists, run_id: str) -> Path:
    return next(lists.state.run_dir(run_id).glob("journal-*"))


def test_a_journal_is_read_for_the_first_list_and_for_no_other(lists: Lists) -> None:
    first = lists()
    assert lists.read == 3
    assert lists() == first == dict.fromkeys(("three", "two", "one"), "failed")
    assert lists.read == 0


def test_what_went_on_since_is_read_again_and_nothing_else(lists: Lists, project: Path) -> None:
    lists()
    (project / "mended").touch()
    with make_supervisor(project) as supervisor:
        assert supervisor.resume("two").result(60).status == "succeeded"
    assert lists() == {"two": "succeeded", "three": "failed", "one": "failed"}
    assert lists.read == 1


def test_a_run_that_was_killed_is_interrupted_and_not_what_it_was_before(lists: Lists, project: Path) -> None:
    flow = Workflow("long")
    flow.add(ops.mark_and_wait_for, id="a", path=str(project / "began"), gate=str(project / "never"))
    child = os.fork()
    if child == 0:
        try:
            with make_supervisor(project) as supervisor:
                supervisor.run(flow, run_id="long")
        finally:
            os._exit(1)
    wait_until(lambda: (project / "began").exists(), what="it runs")
    assert lists()["long"] == "running"
    assert lists()["long"] == "running"
    assert lists.read == 1, "a run that somebody carries out is read each time"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: lists()["long"] == "interrupted", what="it is seen to be dead")
    lists()
    assert lists.read == 0


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    """One bit in the middle; size, inode and time of writing stay."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("rb+") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchange_for_another(path: Path) -> None:
    """Another run's journal, as old and as long as it may be."""
    status = path.stat()
    other = path.parent.parent / "three" / path.name
    shutil.copyfile(other, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def open_to_others(path: Path) -> None:
    path.chmod(0o644)


@pytest.mark.parametrize("damage", [cut, flip, exchange_for_another, open_to_others])
def test_a_journal_that_was_changed_is_not_hidden_by_what_is_kept(
    lists: Lists, damage: Callable[[Path], None]
) -> None:
    lists()
    damage(segment(lists, "one"))
    said = lists()
    assert lists.read <= 1
    forget_summaries(lists.state)
    assert lists() == said, "a list that begins anew says the same"


@pytest.mark.parametrize("length", [0, 10, 56, -1])
def test_a_file_that_is_damaged_is_as_good_as_none(lists: Lists, length: int) -> None:
    first = lists()
    data = lists.file().read_bytes()
    lists.file().write_bytes(data[:length] if length >= 0 else data[:-1] + bytes([data[-1] ^ 1]))
    assert lists() == first
    assert lists.read == 3
    lists()
    assert lists.read == 0


def test_another_key_sees_nothing_of_what_is_kept_and_changes_nothing_that_is_said(lists: Lists) -> None:
    lists()
    assert b"failed" not in lists.file().read_bytes()
    stranger = KeyRing((new_key(),), "environment")
    assert set(lists(keys=stranger).values()) == {"unreadable"}
    both = KeyRing((new_key(), *lists.keys.keys), "environment")
    assert set(lists(keys=both).values()) == {"failed"}
    without = both.without(lists.keys.primary.id)
    assert set(lists(keys=without).values()) == {"unreadable"}, (
        "a key that was dropped opens nothing any more"
    )


def test_another_shape_is_read_anew(lists: Lists) -> None:
    lists()
    lists(shape=2)
    assert lists.read == 3


def test_what_was_deleted_is_not_kept(lists: Lists) -> None:
    lists()
    size = lists.file().stat().st_size
    lists.state.delete("two")
    assert set(lists()) == {"one", "three"}
    assert lists.read == 0
    assert lists.file().stat().st_size < size


def test_a_run_that_is_made_anew_under_the_same_id_is_read(lists: Lists, project: Path) -> None:
    lists()
    flow = Workflow("flow")
    flow.add(ops.echo, id="first", value=1)
    with make_supervisor(project) as supervisor:
        assert supervisor.run(flow, run_id="one", fresh=True, timeout=60).status == "succeeded"
    assert lists()["one"] == "succeeded"


def test_a_list_whose_file_cannot_be_written_is_a_list_all_the_same(lists: Lists) -> None:
    lists.file().mkdir()
    assert set(lists().values()) == {"failed"}
    assert set(lists().values()) == {"failed"}
    assert lists.read == 3

"""The local pool: what the supervisor is told, whatever its workers do."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_harness import PoolHarness, open_fds, pid_exists, wait_until

from sage_actors.actors.pool.frames import FrameHandlers
from sage_actors.actors.pool.pool import LocalPool
from sage_actors.actors.pool.pool_worker import WorkerHandle
from sage_actors.actors.pool.protocol import Results, WorkerLost, WorkerPool, WorkerReady
from sage_actors.messages.codec import frame, pack
from sage_actors.messages.errors import ProtocolError, UsageError
from sage_actors.messages.wire import Kind


def test_the_local_pool_is_a_worker_pool(tmp_path: Path) -> None:
    pool: WorkerPool = LocalPool(project=tmp_path, deliver=lambda _: None)
    pool.close()  # never started


@pytest.mark.requirement("ORCH-011")
def test_ten_thousand_tasks_each_end_once(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        workers = [pool.worker(), pool.worker("async")]
        keys = []
        for _ in range(20):
            for worker, name in zip(workers, ("nothing", "nothing_async"), strict=True):
                keys += pool.submit_many(worker, name, [{}] * 250)
        rows: list[Any] = []

        def all_rows() -> bool:
            with contextlib.suppress(queue.Empty):
                while True:
                    pool.seen.append(pool.events.get_nowait())
            answered = [row for event in pool.seen if isinstance(event, Results) for row in event.rows]
            rows[:] = [tuple(row[:3]) for row in answered]
            return len(rows) >= len(keys)

        wait_until(all_rows)
        assert sorted(rows) == sorted(keys)


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_killed_worker_is_noticed_at_once_with_its_signal(tmp_path: Path, kind: Any) -> None:
    delays = []
    with PoolHarness(tmp_path) as pool:
        for _ in range(5):
            worker = pool.worker(kind)
            os.kill(pool.pid(worker), signal.SIGKILL)
            killed_at = time.monotonic()
            lost = pool.lost(worker, timeout_s=5)
            delays.append(time.monotonic() - killed_at)
            assert (lost.evidence.exitcode, lost.evidence.reason) == (-9, "")
    assert min(delays) < 0.1  # by polling once a second it would be more; milliseconds where nothing disturbs


@pytest.mark.parametrize(
    ("name", "arguments", "exitcode", "line"),
    [
        ("die", {"code": 7}, 7, None),
        ("kill_self", {}, -9, "last words"),
        ("crash", {}, -11, "Segmentation fault"),
    ],
)
def test_the_end_of_a_crashed_worker_is_explained(
    tmp_path: Path, name: str, arguments: dict[str, Any], exitcode: int, line: str | None
) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        before = pool.submit(worker, "say", text="of another operation")
        pool.row(before)
        crashed = pool.submit(worker, name, **arguments)
        evidence = pool.lost(worker).evidence
        assert (evidence.exitcode, evidence.reason) == (exitcode, "")
        text = "\n".join(evidence.last_lines) + pool.output(crashed)
        assert line is None or line in text
        assert "of another operation" not in evidence.last_lines


def test_results_from_before_the_crash_are_delivered(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        done = pool.submit_many(worker, "echo", [{"value": number} for number in range(50)])
        pool.row(done[0])
        pool.submit(worker, "sleep", seconds=60)
        for key in done:
            pool.row(key)
        os.kill(pool.pid(worker), signal.SIGKILL)
        pool.lost(worker)


def test_sigterm_lets_an_operation_clean_up(tmp_path: Path) -> None:
    with PoolHarness(tmp_path, grace_s=10.0) as pool:
        for kind, name in (("blocking", "clean_up"), ("async", "clean_up_async")):
            worker = pool.worker(kind)  # type: ignore[arg-type]
            started, cleaned = tmp_path / f"{kind}-started", tmp_path / f"{kind}-cleaned"
            pool.submit(worker, name, started=str(started), cleaned=str(cleaned))
            wait_until(started.exists)
            begun = time.monotonic()
            pool.pool.kill(worker, "cancelled")
            lost = pool.lost(worker)
            assert (lost.evidence.exitcode, lost.evidence.reason) == (143, "cancelled")
            assert cleaned.read_text() == "done"
            assert time.monotonic() - begun < 9


def test_who_swallows_everything_is_killed_after_the_grace(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.submit(worker, "swallow_everything", started=str(tmp_path / "started"))
        wait_until((tmp_path / "started").exists)
        pool.pool.kill(worker, "timeout", grace_s=0.1)
        lost = pool.lost(worker)
        assert (lost.evidence.exitcode, lost.evidence.reason) == (-9, "timeout")


def test_a_killed_shell_command_goes_with_its_worker(tmp_path: Path) -> None:
    with PoolHarness(tmp_path, grace_s=5.0) as pool:
        worker = pool.worker()
        trap = f"trap 'echo end > {tmp_path}/trapped; exit' TERM"
        command = f"{trap}; echo $$ > {tmp_path}/pid; while :; do sleep 0.02; done"
        pool.submit_config(worker, "shell", {"command": command})
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        pool.pool.kill(worker, "cancelled")
        assert pool.lost(worker).evidence.exitcode == 143
        assert not pid_exists(int((tmp_path / "pid").read_text()))
        assert (tmp_path / "trapped").exists()


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_retired_worker_ends_after_its_work(tmp_path: Path, kind: Any) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker(kind)
        keys = pool.submit_many(worker, "sleep_async", [{"seconds": 0.1}] * 3)
        pool.pool.retire(worker)
        for key in keys:
            assert pool.value(key) == 0.1
        lost = pool.lost(worker)
        assert (lost.evidence.exitcode, lost.evidence.reason) == (0, "stopped")
        assert pool.pool.statistics().lost == 0


def test_tasks_may_be_submitted_before_the_worker_is_ready(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        for kind, name in (("blocking", "echo"), ("async", "sleep_async")):
            worker = pool.pool.start_worker(kind)  # type: ignore[arg-type]
            arguments = {"value": 0.01} if name == "echo" else {"seconds": 0.01}
            assert pool.value(pool.submit(worker, name, **arguments)) == 0.01


def test_a_kill_right_after_the_start_is_one_end(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        for grace_s in (0.0, 0.2):
            worker = pool.pool.start_worker("blocking")
            pool.pool.kill(worker, "cancelled", grace_s=grace_s)
            pool.pool.kill(worker, "timeout", grace_s=grace_s)
            assert pool.lost(worker).evidence.reason == "cancelled"
        pool.pool.submit(worker, [(1, 1, 1, 1, "n", "r", None, b"")])  # lost: nothing happens
        pool.pool.cancel(worker, [(1, 1, 1)])
        pool.pool.give_back(worker)
        pool.pool.kill(worker, "again")


def test_an_operation_that_was_not_defined_is_refused(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        with pytest.raises(UsageError, match="99"):
            pool.pool.submit(worker, [(1, 1, 1, 99, "n", "r", None, pack({}))])
        op = pool.define("echo", {"type": "python", "call": "operations:echo"})
        assert pool.value(pool.submit(worker, "echo", value=1)) == 1
        pool.pool.forget([op])
        with pytest.raises(UsageError, match=str(op)):
            pool.submit(worker, "echo", value=1)


@pytest.mark.parametrize("name", ["block_loop", "block_in_subtask"])
def test_a_blocked_event_loop_is_noticed_and_the_blocker_named(tmp_path: Path, name: str) -> None:
    with PoolHarness(tmp_path, heartbeat_s=3.0) as pool:
        worker = pool.worker("async")
        pool.submit_many(worker, "sleep_async", [{"seconds": 600}] * 10)
        blocker = pool.submit(worker, name, seconds=600)
        lost = pool.lost(worker)
        assert lost.evidence.reason == "heartbeat"
        assert lost.evidence.describe().startswith("the worker was ended: its event loop was blocked")
        assert lost.culprits == (blocker,)


def test_a_busy_event_loop_lives_on(tmp_path: Path) -> None:
    with PoolHarness(tmp_path, heartbeat_s=2.0) as pool:
        worker = pool.worker("async")
        for _ in range(4):
            pool.value(pool.submit(worker, "block_loop", seconds=0.8))
        with pytest.raises(AssertionError, match="no WorkerLost"):
            pool.lost(worker, timeout_s=0.5)


def test_timers_run_in_order_and_in_the_pools_thread(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        ran: list[tuple[str, str]] = []
        now = time.monotonic()

        def note(name: str) -> None:
            ran.append((name, threading.current_thread().name))

        pool.pool.call_at(now + 0.1, lambda: note("late"))
        pool.pool.call_at(now + 0.05, lambda: note("early"))
        pool.pool.call_at(now - 1, lambda: note("past"))
        wait_until(lambda: len(ran) == 3)
        assert ran == [(name, "sage-pool-io") for name in ("past", "early", "late")]
        assert time.monotonic() - now >= 0.1


def test_an_error_in_one_callback_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    with PoolHarness(tmp_path) as pool:
        pool.pool.call_at(0.0, lambda: 1 / 0)  # type: ignore[arg-type]
        worker = pool.worker()
        assert pool.value(pool.submit(worker, "echo", value=1)) == 1
    assert [each.exc_type for each in reported] == [ZeroDivisionError]


def test_a_closed_pool_says_nothing_and_leaks_nothing(tmp_path: Path) -> None:
    with PoolHarness(tmp_path):
        pass
    before = open_fds()
    for _ in range(3):
        with PoolHarness(tmp_path) as pool:
            worker = pool.worker()
            pool.submit(worker, "sleep", seconds=60)
            os.kill(pool.worker() and pool.pid(worker), signal.SIGKILL)
            pool.lost(worker)
            pool.submit(pool.worker(), "sleep", seconds=60)
            pool.pool.close(0.1)
            pool.pool.close(0.1)
            while True:
                try:
                    pool.seen.append(pool.events.get_nowait())
                except queue.Empty:
                    break
        assert {type(event) for event in pool.seen} >= {WorkerReady, WorkerLost}
    assert open_fds() == before


def lowest_free_fd() -> int:
    """Whatever else this process has open above it: the next descriptor would get this number."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def test_a_pool_survives_a_lack_of_descriptors(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_fd(), hard))
        try:
            failed = pool.pool.start_worker("blocking")
            lost = pool.lost(failed)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "could not be started" in lost.evidence.last_lines[-1]
        assert pool.value(pool.submit(worker, "echo", value=1)) == 1
        assert pool.value(pool.submit(pool.worker(), "echo", value=2)) == 2


# The other side may be anything

GARBAGE = [
    b"\xff\xff\xff\xff" + b"x" * 100,
    b"\x00\x00\x00\x03abc",
    frame(Kind.TASKS, []),
    frame(99, None),
    frame(Kind.RESULTS, [[1, 2, 3]]),
    frame(Kind.RESULTS, [[1, 2, 3, 0, 5, "not packed", None]]),
    frame(Kind.RESULTS, {"a": 1}),
    frame(Kind.LOGS, [[1, 1, 1, "stdout", 5]]),
    frame(Kind.GUARD, [1, 2]),
    frame(Kind.HEARTBEAT, [["a", 1, 1]]),
    frame(Kind.INSPECTED, [1, [{"call": "x"}]]),
    struct.pack(">I", 5) + b"\xc1" * 5,
    struct.pack(">I", 200_000) + b"\x91" * 200_000,
]


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PoolHarness, int]]:
    """A pool that knows the operation `talk`, and a worker that is none of the rogues."""
    folder = tmp_path_factory.mktemp("rogue")
    (folder / "rogue.py").write_text(
        "import os, socket, stat\n"
        "def talk(data):\n"
        "    for fd in range(3, 64):\n"
        "        try:\n"
        "            if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, data)\n"
        "        except OSError: pass\n"
        "    import time; time.sleep(60)\n"
    )
    with PoolHarness(folder) as pool:
        pool.define("talk", {"type": "python", "call": "rogue:talk"})
        yield pool, pool.worker()


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_ends_that_worker_and_nothing_else(visited: tuple[PoolHarness, int], data: bytes) -> None:
    pool, other = visited
    rogue = pool.worker()
    pool.submit(rogue, "talk", data=data)
    lost = pool.lost(rogue)
    assert lost.evidence.reason == "protocol"
    assert "broke the protocol" in lost.evidence.last_lines[-1]
    assert pool.value(pool.submit(other, "echo", value=1)) == 1


def test_a_worker_that_closes_its_socket_is_ended(tmp_path: Path) -> None:
    (tmp_path / "rogue.py").write_text(
        "import os, socket, stat, time\n"
        "def hang_up():\n"
        "    for fd in range(3, 64):\n"
        "        try:\n"
        "            if not stat.S_ISSOCK(os.fstat(fd).st_mode): continue\n"
        "        except OSError: continue\n"
        "        ours = socket.socket(fileno=fd)\n"
        "        ours.shutdown(socket.SHUT_WR)\n"
        "        ours.detach()\n"
        "    time.sleep(60)\n"
    )
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.define("hang_up", {"type": "python", "call": "rogue:hang_up"})
        pool.submit(worker, "hang_up")
        assert pool.lost(worker).evidence.reason == "protocol"


def _handlers(events: list[Any]) -> FrameHandlers:
    return FrameHandlers(
        deliver=events.append,
        on_ready=lambda _: None,
        on_executing=lambda *_: None,
        on_inspected=lambda *_: None,
    )


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
KEYS = st.text() | st.integers(0, 9)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def _framed(value: Any) -> bytes:
    body: bytes = msgpack.packb(value)
    return struct.pack(">I", len(body)) + body


FRAMES = st.lists(ANYTHING, max_size=3).map(lambda values: b"".join(map(_framed, values)))


@settings(max_examples=300, deadline=None)
@given(kind=st.integers(0, 40), payload=ANYTHING)
def test_any_frame_becomes_an_event_or_a_protocol_error(kind: int, payload: Any) -> None:
    worker = WorkerHandle(1, "blocking")
    try:
        with contextlib.suppress(ProtocolError):
            _handlers([]).handle(worker, kind, payload)
    finally:
        worker.close()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300) | FRAMES)
def test_any_bytes_are_frames_or_a_protocol_error(data: bytes) -> None:
    worker = WorkerHandle(1, "blocking")
    theirs = socket.socket(fileno=os.dup(worker.child_fds()[0]))
    try:
        if data:
            theirs.sendall(data)
            with contextlib.suppress(ProtocolError):
                for kind, payload in worker.frames():
                    _handlers([]).handle(worker, kind, payload)
    finally:
        theirs.close()
        worker.close()

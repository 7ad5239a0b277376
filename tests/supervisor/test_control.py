"""The control socket: what it answers, whom it refuses, and that nobody at its other end can hold a run up."""

from __future__ import annotations

import json
import os
import queue
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_actors.messages.errors import UsageError
from sage_actors.messages.events import Event
from sage_actors.supervisor.control import server as control
from sage_actors.supervisor.control.client import ControlClient
from sage_actors.supervisor.control.server import ControlServer
from sage_actors.supervisor.control.socket import NoControlError, socket_paths


class Told:
    """A run that writes down what it is asked for."""

    def __init__(self, run_id: str = "run-1") -> None:
        self.run_id = run_id
        self.asked: list[tuple[Any, ...]] = []
        self.happened: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()

    def status(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "status": "running"}

    def events(self) -> Iterator[Event]:
        while (event := self.happened.get()) is not None:
            yield event

    def cancel(self) -> None:
        self.gate.wait(30)
        self.asked.append(("cancel",))

    def approve(self, node_id: str, *, approved: bool = True, data: Any = None, by: str = "") -> None:
        if node_id == "unknown":
            raise UsageError("there is no node 'unknown'")
        self.asked.append((node_id, approved, data, by))

    def resolve(self, node_id: str, how: str, *, result: Any = None, by: str = "") -> None:
        self.asked.append((node_id, how, result, by))

    def tell(self, count: int = 1, size: int = 10) -> None:
        for _ in range(count):
            self.happened.put(Event("node_log", self.run_id, time.time(), "a", {"text": "x" * size}))

    def end(self) -> None:
        self.happened.put(None)


@pytest.fixture
def run() -> Iterator[Told]:
    told = Told()
    yield told
    told.gate.set()
    told.end()


@pytest.fixture
def server(tmp_path: Path, run: Told) -> Iterator[ControlServer]:
    server = ControlServer(tmp_path)
    server.serve(run)
    yield server
    run.end()
    server.close()


def _raw(tmp_path: Path, data: bytes, *, run_id: str = "run-1") -> list[dict[str, Any]]:
    """What the server answers to these bytes until it hangs up, or is silent for a second."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        sock.connect(os.fspath(socket_paths(tmp_path, run_id)[0]))
        try:
            sock.sendall(data)
        except OSError:
            pass
        received = b""
        try:
            while part := sock.recv(65536):
                received += part
        except OSError:
            pass
    return [json.loads(line) for line in received.splitlines()]


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_client_asks_and_decides(tmp_path: Path, server: ControlServer, run: Told) -> None:
    client = ControlClient(tmp_path, "run-1")
    assert client.status() == {"run_id": "run-1", "status": "running"}
    client.request("approve", node="n", data={"v": [1]}, by="me")
    client.request("reject", node="n")
    client.request("resolve", node="m", how="result", result=7)
    client.request("cancel")
    assert run.asked == [
        ("n", True, {"v": [1]}, "me"),
        ("n", False, None, ""),
        ("m", "result", 7, ""),
        ("cancel",),
    ]


def test_the_answer_comes_after_the_deed(tmp_path: Path, server: ControlServer, run: Told) -> None:
    run.gate.clear()
    answered = threading.Event()

    def ask() -> None:
        ControlClient(tmp_path, "run-1").request("cancel")
        answered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert ControlClient(tmp_path, "run-1").status()["status"] == "running"  # others are served meanwhile
    assert not answered.is_set()
    run.gate.set()
    thread.join(10)
    assert answered.is_set()


def test_what_the_run_refuses_the_client_hears(tmp_path: Path, server: ControlServer) -> None:
    with pytest.raises(UsageError, match="no node 'unknown'"):
        ControlClient(tmp_path, "run-1").request("approve", node="unknown")
    with pytest.raises(UsageError, match="cannot be stopped"):
        ControlClient(tmp_path, "run-1").request("stop")


def test_stop_reaches_the_process_when_it_allows_it(tmp_path: Path, run: Told) -> None:
    graces: list[float] = []
    server = ControlServer(tmp_path, stop=graces.append)
    server.serve(run)
    ControlClient(tmp_path, "run-1").request("stop", grace_s=2)
    run.end()
    server.close()
    assert graces == [2.0]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not json",
        b"\xff\xfe",
        b'{"action": "explode"}',
        b'{"action": "status", "more": 1}',
        b'{"action": "approve"}',
        b'{"action": "approve", "node": 3}',
        b'{"action": "resolve", "node": "n", "how": "guess"}',
        b'{"action": "stop", "grace_s": -1}',
        b'{"action": "cancel", "action": "stop", "by": []}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_request_is_refused_with_a_reason_and_touches_nothing(
    tmp_path: Path, server: ControlServer, run: Told, line: bytes
) -> None:
    (answer,) = _raw(tmp_path, line + b"\n")
    assert answer["ok"] is False
    assert answer["error"]["message"]
    assert run.asked == []
    assert ControlClient(tmp_path, "run-1").status()


def test_a_request_without_an_end_is_cut_off(tmp_path: Path, server: ControlServer) -> None:
    (answer,) = _raw(tmp_path, b"x" * (control.MAX_REQUEST_BYTES + 100_000))
    assert "at most" in answer["error"]["message"]


def test_several_requests_on_one_connection_are_answered_in_order(
    tmp_path: Path, server: ControlServer
) -> None:
    line = b'{"action": "status"}\n'
    assert [answer["ok"] for answer in _raw(tmp_path, line * 3)] == [True, True, True]


def test_a_follower_gets_the_status_then_events_then_the_end(
    tmp_path: Path, server: ControlServer, run: Told
) -> None:
    stream = ControlClient(tmp_path, "run-1").events()
    assert next(stream)["status"]["status"] == "running"
    run.tell(3)
    assert [next(stream)["event"] for _ in range(3)] == ["node_log"] * 3
    run.tell(2)
    run.end()
    assert len(list(stream)) == 2


def test_a_follower_sees_the_last_event_when_the_owner_forgets_the_run(tmp_path: Path, run: Told) -> None:
    server = ControlServer(tmp_path)
    server.serve(run)
    stream = ControlClient(tmp_path, "run-1").events()
    next(stream)
    read: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    run.tell(2_000)  # more than a socket holds, and read in a fifth of the second that the owner waits
    run.end()
    server.forget("run-1")
    server.close()
    reader.join(10)
    assert len(read) == 2_000


def test_what_happened_before_the_snapshot_is_not_told_again(
    tmp_path: Path, server: ControlServer, run: Told
) -> None:
    run.happened.put(Event("node_log", "run-1", time.time() - 60, "a", {"text": "old"}))
    stream = ControlClient(tmp_path, "run-1").events()
    next(stream)
    run.tell()
    assert next(stream)["text"] == "x" * 10


def test_a_follower_that_does_not_read_is_dropped_and_told_why(
    tmp_path: Path, server: ControlServer, run: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_BACKLOG_BYTES", 200_000)
    slow = ControlClient(tmp_path, "run-1").events()
    next(slow)
    run.tell(3000, size=1000)
    _until(lambda: run.happened.empty())  # nobody waited for the one who does not read
    assert ControlClient(tmp_path, "run-1").status()
    with pytest.raises(UsageError, match="attach again"):
        list(slow)


def test_a_client_that_says_nothing_is_dropped(
    tmp_path: Path, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "IDLE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(os.fspath(socket_paths(tmp_path, "run-1")[0]))
        assert sock.recv(1) == b""


def test_a_crowd_of_silent_clients_is_bounded(tmp_path: Path, server: ControlServer) -> None:
    crowd = []
    for _ in range(control.MAX_CLIENTS + 20):
        crowd.append(sock := socket.socket(socket.AF_UNIX))
        sock.connect(os.fspath(socket_paths(tmp_path, "run-1")[0]))
        sock.settimeout(10)
    assert crowd[-1].recv(1) == b""
    for sock in crowd:
        sock.close()
    _until(lambda: not server._peers)
    assert ControlClient(tmp_path, "run-1").status()


def test_the_socket_is_private_and_goes_with_the_run(tmp_path: Path, run: Told) -> None:
    server = ControlServer(tmp_path)
    path = server.serve(run)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(os.fsencode(path)) < 104
    run.end()
    server.forget("run-1")
    assert not path.exists()
    with pytest.raises(NoControlError):
        ControlClient(tmp_path, "run-1").status()
    server.close()
    server.close()


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path, run: Told) -> None:
    (path, *_) = socket_paths(tmp_path, "run-1")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    first, second = ControlServer(tmp_path), ControlServer(tmp_path)
    first.serve(run)
    with pytest.raises(UsageError, match="another live process"):
        second.serve(Told())
    run.end()
    first.close()
    second.close()


def test_a_directory_that_others_may_enter_is_not_used(
    tmp_path: Path, run: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_place = tmp_path / "open"
    (open_place / "sage-actors").mkdir(parents=True)
    (open_place / "sage-actors").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(open_place))
    server = ControlServer(tmp_path)
    path = server.serve(run)
    assert path.parent != open_place / "sage-actors"
    assert ControlClient(tmp_path, "run-1").status()
    run.end()
    server.close()


def test_projects_and_runs_have_sockets_of_their_own(tmp_path: Path) -> None:
    names = {
        path.name
        for place in ("a", "b")
        for run in ("x", "y")
        for path in socket_paths(tmp_path / place, run)
    }
    assert len(names) == 4
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert socket_paths(tmp_path / "link", "x") == socket_paths(tmp_path / "a", "x")


def test_a_long_runtime_directory_falls_back_to_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    assert all(len(os.fsencode(path)) < 104 for path in socket_paths(tmp_path, "run-1"))
    assert socket_paths(tmp_path, "run-1")

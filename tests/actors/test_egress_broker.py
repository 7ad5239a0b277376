"""The egress proxy's way for workers that may make no sockets, shown from within such a worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from egress_harness import (
    PATIENCE_S,
    Origin,
    World,
    authorization,
    certificate,
    read_all,
    server_context,
    status,
    world,
)
from places import SUPPORT

from sage_actors.actors.egress.broker import open_stream
from sage_actors.actors.egress.connection import Timeouts
from sage_actors.actors.egress.doorman import broker_pair

pytestmark = [pytest.mark.requirement("ORCH-023")]

WORKER = SUPPORT / "egress_broker_worker.py"
NO_LISTENER = 9  # nothing can be reached there: all that comes through came through the broker
PYTHON_WAYS = {"with_httpx", "with_async_httpx", "with_async_httpx2", "with_urllib"}


@pytest.fixture
def broker(net: World) -> Iterator[socket.socket]:
    ours, theirs = broker_pair()
    net.proxy.serve_broker(ours)
    with theirs:
        yield theirs


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
def test_python_reaches_approved_hosts_and_nothing_reaches_others(
    net: World, broker: socket.socket, tmp_path: Path
) -> None:
    pem = certificate(tmp_path, "good.test")
    with Origin() as plain, Origin(server_context(pem)) as secure:
        net.network.names["good.test"] = ["127.0.0.1"]
        there = [f"http://127.0.0.1:{plain.port}/", f"https://good.test:{secure.port}/"]
        token = net.grant(
            {"host": "127.0.0.1", "port": plain.port, "private": True},
            {"host": "good.test", "port": secure.port, "private": True},
        )
        elsewhere = [f"http://127.0.0.1:{secure.port}/", "https://evil.test:444/"]
        answers = _run(broker, net, token, pem, [*there, *elsewhere])
    for way, url, answer in answers:
        if way in PYTHON_WAYS and url in there:
            assert answer == 200, (way, url, answer)
        elif way in PYTHON_WAYS and url.startswith("http:"):
            assert "403" in str(answer), (way, url, answer)
        elif way in PYTHON_WAYS:
            assert "403 egress denied: evil.test:444" in answer, (way, url, answer)
        elif way == "with_curl":
            assert isinstance(answer, str), (way, url, answer)  # whatever curl says of it
        else:
            assert "Operation not permitted" in answer, (way, url, answer)
    assert {each.host for each in net.decisions if each.decision == "allow"} == {"127.0.0.1", "good.test"}
    assert {method for method, *_ in plain.seen + secure.seen} == {"GET"}
    assert len(plain.seen) + len(secure.seen) == 2 * len(PYTHON_WAYS)


def _run(broker: socket.socket, net: World, token: str, pem: Path, urls: list[str]) -> list[list[Any]]:
    proxy = net.url(token).replace(f":{net.port}", f":{NO_LISTENER}")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(broker.fileno()), proxy, str(pem), *urls],
        pass_fds=[broker.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_stream_needs_a_token_as_every_client(net: World, broker: socket.socket) -> None:
    with Origin() as origin:
        token = net.grant({"host": "127.0.0.1", "port": origin.port, "private": True})
        head = f"GET http://127.0.0.1:{origin.port}/ HTTP/1.1\r\nHost: a\r\n".encode()
        for each, expected in ((token, 200), (None, 407), ("1-junk", 407)):
            with open_stream(broker) as stream:
                stream.sendall(head + authorization(each) + b"\r\n")
                assert status(read_all(stream)) == expected


def test_a_stream_that_was_left_behind_is_not_handed_on() -> None:
    ours, theirs = broker_pair()
    with world(timeouts=Timeouts(head=0.1)) as net, theirs:
        net.proxy.serve_broker(ours)
        first = open_stream(theirs)  # the proxy has begun to serve it, and cuts it as any silent client
        for _ in range(3):  # of workers that died before they took theirs
            theirs.send(b"?")
        with first:
            assert read_all(first) == b""
        _wait_until(lambda: not net.proxy._tasks)
        with open_stream(theirs) as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert status(read_all(stream)) == 407


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_outlives_empty_messages_and_ends_with_its_last_worker(net: World, broker: socket.socket) -> None:
    broker.send(b"")
    broker.send(b"x" * 10_000)
    open_stream(broker).close()
    other = broker.dup()
    broker.close()
    open_stream(other).close()
    other.close()
    ours, theirs = broker_pair()  # the proxy itself lives on
    net.proxy.serve_broker(ours)
    with theirs:
        open_stream(theirs).close()


def test_a_proxy_that_ended_is_an_error_and_no_wait(net: World, broker: socket.socket) -> None:
    net.proxy.close()
    with pytest.raises(OSError):
        open_stream(broker)


def test_a_proxy_that_does_not_answer_is_given_up() -> None:
    ours, theirs = broker_pair()
    with ours, theirs, pytest.raises(TimeoutError, match="no connection in time"):
        open_stream(theirs, patience_s=0.05)

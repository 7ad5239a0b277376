"""The control socket: status, events and decisions for other processes of the same user.

    $XDG_RUNTIME_DIR/sage-actors/<hash of project and run id>.sock     mode 0600 in a directory of 0700

    client                                   server, one thread on a selector
    {"action": "status"}            ----->
                                    <-----   {"ok": true, "status": {...}}
    {"action": "approve", "node"..} ----->   Run.approve in a helper thread: it returns after the fsync
                                    <-----   {"ok": true} | {"ok": false, "error": {"code", "message"}}
    {"action": "events"}            ----->
                                    <-----   {"ok": true, "status": {...}}, {"event": ...}, ..., EOF

JSON, one object a line. Whoever sends too much, nothing, or reads too slowly is dropped; the run never waits:
events for a follower are buffered up to a bound and then end with {"ok": false, "error": ...}.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sage_actors.messages.errors import UsageError
from sage_actors.messages.events import Event
from sage_actors.supervisor.control.requests import (
    ControlledRun,
    Request,
    carry_out,
    failure,
    read_request,
)
from sage_actors.supervisor.control.socket import listen, may_speak, socket_paths, unlink_own
from sage_actors.supervisor.json_text import to_line

__all__ = ["ControlServer"]

MAX_REQUEST_BYTES = 1 << 20
MAX_BACKLOG_BYTES = 4 << 20
MAX_CLIENTS = 64
IDLE_S = 30.0
_SEND_BYTES = 1 << 16
_log = logging.getLogger(__name__)


class _Peer:
    """One connection: what it has sent, what it still has to get."""

    def __init__(self, sock: socket.socket, run_id: str) -> None:
        self.sock, self.run_id = sock, run_id
        self.received = bytearray()
        self.lines: deque[bytes] = deque()
        self.backlog = 0
        self.sent_of_first = 0
        self.busy = False  # its request is being carried out
        self.follows = False
        self.closing = False  # when all is sent
        self.deadline = time.monotonic() + IDLE_S


class ControlServer:
    """Answers for the runs of one process. Every method may be called from any thread.

    stop: called with the grace in seconds when a client asks the process to stop; None refuses that.
    """

    def __init__(self, project: Path | str, *, stop: Callable[[float], object] | None = None) -> None:
        self._project = project
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._jobs: deque[Callable[[], None]] = deque()
        self._runs: dict[str, ControlledRun] = {}
        self._listeners: dict[str, tuple[socket.socket, Path, int]] = {}
        self._peers: set[_Peer] = set()
        self._pumps: dict[str, threading.Thread] = {}
        self._helpers = ThreadPoolExecutor(4, thread_name_prefix="control-act")
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="control", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ called by the owner

    def serve(self, run: ControlledRun) -> Path:
        """Listen for `run`; the socket's path. The caller holds the run's lock: an older socket is stale.

        Raises:
            UsageError: there is no private place for a socket, or a live process answers for this run.
        """
        listener, path = listen(socket_paths(self._project, run.run_id), run.run_id)
        with self._lock:
            if self._closed:
                listener.close()
                path.unlink(missing_ok=True)
                raise UsageError("the control server is closed")
            self._runs[run.run_id] = run
            self._listeners[run.run_id] = (listener, path, os.stat(path).st_ino)
        self._soon(lambda: self._watch(listener, run.run_id))
        return path

    def forget(self, run_id: str, *, wait_s: float = 2.0) -> None:
        """No longer answer for `run_id`. Followers get what is buffered, then the end. Unknown is fine."""
        with self._lock:
            self._runs.pop(run_id, None)
            entry = self._listeners.pop(run_id, None)
        if entry is None:
            return
        listener, path, inode = entry
        unlink_own(path, inode)
        pump = self._pumps.get(run_id)
        if pump is not None:  # the run has ended, so its events end: followers see the last of them
            pump.join(wait_s)
        done = threading.Event()

        def end() -> None:
            self._end(listener, run_id)
            done.set()

        self._soon(end)
        done.wait(wait_s)

    def close(self) -> None:
        """Forget every run and end the thread. Twice is harmless."""
        for run_id in list(self._listeners):
            self.forget(run_id)
        deadline = time.monotonic() + 1.0  # what followers have not read by then is lost to them
        while any(peer.lines or peer.busy for peer in list(self._peers)) and time.monotonic() < deadline:
            time.sleep(0.005)
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._soon(lambda: None)
        self._thread.join(5.0)
        self._helpers.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ the thread

    def _soon(self, job: Callable[[], None]) -> None:
        """Have the thread call `job`."""
        self._jobs.append(job)
        try:
            self._wake_write.send(b"\0")
        except (BlockingIOError, OSError):  # it is awake already, or gone
            pass

    def _loop(self) -> None:
        while not self._closed:
            for key, events in self._selector.select(1.0):
                try:
                    self._handle(key, events)
                except Exception:  # noqa: BLE001 - one client must not cost the others theirs
                    _log.exception("a control connection failed")
                    if isinstance(key.data, _Peer):
                        self._drop(key.data)
            while self._jobs:
                self._jobs.popleft()()
            self._drop_idle()
        for peer in list(self._peers):
            self._drop(peer)
        for end in (self._wake_read, self._wake_write):
            end.close()
        self._selector.close()

    def _handle(self, key: selectors.SelectorKey, events: int) -> None:
        if key.data is None:
            try:
                self._wake_read.recv(4096)
            except BlockingIOError:
                pass
        elif isinstance(key.data, str):
            self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
        else:
            if events & selectors.EVENT_READ:
                self._read(key.data)
            if events & selectors.EVENT_WRITE and key.data in self._peers:
                self._write(key.data)

    def _watch(self, listener: socket.socket, run_id: str) -> None:
        try:
            self._selector.register(listener, selectors.EVENT_READ, run_id)
        except (ValueError, KeyError):  # forgotten before it was watched
            listener.close()

    def _end(self, listener: socket.socket, run_id: str) -> None:
        try:
            self._selector.unregister(listener)
        except (KeyError, ValueError):
            pass
        listener.close()
        for peer in [each for each in self._peers if each.run_id == run_id]:
            if not peer.busy:
                self._finish(peer)

    def _accept(self, listener: socket.socket, run_id: str) -> None:
        sock, _ = listener.accept()
        if len(self._peers) >= MAX_CLIENTS or not may_speak(sock):
            sock.close()
            return
        sock.setblocking(False)
        peer = _Peer(sock, run_id)
        self._peers.add(peer)
        self._selector.register(sock, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        if peer.closing:
            return
        peer.received += data
        if len(peer.received) > MAX_REQUEST_BYTES:
            self._refuse(peer, f"a request has at most {MAX_REQUEST_BYTES:,} bytes")
        elif not peer.busy and not peer.follows and not peer.closing:
            self._next_request(peer)

    def _next_request(self, peer: _Peer) -> None:
        line, newline, rest = peer.received.partition(b"\n")
        if not newline:
            return
        peer.received = bytearray(rest)
        peer.deadline = time.monotonic() + IDLE_S
        run = self._runs.get(peer.run_id)
        if run is None:
            self._refuse(peer, f"run {peer.run_id} has ended here")
            return
        try:
            request = read_request(bytes(line))
        except ValueError as cause:
            self._refuse(peer, str(cause))
            return
        peer.busy = True
        if request.action == "events":
            peer.follows = True
            self._follow(run)
        self._helpers.submit(self._carry_out, peer, run, request)

    def _carry_out(self, peer: _Peer, run: ControlledRun, request: Request) -> None:
        """In a helper thread: an action may wait for an fsync."""
        line = to_line(carry_out(request, run, stop=self._stop)).encode() + b"\n"
        self._soon(lambda: self._answer(peer, line))

    def _answer(self, peer: _Peer, line: bytes) -> None:
        if peer not in self._peers:
            return
        peer.busy = False
        if peer.follows:  # the snapshot goes ahead of events that were buffered meanwhile
            peer.lines.appendleft(line)
            peer.backlog += len(line)
        else:
            self._queue(peer, line)
        if peer.run_id not in self._runs:
            peer.closing = True
        self._write(peer)
        if peer in self._peers and not peer.closing and not peer.follows:
            self._next_request(peer)

    # ------------------------------------------------------------------ followers

    def _follow(self, run: ControlledRun) -> None:
        """One pump thread a followed run: events cost nothing while nobody follows."""
        pump = self._pumps.get(run.run_id)
        if pump is None or not pump.is_alive():
            pump = threading.Thread(
                target=self._pump,
                args=(run.run_id, run.events(), time.time()),
                name="control-pump",
                daemon=True,
            )
            self._pumps[run.run_id] = pump
            pump.start()

    def _pump(self, run_id: str, events: Iterator[Event], since: float) -> None:
        """`since`: Unix time; what happened before is in the snapshot."""
        try:
            for event in events:
                if event.time < since:
                    continue
                line = to_line(event.to_dict()).encode() + b"\n"
                self._soon(partial(self._publish, run_id, line))
        finally:
            self._soon(partial(self._publish, run_id, b""))

    def _publish(self, run_id: str, line: bytes) -> None:
        for peer in [each for each in self._peers if each.run_id == run_id and each.follows]:
            if line:
                self._queue(peer, line)
            if not peer.busy:
                if not line:
                    peer.closing = True
                self._write(peer)

    def _queue(self, peer: _Peer, line: bytes) -> None:
        if peer.closing:
            return
        if peer.follows and peer.backlog + len(line) > MAX_BACKLOG_BYTES:
            while len(peer.lines) > 1:  # what is half sent stays, or the last line would be no JSON
                peer.backlog -= len(peer.lines.pop())
            line = (
                to_line(failure("TOO_SLOW", "events came faster than they were read; attach again")).encode()
                + b"\n"
            )
            peer.closing = True
        peer.lines.append(line)
        peer.backlog += len(line)

    # ------------------------------------------------------------------ bytes

    def _write(self, peer: _Peer) -> None:
        try:
            while peer.lines:
                _join_small(peer.lines)
                sent = peer.sock.send(memoryview(peer.lines[0])[peer.sent_of_first :])
                peer.sent_of_first += sent
                peer.deadline = time.monotonic() + IDLE_S
                if peer.sent_of_first == len(peer.lines[0]):
                    peer.backlog -= len(peer.lines.popleft())
                    peer.sent_of_first = 0
        except BlockingIOError:
            self._selector.modify(peer.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, peer)
            return
        except OSError:
            self._drop(peer)
            return
        if peer.closing:
            self._drop(peer)
        else:
            self._selector.modify(peer.sock, selectors.EVENT_READ, peer)

    def _refuse(self, peer: _Peer, reason: str) -> None:
        self._queue(peer, to_line(failure("USAGE_ERROR", reason)).encode() + b"\n")
        self._finish(peer)

    def _finish(self, peer: _Peer) -> None:
        peer.closing = True
        self._write(peer)

    def _drop(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        try:
            self._selector.unregister(peer.sock)
        except (KeyError, ValueError):
            pass
        peer.sock.close()

    def _drop_idle(self) -> None:
        now = time.monotonic()
        for peer in list(self._peers):
            waits_for_us = peer.busy or (peer.follows and not peer.lines)
            if now > peer.deadline and not waits_for_us:
                self._drop(peer)


def _join_small(lines: deque[bytes]) -> None:
    """Make one of the first few: a socket's buffer counts each small send like a large one."""
    taken: list[bytes] = []
    size = 0
    while lines and (not taken or size + len(lines[0]) <= _SEND_BYTES):
        taken.append(lines.popleft())
        size += len(taken[-1])
    lines.appendleft(b"".join(taken) if len(taken) > 1 else taken[0])

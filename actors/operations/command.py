"""Runs a command: a process group of its own, both streams read as they come, ended when it is cut short.

What is kept of a stream is its end, at most CAPTURE_CAP_BYTES characters: a command that prints without end costs
no memory without end.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from sage_actors.messages.errors import OperationCancelled, TimeoutExceeded

__all__ = ["CAPTURE_CAP_BYTES", "CommandOutput", "run_command"]

CAPTURE_CAP_BYTES = 10 * 1024 * 1024
_LONGEST_LINE = 4096  # characters of a line that is dropped where only its end is left
_CHUNK = 65536
_LINGER_S = 0.25  # for output of what the command left in the background
_POLL_S = 0.05
_TERMINATE_S = 2.0

OnText = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command left: an exit code below zero is a signal. `cut`: the start of stdout was dropped."""

    exit_code: int
    stdout: str
    stderr: str
    cut: bool = False


def run_command(
    arguments: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    stdin: str = "",
    on_text: OnText = lambda text, stream: None,
    stop: Callable[[], bool] = lambda: False,
    timeout_s: float | None = None,
    ends_group: bool = False,
) -> CommandOutput:
    """Runs `arguments` to its end; an exception (a signal handler's too) ends the whole process group first.

    Args:
        stdin: text to feed; without one its standard input is at its end from the start.
        on_text: called with each piece of output and the name of its stream, in the calling thread.
        stop: looked at many times a second; once true, the command is ended.
        ends_group: end what it left running in the background, too, when it ends by itself.

    Raises:
        OSError: it cannot be started.
        OperationCancelled: `stop` said so.
        TimeoutExceeded: it ran for longer than `timeout_s` seconds.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    held = _HeldTermination()
    try:
        started = _start(arguments, cwd, env, feed=bool(stdin))
    except BaseException:
        held.release()
        raise
    with started as process:
        try:
            held.release()
            output = _converse(process, stdin, on_text, lambda: _check(stop, until, timeout_s))
        except BaseException:
            _end_group(process)
            raise
        if ends_group:
            _end_group(process)
    return output


class _HeldTermination:
    """A SIGTERM that comes while the command starts is answered by `release`: before, nobody could end the command."""

    def __init__(self) -> None:
        self._came = False
        self._handler: Any = None
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._note) or signal.SIG_DFL

    def _note(self, *_: object) -> None:
        self._came = True

    def release(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        if self._came:
            signal.raise_signal(signal.SIGTERM)


def _start(
    arguments: Sequence[str], cwd: str, env: Mapping[str, str], *, feed: bool
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        arguments,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


def _check(stop: Callable[[], bool], until: float | None, timeout_s: float | None) -> None:
    if stop():
        raise OperationCancelled("the command was cancelled")
    if until is not None and time.monotonic() > until:
        raise TimeoutExceeded(f"the command ran for more than {timeout_s:g} s")


def _converse(
    process: subprocess.Popen[bytes], stdin: str, on_text: OnText, check: Callable[[], None]
) -> CommandOutput:
    """Feeds stdin, reads both streams, until the command has ended and its streams are at their end."""
    captures = {name: _Capture(name, on_text) for name in ("stdout", "stderr")}
    linger_until: float | None = None
    with selectors.DefaultSelector() as selector, _wake_at_exit(process, selector):
        _register(selector, process.stdout, captures["stdout"])
        _register(selector, process.stderr, captures["stderr"])
        feed = _Feed(process.stdin, stdin.encode("utf-8", "surrogateescape"), selector)
        while selector.get_map():
            check()
            if linger_until is None and process.poll() is not None:
                linger_until = time.monotonic() + _LINGER_S
                feed.close()
            if all(capture.ended for capture in captures.values()) and linger_until is not None:
                break
            if linger_until is not None and time.monotonic() >= linger_until:
                break
            for key, _ in selector.select(_POLL_S):
                key.data(key.fileobj, selector)
    exit_code = process.wait()
    stdout, stderr = captures["stdout"], captures["stderr"]
    return CommandOutput(exit_code, stdout.text(), stderr.text(), stdout.is_cut)


@contextlib.contextmanager
def _wake_at_exit(process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> Iterator[None]:
    """Wakes the selector when the process ends, where the system has pidfds; else the poll interval does."""
    try:
        fd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        yield
        return
    selector.register(fd, selectors.EVENT_READ, lambda fd, where: where.unregister(fd))
    try:
        yield
    finally:
        os.close(fd)


def _register(selector: selectors.BaseSelector, stream: IO[bytes] | None, capture: _Capture) -> None:
    assert stream is not None
    os.set_blocking(stream.fileno(), False)
    selector.register(stream, selectors.EVENT_READ, capture.read)


class _Feed:
    """Writes stdin as the command takes it; a command that closes it early is no error."""

    def __init__(self, stream: IO[bytes] | None, data: bytes, selector: selectors.BaseSelector) -> None:
        self._stream = stream
        self._data = memoryview(data)
        self._selector = selector
        if stream is not None:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_WRITE, self._write)

    def _write(self, *_: object) -> None:
        assert self._stream is not None
        try:
            self._data = self._data[os.write(self._stream.fileno(), self._data[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._data = self._data[:0]
        if not self._data:
            self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._selector.unregister(self._stream)
            self._stream.close()
            self._stream = None


class _Capture:
    """The end of one output stream, and its lines for the log."""

    def __init__(self, name: str, on_text: OnText) -> None:
        self.ended = False
        self.is_cut = False
        self._name = name
        self._on_text = on_text
        self._chunks: list[str] = []
        self._size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, stream: IO[bytes], selector: selectors.BaseSelector) -> None:
        try:
            data = os.read(stream.fileno(), _CHUNK)
        except BlockingIOError:
            return
        if not data:
            self.ended = True
            selector.unregister(stream)
        text = self._decoder.decode(data, not data)
        if text:
            self._on_text(text, self._name)
            self._keep(text)

    def _keep(self, text: str) -> None:
        self._chunks.append(text)
        self._size += len(text)
        if self._size > 2 * CAPTURE_CAP_BYTES:
            self._shrink()

    def _shrink(self) -> None:
        whole = "".join(self._chunks)
        if len(whole) > CAPTURE_CAP_BYTES:
            whole = whole[-CAPTURE_CAP_BYTES:]
            line = whole.find("\n", 0, _LONGEST_LINE) + 1
            whole = whole[line:]  # half a secret would not be known for one
            self.is_cut = True
        self._chunks, self._size = [whole], len(whole)

    def text(self) -> str:
        self._shrink()
        marker = f"[cut: the last {CAPTURE_CAP_BYTES} characters]\n" if self.is_cut else ""
        return marker + self._chunks[0]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the command's group, and after a while SIGKILL."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_TERMINATE_S)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

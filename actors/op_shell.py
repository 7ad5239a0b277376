"""Operations of type `shell`: a command, as a list or as a string for /bin/sh.

config: command, cwd (relative to the project), env (added to the worker's), stdin (text), check (default
true: a non-zero exit code is a failure). The result is {exit_code, stdout, stderr}; an exit code below zero
is a signal.
The command has a process group of its own; it ends with the operation when that is cut short. What a command
left running in the background when it ended by itself lives on until its worker ends.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from sage_actors.actors.context import Task
from sage_actors.actors.operation_types import RunnerSettings
from sage_actors.messages.codec import unpack
from sage_actors.messages.errors import OperationError, UsageError

__all__ = ["CAPTURE_CAP_BYTES", "CommandFailed", "ShellRunner"]

CAPTURE_CAP_BYTES = 10 * 1024 * 1024
_CHUNK = 65536
_LINGER_S = 0.25  # for output of what the command left in the background
_TERMINATE_S = 2.0
_STDERR_LINES = 20


class CommandFailed(OperationError):
    """The command ended with a non-zero exit code. `details`: exit_code and the end of stderr."""

    def __init__(self, exit_code: int, stderr: str) -> None:
        lines = stderr.strip().splitlines()[-_STDERR_LINES:]
        how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        super().__init__(f"the command ended with {how}" + (f": {lines[-1]}" if lines else ""))
        self.details = {"exit_code": exit_code, "stderr": "\n".join(lines)}


class ShellRunner:
    """Runs the command, logs its lines as they come, captures the end of each stream."""

    is_async = False

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._project = settings.project

    def run(self, task: Task) -> dict[str, Any]:
        config = unpack(task.packed).get("config", {})
        with _start(config, self._project) as process:
            try:
                exit_code, stdout, stderr = _converse(process, config.get("stdin") or "", task)
            except BaseException:
                _end_group(process)
                raise
        if exit_code != 0 and config.get("check", True):
            raise CommandFailed(exit_code, stderr)
        return {"exit_code": exit_code, "stdout": stdout, "stderr": stderr}


def _start(config: Mapping[str, Any], project: str) -> subprocess.Popen[bytes]:
    command = config.get("command")
    if isinstance(command, str):
        arguments = ["/bin/sh", "-c", command]
    elif isinstance(command, list) and command:
        arguments = [each if isinstance(each, str) else json.dumps(each) for each in command]
    else:
        raise UsageError("`command` must be a list of words, or a string for the shell")
    environ = os.environ | {str(name): str(value) for name, value in (config.get("env") or {}).items()}
    return subprocess.Popen(
        arguments,
        cwd=os.path.join(project, config.get("cwd") or ""),
        env=environ,
        stdin=subprocess.PIPE if config.get("stdin") else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


def _converse(process: subprocess.Popen[bytes], stdin: str, task: Task) -> tuple[int, str, str]:
    """Feeds stdin, reads both streams, until the command has ended and its streams are at their end."""
    captures = {name: _Capture(name, task) for name in ("stdout", "stderr")}
    linger_until: float | None = None
    with selectors.DefaultSelector() as selector, _wake_at_exit(process, selector):
        _register(selector, process.stdout, captures["stdout"])
        _register(selector, process.stderr, captures["stderr"])
        feed = _Feed(process.stdin, stdin.encode("utf-8", "surrogateescape"), selector)
        while selector.get_map():
            if linger_until is None and process.poll() is not None:
                linger_until = time.monotonic() + _LINGER_S
                feed.close()
            if all(capture.ended for capture in captures.values()) and linger_until is not None:
                break
            if linger_until is not None and time.monotonic() >= linger_until:
                break
            for key, _ in selector.select(0.05):
                key.data(key.fileobj, selector)
    exit_code = process.wait()
    return exit_code, captures["stdout"].text(), captures["stderr"].text()


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

    def __init__(self, name: str, task: Task) -> None:
        self.ended = False
        self._name = name
        self._task = task
        self._chunks: list[str] = []
        self._size = 0
        self._cut = False
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
            self._task.services.log(self._task.key, text, self._name)
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
            self._cut = True
        self._chunks, self._size = [whole], len(whole)

    def text(self) -> str:
        self._shrink()
        marker = f"[cut: the last {CAPTURE_CAP_BYTES} characters]\n" if self._cut else ""
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

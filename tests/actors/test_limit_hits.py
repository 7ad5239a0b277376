"""Limits that the kernel enforces are told from other failures, on what real processes leave behind."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sage_actors.actors.operations.attempt_error import describe_error
from sage_actors.actors.operations.shell import CommandFailed
from sage_actors.actors.workers.limit_hits import hit_of_error, hit_of_exit
from sage_actors.messages.limits import LIMIT_NAMES, describe_limit
from sage_actors.messages.wire import error_map

pytestmark = pytest.mark.requirement("ORCH-023")

ALL = {"files": 40, "file_size": 4096, "processes": 5, "memory": 300 << 20, "tmp": 1 << 20}


def ends(which: int, limit: int, command: list[str], cwd: Path) -> CommandFailed:
    """How a real command ends under a real limit."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: resource.setrlimit(which, (limit, limit)),
    )
    assert done.returncode != 0
    return CommandFailed(done.returncode, done.stderr)


def kind(error: BaseException, limits: dict[str, Any] = ALL, **known: bool) -> str | None:
    hit = hit_of_error(describe_error(error), limits, **known)
    return None if hit is None else hit["kind"]


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


@pytest.mark.parametrize(
    ("name", "which", "command"),
    [
        ("files", resource.RLIMIT_NOFILE, python("held = [open('/dev/null') for _ in range(50)]")),
        ("file_size", resource.RLIMIT_FSIZE, python("open('big', 'wb').write(bytes(9000))")),
        ("file_size", resource.RLIMIT_FSIZE, ["sh", "-c", "head -c 9000 /dev/zero > big; exit $?"]),
        ("file_size", resource.RLIMIT_FSIZE, ["head", "-c", "9000", "/dev/zero"]),
        ("memory", resource.RLIMIT_DATA, python("bytearray(400 << 20)")),
    ],
)
def test_a_command_that_ran_into_a_limit_is_recognised(
    tmp_path: Path, name: str, which: int, command: list[str]
) -> None:
    if command[0] == "head":
        command = ["sh", "-c", "exec head -c 9000 /dev/zero > big"]
    error = ends(which, ALL[name], command, tmp_path)
    assert kind(error) == name
    assert kind(error, {**ALL, name: None}) is None, "without that limit the failure is the command's own"


def test_an_exception_that_ran_into_a_limit_is_recognised() -> None:
    assert kind(MemoryError()) == "memory"
    for number, name in ((errno.EMFILE, "files"), (errno.EFBIG, "file_size"), (errno.ENOMEM, "memory")):
        assert kind(OSError(number, os.strerror(number))) == name
        assert kind(OSError(number, os.strerror(number), "/some/file")) == name
    assert kind(RuntimeError("can't start new thread")) == "processes"


def test_only_a_fork_that_is_refused_is_the_limit_of_processes() -> None:
    text = f"[Errno 11] {os.strerror(errno.EAGAIN)}"
    forked = error_map("BlockingIOError", text, traceback='  File "x.py", line 3, in f\n    os.fork()\n')
    read = error_map("BlockingIOError", text, traceback='  File "x.py", line 3, in f\n    os.read(fd, 1)\n')
    assert hit_of_error(forked, ALL) == {"kind": "processes", "limit": 5, "seen": None}
    assert hit_of_error(read, ALL) is None


@pytest.mark.parametrize(
    "line", ["bash: fork: retry: Resource temporarily unavailable", "sh: 1: Cannot fork"]
)
def test_a_shell_that_cannot_fork_is_recognised(line: str) -> None:
    assert kind(CommandFailed(254, f"{line}\n")) == "processes"


def test_a_full_directory_is_a_limit_only_where_it_is_the_private_one() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert kind(error) is None
    assert kind(error, tmp_is_full=True) == "tmp"
    command = CommandFailed(1, "tee: big: No space left on device")
    assert kind(command) is None
    assert kind(command, tmp_is_full=True) == "tmp"


def test_failures_that_only_look_like_one_stay_what_they_are() -> None:
    assert kind(ValueError("[Errno 24] Too many open files")) is None
    assert kind(ValueError("a remark on [Errno 24]")) is None
    assert kind(OSError(errno.ENOENT, os.strerror(errno.ENOENT))) is None
    assert kind(CommandFailed(1, "warning: Too many open files were closed\nbad input")) is None
    assert kind(CommandFailed(153, "bad input"), {"files": 40}) is None


def test_an_exit_by_the_signal_of_file_size_is_that_limit() -> None:
    assert hit_of_exit(-25, ALL) == {"kind": "file_size", "limit": 4096, "seen": None}
    assert hit_of_exit(-9, ALL) is None
    assert hit_of_exit(None, ALL) is None
    assert hit_of_exit(-25, {}) is None


def test_every_hit_has_a_sentence() -> None:
    for name in LIMIT_NAMES:
        said = describe_limit({"kind": name, "limit": 4096, "seen": 8192})
        assert said.startswith(f"{name} limit ")
        assert said.endswith("seen")

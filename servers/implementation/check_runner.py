"""Runs a project's checks: no shell, a time limit each, and nothing left running behind.

Checks are the project's own code: whoever calls this has the user's consent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_actors.servers.implementation.checks import Check

__all__ = ["DEFAULT_LIMIT_S", "CheckResult", "not_run", "run_check", "run_checks"]

DEFAULT_LIMIT_S = 120.0
_TAIL_BYTES = 4000
_DRAIN_S = 1.0
_PASSED_ON = frozenset(
    (
        *(
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "TERM",
            "TMPDIR",
            "TZ",
            "SHELL",
            "CI",
        ),
        *(
            "VIRTUAL_ENV",
            "PYTHONPATH",
            "GOPATH",
            "GOCACHE",
            "GOFLAGS",
            "GOMODCACHE",
            "CARGO_HOME",
            "RUSTUP_HOME",
        ),
        *("CARGO_TARGET_DIR", "NODE_PATH", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"),
    )
)


class CheckResult(BaseModel):
    """How a check ended. `missing`: its program is not installed. `tail`: the end of what it printed."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: str
    command: str
    source: str = Field(description="file:line that declares it")
    status: Literal["passed", "failed", "timeout", "not_run", "missing"]
    exit_code: int | None = None
    seconds: float = 0.0
    tail: str = ""


async def run_checks(
    project: Path, checks: Iterable[Check], *, limit_s: float = DEFAULT_LIMIT_S
) -> list[CheckResult]:
    """One after another: they may write the same files. `limit_s`: of each."""
    return [await run_check(project, check, limit_s=limit_s) for check in checks]


def not_run(check: Check) -> CheckResult:
    """The result of a check that nobody consented to."""
    return CheckResult(
        name=check.name, kind=check.kind, command=check.text, source=check.source, status="not_run"
    )


async def run_check(project: Path, check: Check, *, limit_s: float = DEFAULT_LIMIT_S) -> CheckResult:
    """Runs one check, in a process group of its own, which is killed at the limit and when cancelled.

    It sees the variables that tools need and no other, so no key of the user's environment.
    """
    result = not_run(check)
    folder = project / check.folder
    program = _program(project, folder, check.command[0])
    if program is None:
        return result.model_copy(update={"status": "missing", "tail": f"{check.command[0]} is not installed"})
    began = time.monotonic()
    reader, writer = os.pipe()  # asyncio's own pipes would keep `wait` waiting for whoever inherited them
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *check.command[1:],
            cwd=folder,
            env={key: value for key, value in os.environ.items() if key in _PASSED_ON},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writer,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        os.close(reader)
        return result.model_copy(update={"status": "missing", "tail": f"{program}: {error.strerror}"})
    finally:
        os.close(writer)
    tail = _Tail()
    reading = asyncio.create_task(tail.read(reader))
    try:
        timed_out = not await _wait(process, limit_s)
    finally:
        _kill_group(process.pid)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(reading, _DRAIN_S)
    await process.wait()
    text = tail.text()
    return result.model_copy(
        update={
            "status": "timeout" if timed_out else _status(process.returncode, text, check),
            "exit_code": None if timed_out else process.returncode,
            "seconds": round(time.monotonic() - began, 3),
            "tail": text,
        }
    )


async def _wait(process: asyncio.subprocess.Process, limit_s: float) -> bool:
    try:
        await asyncio.wait_for(process.wait(), limit_s)
    except TimeoutError:
        return False
    return True


def _kill_group(group: int) -> None:
    """Whatever is left of the check, its own children too."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _program(project: Path, folder: Path, name: str) -> str | None:
    """A script of the folder, else one of its or the project's virtual environment, else what the path has."""
    if name.startswith("./"):
        path = folder / name
        return str(path) if os.access(path, os.X_OK) and path.is_file() else None
    places = (".venv/bin", "venv/bin", "node_modules/.bin")
    for candidate in (root / place / name for root in dict.fromkeys((folder, project)) for place in places):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    return shutil.which(name) or (shutil.which("python3") if name == "python" else None)


def _status(exit_code: int | None, text: str, check: Check) -> Literal["passed", "failed", "missing"]:
    if exit_code == 0:
        return "passed"
    module = check.command[2] if check.command[1:2] == ["-m"] else ""
    return "missing" if module and f"No module named {module}" in text else "failed"


class _Tail:
    """Keeps the end of what a process prints, however much that is."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._cut = False

    async def read(self, fd: int) -> None:
        """Reads to the end, and closes."""
        stream = asyncio.StreamReader()
        pipe = os.fdopen(fd, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
        try:
            while chunk := await stream.read(1 << 16):
                self._data += chunk
                if len(self._data) > 2 * _TAIL_BYTES:
                    del self._data[:-_TAIL_BYTES]
                    self._cut = True
        finally:
            transport.close()

    def text(self) -> str:
        text = bytes(self._data[-_TAIL_BYTES:]).decode("utf-8", "replace").replace("\0", "")
        return text.partition("\n")[2] if self._cut else text

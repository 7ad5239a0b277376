"""What every test gets: a private home for keys and sockets, and a check that no process is left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

_GONE_WITHIN_S = 3.0
_MEASURED = (
    "test_cli",
    "test_worker",
    "test_keeper",
    "test_pool",
    "test_control",
    "test_op_",
    "test_watch",
    "test_init",
)


@pytest.fixture(autouse=True)
def little_is_measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage makes a process twice as slow. It is measured in those of these tests, which reach every line that
    runs in no process but a child."""
    if not request.module.__name__.startswith(_MEASURED):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Neither the user's key file nor their sockets are touched."""
    home = tmp_path_factory.mktemp("home")
    for name in ("config", "runtime"):
        (home / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "runtime"))
    monkeypatch.delenv("SAGE_STATE_KEY", raising=False)
    return home


@pytest.fixture(autouse=True)
def no_child_is_left_behind() -> Iterator[None]:
    """A test that leaves a process running fails."""
    before = _children(set())
    yield
    deadline = time.monotonic() + _GONE_WITHIN_S
    while (left := _children(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"processes left behind: {[_describe(each) for each in left]}"


def _children(known: set[psutil.Process]) -> set[psutil.Process]:
    """Our living descendants, without `known` ones (of fixtures that several tests share) and theirs."""
    found = set()
    open_ = [each for each in psutil.Process(os.getpid()).children() if each not in known]
    while open_:
        each = open_.pop()
        if _is_running(each) and not _is_resource_tracker(each):
            found.add(each)
        try:
            open_ += [child for child in each.children() if child not in known]
        except psutil.NoSuchProcess:
            continue
    return found


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_resource_tracker(process: psutil.Process) -> bool:
    """multiprocessing keeps one for the whole life of this process."""
    return "resource_tracker" in _describe(process)


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{process.pid}, gone"

"""What every test gets: a private home for keys and sockets, and a check that no process is left behind."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

if TYPE_CHECKING:
    from egress_harness import Origin, World

# Hundreds of processes are started here: where containers set this, each would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.pop("PYTHONUNBUFFERED", None)  # what is not flushed shall not be seen
sys.dont_write_bytecode = False
# What a shell runs in the background ignores Ctrl-C, and so would every command that is started and interrupted here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_GONE_WITHIN_S = 3.0
_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
_MEASURED = re.compile("test_(cli|worker|keeper|pool|control|watch|init|op_.*)")

_UNMEASURED = re.compile(
    "test_(simulation|chaos|state_damage|sage_.*|bench.*|sandbox_.*|confinement|hostile_.*)"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Coverage makes what runs here three times as slow. Random examples, whole campaigns and what says itself
    `no_cover` because it only does much of something reach no line that the other tests do not."""
    for item in items:
        is_random = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_random or _UNMEASURED.fullmatch(item.path.stem):
            item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Before pytest-cov combines what the processes measured: a torn file of one that was killed could stop it."""
    result = yield
    plugin: Any = session.config.pluginmanager.getplugin("_cov")
    if "PYTEST_XDIST_WORKER" not in os.environ and plugin is not None and plugin.cov_controller is not None:
        measured = Path(plugin.cov_controller.cov.get_data().base_filename())
        for path in measured.parent.glob(f"{measured.name}.*"):
            if not _is_whole(path):
                path.unlink()
    return result


def _is_whole(path: Path) -> bool:
    """Whether it is a file of coverage.py with everything that combining reads."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            (verdict,) = database.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error:
        return False
    return verdict == "ok" and tables >= {"coverage_schema", "meta", "file", "context", "line_bits", "arc"}


@pytest.fixture(autouse=True)
def little_is_measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage makes a process twice as slow. It is measured in those of these tests, which reach every line that
    runs in no process but a child."""
    if not _MEASURED.fullmatch(request.module.__name__):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(autouse=True)
def private_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Neither the user's key file nor their sockets are touched."""
    home = Path(tempfile.mkdtemp(prefix="sage-home-"))  # pytest's own looks at those of all tests before
    for name in ("config", "runtime"):
        (home / name).mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "runtime"))
    monkeypatch.delenv("SAGE_STATE_KEY", raising=False)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder beside others of the test."""
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def confined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Operations are confined, whatever the environment of the tests says."""
    monkeypatch.setenv("SAGE_SANDBOX", "enforce")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server on the loopback interface that answers `hello`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def net() -> Iterator[World]:
    """The egress proxy, with a network of its own."""
    from egress_harness import world  # here, for most tests do without it

    with world() as found:
        yield found


@pytest.fixture
def origin() -> Iterator[Origin]:
    """A web server to reach through that."""
    from egress_harness import Origin

    with Origin() as found:
        yield found


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config) -> Path:
    """Where the commands of the MCP servers from npm are."""
    from mcp_harness import npm_programs

    return npm_programs(pytestconfig)


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
    open_ = [os.getpid()]
    while open_:
        for each in _children_of(open_.pop()):
            if each not in known:
                open_.append(each.pid)
                if _is_running(each) and not _is_resource_tracker(each):
                    found.add(each)
    return found


def _children_of(pid: int) -> list[psutil.Process]:
    """Those that it has now. psutil would read every process of the machine for that: 5 ms, twice a test."""
    found: list[psutil.Process] = []
    try:
        if not _LISTS_CHILDREN.exists():
            return psutil.Process(pid).children()
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += _forked_by(f"/proc/{pid}/task/{thread}/children")
    except (psutil.NoSuchProcess, FileNotFoundError):
        pass  # it ends while we look
    return found


def _forked_by(listing: str) -> Iterator[psutil.Process]:
    try:
        pids = Path(listing).read_text().split()
    except OSError:  # the thread ends while we look: another has its children
        return
    for pid in pids:
        try:
            yield psutil.Process(int(pid))
        except psutil.NoSuchProcess:
            continue


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

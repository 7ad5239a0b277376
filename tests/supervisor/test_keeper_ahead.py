"""A keeper that is started before it is known what for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import operations_engine as ops
import pytest
from engine_harness import make_supervisor
from places import SOURCES
from pool_harness import pid_exists, read_pid, wait_until

from sage_actors.actors.pool import ahead
from sage_actors.actors.pool.io_loop import IoLoop
from sage_actors.actors.pool.keeper_client import KeeperClient
from sage_actors.actors.pool.keepers import Keepers
from sage_actors.actors.pool.pool import LocalPool
from sage_actors.messages.errors import ActorDeadError
from sage_actors.supervisor.api import Supervisor
from sage_actors.supervisor.definitions.workflow import Workflow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    ahead.discard()
    yield
    ahead.discard()


def waiting_pid() -> int:
    (keeper,) = ahead._waiting
    return keeper.identity[0]


def first_environment(pid: int) -> bytes:
    """Once the process is the program that it is to be."""
    wait_until(lambda: b"keeper" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return Path(f"/proc/{pid}/environ").read_bytes()


def keeper_pid(supervisor: Supervisor) -> int:
    pool = supervisor._actors.pool
    assert isinstance(pool, LocalPool)
    assert pool.keeper_identity is not None
    return pool.keeper_identity[0]


def test_the_first_run_takes_it_with_all_that_it_has_loaded(tmp_path: Path) -> None:
    flow = Workflow("asks")
    flow.add(ops.has_imported, id="mcp", module="mcp")
    flow.add(ops.has_imported, id="other", module="mcp.nothing")
    ahead.start()
    ahead.start()  # at most one
    ahead.load_mcp()
    pid = waiting_pid()
    wait_until(lambda: "_sqlite3" in Path(f"/proc/{pid}/maps").read_text())  # of what it loads behind `mcp`
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, timeout=60)
        assert keeper_pid(supervisor) == pid
        assert not ahead._waiting
    assert dict(outcome.results) == {"mcp": True, "other": False}
    wait_until(lambda: not pid_exists(pid))


def test_its_first_environment_holds_nothing_that_workers_must_not_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAGE_STATE_KEY", "sak1-secret-key")
    monkeypatch.setenv("SHOP_TOKEN", "a-token-of-the-shop")
    ahead.start()
    environment = first_environment(waiting_pid())
    assert b"PATH=" in environment
    assert b"sak1-secret-key" not in environment
    assert b"a-token-of-the-shop" not in environment


def test_one_that_died_is_replaced(tmp_path: Path) -> None:
    flow = Workflow("plain")
    flow.add(ops.echo, id="a", value=1)
    ahead.start()
    pid = waiting_pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pid_exists(pid))
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(flow, timeout=60).results["a"] == 1


def test_one_that_dies_while_it_is_taken_is_an_error_that_says_so_or_is_survived(tmp_path: Path) -> None:
    """Killed at any instant: the run is carried out, or `start` raises; nothing waits for ever."""
    flow = Workflow("plain")
    flow.add(ops.echo, id="a", value=1)
    for delay_s in (0.0, 0.02, 0.1):
        ahead.start()
        pid = waiting_pid()
        killer = threading.Timer(delay_s, lambda pid=pid: os.kill(pid, signal.SIGKILL))
        killer.start()
        with (
            make_supervisor(tmp_path, durability="none") as supervisor,
            contextlib.suppress(ActorDeadError),  # where it was killed too late to be replaced
        ):
            assert supervisor.run(flow, timeout=60).results["a"] == 1
        killer.join()


class Eager:
    """A loop in another thread that is always the first: what is asked of it has happened when the asker goes on."""

    def post(self, callback: Callable[[], object]) -> None:
        callback()

    def watch(self, sock: socket.socket, mask: int, callback: Callable[[int], object]) -> None:
        callback(mask)

    def unwatch(self, sock: socket.socket) -> None:
        pass


def test_one_that_has_died_when_it_is_watched_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker was asked of it, and failed, until the run was given up."""
    ahead.start()
    keeper = ahead._waiting.pop()
    os.kill(keeper.identity[0], signal.SIGKILL)
    wait_until(lambda: keeper.has_ended)
    monkeypatch.setattr(ahead, "take", lambda sys_path, confined: keeper)
    gone: list[KeeperClient] = []
    keepers = Keepers(
        cast("IoLoop", Eager()),
        project=tmp_path,
        main_path=None,
        sys_path=[],
        user_paths=[],
        environ=None,
        confinement=None,
        on_started=lambda keeper: None,
        on_answer=lambda kind, payload: None,
        on_gone=gone.append,
    )
    keepers.start()
    assert gone == [keeper]
    assert keepers.identity is None


def test_a_pool_that_confines_nothing_ends_it(tmp_path: Path) -> None:
    flow = Workflow("plain")
    flow.add(ops.echo, id="a", value=1)
    ahead.start()
    pid = waiting_pid()
    with make_supervisor(tmp_path, sandbox="off") as supervisor:
        supervisor.run(flow, timeout=60)
        assert keeper_pid(supervisor) != pid
        assert not pid_exists(pid)


def test_it_dies_with_its_process_while_it_loads(tmp_path: Path) -> None:
    text = (
        "import os, sys, time\n"
        f"sys.path.insert(0, {str(SOURCES)!r})\n"
        "from sage_actors.actors.pool import ahead\n"
        "ahead.start(); ahead.load_mcp()\n"
        f"open({str(tmp_path / 'new')!r}, 'w').write(str(ahead._waiting[0].identity[0]))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\n"
        "time.sleep(600)\n"
    )
    for pause_s in (0.0, 0.3, 0.8):
        (tmp_path / "pid").unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", text]) as owner:
            pid = read_pid(tmp_path / "pid")
            time.sleep(pause_s)
            owner.kill()
            owner.wait()
            wait_until(lambda pid=pid: not pid_exists(pid), 1.0)  # type: ignore[misc]


def test_a_command_that_fails_leaves_none_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"name": "bad", "nodes": [{"id": "a", "type": "mcp"}]}')
    done = subprocess.run(
        [sys.executable, "-m", "sage_actors", "run", "bad.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "SAGE_MARK": str(tmp_path)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert not marked(str(tmp_path))


def marked(mark: str) -> list[int]:
    """The processes that were started with that mark in their environment."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and f"SAGE_MARK={mark}".encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
        except OSError:
            continue
    return found


def test_what_is_broken_in_what_it_loads_harms_no_run_that_needs_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a file mentions MCP is a guess."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mcp.py").write_text("raise RuntimeError('a broken installation')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    flow = Workflow("plain")
    flow.add(ops.echo, id="a", value=1)
    ahead.start()
    ahead.load_mcp()
    pid = waiting_pid()
    with make_supervisor(tmp_path) as supervisor:
        assert supervisor.run(flow, timeout=60).results["a"] == 1
        assert keeper_pid(supervisor) == pid

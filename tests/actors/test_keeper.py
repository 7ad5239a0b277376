"""Nothing is left behind: whoever is killed, and however its children hide."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from places import SOURCES, SUPPORT
from pool_harness import PoolHarness, pid_exists, read_pid, wait_until

from sage_actors.actors.pool.keeper_client import KeeperClient
from sage_actors.actors.pool.protocol import KeeperStarted, WorkerReady
from sage_actors.actors.pool.watch import is_alive
from sage_actors.messages.errors import ActorDeadError

FAMILY = ("child", "session", "daemon", "worker")

OWNER = """
import os, sys, time
sys.path[:0] = [{here!r}, {source!r}]
from pathlib import Path
from pool_harness import PoolHarness
pool = PoolHarness(Path({project!r}))
pool.pool.start()
worker = pool.worker()
pool.submit(worker, "stubborn_family", directory={project!r})
Path({project!r}, "keeper.tmp").write_text(str(pool.pool.keeper_identity[0]))
Path({project!r}, "keeper.tmp").rename(Path({project!r}, "keeper"))
{then}
time.sleep(600)
"""


def is_gone(pid: int) -> bool:
    return not pid_exists(pid)


def start_owner(project: Path, *, then: str = "") -> subprocess.Popen[bytes]:
    text = textwrap.dedent(OWNER).format(
        here=str(SUPPORT), source=str(SOURCES), project=str(project), then=then
    )
    return subprocess.Popen([sys.executable, "-c", text])


@pytest.mark.requirement("ORCH-017")
def test_a_killed_owner_leaves_nothing_within_a_second(tmp_path: Path) -> None:
    with start_owner(tmp_path) as owner:
        pids = {name: read_pid(tmp_path / name) for name in (*FAMILY, "keeper")}
        assert all(pid_exists(pid) for pid in pids.values())
        owner.kill()
        owner.wait()
        killed_at = time.monotonic()
        wait_until(lambda: not any(map(pid_exists, pids.values())), 1.0, what=f"{pids} are gone")
        assert time.monotonic() - killed_at < 1.0


def test_a_forked_child_of_the_owner_does_not_keep_the_workers_alive(tmp_path: Path) -> None:
    fork = (
        "if os.fork() == 0:\n"
        f"    Path({str(tmp_path)!r}, 'holder').write_text(str(os.getpid()))\n    time.sleep(600)\n"
    )
    with start_owner(tmp_path, then=fork) as owner:
        pids = [read_pid(tmp_path / name) for name in (*FAMILY, "keeper")]
        wait_until(lambda: (tmp_path / "holder").exists() and (tmp_path / "holder").read_text())
        holder = int((tmp_path / "holder").read_text())
        try:
            owner.kill()
            owner.wait()
            wait_until(lambda: not any(map(pid_exists, pids)), 1.0, what=f"{pids} are gone")
            assert pid_exists(holder)
        finally:
            os.kill(holder, signal.SIGKILL)


def test_a_closed_pool_leaves_nothing(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.submit(worker, "stubborn_family", directory=str(tmp_path))
        pids = [read_pid(tmp_path / name) for name in FAMILY]
        identity = pool.pool.keeper_identity
        assert identity is not None
        assert is_alive(*identity)
        pool.pool.close(0.2)
    assert not any(map(pid_exists, pids))
    assert not is_alive(*identity)


def test_a_timeout_kills_a_group_that_ignores_sigterm(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.submit(worker, "stubborn_family", directory=str(tmp_path))
        pids = [read_pid(tmp_path / name) for name in FAMILY]
        pool.pool.kill(worker, "timeout", grace_s=0.1)
        lost = pool.lost(worker)
        assert (lost.evidence.reason, lost.evidence.exitcode) == ("timeout", -signal.SIGKILL)
        assert not any(map(pid_exists, pids)), "gone before the end is reported"


def test_what_a_crashed_worker_leaves_is_killed_before_its_end_is_reported(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        bystander, worker = pool.worker(), pool.worker()
        (tmp_path / "other").mkdir()
        pool.submit(bystander, "leave_daemon", directory=str(tmp_path / "other"), end="return")
        kept = read_pid(tmp_path / "other" / "left")
        pool.submit(worker, "leave_daemon", directory=str(tmp_path), end="die")
        assert pool.lost(worker).evidence.exitcode == 3
        assert not pid_exists(read_pid(tmp_path / "left"))
        assert pid_exists(kept), "another worker's child is no stray"
        assert pool.value(pool.submit(bystander, "echo", value=1)) == 1


def test_a_killed_keeper_costs_the_workers_and_is_replaced(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        workers = [pool.worker(), pool.worker("async")]
        pids = [pool.pid(each) for each in workers]
        first = pool.wait_for(KeeperStarted)
        os.kill(first.pid, signal.SIGKILL)
        for worker, pid in zip(workers, pids, strict=True):
            evidence = pool.lost(worker).evidence
            assert (evidence.exitcode, evidence.reason) == (None, "keeper")
            assert "keeper" in evidence.last_lines[-1]
            wait_until(partial(is_gone, pid), 1.0)
        worker = pool.worker()
        assert pool.value(pool.submit(worker, "echo", value=5)) == 5
        second = pool.wait_for(KeeperStarted)
        assert pool.pool.keeper_identity == (second.pid, second.started_at)
        assert second.pid != first.pid
        assert pool.pool.statistics().keepers_started == 2


def test_a_keeper_that_is_killed_as_it_starts_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = KeeperClient.settle
    killed: list[int] = []

    def settle_and_kill(keeper: KeeperClient, **settings: Any) -> None:
        settle(keeper, **settings)
        if not killed:
            killed.append(keeper.identity[0])
            os.kill(keeper.identity[0], signal.SIGKILL)

    monkeypatch.setattr(KeeperClient, "settle", settle_and_kill)
    with PoolHarness(tmp_path) as pool:
        assert pool.pool.keeper_identity is not None
        assert pool.pool.keeper_identity[0] not in killed
        assert pool.value(pool.submit(pool.worker(), "echo", value=5)) == 5


def test_sigterm_to_the_keeper_ends_it_cleanly(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.submit(worker, "stubborn_family", directory=str(tmp_path))
        pids = [read_pid(tmp_path / name) for name in FAMILY]
        identity = pool.pool.keeper_identity
        assert identity is not None
        os.kill(identity[0], signal.SIGTERM)
        pool.lost(worker)
        wait_until(lambda: not any(map(pid_exists, pids)), 1.0)


def test_many_workers_start_and_die_at_once(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        workers = [pool.pool.start_worker("blocking") for _ in range(20)]
        ready = {pool.wait_for(WorkerReady).worker for _ in workers}
        assert ready == set(workers)
        for worker in workers:
            os.kill(pool.pid(worker), signal.SIGKILL)
        for worker in workers:
            assert pool.lost(worker).evidence.exitcode == -signal.SIGKILL
        statistics = pool.pool.statistics()
        assert (statistics.workers, statistics.started, statistics.lost) == (0, 20, 20)


def test_a_keeper_that_cannot_start_is_said_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = PoolHarness(tmp_path, sys_path=[str(tmp_path)])
    begun = time.monotonic()
    with pytest.raises(ActorDeadError, match="keeper"):
        pool.pool.start()
    assert time.monotonic() - begun < 20
    assert "sage_actors" in capfd.readouterr().err

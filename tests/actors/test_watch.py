"""Limits of process trees, on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pool_harness import PoolHarness, wait_until

from sage_actors.actors.pool.watch import (
    LimitWatch,
    children_of,
    descendants_of,
    is_alive,
    process_started_at,
    tree_memory,
)

MB = 1024 * 1024


def run_limited(pool: PoolHarness, name: str, limits: dict[str, Any], **arguments: Any) -> tuple[int, Any]:
    worker = pool.worker()
    pool.define(name, {"type": "python", "call": f"operations:{name}", "limits": limits})
    return worker, pool.submit(worker, name, **arguments)


@pytest.mark.parametrize("children", [0, 3])
def test_memory_of_the_tree_is_limited(tmp_path: Path, children: int) -> None:
    with PoolHarness(tmp_path) as pool:
        limit = 150 * MB
        worker, key = run_limited(pool, "grow", {"memory": limit}, megabytes=300, children=children)
        lost = pool.lost(worker)
        assert (lost.evidence.reason, lost.culprits) == ("limit", (key,))
        assert lost.evidence.limit is not None
        assert (lost.evidence.limit["kind"], lost.evidence.limit["limit"]) == ("memory", limit)
        assert limit < lost.evidence.limit["seen"] < 400 * MB
        assert lost.evidence.peak_rss_bytes >= lost.evidence.limit["seen"]


@pytest.mark.parametrize("name", ["burn", "burn_in_short_children"])
def test_cpu_time_of_the_tree_is_limited(tmp_path: Path, name: str) -> None:
    with PoolHarness(tmp_path) as pool:
        worker, key = run_limited(pool, name, {"cpu_seconds": 0.5}, seconds=60)
        lost = pool.lost(worker)
        assert (lost.evidence.reason, lost.culprits) == ("limit", (key,))
        assert lost.evidence.limit is not None
        assert lost.evidence.limit["kind"] == "cpu_seconds"
        assert 0.5 < lost.evidence.limit["seen"] < 5


def test_the_number_of_processes_is_limited(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker, _ = run_limited(pool, "breed", {"processes": 3}, count=6)
        lost = pool.lost(worker)
        assert lost.evidence.limit is not None
        assert lost.evidence.limit["kind"] == "processes"
        assert "processes limit 3 exceeded" in lost.evidence.describe()


def test_what_stays_below_its_limits_is_not_disturbed(tmp_path: Path) -> None:
    limits = {"memory": 400 * MB, "cpu_seconds": 20.0, "processes": 5}
    with PoolHarness(tmp_path) as pool:
        worker, key = run_limited(pool, "grow", limits, megabytes=20, children=2, seconds=0.3)
        pool.value(key)
        # CPU of earlier operations does not count: the second would be over the limit together with the first
        pool.define("burn", {"type": "python", "call": "operations:burn", "limits": {"cpu_seconds": 1.0}})
        for _ in range(2):
            pool.value(pool.submit(worker, "burn", seconds=0.6))


def test_an_operation_without_limits_is_not_watched_after_one_with(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker, key = run_limited(pool, "echo", {"memory": 150 * MB}, value=1)
        assert pool.value(key) == 1
        pool.value(pool.submit(worker, "grow", megabytes=300, seconds=0.4))


def test_peak_memory_is_evidence_without_any_limit(tmp_path: Path) -> None:
    with PoolHarness(tmp_path) as pool:
        worker = pool.worker()
        pool.submit(worker, "grow", megabytes=200)
        time.sleep(1.5)  # it is the sampling of a running operation that is shown
        pool.pool.kill(worker, "timeout", grace_s=0.0)
        lost = pool.lost(worker)
        assert 190 * MB < lost.evidence.peak_rss_bytes < 400 * MB


def test_a_tree_is_walked_and_a_process_is_known_by_its_start() -> None:
    script = "sleep 60 & sleep 60 & wait"
    with subprocess.Popen(["sh", "-c", script]) as process:
        try:
            wait_until(lambda: len(children_of(process.pid)) == 2)
            assert process.pid in children_of(os.getpid())
            assert set(children_of(process.pid)) < set(descendants_of(os.getpid()))
            assert len(descendants_of(process.pid)) == 2
            started = process_started_at(process.pid)
            assert started is not None
            assert is_alive(process.pid, started)
            assert not is_alive(process.pid, started + 1)
        finally:
            for pid in (*children_of(process.pid), process.pid):
                os.kill(pid, 9)
        wait_until(lambda: process_started_at(process.pid) is None, what="a zombie is no process")
    assert not is_alive(process.pid, started)
    assert children_of(process.pid) == []
    assert tree_memory(process.pid) == 0


def test_pages_that_forks_share_count_once() -> None:
    code = (
        "import os, sys, time\nblock = bytearray(b'x') * (100 << 20)\n"
        "for _ in range(4):\n    if os.fork() == 0: time.sleep(60)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert tree_memory(process.pid) > 400 * MB
            assert LimitWatch(process.pid, {"memory": 200 * MB}).exceeded() is None
            excess = LimitWatch(process.pid, {"memory": 90 * MB}).exceeded()
            assert excess is not None
            assert excess["seen"] < 200 * MB
        finally:
            for pid in (*descendants_of(process.pid), process.pid):
                os.kill(pid, 9)

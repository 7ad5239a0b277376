"""What the keeper imports while nobody asks: the next worker has it, and the user's own modules come first."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from places import SUPPORT
from pool_harness import DEADLINE_S, PoolHarness

LOOK = """
import sys

def has(module):
    return module in sys.modules

def import_(module):
    return getattr(__import__(module), "MINE", False)
"""
QUIET_S = 0.25  # longer than the keeper waits before it imports the first


def looking(project: Path, **options: Any) -> PoolHarness:
    (project / "look.py").write_text(LOOK)
    pool = PoolHarness(project, **options)
    for name in ("has", "import_"):
        pool.define(name, {"type": "python", "call": f"look:{name}"})
    return pool


def ask(pool: PoolHarness, worker: int, name: str, module: str) -> Any:
    return pool.value(pool.submit(worker, name, module=module))


def wait_until_preloaded(pool: PoolHarness) -> None:
    """Until a new worker has asyncio from the start. To ask too often would keep the keeper from it."""
    until = time.monotonic() + DEADLINE_S
    while not ask(pool, pool.worker(), "has", "asyncio"):
        assert time.monotonic() < until
        time.sleep(QUIET_S)


def test_a_worker_that_starts_later_has_asyncio_already(tmp_path: Path) -> None:
    with looking(tmp_path) as pool:
        wait_until_preloaded(pool)
        worker = pool.worker()
        assert ask(pool, worker, "has", "ssl") is True
        assert ask(pool, worker, "import_", "logging") is False


def test_a_module_of_the_project_is_found_before_one_that_was_preloaded(tmp_path: Path) -> None:
    with looking(tmp_path) as pool:
        wait_until_preloaded(pool)
        (tmp_path / "logging.py").write_text("MINE = True\n")
        worker = pool.worker()
        assert ask(pool, worker, "import_", "logging") is True
        assert ask(pool, worker, "has", "asyncio") is False, "it would have the other logging"


def test_what_lies_on_the_path_of_a_script_is_not_run_by_the_keeper(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    for name in ("ssl", "logging"):
        (beside / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    with looking(tmp_path, sys_path=[str(beside), str(SUPPORT), *sys.path]) as pool:
        wait_until_preloaded(pool)
    assert not (tmp_path / "ssl").exists()
    assert not (tmp_path / "logging").exists()

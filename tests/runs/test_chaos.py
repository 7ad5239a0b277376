"""kill -9 at any instant: every run resumes, nothing finished runs again, nothing is left behind.

SAGE_CHAOS_KILLS (200; 2000 for the long campaign) and SAGE_CHAOS_SEED (drawn, and printed) choose another;
SAGE_CHAOS_RECORD=1 notes what came of it in bench/RESULTS.md.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
from bench.__main__ import RESULTS
from bench.machine import facts
from bench.report import add_campaign
from chaos.campaign import WORKER_POINTS, Campaign, fault_points

KILLS = int(os.environ.get("SAGE_CHAOS_KILLS", "200"))
SEED = int(os.environ.get("SAGE_CHAOS_SEED", random.randrange(1_000_000)))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds orphans in /proc")


def test_the_campaign_knows_the_fault_points_of_the_package() -> None:
    points = fault_points()
    assert {"journal.before_fsync", "run.committed", "run.dispatched", *WORKER_POINTS} <= set(points)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.requirement("ORCH-017")
@pytest.mark.timeout(60 + 6 * KILLS)
def test_every_run_survives_every_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Campaign(tmp_path, kills=KILLS, seed=SEED).run()
    with capsys.disabled():
        print(f"\n{report.summary()}")
    if os.environ.get("SAGE_CHAOS_RECORD"):
        told = facts()
        line = f"{told['date']}, {told['commit']}, load {told['load average before']}: {report.summary()}"
        RESULTS.write_text(add_campaign(RESULTS.read_text(), line))
    assert not report.failures, "\n\n".join([report.summary(), *report.failures])
    assert report.resumed == report.resumes
    assert report.finished == report.lives
    assert report.kills.total() >= KILLS
    if KILLS >= 200:
        assert set(report.struck) >= set(fault_points())
        assert set(report.kills) == {
            "supervisor",
            "aimed",
            "fault",
            "together",
            "worker",
            "sabotage",
            "keeper",
        }

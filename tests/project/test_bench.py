"""The benchmarks: every budget has its figure, figures say what they are, and the small ones run."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench import futures_loop, retention
from bench.__main__ import main
from bench.budgets import BUDGETS, GROUPS
from bench.ground import ground, layers, parents, succeeded
from bench.machine import disk_directory, facts, sync_times
from bench.measure import Figure, Meter, Size, figure, run_group
from bench.report import add_campaign, campaigns_of, missing, render, summary
from places import ROOT

from sage_actors import Outcome, Workflow
from sage_actors.actors.state.disk import DISK

# The table of the design, in its order: the figures that answer each line.
TABLE = {
    "engine CPU per node": ["engine-cpu"],
    "the same, wall": ["engine-wall"],
    "layers of 50, relaxed": ["layers-50-wall"],
    "one chain, strict": ["chain-strict"],
    "against concurrent.futures": ["futures-wall", "futures-cpu"],
    "memory of 1,000,000 nodes": ["memory-per-node"],
    "growth": ["growth"],
    "makespan": ["makespan", "makespan-async"],
    "1,000 async nodes": ["async-1000"],
    "round trip": ["round-trip"],
    "worker killed": ["restart"],
    "resume": ["resume"],
    "encryption": ["encryption"],
    "--help": ["help-cpu"],
    "journal bytes": ["journal-bytes"],
    "100 workflows": ["many"],
    "a warm MCP call": ["mcp-call"],
    "five built-in servers": ["mcp-memory"],
    "the default sandbox": ["sandbox-engine"],
    "an operation in its own process": ["sandbox-own"],
    "the probe": ["sandbox-probe"],
    "the scan for secrets": ["secret-scan"],
    "a record of the audit log": ["audit-append"],
    "answer retention": ["retention-hit", "retention-kept"],
    "180 KB into 8 KB": ["research-candidates", "research-passed"],
    "tokens of a whole run": ["run-tokens"],
    "research phase": ["research-makespan", "research-speedup"],
    "feature workflow": ["feature-speedup"],
    "first output": ["feature-first", "feature-spec"],
}


def a_figure(name: str = "engine-cpu", value: float = 12.0) -> Figure:
    return figure(name, [value], BUDGETS[name].unit, budgets=() if BUDGETS[name].limit else (1.0,))


def _spin_until(done: threading.Event) -> None:
    while not done.is_set():
        sum(range(1000))


def run_bench(*arguments: str, deadline_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=deadline_s,
    )


@pytest.mark.requirement("ORCH-022")
def test_every_line_of_the_table_has_a_budget_and_nothing_else_has() -> None:
    assert list(BUDGETS) == [name for names in TABLE.values() for name in names]


@pytest.mark.parametrize("name", BUDGETS)
def test_the_benchmark_that_a_budget_names_exists_and_names_its_figure(name: str) -> None:
    group, _, benchmark = BUDGETS[name].measured_by.partition(".")
    assert group in GROUPS
    module = importlib.import_module(f"bench.{group}")
    assert benchmark in module.BENCHMARKS
    assert f'"{name}"' in Path(str(module.__file__)).read_text()


def test_a_figure_is_the_median_with_its_spread() -> None:
    found = figure("engine-cpu", [9.0, 20.0, 12.0], "us")
    assert (found.value, found.spread, found.budget, found.met) == (12.0, (9.0, 20.0), 15, True)
    assert found.line().split() == [
        "engine-cpu",
        "12",
        "us",
        "(9",
        "..",
        "20)",
        "budget",
        "<=",
        "15",
        "us",
        "met",
    ]


def test_a_missed_budget_says_so_and_by_how_much() -> None:
    assert figure("engine-cpu", [30.0], "us").line().endswith("MISSED by 2.00x")


def test_a_budget_that_is_missed_by_little_is_seen_to_be_missed() -> None:
    missed = figure("engine-cpu", [15.0004], "us")
    assert missed.value_text() == "15.0004 us"
    assert missed.verdict == "MISSED by 0.00%"
    assert figure("engine-cpu", [15.04], "us").line().endswith("MISSED by 0.27%")
    assert figure("futures-wall", [14.96], "x").value_text() == "14.96 x"
    assert figure("engine-cpu", [14.9996], "us").value_text() == "15 us"


def test_a_budget_that_is_a_floor_is_missed_from_below() -> None:
    assert figure("futures-wall", [7.5], "x").verdict == "MISSED by 2.00x"
    assert figure("futures-wall", [15.0], "x").met


def test_a_budget_that_the_run_works_out_is_the_median_of_the_repeats() -> None:
    found = figure("engine-wall", [5.0, 6.0, 7.0], "us", budgets=[4.0, 6.0, 9.0])
    assert (found.budget, found.verdict) == (6.0, "met")


def test_a_figure_without_a_budget_is_not_judged() -> None:
    found = figure("build", [1.5], "us")
    assert (found.met, found.verdict, found.bound_text()) == (None, "", "")
    assert "budget" not in found.line()


def test_figures_survive_the_way_between_processes() -> None:
    for each in (a_figure(), figure("build", [1.0, 2.0], "us", note="why")):
        assert Figure.from_dict(each.to_dict()) == each


def test_the_page_has_a_row_for_every_budget_also_for_what_was_not_measured() -> None:
    figures = [a_figure(name) for name in BUDGETS if name != "resume"]
    page = render(figures, {"CPU": "a fast one"}, quick=False, failed=["resume"])
    for name, budget in BUDGETS.items():
        assert f"{budget.what} (`{name}`)" in page
    assert re.search(r"\(`resume`\) \| not measured", page)
    assert "Could not be measured: `resume`" in page
    assert "a fast one" in page
    assert missing(figures) == ["resume"]


def test_the_page_of_a_quick_run_says_that_it_is_one() -> None:
    assert "Quick size" in render([], {}, quick=True, failed=[])
    assert "Quick size" not in render([], {}, quick=False, failed=[])


def test_the_summary_names_what_was_missed() -> None:
    text = summary([a_figure(value=10), a_figure("journal-bytes", 240), figure("build", [1.0], "us")])
    assert text == "1 of 2 budgets met; MISSED: journal-bytes (by 2.00x)"


def test_a_benchmark_that_fails_takes_no_other_along(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(size: Size) -> list[Figure]:
        raise RuntimeError("no disk")

    code = run_group(
        "a group",
        {"broken": broken, "whole": lambda size: [a_figure()]},
        ["--json", str(tmp_path / "out")],
    )
    printed = capsys.readouterr()
    assert code == 1
    assert "no disk" in printed.err
    assert "engine-cpu" in printed.out
    assert '"engine-cpu"' in (tmp_path / "out").read_text()


def test_a_run_that_failed_is_no_figure() -> None:
    outcome = Outcome(run_id="r", status="failed", reason="", results={}, errors={}, seconds=1.0)
    with pytest.raises(RuntimeError, match="failed"):
        succeeded(outcome)


@pytest.mark.parametrize("arguments", [["--only", "nonsense"], ["--only", "engine", "nonsense.chain"]])
def test_unknown_names_are_refused(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_a_node_has_two_parents_in_the_layer_before_and_no_other() -> None:
    flow = layers(30, 10)
    spec = flow.to_spec()
    assert all(not each.needs for each in spec.nodes[:10])
    for number, node in enumerate(spec.nodes[10:], 10):
        above = {int(need[1:]) for need in node.needs}
        assert above == set(parents(number, 10))
        assert len(above) == 2
        assert {each // 10 for each in above} == {number // 10 - 1}


def test_layers_behind_a_gate_wait_for_it() -> None:
    flow = Workflow("gated")
    layers(4, 2, first=flow.add("wait", id="gate", seconds=1))
    assert [each.needs for each in flow.to_spec().nodes[1:3]] == [("gate",), ("gate",)]


def test_the_meter_counts_fsyncs_and_threads_and_leaves_no_trace(tmp_path: Path) -> None:
    before = type(DISK).sync_data
    done = threading.Event()
    thread = threading.Thread(target=_spin_until, args=[done], name="spinner")
    with Meter() as meter, open(tmp_path / "file", "wb") as file:
        thread.start()
        for _ in range(3):
            file.write(b"x")
            file.flush()
            DISK.sync_data(file.fileno())
        DISK.sync(file.fileno())
        sum(range(2_000_000))
    done.set()
    thread.join()
    assert meter.syncs == 4
    assert 0 < meter.sync_s < meter.wall_s
    assert meter.cpu_s > 0
    if sys.platform == "linux":
        assert meter.threads["spinner"] > 0
    assert type(DISK).sync_data is before


def test_the_ground_is_on_a_disk_and_keeps_to_itself() -> None:
    with ground() as here:
        assert here.project.is_relative_to(disk_directory())
        assert here.environ["SAGE_STATE_KEY"].startswith("sak1-")
        assert not here.environ["XDG_CONFIG_HOME"].startswith(os.environ["XDG_CONFIG_HOME"])
        assert all(each > 0 for each in sync_times(here.project, 100, times=3))
        home = here.project.parent
    assert not home.exists()


def test_a_directory_in_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no file system in memory to try")
    monkeypatch.setenv("BENCH_DIR", "/dev/shm")
    with pytest.raises(RuntimeError, match="BENCH_DIR"):
        disk_directory()


def test_the_page_says_on_what_machine() -> None:
    assert {
        "CPU",
        "cores",
        "memory",
        "kernel",
        "Python",
        "load average before",
        "commit",
        "date",
    } <= facts().keys()


def test_the_hand_written_loop_runs_every_node_after_its_parents() -> None:
    needs = {f"n{i}": [f"n{each}" for each in parents(i, 3)] for i in range(12)}
    with ThreadPoolExecutor(2) as executor:
        order = list(futures_loop.run_graph(executor, needs))
    assert sorted(order) == sorted(needs)
    assert all(order.index(need) < order.index(node) for node, each in needs.items() for need in each)


@pytest.mark.requirement("ORCH-022")
def test_the_quick_benchmark_of_the_command_line_prints_its_figure_and_its_budget() -> None:
    done = run_bench("bench", "--quick", "--only", "cli", "--repeat", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"help-cpu +[\d.]+ ms .*budget <= 150 ms +(met|MISSED)", done.stdout)
    assert "written to" not in done.stdout


def test_a_group_runs_alone() -> None:
    done = run_bench("bench.latency", "--quick", "--repeat", "1", "restart")
    assert done.returncode == 0, done.stderr
    assert re.search(r"restart +[\d.]+ ms .*budget <= 50 ms", done.stdout)


@pytest.mark.requirement("ORCH-012")
def test_ranking_keeps_the_answers_and_the_order_of_arrival_does_not() -> None:
    some = retention.bundles(25)
    ours, first = (retention.measured(some, method) for method in (retention.ranked, retention.arrival))
    assert ours.hit >= 0.85
    assert ours.kept >= 0.75
    assert first.hit < 0.4
    assert all(175_000 < sum(len(each.text) for each in bundle.passages) <= 181_000 for bundle in some)


def test_copies_cost_the_answers_little_because_they_are_left_out() -> None:
    some = [retention.copied(bundle) for bundle in retention.bundles(15)]
    ours, left = (
        retention.measured(some, method) for method in (retention.ranked, retention.with_duplicates)
    )
    assert ours.kept > left.kept


def test_a_page_keeps_its_campaigns_and_takes_one_more() -> None:
    page = render([], {"cores": "2"}, quick=False, failed=[])
    assert campaigns_of(page) == ""
    once = add_campaign(page, "200 kills, 0 failures")
    twice = add_campaign(once, "2,000 kills, 0 failures")
    assert twice.startswith(page.rstrip("\n"))
    assert re.findall("^- (.*kills.*)$", twice, re.MULTILINE) == [
        "200 kills, 0 failures",
        "2,000 kills, 0 failures",
    ]
    assert twice.count("## Long campaigns") == 1
    assert add_campaign(page + "\n" + campaigns_of(once), "more") == add_campaign(once, "more")

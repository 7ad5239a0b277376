"""The library inside other programs: asyncio, listeners, closing, and scripts that define their operations."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import operations_engine as ops
import pytest
from engine_harness import KEYS, Script, history, is_alive, lines, make_supervisor, wait_until
from places import SUPPORT

from sage_actors.messages.errors import ActorDeadError, SageError, UsageError
from sage_actors.messages.events import Event
from sage_actors.supervisor.api import Supervisor
from sage_actors.supervisor.control.client import ControlClient
from sage_actors.supervisor.control.socket import NoControlError
from sage_actors.supervisor.definitions.workflow import Workflow
from sage_actors.supervisor.handle import Run

pytestmark = pytest.mark.requirement("ORCH-011")


def quick() -> Workflow:
    flow = Workflow("quick")
    one = flow.add(ops.echo, id="one", value=1)
    flow.add(ops.echo, id="two", value=[one])
    return flow


def gated(tmp_path: Path) -> Workflow:
    flow = Workflow("gated")
    flow.add(ops.mark_and_wait_for, id="slow", path=str(tmp_path / "calls"), gate=str(tmp_path / "gate"))
    return flow


# ---------------------------------------------------------------------- asyncio


def test_runs_can_be_awaited_many_at_once_and_more_than_once(tmp_path: Path) -> None:
    async def main(supervisor: Supervisor) -> list[str]:
        runs = [supervisor.start(quick(), run_id=f"run-{i}") for i in range(5)]
        outcomes = await asyncio.gather(*runs, *runs)
        assert (await runs[0])["two"] == [1]  # after its end as well
        return [each.status for each in outcomes]

    with make_supervisor(tmp_path) as supervisor:
        assert asyncio.run(asyncio.wait_for(main(supervisor), 60)) == ["succeeded"] * 10


def test_awaiting_does_not_block_the_loop(tmp_path: Path) -> None:
    async def main(supervisor: Supervisor) -> int:
        run, ticks = supervisor.start(gated(tmp_path), run_id="r"), 0
        ended = asyncio.ensure_future(_awaited(run))
        while not ended.done():
            await asyncio.sleep(0.005)
            ticks += 1
            if ticks == 20:
                (tmp_path / "gate").touch()
        assert ended.result() == "succeeded"
        return ticks

    with make_supervisor(tmp_path) as supervisor:
        assert asyncio.run(asyncio.wait_for(main(supervisor), 60)) >= 20


async def _awaited(run: Run) -> str:
    return (await run).status


def test_a_cancelled_await_leaves_the_run_running(tmp_path: Path) -> None:
    async def main(run: Run) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_awaited(run), 0.05)

    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(gated(tmp_path), run_id="r")
        asyncio.run(main(run))
        (tmp_path / "gate").touch()
        assert run.result(30).status == "succeeded"


# ---------------------------------------------------------------------- events


def test_every_listener_sees_every_event_from_the_start_whenever_it_comes(tmp_path: Path) -> None:
    called: list[str] = []
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(quick(), run_id="r", on_event=lambda event: called.append(event.event))
        seen: list[list[str]] = [[], [], []]

        def listen(own: list[str]) -> None:
            own.extend(event.event for event in run.events())

        threads = [threading.Thread(target=listen, args=(each,)) for each in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        run.result(30)
        late = [event.event for event in run.events()]
        wait_until(lambda: called and called[-1] == "run_finished")
    assert seen == [late] * 3
    assert called == late
    assert late[0] == "run_started"
    assert late[-1] == "run_finished"
    assert late.count("node_succeeded") == 2


def test_events_say_what_the_design_says_they_do(tmp_path: Path) -> None:
    flow = quick()
    flow.add(ops.boom, id="bad", retry={"max_attempts": 2, "backoff": 0})
    flow.add(ops.say, id="said", text="hello")
    with make_supervisor(tmp_path) as supervisor:
        events = [event.to_dict() for event in supervisor.start(flow, run_id="r").events()]
    by_name: dict[str, list[dict[str, object]]] = {}
    for event in events:
        assert event["run_id"] == "r"
        assert str(event["time"]).endswith("+00:00")
        by_name.setdefault(str(event["event"]), []).append(event)
    assert by_name["run_started"][0].items() >= {"nodes": 4, "resumed": False, "completed": 0}.items()
    assert {str(each["node"]) for each in by_name["node_started"]} == {"one", "two", "bad", "said"}
    assert by_name["node_succeeded"][0].keys() >= {"node", "attempt", "seconds", "cached", "tokens"}
    assert [each["will_retry"] for each in by_name["node_failed"]] == [True, False]
    assert by_name["node_log"][0].items() >= {"node": "said", "stream": "stdout", "text": "hello\n"}.items()
    end = by_name["run_finished"][0]
    assert end["status"] == "failed"
    assert end["results"] == {"two": [1], "bad": None, "said": "hello"}


def test_an_error_in_a_listener_harms_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def listen(event: Event) -> None:
        seen.append(event.event)
        raise RuntimeError("listener")

    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(quick(), run_id="r", on_event=listen, timeout=30)
        wait_until(lambda: "run_finished" in seen)
    assert "a listener failed on run_started of run r" in caplog.text
    assert outcome.status == "succeeded"


# ---------------------------------------------------------------------- closing


def test_closing_ends_what_runs_and_answers_everyone_who_waits(tmp_path: Path) -> None:
    supervisor = make_supervisor(tmp_path)
    run = supervisor.start(gated(tmp_path), run_id="r")
    answers: list[str] = []

    def wait() -> None:
        try:
            answers.append(run.result(60).reason)
        except SageError as error:
            answers.append(type(error).__name__)

    def listen() -> None:
        answers.append([event.event for event in run.events()][-1])

    threads = [threading.Thread(target=each) for each in (wait, wait, listen)]
    for thread in threads:
        thread.start()
    wait_until(lambda: lines(tmp_path / "calls"))
    supervisor.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(answers) == ["interrupted", "interrupted", "run_finished"]
    assert history(tmp_path, "r").status == "paused"
    (tmp_path / "gate").touch()
    with make_supervisor(tmp_path) as again:
        assert again.resume("r").result(30).status == "succeeded"


def test_a_closed_supervisor_refuses_work_and_closes_twice(tmp_path: Path) -> None:
    supervisor = make_supervisor(tmp_path)
    run = supervisor.start(quick(), run_id="r")
    run.result(30)
    supervisor.close()
    supervisor.close()
    for ask in (
        lambda: supervisor.start(quick()),
        lambda: supervisor.resume("r"),
        lambda: run.approve("two"),
    ):
        with pytest.raises(ActorDeadError):
            ask()
    assert run.result(0)["two"] == [1]  # results stay readable
    assert run.status().counts == {"succeeded": 2}


def test_a_run_that_has_ended_says_how_it_stands_still(tmp_path: Path) -> None:
    flow = gated(tmp_path)
    flow.add(ops.fail_while, id="bad", gate=str(tmp_path / "never"))
    with make_supervisor(tmp_path) as supervisor:
        run = supervisor.start(flow, run_id="r")
        (tmp_path / "gate").touch()
        statuses = [run.status()]
        while not run.done:  # at whatever moment it is asked
            statuses.append(run.status())
        ended = run.status()
        assert (ended.status, ended.reason) == ("failed", run.result(0).reason)
        assert (ended.counts, ended.total, ended.running) == ({"succeeded": 1, "failed": 1}, 2, ())
        assert {each.run_id for each in statuses} == {"r"}
        (tmp_path / "never").touch()
        supervisor.run(flow, run_id="r", timeout=30)
        again = supervisor.start(flow, run_id="r").status()
        assert (again.status, again.workflow, again.counts) == ("succeeded", flow.name, {"succeeded": 2})


def test_other_processes_answer_a_run_of_the_library_that_lets_them(tmp_path: Path) -> None:
    """Of one id after the other, too: the socket of the first must not be in the way of the second's."""
    flow = Workflow("asks")
    ok = flow.add("approval", id="ok", message="Publish?")
    flow.add(ops.echo, id="publish", value=ok)
    with make_supervisor(tmp_path, control=True) as supervisor:
        for number in range(3):
            run = supervisor.start(flow, run_id="r", fresh=number > 0)
            next(event for event in run.events() if event.event == "node_waiting")
            client = ControlClient(tmp_path, "r")
            assert client.status()["waiting"] == {"ok": "approval"}
            with pytest.raises(UsageError):
                client.request("stop")  # the program is not theirs
            client.request("approve", node="ok", data=number, by="ada")
            assert run.result(30)["publish"] == {"approved": True, "data": number, "by": "ada"}
    with pytest.raises(NoControlError):
        ControlClient(tmp_path, "r").status()


def test_without_control_nobody_answers(tmp_path: Path) -> None:
    with make_supervisor(tmp_path) as supervisor:
        supervisor.start(gated(tmp_path), run_id="r")
        wait_until(lambda: lines(tmp_path / "calls"))
        with pytest.raises(NoControlError):
            ControlClient(tmp_path, "r").status()


def test_a_service_finds_what_it_was_doing_when_it_was_killed(tmp_path: Path) -> None:
    calls, gate = tmp_path / "calls", tmp_path / "gate"
    body = f"""
        with Supervisor({str(tmp_path)!r}, workers=2) as supervisor:
            done = Workflow("done")
            done.add(ops.echo, value=1)
            supervisor.run(done, run_id="done")
            bad = Workflow("bad")
            bad.add(ops.boom)
            supervisor.run(bad, run_id="bad")
            flow = Workflow("slow")
            flow.add(ops.mark_and_wait_for, path={str(calls)!r}, gate={str(gate)!r}, value="now")
            supervisor.run(flow, run_id="killed")
    """
    with Script(tmp_path, body) as script:
        wait_until(lambda: lines(calls))
        with make_supervisor(tmp_path) as supervisor:
            assert supervisor.unfinished() == []  # another process carries it out
        script.kill()
    with make_supervisor(tmp_path) as supervisor:
        stopped = supervisor.start(gated(tmp_path), run_id="stopped")
        wait_until(lambda: lines(calls) == 2)
        assert supervisor.unfinished() == ["killed"]
    with make_supervisor(tmp_path) as supervisor:
        assert stopped.result(0).reason == "interrupted"
        assert sorted(supervisor.unfinished()) == ["killed", "stopped"]
        gate.touch()
        again = {run_id: supervisor.resume(run_id).result(30) for run_id in supervisor.unfinished()}
        assert {run_id: outcome.status for run_id, outcome in again.items()} == {
            "killed": "succeeded",
            "stopped": "succeeded",
        }
        assert supervisor.unfinished() == []
    with make_supervisor(tmp_path, durability="none") as supervisor:
        assert supervisor.unfinished() == []


def test_an_exception_inside_the_block_closes_too(tmp_path: Path) -> None:
    runs: list[Run] = []

    def fail_inside() -> None:
        with make_supervisor(tmp_path) as supervisor:
            runs.append(supervisor.start(gated(tmp_path), run_id="r"))
            wait_until(lambda: lines(tmp_path / "calls"))
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fail_inside()
    assert runs[0].result(0).reason == "interrupted"


def test_a_supervisor_that_carried_nothing_out_closes_at_once(tmp_path: Path) -> None:
    begun = time.monotonic()
    with make_supervisor(tmp_path):
        pass
    assert time.monotonic() - begun < 5
    assert not (tmp_path / ".sage").exists()


def test_a_supervisor_that_is_forgotten_leaves_no_process_behind(tmp_path: Path) -> None:
    body = f"""
        flow = Workflow("forgotten")
        flow.add(ops.mark, path={str(tmp_path / "calls")!r})
        supervisor = Supervisor({str(tmp_path)!r}, workers=1)
        supervisor.run(flow, run_id="r")
        supervisor.start(flow, run_id="q")  # and off it goes, with nothing closed
    """
    with Script(tmp_path, body) as script:
        code, _, err = script.finish()
    assert code == 0, err
    pid = int((tmp_path / "calls").read_text().split()[0])
    wait_until(lambda: not is_alive(pid), what="its worker is gone")


@pytest.mark.chaos
def test_a_killed_program_leaves_no_process_behind(tmp_path: Path) -> None:
    body = f"""
        flow = Workflow("killed")
        flow.add(ops.mark_and_wait_for, path={str(tmp_path / "calls")!r}, gate="/nonexistent/gate")
        with Supervisor({str(tmp_path)!r}, workers=1) as supervisor:
            supervisor.run(flow, run_id="r")
    """
    with Script(tmp_path, body) as script:
        wait_until(lambda: lines(tmp_path / "calls"))
        pid = int((tmp_path / "calls").read_text().split()[0])
        os.kill(script.process.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), timeout_s=1.0, what="its worker is gone within a second")


# ---------------------------------------------------------------------- scripts


SCRIPT = """
@operation(retry=2)
def double(number: int) -> int:
    return 2 * number

async def later(number: int) -> int:
    return number + 1

def main():
    flow = Workflow("script")
    two = flow.add(double, number=21)
    flow.add(later, number=two)
    with Supervisor({project!r}, workers=2) as supervisor:
        print(supervisor.run(flow, run_id="r", timeout=30).raise_for_status()["later"])
"""


def test_operations_of_the_script_itself_work_under_the_guard(tmp_path: Path) -> None:
    text = SCRIPT.format(project=str(tmp_path)) + '\nif __name__ == "__main__":\n    main()\n'
    with Script(tmp_path, text, guard=False) as script:
        code, out, err = script.finish()
    assert (code, out.strip()) == (0, "43"), err


def test_a_script_without_the_guard_ends_with_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    text = SCRIPT.format(project=str(tmp_path)) + "\nmain()\n"
    with Script(tmp_path, text, guard=False) as script:
        code, _, err = script.finish()
    assert code != 0
    assert '__name__ == "__main__"' in err


PACKAGED = """
from sage_actors import Supervisor, Workflow
from .words import word

def greet(name: str) -> list[str]:
    return [word(), name, __package__]

if __name__ == "__main__":
    flow = Workflow("packaged")
    flow.add(greet, name="ada")
    with Supervisor("project", workers=1, durability="none") as supervisor:
        print(supervisor.run(flow, timeout=30).raise_for_status()["greet"])
"""


def test_a_script_may_be_named_from_a_folder_below_it(tmp_path: Path) -> None:
    """What is around the project is not shown to workers, but for the script: by a path with `..` that was refused."""
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "script.py").write_text(
        "from sage_actors import Supervisor, Workflow\n"
        "def word():\n    return 'said'\n"
        "if __name__ == '__main__':\n"
        "    flow = Workflow('flow')\n"
        "    flow.add(word)\n"
        "    with Supervisor('.', workers=1, durability='none') as supervisor:\n"
        "        print(supervisor.run(flow, timeout=30).raise_for_status()['word'])\n"
    )
    done = subprocess.run(
        [sys.executable, "../script.py"], cwd=project, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "said\n"), done.stderr


@pytest.mark.parametrize("module", ["pack.run", "pack"])
def test_operations_of_a_module_that_is_run_by_its_name_import_what_is_beside_them(
    tmp_path: Path, module: str
) -> None:
    package = tmp_path / "pack"
    for folder in (package, tmp_path / "project"):
        folder.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text('def word():\n    return "hello"\n')
    (package / ("__main__.py" if module == "pack" else "run.py")).write_text(PACKAGED)
    ran = _python("-m", module, cwd=tmp_path)
    assert ran.stdout.strip() == "['hello', 'ada', 'pack']", ran.stderr


def test_operations_of_a_script_on_standard_input_are_refused(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    ran = _python("-", cwd=tmp_path, text=PACKAGED.replace("from .words import word", ""))
    assert "DefinitionError" in ran.stderr
    assert "workers have no file to import" in ran.stderr


def _python(*words: str, cwd: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=cwd, input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_run_of_a_script_is_continued_by_the_same_script(tmp_path: Path) -> None:
    text = (
        SCRIPT.format(project=str(tmp_path)).replace('run_id="r"', 'run_id="r", must_exist=len(sys.argv) > 1')
        + '\nif __name__ == "__main__":\n    main()\n'
    )
    for _ in range(2):
        with Script(tmp_path, text, guard=False) as script:
            code, out, err = script.finish()
        assert (code, out.strip()) == (0, "43"), err


def test_a_supervisor_is_refused_inside_an_operation(tmp_path: Path) -> None:
    flow = Workflow("inside")
    flow.add(ops.supervise, project=str(tmp_path))
    with make_supervisor(tmp_path) as supervisor:
        outcome = supervisor.run(flow, run_id="r", timeout=60)
    assert outcome.status == "failed"
    assert "cannot be used inside a worker process" in outcome.errors["supervise"]["message"]


def test_the_working_directory_and_environment_of_the_program_stay_as_they_were(tmp_path: Path) -> None:
    before = (os.getcwd(), dict(os.environ), signal.getsignal(signal.SIGTERM), threading.active_count())
    with Supervisor(tmp_path, keys=KEYS, search_paths=[SUPPORT], workers=1) as supervisor:
        supervisor.run(quick(), run_id="r", timeout=30)
    assert (os.getcwd(), dict(os.environ), signal.getsignal(signal.SIGTERM)) == before[:3]
    wait_until(lambda: threading.active_count() <= before[3], what="its threads ended")

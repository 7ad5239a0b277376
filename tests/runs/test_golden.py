"""State that any earlier version wrote is read by this one, continues, and gives the results it must."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from golden.make import HERE, RUNS, readable

from sage_actors import Supervisor, WrongKeyError, load
from sage_actors.actors.keys.provider import format_key, load_keys

FORMATS = sorted(path.parent for path in HERE.glob("*/about.json"))


class Golden:
    """One committed state directory, copied into a project as a run would have left it."""

    def __init__(self, source: Path, project: Path) -> None:
        self.about = json.loads((source / "about.json").read_text())
        self.project = project
        self.keys = load_keys(environ={"SAGE_STATE_KEY": self.about["key"]})
        state = project / ".sage" / "state"
        for run_id in RUNS:
            shutil.copytree(source / run_id, state / run_id)
        for path in [state, *state.rglob("*")]:  # git keeps no modes
            path.chmod(0o700 if path.is_dir() else 0o600)

    def supervisor(self, **options: Any) -> Supervisor:
        return Supervisor(
            self.project, workers=1, keys=options.pop("keys", self.keys), search_paths=[HERE], **options
        )

    def finish(self, supervisor: Supervisor, run_id: str) -> tuple[Any, set[str]]:
        """The outcome (everything is approved), and what executed to come to it."""
        run = supervisor.resume(run_id)
        started = set()
        for event in run.events():
            if event.event == "node_started":
                started.add(str(event.node))
            if event.data.get("reason") == "approval":
                run.approve(str(event.node), by="the test")
        return run.result(30), started


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


def test_there_is_golden_state() -> None:
    assert "format-1" in [path.name for path in FORMATS]


@pytest.mark.requirement("ORCH-017")
@pytest.mark.parametrize("run_id", RUNS)
def test_a_golden_run_comes_to_its_results(golden: Golden, run_id: str) -> None:
    with golden.supervisor() as supervisor:
        outcome, _ = golden.finish(supervisor, run_id)
    assert (outcome.status, outcome.reason) == ("succeeded", "")
    assert readable(dict(outcome.results)) == golden.about["results"]


def test_a_finished_golden_run_executes_nothing_again(golden: Golden) -> None:
    with golden.supervisor() as supervisor:
        _, started = golden.finish(supervisor, "finished")
        assert started == set()
        assert supervisor.statistics().started == 0


def test_an_interrupted_golden_run_keeps_what_was_done(golden: Golden) -> None:
    with golden.supervisor() as supervisor:
        run = supervisor.resume("interrupted")
        assert run.resumed
        assert run.completed > 5
        run.cancel()
        _, started = golden.finish(supervisor, "waiting")
    assert started == {"gather/broken", "publish/words", "publish/report"}  # what failed is tried again
    assert not (golden.project / "published.log").exists()  # that effect had happened


def test_the_same_workflow_file_is_no_changed_definition(golden: Golden) -> None:
    with golden.supervisor() as supervisor:
        run = supervisor.start(
            load(HERE / "workflow.json"), run_id="finished", inputs=golden.about["inputs"], must_exist=True
        )
        outcome = run.result(30)
    assert not [notice for notice in run.notices if "changed" in notice or "edited" in notice]
    assert readable(dict(outcome.results)) == golden.about["results"]


@pytest.mark.requirement("ORCH-016")
def test_golden_state_opens_with_its_key_only(golden: Golden) -> None:
    other = load_keys(environ={"SAGE_STATE_KEY": format_key(bytes(range(32)))})
    with golden.supervisor(keys=other) as supervisor, pytest.raises(WrongKeyError):
        supervisor.resume("finished")

"""Makes golden state with the version at hand: `python tests/golden/make.py tests/golden/NAME`.

    NAME/about.json            the key that opens it, made for it, and the results of every run
    NAME/<run id>/journal-*    finished:    nothing is left to do
                               interrupted: the supervisor was killed while nodes executed
                               waiting:     paused, a person must approve

What is committed is never made again: later versions must read what this one wrote.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
INPUTS = {"count": 5}
RUNS = ("finished", "interrupted", "waiting")
_KILLED_AT = "run.committed:12:kill"


def carry_out(project: str, run_id: str) -> int:
    """One run, in a process of its own; prints its results as the journal has them."""
    from sage_actors import Supervisor, load

    with Supervisor(
        project, workers=1, search_paths=[HERE], waits_for_people=run_id != "waiting", grace_s=0.5
    ) as supervisor:
        run = supervisor.start(load(HERE / "workflow.json"), run_id=run_id, inputs=INPUTS)
        for event in run.events():
            if event.data.get("reason") == "approval" and run_id != "waiting":
                run.approve(str(event.node), by="make.py")
        outcome = run.result(60)
    print(json.dumps({"status": outcome.status, "results": readable(dict(outcome.results))}))
    return outcome.exit_code


def readable(value: Any) -> Any:
    """As JSON has it; bytes as {"bytes": hex}."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {key: readable(each) for key, each in value.items()}
    return [readable(each) for each in value] if isinstance(value, list) else value


def make(target: Path) -> None:
    from sage_actors.actors.keys.provider import format_key

    target.mkdir(mode=0o700)
    key = format_key(os.urandom(32))
    ends: dict[str, subprocess.CompletedProcess[str]] = {}
    with tempfile.TemporaryDirectory() as project:
        for run_id in RUNS:
            environ = os.environ | {"SAGE_STATE_KEY": key, "PYTHONDONTWRITEBYTECODE": "1"}
            if run_id == "interrupted":
                environ["SAGE_FAULT"] = _KILLED_AT
            command = [sys.executable, __file__, "--carry-out", project, run_id]
            ends[run_id] = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True)
            shutil.copytree(Path(project, ".sage", "state", run_id), target / run_id)
    codes = [ends[run_id].returncode for run_id in RUNS]
    assert codes == [0, -signal.SIGKILL, 5], codes
    about = {
        "key": key,
        "python": platform.python_version(),
        "inputs": INPUTS,
        "results": json.loads(ends["finished"].stdout)["results"],
    }
    (target / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--carry-out":
        sys.exit(carry_out(*sys.argv[2:]))
    make(Path(sys.argv[1]))

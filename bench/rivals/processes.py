"""Programs of engines: an environment for each, started, waited for, and killed with all that they started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.ground import ROOT, Ground
from bench.rivals.engines import Engine

__all__ = ["Ended", "install", "kill_tree", "last_line", "run_to_end", "start"]

_HERE = Path(__file__).resolve().parent
_INSTALL_S, _DEATH_S = 600.0, 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended; code is None if it had to be killed because its time was over."""

    code: int | None
    output: str
    errors: str


def install(engine: Engine, environments: Path) -> None:
    """Into an environment of its own, since one engine's dependencies may hold another's back."""
    if not engine.packages:
        return
    print(f"installing {', '.join(engine.packages)}", flush=True)
    python = _python(engine, environments)
    if not python.exists():
        venv.create(environments / engine.key, with_pip=True)
    options = ("--quiet", "--disable-pip-version-check")
    command = [str(python), "-m", "pip", "install", *options, *engine.packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        engine.left_out = f"pip took longer than {_INSTALL_S:.0f} s"
        return
    if done.returncode:
        engine.left_out = f"it could not be installed: {last_line(done.stderr)}"


def start(
    engine: Engine, environments: Path, here: Ground, arguments: tuple[str, ...], **environ: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """The engine's file at work, and the stem of the two files that its output goes to.

    Files, not pipes: a pipe stays open as long as anything lives that the program started.
    """
    output = Path(tempfile.mkdtemp(prefix="output-", dir=here.project.parent)) / "of"
    if engine.ours:
        command = [sys.executable, "-m", f"bench.rivals.{Path(engine.file).stem}"]
        base = here.environ
    else:
        command = [str(_python(engine, environments)), str(_HERE / engine.file)]
        base = _bare()
    with _file(output, "out").open("wb") as out, _file(output, "err").open("wb") as err:
        process = subprocess.Popen(
            [*command, *arguments, str(here.project)],
            cwd=ROOT,
            env={**base, **engine.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    return process, output


def run_to_end(
    engine: Engine,
    environments: Path,
    here: Ground,
    arguments: tuple[str, ...],
    timeout_s: float,
    **environ: str,
) -> Ended:
    """Nothing that the program started is left."""
    process, output = start(engine, environments, here, arguments, **environ)
    code: int | None = None
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(timeout_s)
    kill_tree(process)
    read = [_file(output, name).read_text(errors="replace") for name in ("out", "err")]
    return Ended(code, read[0], read[1])


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the program and to all below it, as they are at this instant; returns when they are gone."""
    try:
        root = psutil.Process(process.pid)
        root.suspend()  # it starts nothing any more while we look
        below = root.children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    if process.poll() is None:
        process.kill()
    for each in below:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(below, timeout=_DEATH_S)


def last_line(text: str) -> str:
    """The last thing that it said, or that it said nothing."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if line), "it said nothing")[:300]


def _python(engine: Engine, environments: Path) -> Path:
    """What needs no package runs in this Python, which it shares with nothing of ours."""
    return environments / engine.key / "bin" / "python" if engine.packages else Path(sys.executable)


def _file(output: Path, name: str) -> Path:
    return output.with_suffix(f".{name}")


def _bare() -> dict[str, str]:
    """No paths of ours, and nothing sent to anybody."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**environ, "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}

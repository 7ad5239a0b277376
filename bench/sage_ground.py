"""Where the sage layer is measured: a copy of a repository, the real command line, and when it said what."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ground import ROOT, Ground, ground
from bench.measure import Benchmark, run_group
from sage_actors.actors.mcp.config import load_servers
from sage_actors.actors.trust.consents import TrustStore
from sage_actors.supervisor.templates.library import find_template

__all__ = [
    "REPOSITORIES",
    "STAND_IN",
    "TOPICS",
    "Told",
    "bring_stand_in",
    "command_line",
    "copied",
    "environ_of",
    "name_of",
    "remove_traces",
    "repositories",
    "run_sage_group",
    "template_data",
]

TOPICS = {
    "feature": "rate limiting for the public API",
    "bugfix": "TimeoutError: the request timed out while the connection was being closed",
    "enhancement": "error handling",
}
STAND_IN = "stand-in"
REPOSITORIES = "SAGE_BENCH_REPOSITORIES"
_OURS = (".sage", "docs/specs")
_COMMAND_S = 900.0


@dataclass(frozen=True, slots=True)
class Told:
    """What one command said with --json. moments: of each event's arrival, s after its process was started."""

    code: int
    events: list[dict[str, Any]]
    moments: list[float]
    wall_s: float
    errors: str

    def named(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events if each["event"] == event]

    @property
    def end(self) -> dict[str, Any]:
        """What `run_finished` says of a run that succeeded.

        Raises:
            RuntimeError: it did not: its time is no figure.
        """
        ends = self.named("run_finished")
        if self.code or not ends or ends[0]["status"] != "succeeded":
            said = ends[0].get("reason") if ends else ""
            raise RuntimeError(f"the run exited with {self.code}: {said} {self.errors[-2000:]}")
        return ends[0]

    @property
    def run_id(self) -> str:
        return str(self.events[0]["run_id"])

    @property
    def succeeded(self) -> dict[str, dict[str, Any]]:
        """node -> its event."""
        return {each["node"]: each for each in self.named("node_succeeded")}

    def succeeded_after_s(self, is_meant: Callable[[str], bool]) -> float:
        """When the first such node's result was there, from the start of the process."""
        for event, moment in zip(self.events, self.moments, strict=True):
            if event["event"] == "node_succeeded" and is_meant(event["node"]):
                return moment
        raise RuntimeError(f"no such node succeeded {self.errors[-2000:]}")


def command_line(here: Ground, *arguments: str, until: Callable[[int], bool] = lambda number: False) -> Told:
    """`sage-actors ARGUMENTS --json` in the ground's project, as a process of its own.

    until: asked with the number of each event, from 1; the process is killed (SIGKILL) when it says so.
    """
    command = [sys.executable, "-m", "sage_actors", *arguments, "--json"]
    events: list[dict[str, Any]] = []
    moments: list[float] = []
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=here.project,
            env=environ_of(here),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # torn by the kill
                moments.append(time.perf_counter() - began)
                events.append(json.loads(line))
                if until(len(events)):
                    process.kill()
            code = process.wait(_COMMAND_S)
        wall_s = time.perf_counter() - began
        errors.seek(0)
        return Told(code, events, moments, wall_s, errors.read())


def environ_of(here: Ground) -> dict[str, str]:
    """No skills, servers or settings of the user who measures."""
    home = here.project.parent / "home"
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(ROOT / "src"), here.environ["PYTHONPATH"]])
    return {**here.environ, "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull, "PYTHONPATH": path}


# ------------------------------------------------------------------ repositories


def repositories() -> list[Path]:
    """Those given by --repositories or SAGE_BENCH_REPOSITORIES; else the one that this file is in."""
    given = [Path(each).absolute() for each in os.environ.get(REPOSITORIES, "").split(os.pathsep) if each]
    for path in given:
        if not path.is_dir():
            raise RuntimeError(f"{path} is no directory; {REPOSITORIES} or --repositories names repositories")
    return given or [ROOT]


def name_of(repository: Path) -> str:
    """As figures call it: its folder, and the commit if it has one."""
    done = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    is_own = (repository / ".git").exists() and done.returncode == 0
    return repository.name + (f" at {done.stdout.strip()}" if is_own else "")


@contextmanager
def copied(repository: Path | None) -> Iterator[Ground]:
    """A ground whose project is a copy: of the commit that is checked out, or of all files where there is no git.

    None: nothing is in it. What our own runs have written there is left out.
    """
    with ground() as here:
        if repository is not None and (repository / ".git").exists():
            _git(here.project, "clone", "--quiet", str(repository), ".")
        elif repository is not None:
            ignored = shutil.ignore_patterns(".sage", "__pycache__")
            shutil.copytree(repository, here.project, ignore=ignored, symlinks=True, dirs_exist_ok=True)
        remove_traces(here)
        yield here


def remove_traces(here: Ground) -> None:
    """Nothing is left of the runs in the project: state, cache, documents."""
    for each in _OURS:
        shutil.rmtree(here.project / each, ignore_errors=True)


def _git(project: Path, *arguments: str) -> None:
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_LFS_SKIP_SMUDGE": "1"}
    subprocess.run(["git", *arguments], cwd=project, env=environ, check=True)


# ------------------------------------------------------------------ templates and servers


def template_data(name: str) -> dict[str, Any]:
    """A built-in template as its file has it."""
    template = find_template(name, Path(os.devnull))
    assert template is not None
    data: dict[str, Any] = json.loads(template.path.read_text())
    return data


def bring_stand_in(here: Ground) -> None:
    """The server of `sage_server.py` is in the project's `.mcp.json`, and the user consented to it."""
    server = {"command": sys.executable, "args": [str(ROOT / "bench" / "sage_server.py")]}
    (here.project / ".mcp.json").write_text(json.dumps({"mcpServers": {STAND_IN: server}}))
    trusted = TrustStore(Path(here.environ["XDG_CONFIG_HOME"]) / "sage-actors" / "trust.json")
    trusted.consent(here.project, [each.trust_item() for each in load_servers(here.project).values()])


def run_sage_group(about: str, benchmarks: Mapping[str, Benchmark], argv: Sequence[str] | None = None) -> int:
    """The main program of a group, with --repositories."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--repositories", nargs="+", default=[])
    given, rest = parser.parse_known_args(argv)
    if given.repositories:
        os.environ[REPOSITORIES] = os.pathsep.join(given.repositories)
    return run_group(f"{about}\n\n--repositories A B C: real repositories to measure on.", benchmarks, rest)

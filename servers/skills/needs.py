"""Whether a skill's prerequisites are met: its tools by asking each for its version, its knowledge among the skills.

Only the tool that is named is started, with `--version`, and only where it is installed outside the project: a
repository must not run a program of its own by naming it as a prerequisite. A version that nobody can read counts as
good enough, as upstream has it; the check says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sage_actors.servers.skills.read import Skill, clean

__all__ = ["KnowledgeNeed", "ToolNeed", "check_knowledge", "check_tools"]

ToolState = Literal["ok", "missing", "too old", "unknown version", "refused"]

_NEED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+-]{0,63})\s*(?:(>=|==|>|=)\s*v?(\d+(?:\.\d+){0,3})\S*)?\Z")
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)*")
_TIMEOUT_S = 5.0
_OUTPUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ToolNeed:
    """One tool. `found`: its version, where it said one. `detail`: why it is not ok, or where it is."""

    need: str
    state: ToolState
    found: str = ""
    detail: str = ""

    @property
    def is_met(self) -> bool:
        return self.state in ("ok", "unknown version")


@dataclass(frozen=True, slots=True)
class KnowledgeNeed:
    """One item of knowledge. `skill`: the place of the skill that has it; "" for what is known elsewhere."""

    need: str
    skill: str = ""


def check_tools(skill: Skill, project: Path, *, path: str | None = None) -> list[ToolNeed]:
    """Each tool that `skill` needs, asked for its version. path: as $PATH, which is used if None."""
    return [_check_tool(need, project, path) for need in skill.tools]


def check_knowledge(skill: Skill, skills: Iterable[Skill]) -> list[KnowledgeNeed]:
    """Each item of knowledge with the skill that it names, by its name or its file's."""
    places: dict[str, str] = {}
    for each in skills:
        for name in (each.name, each.path.stem, each.path.parent.name):
            places.setdefault(_key(name), each.place)
    return [KnowledgeNeed(need, places.get(_key(need), "")) for need in skill.knowledge]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().rpartition("/")[2].removesuffix(".md")).strip("-")


def _check_tool(need: str, project: Path, path: str | None) -> ToolNeed:
    match = _NEED.match(need)
    if match is None:
        return ToolNeed(need, "refused", detail="it is not TOOL or TOOL>=VERSION")
    name, operator, wanted = match.groups()
    program = _program(name, path)
    if program is None:
        return ToolNeed(need, "missing", detail=f"{name} is not installed, or not in $PATH")
    if _is_below(program, project):
        return ToolNeed(
            need, "refused", detail=f"{program} is in the project, whose programs are not started"
        )
    if operator is None:
        return ToolNeed(need, "ok", detail=program)  # any version will do: nothing is started
    found = _VERSION.search(_said(program))
    if found is None:
        return ToolNeed(need, "unknown version", detail=f"{program} --version says none")
    enough = _is_enough(_numbers(found.group()), operator, _numbers(wanted))
    return ToolNeed(need, "ok" if enough else "too old", found.group(), program)


def _program(name: str, path: str | None) -> str | None:
    """The program's absolute path. Relative parts of $PATH, which mean wherever one stands, do not count."""
    said = os.environ.get("PATH", os.defpath) if path is None else path
    absolute = os.pathsep.join(part for part in said.split(os.pathsep) if os.path.isabs(part))
    return shutil.which(name, path=absolute) if absolute else None


def _is_below(program: str, project: Path) -> bool:
    """Whether it stands in the project, or is a link to something there."""
    root = os.path.join(os.path.realpath(project), "")
    beside = os.path.join(os.path.realpath(os.path.dirname(program)), "")
    return beside.startswith(root) or os.path.realpath(program).startswith(root)


def _said(program: str) -> str:
    """What `program --version` prints, for as long as we listen; it runs in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="sage-") as folder, tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [program, "--version"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError:
            return ""
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end(process)
        output.seek(0)
        return clean(output.read(_OUTPUT_BYTES).decode("utf-8", "replace"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: a wrapper may have started the real program."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(".")[:4])


def _is_enough(found: Sequence[int], operator: str, wanted: Sequence[int]) -> bool:
    width = max(len(found), len(wanted))
    have = (*found, *[0] * (width - len(found)))
    want = (*wanted, *[0] * (width - len(wanted)))
    if operator == ">":
        return have > want
    # `tool==3.11` means any 3.11
    return have >= want if operator == ">=" else tuple(found[: len(wanted)]) == tuple(wanted)

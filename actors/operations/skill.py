"""Operations of type `skill`: a script of a skill is executed, or its instructions are handed on.

config: skill (its name), script (relative to its `scripts/` or its folder; needed where it has several),
instructions (true: execute nothing), check (default true: a non-zero exit code is a failure). The node's
arguments reach the script as JSON on its standard input; besides it gets

    SAGE_SKILL_NAME  SAGE_SKILL_DIR (its folder: a copy of what was consented to)  SAGE_SKILL_PROJECT (where it runs)
    SAGE_SKILL_RUN (the run's id)

The result is {skill, script, exit_code, stdout, stderr, output}: `output` is stdout as JSON where it is JSON, else
null. A skill without scripts, and every one with `instructions: true`, gives {skill, description, instructions, path}
for the next operation, which needs no consent.

A script that the project brings runs only if the user consented to the skill's content as it is now, and then from a
private copy of that. It has a process group of its own, which ends with the operation.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_actors.actors.operations.command import run_command
from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.shell import CommandFailed
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.actors.trust.consents import Item, TrustStore, digest_of
from sage_actors.messages.codec import unpack
from sage_actors.messages.errors import UsageError
from sage_actors.servers.skills.content import content_of, copy_content
from sage_actors.servers.skills.discovery import Skill, discover_skills
from sage_actors.servers.skills.read import SkillFileError

__all__ = ["SkillRunner", "choose_script", "find_skill", "skill_item"]

_INTERPRETERS: dict[str, str] = {
    ".py": sys.executable,
    ".sh": "sh",
    ".bash": "bash",
    ".js": "node",
    ".mjs": "node",
    ".rb": "ruby",
    ".pl": "perl",
}


class SkillRunner:
    """Executes a skill's script, logs its lines as they come, captures the end of each stream."""

    is_async = False

    def __init__(self, spec: Mapping[str, Any], settings: RunnerSettings) -> None:
        self._project = Path(settings.project)

    def run(self, task: Task) -> dict[str, Any]:
        row = unpack(task.packed)
        config = row.get("config", {})
        skill = find_skill(self._project, config.get("skill"))
        script = None if config.get("instructions") else choose_script(skill, config.get("script"))
        if script is None:
            return _instructions(skill)
        with _as_consented(self._project, skill) as skill:
            output = run_command(
                _command(skill, script),
                cwd=str(self._project),
                env=os.environ | self._environment(skill, task),
                stdin=json.dumps(row.get("arguments") or {}) + "\n",
                on_text=lambda text, stream: task.services.log(task.key, text, stream),
                stop=lambda: task.cancelled,
                ends_group=True,
            )
        if output.exit_code != 0 and config.get("check", True):
            raise CommandFailed(output.exit_code, output.stderr)
        return {
            "skill": skill.name,
            "script": script,
            "exit_code": output.exit_code,
            "stdout": output.stdout,
            "stderr": output.stderr,
            "output": _json(output.stdout),
        }

    def _environment(self, skill: Skill, task: Task) -> dict[str, str]:
        return {
            "SAGE_SKILL_NAME": skill.name,
            "SAGE_SKILL_DIR": str(skill.folder),
            "SAGE_SKILL_PROJECT": str(self._project),
            "SAGE_SKILL_RUN": task.run_key.partition(":")[0],
            "PYTHONDONTWRITEBYTECODE": "1",  # a file more in the skill's folder would end the consent
        }


def find_skill(project: Path, name: Any) -> Skill:
    """The skill of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    skills = discover_skills(project)
    found = next((skill for skill in skills if skill.name == name), None)
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(str(name), [skill.name for skill in skills], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`sage-actors skills list` shows what there is"
        raise UsageError(f"there is no skill {name!r}; {hint}")
    return found


def choose_script(skill: Skill, wanted: Any = None) -> str | None:
    """The script to execute, relative to the skill's folder; None for a skill without any.

    Raises:
        UsageError: it has no script of that name, or several and none is named.
    """
    if wanted is None:
        if len(skill.scripts) > 1:
            raise UsageError(
                f"skill {skill.name!r} has several scripts; say `script`, one of {_shown(skill)}"
            )
        return skill.scripts[0] if skill.scripts else None
    # only what discovery listed: a regular file that does not lead out of the skill's folder
    for name in (wanted, f"scripts/{wanted}"):
        if name in skill.scripts:
            return str(name)
    raise UsageError(f"skill {skill.name!r} has no script {wanted!r}; it has {_shown(skill) or 'none'}")


def skill_item(skill: Skill) -> Item | None:
    """What a user consents to before a script of `skill` runs; None for a skill of the user's own.

    Raises:
        UsageError: it cannot be read as a whole.
    """
    if skill.origin == "user":
        return None
    try:
        return _item(skill, content_of(skill))
    except SkillFileError as cause:
        raise UsageError(f"skill {skill.name!r} in {skill.place}: {cause}") from cause


def _item(skill: Skill, content: Mapping[str, str]) -> Item:
    return Item("skill", skill.name, digest_of(content), f"runs {_shown(skill)} of {skill.place}")


@contextmanager
def _as_consented(project: Path, skill: Skill) -> Iterator[Skill]:
    """The skill to execute: a copy of the content that was consented to, so that nobody can change it any more.

    A skill of the user's own is executed where it lies. A crash leaves the copy among the temporary files.
    """
    if skill.origin == "user":
        yield skill
        return
    with tempfile.TemporaryDirectory(prefix="sage-skill-") as name:
        folder = Path(os.path.realpath(name)) / os.path.basename(skill.folder)
        folder.mkdir()
        try:
            item = _item(skill, copy_content(skill, folder))
        except (SkillFileError, OSError) as cause:
            raise UsageError(f"skill {skill.name!r} in {skill.place} cannot be copied: {cause}") from cause
        _require_consent(project, skill, item)
        yield replace(skill, path=folder / skill.path.name)


def _require_consent(project: Path, skill: Skill, item: Item) -> None:
    store = TrustStore()
    if not store.trusts(project, item):
        why = store.problem() or "you have not consented to its present content"
        raise UsageError(
            f"skill {skill.name!r} is not trusted: {why}; read {skill.place} and its scripts, then continue the "
            "run with --trust"
        )


def _command(skill: Skill, script: str) -> list[str]:
    """A script that says itself how it is run does so; else the interpreter of its suffix."""
    path = skill.folder / script
    if os.access(path, os.X_OK) and _has_shebang(path):
        return [str(path)]
    interpreter = _INTERPRETERS.get(path.suffix.lower())
    found = shutil.which(interpreter) if interpreter else None
    if found is None:
        what = f"{interpreter} is not installed" if interpreter else "nothing says what executes it"
        raise UsageError(
            f"{script} of skill {skill.name!r}: {what}; give it a #! line and make it executable"
        )
    return [found, str(path)]


def _has_shebang(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) in (b"#!", b"\x7fE")


def _instructions(skill: Skill) -> dict[str, Any]:
    try:
        text = skill.read()
    except OSError as cause:
        raise UsageError(f"skill {skill.name!r} cannot be read: {cause}") from cause
    return {"skill": skill.name, "description": skill.description, "instructions": text, "path": skill.place}


def _shown(skill: Skill) -> str:
    return ", ".join(skill.scripts[:10]) + (", ..." if len(skill.scripts) > 10 else "")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

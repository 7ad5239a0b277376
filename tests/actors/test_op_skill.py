"""Operations of type `skill`: what runs and with what, only after consent; and what runs nothing at all."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pool_harness import PoolHarness, pid_exists, read_pid, wait_until

from sage_actors.actors.operations.context import Task
from sage_actors.actors.operations.shell import CommandFailed
from sage_actors.actors.operations.skill import SkillRunner, choose_script, find_skill, skill_item
from sage_actors.actors.operations.types import RunnerSettings
from sage_actors.actors.trust.consents import TrustStore
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import UsageError

ECHO = """\
import json, os, sys
given = json.load(sys.stdin)
print(json.dumps({"given": given, "cwd": os.getcwd(), "name": os.environ["SAGE_SKILL_NAME"],
                  "folder": os.environ["SAGE_SKILL_DIR"], "run": os.environ["SAGE_SKILL_RUN"]}))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "project"


def skill(project: Path, name: str = "notes", root: str = ".sage/skills", **scripts: str) -> Path:
    """A skill; each script's name has `_` for its dot."""
    folder = project / root / name
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(f"---\nname: {name}\ndescription: Writes notes.\n---\n# Do this\n")
    for script, text in scripts.items():
        path = folder / "scripts" / script.replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def consent(project: Path, name: str = "notes") -> None:
    item = skill_item(find_skill(project, name))
    assert item is not None
    TrustStore().consent(project, [item])


def run(project: Path, arguments: dict[str, Any] | None = None, **config: Any) -> tuple[dict[str, Any], str]:
    """The result of an operation in this process, and what it logged."""
    logged: list[str] = []
    services: Any = SimpleNamespace(project=project, log=lambda key, text, stream: logged.append(text))
    packed = pack({"config": {"skill": "notes", **config}, "arguments": arguments or {}})
    task = Task((1, 1, 1, 0, "node", "run-7:uuid", None, packed), services, time.monotonic())
    runner = SkillRunner({"type": "skill"}, RunnerSettings(str(project)))
    return runner.run(task), "".join(logged)


@pytest.mark.requirement("ORCH-020")
def test_a_script_gets_its_arguments_and_gives_its_output(project: Path) -> None:
    skill(project, run_py=ECHO)
    consent(project)
    result, logged = run(project, {"topic": "rate limiting"})
    folder = result["output"].pop("folder")
    assert result["output"] == {
        "given": {"topic": "rate limiting"},
        "cwd": str(project),
        "name": "notes",
        "run": "run-7",
    }
    assert Path(folder).name == "notes"  # a copy, which is gone by now
    assert not Path(folder).exists()
    assert (result["skill"], result["script"], result["exit_code"]) == ("notes", "scripts/run.py", 0)
    assert logged == result["stdout"]


def test_without_consent_nothing_runs_and_the_error_says_what_to_do(project: Path) -> None:
    skill(project, run_sh="touch ran")
    with pytest.raises(UsageError, match=r"not trusted.*--trust") as raised:
        run(project)
    assert not raised.value.retryable
    assert not (project / "ran").exists()


def test_consent_ends_when_any_file_of_the_skill_changes(project: Path) -> None:
    folder = skill(project, run_sh=". scripts-lib", lib_sh="touch ran")
    consent(project)
    (folder / "scripts/lib.sh").write_text("touch ran-something-else")
    with pytest.raises(UsageError, match="not trusted"):
        run(project, script="run.sh")
    assert not list(project.glob("ran*"))


def test_a_file_that_is_added_to_a_skill_ends_the_consent(project: Path) -> None:
    folder = skill(project, run_sh="true")
    consent(project)
    (folder / "scripts" / "json.py").write_text("")
    with pytest.raises(UsageError, match="not trusted"):
        run(project, script="run.sh")


def test_compiled_python_that_is_put_beside_a_script_ends_the_consent(project: Path) -> None:
    folder = skill(project, run_py="import help_me", help_me_py="")
    (folder / "scripts/help.me.py").rename(folder / "scripts/help_me.py")
    consent(project)
    run(project, script="run.py")
    run(project, script="run.py")  # the run itself left nothing there
    (folder / "scripts/__pycache__").mkdir()
    (folder / "scripts/__pycache__/help_me.cpython-311.pyc").write_bytes(b"")
    with pytest.raises(UsageError, match="not trusted"):
        run(project, script="run.py")


@pytest.mark.requirement("ORCH-023")
def test_what_is_executed_is_what_was_consented_to_whoever_changes_it_meanwhile(project: Path) -> None:
    """The script changes itself, and what it calls, where the project has them: its second half is the old one."""
    folder = skill(project, run_sh="", other_sh="echo as consented")
    (folder / "scripts/run.sh").write_text(
        f"echo 'echo evil' > '{folder}/scripts/other.sh'\necho 'echo evil' >> '{folder}/scripts/run.sh'\n"
        'sh "$SAGE_SKILL_DIR/scripts/other.sh"\n'
    )
    consent(project)
    assert run(project, script="run.sh")[0]["stdout"] == "as consented\n"
    with pytest.raises(UsageError, match="not trusted"):
        run(project, script="run.sh")


@pytest.mark.requirement("ORCH-023")
def test_what_a_link_leads_to_outside_of_a_skill_is_not_part_of_it(project: Path) -> None:
    """Consent covers the folder's content: a library behind a link could change without a question."""
    folder = skill(project, run_sh='ls "$SAGE_SKILL_DIR/lib" "$SAGE_SKILL_DIR/inside" 2>/dev/null; true')
    (project / "lib").mkdir()
    (project / "lib/evil.sh").touch()
    (folder / "lib").symlink_to("../../../lib")
    (folder / "inside").symlink_to("scripts")
    consent(project)
    stdout = run(project)[0]["stdout"]
    assert "run.sh" in stdout
    assert "evil.sh" not in stdout


@pytest.mark.requirement("ORCH-023")
def test_a_script_that_becomes_executable_ends_the_consent(project: Path) -> None:
    """It would be executed by what its first line names, no longer by its suffix."""
    folder = skill(project, run_sh="#!/usr/bin/env python3\nprint('polyglot')\n")
    consent(project)
    (folder / "scripts/run.sh").chmod(0o755)
    with pytest.raises(UsageError, match="not trusted"):
        run(project)


def test_a_damaged_store_of_consents_is_named(project: Path) -> None:
    skill(project, run_sh="true")
    consent(project)
    TrustStore()._where().write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        run(project)


def test_a_skill_of_the_users_own_needs_no_consent(project: Path, tmp_path: Path) -> None:
    skill(tmp_path / "home", root=".claude/skills", run_sh="echo mine")
    result, _ = run(project)
    assert result["stdout"] == "mine\n"
    assert result["output"] is None


def test_a_skill_without_scripts_hands_its_instructions_on(project: Path) -> None:
    skill(project)
    result, _ = run(project)
    assert result == {
        "skill": "notes",
        "description": "Writes notes.",
        "instructions": "# Do this\n",
        "path": ".sage/skills/notes/SKILL.md",
    }


def test_instructions_can_be_asked_for_without_consent(project: Path) -> None:
    skill(project, run_sh="touch ran")
    result, _ = run(project, instructions=True)
    assert result["instructions"] == "# Do this\n"
    assert not (project / "ran").exists()


def test_an_exit_code_is_a_failure_unless_said_otherwise(project: Path) -> None:
    skill(project, run_sh="echo no >&2; exit 3")
    consent(project)
    with pytest.raises(CommandFailed, match="exit code 3: no"):
        run(project)
    result, _ = run(project, check=False)
    assert (result["exit_code"], result["stderr"]) == (3, "no\n")


def test_a_script_with_a_first_line_of_its_own_says_how_it_runs(project: Path) -> None:
    folder = skill(project, run_txt="#!/bin/sh\necho as it says\n")
    (folder / "scripts/run.txt").chmod(0o755)
    consent(project)
    assert run(project)[0]["stdout"] == "as it says\n"


def test_a_script_that_nothing_can_execute_is_named(project: Path) -> None:
    skill(project, run_txt="echo")
    consent(project)
    with pytest.raises(UsageError, match="nothing says what executes it"):
        run(project)


def test_one_of_several_scripts_must_be_named_and_no_other_file_can_be(project: Path) -> None:
    folder = skill(project, a_sh="true", b_sh="true")
    (folder / "other.sh").write_text("true")
    (project / "outside.sh").write_text("true")
    found = find_skill(project, "notes")
    assert choose_script(found, "b.sh") == choose_script(found, "scripts/b.sh") == "scripts/b.sh"
    with pytest.raises(UsageError, match="several scripts"):
        choose_script(found)
    for name in ("other.sh", "../../../outside.sh", "/bin/sh", "scripts/../other.sh", 7, ""):
        with pytest.raises(UsageError, match="no script"):
            choose_script(found, name)


def test_a_missing_skill_names_the_nearest(project: Path) -> None:
    skill(project)
    with pytest.raises(UsageError, match="did you mean 'notes'"):
        find_skill(project, "note")
    with pytest.raises(UsageError, match="skills list"):
        find_skill(project, None)


def test_a_skill_that_nobody_could_read_cannot_be_trusted(project: Path) -> None:
    folder = skill(project, run_sh="true")
    for number in range(1001):
        (folder / f"f{number}").touch()
    with pytest.raises(UsageError, match="more than 1000 files"):
        run(project)


def test_a_script_that_is_cancelled_ends_with_all_it_started(project: Path) -> None:
    skill(project, run_sh="sleep 60 & echo $! > pid.tmp; mv pid.tmp pid; wait")
    consent(project)
    with PoolHarness(project) as pool:
        worker = pool.worker()
        pool.submit_config(worker, "skill", {"skill": "notes"})
        pid = read_pid(project / "pid")
        pool.pool.kill(worker, "cancelled")
        assert pool.lost(worker).evidence.reason == "cancelled"
        wait_until(lambda: not pid_exists(pid), what="the script's child is gone")

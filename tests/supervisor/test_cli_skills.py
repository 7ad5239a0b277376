"""`sage-actors skills`, and how it counts what runs made of skills."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine, Inside, shell

SCRIPT = 'read given; echo "{\\"got\\": $given}"; echo once >> ran-skill'


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.close()


@pytest.fixture
def inside(sage: CommandLine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(sage, capsys, monkeypatch)


def skill(sage: CommandLine, name: str, description: str, *, script: str = "", tools: str = "") -> Path:
    folder = sage.project / ".agents/skills" / name
    folder.mkdir(parents=True)
    head = f"name: {name}\ndescription: {description}\n" + (
        f"metadata: {{tools: '{tools}'}}\n" if tools else ""
    )
    (folder / "SKILL.md").write_text(f"---\n{head}---\n# Steps\n\nDo it.\n")
    if script:
        (folder / "scripts").mkdir()
        (folder / "scripts/run.sh").write_text(script)
    return folder


def listed(inside: Inside) -> Any:
    return json.loads(inside("skills", "list", "--json").stdout)


@pytest.mark.requirement("ORCH-020")
def test_list_search_and_show_agree_on_what_there_is(sage: CommandLine, inside: Inside) -> None:
    skill(sage, "flaky", "Finds flaky tests.", script="echo")
    skill(sage, "rate", "Limits the rate of a public API.")
    assert [each["name"] for each in listed(inside)["skills"]] == ["flaky", "rate"]
    assert "rate  (.agents/skills/rate/SKILL.md)" in inside("skills", "list").stdout
    found = json.loads(inside("skills", "search", "rate limiting", "--json").stdout)
    assert [each["name"] for each in found["skills"]] == ["rate"]
    assert inside("skills", "search", "rate limiting").stdout.startswith("100%  rate")
    assert "run only after consent" in inside("skills", "show", "flaky").stdout
    shown = json.loads(inside("skills", "show", "flaky", "--json").stdout)
    assert (shown["trusted"], shown["instructions"]) == (False, "# Steps\n\nDo it.\n")
    assert "did you mean 'flaky'" in inside("skills", "show", "flake", code=2).stderr


def test_a_project_without_skills_says_how_to_have_one(inside: Inside) -> None:
    assert "There are no skills" in inside("skills", "list").stdout
    assert listed(inside)["usage"]["reuse_rate"] is None
    inside("skills", "check")


@pytest.mark.requirement("ORCH-020")
def test_check_says_which_prerequisites_are_missing(sage: CommandLine, inside: Inside) -> None:
    skill(sage, "good", "d", tools="sh")
    skill(sage, "needy", "d", tools="nowhere-to-be-found>=1.0")
    inside("skills", "check", "good")
    assert "nowhere-to-be-found>=1.0: missing" in inside("skills", "check", code=2).stdout
    (verdict,) = json.loads(inside("skills", "check", "needy", "--json", code=2).stdout)["skills"]
    assert (verdict["ok"], verdict["tools"][0]["state"]) == (False, "missing")


def test_a_skill_that_had_to_be_left_out_fails_the_check(sage: CommandLine, inside: Inside) -> None:
    folder = sage.project / ".agents/skills/bad"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text("---\nname: bad\n---\n")
    assert "left out: it has no description" in inside("skills", "check", code=2).stderr


@pytest.mark.requirement("ORCH-020")
def test_a_run_executes_a_skill_after_consent_and_is_counted(sage: CommandLine, inside: Inside) -> None:
    skill(sage, "notes", "Writes notes.", script=SCRIPT)
    flow = sage.flow({"id": "n", "type": "skill", "skill": "notes", "arguments": {"topic": "x"}})
    assert "skill notes" in inside("run", flow, code=2).stderr
    assert sage.count("ran-skill") == 0
    inside("run", flow, "--trust")
    assert sage.count("ran-skill") == 1
    value = json.loads(inside("show", "flow", "n", "--json").stdout)
    assert value["output"] == {"got": {"topic": "x"}}
    found = listed(inside)
    assert found["usage"]["reuse_rate"] == 1.0
    assert (found["skills"][0]["runs_offered"], found["skills"][0]["runs_used"]) == (0, 1)


def test_a_skill_that_changes_while_its_run_is_under_way_does_not_run(
    sage: CommandLine, inside: Inside
) -> None:
    folder = skill(sage, "notes", "Writes notes.", script=SCRIPT)
    change = shell("change", f"echo 'touch changed' > {folder}/scripts/run.sh")
    flow = sage.flow(change, {"id": "n", "type": "skill", "skill": "notes", "needs": ["change"]})
    protected = inside("run", flow, "--trust", code=1)  # operations do not get that far
    assert "Read-only file system" in protected.stderr or "Permission denied" in protected.stderr
    failed = inside("run", flow, "--fresh", "--trust", code=1, environ={"SAGE_SANDBOX": "off"})
    assert "not trusted" in failed.stdout + failed.stderr
    assert not (sage.project / "changed").exists()
    inside("resume", "flow", "--trust")
    assert (sage.project / "changed").exists()


@pytest.mark.slow
@pytest.mark.requirement("ORCH-020")
def test_what_a_search_found_is_offered_and_what_a_step_hands_on_is_used(
    sage: CommandLine, inside: Inside
) -> None:
    skill(sage, "rate", "Limits the rate of a public API.")
    search = {
        "id": "look",
        "type": "mcp",
        "server": "sage-research",
        "tool": "skills_search",
        "arguments": {"topic": "${inputs.topic}"},
    }
    use = {"id": "use", "type": "skill", "skill": "${look | skills[0].name}"}
    inside("run", sage.flow(search, use, inputs={"topic": {"type": "string"}}), "rate limiting")
    found = listed(inside)
    assert found["usage"] == {
        "runs": 1,
        "runs_offered": 1,
        "runs_used": 1,
        "runs_unreadable": 0,
        "reuse_rate": 1.0,
    }
    assert (found["skills"][0]["runs_offered"], found["skills"][0]["runs_used"]) == (1, 1)

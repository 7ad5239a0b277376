"""The command `keys`, from outside: what it says, what it never says, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import CommandLine

pytestmark = pytest.mark.requirement("ORCH-016")

STEP = {"id": "a", "type": "wait", "seconds": 0}


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path)
    yield line
    line.close()


def ids(sage: CommandLine, **environ: str) -> list[str]:
    return list(json.loads(sage("keys", "show", "--json", environ=environ).stdout)["opens"])


def test_a_key_is_replaced_without_losing_a_run(sage: CommandLine) -> None:
    sage("run", sage.flow(STEP), "--run-id", "first")
    (old,) = ids(sage)
    rotated = sage("keys", "rotate")
    assert "reencrypt" in rotated.stderr
    new = ids(sage)[0]
    assert ids(sage) == [new, old]

    needed = sage("keys", "drop", old, "--yes", code=2)
    assert "run first" in needed.stderr
    assert "records of the audit log" in needed.stderr
    assert ids(sage) == [new, old]

    done = sage("keys", "reencrypt")
    assert "first sealed again" in done.stdout
    assert json.loads(sage("keys", "reencrypt", "--json").stdout)["unchanged"] == ["first"]
    sage("audit", "verify")

    audit_only = sage("keys", "drop", old, "--yes", code=2).stderr
    assert "run first" not in audit_only
    sage("keys", "drop", old, "--yes", "--leave-audit")
    assert ids(sage) == [new]
    assert sage("status", "first").stdout
    events = sage("audit", "show", "--event", "key", "--json").stdout.splitlines()
    assert len(events) == 4  # rotated, twice sealed again, dropped
    assert sage("run", sage.flow(STEP), "--run-id", "first").returncode == 0


def test_a_project_elsewhere_keeps_a_key_from_being_dropped(sage: CommandLine, tmp_path: Path) -> None:
    sage("run", sage.flow(STEP), "--run-id", "there")
    (old,) = ids(sage)
    sage("keys", "rotate")
    sage.project = tmp_path / "other"
    sage.project.mkdir()
    refused = sage("keys", "drop", old, "--yes", code=2)
    assert f"{tmp_path / 'project'}: run there" in refused.stderr


def test_a_lost_key_is_named_and_is_no_damage(sage: CommandLine) -> None:
    sage("run", sage.flow(STEP), "--run-id", "first")
    (old,) = ids(sage)
    (sage.home / "config/sage-actors/state.key").unlink()
    sage("keys", "create")
    for args in (["status", "first"], ["resume", "first"], ["run", "flow.json", "--run-id", "first"]):
        said = sage(*args, code=4).stderr
        assert f"sealed under the key {old}" in said
        assert "damaged" not in said
    assert old in sage("keys", "reencrypt", code=1).stderr


def test_the_environment_is_told_what_to_be_set_to(sage: CommandLine) -> None:
    sage("keys", "create")
    given = {"SAGE_STATE_KEY": sage("keys", "export", "--yes").stdout.strip()}
    (old,) = ids(sage, **given)
    assert "--yes" in sage("keys", "rotate", code=2, environ=given).stderr

    rotated = sage("keys", "rotate", "-o", "new.key", environ=given)
    assert rotated.stdout == ""
    assert "$SAGE_STATE_KEY" in rotated.stderr
    path = sage.project / "new.key"
    assert path.stat().st_mode & 0o777 == 0o600
    both = {"SAGE_STATE_KEY": path.read_text().strip()}
    assert ids(sage, **both)[1:] == [old]
    assert ids(sage, **given) == [old], "nothing else was changed"

    dropped = sage("keys", "drop", old, environ=both)
    assert "number 2 of the 2" in dropped.stdout
    assert "sak1-" not in dropped.stdout + dropped.stderr


def test_no_command_shows_a_key_unless_told_to(sage: CommandLine) -> None:
    sage("keys", "create")
    secret = sage("keys", "export", "--yes").stdout.strip()
    assert "--yes" in sage("keys", "export", code=2).stderr
    sage("keys", "rotate")
    assert "exists" in sage("keys", "export", "-o", "../config/sage-actors/state.key", code=4).stderr
    body = secret.removeprefix("sak1-")
    for args in (["keys"], ["keys", "show", "--json"], ["keys", "reencrypt"], ["doctor", "--json"]):
        done = sage(*args, code=None)
        assert body not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("key_id", "said"), [("0011223344556677", "There is no key"), ("nonsense", "There is no key")]
)
def test_only_a_key_that_is_there_is_dropped(sage: CommandLine, key_id: str, said: str) -> None:
    sage("keys", "create")
    assert said in sage("keys", "drop", key_id, "--yes", code=2).stderr
    (only,) = ids(sage)
    assert "only key" in sage("keys", "drop", only, "--yes", code=2).stderr


def test_no_program_that_a_command_starts_inherits_the_key(sage: CommandLine, tmp_path: Path) -> None:
    """`doctor` starts git and runs a workflow; each leaves its environment."""
    sage("keys", "create")
    key = sage("keys", "export", "--yes").stdout.strip()
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    seen = tmp_path / "seen"
    (bin_ / "git").write_text(
        f"#!/bin/sh\nenv >> {seen}; cat /proc/$$/environ >> {seen}\necho git version 2\n"
    )
    (bin_ / "git").chmod(0o755)
    environ = {"SAGE_STATE_KEY": key, "PATH": f"{bin_}:{sage.environ['PATH']}"}
    sage("doctor", "--json", code=None, environ=environ)
    assert b"PATH=" in seen.read_bytes()
    assert key.encode() not in seen.read_bytes()
    assert json.loads(sage("keys", "show", "--json", environ=environ).stdout)["source"] == "environment"

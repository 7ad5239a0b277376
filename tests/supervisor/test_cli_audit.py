"""The command audit, as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine, Inside, shell

from sage_actors.actors.audit.files import rotated_files
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.keys.provider import load_keys
from sage_actors.actors.state.directory import StateDirectory

pytestmark = [pytest.mark.requirement("ORCH-016"), pytest.mark.requirement("ORCH-023")]


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    made = CommandLine(tmp_path)
    yield made
    made.close()


@pytest.fixture
def inside(sage: CommandLine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    return Inside(sage, capsys, monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A project in which the run `r` waited for a person, and then succeeded."""
    sage = CommandLine(tmp_path_factory.mktemp("made"))
    flow = sage.flow(shell("a", ["true"]), {"id": "asked", "type": "approval", "needs": ["a"]})
    sage("run", flow, "--run-id", "r", "--plain", code=5)
    sage("approve", "r", "asked")
    sage("resume", "r", "--plain")
    yield sage
    sage.close()


@pytest.fixture
def ran(made: CommandLine, sage: CommandLine) -> CommandLine:
    """A copy of it."""
    for name in ("project", "config"):
        shutil.copytree(made.home / name, sage.home / name, dirs_exist_ok=True)
    return sage


def shown(inside: Inside, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in inside("audit", "show", *words, "--json").stdout.splitlines()]


def test_show_says_who_did_what_when_and_verify_that_it_is_whole(ran: CommandLine, inside: Inside) -> None:
    (decision,) = shown(inside, "r", "--event", "decision")
    assert (decision["kind"], decision["nodes"], decision["run"]) == ("approve", ["asked"], "r")
    assert decision["actor"] == decision["by"]
    opened = [each["event"] for each in shown(inside, "r") if each["event"].startswith("run_")]
    assert opened[:3] == ["run_admitted", "run_started", "run_paused"]
    assert opened[-2:] == ["run_resumed", "run_finished"]
    assert "a: " not in inside("audit", "show").stdout
    line = next(each for each in inside("audit", "show").stdout.splitlines() if "node_succeeded" in each)
    assert "running -> succeeded a attempt=1" in line
    assert not shown(inside, "other")
    assert shown(inside, "--since", "1h") == shown(inside)
    assert "1 run agree" in inside("audit", "verify").stdout.replace("1 runs", "1 run")
    assert json.loads(inside("audit", "verify", "r", "--json").stdout)["ok"] is True


def test_a_head_that_was_kept_elsewhere_finds_what_is_missing(ran: CommandLine, inside: Inside) -> None:
    head = inside("audit", "head").stdout.strip()
    inside("audit", "verify", "--head", head)
    path = ran.project / ".sage" / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert "cut or rolled back" in inside("audit", "verify", "--head", head, code=4).stderr
    assert "a head is a number" in inside("audit", "verify", "--head", "7", code=2).stderr


def test_what_was_altered_ends_with_code_4_and_its_line(ran: CommandLine, inside: Inside) -> None:
    path = ran.project / ".sage" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"approve"', b'"reject0"'))
    assert "audit.jsonl, line" in inside("audit", "verify", code=4).stderr
    assert "no audit log" in inside("audit", "show", "--project", str(ran.home), code=4).stderr


def test_deleting_a_run_stays_on_the_record(ran: CommandLine, inside: Inside) -> None:
    inside("delete", "r", "--yes")
    (deleted,) = shown(inside, "--event", "run_deleted")
    assert (deleted["run"], deleted["actor"]) == ("r", "command line")
    assert "0 runs agree" in inside("audit", "verify").stdout


def test_prune_takes_full_files_of_the_log_only_when_asked_and_leaves_their_heads(
    ran: CommandLine, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(ran.project)
    keys = load_keys(environ=ran.environ, create=False)
    log = AuditLog(state, keys, rotate_bytes=3000)
    for number in range(20):
        log.append([{"event": "egress", "host": f"host-{number}"}])
    log.close()
    first = rotated_files(state.root.parent)[0]
    os.utime(first, (1e9, 1e9))
    inside("prune", "--older-than", "300d", "--yes")
    assert first.exists()
    assert first.name in inside("prune", "--older-than", "300d", "--yes", "--audit").stdout
    assert not first.exists()
    (pruned,) = shown(inside, "--event", "log_pruned")
    assert [each["file"] for each in pruned["files"]] == [first.name]
    inside("audit", "verify")


def test_no_name_of_a_definition_drives_the_terminal(sage: CommandLine, inside: Inside) -> None:
    state = StateDirectory(sage.project)
    state.create()
    keys = load_keys(environ=sage.environ)
    log = AuditLog(state, keys)
    log.record("egress", "r", host="\x1b[2Jgone\nforged line")
    log.close()
    text = inside("audit", "show").stdout
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2

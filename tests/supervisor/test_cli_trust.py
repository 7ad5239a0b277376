"""`trust`: what was consented to is shown and taken back, and runs ask again after that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import CommandLine

pytestmark = pytest.mark.requirement("ORCH-023")


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    folder = command_line.project / ".sage/templates"
    folder.mkdir(parents=True)
    node = {"id": "n", "type": "shell", "command": "echo done"}
    (folder / "deploy.json").write_text(json.dumps({"name": "deploy", "nodes": [node]}))
    yield command_line
    command_line.close()


def test_consent_is_listed_revoked_and_asked_for_again(sage: CommandLine) -> None:
    assert "Nothing of this project is trusted." in sage("trust", "list").stdout
    sage("mcp", "trust", "deploy", "--yes")
    (consent,) = json.loads(sage("trust", "list", "--json").stdout)["consents"]
    assert (consent["kind"], consent["name"]) == ("template", "deploy")
    assert "template  " in sage("trust", "list").stdout
    assert "template deploy" in sage("trust", "revoke", "deploy").stdout
    assert "--trust" in sage("run", "deploy", code=2).stderr


def test_consent_and_its_end_are_in_the_audit_log(sage: CommandLine) -> None:
    sage("run", "deploy", "--trust")
    path = sage.project / ".sage/templates/deploy.json"
    path.write_text(path.read_text().replace("echo done", "echo more"))
    sage("mcp", "trust", "deploy", "--yes")
    sage("trust", "revoke", "deploy")
    lines = (sage.project / ".sage/audit.jsonl").read_text().splitlines()
    records = [each for each in map(json.loads, lines) if each["event"] == "consent"]
    said = [(each["change"], each["kind"], each["name"]) for each in records]
    assert said == [("given", "template", "deploy"), ("revoked", "template", "deploy")]
    sage("audit", "verify")


def test_what_was_not_trusted_cannot_be_revoked_and_nothing_is_no_name(sage: CommandLine) -> None:
    assert "'other'" in sage("trust", "revoke", "other", code=2).stderr
    assert "--all" in sage("trust", "revoke", code=2).stderr
    sage("trust", "revoke", "--all")

"""Whole runs under confinement, for tests: a project, what runs in it, and a web server that it may not reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from engine_harness import KEYS
from places import SUPPORT

from sage_actors.sandbox.probe import Check, Report, probe
from sage_actors.supervisor.api import Supervisor, load
from sage_actors.supervisor.handle import Outcome

NAMESPACES = probe().tier == "namespaces"
needs_namespaces = pytest.mark.skipif(not NAMESPACES, reason=f"no namespaces: {probe().reason}")


def supervise(project: Path, **options: Any) -> Supervisor:
    defaults: dict[str, Any] = {"workers": 2, "keys": KEYS, "search_paths": [SUPPORT], "grace_s": 1.0}
    return Supervisor(project, **(defaults | options))


def carry_out(project: Path, *nodes: dict[str, Any], **options: Any) -> Outcome:
    file = project / "flow.json"
    file.write_text(json.dumps({"name": "flow", "concurrency": 4, "nodes": list(nodes)}))
    with supervise(project, **options) as supervisor:
        return supervisor.run(load(file), run_id="r", timeout=60)


def python(
    node: str, function: str, policies: dict[str, Any] | None = None, **arguments: Any
) -> dict[str, Any]:
    said = {"id": node, "type": "python", "call": f"operations_confined:{function}", "arguments": arguments}
    return said | {"on_failure": "continue"} | (policies or {})


def shell(node: str, command: str, **policies: Any) -> dict[str, Any]:
    return {"id": node, "type": "shell", "command": command, "check": False, **policies}


def audit_lines(project: Path) -> list[dict[str, Any]]:
    path = project / ".sage" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def report(tier: Any, *failed: str) -> Report:
    return Report(tier, tuple(Check(name, False, "EPERM") for name in failed), ("a gap",))

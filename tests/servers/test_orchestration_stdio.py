"""`sage-actors mcp` as an agent starts it: a process on stdio, what the command line sees of it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_harness import CommandLine, wait_until
from orchestration_harness import (
    Talk,
    in_process,
    operation,
    over_stdio,
    phases,
    trusted_template,
    write_template,
)

from sage_actors.servers.orchestration.server import Orchestration, create_orchestration_server
from sage_actors.servers.orchestration.view import Runbook

STUBBORN = "trap '' TERM INT HUP; echo once >> ran-one; while :; do sleep 0.1; done"
_HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@pytest.fixture
def sage(tmp_path: Path) -> Iterator[CommandLine]:
    command_line = CommandLine(tmp_path)
    shared = ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")  # this process reads the keys, and consents
    command_line.environ |= {name: os.environ[name] for name in shared}
    yield command_line
    command_line.close()


class Server:
    """A server process and the wire to it, in the protocol of 2025: one JSON object a line."""

    def __init__(self, sage: CommandLine) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sage_actors", "mcp"],
            cwd=sage.project,
            env=sage.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._id = 1
        self.send(_HELLO)
        assert self.receive()["result"]["serverInfo"]["name"] == "sage-orchestration"
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        self._id += 1
        params = {"name": f"sage_workflow_{tool}", "arguments": arguments}
        self.send({"jsonrpc": "2.0", "id": self._id, "method": "tools/call", "params": params})
        result: dict[str, Any] = self.receive()["result"]["structuredContent"]
        return result

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(sage: CommandLine) -> Iterator[Server]:
    made = Server(sage)
    yield made
    made.kill()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


@pytest.mark.requirement("ORCH-002")
@pytest.mark.requirement("ORCH-013")
def test_an_agent_s_whole_session(sage: CommandLine) -> None:
    flow = phases(
        [operation("one", "echo once >> ran-one; echo $$; cat")], [operation("two", "exec sleep 60")]
    )
    write_template(sage.project, "flow", flow)

    async def say(client: Talk) -> None:
        assert (await client.call("execute", feature="x", template="flow")).code == "CONSENT_REQUIRED"
        consented = await asyncio.to_thread(sage, "mcp", "trust", "flow", "--yes")
        assert "Agents may run flow" in consented.stdout
        before = time.monotonic()
        begun = await client.call("execute", feature="x", template="flow")
        assert time.monotonic() - before < 5  # the run takes a minute
        assert begun["status"] == "running"
        while (await client.call("status", feature="x", wait_seconds=20))["progress"]["completed"] < 1:
            pass
        seen = json.loads((await asyncio.to_thread(sage, "status", "flow-x", "--json")).stdout)
        assert (seen["status"], seen["running"]) == ("running", ["p2/two"])
        assert (await asyncio.to_thread(sage, "resume", "flow-x", code=3)).returncode == 3
        await asyncio.to_thread(sage, "cancel", "flow-x")
        assert (await client.call("status", feature="x"))["status"] == "cancelled"

    over_stdio(sage, say)
    assert sage.count("ran-one") == 1


@pytest.mark.parametrize("how", ["stdin", signal.SIGTERM, signal.SIGKILL])
@pytest.mark.requirement("ORCH-017")
def test_when_it_ends_no_process_is_left_and_its_run_can_be_continued(
    sage: CommandLine, how: str | signal.Signals
) -> None:
    trusted_template(
        sage.project,
        "flow",
        phases([operation("zero", "echo once >> ran-zero")], [operation("one", STUBBORN)]),
    )
    server = Server(sage)
    try:
        assert server.call("execute", feature="x", template="flow")["status"] == "running"
        wait_until(lambda: sage.count("ran-one"))
        processes = psutil.Process(server.process.pid).children(recursive=True)
        assert len(processes) >= 3  # keeper, worker, shell
        if isinstance(how, str):
            assert server.process.stdin is not None
            server.process.stdin.close()
        else:
            server.process.send_signal(how)
        wait_until(
            lambda: server.process.poll() is not None and not alive(processes), seconds=2.0, what="end"
        )
    finally:
        server.kill() if server.process.stdin and not server.process.stdin.closed else server.process.wait(10)
    past = Runbook(sage.project).read("flow-x")
    assert past.status in ("paused", "interrupted")
    assert past.node("p1/zero").state == "succeeded"
    _go_on_here(sage)
    assert sage.count("ran-zero") == 1


def _go_on_here(sage: CommandLine) -> None:
    """A server in this process finds the run of the one that ended."""
    core = Orchestration(sage.project)

    async def say(client: Talk) -> None:
        assert (await client.call("status", feature="x"))["status"] == "paused"
        assert (await client.call("resume", feature="x"))["resumedFrom"] == "p2"
        await asyncio.to_thread(wait_until, lambda: sage.count("ran-one") == 2)
        assert (await client.call("cancel", feature="x"))["success"]

    try:
        in_process(create_orchestration_server(sage.project, core), say)
    finally:
        core.runs.close()


def test_two_servers_at_once_carry_a_run_out_once(sage: CommandLine, server: Server) -> None:
    trusted_template(sage.project, "flow", phases([operation("one", "echo once >> ran-one; exec sleep 60")]))
    other = Server(sage)
    try:
        assert server.call("execute", feature="x", template="flow")["status"] == "running"
        taken = other.call("execute", feature="x", template="flow")
        assert (taken["success"], taken["status"], taken["workflowId"]) == (True, "running", "flow-x")
        assert "already" in taken["message"]
        wait_until(lambda: sage.count("ran-one"))
        assert other.call("status", feature="x", wait_seconds=0.3)["status"] == "running"
        assert other.call("cancel", feature="x")["success"]
        assert server.call("status", feature="x")["status"] == "cancelled"
        assert sage.count("ran-one") == 1
    finally:
        other.kill()


def test_what_is_no_protocol_is_answered_or_ignored_and_ends_nothing(server: Server) -> None:
    assert server.process.stdin is not None
    server.process.stdin.write('garbage\n{"jsonrpc": "2.0"}\n[]\n\n')
    server.process.stdin.flush()
    assert server.call("list") == {"success": True, "workflows": []}


def test_what_operations_print_never_reaches_the_wire(sage: CommandLine, server: Server) -> None:
    trusted_template(
        sage.project, "loud", phases([operation("one", 'echo \'{"jsonrpc": "2.0"}\'; echo noise >&2')])
    )
    answer = server.call("execute", feature="x", template="loud", wait=True)
    assert (answer["status"], answer["results"]["outputs"]["p1/one"]["stderr"]) == ("completed", "noise\n")


def test_a_sage_server_is_served_by_its_name(sage: CommandLine) -> None:
    (sage.project / "README.md").write_text("# Shop\n\nRate limits are set in limits.toml.\n")

    async def say(client: Talk) -> set[str]:
        return {tool.name for tool in (await client.client.list_tools()).tools}

    names = over_stdio(sage, say, arguments=("serve", "sage-research"))
    assert {"research_query", "research_store", "best_practices"} <= names
    unknown = sage("mcp", "serve", "nope", code=2)
    assert "sage-research" in unknown.stderr


def test_consent_needs_a_person_or_a_word(sage: CommandLine) -> None:
    write_template(sage.project, "flow", phases([operation("one", "true")]))
    assert "--yes" in sage("mcp", "trust", "flow", code=2).stderr
    assert "no template 'nope'" in sage("mcp", "trust", "nope", "--yes", code=2).stderr
    assert "no template 'nope'" in sage("mcp", "trust", "nope", code=2).stderr
    for said in ("template flow: executes shell true", ""):  # a second time there is nothing to consent to
        done = sage("mcp", "trust", "flow", "--yes")
        assert said in done.stderr
        assert bool(said) == bool(done.stderr)
    assert os.listdir(sage.project / ".sage") == ["templates"]

"""Nodes of type `mcp`: where their server comes from, what their result is, what is accounted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession
from mcp.server import MCPServer
from mcp_harness import MODERN, RAW, McpProject, eventually, with_sessions
from mcp_servers import modern
from pool_harness import PoolHarness, pid_exists, wait_until

from sage_actors import Supervisor, load
from sage_actors.actors.mcp.results import tokens_of, usage_of, value_of
from sage_actors.messages.definition import WorkflowSpec
from sage_actors.servers import catalog
from sage_actors.servers.settings import ServerSettings


@pytest.fixture
def mcp(tmp_path: Path) -> McpProject:
    return McpProject(tmp_path)


@pytest.fixture
def built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ServerSettings]:
    """Another server in the place of sage-research; the settings that it was made with."""
    made: list[ServerSettings] = []

    def create(name: str, settings: ServerSettings) -> MCPServer:
        assert name == "sage-research"
        made.append(settings)
        return modern.create(settings.project)

    monkeypatch.setattr("sage_actors.actors.mcp.connect.create_server", create)
    return made


def add_modern(mcp: McpProject, folder: Path) -> None:
    mcp.configure({"modern": {"command": sys.executable, "args": [MODERN, str(folder)]}})


# Where the server comes from


def test_a_built_in_server_runs_in_this_process(mcp: McpProject, built_in: list[ServerSettings]) -> None:
    task = mcp.task("sage-research", "look", topic="x", count=2)
    assert with_sessions(mcp.project, lambda: mcp.run(task)) == {"topic": "x", "count": 2}
    assert task.used is not None
    assert task.used["server_starts"] == {"sage-research": 1}
    (settings,) = built_in
    assert (settings.project, settings.trusts_checks) == (mcp.project, False)


@pytest.mark.usefixtures("built_in")
def test_what_a_built_in_server_answers_is_not_checked_again(
    mcp: McpProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []

    async def check(self: ClientSession, name: str, result: object) -> None:
        checked.append(name)

    monkeypatch.setattr(ClientSession, "validate_tool_result", check)
    add_modern(mcp, mcp.project)

    async def both() -> list[Any]:
        return [await mcp.call(server, "look", topic="x") for server in ("sage-research", "modern")]

    own, other = with_sessions(mcp.project, both)
    assert own == other
    assert checked == ["look"]  # the other one's


def test_a_trusted_entry_takes_the_place_of_a_built_in_server(
    mcp: McpProject, built_in: list[ServerSettings]
) -> None:
    mcp.configure({"sage-research": {"command": sys.executable, "args": RAW}})
    assert with_sessions(mcp.project, lambda: mcp.call("sage-research", "echo", text="mine")) == "mine"
    assert not built_in


def test_an_untrusted_entry_does_not_and_the_log_says_so(
    mcp: McpProject, built_in: list[ServerSettings]
) -> None:
    mcp.configure({"sage-research": {"command": "evil"}}, trust=False)
    with_sessions(mcp.project, lambda: mcp.call("sage-research", "look", topic="x"))
    assert built_in
    assert any("using the built-in sage-research" in line and "evil" in line for line in mcp.services.logged)


@pytest.mark.parametrize("entry", [{"command": "evil", "disabled": True}, {"type": "ws"}, 5])
def test_an_entry_that_cannot_start_leaves_the_built_in_server_its_place(
    mcp: McpProject, built_in: list[ServerSettings], entry: Any
) -> None:
    mcp.configure({"sage-research": entry})
    with_sessions(mcp.project, lambda: mcp.call("sage-research", "look", topic="x"))
    assert built_in
    assert any("using the built-in sage-research" in line for line in mcp.services.logged)


def test_a_disabled_server_is_not_started(mcp: McpProject) -> None:
    mcp.configure({"raw": {"command": sys.executable, "args": RAW, "disabled": True}})
    error = with_sessions(mcp.project, lambda: mcp.error("raw", "echo", text="x"))
    assert str(error) == "the server 'raw' is disabled in .mcp.json"


def test_a_broken_file_does_not_keep_a_built_in_server_from_running(
    mcp: McpProject, built_in: list[ServerSettings]
) -> None:
    (mcp.project / ".mcp.json").write_text("{")
    with_sessions(mcp.project, lambda: mcp.call("sage-research", "look", topic="x"))
    assert any("is not JSON" in line for line in mcp.services.logged)


def test_a_server_that_nobody_consented_to_is_not_started(mcp: McpProject) -> None:
    mcp.configure({"raw": {"command": sys.executable, "args": RAW}}, trust=False)
    error = with_sessions(mcp.project, lambda: mcp.error("raw", "echo", text="x"))
    assert type(error).__name__ == "UsageError"
    assert not error.retryable
    assert "--trust" in str(error)


def test_a_server_whose_script_changed_is_not_started_again(mcp: McpProject) -> None:
    script = mcp.project / "server.py"
    script.write_text(Path(RAW[0]).read_text())
    mcp.configure({"raw": {"command": sys.executable, "args": ["server.py"]}})
    assert with_sessions(mcp.project, lambda: mcp.call("raw", "echo", text="x")) == "x"
    script.write_text(Path(RAW[0]).read_text() + "\n# something else\n")
    error = with_sessions(mcp.project, lambda: mcp.error("raw", "echo", text="x"))
    assert "changed since" in str(error)


def test_an_unknown_server_is_told_with_the_nearest_and_all_known(mcp: McpProject) -> None:
    mcp.configure({"files": {"command": "x"}})
    error = with_sessions(mcp.project, lambda: mcp.error("sage-reserch", "query"))
    assert type(error).__name__ == "UsageError"
    for part in ("did you mean 'sage-research'?", "files", *catalog.SAGE_SERVERS):
        assert part in str(error)


def test_an_entry_that_cannot_be_used_says_what_is_wrong(mcp: McpProject) -> None:
    mcp.configure({"bad": {"type": "ws"}})
    error = with_sessions(mcp.project, lambda: mcp.error("bad", "x"))
    assert "mcpServers.bad.type" in str(error)


@pytest.mark.parametrize(("server", "tool"), [(None, "x"), ("", "x"), ("raw", None), ("raw", 5)])
def test_a_node_without_server_or_tool_is_refused(mcp: McpProject, server: Any, tool: Any) -> None:
    error = with_sessions(mcp.project, lambda: mcp.error(server, tool))
    assert "must be a text" in str(error)


# What the result is


def blocks(*texts: str, **more: Any) -> Any:
    from mcp_types import CallToolResult

    content = [{"type": "text", "text": text} for text in texts]
    return CallToolResult.model_validate({"content": content, **more}, by_name=False)


@pytest.mark.parametrize(
    ("result", "value"),
    [
        (blocks("shown", structuredContent={"a": 1}), {"a": 1}),
        (blocks('{"a": [1, null]}'), {"a": [1, None]}),
        (blocks(" [1]\n"), [1]),
        (blocks("{no json}"), "{no json}"),
        (blocks("[NaN]"), "[NaN]"),
        (blocks("[" * 100_000), "[" * 100_000),
        (blocks("5"), "5"),
        (blocks('"text"'), '"text"'),
        (blocks("one", "two"), "one\ntwo"),
        (blocks("{}", "{}"), "{}\n{}"),
        (blocks(""), ""),
        (blocks(), None),
    ],
)
def test_the_value_is_the_structured_content_else_the_text(result: Any, value: Any) -> None:
    assert value_of(result) == value


def test_pictures_and_resources_come_with_their_type_and_bytes(mcp: McpProject) -> None:
    mcp.add_raw()
    assert with_sessions(mcp.project, lambda: mcp.call("raw", "several")) == [
        {"type": "text", "text": "a picture"},
        {"type": "image", "mime_type": "image/png", "data": b"\x89PNG"},
        {"type": "resource_link", "mime_type": None, "uri": "file:///a.txt", "name": "a"},
        {"type": "resource", "mime_type": None, "uri": "file:///b", "data": b"\x00\x01"},
        {"type": "resource", "mime_type": None, "uri": "file:///c", "text": "c"},
    ]


@pytest.mark.parametrize(
    ("said", "used"),
    [
        ({"input_tokens": 3, "output_tokens": 4, "cost": 0.5}, (3, 4, 0.5)),
        ({"input_tokens": -3, "output_tokens": "4", "cost": float("nan")}, (0, 0, 0.0)),
        ({"input_tokens": 10**30, "cost": True}, (0, 0, 0.0)),
        ({}, (0, 0, 0.0)),
    ],
)
def test_what_a_server_says_it_used_can_be_added_up(said: dict[str, Any], used: Any) -> None:
    assert tuple((usage_of(blocks(_meta={"sage/usage": said})) or {}).values()) == used


@pytest.mark.parametrize("meta", [{}, {"sage/usage": 5}, {"sage/usage": [1]}])
def test_no_usage_is_none(meta: dict[str, Any]) -> None:
    assert usage_of(blocks(_meta=meta)) is None


TOKENS = {"raw_bytes": 9, "kept_bytes": 3, "raw_tokens": 4, "kept_tokens": 1, "tokenizer": "t"}


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ({"tokens": TOKENS}, TOKENS),
        ({"tokens": {**TOKENS, "raw_bytes": -1}}, None),
        ({"tokens": {**TOKENS, "more": 1}}, None),
        ({"tokens": 5}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_tokens_of_a_sage_result_are_accounted_where_they_are_whole(value: Any, tokens: Any) -> None:
    assert tokens_of(value) == tokens


def test_tokens_and_usage_go_into_what_the_task_used(mcp: McpProject, built_in: list[ServerSettings]) -> None:
    costly = mcp.task("sage-research", "costly")
    with_sessions(mcp.project, lambda: mcp.run(costly))
    assert costly.used is not None
    assert (costly.used["input_tokens"], costly.used["output_tokens"], costly.used["cost"]) == (100, 20, 0.5)
    mcp.add_raw()
    result = {"content": [], "structuredContent": {"tokens": TOKENS}}
    research = mcp.task("raw", "result", result=result)
    with_sessions(mcp.project, lambda: mcp.run(research))
    assert research.used is not None
    assert {name: research.used[name] for name in TOKENS} == TOKENS


# Servers as the SDK makes them, of the newest protocol, on all transports


@contextmanager
def served_over_http(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, MODERN, str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "running on" in line:
                break
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.communicate()


@contextmanager
def modern_server(mcp: McpProject, transport: str) -> Iterator[str]:
    """The name of the server of tests/mcp_servers/modern.py, reached by `transport`."""
    if transport == "in-process":
        yield "sage-research"
    elif transport == "stdio":
        add_modern(mcp, mcp.project)
        yield "modern"
    else:
        with served_over_http(mcp.project) as url:
            mcp.configure({"modern": {"type": "http", "url": url, "headers": {"X-Key": "k"}}})
            yield "modern"


@pytest.mark.parametrize("transport", ["in-process", "stdio", "http"])
def test_calls_work_alike_on_every_transport(
    mcp: McpProject, built_in: list[ServerSettings], transport: str
) -> None:
    with modern_server(mcp, transport) as server:

        async def body() -> dict[str, Any]:
            return {
                "value": await mcp.call(server, "look", topic="x"),
                "steps": await mcp.call(server, "steps"),
                "broken": await mcp.error(server, "broken", text="this"),
                "arguments": await mcp.error(server, "look", count="many"),
                "unknown": await mcp.error(server, "lok"),
                "asks": await mcp.error(server, "asks"),
            }

        got = with_sessions(mcp.project, body)
    assert got["value"] == {"topic": "x", "count": 1}
    assert mcp.services.reports[-1] == {"fraction": 1.0, "message": "step 3"}
    errors = {
        name: (type(got[name]).__name__, got[name].retryable)
        for name in got
        if name not in ("value", "steps")
    }
    assert errors == {
        "broken": ("ToolError", True),
        "arguments": ("ToolUnusable", False),
        "unknown": ("ToolUnusable", False),
        "asks": ("InputNeeded", False),
    }
    assert "cannot do this" in str(got["broken"])
    assert "did you mean 'look'?" in str(got["unknown"])


@pytest.mark.parametrize("transport", ["in-process", "stdio", "http"])
def test_a_timeout_cancels_the_tool_and_the_session_lives_on(
    mcp: McpProject, built_in: list[ServerSettings], transport: str
) -> None:
    with modern_server(mcp, transport) as server:

        async def body() -> Any:
            call = asyncio.create_task(mcp.call(server, "wait", seconds=60))
            await eventually((mcp.project / "started").exists)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await eventually((mcp.project / "cancelled").exists)
            return await mcp.call(server, "wait", seconds=0)

        assert with_sessions(mcp.project, body) == {"result": "waited"}


def test_an_http_server_that_is_gone_is_told_and_found_again(mcp: McpProject) -> None:
    with served_over_http(mcp.project) as url:
        mcp.configure({"modern": {"type": "http", "url": url}})
    error = with_sessions(mcp.project, lambda: mcp.error("modern", "look", topic="x"))
    assert type(error).__name__ == "ServerStartFailed"
    assert error.retryable


def test_an_http_server_killed_in_a_call_ends_the_call(tmp_path: Path) -> None:
    mcp = McpProject(tmp_path, effect="once")

    async def body(stop: Any) -> Any:
        call = asyncio.create_task(mcp.error("modern", "wait", seconds=60))
        await eventually((tmp_path / "started").exists)
        stop()
        return await call

    context = served_over_http(tmp_path)
    url = context.__enter__()
    mcp.configure({"modern": {"type": "http", "url": url}})
    error = with_sessions(tmp_path, lambda: body(lambda: context.__exit__(None, None, None)))
    assert type(error).__name__ == "ServerDied"


# In the worker that holds the sessions


def workflow(mcp: McpProject, nodes: list[dict[str, Any]]) -> WorkflowSpec:
    path = mcp.project / "flow.json"
    path.write_text(json.dumps({"name": "flow", "nodes": nodes}))
    return load(path)


@pytest.mark.slow
@pytest.mark.requirement("ORCH-018")
def test_nodes_of_all_runs_share_a_server_that_is_started_once(mcp: McpProject) -> None:
    mcp.add_raw()

    nodes = [{"id": f"n{n}", "type": "mcp", "server": "raw", "tool": "pid"} for n in range(5)]
    flow = workflow(mcp, nodes)
    with Supervisor(project=mcp.project, workers=2) as supervisor:
        first = supervisor.run(flow, run_id="first")
        second = supervisor.run(flow, run_id="second")
    assert (first.status, second.status) == ("succeeded", "succeeded")
    assert len({*first.results.values(), *second.results.values()}) == 1
    assert first.measured["server_starts"] == {"raw": 1}
    assert not second.measured.get("server_starts")


@pytest.mark.slow
def test_a_run_goes_on_after_a_server_that_hangs_lies_and_dies(mcp: McpProject) -> None:
    mcp.add_raw()

    def node(name: str, tool: str, **more: Any) -> dict[str, Any]:
        return {"id": name, "type": "mcp", "server": "raw", "tool": tool, "on_failure": "continue", **more}

    nodes = [
        node("hangs", "never", timeout=0.5),
        node("lies", "lying"),
        node("huge", "huge", arguments={"bytes": 100 << 20, "id": "last"}),
        node(
            "dies", "die_once", needs=["hangs", "lies", "huge"], arguments={"flag": str(mcp.project / "flag")}
        ),
        node("lives", "echo", needs=["dies"], arguments={"text": "on"}),
    ]
    with Supervisor(project=mcp.project, workers=2) as supervisor:
        outcome = supervisor.run(workflow(mcp, nodes), run_id="hostile")
    assert outcome.status == "succeeded"
    assert {name: error["type"] for name, error in outcome.errors.items()} == {
        "hangs": "TimeoutExceeded",
        "lies": "BadAnswer",
        "huge": "LimitExceeded",
    }
    assert (outcome["dies"], outcome["lives"]) == ("the second time", "on")
    assert outcome.measured["server_starts"] == {"raw": 2}


@pytest.mark.slow
def test_a_killed_worker_leaves_no_server_and_its_output_is_in_the_log(mcp: McpProject) -> None:
    mcp.add_raw()
    with PoolHarness(mcp.project) as pool:
        worker = pool.worker("mcp")
        pool.define("mcp", {"type": "mcp"})
        noisy = pool.submit(
            worker, "mcp", config={"server": "raw", "tool": "noisy"}, arguments={"bytes": 5000}
        )
        assert pool.value(noisy) == "done"
        wait_until(lambda: "[raw] eee" in collected(pool, noisy), what="the server's stderr is in the log")
        server = int(pool.value(pool.submit(worker, "mcp", config={"server": "raw", "tool": "pid"})))
        os.kill(pool.pid(worker), signal.SIGKILL)
        pool.lost(worker)
        wait_until(lambda: not pid_exists(server), what="the server is gone")


def collected(pool: PoolHarness, key: Any) -> str:
    while not pool.events.empty():
        pool.seen.append(pool.events.get())
    return pool.output(key)

"""The Tasks extension (SEP-2663), spoken by a client half that was written from the specification alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from cli_harness import CommandLine, wait_until
from mcp import MCPError
from mcp.client.extension import ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from orchestration_harness import Talk, in_process, lines, operation, over_stdio, phases, trusted_template
from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from sage_actors.servers.orchestration.server import Orchestration, create_orchestration_server

_TERMINAL = ("completed", "failed", "cancelled")
QUICK = phases([operation("one", "echo once >> ran-one; sleep 0.3; echo done")])
ENDLESS = phases([operation("one", "echo once >> ran-one; exec sleep 60")])


class _Created(Result):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")
    result_type: Literal["task"] = "task"
    task_id: str
    status: str


class _Any(Result):
    model_config = ConfigDict(extra="allow")


class _TaskParams(RequestParams):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="allow")
    task_id: str


class _Task(Request[_TaskParams, Any]):
    method: Any
    params: _TaskParams


async def ask(session: Any, method: str, task_id: str, **fields: Any) -> dict[str, Any]:
    """The answer to tasks/get, tasks/cancel or tasks/update."""
    params = _TaskParams.model_validate({"taskId": task_id, **fields})
    answer: Any = await session.send_request(_Task(method=method, params=params), _Any)
    said: dict[str, Any] = answer.model_dump(by_alias=True)
    return said


class TasksClient(ClientExtension):
    """Follows a task to its end. polls: each state that it saw; created: the first answer."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, *, follow: bool = True) -> None:
        self.polls: list[str] = []
        self.created: list[dict[str, Any]] = []
        self._follow = follow

    async def _resolve(self, created: _Created, context: Any) -> CallToolResult:
        self.created.append(created.model_dump(by_alias=True))
        while self._follow:
            task = await ask(context.session, "tasks/get", created.task_id)
            self.polls.append(task["status"])
            if task["status"] == "completed":
                return CallToolResult.model_validate(task["result"])
            if task["status"] in _TERMINAL:
                break
            await asyncio.sleep(0.02)
        return CallToolResult(content=[], structured_content={"success": True, "workflowId": created.task_id})

    def claims(self) -> Any:
        return [ResultClaim(result_type="task", model=_Created, resolve=self._resolve)]


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Orchestration]:
    made = Orchestration(tmp_path)
    yield made
    made.runs.close()


def talk(core: Orchestration, say: Any, *extensions: Any) -> Any:
    return in_process(create_orchestration_server(core.project, core), say, extensions=extensions)


@pytest.mark.requirement("ORCH-013")
def test_a_client_that_declares_tasks_gets_one_and_its_result(core: Orchestration) -> None:
    trusted_template(core.project, "quick", QUICK)
    tasks = TasksClient()

    async def say(client: Talk) -> None:
        done = await client.call("execute", feature="x", template="quick")
        assert (done["status"], done["workflowId"]) == ("completed", "quick-x")
        assert done["results"]["outputs"]["p1/one"]["stdout"] == "done\n"
        assert client.client.server_capabilities.extensions is not None
        assert tasks.identifier in client.client.server_capabilities.extensions

    talk(core, say, tasks)
    (created,) = tasks.created
    assert (created["taskId"], created["status"]) == ("quick-x", "working")
    assert created["ttlMs"] is None
    assert created["pollIntervalMs"] > 0
    assert created["createdAt"] <= created["lastUpdatedAt"]
    assert set(tasks.polls[:-1]) <= {"working"}
    assert tasks.polls[-1] == "completed"


def test_a_client_that_does_not_is_never_given_a_task(core: Orchestration) -> None:
    trusted_template(core.project, "quick", QUICK)

    async def say(client: Talk) -> None:
        assert (await client.call("execute", feature="x", template="quick"))["status"] == "running"
        await client.end_of("x")

    talk(core, say)


def test_what_ends_at_once_is_no_task(core: Orchestration) -> None:
    trusted_template(core.project, "quick", QUICK)
    tasks = TasksClient()

    async def say(client: Talk) -> None:
        assert (await client.call("execute", feature="x", template="nope")).is_error
        assert (await client.call("execute", feature="x", template="quick", wait=True))[
            "status"
        ] == "completed"
        assert (await client.call("execute", feature="x", template="quick"))["status"] == "completed"
        assert (await client.call("list"))["success"]

    talk(core, say, tasks)
    assert not tasks.created


def test_a_failed_run_completes_its_task_with_an_error_result(core: Orchestration) -> None:
    trusted_template(
        core.project, "bad", phases([operation("one", "sleep 0.2; false", retry={"max_attempts": 1})])
    )

    async def say(client: Talk) -> None:
        failed = await client.call("execute", feature="x", template="bad")
        assert (failed.is_error, failed["status"], failed["errors"][0]["node"]) == (True, "failed", "p1/one")

    talk(core, say, TasksClient())


def test_a_task_is_cancelled_updated_in_vain_and_unknown(core: Orchestration) -> None:
    trusted_template(core.project, "endless", ENDLESS)

    async def say(client: Talk) -> None:
        session = client.client.session
        made: Any = await client.client.call_tool(
            "sage_workflow_execute", {"feature": "x", "template": "endless"}
        )
        task_id = made.structured_content["workflowId"]
        wait_until(lambda: lines(core.project / "ran-one"))
        assert (await ask(session, "tasks/update", task_id, inputResponses={"a": 1}))[
            "resultType"
        ] == "complete"
        assert (await ask(session, "tasks/get", task_id))["status"] == "working"
        await ask(session, "tasks/cancel", task_id)
        assert (await ask(session, "tasks/get", task_id))["status"] == "cancelled"
        await ask(session, "tasks/cancel", task_id)
        for method in ("tasks/get", "tasks/cancel", "tasks/update"):
            for unknown in ("nope", "../state", ""):
                with pytest.raises(MCPError) as caught:
                    await ask(session, method, unknown)
                assert caught.value.code == -32602

    talk(core, say, TasksClient(follow=False))


@pytest.mark.requirement("ORCH-017")
def test_a_task_outlives_the_server_that_made_it(tmp_path: Path) -> None:
    sage = CommandLine(tmp_path)
    sage.environ |= {name: os.environ[name] for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")}
    trusted_template(
        sage.project, "gate", phases([operation("one", "echo once >> ran-one; test -e go || exec sleep 60")])
    )

    async def begin(client: Talk) -> str:
        made: Any = await client.client.call_tool(
            "sage_workflow_execute", {"feature": "x", "template": "gate"}
        )
        wait_until(lambda: sage.count("ran-one"))
        return str(made.structured_content["workflowId"])

    async def go_on(client: Talk) -> None:
        session = client.client.session
        stopped = await ask(session, "tasks/get", task_id)
        assert stopped["status"] == "completed"
        assert stopped["result"]["structuredContent"]["status"] == "paused"
        (sage.project / "go").touch()
        await client.client.call_tool("sage_workflow_resume", {"feature": task_id})
        while (task := await ask(session, "tasks/get", task_id))["status"] == "working":
            await asyncio.sleep(0.05)
        assert task["result"]["structuredContent"]["status"] == "completed"

    try:
        task_id = over_stdio(sage, begin, extensions=[TasksClient(follow=False)])
        over_stdio(sage, go_on, extensions=[TasksClient(follow=False)])
    finally:
        sage.close()

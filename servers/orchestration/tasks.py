"""Runs as tasks: a task's id is the run's, and what it answers is read from the run's journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.to_thread
from mcp.types import CallToolResult, TextContent

from sage_actors.messages.errors import SageError
from sage_actors.servers.orchestration.errors import ToolRefused
from sage_actors.servers.orchestration.models import Execution
from sage_actors.servers.orchestration.view import describe, execution_of

if TYPE_CHECKING:
    from sage_actors.servers.orchestration.server import Orchestration

__all__ = ["RunTasks"]

_POLL_MS = 500


class RunTasks:
    """The `TaskSource` of an orchestration server.

    A run that fails or pauses completes its task: the call has a result, and the result says so. A run that is
    resumed after that goes on under the same task id.
    """

    def __init__(self, core: Orchestration) -> None:
        self._core = core

    def task_id(self, result: CallToolResult) -> str | None:
        handle = result.structured_content or {}
        return handle.get("workflowId") if handle.get("status") == "running" else None

    async def task(self, task_id: str) -> dict[str, Any] | None:
        return await anyio.to_thread.run_sync(self._task, task_id, abandon_on_cancel=True)

    async def cancel(self, task_id: str) -> bool:
        return await anyio.to_thread.run_sync(self._cancel, task_id, abandon_on_cancel=True)

    def _task(self, task_id: str) -> dict[str, Any] | None:
        book = self._core.book
        if task_id not in book.state.run_ids():
            return None
        past = book.read(task_id)
        status = describe(past)
        task: dict[str, Any] = {
            "taskId": task_id,
            "status": _STATES.get(past.status, "completed"),
            "createdAt": status.started_at,
            "lastUpdatedAt": status.last_updated_at,
            "ttlMs": None,
            "pollIntervalMs": _POLL_MS,
        }
        if message := _message(status):
            task["statusMessage"] = message
        if task["status"] == "completed":
            task["result"] = _result(execution_of(past))
        return task

    def _cancel(self, task_id: str) -> bool:
        if task_id not in self._core.book.state.run_ids():
            return False
        try:
            self._core.cancel(task_id, True)
        except (ToolRefused, SageError):
            pass  # it has ended, or goes on: tasks/get tells
        return True


_STATES = {"running": "working", "cancelled": "cancelled"}


def _message(status: Any) -> str:
    if status.waiting:
        node, why = next(iter(status.waiting.items()))
        return f"{node} waits: {why}"
    if status.status == "running":
        return (
            f"{status.phase or status.template}: {status.progress.completed} of {status.progress.total} done"
        )
    return status.reason or ""


def _result(answer: Execution) -> dict[str, Any]:
    structured = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    result = CallToolResult(
        content=[TextContent(type="text", text=answer.model_dump_json(by_alias=True, exclude_none=True))],
        structured_content=structured,
        is_error=answer.status == "failed",
    )
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)

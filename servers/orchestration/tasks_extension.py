"""The Tasks extension (SEP-2663) for tools that begin something durable: the handle becomes a task.

    tools/call            -> the tool begins its work and answers with a handle; a client that declared
                             io.modelcontextprotocol/tasks gets {"resultType": "task", "taskId", "status", ...}
    tasks/get             -> where it stands; with the tool's own result once it has ended
    tasks/cancel          -> stops it
    tasks/update          -> acknowledged: no task of ours asks its client for input

A task's id is that of the work, so a task outlives the server that answered the call.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.types import INVALID_PARAMS, CallToolRequestParams, CallToolResult, ClientCapabilities, RequestParams
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

__all__ = ["IDENTIFIER", "TaskSource", "Tasks"]

IDENTIFIER = "io.modelcontextprotocol/tasks"
_VERSIONS = frozenset({"2026-07-28"})


class TaskSource(Protocol):
    """Who knows the work behind tasks. A task is a map of the fields that `tasks/get` answers."""

    def task_id(self, result: CallToolResult) -> str | None:
        """The task that a tool's result is the handle of; None if it is the final result."""
        ...

    async def task(self, task_id: str) -> dict[str, Any] | None:
        """The task as it stands; None if there is none."""
        ...

    async def cancel(self, task_id: str) -> bool:
        """Stop it; False if there is none. One that has ended stays as it is."""
        ...


class _TaskParams(RequestParams):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    task_id: str


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any] = Field(default_factory=dict)


class Tasks(Extension):
    """Answers calls of `tools` with tasks, where the client can take one."""

    identifier = IDENTIFIER

    def __init__(self, source: TaskSource, tools: Collection[str]) -> None:
        self._source, self._tools = source, tools

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("tasks/get", _TaskParams, self._get, _VERSIONS),
            MethodBinding("tasks/update", _UpdateParams, self._update, _VERSIONS),
            MethodBinding("tasks/cancel", _TaskParams, self._cancel, _VERSIONS),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        result = await call_next(ctx)
        if params.name not in self._tools or not isinstance(result, CallToolResult) or not _declared(ctx):
            return result
        task_id = self._source.task_id(result)
        task = None if task_id is None else await self._source.task(task_id)
        if task is None or task["status"] != "working":
            return result
        return {**task, "resultType": "task"}

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: _TaskParams) -> dict[str, Any]:
        task = await self._source.task(params.task_id)
        if task is None:
            raise _unknown(params.task_id)
        return {**task, "resultType": "complete"}

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: _UpdateParams) -> dict[str, Any]:
        if await self._source.task(params.task_id) is None:
            raise _unknown(params.task_id)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: _TaskParams) -> dict[str, Any]:
        if not await self._source.cancel(params.task_id):
            raise _unknown(params.task_id)
        return {"resultType": "complete"}


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Clients of older versions may name the extension, and would not understand its answer."""
    return ctx.protocol_version in _VERSIONS and ctx.session.check_client_capability(
        ClientCapabilities(extensions={IDENTIFIER: {}})
    )


def _unknown(task_id: str) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=f"there is no task {task_id!r}")

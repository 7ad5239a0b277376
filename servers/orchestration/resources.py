"""Runs as MCP resources (state, log, artefacts) and the prompt that starts a workflow.

workflow://{feature}/state                 JSON: status, and every operation with its times and error
workflow://{feature}/log                   the last lines that operations printed
workflow://{feature}/artifacts/{name}      a result, whole: by operation id, or by the name of a file it wrote
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp.types import Annotations, CallToolResult, Resource

from sage_actors.messages.errors import SageError
from sage_actors.servers.orchestration.errors import ToolRefused, refusal
from sage_actors.servers.orchestration.view import Runbook, describe
from sage_actors.servers.sage_server import SageServer, WrongArgument
from sage_actors.supervisor.json_text import to_json
from sage_actors.supervisor.recovery.history import History, NodeView

__all__ = ["OrchestrationServer", "add_prompt", "add_resources"]

_MOST_LISTED = 50  # runs
_MOST_LINES = 5_000
_MOST_BYTES = 8 * 1024 * 1024  # of a file
_Content = TypeVar("_Content", str, bytes, str | bytes)

_PROMPT = """\
Run the sage workflow `{template}` for: {feature}

1. Call sage_workflow_execute with feature and template as above. Keep the workflowId.
2. Call sage_workflow_status with it and wait_seconds 45 until status is not "running". Tell the user each
   phase that completes, in one line.
3. completed: read the artifacts that matter (spec.md, plan.md, work-order.md), say where they are and what is
   still open in them. If a result says "needs_agent", carry out its work order, then run the project's checks.
   paused or failed: say why, in the words of `reason` and `errors`, and what to do: sage_workflow_resume
   continues from what has succeeded; an approval is the user's to give.
Never invent what a section leaves undetermined, and never approve for the user.
"""


class OrchestrationServer(SageServer):
    """Lists the latest runs' state and log among its resources; refuses wrong arguments as its tools do errors, unknown
    ones too: who means `fromPhase` and says `from_phase` would have another run continued."""

    takes_more = False

    def __init__(self, book: Runbook, **settings: Any) -> None:
        super().__init__("sage-orchestration", **settings)
        self._book = book

    def refused(
        self, name: str, arguments: Mapping[str, Any], wrong: Sequence[WrongArgument]
    ) -> CallToolResult:
        """`success: false` and what is wrong; of a definition to validate, that it is not valid."""
        return refusal(name, arguments, wrong)

    async def list_resources(self) -> list[Resource]:
        fixed = await super().list_resources()
        run_ids = await anyio.to_thread.run_sync(self._book.run_ids, abandon_on_cancel=True)
        return fixed + [each for run_id in run_ids[:_MOST_LISTED] for each in _resources_of(run_id)]


def add_resources(server: MCPServer[Any], book: Runbook) -> None:
    """Serve every run of the project."""

    @server.resource("workflow://{feature}/state", name="workflow-state", mime_type="application/json")
    def state(feature: str) -> str:
        """Where a run stands: status, progress, metrics, and each operation with its times and error."""
        return _told(_state, book, feature)

    @server.resource("workflow://{feature}/log", name="workflow-log", mime_type="text/plain")
    def log(feature: str) -> str:
        """The last lines that the operations of a run printed: time, operation, stream, text."""
        return _told(_log, book, feature)

    @server.resource("workflow://{feature}/artifacts/{+name}", name="workflow-artifact")
    def artifact(feature: str, name: str) -> str | bytes:
        """A whole result of a run, by its operation's id, or a file that an operation wrote, by its name."""
        return _told(lambda past: _artifact(past, book.state.project, name), book, feature)


def add_prompt(server: MCPServer[Any]) -> None:
    """The prompt `sage_workflow`."""

    @server.prompt(name="sage_workflow", title="Run a sage workflow")
    def sage_workflow(feature: str, template: str = "feature") -> str:
        """Run a workflow for a feature and report on it."""
        return _PROMPT.format(feature=feature, template=template)


def _resources_of(run_id: str) -> Iterator[Resource]:
    for name, kind in (("state", "application/json"), ("log", "text/plain")):
        yield Resource(
            uri=f"workflow://{run_id}/{name}",
            name=f"{run_id}-{name}",
            title=f"{name} of run {run_id}",
            mime_type=kind,
            annotations=Annotations(audience=["assistant"]),
        )


def _told(tell: Callable[[History], _Content], book: Runbook, feature: str) -> _Content:
    try:
        return tell(book.read(book.find(feature)))
    except ToolRefused as error:
        raise ResourceNotFoundError(str(error)) from error
    except (SageError, OSError) as error:
        raise ResourceError(str(error)) from error


def _state(past: History) -> str:
    status = describe(past).model_dump(mode="json", by_alias=True, exclude_none=True)
    return to_json(status | {"operations": [_operation(node) for node in past.nodes()]})


def _operation(node: NodeView) -> dict[str, Any]:
    names = ("id", "phase", "state", "attempts", "seconds", "error", "reason", "tokens", "cost")
    return {name: value for name in names if (value := getattr(node, name)) not in (None, "")}


def _log(past: History) -> str:
    kept = deque(past.logs(), maxlen=_MOST_LINES)
    return "".join(
        f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ} {node} {stream}: {text.rstrip()}\n"
        for at, node, _attempt, stream, text in kept
    )


def _artifact(past: History, project: Path, name: str) -> str | bytes:
    nodes = [node.id for node in past.nodes() if node.state == "succeeded"]
    if name in nodes:
        value = past.value(name)
        return value if isinstance(value, str) else to_json(value)
    files: dict[str, Path] = {}
    for node in nodes:
        for path in _files(past.value(node), project):
            files.setdefault(path.name, path)
            files.setdefault(os.path.relpath(path, os.path.realpath(project)), path)
    if name not in files:
        known = ", ".join([*nodes[:20], *files][:40]) or "none yet"
        raise ResourceNotFoundError(f"run {past.run_id} has no artifact {name!r}; it has: {known}")
    return _content(files[name])


def _files(result: Any, project: Path) -> Iterator[Path]:
    """The file that a result says it wrote, if it is one of the project (no link leads out of it)."""
    said = result.get("path") if isinstance(result, dict) else None
    if not isinstance(said, str) or "\0" in said:
        return
    root = os.path.realpath(project)
    path = Path(os.path.realpath(os.path.join(root, said)))
    if path.is_relative_to(root) and path.is_file():
        yield path


def _content(path: Path) -> str | bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ResourceError(f"{path} is no file")
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ResourceError(f"{path} has more than {_MOST_BYTES:,} bytes; read the file itself")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data

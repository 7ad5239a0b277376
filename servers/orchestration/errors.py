"""Errors as results: upstream's codes where upstream has one, this package's otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcp.types import CallToolResult, TextContent

from sage_actors.messages import errors as known
from sage_actors.messages.errors import DefinitionError, SageError, SecretInStateError, StorageError
from sage_actors.servers.orchestration.models import (
    Execution,
    Listing,
    ValidationIssue,
    Verdict,
    WorkflowError,
)
from sage_actors.servers.sage_server import WrongArgument

__all__ = ["ToolRefused", "error_of_node", "error_of_run", "errors_of", "refusal"]

_MOST = 20
_PREFIX = "the run took longer"  # the engine's reason for a run that its own timeout ended
_CODES = {
    name: each.code
    for name, each in vars(known).items()
    if isinstance(each, type) and issubclass(each, SageError)
}


class ToolRefused(Exception):
    """A tool cannot do what was asked; becomes its result. `code` is upstream's where it has one."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def errors_of(error: BaseException) -> list[WorkflowError]:
    """`error` for the caller of a tool: never a traceback."""
    if isinstance(error, ToolRefused):
        return [WorkflowError(code=error.code, message=str(error))]
    if isinstance(error, DefinitionError):
        return _problems_of(error)
    if isinstance(error, OSError | StorageError):
        return [WorkflowError(code="FILESYSTEM_ERROR", message=str(error))]
    if isinstance(error, SageError):
        return [WorkflowError(code=error.code, message=str(error))]
    text = f"{type(error).__name__}: {error}; this is a fault of sage-actors, its log has the details"
    return [WorkflowError(code="INTERNAL_ERROR", message=text)]


def _problems_of(error: DefinitionError) -> list[WorkflowError]:
    from sage_actors.supervisor.definitions.validation import code_of

    alike = isinstance(error, SecretInStateError)
    return [
        WorkflowError(
            code=error.code if alike else code_of(each), message=str(each), field=each.place or None
        )
        for each in error.problems[:_MOST]
    ]


def error_of_node(node: str, error: Mapping[str, Any]) -> WorkflowError:
    """The failure of one operation, as the journal has it."""
    code = _CODES.get(str(error.get("type")), "OPERATION_ERROR")
    text = f"{error.get('type')}: {error.get('message')}"
    return WorkflowError(code=code, message=text[:2000], node=node)


def error_of_run(status: str, reason: str) -> list[WorkflowError]:
    """Why a run stopped where no operation failed; nothing for one that was cancelled or succeeded."""
    if reason.startswith(_PREFIX):
        return [WorkflowError(code="TIMEOUT_EXCEEDED", message=reason)]
    if status == "failed":
        return [WorkflowError(code="OPERATION_ERROR", message=reason)]
    return []


def refusal(name: str, arguments: Mapping[str, Any], wrong: Sequence[WrongArgument]) -> CallToolResult:
    """The result of the tool `name` for arguments that it does not take."""
    code = "WORKFLOW_VALIDATION_ERROR"
    answer: Verdict | Listing | Execution
    if name == "sage_workflow_validate":
        issues = [
            ValidationIssue(field=each.place, message=each.reason, severity="error", code=code)
            for each in wrong
        ]
        answer = Verdict(valid=False, errors=issues)
    else:
        errors = [WorkflowError(code=code, message=str(each), field=each.place) for each in wrong]
        feature = arguments.get("feature")
        if name == "sage_workflow_list":
            answer = Listing(success=False, workflows=[], errors=errors)
        else:  # the others answer with what this says, and more where they succeed
            said = feature if isinstance(feature, str) else None
            answer = Execution(success=False, feature=said, errors=errors)
    return CallToolResult(
        content=[TextContent(type="text", text=answer.model_dump_json(by_alias=True, exclude_none=True))],
        structured_content=answer.model_dump(mode="json", by_alias=True, exclude_none=True),
        is_error=not isinstance(answer, Verdict),
    )

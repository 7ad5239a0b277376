"""What an MCP server says when a call fails, in this package's errors.

the SDK raises, or the result says         becomes             again?
isError in the result                      ToolError           yes
-32601, -32602, no such tool               ToolUnusable        no: names the tools near it, or its arguments
-32603 and other codes                     ToolError           yes
-32001                                     TimeoutExceeded     yes
the connection ended                       ServerDied          yes
it asks its user something                 InputNeeded         no: nobody is there
an answer that the protocol or the tool's
own schema does not allow                  BadAnswer           no
an answer that is too large                LimitExceeded       no
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    REQUEST_TIMEOUT,
    URL_ELICITATION_REQUIRED,
    Tool,
)
from pydantic import ValidationError

from sage_actors.actors.mcp.stdio import MAX_MESSAGE_BYTES, TOO_LARGE
from sage_actors.messages.errors import LimitExceeded, OperationError, SageError, TimeoutExceeded

__all__ = [
    "LIMIT_TEXT",
    "BadAnswer",
    "InputNeeded",
    "ServerDied",
    "ServerStartFailed",
    "ToolError",
    "ToolUnusable",
    "bad_arguments",
    "explain",
    "protocol_error",
    "unusable",
    "unwrap",
]

_TEXT_CHARS = 4000
_REPEATED = re.compile(r"MCP error (-32\d{3}): (.*)", re.DOTALL)
_ASKING = frozenset({MISSING_REQUIRED_CLIENT_CAPABILITY, URL_ELICITATION_REQUIRED})
# How the SDK's client answers a server that asks, where nobody has told it who could
_QUESTIONS = frozenset({"Elicitation not supported", "Sampling not supported", "List roots not supported"})
LIMIT_TEXT = f"exceeded the {MAX_MESSAGE_BYTES} byte limit"  # the words of httpx2 for an event
_NAMES = 8
_BAD_ARGUMENTS = re.compile(r"\d+ validation errors? for \w*Arguments|^wrong arguments for \w+:")


class ToolError(OperationError):
    """The tool ran and failed, or the server could not run it. The text is the server's."""

    code = "TOOL_FAILED"


class ToolUnusable(OperationError):
    """The server has no such tool, or the tool does not take these arguments. To its breaker that is an answer."""

    retryable = False
    details: ClassVar = {"answered": True}
    code = "TOOL_UNUSABLE"


class ServerStartFailed(OperationError):
    """The server could not be started or reached. `retry_after`: seconds until it is tried again at all."""

    code = "SERVER_START_FAILED"

    def __init__(self, text: str, *, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retryable = retryable  # type: ignore[misc]
        self.retry_after = retry_after


class ServerDied(OperationError):
    """The server ended while it worked on the call. It is started again for the next one."""

    code = "SERVER_DIED"


class InputNeeded(OperationError):
    """The tool asks its user something in the middle of a call, and a workflow has nobody to ask."""

    retryable = False
    details: ClassVar = {"answered": True}
    code = "INPUT_NEEDED"


class BadAnswer(OperationError):
    """The server's answer breaks the protocol or the schema that the tool itself declares."""

    retryable = False
    code = "BAD_ANSWER"


def unwrap(error: BaseException) -> BaseException:
    """The first real cause inside groups of exceptions, as task groups raise them.

    >>> unwrap(BaseExceptionGroup("", [ExceptionGroup("", [KeyError(1)])]))
    KeyError(1)
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def explain(error: BaseException, where: str) -> SageError | None:
    """`error` of a call as ours; None if it is not one that a server causes. `where`: tool and server."""
    error = unwrap(error)
    if isinstance(error, SageError):
        return error
    if isinstance(error, MCPError):
        return _explain_code(error, where)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        return BadAnswer(f"{where} answered what the protocol does not allow: {place}: {first['msg']}")
    if isinstance(error, RuntimeError):  # the SDK's, for a result that misses the tool's own schema
        return BadAnswer(f"{where}: {_cut(str(error))}")
    if isinstance(error, OSError):
        return ToolError(f"{where} cannot be reached: {error}")
    return None


def _explain_code(error: MCPError, where: str) -> SageError:
    text = _cut(error.message)
    if error.data == TOO_LARGE or LIMIT_TEXT in text:
        return _too_large(where, text)
    if error.code in _ASKING or text in _QUESTIONS:
        return InputNeeded(f"{where} asks its user something ({text}); a workflow has nobody to ask")
    if error.code == REQUEST_TIMEOUT:
        return TimeoutExceeded(f"{where} did not answer in time: {text}")
    return ToolError(f"{where} failed with code {error.code}: {text}")


def _too_large(where: str, text: str) -> LimitExceeded:
    error = LimitExceeded(f"the answer of {where} is too large: {text}; ask it for less")
    error.retryable = False  # type: ignore[misc]
    return error


def protocol_error(text: str) -> MCPError | None:
    """The error of the protocol that a result's text repeats, as servers of the TypeScript SDK answer.

    >>> protocol_error("MCP error -32602: Invalid arguments").code
    -32602
    """
    match = _REPEATED.match(text)
    return MCPError(int(match.group(1)), match.group(2)) if match else None


def unusable(
    error: BaseException | None, tool: str, server: str, tools: Sequence[Tool]
) -> ToolUnusable | None:
    """That there is no such tool, or how it is called; None if `error` has another reason."""
    names = [each.name for each in tools]
    if tools and tool not in names:
        near = difflib.get_close_matches(tool[:200], names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(sorted(names)[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
        return ToolUnusable(f"the server {server!r} has no tool {tool!r}; {hint}it has {shown}")
    if not isinstance(error, MCPError) or error.code not in (METHOD_NOT_FOUND, INVALID_PARAMS):
        return None
    return _refused(tool, server, error.message, tools)


def bad_arguments(text: str, tool: str, server: str, tools: Sequence[Tool]) -> ToolUnusable | None:
    """That the tool does not take these arguments, as servers of the Python SDK say so: in a failed result."""
    if not _BAD_ARGUMENTS.search(text):
        return None
    lines = [line.strip() for line in text.splitlines() if "errors.pydantic.dev" not in line]
    return _refused(tool, server, "; ".join(line for line in lines if line), tools)


def _refused(tool: str, server: str, reason: str, tools: Sequence[Tool]) -> ToolUnusable:
    found = next((each for each in tools if each.name == tool), None)
    takes = f"; it takes {_parameters(found)}" if found is not None else ""
    return ToolUnusable(f"{tool!r} of {server!r} refused the call: {_cut(reason)}{takes}")


def _parameters(tool: Tool) -> str:
    schema: dict[str, Any] = tool.input_schema if isinstance(tool.input_schema, dict) else {}
    properties = schema.get("properties")
    required = schema.get("required")
    names = list(properties) if isinstance(properties, dict) else []
    must = required if isinstance(required, list) else []
    return ", ".join(f"{name} (required)" if name in must else str(name) for name in names) or "no arguments"


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARS else text[:_TEXT_CHARS] + " [cut]"

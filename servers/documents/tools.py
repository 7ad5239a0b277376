"""What the servers that write documents share: answers with usage, errors, and what they are handed by each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, ValidationError

from sage_actors.messages.backend import TokenUsage
from sage_actors.messages.errors import SageError
from sage_actors.servers.documents.drafting import usage_meta

__all__ = ["WRITES", "answer", "tool_errors", "valid_items"]

Model = TypeVar("Model", bound=BaseModel)

WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)


def answer(result: BaseModel, usage: TokenUsage | None) -> CallToolResult:
    """The result, as structured content and as text; with what a backend used in `_meta`."""
    content = TextContent(type="text", text=result.model_dump_json())
    structured: dict[str, Any] = result.model_dump(mode="json")
    if usage is None:
        return CallToolResult(content=[content], structured_content=structured)
    return CallToolResult(content=[content], structured_content=structured, _meta=usage_meta(usage))


@contextmanager
def tool_errors() -> Iterator[None]:
    """Errors of this package and wrong arguments become errors of the tool, with their own text."""
    try:
        yield
    except (SageError, ValueError) as error:
        raise ToolError(str(error)) from error


def valid_items(model: type[Model], value: Any) -> list[Model]:
    """The elements of a list from another tool that are what they should be; of anything else none."""
    found = []
    for one in value if isinstance(value, list) else []:
        try:
            found.append(model.model_validate(one))
        except ValidationError:
            continue
    return found

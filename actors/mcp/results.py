"""The result of an MCP tool as the value of a node, and what it says of its own cost.

structured content                        -> as it is
one text that is a JSON object or array   -> parsed: servers from before structured content answer so
other text                                -> the text; several texts are joined by newlines
anything else                             -> a list of {type, ...}; data as bytes
nothing                                   -> null
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)
from pydantic import ValidationError

from sage_actors.actors.mcp.errors import BadAnswer
from sage_actors.messages.findings import TokenCount

__all__ = ["USAGE_KEY", "error_text", "tokens_of", "usage_of", "value_of"]

USAGE_KEY = "sage/usage"


def value_of(result: CallToolResult) -> Any:
    """See the module's text.

    Raises:
        BadAnswer: data that is not the base64 that it should be.
    """
    if result.structured_content is not None:
        return result.structured_content
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    if len(texts) < len(result.content):
        return [_block(each) for each in result.content]
    if len(texts) == 1:
        return _parsed(texts[0])
    return "\n".join(texts) if texts else None


def error_text(result: CallToolResult) -> str:
    """What a failed tool said."""
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    if texts:
        return "\n".join(texts)[:4000]
    return (
        str(result.structured_content)[:4000] if result.structured_content is not None else "no reason given"
    )


def usage_of(result: CallToolResult) -> dict[str, Any] | None:
    """What a model used for this answer, as the server says: `input_tokens`, `output_tokens`, `cost`."""
    said = (result.meta or {}).get(USAGE_KEY)
    if not isinstance(said, Mapping):
        return None
    counts = {name: int(_amount(said.get(name))) for name in ("input_tokens", "output_tokens")}
    return {**counts, "cost": _amount(said.get("cost"))}


def tokens_of(value: Any) -> dict[str, Any] | None:
    """The `tokens` of a sage result: what was read, what was kept, and by which tokenizer; None without."""
    said = value.get("tokens") if isinstance(value, dict) else None
    if not isinstance(said, dict):
        return None
    try:
        return TokenCount.model_validate(said).model_dump()
    except ValidationError:
        return None


def _amount(value: Any) -> float:
    """A count that can be added up, whatever the server said."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _parsed(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _block(block: Any) -> dict[str, Any]:
    if isinstance(block, TextContent):
        return {"type": "text", "text": block.text}
    if isinstance(block, ImageContent | AudioContent):
        return {"type": block.type, "mime_type": block.mime_type, "data": _bytes(block.data)}
    if isinstance(block, ResourceLink):
        return {
            "type": "resource_link",
            "mime_type": block.mime_type,
            "uri": str(block.uri),
            "name": block.name,
        }
    if isinstance(block, EmbeddedResource):
        return _resource(block)
    dumped: dict[str, Any] = block.model_dump(mode="json", exclude_none=True)
    return dumped


def _resource(block: EmbeddedResource) -> dict[str, Any]:
    inner = block.resource
    said = {"type": "resource", "mime_type": inner.mime_type, "uri": str(inner.uri)}
    if isinstance(inner, BlobResourceContents):
        return {**said, "data": _bytes(inner.blob)}
    return {**said, "text": inner.text}


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise BadAnswer(f"the server sent data that is not base64 ({cause})") from cause

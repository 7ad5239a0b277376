"""A backend that drafts: a model or a coding agent, behind one method. Without one nothing is drafted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Backend", "Completion", "TokenUsage", "usage_of_failure"]


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What a completion used, as its maker counted. `cost`: in the currency of the maker's bill."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer. `value`: an object of the schema that was asked for, or a text where none was."""

    value: Any
    usage: TokenUsage = field(default_factory=TokenUsage)


class Backend(Protocol):
    """Models and agents are equal. `name`: its provenance, such as `llm:openai:gpt-5` or `agent:claude`."""

    name: str

    async def complete(self, prompt: str, schema: Mapping[str, Any] | None = None) -> Completion:
        """Answers `prompt`; with `schema` (a JSON Schema of an object) as an object that it allows.

        Raises:
            OperationError: no answer, or not one of the schema; `retryable` says whether to ask again.
        """
        ...


def usage_of_failure(error: Exception) -> TokenUsage:
    """What a completion that failed used all the same: backends say it in the error's `usage`."""
    usage = getattr(error, "usage", None)
    return usage if isinstance(usage, TokenUsage) else TokenUsage()

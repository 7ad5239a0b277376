"""The backend that asks a model, through pydantic-ai (`pip install 'sage-actors[llm]'`).

Importing this module imports no client: that takes a second, and is done at the first prompt. Each prompt has a
connection of its own, so that a backend serves several event loops. Nothing is repeated here but an answer that
does not fit its schema, once: whether to try again, and when, is decided where retries, budgets and breakers are.
The providers' clients go the way that the environment's proxies say, which in a confined worker is the egress proxy.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sage_actors.actors.agents.structured import check_schema, schema_problem
from sage_actors.actors.egress.client import explain_chain
from sage_actors.messages.backend import Completion, TokenUsage
from sage_actors.messages.errors import OperationError, UsageError

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.usage import RunUsage

__all__ = ["PROVIDERS", "ModelBackend", "ModelFailed"]

PROVIDERS = {
    "openai": ("openai", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "openai-chat": ("openai", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "anthropic": ("anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
}
"""Provider: (the package of its client, the variables of its key and of its address).

`openai` speaks the Responses API; `openai-chat` Chat Completions, which is what most compatible servers have."""

_REPAIRS = 1
_RETRYABLE = frozenset({408, 409, 425, 429})


class ModelFailed(OperationError):
    """The model gave no answer, or none that its schema allows. `details`: status, model.

    `usage` is what was used all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        usage: TokenUsage,
        model: str,
        retryable: bool,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.usage = usage
        self.retryable = retryable  # type: ignore[misc]
        self.retry_after = retry_after
        self.details = {"model": model, "status": status}


class ModelBackend:
    """One model of one provider.

    Args:
        model: `provider:model`, such as `anthropic:claude-sonnet-5-5`.
        environ: where the provider's key and, for a server of your own, its address are.
        timeout_s: seconds for one request.
        max_tokens: the longest answer; the provider's own limit if None.

    Raises:
        UsageError: the provider is unknown, its client is not installed, or its key is missing.
    """

    def __init__(
        self, model: str, *, environ: Mapping[str, str], timeout_s: float, max_tokens: int | None = None
    ) -> None:
        self.name = f"llm:{model}"
        self._full_name = model
        self._provider, _, self._model = model.partition(":")
        if self._provider not in PROVIDERS or not self._model:
            known = ", ".join(f"{each}:MODEL" for each in PROVIDERS)
            raise UsageError(f"there is no model {model!r}; say {known}")
        package, key, address = PROVIDERS[self._provider]
        if any(importlib.util.find_spec(each) is None for each in ("pydantic_ai", package)):
            raise UsageError(f"to ask {model}, install its client: pip install 'sage-actors[llm]'")
        self._base_url = environ.get(address) or None
        self._key = environ.get(key) or ("" if self._base_url is None else "none")
        if not self._key:
            raise UsageError(f"{model} needs a key: set {key} (or {address}, for a server that needs none)")
        self._timeout_s = timeout_s
        self._max_tokens = max_tokens

    async def complete(self, prompt: str, schema: Mapping[str, Any] | None = None) -> Completion:
        """As `Backend.complete` says. cost: what pydantic-ai makes of its own price list; 0 for a model it has
        no price for.

        Raises:
            ModelFailed: see there.
            SandboxViolation, EgressFailed, BreakerOpenError: the egress proxy answered in place of the model.
            UsageError: `schema` is not a JSON Schema.
        """
        if schema is not None:
            check_schema(schema)
        from pydantic_ai.exceptions import AgentRunError, UserError
        from pydantic_ai.usage import RunUsage

        used = RunUsage()
        try:
            async with self._client() as model:
                value = await self._ask(model, prompt, schema, used)
        except AgentRunError as cause:
            raise explain_chain(cause) or self._failure(cause, used) from cause
        except UserError as cause:
            raise UsageError(f"{self._full_name} cannot be asked: {cause}") from cause
        return Completion(value, _usage(used))

    async def _ask(self, model: Model, prompt: str, schema: Mapping[str, Any] | None, used: RunUsage) -> Any:
        from pydantic_ai import Agent, ModelRetry, ModelSettings, StructuredDict

        settings = ModelSettings(timeout=self._timeout_s)
        if self._max_tokens is not None:
            settings["max_tokens"] = self._max_tokens
        if schema is None:
            return (await Agent(model, model_settings=settings).run(prompt, usage=used)).output
        wanted = StructuredDict(copy.deepcopy(dict(schema)), name="answer")
        agent = Agent(model, output_type=wanted, model_settings=settings, retries={"output": _REPAIRS})

        @agent.output_validator
        def check(value: dict[str, Any]) -> dict[str, Any]:
            if wrong := schema_problem(value, schema):
                raise ModelRetry(f"The answer does not fit its schema: {wrong}")
            return value

        return dict((await agent.run(prompt, usage=used)).output)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Model]:
        """The model over a connection that ends with the block, and that repeats nothing by itself."""
        if self._provider == "anthropic":
            from anthropic import AsyncAnthropic
            from pydantic_ai.models.anthropic import AnthropicModel
            from pydantic_ai.providers.anthropic import AnthropicProvider

            async with AsyncAnthropic(api_key=self._key, base_url=self._base_url, max_retries=0) as anthropic:
                yield AnthropicModel(self._model, provider=AnthropicProvider(anthropic_client=anthropic))
            return
        from openai import AsyncOpenAI
        from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        kind = OpenAIResponsesModel if self._provider == "openai" else OpenAIChatModel
        async with AsyncOpenAI(api_key=self._key, base_url=self._base_url, max_retries=0) as openai:
            yield kind(self._model, provider=OpenAIProvider(openai_client=openai))

    def _failure(self, cause: Exception, used: RunUsage) -> ModelFailed:
        from pydantic_ai.exceptions import (
            ModelAPIError,
            ModelHTTPError,
            ModelQuotaExceededError,
            UnexpectedModelBehavior,
        )

        status = cause.status_code if isinstance(cause, ModelHTTPError) else None
        if status is not None:
            can_help = status in _RETRYABLE or status >= 500
        else:  # no connection, a timeout, an answer that does not fit: another try is another answer
            can_help = isinstance(cause, (ModelAPIError, UnexpectedModelBehavior))
        return ModelFailed(
            f"{self._full_name}: {cause}",
            usage=_usage(used),
            model=self._full_name,
            retryable=can_help and not isinstance(cause, ModelQuotaExceededError),
            status=status,
            retry_after=getattr(cause, "retry_after", None),
        )


def _usage(used: RunUsage) -> TokenUsage:
    return TokenUsage(used.input_tokens, used.output_tokens, float(used.cost or 0))

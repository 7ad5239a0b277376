"""The backend that asks a coding agent's command line. For drafts it may only look."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_actors.actors.agents.process import AgentRequest, run_agent
from sage_actors.actors.agents.table import AgentEntry
from sage_actors.messages.backend import Completion

__all__ = ["AgentBackend"]


class AgentBackend:
    """Starts the agent once for each prompt. Many may run at once; a cancelled one is ended.

    What "only look" means is up to the agent's own flags (`read` in its table). One that has none is started in an
    empty directory of its own: the evidence is in the prompt, and what it writes there goes with it.
    """

    def __init__(
        self,
        agent: str,
        entry: AgentEntry,
        *,
        project: Path,
        environ: Mapping[str, str],
        timeout_s: float,
        model: str | None = None,
    ) -> None:
        self.name = f"agent:{agent}"
        self._agent = agent
        self._entry = entry
        self._project = project
        self._environ = dict(environ)
        self._timeout_s = timeout_s
        self._model = model

    async def complete(self, prompt: str, schema: Mapping[str, Any] | None = None) -> Completion:
        """As `Backend.complete` says: the agent's answer, as text or as an object of `schema`.

        Raises:
            AgentFailed: it failed, or its answer does not match the schema.
            TimeoutExceeded: it took longer than the user's `timeout`.
            UsageError: it cannot be started.
        """
        if self._entry.read:
            return await self._ask(prompt, schema, self._project)
        with tempfile.TemporaryDirectory(prefix="sage-draft-") as empty:
            return await self._ask(prompt, schema, Path(empty))

    async def _ask(self, prompt: str, schema: Mapping[str, Any] | None, cwd: Path) -> Completion:
        request = AgentRequest(
            name=self._agent,
            entry=self._entry,
            prompt=prompt,
            cwd=cwd,
            mode="read",
            model=self._model,
            schema=schema,
            timeout_s=self._timeout_s,
        )
        stopped = threading.Event()
        running = asyncio.ensure_future(
            asyncio.to_thread(run_agent, request, self._environ, stop=stopped.is_set)
        )
        try:
            answer = await asyncio.shield(running)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.wait([running])  # until the process group is gone
            running.exception()  # seen: it says that it was cancelled
            raise
        return Completion(answer.text if schema is None else answer.value, answer.usage)

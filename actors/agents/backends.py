"""Which backend drafts: the one that the user chose, never one that is merely installed or that a repository names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sage_actors.actors.user_config import UserConfig, load_user_config
from sage_actors.messages.backend import Backend
from sage_actors.messages.errors import UsageError

if TYPE_CHECKING:
    from sage_actors.actors.agents.table import AgentEntry

__all__ = ["AGENT_VARIABLE", "MODEL_VARIABLE", "check_backend", "chosen_backend", "load_backend"]

AGENT_VARIABLE = "SAGE_AGENT"
MODEL_VARIABLE = "SAGE_MODEL"
_NOBODY = "none"


def load_backend(environ: Mapping[str, str], project: Path, *, name: str | None = None) -> Backend | None:
    """The backend that `name` says, else $SAGE_AGENT, $SAGE_MODEL, the user's config.toml; None if none says one.

    Args:
        environ: the variables that choose, and what an agent gets; the providers' keys are there, too.
        project: where an agent looks.
        name: an agent's name, `provider:model`, or "none" for nobody.

    Raises:
        UsageError: there is no such agent or provider, its command or client is not there, or its key is missing.
        DefinitionError: the user's config.toml is wrong.
    """
    config = load_user_config(environ)
    chosen = name or chosen_backend(environ, config)
    if chosen is None or chosen == _NOBODY:
        return None
    if ":" in chosen:
        from sage_actors.actors.agents.model_backend import ModelBackend

        return ModelBackend(chosen, environ=environ, timeout_s=config.timeout_s)
    from sage_actors.actors.agents.agent_backend import AgentBackend

    entry = _startable(chosen, config, environ)
    return AgentBackend(chosen, entry, project=project, environ=environ, timeout_s=config.timeout_s)


def check_backend(environ: Mapping[str, str]) -> None:
    """Whether what the user chose is there, before a run begins that would miss it in each of its steps.

    Raises:
        UsageError, DefinitionError: as `load_backend`; a model's key is looked at when it is asked.
    """
    config = load_user_config(environ)
    chosen = chosen_backend(environ, config)
    if chosen is None or chosen == _NOBODY:
        return
    if ":" not in chosen:
        _startable(chosen, config, environ)
    elif find_spec("pydantic_ai") is None:
        raise UsageError(f"{chosen} needs a client for models: pip install 'sage-actors[llm]'")


def chosen_backend(environ: Mapping[str, str], config: UserConfig) -> str | None:
    """The name of what the user chose: an agent, `provider:model`, "none", or None where nothing is said."""
    agent = environ.get(AGENT_VARIABLE) or None
    if agent is not None and ":" in agent:
        raise UsageError(f"${AGENT_VARIABLE} names an agent; {agent!r} is a model: use ${MODEL_VARIABLE}")
    model = environ.get(MODEL_VARIABLE) or None
    if model is not None and ":" not in model:
        raise UsageError(f"${MODEL_VARIABLE} must be PROVIDER:MODEL, such as anthropic:{model}")
    return agent or model or config.agent or config.model


def _startable(name: str, config: UserConfig, environ: Mapping[str, str]) -> AgentEntry:
    from sage_actors.actors.agents.table import executable_problem, find_agent

    entry = find_agent(name, config.agents)
    if problem := executable_problem(entry, environ.get("PATH")):
        raise UsageError(f"the agent {name} cannot be started: {problem}")
    return entry

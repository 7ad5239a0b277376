"""The user's own settings: `config.toml` in the user's configuration directory, beside the key of saved state.

    [backend]                    # what drafts, where neither $SAGE_AGENT nor $SAGE_MODEL says
    agent = "claude"             # or: model = "anthropic:claude-sonnet-5-5"
    timeout = "10m"              # of one draft

    [sandbox]                    # what operations may touch; see actors/confinement/settings.py
    network = ["api.example.com:443"]

    [secrets]
    on_output = "redact"         # or "reject": a result that holds a secret fails its node
    allow = [{ rule = "key-name", path = "*.token" }]   # what is no secret; rules: messages/secret_patterns.py

    [agents.mine]                # an agent of your own, or changes to a known one; see actors/agents/agents.toml
    command = ["my-agent", "--print"]

A project's `.sage/config.toml` is another file: what a repository brings cannot choose what runs with your keys.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sage_actors.actors.confinement.settings import SandboxSettings, parse_sandbox
from sage_actors.actors.keys.provider import default_key_path
from sage_actors.actors.toml_file import load_settings
from sage_actors.actors.workers.redaction import parse_secrets
from sage_actors.messages.errors import KeyUnusableError, Problem
from sage_actors.messages.secret_scan import SecretsPolicy
from sage_actors.messages.units import parse_duration

__all__ = ["UserConfig", "default_config_path", "load_user_config"]

_BACKEND = frozenset({"agent", "model", "timeout"})
_DRAFT_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class UserConfig:
    """See the module's text. At most one of `agent` and `model` is said. timeout_s: of one draft."""

    agent: str | None = None
    model: str | None = None
    timeout_s: float = _DRAFT_TIMEOUT_S
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    secrets: SecretsPolicy = field(default_factory=SecretsPolicy)


def default_config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`config.toml` beside the default key file.

    Raises:
        KeyUnusableError: there is no home directory.
    """
    return default_key_path(environ).with_name("config.toml")


def load_user_config(environ: Mapping[str, str] = os.environ, *, path: Path | None = None) -> UserConfig:
    """The user's settings; those of an empty file where there is none, and where there is no home.

    Raises:
        DefinitionError: all that is wrong with the file.
    """
    try:
        path = path or default_config_path(environ)
    except KeyUnusableError:
        return UserConfig()
    return load_settings(path, _checked)


def _checked(said: dict[str, Any], problems: list[Problem]) -> UserConfig:
    for name in said.keys() - {"backend", "agents", "sandbox", "secrets"}:
        problems.append(Problem(name, "unknown setting", "backend, agents, sandbox or secrets"))
    backend = _table(said.get("backend", {}), "backend", problems)
    for name in backend.keys() - _BACKEND:
        problems.append(Problem(f"backend.{name}", "unknown setting", ", ".join(sorted(_BACKEND))))
    agent, model = (_name(backend.get(name), f"backend.{name}", problems) for name in ("agent", "model"))
    if agent and model:
        problems.append(Problem("backend", "says both an agent and a model", "keep one"))
    agents = _table(said.get("agents", {}), "agents", problems)
    tables = {name: _table(each, f"agents.{name}", problems) for name, each in agents.items()}
    sandbox = parse_sandbox(said.get("sandbox", {}), os.path.expanduser("~"), problems)
    secrets = parse_secrets(said.get("secrets", {}), problems)
    return UserConfig(agent, model, _timeout(backend.get("timeout"), problems), tables, sandbox, secrets)


def _table(value: Any, place: str, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    problems.append(Problem(place, "must be a table"))
    return {}


def _name(value: Any, place: str, problems: list[Problem]) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    problems.append(Problem(place, "must be a text"))
    return None


def _timeout(value: Any, problems: list[Problem]) -> float:
    if value is None:
        return _DRAFT_TIMEOUT_S
    try:
        seconds = parse_duration(value) if isinstance(value, str) else value
    except ValueError:
        seconds = None
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds < 1e9:
        return float(seconds)
    problems.append(Problem("backend.timeout", 'must be seconds, or a text such as "10m"'))
    return _DRAFT_TIMEOUT_S

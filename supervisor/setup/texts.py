"""The texts that `init` writes into a project. They are those of the plugin, which come with the package."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = ["SERVER_NAME", "command_text", "server_entry", "skill_text"]

SERVER_NAME = "sage-orchestration"


def command_text() -> str:
    """The command `/sage.workflow`."""
    return _text("commands", "sage.workflow.md")


def skill_text() -> str:
    """The skill `sage-workflow`, in the Agent Skills format."""
    return _text("skills", "sage-workflow", "SKILL.md")


def server_entry() -> dict[str, Any]:
    """The entry of `.mcp.json` that starts the orchestration server."""
    entry: dict[str, Any] = json.loads(_text(".mcp.json"))["mcpServers"][SERVER_NAME]
    return entry


def _text(*names: str) -> str:
    return resources.files("sage_actors.plugin").joinpath(*names).read_text(encoding="utf-8")

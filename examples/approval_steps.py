"""The steps of `approval.yaml`: draft release notes, and write them as a person decided."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

__all__ = ["draft", "write"]


def draft(version: str, commits: dict[str, Any]) -> dict[str, str]:
    """Notes from the output of `git log`; without a repository, notes that say so.

    Raises:
        ValueError: `version` cannot be part of a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", version):
        raise ValueError(f"{version!r} is no version: letters, digits, dots, dashes and plus signs only")
    lines = commits["stdout"].strip() if commits["exit_code"] == 0 else "- (no git history here)"
    return {"version": version, "text": f"Release {version}\n\n{lines}\n"}


def write(notes: dict[str, str], decision: Any) -> dict[str, str]:
    """Writes `release-notes-<version>.txt`, whole or not at all; `decision` may name a `channel`."""
    channel = str(decision.get("channel", "stable")) if isinstance(decision, dict) else "stable"
    path = Path(f"release-notes-{notes['version']}.txt")
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(f"{notes['text']}\nChannel: {channel}\n", encoding="utf-8")
    os.replace(temporary, path)
    return {"path": str(path), "channel": channel}

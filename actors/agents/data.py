"""The built-in table of coding agents as it is written, without the means to check it: light to import."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["built_in_tables"]


@cache
def built_in_tables() -> dict[str, dict[str, Any]]:
    """Agent -> its fields; the top of `agents.toml` explains them."""
    return tomllib.loads(Path(__file__).with_name("agents.toml").read_text(encoding="utf-8"))

"""Reads a file of settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sage_actors.messages.errors import DefinitionError, Problem

__all__ = ["read_toml"]

_MOST_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any] | None:
    """What the file says; None if there is none.

    Raises:
        DefinitionError: it is larger than 1 MiB, cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise DefinitionError([Problem("", f"more than {_MOST_BYTES} bytes")], source=str(path))
        return tomllib.loads(data.decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as cause:
        raise DefinitionError([Problem("", f"cannot be read: {cause}")], source=str(path)) from cause

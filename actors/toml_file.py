"""Reads a file of settings, and reports all that is wrong with it at once."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sage_actors.messages.errors import DefinitionError, Problem, SecretInStateError
from sage_actors.messages.secret_scan import is_secret_problem

__all__ = ["load_settings", "read_toml"]

T = TypeVar("T")

_MOST_BYTES = 1 << 20


def load_settings(path: Path, check: Callable[[dict[str, Any], list[Problem]], T]) -> T:
    """What `check` makes of the file, of an empty one where there is none; it adds to the problems it is given.

    Raises:
        DefinitionError: all that is wrong with the file; SecretInStateError where that is only secrets in it.
    """
    problems: list[Problem] = []
    settings = check(read_toml(path) or {}, problems)
    if problems:
        kind = SecretInStateError if all(map(is_secret_problem, problems)) else DefinitionError
        raise kind(problems, source=str(path))
    return settings


def read_toml(path: Path) -> dict[str, Any] | None:
    """What the file says; None if there is none.

    Raises:
        DefinitionError: it is larger than 1 MiB, cannot be read, or is no TOML.
    """
    try:
        data = _bytes_of(path)
        if len(data) > _MOST_BYTES:
            raise DefinitionError([Problem("", f"more than {_MOST_BYTES} bytes")], source=str(path))
        return tomllib.loads(data.decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as cause:
        raise DefinitionError([Problem("", f"cannot be read: {cause}")], source=str(path)) from cause


def _bytes_of(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold this process up
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a regular file")
        return file.read(_MOST_BYTES + 1)

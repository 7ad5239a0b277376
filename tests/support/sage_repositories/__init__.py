"""Small but real git repositories of three languages, written by code: history, authors, tests, docs, CI."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sage_repositories.go_router import make_go_router
from sage_repositories.history import Change, replay
from sage_repositories.python_client import make_python_client
from sage_repositories.typescript_api import make_typescript_api

__all__ = ["REPOSITORIES", "Change", "make_go_router", "make_python_client", "make_typescript_api", "replay"]

REPOSITORIES: dict[str, Callable[[Path], Path]] = {
    "python": make_python_client,
    "go": make_go_router,
    "typescript": make_typescript_api,
}

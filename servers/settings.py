"""What a sage server is given when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_actors.messages.backend import Backend

__all__ = ["ServerSettings"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """project: the repository that is looked at and written to. backend: what drafts, None for nobody.

    trusts_checks: whether the user consented to run the project's own checks, which are the project's code.
    """

    project: Path
    backend: Backend | None = None
    trusts_checks: bool = False

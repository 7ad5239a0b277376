"""Records what commands do to a project, outside of a supervisor: removals, consents, keys."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_actors.actors.audit.files import log_files
from sage_actors.actors.audit.log import AuditLog
from sage_actors.actors.keys.provider import KeyRing, load_keys
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import KeyUnusableError

__all__ = ["ProjectAudit", "audit_project"]


class ProjectAudit:
    """Records for one command, each record on the device when `record` returns. A context manager."""

    def __init__(self, log: AuditLog | None) -> None:
        self._log = log

    def __enter__(self) -> ProjectAudit:
        return self

    def __exit__(self, *error: object) -> None:
        if self._log is not None:
            self._log.close()

    def record(self, event: str, run: str | None = None, **fields: Any) -> None:
        """Record `event`. Raises StorageError, AuditError: then it must not happen."""
        if self._log is not None:
            self._log.record(event, run, **fields)

    def drop_before(self, moment: float) -> list[str]:
        """As `AuditLog.drop_before`."""
        return self._log.drop_before(moment) if self._log is not None else []


def audit_project(
    project: Path, environ: Mapping[str, str] = os.environ, *, keys: KeyRing | None = None
) -> ProjectAudit:
    """The project's log, for a command. Records nothing where the project has no state, or has neither log nor key.

    Raises:
        AuditError, StateError, StorageError: as `AuditLog`.
        KeyUnusableError: there is a log, and no usable key.
    """
    state = StateDirectory(project)
    if not state.root.is_dir():
        return ProjectAudit(None)
    try:
        ring = keys or load_keys(environ=environ, create=False)
    except KeyUnusableError:
        if not log_files(state.root.parent):
            return ProjectAudit(None)
        raise
    return ProjectAudit(AuditLog(state, ring, actor="command line"))

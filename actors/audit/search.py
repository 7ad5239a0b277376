"""Up to where the audit log knows a run's journal: found from the end, without reading the rest."""

from __future__ import annotations

from pathlib import Path

from sage_actors.actors.audit.files import log_files
from sage_actors.actors.audit.format import AuditKeys, parse_line
from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.state.directory import StateDirectory
from sage_actors.messages.errors import AuditError, StorageError

__all__ = ["FORGOTTEN", "last_position"]

# After these a run of that id is another one.
FORGOTTEN = frozenset({"run_deleted", "run_archived", "run_discarded"})


def last_position(state: StateDirectory, ring: KeyRing, run_id: str) -> tuple[int, int] | None:
    """(segment, frame) of the last frame of the run's journal that the log covers; None if it covers none.

    Raises:
        AuditError: the line that says so is not genuine.
    """
    keys = AuditKeys(ring)
    for path in reversed(log_files(state.root.parent)):
        found = _in_file(path, run_id, keys)
        if found is not None:
            return found or None
    return None


def _in_file(path: Path, run_id: str, keys: AuditKeys) -> tuple[int, int] | tuple[()] | None:
    """The position; () if the run was forgotten since; None if the file does not know."""
    try:
        data = path.read_bytes()
    except OSError as cause:
        raise StorageError(f"cannot read {path}: {cause}") from cause
    needle = b'"run":"%s"' % run_id.encode("ascii")  # inside a JSON string its quotes would be escaped
    end = data.rfind(b"\n") + 1
    while (found := data.rfind(needle, 0, end)) >= 0:
        start = data.rfind(b"\n", 0, found) + 1
        line = data[start : data.find(b"\n", found)]
        end = start
        try:
            fields, _ = parse_line(line, keys)
        except LookupError:
            continue  # written under a key that we do not have: the journal's frames of that time are, too
        except ValueError as cause:
            raise AuditError(
                f"{path}: a record of run {run_id} is not genuine: {cause}; `sage-actors audit verify` says where"
            ) from cause
        if fields["event"] in FORGOTTEN and fields["run"] == run_id:
            return ()
        if fields["event"] == "states" and fields["run"] == run_id:
            return fields["journal"]["segment"], fields["journal"]["seq"]
    return None

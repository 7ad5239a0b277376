"""What a run refers to and does not hold: results by their place in the journal, and secrets by their name."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sage_actors.actors.keys.keychain import KEYCHAIN_SERVICE, KEYCHAIN_USER
from sage_actors.actors.state.journal_reader import FrameStore
from sage_actors.messages.errors import ActorDeadError, UsageError
from sage_actors.messages.records import Record, RunAdmitted, decode_records
from sage_actors.supervisor.core.run_core import RunCore

__all__ = ["StoredValues", "read_secret", "read_value"]


class StoredValues:
    """Ports of a run that is only read, or has ended: its stored values, and nothing else."""

    def __init__(self, store: FrameStore | None) -> None:
        self._store = store
        self._frames: OrderedDict[Any, list[Record]] = OrderedDict()
        self._lock = threading.Lock()
        self._keeps_open = False

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """While many are read: to open a file and derive its key takes longer than to read one from it."""
        self._keeps_open = True
        try:
            yield
        finally:
            self._keeps_open = False
            if self._store is not None:
                self._store.close()

    def stored_value(self, run: RunCore, location: tuple[Any, int, int]) -> bytes:
        assert self._store is not None
        with self._lock:
            value = read_value(self._store, self._frames, location)
            if not self._keeps_open:  # outcomes may be kept by the thousand, and each would hold a descriptor
                self._store.close()
            return value

    def __getattr__(self, name: str) -> Any:
        raise ActorDeadError(f"the run has ended; {name} is not possible any more")


def read_value(
    store: FrameStore, cache: OrderedDict[Any, list[Record]], location: tuple[Any, int, int]
) -> bytes:
    """A result by the place of its record; neighbours are often wanted next."""
    frame, record, row = location
    records = cache.get(frame)
    if records is None:
        records = cache[frame] = decode_records(store.read(frame))
        while len(cache) > 4:
            cache.popitem(last=False)
    found: Any = records[record]
    assert not isinstance(found, RunAdmitted)
    value: bytes = found.rows[row][3]
    return value


def read_secret(kind: str, name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The value of a secret reference. Never logged, never stored.

    Raises:
        UsageError: there is none of that name.
    """
    if kind == "env":
        value = environ.get(name)
        if value is None or name == "SAGE_STATE_KEY":
            raise UsageError(f"${{env.{name}}}: the environment has no variable {name}; set it and resume")
        return value
    service, _, user = name.rpartition("/")
    service = service or KEYCHAIN_SERVICE
    if (service, user) == (KEYCHAIN_SERVICE, KEYCHAIN_USER):
        raise UsageError(f"${{keyring.{name}}} is the key of saved state, which no operation gets")
    try:
        import keyring
    except ImportError as cause:
        raise UsageError(f"${{keyring.{name}}} needs `pip install 'sage-actors[keychain]'`") from cause
    found = keyring.get_password(service, user)
    if found is None:
        raise UsageError(f"${{keyring.{name}}}: the keychain has no such entry")
    return str(found)

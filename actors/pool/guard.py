"""A process beside the keeper that outlives it: what a killed keeper leaves behind ends, whoever else is gone.

    keeper ---- enters a scope, then forks ---->  guard
           ---- what to remove -------------->    reads on
           ---- (gone) ------- EOF ---------->    SIGKILL to all in the scope; placeholders and folder removed; the end

Where the kernel has no such scope it ends what is in the keeper's user namespace, as the supervisor does, too. With
neither it only removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sage_actors.actors.pool.proc import process_started_at
from sage_actors.sandbox.kernel import close_all_but
from sage_actors.sandbox.namespaces import kill_namespace, user_namespace_of
from sage_actors.sandbox.placeholders import remove_placeholders
from sage_actors.sandbox.scope import enter_scope, is_outside, kill_scope

__all__ = ["Guard"]

_CHUNK = 65536


class Guard:
    """pid: of the process. For a process with one thread, before it enters a sandbox. Raises OSError.

    parent: the process that started this one, which is not to be ended.
    """

    def __init__(self, parent: int) -> None:
        scoped = enter_scope()
        read, self._write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _wait(read, parent, scoped=scoped)
        os.close(read)

    def tell(self, placeholders: Sequence[Any], temporary: str | None) -> None:
        """What this process would remove at its end. temporary: a folder that its parent needs as long as it lives."""
        said = {
            "namespace": user_namespace_of(os.getpid()),
            "placeholders": list(placeholders),
            "temporary": temporary,
        }
        with contextlib.suppress(BrokenPipeError):  # it was killed: then it is as if there were none
            os.write(self._write, json.dumps(said).encode())

    def forget(self) -> None:
        """For what this process forked, whose end is none."""
        os.close(self._write)


def _wait(read: int, parent: int, *, scoped: bool) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(which, signal.SIG_IGN)
        close_all_but((read,))
        before, started_at = user_namespace_of(os.getpid()), process_started_at(parent)
        scoped = scoped and is_outside(parent)  # tried, before anything depends on it
        said = b""
        while chunk := os.read(read, _CHUNK):
            said += chunk
        left = json.loads(said or b"{}")
        if scoped:
            kill_scope()
        elif left.get("namespace") not in (None, before):
            kill_namespace(left["namespace"])
        remove_placeholders(left.get("placeholders", ()))
        if left.get("temporary") and process_started_at(parent) != started_at:
            shutil.rmtree(left["temporary"], ignore_errors=True)
    except BaseException as cause:  # noqa: BLE001 - the border of this process, which has nobody to tell
        print(f"what a killed keeper left could not be ended: {cause}", file=sys.stderr, flush=True)
    finally:
        os._exit(0)

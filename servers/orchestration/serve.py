"""An MCP server on standard input and output, and how its process ends.

stdin ends, SIGTERM, SIGHUP, SIGINT -> runs are stopped (resumable) -> after 0.7 s at most the process is gone
SIGKILL                             -> the keeper kills the workers; what had finished is on disk
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["serve_orchestration", "serve_sage"]

_CLOSE_S = 0.7  # hosts wait for about two seconds between closing stdin and SIGTERM, and again before SIGKILL


def serve_orchestration(project: Path) -> NoReturn:
    """Serve `project` until the client goes away. Ends the process."""
    leaving = _Leaving()
    leaving.on_signals()
    from sage_actors.servers.orchestration.server import Orchestration, create_orchestration_server

    core = Orchestration(project)
    leaving.close = core.runs.close
    server = create_orchestration_server(project, core)
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
    try:
        server.run("stdio")
    except Exception:
        logging.getLogger(__name__).exception("the server failed")
        leaving.leave(70)
    leaving.leave(0)


def serve_sage(name: str, project: Path) -> NoReturn:
    """Serve the sage server of that name until the client goes away. Ends the process.

    Raises:
        UsageError: there is no server of that name.
    """
    from sage_actors.actors.trust.consents import TrustStore, checks_item
    from sage_actors.servers.catalog import create_server
    from sage_actors.servers.settings import ServerSettings

    trusts_checks = TrustStore().trusts(project, checks_item(project))
    server = create_server(name, ServerSettings(project, trusts_checks=trusts_checks))
    leaving = _Leaving()
    leaving.on_signals()
    server.run("stdio")
    leaving.leave(0)


def _warm_up() -> None:
    """Load what the first call needs, while the client says hello."""
    import sage_actors.servers.orchestration.templates
    import sage_actors.supervisor.api
    import sage_actors.supervisor.control.server
    import sage_actors.supervisor.definitions.loading  # noqa: F401


class _Leaving:
    """Ends the process in time, whatever still hangs."""

    def __init__(self) -> None:
        self.close: Callable[[], None] = lambda: None

    def on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def leave(self, code: int) -> NoReturn:
        closing = threading.Thread(target=self.close, name="close", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)  # what is left then is killed by the keeper, and is resumable all the same
        sys.stderr.flush()
        os._exit(code)  # a thread that waits for something must not keep the process

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        threading.Thread(target=self.leave, args=(128 + number,), name="leave", daemon=True).start()

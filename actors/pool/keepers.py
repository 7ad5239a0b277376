"""The keeper processes of one pool: one for its workers, and another for those that are not confined beside it.

A keeper is started when a worker first needs it, and again after it died. Of a confined one also belongs here what
it made and left outside of itself: the listeners that are the way out of its sandbox, the directories that keep
places in the project, and its namespace.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_actors.actors.confinement.plan import Confinement
from sage_actors.actors.pool import ahead, keeper_wire
from sage_actors.actors.pool.io_loop import READ, IoLoop
from sage_actors.actors.pool.keeper_client import KeeperClient

__all__ = ["Keepers"]

_END_S = 1.0  # for a keeper whose channel has ended


class Keepers:
    """`start`, `wait_until_ready` and `close` are called from any thread, the others in the loop's thread.

    on_started(keeper): the main one serves. on_answer(kind, payload): what one says of a worker, see keeper_wire.
    on_gone(keeper): it died, and its workers with it.
    """

    def __init__(
        self,
        loop: IoLoop,
        *,
        project: Path,
        main_path: str | None,
        sys_path: Sequence[str],
        user_paths: Sequence[str],
        environ: Mapping[str, str] | None,
        confinement: Confinement | None,
        on_started: Callable[[KeeperClient], None],
        on_answer: Callable[[int, Any], None],
        on_gone: Callable[[KeeperClient], None],
    ) -> None:
        self._loop = loop
        self._project = project
        self._main_path = main_path
        self._sys_path = sys_path
        self._user_paths = user_paths
        self._environ = environ
        self._confinement = confinement
        self._on_started, self._on_answer, self._on_gone = on_started, on_answer, on_gone
        self._main: KeeperClient | None = None
        self._trusted: KeeperClient | None = None  # of workers that are not confined, beside a confined one
        self._ready = threading.Event()
        self._doors: set[socket.socket] = set()  # ways out of the sandbox that nobody took yet
        self._placeholders: list[Any] = []
        self._namespace: str | None = None
        self.started = 0  # how many, in all

    @property
    def identity(self) -> tuple[int, float] | None:
        """(pid, start time) of the main one."""
        keeper = self._main
        return None if keeper is None else keeper.identity

    def start(self) -> None:
        """Start the main one."""
        self._ready.clear()
        self._main = self._new(self._confinement)
        self._listen_to(self._main)

    def wait_until_ready(self, timeout_s: float) -> bool:
        """False if the main one does not serve within that time, or has died."""
        return self._ready.wait(timeout_s) and self._main is not None

    def of(self, kind: str) -> KeeperClient:
        """The keeper that forks workers of that kind."""
        if kind == "trusted" and self._confinement is not None:
            if self._trusted is None:
                self._trusted = self._new(None)
                self._listen_to(self._trusted)
            return self._trusted
        if self._main is None:
            self.start()
        assert self._main is not None
        return self._main

    def leave_loop(self) -> None:
        """Hear nothing of them any more."""
        for keeper in (self._main, self._trusted):
            if keeper is not None:
                self._loop.unwatch(keeper.socket)
        for door in self._doors:
            self._loop.unwatch(door)

    def close(self, timeout_s: float) -> None:
        """Let each kill what is left, wait that long for it, and remove what the sandbox needed."""
        for keeper in (self._main, self._trusted):
            if keeper is not None:
                keeper.close(timeout_s)
        self._close_doors()
        if self._placeholders:
            from sage_actors.sandbox.placeholders import remove_placeholders

            remove_placeholders(self._placeholders)
        self._ready.set()  # whoever waits is answered

    def _new(self, confinement: Confinement | None) -> KeeperClient:
        environ = os.environ if self._environ is None else self._environ
        if confinement is not None:
            environ = confinement.policy.lane("blocking").environ
        keeper = ahead.take(self._sys_path, confined=confinement is not None) or KeeperClient(
            sys_path=self._sys_path, environ=environ, confined=confinement is not None
        )
        pair = None if confinement is None else confinement.open_broker()
        keeper.settle(
            project=self._project,
            main_path=self._main_path,
            user_paths=self._user_paths,
            environ=environ,
            sandbox=None if confinement is None else confinement.keeper_settings(),
            temporary=None if confinement is None else confinement.temporary,
            broker=None if pair is None else pair[1],
        )
        if pair is not None:
            pair[1].close()
            self._await_knock(pair[0])
        self.started += 1
        return keeper

    def _listen_to(self, keeper: KeeperClient) -> None:
        """Not before it is known here: the first that is heard of it, in the loop's thread, may be its end."""
        self._loop.post(lambda: self._loop.watch(keeper.socket, READ, lambda _: self._hear(keeper)))

    def _hear(self, keeper: KeeperClient) -> None:
        try:
            for kind, payload in keeper.answers():
                if kind != keeper_wire.READY:
                    self._on_answer(kind, payload)
                elif keeper is not self._trusted:
                    self._serves(keeper, payload["placeholders"])
        except EOFError:
            self._gone(keeper)

    def _serves(self, keeper: KeeperClient, placeholders: list[Any]) -> None:
        self._placeholders += placeholders
        if keeper.listener is not None and self._confinement is not None:
            self._await_knock(keeper.listener)
            keeper.listener = None
            from sage_actors.sandbox.namespaces import user_namespace_of

            self._namespace = user_namespace_of(keeper.identity[0])
        self._ready.set()
        self._on_started(keeper)

    def _gone(self, keeper: KeeperClient) -> None:
        """The kernel kills its workers; what they had started is found by its namespace."""
        self._loop.unwatch(keeper.socket)
        if is_trusted := keeper is self._trusted:
            self._trusted = None
        else:
            self._main = None
            for door in self._doors:
                self._loop.unwatch(door)
            self._close_doors()
        self._ready.set()  # who waits for it is answered too
        keeper.close(_END_S)
        if self._namespace is not None and not is_trusted:
            from sage_actors.sandbox.namespaces import kill_namespace

            kill_namespace(self._namespace)
        self._on_gone(keeper)

    # The doors: connections that come through them are the proxy's

    def _await_knock(self, door: socket.socket) -> None:
        self._doors.add(door)
        self._loop.post(lambda: self._listen_at(door))

    def _listen_at(self, door: socket.socket) -> None:
        if door in self._doors:  # else its keeper has gone meanwhile
            self._loop.watch(door, READ, lambda _: self._knocked(door))

    def _knocked(self, door: socket.socket) -> None:
        assert self._confinement is not None
        self._loop.unwatch(door)
        self._doors.discard(door)
        self._confinement.knocked(door)

    def _close_doors(self) -> None:
        """Behind them is nobody any more."""
        while self._doors:
            self._doors.pop().close()

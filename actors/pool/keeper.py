"""The keeper: a clean, single-threaded process that forks the workers and leaves nothing behind.

    supervisor process                       keeper                              worker N
      pool I/O thread  --- FORK, SIGNAL --->  fork (multiprocessing)  -------->  setsid, subreaper, pdeathsig
                       <-- STARTED, EXITED -  SIGCHLD: reap, kill strays          its children, their daemons
          (gone) ------------- EOF -------->  SIGKILL everything below, exit last

Keeper and workers are subreapers: what a worker's operation daemonises stays below that worker, and becomes a
child of the keeper the moment the worker dies. So every child of the keeper that is no worker is a stray of a
dead worker: it is killed before the worker's end is reported. Forking is safe here as there is one thread.

A SIGKILL of the keeper itself kills the workers (PR_SET_PDEATHSIG), and the guard (guard.py) what they had started.
Elsewhere than on Linux there are no subreapers: what daemonises itself escapes.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import multiprocessing
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sage_actors.actors.garbage import collector_paused
from sage_actors.actors.operations.types import ON_A_LOOP
from sage_actors.actors.pool.keeper_wire import (
    EXITED,
    FDS_PER_WORKER,
    FORK,
    LOAD,
    READY,
    SETTINGS,
    SIGNAL,
    STARTED,
)
from sage_actors.actors.pool.watch import children_of, descendants_of
from sage_actors.actors.workers import preloaded, worker
from sage_actors.messages.codec import FrameReader, frame

__all__ = ["Keeper", "main"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICK_S = 1.0  # how often strays are looked for without a reason
_QUIET_S = 0.1  # without a request, before something is imported that nobody asked for
_STRAYS_S = 1.0  # a stray that SIGKILL does not end in this time hangs in the kernel: go on without it
_FINISH_S = 30.0
_OF_MCP = (
    "mcp_types",
    "mcp",
    "sage_actors.actors.workers.async_worker",
    "sage_actors.servers.research.server",
    "sage_actors.actors.operations.mcp",
    "sage_actors.servers.patterns.server",
    "sage_actors.servers.specification.server",
    "sage_actors.servers.planning.server",
    "sage_actors.servers.implementation.server",
)
"""What the worker of MCP sessions imports, in the order of its need. It is imported here, one by one, while nobody
asks for anything: the supervisor reads the workflow and opens the run meanwhile."""
_APART = ("own", "mcp")  # what they start ends with them, whatever it did to escape


@dataclass(slots=True)
class _Child:
    """exit_code: None while it runs. forget: lets go of it after that."""

    number: int
    exit_code: Callable[[], int | None]
    forget: Callable[[], object]


def main(channel_fd: int, parent_pid: int, *, confined: bool = False, ahead: bool = False) -> None:
    """Runs until the other end of the channel is closed or the parent process is gone. Never returns.

    confined: its workers read a PROFILE first. ahead: it dies with its parent until it is told what it is for.
    """
    if ahead:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    keeper = Keeper(socket.socket(fileno=channel_fd), parent_pid, confined=confined)
    try:
        keeper.run()
    except ConnectionError:
        pass  # the supervisor went
    except BaseException:  # noqa: BLE001 - whoever started it reads why on stderr
        traceback.print_exc()
    finally:
        keeper.kill_everything()
        keeper.leave_project()
        os._exit(0)  # nothing here needs an orderly end, and nothing may delay it


class Keeper:
    """See the module's text. One instance a process."""

    def __init__(self, channel: socket.socket, parent_pid: int, *, confined: bool = False) -> None:
        self._channel = channel
        self._parent_pid = parent_pid
        self._confined = confined
        self._project = ""
        self._main_path: str | None = None
        self._user_paths: tuple[str, ...] = ()
        self._sandbox: dict[str, Any] | None = None
        self._temporary: str | None = None
        self._broker_fd = -1
        self._reader = FrameReader()
        self._fds: deque[int] = deque()
        self._children: dict[int, _Child] = {}  # by pid
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._parent_fd = -1
        self._finished = False
        self._to_load: deque[str] = deque()
        self._to_preload: deque[str] = deque()
        self._asked_at = 0.0  # monotonic
        self._placeholders: list[Any] = []
        self._guard: Any = None

    def run(self) -> None:
        self._prepare()
        if self._confined:  # before the new root, and once for all workers
            import sage_actors.actors.confinement.worker_profile
            import sage_actors.sandbox.namespaces  # noqa: F401
        while not self._finished and os.getppid() == self._parent_pid:
            ready = {key.data for key, _ in self._selector.select(self._patience_s())}
            if "parent" in ready:
                return
            if "channel" in ready:
                self._read_requests()
            self._reap()
            if not ready:
                self._load_more()

    def settle(self, said: dict[str, Any]) -> None:
        """What it is for: {"project", "main_path", "user_paths", "environ", "sandbox": of the new root or nil,
        "temporary": a folder to remove in the end or nil, "has_broker"}. From here on it outlives its parent, to
        clean up."""
        _prctl(_PR_SET_PDEATHSIG, 0)
        self._project, self._main_path = said["project"], said["main_path"]
        self._user_paths, self._sandbox = tuple(said["user_paths"]), said["sandbox"]
        self._temporary = said["temporary"]
        if said["has_broker"]:
            self._broker_fd = self._fds.popleft()
        os.environ.clear()
        os.environ.update(said["environ"])
        if self._confined:
            from sage_actors.actors.pool.guard import Guard

            self._guard = Guard(self._parent_pid)
        entered = self._enter_sandbox()
        if self._guard is not None:
            self._guard.tell(self._placeholders, self._temporary)
        self._announce(entered)
        self._to_preload.extend(preloaded.NAMES)
        gc.collect()
        gc.freeze()  # what is here now is never collected: workers do not copy its pages by looking

    def kill_everything(self) -> None:
        """SIGKILL to all that descends from here, again and again until there is nothing to wait for."""
        until = time.monotonic() + _FINISH_S
        while time.monotonic() < until:
            for pid in descendants_of(os.getpid()):
                _kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.0005)

    def leave_project(self) -> None:
        """Removes its placeholders and the workers' folder, as a supervisor that was killed does not. Then it must
        end: no descriptor is left open, as some of them hold the placeholders."""
        if self._temporary is not None:
            import shutil

            shutil.rmtree(self._temporary, ignore_errors=True)
        if not self._placeholders:
            return
        from sage_actors.sandbox.namespaces import uncover
        from sage_actors.sandbox.placeholders import remove_placeholders

        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        uncover(path for path, *_ in self._placeholders)
        remove_placeholders(self._placeholders)

    def _prepare(self) -> None:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._finish)
        self._selector.register(self._channel, selectors.EVENT_READ, "channel")
        self._selector.register(self._wake_read, selectors.EVENT_READ, "wake")
        # A process that the supervisor forked may hold the channel open: its own end shows here.
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._parent_fd = os.pidfd_open(self._parent_pid)
                self._selector.register(self._parent_fd, selectors.EVENT_READ, "parent")

    def _enter_sandbox(self) -> tuple[socket.socket | None, list[Any]]:
        """Makes the new root that all workers will be in: (listener of the proxy, placeholders that were made)."""
        if self._sandbox is None:
            return None, []
        from sage_actors.sandbox.namespaces import enter_root
        from sage_actors.sandbox.profile import Layout
        from sage_actors.sandbox.seccomp import program

        layout = Layout.from_dict(self._sandbox["layout"])
        entered = enter_root(layout, proxy_port=self._sandbox["proxy_port"])
        self._placeholders = entered.placeholders
        for sockets in (False, True):  # the parts of a filter that are the same in every fork are kept
            program(sockets=sockets, namespaces=True, own_pids=True)
        return entered.listener, entered.placeholders

    def _announce(self, entered: tuple[socket.socket | None, list[Any]]) -> None:
        listener, placeholders = entered
        if listener is None:
            self._send(READY, {"pid": os.getpid(), "placeholders": placeholders})
            return
        data = frame(READY, {"pid": os.getpid(), "placeholders": placeholders})
        socket.send_fds(self._channel, [data], [listener.fileno()])
        listener.close()

    def _finish(self, *_: object) -> None:
        self._finished = True

    def _send(self, kind: int, payload: object) -> None:
        try:
            self._channel.sendall(frame(kind, payload))
        except OSError:
            self._finished = True

    def _read_requests(self) -> None:
        data, fds, _, _ = socket.recv_fds(self._channel, 65536, 64 * FDS_PER_WORKER)
        self._fds.extend(fds)
        self._asked_at = time.monotonic()
        if not data:
            self._finished = True
        for kind, payload in self._reader.feed(data):
            if kind == FORK:
                self._fork(payload[0], payload[1])
            elif kind == SETTINGS:
                self.settle(payload)
            elif kind == LOAD:
                self._to_load.extend(_OF_MCP)
            elif kind == SIGNAL:
                self._signal(payload[0], payload[1])

    def _patience_s(self) -> float:
        if self._to_load:
            return 0.0
        return max(0.0, self._asked_at + _QUIET_S - time.monotonic()) if self._to_preload else _TICK_S

    def _load_more(self) -> None:
        """Imports the next of what every fork from now on has."""
        if self._to_load:
            with contextlib.suppress(Exception), collector_paused():  # the worker says what is broken there
                import_module(self._to_load.popleft())
            preloaded.keep()
        elif self._to_preload:
            preloaded.load(self._to_preload.popleft())
        else:
            return
        if not self._to_load:
            gc.freeze()

    def _fork(self, number: int, kind: str) -> None:
        fds = [self._fds.popleft() for _ in range(FDS_PER_WORKER)]
        try:
            if kind in ON_A_LOOP:  # loaded once, here, so that every fork has it
                import sage_actors.actors.workers.async_worker

                preloaded.keep()
            elif kind == "own":
                import sage_actors.actors.operations.python
                import sage_actors.actors.operations.shell  # noqa: F401
            if kind in _APART and self._sandbox is not None:
                pid, child = self._fork_apart(number, kind, fds)
            else:
                pid, child = self._fork_beside(number, kind, fds)
        except (OSError, ImportError) as cause:
            self._send(EXITED, [number, None, f"the worker could not be started: {cause}"])
            return
        finally:
            for fd in fds:
                os.close(fd)
        if kind == "mcp":
            self._to_load.clear()  # it imports the rest itself
        self._children[pid] = child
        self._send(STARTED, [number, pid])

    def _fork_beside(self, number: int, kind: str, fds: list[int]) -> tuple[int, _Child]:
        def become() -> None:
            keeper_pid = os.getppid()
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper_pid or keeper_pid == 1:
                os._exit(1)  # the keeper died before the line above took effect
            os.setsid()
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            sys.exit(self._become_worker(number, kind, fds))

        context = multiprocessing.get_context("fork")
        process = context.Process(target=become, name=f"worker-{number}")
        process.start()
        assert process.pid is not None
        return process.pid, _Child(number, lambda: process.exitcode, process.close)

    def _fork_apart(self, number: int, kind: str, fds: list[int]) -> tuple[int, _Child]:
        from sage_actors.sandbox.namespaces import fork_apart

        apart = fork_apart()
        if apart is not None:
            return apart.pid, _Child(number, apart.exit_code, apart.forget)
        code = 1
        try:
            code = self._become_worker(number, kind, fds, apart=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - the border of this process
            traceback.print_exc()
        finally:
            os._exit(code)

    def _signal(self, number: int, which: int) -> None:
        """SIGKILL reaches every descendant, any other signal the worker's process group."""
        for pid, child in self._children.items():
            if child.number != number:
                continue
            if which == signal.SIGKILL:
                for member in (pid, *descendants_of(pid)):
                    _kill(member, which)
                return
            try:
                os.killpg(pid, which)
            except (ProcessLookupError, PermissionError):  # it has no group of its own yet
                _kill(pid, which)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        ended = []
        for pid, child in list(self._children.items()):
            code = child.exit_code()
            if code is not None:
                del self._children[pid]
                child.forget()
                ended.append((child.number, code))
        self._kill_strays()
        for number, code in ended:
            self._send(EXITED, [number, code, ""])

    def _kill_strays(self) -> None:
        until = time.monotonic() + _STRAYS_S
        guard = None if self._guard is None else self._guard.pid
        while strays := [
            pid for pid in children_of(os.getpid()) if pid not in self._children and pid != guard
        ]:
            for stray in strays:
                for pid in (stray, *descendants_of(stray)):
                    _kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(stray, os.WNOHANG)
            if time.monotonic() > until:
                return
            time.sleep(0.0005)

    def _become_worker(self, number: int, kind: str, fds: list[int], *, apart: bool = False) -> int:
        """In the child: cuts what ties it to the keeper, then works. Returns the exit code."""
        signal.set_wakeup_fd(-1)
        for which in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(which, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._close_all()
        sock, out_write, err_write, out_read, err_read = fds
        os.dup2(out_write, 1)
        os.dup2(err_write, 2)
        os.close(out_write)
        os.close(err_write)
        faulthandler.enable(file=2, all_threads=False)
        settings = worker.Settings(
            number=number,
            project=self._project,
            main_path=self._main_path,
            user_paths=self._user_paths,
            out_fd=out_read,
            err_fd=err_read,
        )
        link = socket.socket(fileno=sock)
        if self._confined:
            from sage_actors.actors.confinement.worker_profile import take_profile

            take_profile(
                link,
                keep_fds=(1, 2, sock, out_read, err_read),
                broker_fd=self._broker_fd,
                apart=apart,
            )
        code: int = _entry(kind)(link, settings)
        return code

    def _close_all(self) -> None:
        if self._guard is not None:
            self._guard.forget()
        self._selector.close()
        self._channel.close()
        for fd in (self._wake_read, self._wake_write, self._parent_fd, *self._fds):
            if fd >= 0:
                os.close(fd)


def _entry(kind: str) -> Any:
    if kind in ON_A_LOOP:
        from sage_actors.actors.workers import async_worker

        return async_worker.mcp_main if kind == "mcp" else async_worker.main
    return worker.main


def _kill(pid: int, which: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, which)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)

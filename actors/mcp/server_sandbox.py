"""The sandbox of one stdio server: narrower than that of the worker that starts it, and told to that worker.

    supervisor: SandboxPolicy.server(entry)   -> {name: what it gets}, with the first words to the worker
    worker:     tell(tier, servers), once; sandbox_of(name), for each start; launched through sandbox/launch.py

A server has a Landlock domain of its own, so that it can look into neither the worker nor another server; a folder of
its own for temporary files and as its home; the variables that its entry sets; and its own right to use the proxy.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_actors.actors.confinement.servers import ANY_OTHER
from sage_actors.actors.mcp.process import StartedProcess
from sage_actors.actors.trust.consents import digest_of
from sage_actors.messages.errors import UsageError
from sage_actors.sandbox import launch
from sage_actors.sandbox.launch import Starter
from sage_actors.sandbox.profile import Profile, is_beneath, outermost

__all__ = ["ServerSandbox", "is_confined", "sandbox_of", "tell"]

_LATE = "its entry came, or changed, when the process that starts servers was there already: end it, and run again"

_told: tuple[str, Mapping[str, Any], Starter] | None = None  # of this worker, which has one tier all its life


def tell(tier: str, servers: Mapping[str, Any]) -> None:
    """From now on `sandbox_of` knows: {name: {profile, environ}, {refused: why}, or None for one that is trusted}.

    For a process that is confined, and has no other thread yet.
    """
    global _told
    _told = tier, servers, Starter()


def is_confined() -> bool:
    """Whether this process is: it then sees the user's consents as they were when it started."""
    return _told is not None


def sandbox_of(name: str, written: Mapping[str, Any]) -> ServerSandbox | None:
    """What to start the server in; None: nothing of its own, as nothing is confined, or its user trusts it.

    written: its entry. One that was consented to since this process was told gets what any server gets, which is no
    network and none of the user's variables.

    Raises:
        UsageError: its `sandbox` asks for what the project's policy does not grant, or came too late to be heeded.
    """
    if _told is None:
        return None
    tier, servers, starter = _told
    said = servers.get(name, servers[ANY_OTHER])
    if said is None:
        return None
    if why := said.get("refused"):
        raise UsageError(why)
    late = said["entry"] != digest_of(written)
    if late and written.get("sandbox") is not None:
        raise UsageError(f"the `sandbox` of the server {name!r} can be heeded in a later run only; {_LATE}")
    said = servers[ANY_OTHER] if late else said
    return ServerSandbox(starter, tier, Profile.from_dict(said["profile"]), said["environ"], late=late)


@dataclass(frozen=True, slots=True)
class ServerSandbox:
    """environ: the variables that it gets besides those of its entry. late: its entry is newer than what is known."""

    starter: Starter
    tier: str
    profile: Profile
    environ: Mapping[str, str]
    late: bool = False

    @property
    def note(self) -> str:
        """What may explain a failure."""
        return f"it has no network and none of your variables; {_LATE}" if self.late else ""

    def make_place(self) -> str:
        """A folder that is the server's alone. Whoever made it removes it when the server has ended."""
        return os.path.realpath(tempfile.mkdtemp(prefix="sage-server-", dir=os.environ.get("TMPDIR")))

    async def start(
        self, argv: Sequence[str], env: Mapping[str, str], *, cwd: Path, place: str
    ) -> StartedProcess:
        """Starts the server. env: what its entry sets.

        Raises:
            OSError: there is no such program, or no such directory to start it in.
        """
        own = {**self.environ, **self._places(place), **env}
        _check_program(argv[0], own.get("PATH"), cwd)
        profile = replace(self.profile, write=(*self.profile.write, place))
        order = launch.order(profile, self.tier, argv, own, str(cwd))
        try:
            return await StartedProcess.start(lambda stdio: self.starter.start(order, stdio))
        finally:
            os.close(order)

    def _places(self, place: str) -> dict[str, str]:
        """Its own temporary folder; and its own home, where what is granted of the user's is found as it is there."""
        tmp, home = f"{place}/tmp", f"{place}/home"
        os.mkdir(tmp)
        os.mkdir(home)
        found: dict[str, str] = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), tmp)
        real = os.path.expanduser("~")
        granted = (*self.profile.read, *self.profile.write)
        if any(is_beneath(real, each) for each in granted):
            return found  # the home is the project, or part of it
        for path in outermost(each for each in granted if is_beneath(each, real)):
            link = os.path.join(home, os.path.relpath(path, real))
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(path, link)
        return {**found, "HOME": home}


def _check_program(name: str, path: str | None, cwd: Path) -> None:
    os.stat(os.path.join(cwd, "."))
    place = os.path.join(cwd, name) if os.sep in name else shutil.which(name, path=path)
    if place is None or not os.path.exists(place):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if not os.access(place, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)

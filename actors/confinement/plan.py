"""Confinement as the pool needs it: what the keeper is told, and what each worker is told first.

    pool: keeper_settings()  -> the keeper makes the new root, and hands the proxy's listener over: knocked(socket)
          first_words(kind)  -> a PROFILE frame, before all else; the worker is confined before it reads on
          task_words(spec)   -> the same for a worker of one task
          released(token)       once that worker is gone, its right to use the proxy goes too

Without a sandbox (mode "off", or "degrade" where there is none) nothing of this happens, and `active` is false.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_actors.actors.confinement.policy import REOPENED, Grant, SandboxPolicy
from sage_actors.actors.confinement.repository import git_directories
from sage_actors.actors.confinement.settings import Mode
from sage_actors.actors.egress.doorman import PROXY_PORT, Doorman, Proxy, broker_pair, proxy_url
from sage_actors.messages.codec import frame
from sage_actors.messages.errors import SandboxUnavailable, UsageError
from sage_actors.messages.wire import Kind
from sage_actors.sandbox.profile import is_beneath_any

if TYPE_CHECKING:
    from sage_actors.sandbox.probe import Report
    from sage_actors.sandbox.profile import Profile

__all__ = ["Confinement", "Words", "describe_gaps", "resolve_tier"]

_PRIVATE_TMP = "/tmp"  # inside a new root
_STATE = ".sage/state"
_SPECS = "docs/specs"  # what the shipped templates write
_WAYS_OUT = (
    "run on a kernel with user namespaces or Landlock (5.13), or accept operations that are not confined: "
    '`mode = "degrade"` or "off" under [sandbox] in your config.toml, or SAGE_SANDBOX=degrade'
)


@dataclass(frozen=True, slots=True)
class Words:
    """What a worker is told first. token: its right to use the proxy, None without one. expected: a frame for the
    next worker, which may be asked for the same; empty where nothing can be prepared."""

    data: bytes
    token: str | None
    expected: bytes = b""


class Confinement:
    """See the module's text. `tier`: "namespaces", "landlock" or "none"; `gaps`: what it does not promise."""

    def __init__(
        self,
        policy: SandboxPolicy,
        *,
        mode: Mode,
        project: Path,
        make_proxy: Callable[[], Proxy] | None = None,
        report: Report | None = None,
    ) -> None:
        self.mode = mode
        self.policy = policy
        self._project = Path(os.path.realpath(project))
        self.tier, self.gaps = resolve_tier(mode, policy.settings.min_tier, report)
        self._door: Doorman | None = None
        if self.active and make_proxy is not None:
            self._door = Doorman(make_proxy)
        self._lanes: dict[str, Grant] = {}
        self._beside: dict[str, list[str]] = {}  # tokens that end with a worker's
        self._tmp = _PRIVATE_TMP

    @property
    def active(self) -> bool:
        """Whether workers are confined at all."""
        return self.tier != "none"

    def describe(self) -> dict[str, Any]:
        """For events, the audit log and results: {mode, tier, gaps}."""
        return {"mode": self.mode, "tier": self.tier, "gaps": list(self.gaps)}

    def keeper_settings(self) -> dict[str, Any] | None:
        """What the keeper needs to make the new root; None where it makes none. Makes the folders that workers need."""
        if self.tier != "namespaces":
            self._make((*REOPENED, _SPECS))  # a worker can make nothing in the project's top directory
            self._make(
                os.path.join(each, "worktrees") for each in git_directories(str(self._project))
            )  # nor in git's
            if self._tmp == _PRIVATE_TMP:
                self._tmp = tempfile.mkdtemp(prefix="sage-tmp-")
            return None
        self._make(REOPENED)
        self._make((_STATE,), mode=0o700)
        layout = self.policy.layout()
        # Who can open a file can hold a lock on it, on that of another run or of the audit log too.
        layout = replace(layout, hidden=(*layout.hidden, str(self._project / _STATE)))
        return {"layout": layout.to_dict(), "proxy_port": PROXY_PORT}

    @property
    def temporary(self) -> str | None:
        """A folder in the machine's own /tmp, where there is no private one: whoever ends last removes it."""
        return None if self._tmp == _PRIVATE_TMP else self._tmp

    def open_broker(self) -> tuple[socket.socket, socket.socket] | None:
        """(the proxy's end, the end that workers inherit), where workers can make no sockets."""
        if self.tier != "landlock" or self._door is None:
            return None
        return broker_pair()

    def knocked(self, listener: socket.socket) -> None:
        """Somebody wants to go out: at the keeper's listener, inside the network namespace, or at the broker."""
        if self._door is None:
            listener.close()
        else:
            self._door.knocked(listener)

    def first_words(self, kind: str) -> Words:
        """For a worker that is to execute many tasks."""
        grant = self._lanes.get(kind)
        if grant is None:
            grant = self._lanes[kind] = self.policy.lane(kind)
        return self._words(grant, alone=kind == "mcp", with_servers=kind == "mcp")

    def task_words(self, spec: Mapping[str, Any], label: str) -> Words:
        """For a worker of one task.

        Raises:
            UsageError: the operation's own `sandbox` is wider than the project's policy.
        """
        return self._words(self.policy.task(spec, label), alone=True)

    def http_proxy(self, spec: Mapping[str, Any], label: str) -> tuple[str, str] | None:
        """(url of the proxy, token) for one `http` operation; None where no proxy is."""
        if self._door is None:
            return None
        token = self._door.grant(self.policy.http_rules(spec), label)
        return proxy_url(token), token

    def released(self, token: str | None) -> None:
        """Whoever held this token has ended."""
        if token is not None and self._door is not None:
            for each in (token, *self._beside.pop(token, ())):
                self._door.revoke(each)

    def close(self) -> None:
        """Ends the proxy, and removes the output folders that nothing was put into."""
        if self._door is not None:
            self._door.close()
        if self._tmp != _PRIVATE_TMP:
            shutil.rmtree(self._tmp, ignore_errors=True)
        if self.active:
            for name in (*REOPENED, _STATE, _SPECS):
                _remove_empty(self._project / name, self._project)

    def _make(self, folders: Iterable[str], *, mode: int = 0o755) -> None:
        for name in folders:
            with contextlib.suppress(OSError):
                (self._project / name).mkdir(mode=mode, parents=True, exist_ok=True)

    def _words(self, grant: Grant, *, alone: bool, with_servers: bool = False) -> Words:
        token, environ = self._admit(grant)
        said = {
            "tier": self.tier,
            "profile": self._profile(grant).to_dict(),
            "environ": environ,
            "alone": alone and self.tier == "namespaces",
        }
        if with_servers:
            said["servers"] = self._server_words(token)
        expected = frame(Kind.EXPECT, said["profile"]) if said["alone"] else b""
        return Words(frame(Kind.PROFILE, said), token, expected)

    def _server_words(self, token: str | None) -> dict[str, Any]:
        """See actors/mcp/server_sandbox.py. Each has a token of its own, which ends with that of its worker."""
        words: dict[str, Any] = {}
        for name, grant in self.policy.servers().items():
            if grant is None:
                words[name] = None
            elif isinstance(grant, UsageError):
                words[name] = {"refused": str(grant)}
            else:
                own, environ = self._admit(grant) if grant.rules else (None, dict(grant.environ))
                if own is not None and token is not None:
                    self._beside.setdefault(token, []).append(own)
                profile = replace(grant.profile, network=own is not None)
                words[name] = {"profile": profile.to_dict(), "environ": environ}
                words[name]["entry"] = self.policy.entry_digest(name)
        return words

    def _admit(self, grant: Grant) -> tuple[str | None, dict[str, str]]:
        """(a token for its rules, if there is a proxy; its environment with that)."""
        token = None if self._door is None else self._door.grant(grant.rules, grant.label)
        environ = grant.with_proxy(None if token is None else proxy_url(token), tmp=self._tmp)
        if self.tier == "landlock" and (closed := _closed_git_configuration(grant.profile)):
            environ.setdefault("GIT_CONFIG_GLOBAL", closed)
        return token, environ

    def _profile(self, grant: Grant) -> Profile:
        """With the folder for temporary files where there is no root of its own, and so no private /tmp."""
        if self.tier != "landlock":
            return grant.profile
        return replace(grant.profile, write=(*grant.profile.write, self._tmp))


def _closed_git_configuration(profile: Profile) -> str:
    """What git is to read in place of its user's configuration, where that is there and cannot be read: git ends then.

    In a root of its own the home is another one, and git finds none.
    """
    names = ("~/.gitconfig", "~/.config/git/config")
    files = [os.path.realpath(os.path.expanduser(each)) for each in names]
    granted = (*profile.read, *profile.write)
    closed = any(os.path.exists(each) and not is_beneath_any(each, granted) for each in files)
    return os.devnull if closed else ""


def resolve_tier(mode: Mode, min_tier: str, report: Report | None = None) -> tuple[str, tuple[str, ...]]:
    """(tier, gaps) that hold under this mode on this machine.

    Raises:
        SandboxUnavailable: `enforce`, and the machine cannot; names the check that failed and the ways out.
    """
    if mode == "off":
        return "none", ("operations are not confined: the sandbox is switched off",)
    if report is None:
        from sage_actors.sandbox.probe import probe

        report = probe()
    enough = report.tier == "namespaces" or (report.tier == "landlock" and min_tier == "landlock")
    if not enough and mode == "enforce":
        failed = "; ".join(f"{check.name}: {check.detail}" for check in report.checks if not check.ok)
        raise SandboxUnavailable(f"operations cannot be confined here ({failed}): {_WAYS_OUT}")
    return report.tier, report.gaps


def describe_gaps(tier: str, gaps: Sequence[str], here: str = "") -> str:
    """What to say of operations that ran, or run, in this tier.

    >>> describe_gaps("none", ["all is open"], " here")
    'not confined here: all is open'
    >>> describe_gaps("landlock", ["files can be seen"])
    'confined by landlock, with gaps: files can be seen'
    """
    how = f"not confined{here}" if tier == "none" else f"confined{here} by {tier}, with gaps"
    return f"{how}: {'; '.join(gaps)}"


def _remove_empty(folder: Path, project: Path) -> None:
    """The folder and those above it, as far as nothing is in them."""
    while folder not in (project, folder.parent):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent

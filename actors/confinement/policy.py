"""Which profile each kind of work gets: what people granted, made into paths, variables and hosts.

    lane(kind)    of a worker that executes many tasks: the project's profile, applied once at its start
    task(spec)    of one operation that has a worker for itself: narrower where its `sandbox` says so, wider only for
                  agents and models, by what their table says that they need
    layout()      what all of these need to be there at all

The state, the keys, what git, agents and this package execute by themselves (hooks, `.mcp.json`, `.claude/`), and
the virtual environment are never writable.
"""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_actors.actors.agents.data import built_in_tables
from sage_actors.actors.confinement.repository import git_directories, virtual_environments
from sage_actors.actors.confinement.servers import (
    ANY_OTHER,
    consented_servers,
    is_trusted,
    named_files,
    server_variables,
)
from sage_actors.actors.confinement.settings import Narrowing, SandboxSettings, absolute, parse_narrowing
from sage_actors.actors.egress.doorman import PROXY_PORT
from sage_actors.actors.egress.rules import Rule, covers, implicit_rules, operation_rules, parse_rules
from sage_actors.actors.trust.consents import digest_of
from sage_actors.actors.user_config import UserConfig, default_config_path
from sage_actors.messages.errors import KeyUnusableError, Problem, UsageError
from sage_actors.sandbox.profile import (
    Layout,
    Limits,
    Profile,
    is_beneath,
    is_beneath_any,
    outermost,
    system_paths,
)

if TYPE_CHECKING:
    from sage_actors.actors.mcp.config import ServerEntry

__all__ = ["REOPENED", "Grant", "SandboxPolicy"]

REOPENED = (*(".sage/artifacts", ".sage/worktrees", ".sage/patterns", ".sage/agent", ".sage/cache/research"),)
"""The output folders inside `.sage/`."""

_OF_AGENTS = (".sage/artifacts", ".sage/worktrees")
_PROTECTED = (".sage", ".mcp.json", ".claude", ".agents", ".git/hooks", ".git/config", ".git/config.worktree")
_KERNEL_LIMITS = ("files", "file_size", "tmp")
_SKILLS = ("~/.agents/skills", "~/.claude/skills")
_USER_FILES = ("config.toml", "trust.json")  # beside the key, which stays unseen
_MODEL_HOSTS = {"openai": "api.openai.com:443", "anthropic": "api.anthropic.com:443"}


@dataclass(frozen=True, slots=True)
class Grant:
    """What one worker gets. `label` is for the audit log."""

    label: str
    profile: Profile
    environ: Mapping[str, str]
    rules: tuple[Rule, ...]

    def with_proxy(self, url: str | None, *, tmp: str = "/tmp") -> dict[str, str]:
        """Its environment, with the proxy that it is to use."""
        from sage_actors.sandbox.environment import clean_environment

        no_proxy = not any(rule.private for rule in self.rules)
        added = clean_environment({}, extra=(), tmp=tmp, proxy_url=url, no_proxy=no_proxy)
        return {**added, **self.environ, **{name: value for name, value in added.items() if name != "PATH"}}


class SandboxPolicy:
    """See the module's text.

    settings: what the user said, and what a project said that the user consented to. environ: the user's own
    variables, of which workers get those on the list. reads: what the command line named besides.
    """

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        project: Path,
        environ: Mapping[str, str],
        user: UserConfig,
        reads: Iterable[str] = (),
        main_path: str | None = None,
    ) -> None:
        self.settings = settings
        self._project = os.path.realpath(project)
        self._environ = dict(environ)
        self._user = user
        problems: list[Problem] = []
        self._rules = parse_rules(settings.network, "sandbox.network", problems)
        self._agents: dict[str | None, _Needs] = {}
        if problems:
            raise UsageError("; ".join(map(str, problems)))
        self._reads = [*settings.read, *(absolute(each, self._project) for each in reads)]
        if main_path and os.path.isabs(main_path):
            self._reads.append(self._beside(main_path))

    def add_reads(self, paths: Iterable[str]) -> None:
        """More paths that may be read; before the first worker starts."""
        self._reads += [absolute(each, self._project) for each in paths if each]
        for name in ("_base", "_plain"):
            self.__dict__.pop(name, None)

    # What workers get

    def lane(self, kind: str) -> Grant:
        """The grant of a worker of this kind."""
        if kind == "mcp":
            needs = _Needs.union([self._backend_needs(), self._server_needs])
            return self._grant(kind, self._base, needs)
        return replace(self._plain, label=kind)

    def task(self, spec: Mapping[str, Any], label: str) -> Grant:
        """The grant of a worker for one operation, as `wire_spec` describes it.

        Raises:
            UsageError: its `sandbox` asks for what the project's policy does not grant.
        """
        limits = spec.get("limits") or {}
        kernel = {name: limits[name] for name in _KERNEL_LIMITS if limits.get(name) is not None}
        profile = replace(self._base, name=label, limits=replace(self._base.limits, **kernel))
        if spec.get("type") == "agent":
            git = _Needs(write=tuple(git_directories(self._project)))
            if "write" not in (spec.get("sandbox") or {}):
                profile = self._beside_the_checkout(profile)
            grant = self._grant(label, profile, _Needs.union([self._agent_needs(spec), git]))
        else:
            grant = replace(self._plain, label=label, profile=profile)
        return grant if spec.get("sandbox") is None else self._narrowed(grant, spec["sandbox"], label)

    def _beside_the_checkout(self, profile: Profile) -> Profile:
        """An agent works in a worktree, and only looks at the checkout that its user works in."""
        made = (os.path.join(self._project, each) for each in _OF_AGENTS)
        write = _existing([*(each for each in profile.write if each != self._project), *made])
        return replace(profile, read=(*profile.read, self._project), write=write)

    def servers(self) -> dict[str, Grant | UsageError | None]:
        """What each stdio server gets that the user consented to: less than its worker. None: what its worker has,
        as the user trusts it; UsageError: its `sandbox` asks for more. ANY_OTHER: for one that comes later."""
        found: dict[str, Grant | UsageError | None] = {ANY_OTHER: replace(self._server("other"), rules=())}
        for each in self._servers:
            if each.transport == "stdio":
                found[each.name] = None if is_trusted(each, self.settings.trusted) else self._own(each)
        return found

    def entry_digest(self, name: str) -> str:
        """Of a server's entry as it was read for `servers`; "" for one that comes later."""
        return next((digest_of(each.written) for each in self._servers if each.name == name), "")

    def _own(self, entry: ServerEntry) -> Grant | UsageError:
        grant = self._server(entry.name, named_files([entry.command, *entry.args]))
        try:
            said = entry.sandbox
            return grant if said is None else self._narrowed(grant, said, f"mcpServers.{entry.name}")
        except UsageError as wrong:
            return wrong

    def _server(self, name: str, read: Iterable[str] = ()) -> Grant:
        from sage_actors.sandbox.environment import clean_environment

        profile = replace(self._base, name=f"mcp/{name}", shared=False, connect=(PROXY_PORT,))
        grant = self._grant(profile.name, profile, _Needs(read=tuple(read)))
        environ = server_variables(self._environ)
        return replace(grant, environ=clean_environment(environ, extra=(), tmp="/tmp", proxy_url=None))

    @cached_property
    def _base(self) -> Profile:
        return self._project_profile(self._reads)

    @cached_property
    def _plain(self) -> Grant:
        """What an operation gets that needs nothing special: made once, as each that has its own worker asks."""
        return self._grant("plain", self._base, _Needs())

    def problems(self, spec: Mapping[str, Any], node: str) -> list[Problem]:
        """What an operation's own `sandbox` asks for and does not get, before anything runs."""
        said = spec.get("sandbox")
        if said is None:
            return []
        if said == "trusted":
            names = (spec.get("type"), spec.get("call"))
            if any(each in self.settings.trusted for each in names if each):
                return []
            hint = f'add trusted = ["{spec.get("call") or spec.get("type")}"] under [sandbox] of your config.toml'
            return [Problem(f"{node}.sandbox", "is not trusted by its user", hint)]
        try:
            self.task(spec, node)
        except UsageError as wrong:
            return [Problem(f"{node}.sandbox", str(wrong))]
        return []

    def http_rules(self, spec: Mapping[str, Any]) -> tuple[Rule, ...]:
        """Where an `http` operation may go: the address that its definition spells out, and the policy's list."""
        return operation_rules(str(spec.get("type")), spec, self._rules)

    def layout(self) -> Layout:
        """The union of all that any worker may be granted."""
        agents = [self._needs_of(name) for name in self._known_agents()]
        git = _Needs(write=tuple(git_directories(self._project)))
        needs = _Needs.union([*agents, self._backend_needs(), self._server_needs, git])
        return Layout.of(self._grant("all", self._base, needs).profile)

    # How

    def _project_profile(self, given: Sequence[str]) -> Profile:
        git = git_directories(self._project)
        files = [os.path.join(_config_directory(self._environ), name) for name in _USER_FILES]
        reads = [
            *system_paths(),
            *(os.path.realpath(os.path.expanduser(each)) for each in _SKILLS),
            *files,
            *git,
            *given,
        ]
        write = [self._project, *self.settings.write]
        own = self._own_directory([*reads, *write])
        return Profile(
            name="project",
            read=_existing(reads),
            write=_existing(write),
            protected=tuple(dict.fromkeys((*self._protected(git), *own))),
            hidden=(*self._hidden(), *(os.path.join(each, "state.key") for each in own)),
            limits=Limits(tmp=self.settings.tmp_bytes),
            reopened=tuple(os.path.join(self._project, each) for each in REOPENED),
        )

    def _hidden(self) -> Iterable[str]:
        return (absolute(each, self._project) for each in self.settings.hide)

    def _own_directory(self, granted: Sequence[str]) -> list[str]:
        """Where key, consents and settings are, if something that is granted holds it: a home as project."""
        own = os.path.realpath(_config_directory(self._environ))
        return [own] if any(is_beneath(own, each) for each in granted) else []

    def _beside(self, script: str) -> str:
        """What is beside a script may be read, as what it imports is there; not a whole home, nor what holds one."""
        folder = os.path.dirname(os.path.realpath(script))
        wide = (
            os.path.realpath(os.path.expanduser("~")),
            self._project,
            os.path.realpath(tempfile.gettempdir()),
        )
        return (
            script if any(is_beneath(each, folder) and folder != self._project for each in wide) else folder
        )

    def _protected(self, git: Sequence[str]) -> Iterable[str]:
        for name in _PROTECTED:
            yield os.path.join(self._project, name)
        for folder in git:
            yield from (os.path.join(folder, name) for name in ("hooks", "config", "config.worktree"))
        yield from virtual_environments(self._project)

    def _grant(self, label: str, profile: Profile, needs: _Needs) -> Grant:
        from sage_actors.sandbox.environment import clean_environment

        wanted = {*self.settings.env, *needs.variables}
        names = [name for name in self._environ if any(fnmatch.fnmatchcase(name, each) for each in wanted)]
        environ = clean_environment(self._environ, extra=names, tmp="/tmp", proxy_url=None)
        wider = replace(
            profile,
            read=_existing([*profile.read, *needs.read]),
            write=_existing([*profile.write, *needs.write]),
        )
        return Grant(label, wider, environ, (*self._rules, *needs.rules))

    def _narrowed(self, grant: Grant, said: Any, label: str) -> Grant:
        problems: list[Problem] = []
        own = parse_narrowing(said, self._project, problems, f"{label}: sandbox")
        rules = grant.rules if own.network is None else parse_rules(own.network, "sandbox.network", problems)
        profile = _narrower(grant.profile, own, problems, _existing(system_paths()))
        for rule in rules:
            if not covers(grant.rules, rule):
                problems.append(
                    Problem("sandbox.network", f"{rule} is not on the project's list", "only narrower")
                )
        if problems:
            raise UsageError("; ".join(map(str, problems)))
        environ = grant.environ
        if own.env is not None:
            environ = {k: v for k, v in environ.items() if k in own.env or k not in self.settings.env}
        return replace(grant, profile=replace(profile, network=bool(rules)), rules=rules, environ=environ)

    # What agents and models need

    def _known_agents(self) -> list[str]:
        return [*built_in_tables(), *self._user.agents]

    def _needs_of(self, name: str) -> _Needs:
        if name not in self._agents:
            table = {**built_in_tables().get(name, {}), **self._user.agents.get(name, {})}
            program = os.path.expanduser(str((table.get("command") or [""])[0]))
            self._agents[name] = _Needs(
                variables=_texts(table.get("variables")),
                read=(os.path.dirname(os.path.realpath(program)),) if os.path.isabs(program) else (),
                write=tuple(
                    os.path.realpath(absolute(each, self._project)) for each in _texts(table.get("keeps"))
                ),
                rules=parse_rules(table.get("hosts", []), f"agents.{name}.hosts", []),
            )
        return self._agents[name]

    def _backend_needs(self) -> _Needs:
        from sage_actors.actors.agents.backends import chosen_backend

        return self._chosen_needs(chosen_backend(self._environ, self._user))

    @cached_property
    def _servers(self) -> list[ServerEntry]:
        return consented_servers(Path(self._project), self._environ)

    @cached_property
    def _server_needs(self) -> _Needs:
        """Of all servers: variables, programs, and the hosts of their addresses."""
        return _Needs(
            variables=tuple(name for each in self._servers for name in each.variables),
            read=tuple(path for each in self._servers for path in named_files([each.command, *each.args])),
            rules=tuple(rule for each in self._servers for rule in implicit_rules(each.url)),
        )

    def _agent_needs(self, spec: Mapping[str, Any]) -> _Needs:
        name, model = spec.get("agent"), spec.get("model")
        if spec.get("command"):
            return _Needs()
        if name:
            return self._needs_of(name) if name in self._known_agents() else _Needs()
        return self._chosen_needs(model) if model else self._backend_needs()

    def _chosen_needs(self, chosen: str | None) -> _Needs:
        if chosen is None or chosen == "none":
            return _Needs()
        if ":" not in chosen:
            return self._needs_of(chosen) if chosen in self._known_agents() else _Needs()
        from sage_actors.actors.agents.model_backend import PROVIDERS

        package, key, address = PROVIDERS.get(chosen.partition(":")[0], ("", "", ""))
        url = self._environ.get(address)
        host = _MODEL_HOSTS.get(package)
        rules = implicit_rules(url) if url else parse_rules([host] if host else [], "model", [])
        return _Needs(variables=(key, address), rules=tuple(rules))


@dataclass(frozen=True, slots=True)
class _Needs:
    variables: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    @classmethod
    def union(cls, needs: Sequence[_Needs]) -> _Needs:
        """All of them together."""
        return cls(
            tuple(each for need in needs for each in need.variables),
            tuple(each for need in needs for each in need.read),
            tuple(each for need in needs for each in need.write),
            tuple(each for need in needs for each in need.rules),
        )


def _narrower(profile: Profile, own: Narrowing, problems: list[Problem], system: Sequence[str]) -> Profile:
    """The profile with the operation's own lists, each of which must lie inside what it had."""
    wide = (*profile.read, *profile.write)
    for name, paths, within in (("read", own.read, wide), ("write", own.write, profile.write)):
        for path in paths or ():
            if not is_beneath_any(path, within):
                problems.append(
                    Problem(f"sandbox.{name}", f"{path} is not granted to the project", "only narrower")
                )
    read = profile.read if own.read is None else (*system, *own.read)
    write = profile.write if own.write is None else own.write
    if own.read is None and own.write is not None:
        read = (*read, *profile.write)  # less to write is no less to read
    return replace(profile, read=tuple(dict.fromkeys(read)), write=write)


def _texts(said: Any) -> tuple[str, ...]:
    """The texts of a list in a table that is checked when the agent is started."""
    return tuple(each for each in said if isinstance(each, str)) if isinstance(said, list) else ()


def _existing(paths: Iterable[str]) -> tuple[str, ...]:
    """Those that exist, without what lies inside another of them: each costs a system call in each worker."""
    return tuple(outermost(path for path in set(paths) if os.path.exists(path)))


def _config_directory(environ: Mapping[str, str]) -> str:
    try:
        return str(default_config_path(environ).parent)
    except KeyUnusableError:  # without a home there is no such directory
        return "/nonexistent"

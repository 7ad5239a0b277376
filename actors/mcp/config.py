"""The project's `.mcp.json`: which MCP servers it brings, how each is started or reached, and their digest.

    {"mcpServers": {"files": {"command": "npx", "args": ["-y", "server-files", "."], "env": {"TOKEN": "${TOKEN}"}},
                    "search": {"type": "http", "url": "https://host/mcp", "headers": {"X-Key": "${KEY:-none}"}}}}

It is the file that coding agents have already. `${VAR}` and `${VAR:-default}` are replaced in command, args, env,
url and the values of headers, nowhere else; an unset `${VAR}` stays as it is, `$VAR` is plain text. Fields that
are not known here are another program's. A server that cannot be used is a problem of that server alone: it is
told when the server is asked for.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from sage_actors.actors.keys.provider import KEY_VARIABLE
from sage_actors.actors.state.disk import read_all
from sage_actors.actors.trust.consents import Item, cut_description, digest_of
from sage_actors.actors.trust.programs import named_programs
from sage_actors.messages.errors import DefinitionError, Problem
from sage_actors.sandbox.profile import PLACEHOLDER_MODE

__all__ = ["CONFIG_NAME", "ServerEntry", "Transport", "expand", "load_servers"]

CONFIG_NAME = ".mcp.json"
Transport = Literal["stdio", "http", "sse"]

_LIMIT_BYTES = 4 * 1024 * 1024
_NAME_CHARS = 200
_TRANSPORTS: dict[str, Transport] = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamableHttp": "http",
    "sse": "sse",
}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """One server as the file says it. `written`: the entry, unexpanded. `problems`: why it cannot be used.

    timeout_s: longest wait for the answer to one call (`request_timeout_ms` or `timeout`, milliseconds in the
    file). startup_s: longest wait until it has started (`startup_timeout_ms`). sandbox: what narrows it, as that of
    an operation does; for a server that is started here. disabled: it is as if the entry were not there.
    """

    name: str
    project: Path
    written: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()
    transport: Transport = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    startup_s: float | None = None
    sandbox: Any = None
    disabled: bool = False
    unset: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """Where its process starts."""
        return self.project / self.cwd

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the user's variables that the entry refers to."""
        return _variables(self.written)

    @property
    def may_start(self) -> bool:
        """Whether it can be used at all, and so be consented to."""
        return not self.problems and not self.disabled

    @property
    def why_disabled(self) -> str:
        """What to tell whoever asks for a disabled server."""
        return f"the server {self.name!r} is disabled in {CONFIG_NAME}"

    def check(self) -> None:
        """Refuses an entry that cannot be used.

        Raises:
            DefinitionError: carries all of its problems.
        """
        if self.problems:
            raise DefinitionError(self.problems, source=str(self.project / CONFIG_NAME))

    def trust_item(self) -> Item:
        """What a user consents to: the entry as written, and the content of the project's programs that it names.

        Changed content asks again. Data that it names may change; what a program loads in its turn is not
        followed (`trust_programs`).
        """
        digest = digest_of({"entry": self.written, "files": self.programs()})
        return Item("mcp-server", self.name, digest, _described(self.transport, self.written))

    def programs(self) -> dict[str, str]:
        """SHA-256 of the project's programs that it executes, by their paths there."""
        if self.transport != "stdio":
            return {}
        return named_programs(
            (self.command, *self.args), self.env, directory=self.directory, project=self.project
        )


def load_servers(project: Path, environ: Mapping[str, str] | None = None) -> dict[str, ServerEntry]:
    """The servers of `project`'s `.mcp.json` by name; none without the file.

    environ: for `${VAR}`, the process's own if None. The state key is never handed on.

    Raises:
        DefinitionError: the file is no such file. What is wrong with a single server is in its `problems`.
    """
    path = project / CONFIG_NAME
    servers = _servers_of(_read(path), path)
    variables = os.environ if environ is None else environ
    return {name: _entry(name, raw, project, variables) for name, raw in servers.items()}


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """`text` with its variables replaced, and the names of those that are not set and have no default.

    >>> expand("${A:-x}/${B}/$C", {"B": "b", "C": "c"})
    ('x/b/$C', [])
    >>> expand("${A}", {})
    ('${A}', ['A'])
    """
    unset: list[str] = []

    def value(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = None if name == KEY_VARIABLE else environ.get(name)
        if found or (found is not None and default is None):
            return found
        if default is not None:
            return default
        unset.append(name)
        return match.group(0)

    return _VARIABLE.sub(value, text), unset


# The file


def _read(path: Path) -> Any:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise _wrong(path, f"cannot be read: {cause.strerror}") from cause
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind) and stat.S_IMODE(kind) == PLACEHOLDER_MODE:
            return None  # during a run the sandbox keeps the name of a missing file with an empty directory
        if not stat.S_ISREG(kind):
            raise _wrong(path, "is not a regular file")
        return json.loads(
            read_all(fd, limit_bytes=_LIMIT_BYTES).decode("utf-8-sig"),
            parse_constant=_no_number,
            parse_float=_number,
        )
    except json.JSONDecodeError as cause:
        raise _wrong(path, f"is not JSON: {cause.msg}", line=cause.lineno) from cause
    except UnicodeDecodeError as cause:
        raise _wrong(path, f"is not UTF-8, from byte {cause.start} on") from cause
    except (ValueError, OSError) as cause:
        raise _wrong(path, f"cannot be read: {cause}") from cause
    except RecursionError as cause:
        raise _wrong(path, "is nested too deeply") from cause
    finally:
        os.close(fd)


def _number(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _no_number(text)  # 1e999


def _no_number(name: str) -> Any:
    raise ValueError(f"{name[:20]} is no JSON number")


def _servers_of(content: Any, path: Path) -> Mapping[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise _wrong(path, "must be an object", 'write {"mcpServers": {}}')
    servers = content.get("mcpServers")
    if servers is None and "servers" in content:
        raise _wrong(path, "the key is `mcpServers`, not `servers`", "`servers` is VS Code's; rename it")
    if servers is None:
        return {}
    if not isinstance(servers, dict):
        raise _wrong(path, "`mcpServers` must be an object of servers by name")
    return servers


def _wrong(
    path: Path, message: str, hint: str = "correct the file, or remove it", line: int | None = None
) -> Any:
    return DefinitionError([Problem("", message, hint, line)], source=str(path))


# One server


class _Fields:
    """Reads an entry's fields; notes what is wrong and which variables are missing instead of stopping."""

    def __init__(self, name: str, raw: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.unset: dict[str, None] = {}
        self._place = f"mcpServers.{name}"
        self._raw = raw
        self._environ = environ

    def wrong(self, key: str, message: str, hint: str = "") -> None:
        place = f"{self._place}.{key}" if key else self._place
        self.problems.append(Problem(place, message, hint))

    def text(self, key: str, *, expanded: bool = True) -> str:
        value = self._raw.get(key)
        if value is None:
            return ""
        if not isinstance(value, str) or "\0" in value:
            self.wrong(key, f"must be a text, not {_json_type(value)}", "write it in quotes")
            return ""
        return self._expanded(value) if expanded else value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._raw.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(
            isinstance(each, str) and "\0" not in each for each in value
        ):
            self.wrong(key, "must be a list of texts", 'write it as ["one", "two"]')
            return ()
        return tuple(self._expanded(each) for each in value)

    def mapping(self, key: str) -> dict[str, str]:
        value = self._raw.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            self.wrong(key, "must be an object of texts", "write numbers and booleans in quotes")
            return {}
        if bad := [name for name, each in value.items() if not name or "\0" in name + each]:
            self.wrong(key, f"{bad[0]!r} cannot be a name here, or has a zero byte")
            return {}
        return {name: self._expanded(each) for name, each in value.items()}

    def seconds(self, *keys: str) -> float | None:
        for key in keys:
            value = self._raw.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
                self.wrong(key, "must be a number of milliseconds greater than 0")
                return None
            return value / 1000
        return None

    def _expanded(self, text: str) -> str:
        value, unset = expand(text, self._environ)
        self.unset.update(dict.fromkeys(unset))
        return value


def _entry(name: str, raw: Any, project: Path, environ: Mapping[str, str]) -> ServerEntry:
    if not isinstance(raw, dict):
        fields = _Fields(name, {}, environ)
        fields.wrong("", f"must be an object, not {_json_type(raw)}", "give `command`, or `type` and `url`")
        return ServerEntry(name, project, {}, tuple(fields.problems))
    fields = _Fields(name, raw, environ)
    if not 0 < len(name) <= _NAME_CHARS:
        fields.wrong("", f"a name has 1 to {_NAME_CHARS} characters")
    transport = _transport(fields, raw)
    entry = ServerEntry(
        name=name,
        project=project,
        written=raw,
        transport=transport,
        command=fields.text("command"),
        args=fields.texts("args"),
        env={key: value for key, value in fields.mapping("env").items() if key != KEY_VARIABLE},
        cwd=fields.text("cwd", expanded=False),
        url=fields.text("url"),
        headers=fields.mapping("headers"),
        timeout_s=fields.seconds("request_timeout_ms", "timeout"),
        startup_s=fields.seconds("startup_timeout_ms"),
        sandbox=raw.get("sandbox"),
        disabled=raw.get("disabled") is True,
    )
    _check_target(fields, entry)
    return replace(entry, problems=tuple(fields.problems), unset=tuple(fields.unset))


def _transport(fields: _Fields, raw: Mapping[str, Any]) -> Transport:
    said = raw.get("type")
    if said is None:
        return "http" if "url" in raw and "command" not in raw else "stdio"
    found = _TRANSPORTS.get(said) if isinstance(said, str) else None
    if found is None:
        fields.wrong("type", f"{said!r} is not known", "use stdio, http or sse")
        return "stdio"
    return found


def _check_target(fields: _Fields, entry: ServerEntry) -> None:
    if fields.problems:
        return
    if entry.transport == "stdio":
        if not entry.command:
            fields.wrong("command", "is missing", "give the program to start, or `type` and `url`")
        return
    if not entry.url:
        fields.wrong("url", "is missing", "give the server's address, or a `command` to start")
        return
    if reason := _url_problem(entry.url):
        fields.wrong("url", reason, "use https://, or http:// for this machine only")


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as cause:
        return f"is no address ({cause})"
    if parts.scheme not in ("https", "http") or not host:
        return "is no address of an HTTP server"
    if parts.scheme == "http" and host not in _LOOPBACK:
        return f"would send calls and headers to {host} unencrypted"
    return ""


def _described(transport: Transport, written: Mapping[str, Any]) -> str:
    """What starts, and which of the user's variables it gets; what is cut off is said."""
    shown = _command_as_written(written) if transport == "stdio" else str(written.get("url"))
    shown = cut_description(shown)
    names = _variables(written)
    return f"{shown}; is given your {', '.join(f'${name}' for name in names)}" if names else shown


def _variables(written: Mapping[str, Any]) -> tuple[str, ...]:
    """The state key is not among them: nobody is given that."""
    found = dict.fromkeys(match[1] for match in _VARIABLE.finditer(json.dumps(written)))
    return tuple(name for name in found if name != KEY_VARIABLE)


def _command_as_written(written: Mapping[str, Any]) -> str:
    args = written.get("args")
    words = [written.get("command"), *(args if isinstance(args, list) else [])]
    env = written.get("env")
    names = f" (sets {', '.join(sorted(map(str, env)))})" if isinstance(env, dict) and env else ""
    return " ".join(str(word) for word in words if word is not None) + names


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")

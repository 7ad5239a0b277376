"""What operations may touch, as people write it: `[sandbox]` in a file of settings, `sandbox:` of an operation.

    [sandbox]                            # in the user's config.toml
    mode = "enforce"                     # enforce | degrade | off
    min_tier = "landlock"                # namespaces: refuse where only Landlock is there
    read = ["~/data", "/srv/models"]     # besides the system and the project
    write = ["~/.cache/pip"]             # besides the project
    hide = [".env"]                      # of the project, whichever it is: neither read nor written
    network = ["api.example.com:443"]    # [] is none
    env = ["MY_TOKEN"]                   # variables handed on to operations
    tmp = "1GiB"                         # of the private temporary directory
    trusted = ["deploy:push", "agent"]   # calls, or types, that may say `sandbox: trusted`: they are not confined;
                                         # "mcp:NAME": a stdio server that shares the sandbox of its worker

A project's `.sage/config.toml` may say the same but for mode, min_tier and trusted. What it adds to read, write,
network and env widens what operations may do, so that it counts only once the user consented to it (`trust.py`);
`hide` narrows, and counts always. An operation can only narrow: the lists read, write, network and env of its
`sandbox` replace those by a part of them; a list that it leaves out stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from sage_actors.messages.errors import Problem
from sage_actors.messages.units import parse_size

__all__ = ["Mode", "Narrowing", "SandboxSettings", "absolute", "parse_narrowing", "parse_sandbox"]

Mode = Literal["enforce", "degrade", "off"]

_LISTS = ("read", "write", "hide", "network", "env")
_OF_USER = {"mode", "min_tier", "trusted"}
_AS_WRITTEN = {"env", "trusted", "hide"}
_TMP_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """See the module's text. Paths are absolute, but for those of `hide`, which are below whatever project it is;
    network entries are as they were written. mode None: not said.
    """

    mode: Mode | None = None
    min_tier: Literal["namespaces", "landlock"] = "landlock"
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    network: tuple[Any, ...] = ()
    env: tuple[str, ...] = ()
    tmp_bytes: int = _TMP_BYTES
    trusted: tuple[str, ...] = ()

    @property
    def widens(self) -> bool:
        """Whether it grants anything."""
        return bool(self.read or self.write or self.network or self.env)

    def widening(self) -> dict[str, list[Any]]:
        """What is granted, by the name of its list: what a person consents to."""
        lists = {name: list(getattr(self, name)) for name in ("read", "write", "network", "env")}
        return {name: values for name, values in lists.items() if values}

    def joined(self, other: SandboxSettings) -> SandboxSettings:
        """These, and the lists of `other`."""
        lists: Any = {name: (*getattr(self, name), *getattr(other, name)) for name in _LISTS}
        return replace(self, **lists)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What an operation's own `sandbox` says; None: as it is for all."""

    read: tuple[str, ...] | None = None
    write: tuple[str, ...] | None = None
    network: tuple[Any, ...] | None = None
    env: tuple[str, ...] | None = None


def parse_sandbox(
    said: Any, base: str, problems: list[Problem], *, place: str = "sandbox", of_project: bool = False
) -> SandboxSettings:
    """The settings of one table; relative paths are below `base`. What is wrong is added to `problems`."""
    if not isinstance(said, Mapping):
        problems.append(Problem(place, "must be a table"))
        return SandboxSettings()
    known = {*_LISTS, "tmp"} | (set() if of_project else _OF_USER)
    for name in said.keys() - known:
        hint = "the user's config.toml" if name in _OF_USER else ", ".join(sorted(known))
        problems.append(Problem(f"{place}.{name}", "unknown setting", hint))
    mode, tier = said.get("mode"), said.get("min_tier", "landlock")
    if mode not in (None, "enforce", "degrade", "off"):
        problems.append(Problem(f"{place}.mode", "must be enforce, degrade or off"))
    if tier not in ("namespaces", "landlock"):
        problems.append(Problem(f"{place}.min_tier", "must be namespaces or landlock"))
    lists = {name: _list(said, name, base, problems, place) or () for name in _LISTS}
    if of_project:  # consent is to where a link leads now, not to what it may become
        for name in ("read", "write"):
            lists[name] = tuple(map(os.path.realpath, lists[name]))
    trusted = _list(said, "trusted", base, problems, place) or ()
    size = _size(said, problems, place)
    return SandboxSettings(mode, tier, **cast("Any", lists), tmp_bytes=size, trusted=trusted)


def parse_narrowing(said: Any, project: str, problems: list[Problem], place: str) -> Narrowing:
    """An operation's `sandbox`: a map with some of read, write, network and env."""
    if not isinstance(said, Mapping):
        problems.append(Problem(place, "must be a map of read, write, network and env"))
        return Narrowing()
    names = ("read", "write", "network", "env")
    for name in said.keys() - set(names):
        problems.append(Problem(f"{place}.{name}", "unknown", ", ".join(names)))
    return Narrowing(**{name: _list(said, name, project, problems, place) for name in names})


def absolute(path: str, base: str) -> str:
    """`path` made absolute, with `~`, and without `..` or a slash at its end."""
    return os.path.normpath(os.path.join(base, os.path.expanduser(path)))


def _list(
    said: Mapping[str, Any], name: str, base: str, problems: list[Problem], place: str
) -> tuple[Any, ...] | None:
    values = said.get(name)
    if values is None:
        return None
    if not isinstance(values, list):
        problems.append(Problem(f"{place}.{name}", "must be a list"))
        return ()
    if name == "network":
        return tuple(values)  # egress/rules.py checks them
    if not all(isinstance(each, str) and each and "\0" not in each for each in values):
        problems.append(Problem(f"{place}.{name}", "must be a list of texts"))
        return ()
    return tuple(values) if name in _AS_WRITTEN else tuple(absolute(each, base) for each in values)


def _size(said: Mapping[str, Any], problems: list[Problem], place: str) -> int:
    value = said.get("tmp", _TMP_BYTES)
    try:
        size = value if type(value) is int else parse_size(value)
    except (ValueError, TypeError):
        size = 0
    if size < 1 << 20:
        problems.append(Problem(f"{place}.tmp", 'must be a size of at least 1 MiB, such as "1GiB"'))
        return _TMP_BYTES
    return size

"""What a confined process may touch, as data: profiles, limits, and the paths that programs need to run at all.

A profile is a list of grants; what is not granted does not exist (namespaces) or is refused (Landlock):

    write      everything but device nodes          read       read and execute
    protected  inside `write`, but read-only        hidden     inside `read` or `write`, but neither
    reopened   inside `protected`, writable again

All paths are absolute; bytes that are no UTF-8 stand as surrogates, as `os.fsdecode` makes them.
"""

from __future__ import annotations

import functools
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = [
    "PLACEHOLDER_MODE",
    "Layout",
    "Limits",
    "Profile",
    "device_paths",
    "is_beneath",
    "is_beneath_any",
    "outermost",
    "private_paths",
    "system_paths",
]

PLACEHOLDER_MODE = 0o1500
"""Of an empty directory that keeps the name of a protected path that does not exist; no one else uses that mode."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may use. None: not limited. Core files are never written.

    files: open descriptors (RLIMIT_NOFILE). file_size: bytes of one file (FSIZE). memory: bytes of private data
    (DATA; not shared memory, and each process for itself: trees need a watch). processes: of this user in the
    sandbox (NPROC; the kernel does not hold root to it). tmp: bytes of the private temporary directory.
    """

    files: int | None = None
    file_size: int | None = None
    processes: int | None = None
    memory: int | None = None
    tmp: int | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """One set of grants; see the module's text. `name` is for messages.

    network: may talk to the proxy. connect: the only TCP ports that may be connected to (Landlock 4); None: any.
    shared: the private directories of the root, which all of its processes share, are writable; otherwise only
    shared memory, by those who know its name.
    """

    name: str
    read: tuple[str, ...]
    write: tuple[str, ...]
    protected: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    network: bool = True
    limits: Limits = Limits()
    reopened: tuple[str, ...] = ()
    connect: tuple[int, ...] | None = None
    shared: bool = True

    def __post_init__(self) -> None:
        _check_paths(self)

    def to_dict(self) -> dict[str, Any]:
        """Only strings, numbers, lists and dictionaries: for msgpack and JSON."""
        return _to_record(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Profile:
        """The reverse of `to_dict`. Raises ValueError or TypeError for anything that is not what it returns."""
        values = _from_record(cls, record, "profile")
        values["limits"] = Limits(**record.get("limits", {}))
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a new root holds: the union of what the profiles of its processes grant.

    private: directories that are empty, writable, in memory and gone with the root (at most `tmp_bytes` each).
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    reopened: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    tmp_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        _check_paths(self)

    def to_dict(self) -> dict[str, Any]:
        """As that of a profile."""
        return _to_record(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Layout:
        """The reverse of `to_dict`. Raises as that of a profile does."""
        return cls(**_from_record(cls, record, "layout"))

    @classmethod
    def of(cls, *profiles: Profile, private: Iterable[str] | None = None) -> Layout:
        """The union. What one profile alone protects stays open here: `confine` closes it for that process."""
        return cls(
            read=_union(each.read for each in profiles),
            write=_union(each.write for each in profiles),
            protected=_common([each.protected for each in profiles]),
            hidden=_common([each.hidden for each in profiles]),
            reopened=_union(each.reopened for each in profiles),
            private=private_paths() if private is None else tuple(private),
            tmp_bytes=max((each.limits.tmp or 0 for each in profiles), default=0) or 1 << 30,
        )


def _to_record(value: Profile | Layout) -> dict[str, Any]:
    return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, Limits):
        return asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _from_record(cls: type[Profile | Layout], record: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The arguments of `cls`, with tuples where a wire has lists."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a sandbox {what} is a mapping")
    if unknown := set(record) - {each.name for each in fields(cls)}:
        raise ValueError(f"a sandbox {what} has no field {sorted(unknown)[0]!r}")
    return {key: tuple(each) if isinstance(each, list) else each for key, each in record.items()}


def is_beneath(path: str, root: str) -> bool:
    """Whether `path` is `root` or inside it, by name alone."""
    return path == root or path.startswith(root + "/") or root == "/"


def is_beneath_any(path: str, roots: Iterable[str]) -> bool:
    """Whether `path` is one of `roots` or inside one, by name alone."""
    known = set(
        roots
    )  # a project's mounts times its grants are thousands of pairs, and a path has few parents
    while path and path not in known:
        path = path.rpartition("/")[0]
    return bool(path) or "/" in known


def outermost(paths: Iterable[str]) -> list[str]:
    """Those of the paths that lie inside no other one, each once, sorted."""
    kept: list[str] = []
    for path in sorted(set(paths)):  # what is above comes before
        if not is_beneath_any(path, kept):
            kept.append(path)
    return kept


def private_paths() -> tuple[str, ...]:
    """What is a private directory in memory inside a new root: temporary files, shared memory, and the home
    directory, so that the caches of everyday tools have a place and the real home is not there."""
    home = os.path.expanduser("~")
    homes = (home,) if os.path.isabs(home) and home != "/" else ()
    return ("/tmp", "/var/tmp", "/dev/shm", *homes)


def device_paths() -> tuple[str, ...]:
    """The device nodes that programs expect and that leak nothing."""
    return ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"),
    *(f"/etc/{name}" for name in ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "os-release")),
    *(f"/etc/{name}" for name in ("passwd", "group", "nsswitch.conf", "hosts", "host.conf", "resolv.conf")),
    *(
        f"/etc/{name}"
        for name in ("gai.conf", "services", "protocols", "localtime", "timezone", "locale.alias")
    ),
    *(
        f"/etc/{name}"
        for name in ("locale.conf", "mime.types", "magic", "terminfo", "inputrc", "perl", "fonts")
    ),
    # never /etc/ssl or /etc/pki as a whole: private keys lie there, and root could read them
    *(f"/etc/ssl/{name}" for name in ("certs", "cert.pem", "openssl.cnf")),
    *(f"/etc/pki/{name}" for name in ("tls/certs", "tls/cert.pem", "tls/openssl.cnf", "ca-trust")),
    *("/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/crypto-policies"),
    *("/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup"),
)
_TOOL_HOMES = {  # what a directory of the PATH needs beside it, where its programs are launchers of others
    ".cargo/bin": (".rustup",),
    ".pyenv/shims": (".pyenv",),
    ".pyenv/bin": (".pyenv",),
    ".volta/bin": (".volta",),
    ".asdf/shims": (".asdf",),
    "mise/shims": ("mise",),
    ".linuxbrew/bin": (".linuxbrew",),
}


def system_paths() -> tuple[str, ...]:
    """What CPython, this package, the programs on the PATH, git, certificates and locales need to be read.

    Only what exists; never the home directory, a directory for temporary files, or anything above one. Looked up
    once for each PATH, home and `sys.path`.
    """
    return _system_paths(os.environ.get("PATH", ""), os.path.expanduser("~"), tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _system_paths(path: str, home: str, python_path: tuple[str, ...]) -> tuple[str, ...]:
    candidates = (*_SYSTEM, *glob.glob("/etc/java-*"), *_python_paths(python_path), *_tool_paths(path, home))
    given = [os.path.normpath(path) for path in candidates if os.path.isabs(path)]
    kept = dict.fromkeys((*given, *map(os.path.realpath, given)))  # grants do not follow links
    apart = private_paths()
    found = [
        path for path in kept if os.path.exists(path) and not any(is_beneath(each, path) for each in apart)
    ]
    return tuple(outermost(found))


def _python_paths(python_path: tuple[str, ...]) -> Iterator[str]:
    yield from (sys.prefix, sys.base_prefix, sys.exec_prefix)
    yield os.path.dirname(os.path.realpath(sys.executable or "/usr/bin/python3"))
    yield from python_path
    for finder in [module for name, module in sys.modules.items() if name.startswith("__editable__")]:
        yield from getattr(finder, "MAPPING", {}).values()
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for folder in getattr(sys.modules.get("sage_actors"), "__path__", (package,)):
        yield folder
        yield from (os.path.realpath(each.path) for each in os.scandir(folder) if each.is_dir())


def _tool_paths(path: str, home: str) -> Iterator[str]:
    """Programs and their libraries; not `share` and the like of a home, where keyrings and tokens lie."""
    for folder in filter(os.path.isabs, path.split(os.pathsep)):
        folder = os.path.normpath(folder)
        yield folder
        parent, name = os.path.split(folder)
        if name in ("bin", "sbin") and parent not in ("/", home):
            yield from (os.path.join(parent, each) for each in ("lib", "lib64", "libexec", "include"))
        for tail, needed in _TOOL_HOMES.items():
            if folder.endswith("/" + tail):
                yield from (os.path.join(folder[: -len(tail)], each) for each in needed)
        if is_beneath(folder, home):
            yield from _linked_programs(folder)


def _linked_programs(folder: str) -> Iterator[str]:
    """Where the links of `~/.local/bin` and the like lead: the program, or the environment that it is part of."""
    try:
        links = [entry.path for entry in os.scandir(folder) if entry.is_symlink()]
    except OSError:
        return
    for target in map(os.path.realpath, links):
        environment = os.path.dirname(os.path.dirname(target))
        if os.path.exists(settings := os.path.join(environment, "pyvenv.cfg")):
            yield environment
            yield from _base_of(settings)
        elif "/node_modules/" in target:
            yield target[: target.index("/node_modules/") + len("/node_modules")]
        else:
            yield target


def _base_of(settings: str) -> Iterator[str]:
    """The interpreter's own prefix, as `home` in pyvenv.cfg names it (PEP 405)."""
    try:
        with open(settings, encoding="utf-8", errors="surrogateescape") as lines:
            found = [
                line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "home"
            ]
    except OSError:
        return
    yield from (os.path.dirname(os.path.realpath(each)) for each in found)


def _check_paths(record: Profile | Layout) -> None:
    for name in ("read", "write", "protected", "hidden", "reopened", "private"):
        if hasattr(record, name):
            if isinstance(getattr(record, name), str):
                raise ValueError(f"sandbox {name} must be a list of paths")
            paths = tuple(_checked(path, name) for path in getattr(record, name))
            object.__setattr__(record, name, paths)


def _checked(path: str, name: str) -> str:
    normal = _normal(path)
    if not normal:
        raise ValueError(f"sandbox {name}: {path!r} must be an absolute path without '..'")
    return normal


@functools.lru_cache(
    4096
)  # every profile of a project has the same hundred, and a fork knows what its keeper knew
def _normal(path: str) -> str:
    """Empty for one that no profile may hold."""
    if not os.path.isabs(path) or "\0" in path or ".." in path.split("/"):
        return ""
    return os.path.normpath(path).replace("//", "/", 1)  # normpath leaves two leading slashes alone


def _union(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(path for each in lists for path in each))


def _common(lists: list[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(path for path in (lists[0] if lists else ()) if all(path in each for each in lists))

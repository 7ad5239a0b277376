"""What the user has consented to: things that a repository brings and that would run code, by their content.

One JSON file in the user's configuration directory, 0600, never in the project (a repository must not be able
to consent for its user):

    {"version": 1, "projects": {"/real/path": {"skill": {"release": {"digest": "<64 hex>", "since": "<UTC>"}}}}}

Consent belongs to a project's real path, a kind, a name and a digest of the content: changed content asks
again. A crash while consent is recorded leaves the old file or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sage_actors.actors.state.disk import (
    check_directory_of,
    exclusive_directory,
    make_private_directory,
    read_all,
    replace_file,
    temporary_name,
    why_not_private,
)
from sage_actors.messages.errors import KeyUnusableError, StorageError

__all__ = [
    "Consented",
    "Item",
    "ItemKind",
    "TrustStore",
    "checks_item",
    "cut_description",
    "default_trust_path",
    "digest_of",
    "sandbox_item",
]

ItemKind = Literal["mcp-server", "skill", "template", "checks", "sandbox"]

_VERSION = 1
_DESCRIPTION_CHARS = 300
_FILE_LIMIT_BYTES = 8 * 1024 * 1024
_MANY_PROJECTS = 1_000  # above this many, those that are gone are forgotten
_CHECKS_LIMIT_BYTES = 4 * 1024 * 1024
# What decides which commands a project's checks are. The tests themselves are the project's code, which
# changes with every commit: consent to run them is consent to run that project's code.
_CHECK_FILES = (
    ".flake8",
    ".golangci.yaml",
    ".golangci.yml",
    ".pre-commit-config.yaml",
    ".ruff.toml",
    "Cargo.toml",
    "GNUmakefile",
    "Gemfile",
    "Justfile",
    "Makefile",
    "Rakefile",
    "build.gradle",
    "build.gradle.kts",
    "check",
    "composer.json",
    "conftest.py",
    "go.mod",
    "justfile",
    "makefile",
    "mypy.ini",
    "noxfile.py",
    "package.json",
    "pom.xml",
    "pyproject.toml",
    "pytest.ini",
    "ruff.toml",
    "rustfmt.toml",
    "setup.cfg",
    "setup.py",
    "tox.ini",
)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to consent to. `digest`: of its content (`digest_of`). `description`: what would run."""

    kind: ItemKind
    name: str
    digest: str
    description: str

    def __str__(self) -> str:
        """One line for a person. It comes from a repository: what would drive a terminal is left out."""
        alike = "" if self.name.isascii() else " (other letters than they may look like)"
        text = f"{self.kind} {self.name}{alike}: {self.description}"
        return " ".join("".join(each if each.isprintable() else " " for each in text).split())


@dataclass(frozen=True, slots=True)
class Consented:
    """One consent as it is recorded. `since`: UTC, ISO 8601. `name` comes from a repository: print it with care."""

    kind: str
    name: str
    digest: str
    since: str


def digest_of(data: Any) -> str:
    """SHA-256, as hex, of `data` as JSON with sorted keys. Raises TypeError or ValueError if it is no JSON."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def checks_item(project: Path) -> Item:
    """Consent to run the project's own tests and linters, also of its parts, until what configures them changes."""
    from sage_actors.servers.corpus.parts import parts
    from sage_actors.servers.corpus.repository import Repository

    folders = ["", *parts(file.path for file in Repository(project).files)]
    names = (folder + name for folder in folders for name in _CHECK_FILES)
    found = {name: digest for name in names if (digest := _file_digest(project / name))}
    said = cut_description(f" (as {', '.join(found)} say)") if found else ""
    return Item("checks", "checks", digest_of(found), f"runs the project's own tests and linters{said}")


def cut_description(text: str) -> str:
    """`text` as long as a description may be; what is cut off is said."""
    rest = len(text) - _DESCRIPTION_CHARS
    return text if rest <= 0 else f"{text[:_DESCRIPTION_CHARS]}… ({rest} more characters)"


def sandbox_item(said: Mapping[str, Any]) -> Item:
    """Consent to let a project's settings widen the sandbox of its own operations.

    said: what goes beyond the default, as it is then used, such as {"network": ["api.example.com:443"]}.
    """
    shown = "; ".join(
        f"{name} {', '.join(map(_plain, value)) if isinstance(value, list) else _plain(value)}"
        for name, value in sorted(said.items())
    )
    return Item("sandbox", "sandbox", digest_of(dict(said)), f"widens the sandbox of operations: {shown}")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def default_trust_path() -> Path:
    """`trust.json` beside the default key file.

    Raises:
        KeyUnusableError: there is no home directory.
    """
    from sage_actors.actors.keys.provider import default_key_path

    return default_key_path().with_name("trust.json")


class _UnusableError(Exception):
    """Why the file cannot be believed."""


class TrustStore:
    """The user's consents. Reads the file anew each time: another process may have recorded one.

    path: the file; `default_trust_path()` if None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def trusts(self, project: Path, item: Item) -> bool:
        """Whether the user consented to exactly this content in this project."""
        return not self.missing(project, (item,))

    def missing(self, project: Path, items: Iterable[Item]) -> list[Item]:
        """Those of `items` that the user did not consent to; all, where the file cannot be believed."""
        wanted = list(items)
        try:
            kinds = self._read().get(_real(project)) if wanted else None
        except _UnusableError:
            return wanted
        return [item for item in wanted if _recorded(kinds, item) != item.digest]

    def problem(self) -> str:
        """Why nothing is trusted although a file is there, and what to do; "" if all is well."""
        try:
            self._read()
        except _UnusableError as cause:
            return str(cause)
        return ""

    def consent(self, project: Path, items: Iterable[Item]) -> None:
        """Record that the user consents to `items`. A file that cannot be read as consents is put aside.

        Raises:
            StorageError: it cannot be recorded; nothing has changed then.
        """
        new = list(items)
        if not new:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")

        def add(projects: dict[str, Any]) -> None:
            kinds = projects.setdefault(_real(project), {})
            for item in new:
                kinds.setdefault(item.kind, {})[item.name] = {"digest": item.digest, "since": now}

        self._update(add, "consent cannot be recorded")

    def recorded(self, project: Path) -> list[Consented]:
        """What the user consented to in this project, whether or not it is there still; [] if nothing is believed."""
        try:
            kinds = self._read().get(_real(project), {})
        except _UnusableError:
            return []
        return [
            Consented(kind, name, str(said.get("digest")), str(said.get("since")))
            for kind, names in sorted(kinds.items())
            for name, said in sorted(names.items() if isinstance(names, dict) else ())
            if isinstance(said, dict)
        ]

    def revoke(self, project: Path, consents: Collection[Consented]) -> None:
        """Take `consents` back: what they were for asks again.

        Raises:
            StorageError: it cannot be recorded; nothing has changed then.
        """
        gone = {(each.kind, each.name) for each in consents}

        def remove(projects: dict[str, Any]) -> None:
            left: dict[str, Any] = {}
            for kind, names in projects.pop(_real(project), {}).items():
                if kept := {name: said for name, said in names.items() if (kind, name) not in gone}:
                    left[kind] = kept
            if left:
                projects[_real(project)] = left

        if gone:
            self._update(remove, "consent cannot be taken back")

    def _update(self, change: Callable[[dict[str, Any]], None], failed: str) -> None:
        try:
            path = self._where()
            make_private_directory(path.parent)
            with exclusive_directory(path.parent):
                self._rewrite(path, change)
        except (OSError, _UnusableError) as cause:
            raise StorageError(f"{failed}: {cause}") from cause

    def _rewrite(self, path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        check_directory_of(path, "the directory of consents", _UnusableError)
        try:
            projects = self._read()
        except _UnusableError:
            os.rename(path, temporary_name(path).with_suffix(".damaged"))
            projects = {}
        if len(projects) >= _MANY_PROJECTS:
            projects = {path: kinds for path, kinds in projects.items() if os.path.isdir(path)}
        change(projects)
        text = json.dumps({"version": _VERSION, "projects": projects}, indent=1, sort_keys=True)
        replace_file(path, text.encode("ascii") + b"\n")

    def _where(self) -> Path:
        if self._path is None:
            try:
                self._path = default_trust_path()
            except KeyUnusableError as cause:
                raise _UnusableError("there is no home directory for a file of consents") from cause
        return self._path

    def _read(self) -> dict[str, Any]:
        path = self._where()
        data = _read_private(path)
        if data is None:
            return {}
        try:
            return _parse(data)
        except (ValueError, RecursionError) as cause:
            raise _UnusableError(
                f"the file of consents {path} is damaged ({cause}), so nothing is trusted; "
                "consent again with --trust, or remove it"
            ) from cause


def _real(project: Path) -> str:
    return os.path.realpath(project)


def _recorded(kinds: Any, item: Item) -> str | None:
    """The digest that was consented to."""
    for key in (item.kind, item.name, "digest"):
        kinds = kinds.get(key) if isinstance(kinds, dict) else None
    return kinds if isinstance(kinds, str) else None


def _read_private(path: Path) -> bytes | None:
    """What the file holds; None if there is none."""
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hold this process up
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise _UnusableError(
            f"the file of consents cannot be read, so nothing is trusted: {cause}"
        ) from cause
    try:
        check_directory_of(path, "the directory of consents", _UnusableError)
        if reason := why_not_private(fd):
            raise _UnusableError(
                f"the file of consents {path} is not private: {reason}; nothing is trusted until it is a "
                "0600 file of your own"
            )
        return read_all(fd, limit_bytes=_FILE_LIMIT_BYTES)
    except OSError as cause:
        raise _UnusableError(f"the file of consents {path} cannot be read: {cause}") from cause
    finally:
        os.close(fd)


def _parse(data: bytes) -> dict[str, Any]:
    content = json.loads(data)
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        raise ValueError(f"it is not of version {_VERSION}")
    projects = content.get("projects")
    if not isinstance(projects, dict):
        raise ValueError("it has no projects")
    for kinds in projects.values():
        if not isinstance(kinds, dict) or not all(isinstance(names, dict) for names in kinds.values()):
            raise ValueError("a project's consents are no map")
    return projects


def _file_digest(path: Path) -> str:
    """SHA-256 of a regular file, or ""."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return hashlib.sha256(read_all(fd, limit_bytes=_CHECKS_LIMIT_BYTES)).hexdigest()
    except OSError:
        return ""
    finally:
        os.close(fd)

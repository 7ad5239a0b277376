"""The cache of results: sealed files that any process of the project may read and replace.

    .sage/cache/results/<aa>/<name>.sage      aa: the name's first two characters
    .sage/cache/results/damaged/<name>        what could not be opened, set aside
    .sage/cache/counts.json                   hits and misses, over all processes

    file = msgpack of the entry, sealed for "sage-actors/v1/cache" | name (actors/keys/sealed.py)
    name = HMAC-SHA256(master key, what was asked), hex: it tells nothing about the arguments

An entry is written beside its place and renamed: a reader sees the old one, the new one, or none. Nothing is
synced: what a loss of power tears does not open, is set aside, and counts as a miss.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from sage_actors.actors.keys.provider import KeyRing
from sage_actors.actors.keys.sealed import key_id_of, open_sealed, seal
from sage_actors.actors.state.disk import exclusive_directory, make_private_directory, replace_file
from sage_actors.messages.errors import StateError

__all__ = ["DEFAULT_TTL_S", "MAX_BYTES", "CacheCounts", "CacheEntry", "ResultCache"]

DEFAULT_TTL_S: Final = 30 * 86400.0
MAX_BYTES: Final = 100 * 1024 * 1024
_MAGIC: Final = b"SAGECAC1"
_INFO: Final = b"sage-actors/v1/cache"
_HALF_DONE_S: Final = 3600.0
_TRIM_TO: Final = 0.9  # of the limit, as upstream's research cache does


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One result. value: packed. stored_at, expires_at: Unix time. micros: what it took when it was made.

    label: its operation for a person, such as `mcp sage-research/market_research`. usage: what it used then.
    """

    label: str
    value: bytes
    stored_at: float
    expires_at: float
    micros: int = 0
    usage: dict[str, Any] = field(default_factory=dict)
    node: str = ""

    def is_fresh(self, now: float) -> bool:
        """Also not from the future: a clock that was set back makes nothing live longer."""
        return self.stored_at <= now + 60.0 and now < self.expires_at


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Over all processes since the counts were cleared. tokens_saved: what hits would have used again."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    tokens_saved: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of hits; None before the first question."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class ResultCache:
    """The files. Safe under threads and processes; every method may raise OSError only where it says so.

    Raises:
        StateError: a part of the path is a link, which a repository can bring along: files would be written, and
            removed, where it leads.
    """

    def __init__(self, root: Path, keys: KeyRing, *, now: Callable[[], float] = time.time) -> None:
        self.root, self._keys, self._now = root, keys, now
        self._files = root / "results"
        for each in (root.parent, root, self._files):
            if each.is_symlink():
                raise StateError(
                    f"{each} is a link; the cache must lie in the project itself: remove the link"
                )

    def name_of(self, asked: bytes) -> str:
        """The name under which the answer to `asked` is kept; after a rotation the one that it had before."""
        names = [hmac.digest(key.secret, b"cache" + asked, "sha256").hex() for key in self._keys.keys]
        if len(names) > 1:
            return next((name for name in names if self._path(name).exists()), names[0])
        return names[0]

    def get(self, name: str, *, stale: bool = False) -> CacheEntry | None:
        """The entry, if there is one that opens and has not expired (or `stale` is set)."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        entry = self._open(name, data)
        if entry is None:
            if self._keys.get(key_id_of(data)) is not None or not data.startswith(_MAGIC):
                self._set_aside(path)  # else it is only another key's
            return None
        return entry if stale or entry.is_fresh(self._now()) else None

    def put(self, name: str, entry: CacheEntry) -> None:
        """Keep `entry`. OSError: it could not be written; what was there before is still there."""
        path = self._path(name)
        make_private_directory(path.parent)
        replace_file(path, self._seal(name, entry), durable=False)

    def entries(self) -> Iterator[tuple[str, int, CacheEntry | None]]:
        """(name, bytes on disk, entry or None where it does not open) of every file."""
        for path in self._paths():
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                yield path.stem, len(data), self._open(path.stem, data)

    def clear(self, *, older_than_s: float | None = None, label: str | None = None) -> int:
        """Remove entries (all, or those stored before, or whose label holds that text); how many went.

        What does not open may be another key's: without knowing what it is it goes only with all.
        """
        gone = 0
        for path in list(self._paths()):
            if older_than_s is not None or label is not None:
                try:
                    entry = self._open(path.stem, path.read_bytes())
                except OSError:
                    continue
                if entry is None or not self._matches(entry, older_than_s, label):
                    continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                gone += 1
        return gone

    def reseal(self) -> int:
        """Seal under the first key what older ones sealed; how many. What does not open stays as it is.

        Raises:
            OSError: one could not be written; it is as it was.
        """
        done = 0
        for path in list(self._paths()):
            try:
                data, status = path.read_bytes(), path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            if key_id_of(data) == self._keys.primary.id:
                continue
            entry = self._open(path.stem, data)
            if entry is not None:
                replace_file(path, self._seal(path.stem, entry), durable=False)
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # `trim` goes by them
                done += 1
        return done

    def trim(self, limit_bytes: int = MAX_BYTES) -> int:
        """Remove those read least recently, while all exceed the limit; how many.

        What writers that were killed left half done goes, too.
        """
        self._sweep()
        files = []
        for path in self._paths():
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= limit_bytes:
            return 0
        gone = 0
        for _, size, path in sorted(files):
            if total <= limit_bytes * _TRIM_TO:
                break
            path.unlink(missing_ok=True)
            total -= size
            gone += 1
        return gone

    # counts

    def count(self, *, hits: int = 0, misses: int = 0, stored: int = 0, tokens_saved: int = 0) -> None:
        """Add to the counts of all processes. Where that cannot be written, they are short by it."""
        with contextlib.suppress(OSError):
            make_private_directory(self.root)
            with exclusive_directory(self.root):
                old = self.counts()
                new = {
                    "hits": old.hits + hits,
                    "misses": old.misses + misses,
                    "stored": old.stored + stored,
                    "tokens_saved": old.tokens_saved + tokens_saved,
                }
                replace_file(self.root / "counts.json", json.dumps(new).encode(), durable=False)

    def counts(self) -> CacheCounts:
        """What was counted; nothing where the file is missing or holds something else."""
        try:
            said = json.loads((self.root / "counts.json").read_bytes())
            return CacheCounts(
                **{name: max(0, int(said[name])) for name in CacheCounts.__slots__ if name in said}
            )
        except (OSError, ValueError, TypeError):
            return CacheCounts()

    def forget_counts(self) -> None:
        """Begin to count anew."""
        (self.root / "counts.json").unlink(missing_ok=True)

    # parts

    def _path(self, name: str) -> Path:
        return self._files / name[:2] / f"{name}.sage"

    def _sweep(self) -> None:
        """Temporary files of writers that were killed: none takes an hour."""
        for path in self._files.glob("[0-9a-f][0-9a-f]/.*.tmp"):
            with contextlib.suppress(OSError):
                if self._now() - path.stat().st_mtime > _HALF_DONE_S:
                    path.unlink()

    def _paths(self) -> Iterator[Path]:
        return self._files.glob("[0-9a-f][0-9a-f]/*.sage")

    def _matches(self, entry: CacheEntry, older_than_s: float | None, label: str | None) -> bool:
        if older_than_s is not None and self._now() - entry.stored_at < older_than_s:
            return False
        return label is None or label in entry.label

    def _set_aside(self, path: Path) -> None:
        """What does not open is kept for whoever wants to know why, under the same name: one a name."""
        with contextlib.suppress(OSError):
            damaged = self._files / "damaged"
            make_private_directory(damaged)
            os.replace(path, damaged / path.name)

    def _seal(self, name: str, entry: CacheEntry) -> bytes:
        plain = msgpack.packb(
            [
                entry.label,
                entry.value,
                entry.stored_at,
                entry.expires_at,
                entry.micros,
                entry.usage,
                entry.node,
            ]
        )
        return seal(self._keys, bytes(plain), magic=_MAGIC, info=_INFO + name.encode())

    def _open(self, name: str, data: bytes) -> CacheEntry | None:
        plain = open_sealed(self._keys, data, magic=_MAGIC, info=_INFO + name.encode())
        if plain is None:
            return None
        try:
            return CacheEntry(*msgpack.unpackb(plain))
        except (ValueError, TypeError, msgpack.UnpackException):
            return None

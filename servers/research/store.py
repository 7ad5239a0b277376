"""Research that somebody stored by topic: the files of upstream's sage-research, without its collisions.

    .sage/cache/research/<slug>-<8 hex of the topic's sha256>.json     written, and read first
    .sage/cache/research/access.state                                  hits, misses, and uses of each entry
    .sage/agent/research/<slug>.json                                   upstream's entries: read, never written

    {"topic", "findings": text, "metadata": {"source", "confidence": 0..1, "lastUpdated": ISO 8601},
     "timestamp": ms, "expiresAt": ms, "accessCount": n, "lastAccessed": ms}

An entry is written whole, synced, and renamed into its place: a crash leaves the old entry or the new one, and
perhaps a `.tmp` that nobody reads. A file that cannot be read as an entry is renamed to `.corrupt`, not deleted.
Uses are counted apart from the entries, under a lock, so that reading never rewrites one and no count is lost.
Entries are plain text, as upstream's are, and this server has no key to seal them with: secrets are redacted first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.messages.secret_scan import redact_text

__all__ = ["ResearchEntry", "ResearchStore", "StoreStatistics"]

MAX_FINDINGS_BYTES = 8_000_000
_MAX_BYTES = 100 * 1024 * 1024
_KEPT_SHARE = 0.9  # of _MAX_BYTES, once that is exceeded
_TTL_MS = 30 * 24 * 3600 * 1000
_FOLDER, _UPSTREAM = ".sage/cache/research", ".sage/agent/research"
_ACCESS, _LOCK = "access.state", "access.lock"
_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class ResearchEntry:
    """What was stored for a topic. Times in milliseconds since 1970."""

    topic: str
    findings: str
    metadata: dict[str, Any]
    timestamp: int
    expiresAt: int
    accessCount: int = 0
    lastAccessed: int = 0


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """hits, misses: since the store was made, of all processes."""

    entries: int
    size_bytes: int
    hits: int
    misses: int
    oldest_ms: int | None
    newest_ms: int | None


@dataclass(slots=True)
class _Access:
    hits: int = 0
    misses: int = 0
    uses: dict[str, list[int]] = field(default_factory=dict)  # file name -> [count, last use in ms]


class ResearchStore:
    """The stored research of one project. Safe to use from several threads and processes."""

    def __init__(
        self, project: Path, *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._project = Path(os.path.realpath(project))
        self._now_ms = now_ms

    def get(self, topic: str) -> ResearchEntry | None:
        """The entry of exactly this topic (except for case and spaces), with this use counted; None when expired."""
        path, entry = self._find(topic)
        if entry is None or entry.expiresAt < self._now_ms():
            self._count(None, entry)
            return None
        count, last = self._count(path.name, entry)
        return ResearchEntry(**{**asdict(entry), "accessCount": count, "lastAccessed": last})

    def put(
        self, topic: str, findings: str, *, source: str = "web", confidence: float = 0.8
    ) -> ResearchEntry:
        """Store findings for 30 days, in place of what was stored for the topic; known forms of secrets are redacted.

        Raises:
            UsageError: no topic, no findings, or more than `MAX_FINDINGS_BYTES` of them.
            StorageError: they could not be written; what was stored before is still there.
        """
        _check(topic, findings, confidence)
        findings, source = redact_text(findings)[0], redact_text(source)[0]
        now = self._now_ms()
        updated = datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds")
        metadata = {"source": source, "confidence": confidence, "lastUpdated": updated.replace("+00:00", "Z")}
        entry = ResearchEntry(topic, findings, metadata, now, now + _TTL_MS, 0, now)
        text = json.dumps(asdict(entry), ensure_ascii=False, indent=2)
        _write(self._folder(create=True) / _file_name(topic), text, synced=True)
        self._forget(_file_name(topic))
        self._shrink(_file_name(topic))
        return entry

    def invalidate(self, topic: str) -> bool:
        """Remove the entry of a topic; whether there was one."""
        path, entry = self._find(topic)
        if entry is None:
            return False
        removed = False
        while entry is not None:  # ours, then upstream's of the same topic
            path.unlink(missing_ok=True)
            removed = True
            path, entry = self._find(topic)
        self._forget(_file_name(topic))
        return removed

    def cleanup(self) -> int:
        """Remove expired entries; how many there were. What is no entry is set aside."""
        expired = [path for path, entry in self._entries() if entry.expiresAt < self._now_ms()]
        for path in expired:
            path.unlink(missing_ok=True)
            self._forget(path.name)
        return len(expired)

    def statistics(self) -> StoreStatistics:
        entries = list(self._entries())
        times = [entry.timestamp for _, entry in entries]
        size = sum(_size(path) for path, _ in entries)
        access = self._access()
        oldest, newest = (min(times), max(times)) if times else (None, None)
        return StoreStatistics(len(entries), size, access.hits, access.misses, oldest, newest)

    def _folder(self, *, create: bool = False) -> Path:
        return self._inside(_FOLDER, create=create)

    def _inside(self, name: str, *, create: bool = False) -> Path:
        """A folder of the project; one that a link leads out of it is refused."""
        folder = self._project / name
        if os.path.realpath(folder) != str(folder):
            raise StorageError(f"{name} leads out of the project through a link: replace it by a folder")
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise StorageError(f"{name} cannot be made: {error.strerror}") from error
        return folder

    def _find(self, topic: str) -> tuple[Path, ResearchEntry | None]:
        path = self._folder() / _file_name(topic)
        for candidate in (path, self._inside(_UPSTREAM) / _upstream_name(topic)):
            entry = _read_entry(candidate)
            if entry is not None and _normal(entry.topic) == _normal(topic):
                return candidate, entry
        return path, None

    def _entries(self) -> Iterator[tuple[Path, ResearchEntry]]:
        for folder in (self._folder(), self._inside(_UPSTREAM)):
            for path in sorted(folder.glob("*.json")):
                if path.name != "CACHE_MANIFEST.json" and (entry := _read_entry(path)) is not None:
                    yield path, entry

    def _shrink(self, kept: str) -> None:
        """Over the limit, the entries not used for longest go, never the one in file `kept`, nor upstream's own."""
        sizes = {path: _size(path) for path in self._folder().glob("*.json")}
        total = sum(sizes.values())
        if total <= _MAX_BYTES:
            return
        uses = self._access().uses
        for path in sorted(sizes, key=lambda path: uses.get(path.name, [0, _mtime_ms(path)])[1]):
            if total <= _MAX_BYTES * _KEPT_SHARE:
                return
            if path.name == kept:
                continue
            path.unlink(missing_ok=True)
            self._forget(path.name)
            total -= sizes[path]

    def _access(self) -> _Access:
        path = self._folder() / _ACCESS
        try:
            data = json.loads(path.read_bytes())
            return _Access(
                int(data["hits"]),
                int(data["misses"]),
                {k: [int(n) for n in v] for k, v in data["uses"].items()},
            )
        except FileNotFoundError:
            return _Access()
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            _set_aside(path)
            return _Access()

    @contextmanager
    def _changing_access(self) -> Iterator[_Access]:
        folder = self._folder(create=True)
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            access = self._access()
            yield access
            _write(folder / _ACCESS, json.dumps(asdict(access)), synced=False)
        finally:
            os.close(fd)

    def _count(self, name: str | None, entry: ResearchEntry | None) -> tuple[int, int]:
        """One more hit of the entry in file `name`, or one more miss. A count that cannot be kept is no error."""
        now = self._now_ms()
        before = entry.accessCount if entry else 0
        with suppress(OSError, StorageError), self._changing_access() as access:
            if name is None:
                access.misses += 1
                return 0, now
            access.hits += 1
            count = access.uses.get(name, [before, 0])[0] + 1
            access.uses[name] = [count, now]
            return count, now
        return before + 1, now

    def _forget(self, name: str) -> None:
        with suppress(OSError, StorageError):
            if name in self._access().uses:
                with self._changing_access() as access:
                    access.uses.pop(name, None)


def _check(topic: str, findings: str, confidence: float) -> None:
    if not topic.strip():
        raise UsageError("the topic is empty: name what the findings are about")
    if not findings:
        raise UsageError("the findings are empty: there is nothing to store")
    if not 0 <= confidence <= 1:
        raise UsageError(f"the confidence is {confidence}: it goes from 0 to 1")
    size = len(findings.encode("utf-8", "surrogatepass"))
    if size > MAX_FINDINGS_BYTES:
        raise UsageError(
            f"the findings have {size:,} bytes: at most {MAX_FINDINGS_BYTES:,} are stored; shorten them"
        )


def _normal(topic: str) -> str:
    return " ".join(unicodedata.normalize("NFC", topic).casefold().split())


def _file_name(topic: str) -> str:
    digest = hashlib.sha256(_normal(topic).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    slug = _SLUG.sub("-", _normal(topic)).strip("-")[:60].strip("-")
    return f"{slug}-{digest}.json" if slug else f"{digest}.json"


def _upstream_name(topic: str) -> str:
    return f"{_SLUG.sub('-', topic.lower()).strip('-')[:100]}.json"


def _read_entry(path: Path) -> ResearchEntry | None:
    """The entry in a file; None where there is no file. One that is no entry is set aside."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as stream:
            data = stream.read(4 * MAX_FINDINGS_BYTES)
    except OSError:
        return None
    try:
        return _entry(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        _set_aside(path)
        return None


def _entry(data: dict[str, Any]) -> ResearchEntry:
    """Of upstream's file, or of the variant in its plan: times as ISO 8601, findings as an object."""
    findings = data["findings"]
    made = _milliseconds(data["timestamp"])
    return ResearchEntry(
        topic=str(data["topic"]),
        findings=findings if isinstance(findings, str) else json.dumps(findings, ensure_ascii=False),
        metadata=dict(data.get("metadata") or {}),
        timestamp=made,
        expiresAt=_milliseconds(data.get("expiresAt", made + _TTL_MS)),
        accessCount=int(data.get("accessCount", 0)),
        lastAccessed=_milliseconds(data.get("lastAccessed", made)),
    )


def _milliseconds(value: object) -> int:
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no time")
    return int(value)


def _set_aside(path: Path) -> None:
    with suppress(OSError):
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.corrupt"))


def _write(path: Path, text: str, *, synced: bool) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(text.encode("utf-8", "surrogatepass"))
            if synced:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
        if synced:
            _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"{path.name} could not be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mtime_ms(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns // 1_000_000
    except OSError:
        return 0

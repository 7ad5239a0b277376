"""Documents written into a project: never outside it, never through a link, never over a person's work.

    open docs/, specs/, <slug>/ one by one (O_NOFOLLOW), making what is missing
      -> the same text is there already: nothing is written
      -> another text is there, and its mark says that a person changed it, or its front matter that it is of
         another topic or kind, which share a folder: it is copied to <name>.backup-N.md
      -> temporary file, fsync, rename, fsync of the folder

A crash leaves the old document, or the new one, and at worst a `.tmp` file beside it; never half a document.
The mark is the last line of every document: a comment with the digest of what stands above it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from sage_actors.messages.errors import StorageError, UsageError
from sage_actors.messages.unseen import UNSEEN

__all__ = ["KEPT_FOLDERS", "MAX_DOCUMENT_BYTES", "WrittenDocument", "read_document", "write_document"]

MAX_DOCUMENT_BYTES = 4_000_000
KEPT_FOLDERS = frozenset({".git", ".sage", ".claude", ".agents", ".venv", "node_modules"})
"""Where nothing is written that a caller names, in lower case: state, what agents obey, what others brought."""

_DRIVING = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{UNSEEN}]")
"""Characters that would drive the terminal of a reader, turn the order of what is read, or be read by models alone."""
_MARK = re.compile(r"\n<!-- sage-actors sha256:([0-9a-f]{64}) -->\n\Z")
_FRONT = re.compile(r"---\ntopic: (.*)\nkind: (.*)\n")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_BACKUPS = 1000


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """path: relative to the project. backup: where what stood there went, if it was kept. note: what that was."""

    path: str
    state: Literal["created", "replaced", "unchanged"]
    backup: str | None = None
    note: str = ""

    @property
    def notes(self) -> list[str]:
        """The note, where there is one."""
        return [self.note] if self.note else []


def write_document(project: Path, path: str, text: str) -> WrittenDocument:
    """Makes `text` the Markdown document at `path` (relative, with `/`), as the head of this module says.

    Control characters and those that turn the direction of text are written as escapes, such as `\\x1b`.

    Raises:
        UsageError: the path leads out of the project, through a link, to no `.md` file, or to no regular file.
        StorageError: it cannot be written: disk full, no permission.
    """
    parts = _checked(path)
    data = _marked(text)
    try:
        with _folder(project, parts[:-1], create=True) as folder:
            return _publish(folder, "/".join(parts), data)
    except OSError as cause:
        raise _storage_error(path, cause) from cause


def read_document(project: Path, path: str) -> str | None:
    """The document at `path` without its mark; None where there is none.

    Raises:
        UsageError: as `write_document`.
    """
    parts = _checked(path)
    try:
        with _folder(project, parts[:-1], create=False) as folder:
            data = _read(folder, parts[-1], path)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise _storage_error(path, cause) from cause
    return None if data is None else _MARK.sub("", data.decode("utf-8", "replace"))


def _checked(path: str) -> list[str]:
    parts = path.split("/")
    wrong = [
        part for part in parts if part in ("", ".", "..") or "\0" in part or part.lower() in KEPT_FOLDERS
    ]
    if wrong or "\\" in path or PurePosixPath(path).suffix != ".md":
        raise UsageError(
            f"{path!r} is no place for a document: give a path inside the project that ends in .md,"
            " such as docs/specs/rate-limiting/spec.md"
        )
    return parts


def _marked(text: str) -> bytes:
    text = _DRIVING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    body = text.encode("utf-8", "backslashreplace").rstrip(b"\n") + b"\n"
    if len(body) > MAX_DOCUMENT_BYTES:
        raise UsageError(f"a document of {len(body)} bytes: at most {MAX_DOCUMENT_BYTES} are written")
    return body + f"\n<!-- sage-actors sha256:{hashlib.sha256(body).hexdigest()} -->\n".encode()


def _is_untouched(data: bytes) -> bool:
    """Whether the mark is there and right: then nobody edited it since it was written."""
    text = data.decode("utf-8", "surrogateescape")
    match = _MARK.search(text)
    if match is None:
        return False
    body = text[: match.start()].encode("utf-8", "surrogateescape")
    return hashlib.sha256(body).hexdigest() == match[1]


@contextmanager
def _folder(project: Path, parts: list[str], *, create: bool) -> Iterator[int]:
    """A descriptor of the folder `parts` below the project, reached without following a link."""
    fd = os.open(project, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, part in enumerate(parts):
            inner = _enter(fd, part, "/".join(parts[: number + 1]), create=create)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _enter(fd: int, name: str, shown: str, *, create: bool) -> int:
    if create:
        try:
            os.mkdir(name, dir_fd=fd)
            os.fsync(fd)
        except FileExistsError:
            pass
    try:
        return os.open(name, _FOLDER, dir_fd=fd)
    except OSError as cause:
        if cause.errno in (errno.ELOOP, errno.ENOTDIR):
            raise UsageError(f"{shown} is a link or no folder: nothing is written through it") from cause
        raise


def _publish(folder: int, path: str, data: bytes) -> WrittenDocument:
    name = path.rpartition("/")[2]
    old = _read(folder, name, path)
    if old == data:
        return WrittenDocument(path, "unchanged")
    backup, note = None, ""
    if old is not None and (what := _worth_keeping(old, data)):
        backup = path.rpartition("/")[0] + "/" if "/" in path else ""
        backup += _back_up(folder, name, old)
        note = f"{path} was {what}: that one is kept as {backup}"
    _replace(folder, name, data)
    return WrittenDocument(path, "created" if old is None else "replaced", backup, note)


def _worth_keeping(old: bytes, new: bytes) -> str:
    """What the document that is there is, if the new one is no newer version of it; "" if it is one."""
    if not _is_untouched(old):
        return "changed by a person"
    of, now = _subject(old), _subject(new)
    if of is None or now is None or of == now:
        return ""
    return f"of another topic: {of[0]}" if of[0] != now[0] else f"of another kind: {of[1]}"


def _subject(data: bytes) -> tuple[str, str] | None:
    """Topic and kind as the front matter has them; None where it has none."""
    match = _FRONT.match(data.decode("utf-8", "replace"))
    return (match[1], match[2]) if match else None


def _read(folder: int, name: str, path: str) -> bytes | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as cause:
        if cause.errno == errno.ELOOP:
            raise UsageError(f"{path} is a link: it is neither read nor replaced") from cause
        raise
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"{path} is no regular file: it is neither read nor replaced")
        data = stream.read(MAX_DOCUMENT_BYTES + 1000)
    return data


def _back_up(folder: int, name: str, data: bytes) -> str:
    stem = name.removesuffix(".md")
    for number in range(1, _MAX_BACKUPS):
        backup = f"{stem}.backup-{number}.md"
        if _holds(folder, backup, data):
            return backup
        try:
            _create(folder, backup, data)
        except FileExistsError:
            continue
        return backup
    raise UsageError(f"{name} has {_MAX_BACKUPS} backups already: remove some")


def _holds(folder: int, name: str, data: bytes) -> bool:
    try:
        return _read(folder, name, name) == data
    except UsageError:
        return False


def _replace(folder: int, name: str, data: bytes) -> None:
    temporary = f".{name[:200]}.{secrets.token_hex(6)}.tmp"
    try:
        _create(folder, temporary, data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _remove(folder, temporary)
        raise
    os.fsync(folder)


def _create(folder: int, name: str, data: bytes) -> None:
    """A new file with all of `data` on the device, or none."""
    fd = os.open(name, _NEW, 0o644, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        _remove(folder, name)
        raise


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _storage_error(path: str, cause: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {cause.strerror}; make room or set permissions, and repeat"
    )

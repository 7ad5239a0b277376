"""The files of one commit, and their text; everything else that reads files goes through here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from repo_report.git import Blobs, display, records
from repo_report.languages import language_of, looks_generated, role_of

__all__ = ["MAX_TEXT_BYTES", "File", "Read", "list_files", "read_texts", "within"]

MAX_TEXT_BYTES = 1 << 20
_SYMLINK, _SUBMODULE = b"120000", b"160000"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of the commit. `path` is fit to show, `raw` is what git knows it by."""

    path: str
    raw: bytes
    object_id: str
    size_bytes: int
    language: str | None
    role: str


@dataclass(frozen=True, slots=True)
class Read:
    """A file and its text, or None and the reason: `binary`, `large`, `lfs`, `missing`."""

    file: File
    text: str | None
    reason: str = ""


def list_files(root: str, head: str | None) -> tuple[list[File], dict[str, int]]:
    """The regular files at `head`, and how many symlinks and submodules were left aside."""
    files: list[File] = []
    aside = {"symlinks": 0, "submodules": 0}
    if head is None:
        return files, aside
    for record in records(root, "ls-tree", "-r", "-z", "-l", "--full-tree", head):
        facts, _, raw = record.partition(b"\t")
        mode, _, object_id, size = facts.split()
        if mode in (_SYMLINK, _SUBMODULE):
            aside["symlinks" if mode == _SYMLINK else "submodules"] += 1
            continue
        path = display(raw)
        size_bytes = int(size) if size.isdigit() else 0
        files.append(File(path, raw, object_id.decode(), size_bytes, language_of(path), role_of(path)))
    return files, aside


def read_texts(root: str, files: Iterable[File]) -> Iterator[Read]:
    """Each file's text. A script without an extension gets its language, a generated file its role, here."""
    with Blobs(root) as blobs:
        for file in files:
            if file.size_bytes > MAX_TEXT_BYTES:
                yield Read(file, None, "large")
                continue
            data = blobs.read(file.object_id)
            yield Read(file, None, "missing") if data is None else _read(file, data)


def within(path: str, prefix: str, without: Iterable[str]) -> bool:
    """Whether `path` is below the directory `prefix` ("" is the root) and below none of `without`."""
    return path.startswith(prefix) and not any(path.startswith(other) for other in without)


def _read(file: File, data: bytes) -> Read:
    if data.startswith(_LFS_POINTER):
        return Read(file, None, "lfs")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", "replace")
    elif b"\0" in data[:8000]:
        return Read(file, None, "binary")
    else:
        text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    if file.language is None:
        file = replace(file, language=language_of(file.path, text[:200].partition("\n")[0]))
    if file.role in ("source", "test") and looks_generated(text):
        file = replace(file, role="generated")
    return Read(file, text)

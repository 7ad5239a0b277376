"""Imports of the user's modules that keep no bytecode of a source that was just written.

Python knows bytecode by its source's size and its time in whole seconds: a source that is edited twice in a second
and keeps its length would be loaded as it was before, and a result be kept under the digest of code that never ran.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)

__all__ = ["search_first"]

_SETTLED_S = 2.0  # an edit from now on has another time, on file systems that count in twos as well


def search_first(path: str) -> None:
    """Has imports look in the folder `path`, an absolute one, before all else."""
    if path not in sys.path:
        sys.path.insert(0, path)
    if path not in _searched:
        _searched.append(path)
        for known in [each for each in sys.path_importer_cache if _is_beneath(each, path)]:
            del sys.path_importer_cache[known]
    if _find not in sys.path_hooks:
        sys.path_hooks.insert(0, _find)


class _SourceLoader(SourceFileLoader):
    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:  # type: ignore[override]
        try:
            age = time.time() - os.stat(self.path).st_mtime
        except OSError:
            return
        if age > _SETTLED_S:
            super().set_data(path, data, _mode=_mode)


def _find(path: str) -> FileFinder:
    if not any(_is_beneath(path, each) for each in _searched) or not os.path.isdir(path):
        raise ImportError("none of the user's folders", path=path)
    return FileFinder(
        path,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_SourceLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


def _is_beneath(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


_searched: list[str] = []

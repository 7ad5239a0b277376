"""The parts of a project that are projects of their own, as in a monorepo: folders with a manifest.

What belongs to tests, examples, templates or others (`vendor/`) is no part.
"""

from __future__ import annotations

from collections.abc import Iterable

from sage_actors.servers.corpus.files import is_product_folder

__all__ = ["MANIFESTS", "part_of", "parts"]

MANIFESTS = ("pyproject.toml", "setup.cfg", "setup.py", "package.json", "Cargo.toml", "go.mod")

_MAX_PARTS = 12
_ASIDE = frozenset({"docs", "doc", "template", "templates", "skeleton", "website", "site"})


def parts(paths: Iterable[str]) -> list[str]:
    """The folders of the parts among a project's files, each with `/` behind it: at most twelve, the upper ones first.

    The main folder is not among them.
    """
    folders = {
        folder + "/"
        for folder, separator, name in (path.rpartition("/") for path in paths)
        if separator and name in MANIFESTS and _is_part(folder)
    }
    return sorted(folders, key=lambda folder: (folder.count("/"), folder))[:_MAX_PARTS]


def _is_part(folder: str) -> bool:
    names = folder.lower().split("/")
    hidden = any(name.startswith(".") for name in names)
    return not hidden and _ASIDE.isdisjoint(names) and is_product_folder(names)


def part_of(path: str, folders: Iterable[str]) -> str:
    """The innermost of `folders` that a file is in; "" for the main folder."""
    return max((folder for folder in folders if path.startswith(folder)), key=len, default="")

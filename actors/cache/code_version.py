"""What code a cached result was made by: a digest that changes when the code does.

A Python call is known by the source file that it is in (not by what that imports: `version` in the definition is
for that), a sage server by the sources of all of them, a server of the project by its entry in `.mcp.json`, a
skill by its folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

__all__ = ["code_version"]

_MAX_BYTES = 16 * 1024 * 1024


def code_version(kind: str, name: str, *, project: Path, search_paths: Iterable[str] = ()) -> str:
    """A text for the code of `kind` ("python", "sage", "mcp", "skill" or "") called `name`.

    Where the source cannot be found it is "", and the result is known by its arguments alone.
    """
    if kind == "python":
        return _module_version(name, [*map(Path, search_paths), project])
    if kind == "sage":
        return _package_version()
    if kind == "mcp":
        return f"{_package_version()} {_digest([project / '.mcp.json'])}"
    if kind == "skill":
        return _digest(
            sorted(each for place in _SKILL_PLACES for each in (project / place / name).rglob("*"))
        )
    return ""


_SKILL_PLACES = (".sage/skills", ".agents/skills", ".claude/skills")


def _module_version(call: str, roots: list[Path]) -> str:
    parts = call.partition(":")[0].split(".")
    for root in roots:
        stem = root.joinpath(*parts)
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return _digest([path])
    return ""


@lru_cache(maxsize=1)
def _package_version() -> str:
    """Of the sage servers and what they use: the sources that were loaded into this process's like."""
    import sage_actors

    root = Path(sage_actors.__file__).parent
    return _digest(sorted(each for part in ("servers", "messages") for each in (root / part).rglob("*.py")))


def _digest(paths: Iterable[Path]) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        try:
            if path.is_file() and path.stat().st_size <= _MAX_BYTES:
                hasher.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + path.read_bytes())
        except OSError:
            continue
    return hasher.hexdigest()

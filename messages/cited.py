"""The list of citations in a result, which repeats those of its findings: a digest keeps the two in step.

{"findings": [{"text": ..., "citation": {"source": "a.py", "line": 3}}, ...], "citations": ["a.py:3", ...]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["CITATIONS", "repeated_citations", "still_cited"]

CITATIONS = "citations"
_DEPTH = 8


def repeated_citations(value: Any) -> Sequence[str]:
    """The list of citations in `value`, if each of them stands at an element of it, too; else none."""
    listed = value.get(CITATIONS) if isinstance(value, Mapping) else None
    if (
        not isinstance(listed, list | tuple)
        or not listed
        or not all(isinstance(each, str) for each in listed)
    ):
        return ()
    return listed if set(listed) <= set(_places(_without(value))) else ()


def still_cited(kept: Mapping[Any, Any], listed: Sequence[str]) -> list[str]:
    """Those of `listed` that stand at an element of `kept`, in their order."""
    places = set(_places(_without(kept)))
    return [each for each in listed if each in places]


def _without(value: Mapping[Any, Any]) -> list[Any]:
    return [part for key, part in value.items() if key != CITATIONS]


def _places(value: Any, depth: int = 0) -> Iterator[str]:
    """Of every `{source, line}` and `{file, line}` in it, as they are cited."""
    if depth > _DEPTH:
        return
    if isinstance(value, Mapping):
        source, line = value.get("source") or value.get("file"), value.get("line")
        if isinstance(source, str):
            yield source if line is None else f"{source}:{line}"
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _places(each, depth + 1)

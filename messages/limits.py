"""What an attempt that went over one of its limits says: which limit, its value, and what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sage_actors.messages.errors import LimitExceeded

__all__ = ["BYTE_LIMITS", "LIMIT_NAMES", "describe_limit", "limit_error", "limit_hit", "size_text"]

BYTE_LIMITS: Final = frozenset({"memory", "file_size", "output", "result", "tmp"})
LIMIT_NAMES: Final = BYTE_LIMITS | {"cpu_seconds", "processes", "files"}
_SURE_AGAIN: Final = frozenset({"result", "output", "file_size"})
_UNITS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def limit_hit(kind: str, limit: float, seen: float | None) -> dict[str, Any]:
    """The evidence. kind: a name of `LIMIT_NAMES`. limit, seen: in that limit's unit (bytes, seconds, a count);
    seen is None where the kernel only refused the next one and nobody counted."""
    return {"kind": kind, "limit": limit, "seen": seen}


def limit_error(hit: Mapping[str, Any], *, where: str = "", hint: str = "") -> LimitExceeded:
    """The error for a hit; its details are the hit. A result or an output that is too large will be so again."""
    text = ": ".join(part for part in (where, describe_limit(hit), hint) if part)
    error = LimitExceeded(text)
    error.details = dict(hit)  # type: ignore[attr-defined]
    error.retryable = hit["kind"] not in _SURE_AGAIN  # type: ignore[misc]
    return error


def describe_limit(hit: Mapping[str, Any]) -> str:
    """One sentence for a person.

    >>> describe_limit(limit_hit("memory", 512 * 1024 * 1024, 563 * 1024 * 1024))
    'memory limit 512 MiB exceeded: 563 MiB seen'
    >>> describe_limit(limit_hit("files", 64, None))
    'files limit 64 reached'
    """
    kind, seen = hit["kind"], hit["seen"]
    said = f"{kind} limit {_amount(kind, hit['limit'])}"
    return f"{said} reached" if seen is None else f"{said} exceeded: {_amount(kind, seen)} seen"


def size_text(size: float) -> str:
    """Bytes for a person.

    >>> size_text(1536), size_text(100)
    ('1.5 KiB', '100 bytes')
    """
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size:g} bytes"


def _amount(kind: str, value: float) -> str:
    if kind in BYTE_LIMITS:
        return size_text(value)
    return f"{value:g} s" if kind == "cpu_seconds" else f"{value:g}"

"""Durations, sizes and counts as people write them: "30s", "5m", "2h", "30d", "512MiB", "1 node"."""

from __future__ import annotations

import re

__all__ = ["counted", "parse_duration", "parse_size"]

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*\Z", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*\Z", re.ASCII)


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts; `many` by default with an s.

    >>> counted(1, "node"), counted(2_000, "node"), counted(0, "entry", "entries")
    ('1 node', '2,000 nodes', '0 entries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def parse_duration(text: str) -> float:
    """Seconds. A number with one of the units ms, s, m, h, d; ValueError for anything else.

    >>> parse_duration("5m"), parse_duration("1.5h")
    (300.0, 5400.0)
    """
    match = _DURATION.match(text)
    if not match or len(text) > 40:
        raise ValueError(
            f'{text[:40]!r} is no duration: write seconds as a number, or "30s", "5m", "2h", "30d"'
        )
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes. A number with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of 1024).

    >>> parse_size("512MiB"), parse_size("1.5GB")
    (536870912, 1500000000)
    """
    match = _SIZE.match(text)
    if not match or len(text) > 40 or (match[3] and not match[2]):
        raise ValueError(f'{text[:40]!r} is no size: write bytes as a number, or "512MiB", "512MB"')
    step = 1024 if match[3] else 1000
    return int(float(match[1]) * step ** " KMGT".index(match[2] or " "))

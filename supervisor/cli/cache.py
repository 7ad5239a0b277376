"""The command `cache`: which results are kept, how often they were used, and how to remove them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sage_actors.messages.units import counted
from sage_actors.supervisor.cli.options import json_option, project_option, reading_keys

if TYPE_CHECKING:
    from sage_actors.actors.cache.store import CacheEntry, ResultCache

__all__ = ["cache_command"]

_SHORT = 12  # characters of a name that are shown, and enough to name it


@click.group("cache")
def cache_command() -> None:
    """Show and clear the kept results of nodes that declare `cache`. A run looks there before it executes them.

    \b
    Examples:
      sage-actors cache stats
      sage-actors cache list
      sage-actors cache show 3f9a2c81d07b
      sage-actors cache clear --older-than 7d
    """


@cache_command.command("list")
@project_option
@json_option
def list_entries(project: Path, as_json: bool) -> None:
    """What is in the cache, newest first."""
    rows = sorted(_rows(_cache_of(project)), key=lambda row: -row["stored_at"])
    if as_json:
        _print_json(rows)
    elif not rows:
        click.echo("The cache is empty.")
    for row in rows if not as_json else ():
        left = "expired" if row["expires_in"] <= 0 else f"{row['expires_in'] / 86400:.1f} days left"
        if not row["readable"]:
            left = "cannot be opened: damaged, or sealed under another key"
        what = f"{row['operation'] or '?'}  of {row['node']}" if row["node"] else row["operation"] or "?"
        click.echo(f"{row['name'][:_SHORT]}  {row['bytes']:>9,} bytes  {what}  ({left})")


@cache_command.command("show")
@click.argument("name")
@project_option
def show_entry(name: str, project: Path) -> None:
    """The value kept under NAME (its first characters are enough), as JSON."""
    from sage_actors.messages.codec import unpack

    found = [entry for each, _, entry in _cache_of(project).entries() if each.startswith(name) and entry]
    if len(found) != 1:
        said = "no entry begins" if not found else f"{len(found):,} entries begin"
        raise click.UsageError(f"{said} with {name!r}; `sage-actors cache list` shows them.")
    _print_json(unpack(found[0].value))


@cache_command.command("clear")
@click.option("--older-than", metavar="AGE", help="Only entries older than this, such as 7d or 12h.")
@click.option("--operation", metavar="TEXT", help="Only results of operations whose name contains TEXT.")
@project_option
@json_option
def clear_entries(older_than: str | None, operation: str | None, project: Path, as_json: bool) -> None:
    """Remove all entries, or those that the options choose. Removing all also resets the counts."""
    from sage_actors.messages.units import parse_duration

    try:
        age = None if older_than is None else parse_duration(older_than)
    except ValueError as cause:
        raise click.UsageError(f"--older-than: {cause}") from cause
    cache = _cache_of(project)
    gone = cache.clear(older_than_s=age, label=operation)
    unreadable = 0
    if age is None and operation is None:
        cache.forget_counts()
    else:
        unreadable = sum(entry is None for *_, entry in cache.entries())
    if as_json:
        _print_json({"removed": gone})
    else:
        click.echo(f"Removed {counted(gone, 'entry', 'entries')}.")
    if unreadable:
        kept = counted(unreadable, "entry that does", "entries that do")
        click.echo(f"Kept {kept} not open: damaged, or sealed under another key.", err=True)


@cache_command.command("stats")
@project_option
@json_option
def show_stats(project: Path, as_json: bool) -> None:
    """Hits and misses over all processes, tokens that hits saved, and the size."""
    cache = _cache_of(project)
    counts = cache.counts()
    rows = _rows(cache)
    facts = {
        "hits": counts.hits,
        "misses": counts.misses,
        "hit_rate": None if counts.hit_rate is None else round(counts.hit_rate, 4),
        "stored": counts.stored,
        "tokens_saved": counts.tokens_saved,
        "entries": len(rows),
        "bytes": sum(row["bytes"] for row in rows),
        "unreadable": sum(not row["readable"] for row in rows),
    }
    if as_json:
        _print_json(facts)
        return
    rate = "nothing was asked yet" if counts.hit_rate is None else f"{counts.hit_rate:.0%} of questions"
    click.echo(f"hits          {counts.hits:,} ({rate})")
    click.echo(f"misses        {counts.misses:,}")
    click.echo(f"tokens saved  {counts.tokens_saved:,}")
    click.echo(f"entries       {facts['entries']:,}, {facts['bytes']:,} bytes")
    if facts["unreadable"]:
        click.echo(f"unreadable    {facts['unreadable']:,}: damaged, or sealed under another key")


def _cache_of(project: Path) -> ResultCache:
    from sage_actors.actors.cache.store import ResultCache
    from sage_actors.actors.keys.provider import KeyRing

    root = project.absolute() / ".sage" / "cache"
    keys = reading_keys() if (root / "results").is_dir() else KeyRing((), "")  # nothing to open
    return ResultCache(root, keys)


def _rows(cache: ResultCache) -> list[dict[str, Any]]:
    now = time.time()
    return [_row(name, size, entry, now) for name, size, entry in cache.entries()]


def _row(name: str, size: int, entry: CacheEntry | None, now: float) -> dict[str, Any]:
    return {
        "name": name,
        "operation": entry.label if entry else None,
        "node": entry.node if entry else None,
        "bytes": size,
        "stored_at": entry.stored_at if entry else 0.0,
        "expires_in": round(entry.expires_at - now, 1) if entry else 0.0,
        "seconds": entry.micros / 1e6 if entry else None,
        "readable": entry is not None,
    }


def _print_json(value: Any) -> None:
    from sage_actors.supervisor.json_text import to_json

    click.echo(to_json(value))

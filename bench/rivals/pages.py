"""What was measured of the engines, as lines for a terminal and as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bench.measure import number
from bench.rivals.engines import Engine

__all__ = ["KILLED", "page", "recovery_line", "speed_line"]

KILLED = (
    "One run of 100 nodes that take 20 ms each, in layers of 10. When 25, 50 and 75 of them have ended, the program "
    "and all that it started get a kill -9; then the program is started again."
)
_SPEED = ("engine", "version", "us per node", "spread", "what is on disk when a node is done")
_RECOVERY = ("engine", "executions", "had ended at a kill", "of these ran again", "what was done after it")


def speed_line(engine: Engine) -> str:
    if engine.left_out or not engine.us:
        return f"{engine.name:<28}left out: {engine.left_out or 'not run'}"
    value = f"{number(statistics.median(engine.us))} us"
    return (
        f"{engine.name:<28}{value:>10} {f'({_spread(engine)})':<20} {engine.version:<9} {engine.durability}"
    )


def recovery_line(engine: Engine) -> str:
    found = engine.recovery
    if found is None or found.failed:
        return f"{engine.name:<28}{found.failed if found else 'not killed'}"
    ran = f"{found.executions} executions, {found.repeated} of {found.ended} that had ended ran again"
    return f"{engine.name:<28}{ran}: {engine.restart}"


def page(what: str, machine: Mapping[str, str], engines: Sequence[Engine]) -> str:
    """Both tables, with the machine that they are of."""
    lines = ["# The same graph in other engines", "", f"Written by `python -m bench rivals`. {what}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items()), ""]
    lines += _table(_SPEED, [_speed(each) for each in engines])
    if any(each.recovery for each in engines):
        lines += ["", KILLED, ""]
        lines += _table(_RECOVERY, [_recovery(each) for each in engines if each.recovery])
    return "\n".join([*lines, ""])


def _speed(engine: Engine) -> tuple[str, ...]:
    if not engine.us:
        return (engine.name, engine.version, "not measured", "", engine.left_out)
    value = number(statistics.median(engine.us))
    return (engine.name, engine.version, value, _spread(engine), engine.durability)


def _recovery(engine: Engine) -> tuple[str, ...]:
    found = engine.recovery
    assert found is not None
    if found.failed:
        return (engine.name, "", "", "", found.failed)
    counts = (found.executions, found.ended, found.repeated)
    return (engine.name, *map(str, counts), engine.restart)


def _spread(engine: Engine) -> str:
    return f"{number(min(engine.us))} .. {number(max(engine.us))}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]

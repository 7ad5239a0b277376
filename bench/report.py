"""`RESULTS.md`: the figures beside their budgets, on what machine, and what each of them counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bench.budgets import BUDGETS
from bench.measure import Figure, quantity

__all__ = ["add_campaign", "campaigns_of", "missing", "render", "summary"]

_CAMPAIGNS = """\
## Long campaigns

Run by hand, each noted by itself: `SAGE_CHAOS_KILLS=2000 SAGE_CHAOS_RECORD=1 pytest tests/runs/test_chaos.py`.
"""

_HEAD = """\
# Benchmarks

Written by `python -m bench`{how}. Medians of the repeats, with the least and the most in brackets;
ratios are of runs that took turns in one process. A budget is a floor to beat. CPU is that of the
supervisor's process unless the line says otherwise.
"""
_QUICK = """
**Quick size**: smaller graphs, so that what a run costs once weighs more than in the budgets' own sizes.
"""


def render(
    figures: Sequence[Figure], machine: Mapping[str, str], *, quick: bool, failed: Sequence[str]
) -> str:
    """The whole page, in Markdown."""
    held = {each.name: each for each in figures}
    return "\n".join(
        [
            _HEAD.format(how=" --quick" if quick else "") + (_QUICK if quick else ""),
            *_table(("", ""), machine.items()),
            "",
            *_table(
                ("what", "measured", "spread", "budget", ""),
                (_row(name, budget.what, held.get(name)) for name, budget in BUDGETS.items()),
            ),
            "",
            *(f"Could not be measured: `{each}`.\n" for each in failed),
            "## What stands beside them",
            "",
            *_table(
                ("figure", "measured", "spread"),
                (
                    (f"`{e.name}`", quantity(e.value, e.unit), e.spread_text())
                    for e in figures
                    if not _budgeted(e)
                ),
            ),
            "",
            "## What is counted, and where the time goes",
            "",
            *(f"- `{each.name}`: {each.note}" for each in figures if each.note),
            "",
        ]
    )


def campaigns_of(page: str) -> str:
    """What a page says of long campaigns, its last section; "" where it says nothing."""
    at = page.find(_CAMPAIGNS.partition("\n")[0])
    return "" if at < 0 else page[at:]


def add_campaign(page: str, line: str) -> str:
    """The page with one more campaign at its end."""
    noted = campaigns_of(page)
    return page.removesuffix(noted).rstrip("\n") + "\n\n" + (noted or _CAMPAIGNS + "\n") + f"- {line}\n"


def summary(figures: Iterable[Figure]) -> str:
    """One line: how many budgets are met, and which are not."""
    judged = [each for each in figures if each.met is not None]
    missed = [f"{each.name} ({each.verdict.removeprefix('MISSED ')})" for each in judged if not each.met]
    text = f"{len(judged) - len(missed)} of {len(judged)} budgets met"
    return text + (f"; MISSED: {', '.join(missed)}" if missed else "")


def missing(figures: Iterable[Figure]) -> list[str]:
    """Lines of the budget table that no figure answers."""
    known = {each.name for each in figures}
    return [name for name in BUDGETS if name not in known]


def _budgeted(figure: Figure) -> bool:
    return figure.name in BUDGETS


def _row(name: str, what: str, figure: Figure | None) -> tuple[str, ...]:
    if figure is None:
        return (f"{what} (`{name}`)", "not measured", "", "", "")
    verdict = figure.verdict if figure.met else f"**{figure.verdict}**"
    value = figure.value_text()
    return (f"{what} (`{name}`)", value, figure.spread_text(), figure.bound_text(), verdict)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]

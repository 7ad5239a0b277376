"""The report's pages: the same sections as Markdown beside its plots, and as one HTML file that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from bench.measure import Figure
from bench.report_measure import Section
from bench.report_svg import svg

__all__ = ["html", "markdown"]

_TITLE = "sage-actors, measured"
_HEAD = (
    "Written by `python -m bench report`. Every figure below was measured in that run, on the machine and the "
    "repository of this table; none is typed in. Medians of the repeats, with the least and the most in brackets "
    "where there were several. What was not measured says so."
)
_COLUMNS = ("what", "measured", "spread", "goal", "", "how it was measured")
_STYLE = """
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif;color:#1f2328;background:#fff;
max-width:1060px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;width:100%;font-size:14px}
td,th{border-bottom:1px solid #d1d9e0;padding:.35rem .6rem;text-align:left;vertical-align:top}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
svg{max-width:100%;height:auto;margin:.5rem 0}
.missed{color:#cf222e}.met{color:#1a7f37}.not{color:#59636e}
code{background:#f6f8fa;padding:0 .25em;border-radius:3px}
"""


def markdown(sections: Sequence[Section], machine: Mapping[str, str]) -> str:
    """With the plots as files beside it."""
    lines = [f"# {_TITLE}", "", _HEAD, "", *_rows(("", ""), machine.items())]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.how]
        if section.problem:
            lines += ["", f"**Not measured:** {_cell(section.problem)}"]
        if section.figures:
            lines += ["", *_rows(_COLUMNS, map(_cells, section.figures))]
        for chart in section.charts:
            lines += ["", f"![{chart.title}]({chart.name}.svg)"]
        lines += [f"\nNot measured: {each}" for each in section.not_measured]
    return "\n".join([*lines, ""])


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _cells(figure: Figure) -> tuple[str, ...]:
    value = figure.value_text()
    return (f"`{figure.name}`", value, figure.spread_text(), figure.bound_text(), figure.verdict, figure.note)


def html(sections: Sequence[Section], machine: Mapping[str, str]) -> str:
    """One file; nothing is loaded from elsewhere."""
    facts = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in machine.items())
    return "\n".join(
        [
            "<!doctype html>",
            f"<html lang='en'><head><meta charset='utf-8'><title>{_TITLE}</title>",
            "<meta name='viewport' content='width=device-width,initial-scale=1'>",
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{_TITLE}</h1><p>{escape(_HEAD)}</p><table>{facts}</table>",
            *(part for section in sections for part in _section(section)),
            "</body></html>",
            "",
        ]
    )


def _section(section: Section) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2><p>{escape(section.how)}</p>"
    if section.problem:
        yield f"<p class='missed'>Not measured: {escape(section.problem)}</p>"
    yield from (svg(chart) for chart in section.charts)
    if section.figures:
        head = "".join(f"<th>{each}</th>" for each in _COLUMNS)
        yield f"<table><tr>{head}</tr>{''.join(map(_row, section.figures))}</table>"
    yield from (f"<p class='not'>Not measured: {escape(each)}</p>" for each in section.not_measured)


def _row(figure: Figure) -> str:
    kinds = ("", "n", "n", "n", "met" if figure.met else "missed", "")
    cells = (figure.name, *_cells(figure)[1:])
    return f"<tr>{''.join(map(_td, kinds, cells))}</tr>"


def _td(kind: str, text: str) -> str:
    return f"<td class='{kind}'>{escape(text)}</td>" if kind else f"<td>{escape(text)}</td>"

"""Bars, as SVG that needs nothing else: in a page, beside one, and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "Chart", "svg"]

_WIDTH, _LABELS, _VALUES = 760, 250, 130
_ROW, _BAR, _HEAD, _FOOT = 30, 18, 44, 14
_COLOURS = {"ours": "#1f6feb", "other": "#9aa4b2"}
_FONT = "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif'"


@dataclass(frozen=True, slots=True)
class Bar:
    """text: the value as it is written behind the bar. kind: `ours`, or `other` for what it is held against."""

    label: str
    value: float
    text: str
    kind: str = "ours"
    spread: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """name: of its file, without an ending. limit: a line at that value. top: of the scale, by default the largest."""

    name: str
    title: str
    bars: Sequence[Bar]
    limit: float | None = None
    limit_text: str = ""
    top: float | None = None


def svg(chart: Chart) -> str:
    """The chart; its title and values are text, so that they can be read aloud and searched."""
    height = _HEAD + _ROW * len(chart.bars) + _FOOT
    scale = (_WIDTH - _LABELS - _VALUES) / _top(chart)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' width='{_WIDTH}' "
        f"height='{height}' role='img' aria-label='{escape(chart.title, quote=True)}' {_FONT}>",
        f"<rect width='{_WIDTH}' height='{height}' fill='#ffffff'/>",
        f"<text x='12' y='20' font-size='14' font-weight='600' fill='#1f2328'>{escape(chart.title)}</text>",
    ]
    if chart.limit is not None:
        parts += _limit(chart, _LABELS + chart.limit * scale, height)
    for number, bar in enumerate(chart.bars):
        parts += _row(bar, _HEAD + _ROW * number, scale)
    return "\n".join([*parts, "</svg>", ""])


def _top(chart: Chart) -> float:
    values = [each.value for each in chart.bars] + [each.spread[1] for each in chart.bars if each.spread]
    return chart.top or max([*values, chart.limit or 0.0]) or 1.0


def _row(bar: Bar, y: float, scale: float) -> list[str]:
    middle, length = y + _BAR / 2, max(1.0, bar.value * scale)
    end = length
    parts = [
        f"<text x='{_LABELS - 10}' y='{middle + 4:.0f}' font-size='12' text-anchor='end' fill='#1f2328'>"
        f"{escape(bar.label)}</text>",
        f"<rect x='{_LABELS}' y='{y}' width='{length:.1f}' height='{_BAR}' rx='2' fill='{_COLOURS[bar.kind]}'/>",
    ]
    if bar.spread:
        low, high = (_LABELS + each * scale for each in bar.spread)
        end = max(end, high - _LABELS)
        parts.append(f"<path d='M{low:.1f} {middle}H{high:.1f}' stroke='#1f2328' stroke-width='1.5'/>")
    parts.append(
        f"<text x='{_LABELS + end + 6:.1f}' y='{middle + 4:.0f}' font-size='12' fill='#1f2328' "
        f"stroke='#ffffff' stroke-width='4' paint-order='stroke'>{escape(bar.text)}</text>"
    )
    return parts


def _limit(chart: Chart, x: float, height: float) -> list[str]:
    return [
        f"<path d='M{x:.1f} {_HEAD - 8}V{height - 6}' stroke='#cf222e' stroke-width='1.5' stroke-dasharray='4 3'/>",
        f"<text x='{x:.1f}' y='{_HEAD - 11}' font-size='11' text-anchor='middle' fill='#cf222e'>"
        f"{escape(chart.limit_text)}</text>",
    ]

"""The picture of a run on a terminal: phases, what runs now, what waits, time, tokens; redrawn with Rich."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sage_actors.messages.events import Event
from sage_actors.messages.units import counted
from sage_actors.supervisor.cli.display import Progress, duration, one_line, waiting_text

__all__ = ["LiveDisplay", "picture"]

_MOST_ROWS = 12
_PER_SECOND = 8
_MOST_TREE_ROWS = 12  # nodes of a phase that are listed under it


class LiveDisplay:
    """Shows `progress` until `close`; the picture stays where it stood. `note` prints a line above it."""

    def __init__(self, progress: Progress, *, console: Console | None = None) -> None:
        self._progress = progress
        self._console = console or Console(highlight=False)
        self._spinner = Spinner("dots")
        self._live = Live(
            console=self._console,
            get_renderable=lambda: picture(
                self._progress, spinner=self._spinner, height=self._console.height
            ),
            auto_refresh=False,  # drawn by the thread that feeds it: nothing changes under the drawing
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._drawn_at = 0.0

    def show(self, event: Event) -> None:
        """Take an event into account at the next redraw."""
        self._progress.feed(event)

    def tick(self) -> None:
        """Redraw, if it is time to. Call it several times a second, from the thread that calls `show`."""
        now = time.monotonic()
        if now - self._drawn_at >= 1 / _PER_SECOND:
            self._drawn_at = now
            self._live.refresh()

    def note(self, text: str) -> None:
        """Print a line above the picture."""
        self._live.console.print(Text(one_line(text, limit=2000)))

    def close(self) -> None:
        """Draw the last state and leave it on the screen. Twice is harmless."""
        self._live.refresh()
        self._live.stop()


def picture(
    progress: Progress,
    *,
    spinner: RenderableType | None = None,
    height: int = 40,
    now: Callable[[], float] = time.time,
) -> RenderableType:
    """The progress as something Rich can draw, in at most `height` lines."""
    shown = sum(map(len, progress.steps.values()))
    room = max(3, min(_MOST_ROWS, height - 8 - len(progress.phases) - shown))
    parts: list[RenderableType] = [_head(progress, now())]
    if progress.phases:
        parts.append(_phases(progress))
    parts.extend(_rows(progress, spinner, room, now()))
    parts.extend(Text(f"   {line}") for line in progress.measured)
    return Group(*parts)


def _head(progress: Progress, now: float) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(progress.total, 1), completed=progress.ended, width=24)
    table.add_row(
        Text(progress.run_id, style="bold"),
        bar,
        _count(progress.ended, progress.total),
        _facts(progress, now),
    )
    return table


def _facts(progress: Progress, now: float) -> Text:
    parts = []
    if progress.started_at:
        parts.append(duration(max(0.0, now - progress.started_at)))
    left = progress.remaining_s(now)
    if left is not None and not progress.status:
        parts.append(f"about {duration(left)} left")
    if progress.tokens:
        parts.append(f"{progress.tokens:,} tokens")
    if progress.retries:
        parts.append(counted(progress.retries, "retry", "retries"))
    for how, style in (("failed", "red"), ("skipped", "yellow")):
        if progress.counts[how]:
            parts.append(f"[{style}]{progress.counts[how]:,} {how}[/]")
    for endpoint, state in progress.breakers.items():
        if state.lower() != "closed":
            parts.append(f"[red]{one_line(endpoint, limit=40).replace('[', '(')}: {state}[/]")
    if progress.status:
        parts.append(progress.status)
    return Text.from_markup(" · ".join(parts))


def _phases(progress: Progress) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for phase, (ended, total) in progress.phases.items():
        style = "green" if ended >= total else "" if ended or _runs(progress, phase) else "dim"
        mark = "✓" if ended >= total else "▸" if style == "" else "·"
        title = Text(one_line(progress.titles[phase], limit=60), style=style)
        table.add_row(Text(f" {mark}", style=style), title, _count(ended, total))
        if total <= _MOST_TREE_ROWS:
            for step in progress.steps.get(phase, ()):
                table.add_row(Text(""), Text(f"  {one_line(step, limit=110)}", style="dim"), Text(""))
    return table


def _runs(progress: Progress, phase: str) -> bool:
    return any(node.startswith(f"{phase}/") for node in progress.running)


def _rows(progress: Progress, spinner: RenderableType | None, room: int, now: float) -> list[RenderableType]:
    rows: list[tuple[RenderableType, Text]] = []
    for node, since in list(progress.running.items()):
        text = Text(f"{node}  {duration(max(0.0, now - since))}")
        if progress.attempts.get(node, 1) > 1:
            text.append(f"  attempt {progress.attempts[node]}", style="yellow")
        if node in progress.notes:
            text.append(f"  {progress.notes[node]}", style="dim")
        rows.append((spinner or Text("▸"), text))
    for node, (reason, until) in list(progress.waiting.items()):
        rows.append((Text("…"), Text(f"{node}  waits: {waiting_text(reason, until)}", style="yellow")))
    shown, hidden = rows[:room], len(rows) - room
    table = Table.grid(padding=(0, 1))
    for mark, text in shown:
        text.truncate(200)
        table.add_row(Text(" "), mark, text)
    out: list[RenderableType] = [table] if shown else []
    if hidden > 0:
        out.append(Text(f"   and {hidden:,} more", style="dim"))
    out.extend(
        Text(f"   ✗ {line}", style="red", overflow="ellipsis", no_wrap=True) for line in progress.problems
    )
    return out


def _count(done: int, total: int) -> Text:
    return Text(f"{done:,}/{total:,}")

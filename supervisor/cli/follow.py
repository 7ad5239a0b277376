"""From a run's events to the screen until it ends, and from Ctrl-C to an orderly stop."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

from sage_actors.messages.events import Event
from sage_actors.supervisor.cli.display import (
    Progress,
    error_text,
    line_of,
    measured_lines,
    one_line,
    results_text,
)
from sage_actors.supervisor.cli.options import command_line, drop_unread, drop_unwritable
from sage_actors.supervisor.json_text import to_line

if TYPE_CHECKING:
    from sage_actors.messages.definition import WorkflowSpec
    from sage_actors.supervisor.handle import Outcome, Run

__all__ = ["Follower", "Mode", "Screen", "choose_mode", "make_screen", "report"]

GRACE_S = 5.0
_TICK_S = 0.1
_MOST_ERRORS = 20
Mode = Literal["json", "quiet", "plain", "live"]


class Screen(Protocol):
    """Where events go."""

    def show(self, event: Event) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


def choose_mode(*, as_json: bool, quiet: bool, plain: bool) -> Mode:
    """How to show a run: on a terminal that can move its cursor, live, unless something else is wanted."""
    if as_json:
        return "json"
    if quiet:
        return "quiet"
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    return "plain" if plain or dumb or not sys.stdout.isatty() else "live"


def make_screen(mode: Mode, spec: WorkflowSpec | None = None) -> Screen:
    """The screen of that mode. `spec`: for the phases of the live display."""
    if mode == "live":
        from sage_actors.supervisor.cli.live_display import LiveDisplay

        return LiveDisplay(Progress(spec))
    return {"json": _JsonLines, "plain": _PlainLines, "quiet": _Nothing}[mode]()


class _Nothing:
    """`--quiet`: only the end is said, by `report`."""

    def show(self, event: Event) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...
    def close(self) -> None: ...


class _JsonLines(_Nothing):
    """One event a line on stdout, flushed when no more events are waiting; everything else on stderr."""

    def show(self, event: Event) -> None:
        sys.stdout.write(to_line(event.to_dict()) + "\n")

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def tick(self) -> None:
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


class _PlainLines(_Nothing):
    """One line an event, with the time of day."""

    def show(self, event: Event) -> None:
        said_by_a_notice = event.event == "run_started" and event.data.get("resumed")
        text = None if said_by_a_notice else line_of(event)
        if text is not None:
            sys.stdout.write(f"{time.strftime('%H:%M:%S', time.localtime(event.time))}  {text}\n")
        for line in measured_lines(event.data) if event.event == "run_finished" else ():
            sys.stdout.write(f"          {line}\n")

    def note(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")

    def tick(self) -> None:
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


class Follower:
    """Shows what a run does, and turns signals into stops. Use as a context around the supervisor's life.

    First SIGINT, SIGTERM or SIGHUP: `stop(GRACE_S)`; second: `abort()`; third: the process ends (the run can
    be resumed all the same). One that comes before `follow` is remembered until then: a supervisor or a run that is
    half made cannot be stopped. Nobody reading the output any more is a first signal, too, and so is a full disk there.
    """

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._signals = 0
        self._is_interruptible = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Follower:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal came: where nothing has begun yet."""
        if self._signals:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While a person is asked, or the project's modules are imported, a signal is a KeyboardInterrupt: nothing has
        begun."""
        self.check()
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False

    def follow(
        self,
        run: Run,
        screen: Screen,
        *,
        stop: Callable[[float], object],
        abort: Callable[[], object],
        tell: Callable[[Event], object] | None = None,
    ) -> Outcome:
        """Show the run until it ends, and `tell` it elsewhere. Raises what made it end, if that is an error."""
        threading.Thread(target=self._listen, args=(run, tell), name="run-events", daemon=True).start()
        acted = 0
        while True:
            try:
                item = self._items.get(timeout=_TICK_S)
            except queue.Empty:
                item = None
            try:
                while acted < self._signals:
                    acted += 1
                    self._act(acted, screen, stop, abort)
                if isinstance(item, Event):
                    screen.show(item)
                if self._items.empty():
                    screen.tick()
            except BrokenPipeError:
                drop_unread()
                self._signals = max(1, self._signals)
            except OSError as error:
                if not drop_unwritable(error):
                    raise
                click.echo(f"Standard output cannot be written: {error.strerror}", err=True)
                self._signals = max(1, self._signals)
            if item is not None and not isinstance(item, Event):
                return self._ended(*item)

    def _listen(self, run: Run, tell: Callable[[Event], object] | None) -> None:
        try:
            for event in run.events():
                if tell is not None:
                    with contextlib.suppress(Exception):  # a trace must not cost the run
                        tell(event)
                self._items.put(event)
            self._items.put((run.result(), None))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that follows
            self._items.put((None, error))

    @staticmethod
    def _ended(outcome: Outcome | None, error: BaseException | None) -> Outcome:
        if error is not None:
            raise error
        assert outcome is not None
        return outcome

    @staticmethod
    def _act(
        number: int, screen: Screen, stop: Callable[[float], object], abort: Callable[[], object]
    ) -> None:
        if number == 1:
            screen.note(f"Stopping: running nodes have {GRACE_S:g} s to end. Once more stops them at once.")
            stop(GRACE_S)
        else:
            screen.note("Stopping at once.")
            abort()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_interruptible:
            raise KeyboardInterrupt
        self._signals += 1
        if self._signals > 2:
            os._exit(130)
        self._items.put(None)  # SimpleQueue.put may be called in a signal handler


def report(outcome: Outcome, *, mode: Mode, project: Path, is_kept: bool = True) -> int:
    """Say how a run ended and what to do next; the exit code. In JSON mode the events have said it.

    is_kept: whether anything of it was written, so that it can go on.
    """
    if outcome.status == "succeeded":
        if mode in ("plain", "live") and outcome.measured.get("artifacts"):  # a person wants those
            click.echo(f"The whole result: {command_line(project, 'show', outcome.run_id)}")
        elif mode != "json":
            click.echo(results_text(outcome.results))
    else:
        for line in _problem_lines(outcome, project) if is_kept else _lost_lines(outcome):
            click.echo(line, err=True)
    return outcome.exit_code


def _problem_lines(outcome: Outcome, project: Path) -> list[str]:
    again = command_line(project, "resume", outcome.run_id)
    if outcome.exit_code == 130:
        return [f"Interrupted. Everything that was finished is kept; continue with: {again}"]
    if outcome.status == "paused":
        head = f"Run {outcome.run_id} is paused: {one_line(outcome.reason)}"
        return [head, *_answers(outcome, project), f"Continue with: {again}"]
    lines = [f"Run {outcome.run_id} {_past(outcome.status)}" + _because(outcome)]
    lines += _error_lines(outcome.errors)
    traced = [node for node, error in list(outcome.errors.items())[:_MOST_ERRORS] if error.get("traceback")]
    lines += [
        f"The traceback of {node}: {command_line(project, 'show', outcome.run_id, node)}"
        for node in traced[:1]
    ]
    then = "Continue with" if outcome.status == "cancelled" else "Try what failed again, keeping the rest"
    return [*lines, f"{then}: {again}"]


def _lost_lines(outcome: Outcome) -> list[str]:
    """Of a run that nobody can continue."""
    reason = "" if outcome.errors or outcome.status == "cancelled" else f": {one_line(outcome.reason)}"
    paused = "is paused" if outcome.status == "paused" else _past(outcome.status)
    lines = [f"Run {outcome.run_id} {paused}{reason}", *_error_lines(outcome.errors)]
    return [*lines, "Nothing of it was written (durability none): it cannot be continued."]


def _answers(outcome: Outcome, project: Path) -> list[str]:
    """The commands that give the answers which the run waits for."""
    from sage_actors.supervisor.core.run_ending import AND

    return [
        line for cause in outcome.reason.split(AND) for line in _answers_to(cause, outcome.run_id, project)
    ]


def _answers_to(cause: str, run_id: str, project: Path) -> list[str]:
    kind, _, rest = cause.partition(": ")
    nodes = rest.partition(";")[0].split(", ")[:_MOST_ERRORS]
    if kind == "approval":
        return [f"Answer with: {command_line(project, 'approve', run_id, node)}" for node in nodes]
    if kind == "in doubt":
        ways = "--retry | --result JSON | --fail"
        return [f"Answer with: {command_line(project, 'resolve', run_id, node)} {ways}" for node in nodes]
    return []


def _past(status: str) -> str:
    return "was cancelled" if status == "cancelled" else status


def _because(outcome: Outcome) -> str:
    says_more = outcome.reason and outcome.reason != outcome.status and not outcome.errors
    return f": {one_line(outcome.reason)}" if says_more else "."


def _error_lines(errors: Mapping[str, Any]) -> list[str]:
    lines = [f"  {node}: {error_text(error)}" for node, error in list(errors.items())[:_MOST_ERRORS]]
    more = len(errors) - _MOST_ERRORS
    return [*lines, f"  and {more:,} more"] if more > 0 else lines

"""What a run tells people: an event as one line of text, and the progress that follows from all events.

    Event -> `line_of` -> plain lines          (no terminal, or --plain)
    Event -> `Progress` -> live_display.py     (a terminal)
    Event -> to_line(event.to_dict())          (--json)

Texts from operations may hold anything: `one_line` lets no control character reach a terminal.
"""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.events import Event
from sage_actors.messages.units import counted
from sage_actors.messages.unseen import UNSEEN
from sage_actors.supervisor.json_text import abbreviate, to_json

__all__ = [
    "Progress",
    "digest_text",
    "duration",
    "error_text",
    "line_of",
    "measured_lines",
    "one_line",
    "printable",
    "results_text",
]

_BACKUP = re.compile(r"\.backup-\d+\.md$")
_CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f{UNSEEN}]+")
_CONTROL_BUT_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{UNSEEN}]+")
_LONGEST_TEXT = 400
_MOST_STEPS = 12  # of a phase, that the tree shows one by one


def one_line(text: object, *, limit: int = _LONGEST_TEXT) -> str:
    """`text` on one line, without control characters, cut to `limit` characters.

    >>> one_line("red \\x1b[31malert\\nand more")
    'red [31malert and more'
    """
    flat = " ".join(_CONTROL.sub(" ", str(text)[: 4 * limit]).split())
    return flat if len(flat) <= limit else f"{flat[: limit - 3]}..."


def printable(text: str) -> str:
    """`text` with its lines and tabs, without what moves a terminal's cursor or changes its state."""
    return _CONTROL_BUT_LINES.sub("", text.replace("\r\n", "\n"))


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> [duration(each) for each in (0.004, 1.23, 59.97, 75, 7380, 200_000)]
    ['4 ms', '1.2 s', '1 min 0 s', '1 min 15 s', '2 h 3 min', '2 d 7 h']
    """
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, big, small, smaller in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= unit:
            return f"{whole // unit} {big} {whole % unit // smaller} {small}"
    return f"{whole} s"


def error_text(error: object) -> str:
    """An error map on one line: its type and its message."""
    if not isinstance(error, Mapping):
        return one_line(error)
    kind, message = (one_line(error.get(name, "")) for name in ("type", "message"))
    return f"{kind}: {message}" if kind and message else kind or message or "an error without a text"


def line_of(event: Event) -> str | None:
    """The event as one line for people, or None if it does not concern them."""
    describe = _LINES.get(event.event)
    return None if describe is None else describe(event)


def results_text(results: Mapping[str, Any]) -> str:
    """Results by node id as indented JSON, long values cut; printable on a terminal."""
    return printable(to_json(abbreviate(dict(results), items=50)))


def _started(event: Event) -> str:
    nodes, done = event.data.get("nodes", 0), event.data.get("completed", 0)
    if event.data.get("resumed"):
        return f"run {event.run_id}: continues, {done:,} of {counted(nodes, 'node')} done"
    return f"run {event.run_id}: {counted(nodes, 'node')}"


def _status(event: Event) -> str:
    data = event.data
    counts = ", ".join(
        f"{number:,} {state}" for state, number in (data.get("counts") or {}).items() if number
    )
    return f"run {event.run_id}: {data.get('status')}, {counted(data.get('total', 0), 'node')}: {counts}"


def _node_started(event: Event) -> str:
    attempt = event.data.get("attempt", 1)
    return f"{event.node}: started" + (f", attempt {attempt}" if attempt > 1 else "")


def _node_succeeded(event: Event) -> str:
    data = event.data
    text = f"{event.node}: succeeded in {duration(data.get('seconds') or 0.0)}"
    if data.get("cached"):
        text = f"{event.node}: succeeded, from the cache"
    if data.get("fallback"):
        text += ", by its fallback"
    tokens = data.get("tokens") or 0
    if tokens:
        text += f", {counted(tokens, 'token')}"
    digest = digest_text(data)
    return f"{text}, {digest}" if digest else text


def digest_text(data: Mapping[str, Any]) -> str:
    """How much of what was found is passed on, "" if nothing was digested: `1,438 of 5,001 tokens`."""
    raw, kept = data.get("raw_tokens"), data.get("kept_tokens")
    if not isinstance(raw, int) or not isinstance(kept, int) or raw <= kept:
        return ""
    return f"{kept:,} of {raw:,} tokens passed on"


def measured_lines(data: Mapping[str, Any]) -> list[str]:
    """What was measured of a run that ended, as lines; a figure that was not measured has none.

    data: of the event `run_finished`.
    """
    lines = []
    busy, seconds, speedup = data.get("busy_seconds"), data.get("seconds"), data.get("speedup")
    counts = data.get("counts") or {}
    if speedup and speedup >= 1 and busy and seconds and counts.get("succeeded", 0) > 1:
        lines.append(
            f"speedup {speedup:.1f}x: nodes took {duration(speedup * seconds)}, the run {duration(seconds)}"
        )
    if data.get("raw_bytes") and digest_text(data):
        share = 1 - data["kept_tokens"] / max(1, data["raw_tokens"])
        sizes = f"{data['raw_bytes']:,} to {data['kept_bytes']:,} bytes"
        lines.append(f"digests {digest_text(data)} ({share:.0%} fewer, by {data.get('tokenizer')}; {sizes})")
    if counts.get("cached"):
        saved = f", {data['saved_tokens']:,} tokens saved" if data.get("saved_tokens") else ""
        lines.append(f"cache {counted(counts['cached'], 'hit')}{saved}")
    if data.get("server_starts"):
        starts = sum(data["server_starts"].values())
        lines.append(
            f"servers {counted(starts, 'start')}, {counted(data.get('context_reloads', 0), 'context reload')}"
        )
    for each in map(one_line, data.get("artifacts") or ()):
        kept = _BACKUP.search(each)
        lines.append(f"kept {each}: what stood there before" if kept else f"wrote {each}")
    for result in (data.get("results") or {}).values():
        if isinstance(result, Mapping) and result.get("status") == "needs_agent":
            order = one_line(result.get("work_order") or result.get("path") or "the work order")
            lines.append(
                f"next: hand {order} to a coding agent, or choose one: SAGE_AGENT=claude and --fresh"
            )
    return lines


def _node_failed(event: Event) -> str:
    text = f"{event.node}: failed: {error_text(event.data.get('error'))}"
    if event.data.get("will_retry"):
        wait = event.data.get("retry_in")
        return text + (" (again at once)" if not wait else f" (again in {duration(wait)})")
    return text + (" (its fallback is used)" if event.data.get("fallback") else "")


def _node_waiting(event: Event) -> str:
    data = event.data
    text = f"{event.node}: waits: {waiting_text(data.get('reason', ''), data.get('until'))}"
    extra = data.get("message") or data.get("endpoint") or data.get("evidence")
    return f"{text}: {one_line(extra)}" if extra else text


def waiting_text(reason: object, until: object) -> str:
    """Why a node waits, and until when."""
    text = {"in_doubt": "in doubt", "wait": "a wait node"}.get(str(reason), one_line(reason))
    if isinstance(until, (int, float)) and until > 0:
        try:
            moment = time.localtime(until)
        except (OverflowError, OSError, ValueError):
            return text
        today = moment[:3] == time.localtime()[:3]
        text += time.strftime(" until %H:%M:%S" if today else " until %Y-%m-%d %H:%M:%S", moment)
    return text


def _phase_completed(event: Event) -> str:
    data = event.data
    text = f"phase {data.get('phase')}: {data.get('succeeded')} of {data.get('total')} succeeded"
    return text + ("" if data.get("ok", True) else "; what depends on it is skipped")


def _worker_lost(event: Event) -> str:
    nodes = event.data.get("nodes") or []
    blocked = event.data.get("reason") == "heartbeat"
    why = "its event loop was blocked" if blocked else exit_text(event.data.get("exitcode"))
    text = f"a worker was lost ({why})"
    if not nodes:
        return f"{text}; it executed nothing"
    shown = ", ".join(nodes[:5]) + (f" and {len(nodes) - 5:,} more" if len(nodes) > 5 else "")
    return f"{text} while it executed {shown}"


def exit_text(exitcode: object) -> str:
    """How a process ended."""
    if not isinstance(exitcode, int):
        return "it is gone"
    return f"signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"


def _breaker(event: Event) -> str:
    return f"endpoint {event.data.get('endpoint')}: its breaker is {event.data.get('state')}"


def _paused(event: Event) -> str:
    return f"paused: {one_line(event.data.get('reason', ''))}"


def _finished(event: Event) -> str:
    data = event.data
    text = f"run {event.run_id}: {data.get('status')}"
    if data.get("seconds") is not None:
        text += f" in {duration(data['seconds'])}"
    used = tokens_text(data.get("tokens"))
    return f"{text}, {used}" if used else text


def tokens_text(tokens: object) -> str:
    """Tokens and cost, "" if none were used. A number, or {"input_tokens", "output_tokens", "cost"}."""
    if isinstance(tokens, (int, float)):
        return counted(int(tokens), "token") if tokens else ""
    if not isinstance(tokens, Mapping):
        return ""
    read, written = int(tokens.get("input_tokens") or 0), int(tokens.get("output_tokens") or 0)
    cost = float(tokens.get("cost") or 0.0)
    text = f"{read:,} tokens in, {written:,} out" if read or written else ""
    return ", ".join(part for part in (text, f"cost {cost:.4g}" if cost else "") if part)


def _progress(event: Event) -> str | None:
    data = event.data.get("data", {key: value for key, value in event.data.items() if key != "attempt"})
    if isinstance(data, Mapping):
        text = ", ".join(f"{key}: {one_line(value, limit=80)}" for key, value in data.items())
    else:
        text = one_line(data)
    return f"{event.node}: {text}" if text else None


_LINES: dict[str, Callable[[Event], str | None]] = {
    "run_started": _started,
    "run_status": _status,
    "node_started": _node_started,
    "node_succeeded": _node_succeeded,
    "node_failed": _node_failed,
    "node_waiting": _node_waiting,
    "node_skipped": lambda event: f"{event.node}: skipped: {one_line(event.data.get('reason', ''))}",
    "node_progress": _progress,
    "phase_completed": _phase_completed,
    "worker_lost": _worker_lost,
    "breaker": _breaker,
    "run_paused": _paused,
    "run_finished": _finished,
}


class Progress:
    """Where a run stands, as far as its events say. Memory does not grow with what has ended.

    total: nodes known so far. running: Unix time of the start by node. waiting: (reason, until) by node.
    phases: [ended, total] by phase id. problems: the last failures, as lines.
    """

    def __init__(self, spec: WorkflowSpec | None = None) -> None:
        self.run_id = ""
        self.status = ""
        self.measured: list[str] = []
        self.steps: dict[str, list[str]] = {}  # by phase: what its nodes came to, while they are few
        self.total = 0
        self.kept = 0  # done before this process took the run over
        self.counts: Counter[str] = Counter()
        self.retries = 0
        self.tokens = 0
        self.running: dict[str, float] = {}
        self.attempts: dict[str, int] = {}
        self.waiting: dict[str, tuple[str, Any]] = {}
        self.breakers: dict[str, str] = {}
        self.problems: deque[str] = deque(maxlen=5)
        self.finished: deque[str] = deque(maxlen=5)
        self.notes: dict[str, str] = {}
        self.started_at = 0.0
        self.phases: dict[str, list[int]] = {}
        self.titles: dict[str, str] = {}
        for phase in spec.phases if spec is not None else ():
            self.phases[phase.id] = [0, 0]
            self.titles[phase.id] = phase.name or phase.id
        for node in spec.nodes if spec is not None else ():
            if node.phase in self.phases:
                self.phases[node.phase][1] += 1

    @property
    def ended(self) -> int:
        """Nodes that need nothing more: succeeded (now or before), failed, skipped."""
        return self.kept + self.counts["succeeded"] + self.counts["failed"] + self.counts["skipped"]

    def remaining_s(self, now: float) -> float | None:
        """An estimate of what remains, in seconds, from the pace so far; None while there is no telling."""
        now_done, elapsed = self.ended - self.kept, now - self.started_at
        left = self.total - self.ended
        if now_done < 2 or elapsed < 1.0 or left <= 0:
            return None
        return elapsed / now_done * left

    def feed(self, event: Event) -> None:
        """Take note of one event."""
        self.run_id = event.run_id
        match event.event:
            case "run_started":
                self.started_at = event.time
                self.total = int(event.data.get("nodes", 0))
                self.kept = int(event.data.get("completed", 0))
            case "run_status":
                self._begin_at(event)
            case "node_started" if event.node is not None:
                self.running[event.node] = event.time
                self.attempts[event.node] = int(event.data.get("attempt", 1))
                self.waiting.pop(event.node, None)
            case "node_succeeded" if event.node is not None:
                self.tokens += int(event.data.get("tokens") or 0)
                self._end(event, "succeeded")
                self.finished.append(str(line_of(event)))
            case "node_failed" if event.node is not None:
                self._failed(event)
            case "node_skipped" if event.node is not None:
                self._end(event, "skipped")
            case "node_waiting" if event.node is not None:
                self.waiting[event.node] = (str(event.data.get("reason", "")), event.data.get("until"))
                self.running.pop(event.node, None)
            case "node_progress" if event.node is not None:
                text = _progress(event)
                if text and event.node in self.running:
                    self.notes[event.node] = text.partition(": ")[2]
            case "worker_lost":
                for node in event.data.get("nodes") or ():
                    self.running.pop(node, None)
            case "breaker":
                self.breakers[str(event.data.get("endpoint"))] = str(event.data.get("state"))
            case "run_paused":
                self.status = "paused"
            case "run_finished":
                self.status = str(event.data.get("status"))
                self.measured = measured_lines(event.data)

    def _begin_at(self, event: Event) -> None:
        """Begin in the middle, from a status (`RunStatus` as a map)."""
        data = event.data
        self.total = int(data.get("total", 0))
        self.started_at = event.time - float(data.get("seconds") or 0.0)
        counts = data.get("counts") or {}
        for how in ("failed", "skipped"):
            self.counts[how] = int(counts.get(how, 0))
        self.kept = int(counts.get("succeeded", 0))
        self.running = dict.fromkeys(data.get("running") or (), event.time)
        self.waiting = {node: (str(why), None) for node, why in (data.get("waiting") or {}).items()}
        self.breakers = dict(data.get("breakers") or {})

    def _failed(self, event: Event) -> None:
        assert event.node is not None
        self.problems.append(_node_failed(event))
        if event.data.get("will_retry"):
            self.retries += 1
            self.running.pop(event.node, None)
            until = event.time + float(event.data.get("retry_in") or 0.0)
            self.waiting[event.node] = ("the next attempt", until)
        elif not event.data.get("fallback"):
            self._end(event, "failed")

    def _end(self, event: Event, how: str) -> None:
        node = str(event.node)
        self.counts[how] += 1
        for table in (self.running, self.waiting, self.attempts, self.notes):
            table.pop(node, None)
        phase = node.partition("/")[0]
        if phase in self.phases and "[" not in node:
            self.phases[phase][0] += 1
            steps = self.steps.setdefault(phase, [])
            if len(steps) < _MOST_STEPS:
                steps.append(str(line_of(event)).partition("/")[2])
        self.total = max(self.total, self.ended + len(self.running))

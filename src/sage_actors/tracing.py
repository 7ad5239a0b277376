"""Traces of runs for OpenTelemetry: one span for a run, below it one for each attempt of a node.

    outcome = supervisor.run(flow, on_event=Spans())

What operations say, take and give is not in them: ids, times, counts and errors are. Names of attributes follow the
semantic conventions of OpenTelemetry where there are some (`error.type`, `gen_ai.usage.*`), else begin with `sage.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sage_actors.messages.events import Event

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Spans"]

_NOTES = {
    "node_waiting": ("reason",),
    "node_skipped": ("reason",),
    "phase_completed": ("phase", "succeeded", "total", "ok"),
    "worker_lost": ("exitcode", "reason", "evidence"),
    "breaker": ("endpoint", "state", "failures"),
    "run_paused": ("reason",),
}
_USAGE = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cost": "sage.cost",
}


class Spans:
    """An `on_event` for one run. What is not over when it ends, ends with it.

    Args:
        tracer_provider: where spans go; by default the process's own, which does nothing until an SDK is set up.
        parent: the trace to take part in; by default the current one.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        parent: Context | None = None,
    ) -> None:
        from opentelemetry import context, trace

        self._tracer = trace.get_tracer("sage-actors", tracer_provider=tracer_provider)
        self._parent = context.get_current() if parent is None else parent
        self._run: Span | None = None
        self._below = self._parent
        self._attempts: dict[str, Span] = {}  # by node

    def __call__(self, event: Event) -> None:
        """Takes one event, in the order in which they happened."""
        if event.event == "run_started":
            self._begin(event)
        elif self._run is None:
            return
        elif event.event == "node_started":
            self._begin_attempt(event)
        elif event.event in ("node_succeeded", "node_failed"):
            self._end_attempt(event)
        elif event.event == "run_finished":
            self._end(event)
        elif event.event in _NOTES:
            self._note(event)

    def _begin(self, event: Event) -> None:
        from opentelemetry import trace

        said = {"sage.run.id": event.run_id}
        said |= {
            f"sage.run.{name}": event.data[name] for name in ("workflow", "nodes", "resumed", "completed")
        }
        self._run = self._tracer.start_span(
            f"run {event.data['workflow']}", self._parent, attributes=said, start_time=_ns(event.time)
        )
        self._below = trace.set_span_in_context(self._run, self._parent)

    def _begin_attempt(self, event: Event) -> None:
        assert event.node is not None
        self._give_up(event.node, "the attempt was given up", event.time)
        self._attempts[event.node] = self._start(event.node, event.time, event.data)

    def _start(self, node: str, at: float, data: Mapping[str, Any]) -> Span:
        said = {"sage.node.id": node}
        said |= {f"sage.node.{name}": data[name] for name in ("attempt", "worker") if name in data}
        return self._tracer.start_span(node, self._below, attributes=said, start_time=_ns(at))

    def _end_attempt(self, event: Event) -> None:
        """Of a node that no worker carried out (a result of the cache, a wait) only the end is told."""
        assert event.node is not None
        data = event.data
        span = self._attempts.pop(event.node, None)
        if span is None:
            span = self._start(event.node, event.time - data.get("seconds", 0.0), data)
        for name in ("cached", "tokens", "fallback", "will_retry"):
            if name in data:
                span.set_attribute(f"sage.node.{name}", data[name])
        if event.event == "node_failed":
            _fail(span, data["error"]["type"], data["error"]["message"])
        span.end(_ns(event.time))

    def _note(self, event: Event) -> None:
        assert self._run is not None
        said = {name: event.data[name] for name in _NOTES[event.event] if event.data.get(name) is not None}
        if event.node is not None:
            said["sage.node.id"] = event.node
        self._run.add_event(event.event, said, _ns(event.time))
        if event.event == "worker_lost":
            for node in event.data["nodes"]:
                self._give_up(node, str(event.data["evidence"]), event.time)

    def _give_up(self, node: str, why: str, at: float) -> None:
        span = self._attempts.pop(node, None)
        if span is not None:
            _fail(span, "WorkerLost", why)
            span.end(_ns(at))

    def _end(self, event: Event) -> None:
        assert self._run is not None
        data, at = event.data, event.time
        for node in list(self._attempts):
            self._give_up(node, f"the run ended as {data['status']}", at)
        run, self._run = self._run, None
        run.set_attribute("sage.run.status", data["status"])
        for name, value in data["tokens"].items():
            if value and name in _USAGE:
                run.set_attribute(_USAGE[name], value)
        for name, value in data["counts"].items():
            run.set_attribute(f"sage.run.{name}", value)
        if data["status"] == "failed":
            _fail(run, "failed", data["reason"])
        run.end(_ns(at))


def _fail(span: Span, kind: str, message: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, message)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)

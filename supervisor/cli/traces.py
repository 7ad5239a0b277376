"""Traces of a run for whoever the OTEL_ variables name, where the extra `otel` is installed.

The variables are those of OpenTelemetry itself, and its SDK reads them; nothing is sent where none names an endpoint.
A collector that is not there, or does not answer, costs a note and the seconds below.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_actors.tracing import Spans

__all__ = ["traces"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_MOST_SPANS = 100_000  # that wait to be sent
_LAST_S = 5.0  # for what waits when the run has ended


@contextmanager
def traces(environ: Mapping[str, str], note: Callable[[str], object]) -> Iterator[Spans | None]:
    """What to tell each event of a run, or None: nobody is to be told. note: hears it if spans could not be sent."""
    endpoint = next((environ[name] for name in _ENDPOINTS if environ.get(name)), None)
    if endpoint is None or _is_off(environ):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:  # the variable may be meant for others
        yield None
        return
    from sage_actors.tracing import Spans

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # it is said once, below
    exporter = _noting_losses(OTLPSpanExporter)
    named = Resource.create({SERVICE_NAME: environ.get("OTEL_SERVICE_NAME") or "sage-actors"})
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_MOST_SPANS))
    try:
        yield Spans(tracer_provider=provider, parent=_parent(environ))
    finally:
        if not _closed(provider.shutdown) or exporter.lost:
            note(f"Traces: not all spans of this run reached {endpoint}")


def _closed(shutdown: Callable[[], object]) -> bool:
    """Whether what waits was dealt with in time. An exporter tries again and again, whatever timeout it is given."""
    closing = threading.Thread(target=shutdown, name="otel-shutdown", daemon=True)
    closing.start()
    closing.join(_LAST_S)
    return not closing.is_alive()


def _noting_losses(exporter: type[Any]) -> Any:
    """An exporter that knows in `lost` how many spans it could not send."""
    from opentelemetry.sdk.trace.export import SpanExportResult

    class Noting(exporter):  # type: ignore[misc]
        lost = 0

        def export(self, spans: Sequence[Any]) -> Any:
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                self.lost += len(spans)
            return result

    return Noting()


def _is_off(environ: Mapping[str, str]) -> bool:
    return (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )


def _parent(environ: Mapping[str, str]) -> Any:
    """The trace of whoever started this process, by the usual variable."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": environ.get("TRACEPARENT", "")})

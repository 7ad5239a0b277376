"""Traces: what OpenTelemetry hears of a run, in the process and from the command line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import operations_engine as operations
import pytest
from cli_harness import CommandLine
from engine_harness import make_supervisor
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from sage_actors import RetryPolicy, Workflow
from sage_actors.tracing import Spans

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorder:
    """An SDK that keeps what it is told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        found = [each for each in self.spans() if each.name == name]
        return sorted(found, key=lambda span: span.start_time or 0)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def _id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def run(project: Path, flow: Workflow, recorder: Recorder) -> Any:
    with make_supervisor(project) as supervisor:
        return supervisor.start(
            flow, run_id="traced", on_event=Spans(tracer_provider=recorder.provider)
        ).result(60)


def test_a_run_is_a_span_and_each_attempt_one_below_it(tmp_path: Path, recorder: Recorder) -> None:
    flow = Workflow("traced")
    retry = RetryPolicy(max_attempts=3, backoff=0.01)
    flow.add(operations.fail_until, id="flaky", path=str(tmp_path / "tries"), times=1, value=1, retry=retry)

    run(tmp_path, flow, recorder)

    (whole,) = recorder.named("run traced")
    failed, succeeded = recorder.named("flaky")
    assert [each.parent and each.parent.span_id for each in (failed, succeeded)] == [_id_of(whole)] * 2
    assert (failed.status.status_code, said(failed)["error.type"]) == (StatusCode.ERROR, "RuntimeError")
    assert succeeded.status.status_code is StatusCode.UNSET
    assert [said(each)["sage.node.attempt"] for each in (failed, succeeded)] == [1, 2]
    assert said(whole)["sage.run.status"] == "succeeded"
    times = [whole.start_time, failed.start_time, failed.end_time, succeeded.start_time, whole.end_time]
    assert times == sorted(each for each in times if each is not None)


def test_an_attempt_whose_worker_dies_ends_as_an_error(tmp_path: Path, recorder: Recorder) -> None:
    flow = Workflow("traced")
    flow.add(operations.die_until, id="killed", path=str(tmp_path / "deaths"), times=1, value=1)

    run(tmp_path, flow, recorder)

    first, *_, last = recorder.named("killed")
    assert (first.status.status_code, said(first)["error.type"]) == (StatusCode.ERROR, "WorkerLost")
    assert last.status.status_code is StatusCode.UNSET
    (whole,) = recorder.named("run traced")
    assert "worker_lost" in [each.name for each in whole.events]


def test_nothing_that_an_operation_takes_or_gives_is_in_a_trace(tmp_path: Path, recorder: Recorder) -> None:
    flow = Workflow("traced")
    flow.add(operations.say, id="talks", text="a word in confidence")

    run(tmp_path, flow, recorder)

    assert recorder.named("talks")
    assert "in confidence" not in "".join(span.to_json() for span in recorder.spans())


def test_a_run_that_fails_says_so(tmp_path: Path, recorder: Recorder) -> None:
    flow = Workflow("traced")
    flow.add(operations.boom, id="bad", retry=RetryPolicy(max_attempts=1))

    with make_supervisor(tmp_path) as supervisor:
        supervisor.start(flow, on_event=Spans(tracer_provider=recorder.provider))._done.wait(60)

    (whole,) = recorder.named("run traced")
    assert (whole.status.status_code, said(whole)["sage.run.status"]) == (StatusCode.ERROR, "failed")


class Collector:
    """A collector on the loopback that keeps the names and traces of the spans it is sent."""

    def __init__(self, *, answers: bool = True) -> None:
        collector = self
        self.spans: list[tuple[str, str, str]] = []  # name, trace, parent
        self.let_go = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not answers:
                    collector.let_go.wait(60)
                    return
                collector.spans += _told(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()


def _told(body: bytes) -> Iterator[tuple[str, str, str]]:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield span.name, span.trace_id.hex(), span.parent_span_id.hex()


@pytest.fixture
def command_line(tmp_path: Path) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path)
    line.write("pause.json", {"name": "pause", "nodes": [{"id": "a", "type": "wait", "seconds": 0.01}]})
    yield line
    line.close()


def test_the_command_line_traces_where_the_environment_names_a_collector(command_line: CommandLine) -> None:
    collector = Collector()
    try:
        command_line(
            "run",
            "pause.json",
            environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "TRACEPARENT": _PARENT},
        )
    finally:
        collector.close()

    spans = {name: (trace, parent) for name, trace, parent in collector.spans}
    assert spans.keys() == {"run pause", "a"}
    assert spans["run pause"] == (_PARENT.split("-")[1], _PARENT.split("-")[2])


@pytest.mark.parametrize("variable", ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"])
def test_it_sends_nothing_where_that_is_switched_off(command_line: CommandLine, variable: str) -> None:
    name, _, value = variable.partition("=")
    collector = Collector()
    try:
        command_line("run", "pause.json", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, name: value})
    finally:
        collector.close()

    assert collector.spans == []


@pytest.mark.slow
def test_a_collector_that_never_answers_costs_a_note_and_seconds(command_line: CommandLine) -> None:
    collector = Collector(answers=False)
    began = time.monotonic()
    try:
        done = command_line(
            "run", "pause.json", "--json", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        )
    finally:
        collector.close()

    assert f"not all spans of this run reached {collector.url}" in done.stderr
    assert time.monotonic() - began < 45

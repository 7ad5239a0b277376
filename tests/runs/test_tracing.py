"""Traces: what OpenTelemetry hears of a run, in the process and from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cli_harness import CommandLine
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from places import SUPPORT
from secret_samples import Draw

TOKEN = Draw(43).word(32)
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """The spans of `traced_program`, as the SDK writes them."""

    def __init__(self, spans: list[dict[str, Any]]) -> None:
        self.spans = spans

    def named(self, name: str) -> list[dict[str, Any]]:
        found = [each for each in self.spans if each["name"] == name]
        return sorted(found, key=lambda span: str(span["start_time"]))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    project = tmp_path_factory.mktemp("traced")
    program = SUPPORT / "traced_program.py"
    done = subprocess.run(
        [sys.executable, program, project],
        env=os.environ | {"TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return Traced(json.loads(done.stdout))


def test_a_run_is_a_span_and_each_attempt_one_below_it(traced: Traced) -> None:
    (whole,) = traced.named("run traced")
    failed, succeeded = traced.named("flaky")
    assert [each["parent_id"] for each in (failed, succeeded)] == [whole["context"]["span_id"]] * 2
    assert (failed["status"]["status_code"], failed["attributes"]["error.type"]) == ("ERROR", "RuntimeError")
    assert succeeded["status"]["status_code"] == "UNSET"
    assert [each["attributes"]["sage.node.attempt"] for each in (failed, succeeded)] == [1, 2]
    assert whole["attributes"]["sage.run.status"] == "succeeded"
    times = [whole["start_time"], failed["start_time"], failed["end_time"], succeeded["start_time"]]
    assert [*times, whole["end_time"]] == sorted([*times, whole["end_time"]])


def test_an_attempt_whose_worker_dies_ends_as_an_error(traced: Traced) -> None:
    first, *_, last = traced.named("killed")
    assert (first["status"]["status_code"], first["attributes"]["error.type"]) == ("ERROR", "WorkerLost")
    assert last["status"]["status_code"] == "UNSET"
    (whole,) = traced.named("run traced")
    assert "worker_lost" in [each["name"] for each in whole["events"]]


def test_nothing_that_an_operation_takes_or_gives_is_in_a_trace(traced: Traced) -> None:
    assert traced.named("talks")
    assert "in confidence" not in json.dumps(traced.spans)


def test_a_secret_that_operations_fail_and_die_with_is_in_no_trace(traced: Traced) -> None:
    told = json.dumps(traced.spans)
    (failed,), died = traced.named("fail_with"), traced.named("die_with")
    assert failed["status"]["description"] == "refused: Bearer [redacted:env.TOKEN]"
    assert all("last words: Bearer [redacted:" in each["status"]["description"] for each in died)
    assert traced.named("shell")[0]["status"]["status_code"] == "ERROR"
    assert [form for form in (TOKEN, TOKEN.encode().hex()) if form in told] == []


def test_a_run_that_fails_says_so(traced: Traced) -> None:
    (whole,) = traced.named("run fails")
    assert (whole["status"]["status_code"], whole["attributes"]["sage.run.status"]) == ("ERROR", "failed")


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

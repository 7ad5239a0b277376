"""Runs a workflow that is retried, killed and talks, one that fails, and one that is careless with the secret in the
variable TOKEN, and prints what OpenTelemetry heard of them.

A program of its own: the SDK leaves hooks that start threads in every fork, and other tests fork.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import operations_engine as operations
import operations_secrets as careless
from engine_harness import make_supervisor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sage_actors import RetryPolicy, Workflow
from sage_actors.tracing import Spans


def main(project: Path) -> None:
    traced = Workflow("traced")
    retry = RetryPolicy(max_attempts=3, backoff=0.01)
    flaky = traced.add(operations.fail_until, id="flaky", path=str(project / "tries"), times=1, retry=retry)
    # After it: what it killed beside itself would have one attempt more.
    traced.add(operations.die_until, id="killed", path=str(project / "deaths"), times=1, after=[flaky])
    traced.add(operations.say, id="talks", text="a word in confidence")
    fails = Workflow("fails")
    fails.add(operations.boom, id="bad", retry=RetryPolicy(max_attempts=1))
    leaks = Workflow("leaks")
    for operation in (careless.leak, careless.leak_async, careless.fail_with, careless.die_with):
        leaks.add(operation, secret="Bearer ${env.TOKEN}", on_failure="continue", max_crashes=1)
    leaks.add("shell", id="shell", command="echo $T >&2; exit 3", env={"T": "${env.TOKEN}"})
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with make_supervisor(project) as supervisor:
        for flow in (traced, fails, leaks):
            supervisor.start(flow, on_event=Spans(tracer_provider=provider)).result(60)
    print(json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Frames of workers as pool events. Every frame is checked: the other side may be anything by now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sage_actors.actors.pool.pool_worker import WorkerHandle
from sage_actors.actors.pool.protocol import (
    Begun,
    GivenBack,
    GuardEnded,
    GuardRequest,
    Key,
    Logs,
    PoolEvent,
    Progress,
    Results,
)
from sage_actors.messages.errors import ProtocolError
from sage_actors.messages.wire import Kind, check_result_rows, check_rows

__all__ = ["FrameHandlers"]


class FrameHandlers:
    """`handle(worker, kind, payload)` delivers the event or raises ProtocolError."""

    def __init__(
        self,
        *,
        deliver: Callable[[PoolEvent], None],
        on_ready: Callable[[WorkerHandle], None],
        on_executing: Callable[[WorkerHandle, list[Key]], None],
        on_inspected: Callable[[WorkerHandle, list[dict[str, Any]]], None],
    ) -> None:
        self._deliver = deliver
        self._on_ready = on_ready
        self._on_executing = on_executing
        self._on_inspected = on_inspected
        self._handlers: dict[int, Callable[[WorkerHandle, Any], None]] = {
            Kind.READY: self._ready,
            Kind.RESULTS: self._results,
            Kind.GIVEN_BACK: self._given_back,
            Kind.LOGS: self._logs,
            Kind.PROGRESS: self._progress,
            Kind.GUARD: self._guard,
            Kind.GUARDED: self._guarded,
            Kind.INSPECTED: self._inspected,
            Kind.HEARTBEAT: self._heartbeat,
            Kind.BLOCKED: self._blocked,
            Kind.BEGUN: self._begun,
        }

    def handle(self, worker: WorkerHandle, kind: int, payload: Any) -> None:
        handler = self._handlers.get(kind)
        if handler is None:
            raise ProtocolError(f"a worker must not send frames of kind {kind}")
        handler(worker, payload)

    def _ready(self, worker: WorkerHandle, payload: Any) -> None:
        check_rows([payload], int, str)
        self._on_ready(worker)

    def _results(self, worker: WorkerHandle, payload: Any) -> None:
        rows = check_result_rows(payload)
        worker.settle(rows)
        self._deliver(Results(worker.number, rows))

    def _given_back(self, worker: WorkerHandle, payload: Any) -> None:
        keys = _keys(payload)
        worker.settle(keys)
        self._deliver(GivenBack(worker.number, keys))

    def _logs(self, worker: WorkerHandle, payload: Any) -> None:
        rows = check_rows(payload, int, int, int, str, str)
        for run, node, attempt, _, text in rows:
            worker.remember_lines((run, node, attempt), text)
            if worker.watches and (watch := worker.watches.get((run, node, attempt))):
                watch.printed(len(text.encode("utf-8", "replace")))
        self._deliver(Logs(worker.number, rows))

    def _progress(self, worker: WorkerHandle, payload: Any) -> None:
        self._deliver(Progress(worker.number, check_rows(payload, int, int, int, dict)))

    def _guard(self, worker: WorkerHandle, payload: Any) -> None:
        check_rows([payload], int, int, int, int, str)
        self._deliver(GuardRequest(worker.number, *payload))

    def _guarded(self, worker: WorkerHandle, payload: Any) -> None:
        check_rows([payload], str, int, bool)
        self._deliver(GuardEnded(worker.number, *payload))

    def _inspected(self, worker: WorkerHandle, payload: Any) -> None:
        check_rows([payload], int, list)
        for info in payload[1]:
            if type(info) is not dict or type(info.get("call")) is not str:
                raise ProtocolError("INSPECTED holds maps that name their call")
        self._on_inspected(worker, payload[1])

    def _heartbeat(self, worker: WorkerHandle, payload: Any) -> None:
        worker.heartbeat_at = time.monotonic()
        worker.blockers = ()
        keys = _keys(payload)
        if worker.limits:
            self._on_executing(worker, keys)

    def _begun(self, worker: WorkerHandle, payload: Any) -> None:
        (key,) = _keys([payload])
        self._deliver(Begun(worker.number, key))

    def _blocked(self, worker: WorkerHandle, payload: Any) -> None:
        worker.blockers = tuple(_keys(payload))


def _keys(payload: Any) -> list[Key]:
    return [(run, node, attempt) for run, node, attempt in check_rows(payload, int, int, int)]

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
from sage_actors.messages.codec import ValueCheck
from sage_actors.messages.errors import ProtocolError
from sage_actors.messages.wire import OK, STREAMS, Kind
from sage_actors.messages.wire_check import check_result_rows, check_rows

__all__ = ["FrameHandlers"]

_MOST_CHARS = 1000  # of the name of an endpoint


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
        self._check_value = ValueCheck()
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
        for row in rows:
            if row[3] == OK:
                self._check_value(row[5])
            if row[6] is not None and "whole" in row[6]:
                self._check_value(row[6]["whole"])
        worker.settle(rows)
        self._deliver(Results(worker.number, rows))

    def _given_back(self, worker: WorkerHandle, payload: Any) -> None:
        keys = _keys(worker, payload)
        worker.settle(keys)
        self._deliver(GivenBack(worker.number, keys))

    def _logs(self, worker: WorkerHandle, payload: Any) -> None:
        rows = check_rows(payload, int, int, int, str, str)
        for run, node, attempt, stream, text in rows:
            if stream not in STREAMS:
                raise ProtocolError("LOGS of a stream that there is not")
            _check_own(worker, (run, node, attempt))
            worker.remember_lines((run, node, attempt), text)
            if worker.watches and (watch := worker.watches.get((run, node, attempt))):
                watch.printed(len(text.encode("utf-8", "replace")))
        self._deliver(Logs(worker.number, rows))

    def _progress(self, worker: WorkerHandle, payload: Any) -> None:
        rows = check_rows(payload, int, int, int, dict)
        for run, node, attempt, _ in rows:
            _check_own(worker, (run, node, attempt))
        self._deliver(Progress(worker.number, rows))

    def _guard(self, worker: WorkerHandle, payload: Any) -> None:
        check_rows([payload], int, int, int, int, str)
        _check_own(worker, (payload[1], payload[2], payload[3]))
        _check_endpoint(payload[4])
        self._deliver(GuardRequest(worker.number, *payload))

    def _guarded(self, worker: WorkerHandle, payload: Any) -> None:
        check_rows([payload], str, int, bool)
        _check_endpoint(payload[0])
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
        keys = _keys(worker, payload)
        if worker.limits:
            self._on_executing(worker, keys)

    def _begun(self, worker: WorkerHandle, payload: Any) -> None:
        (key,) = _keys(worker, [payload])
        self._deliver(Begun(worker.number, key))

    def _blocked(self, worker: WorkerHandle, payload: Any) -> None:
        worker.blockers = tuple(_keys(worker, payload))


def _keys(worker: WorkerHandle, payload: Any) -> list[Key]:
    keys = [(run, node, attempt) for run, node, attempt in check_rows(payload, int, int, int)]
    for key in keys:
        _check_own(worker, key)
    return keys


def _check_own(worker: WorkerHandle, key: Key) -> None:
    """A worker of one task has nothing to say of others. Run -1: of nobody in particular."""
    if worker.alone is not None and key != worker.alone and key[0] >= 0:
        raise ProtocolError("a worker of one task spoke of another")


def _check_endpoint(name: str) -> None:
    if len(name) > _MOST_CHARS:
        raise ProtocolError(f"the name of an endpoint has at most {_MOST_CHARS} characters")

"""Operations that take their worker's socket and say what they like."""

from __future__ import annotations

import gc
import itertools
import time
from pathlib import Path
from typing import Any

import msgpack

from sage_actors.actors.operations.context import Task
from sage_actors.actors.workers.link import Link


def say(kind: int, payload: Any) -> str:
    """One frame. "RUN", "NODE" and "ATTEMPT" stand for this operation's own, EXTENSION for what is no plain value."""
    link = next(each for each in gc.get_objects() if type(each) is Link)
    task = next(each for each in gc.get_objects() if type(each) is Task)
    own = dict(zip(("RUN", "NODE", "ATTEMPT"), task.key, strict=True))
    _send(link, kind, _filled(payload, {**own, "EXTENSION": msgpack.Timestamp(1, 2)}))
    return "said"


def answer(packed: bytes) -> str:
    """These bytes as the packed result of this operation."""
    return say(21, [["RUN", "NODE", "ATTEMPT", 0, 5, packed, None]])


def ask_without_end() -> None:
    """Whether it may call an endpoint, and the next, and never listens."""
    link = next(each for each in gc.get_objects() if type(each) is Link)
    task = next(each for each in gc.get_objects() if type(each) is Task)
    for number in itertools.count():
        _send(link, 25, [number, *task.key, "one"])


def print_without_end(megabytes: int) -> str:
    """More than a worker lets through."""
    for _ in range(megabytes):
        say(23, [["RUN", "NODE", "ATTEMPT", "stdout", "x" * (1 << 20)]])
    return "said"


def answer_and_go_on(path: str) -> None:
    """Says that it is over, and is not."""
    answer(msgpack.packb("over"))
    while True:
        Path(path).write_text(str(time.time()), encoding="utf-8")
        time.sleep(0.02)


def wait(seconds: float) -> str:
    time.sleep(seconds)
    return "waited"


def _send(link: Link, kind: int, payload: Any) -> None:
    body = msgpack.packb([kind, payload])
    with link._lock:
        link._sock.sendall(len(body).to_bytes(4, "big") + body)


def _filled(payload: Any, known: dict[str, Any]) -> Any:
    if isinstance(payload, str):
        return known.get(payload, payload)
    if isinstance(payload, list):
        return [_filled(each, known) for each in payload]
    if isinstance(payload, dict):
        return {key: _filled(each, known) for key, each in payload.items()}
    return payload

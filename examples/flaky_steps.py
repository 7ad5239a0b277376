"""Steps that fail on purpose, in the ways that outside services fail; used by `flaky.yaml`."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["always_down", "fetch", "publish", "slow_then_fast", "summarise"]


def fetch(topic: str, fails: int, context: Any) -> dict[str, Any]:
    """Fails `fails` times, then answers: what a retry is for."""
    if context.attempt <= fails:
        raise ConnectionError(f"attempt {context.attempt} of {context.node_id}: connection reset by peer")
    return {"topic": topic, "hits": ["first", "second"], "attempt": context.attempt}


def slow_then_fast(seconds: float, context: Any) -> dict[str, Any]:
    """Takes `seconds` on its first attempt and no time after: what a timeout with a retry is for."""
    if context.attempt == 1:
        time.sleep(seconds)
    return {"attempt": context.attempt}


def always_down(call: int) -> dict[str, Any]:
    """An outside service that never answers: what a breaker is for."""
    raise ConnectionError(f"call {call}: 503 service unavailable")


def summarise(
    fetched: dict[str, Any], patient: dict[str, Any], prices: dict[str, Any], calls: list[Any], extra: Any
) -> dict[str, Any]:
    """What came in, and what had to be done without."""
    return {
        "hits": fetched["hits"],
        "fetched_on_attempt": fetched["attempt"],
        "timed_out_first": patient["attempt"] > 1,
        "prices": prices,
        "calls_answered": sum(call is not None for call in calls),
        "extra": "missing" if extra is None else extra,
    }


def publish(summary: dict[str, Any]) -> str:
    """One line, for the person who ran it."""
    return (
        f"{len(summary['hits'])} hits on attempt {summary['fetched_on_attempt']},"
        f" prices from {summary['prices']['from']},"
        f" {summary['calls_answered']} calls answered, extra {summary['extra']}"
    )

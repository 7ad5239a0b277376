"""What a worker says, checked: by now it may be anything, and what it says is added up, journaled and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sage_actors.messages.errors import ProtocolError
from sage_actors.messages.wire import FAILED, OK

__all__ = ["MOST_USED", "check_result_rows", "check_rows"]

MOST_USED: Final = 10**15
"""Of anything that an attempt may say it used: a run adds them up, and its numbers have 64 bits."""

_OURS: Final = frozenset(
    ("cached", "fallback", "sandbox", "saved_tokens", "stale")
)  # the supervisor's words in usage
_TEXTS: Final = ("message", "traceback")  # of an error map, besides its type


def check_result_rows(payload: Any) -> list[list[Any]]:
    """The rows of a RESULTS frame, or ProtocolError. A packed result is not opened, as who reads it will."""
    if type(payload) is not list:
        raise ProtocolError("RESULTS must be a list")
    for row in payload:
        if type(row) is not list or len(row) != 7:
            raise ProtocolError("a result row has seven elements")
        run, node, attempt, status, micros, value, usage = row
        if not (type(run) is type(node) is type(attempt) is type(micros) is int):
            raise ProtocolError("a result row starts with integers")
        if run < 0 or node < 0 or attempt < 0 or not 0 <= micros <= MOST_USED:
            raise ProtocolError("a result row holds a number that cannot be")
        if status == OK:
            if type(value) is not bytes:
                raise ProtocolError("a result is packed bytes")
        elif status == FAILED:
            _check_error(value)
        else:
            raise ProtocolError(f"unknown status {status!r}")
        if usage is not None:
            _check_usage(usage)
    return payload


def check_rows(payload: Any, *types: type) -> list[list[Any]]:
    """The rows of any other frame: a list of lists whose elements have these types."""
    if type(payload) is not list:
        raise ProtocolError("expected a list of rows")
    for row in payload:
        if type(row) is not list or len(row) != len(types):
            raise ProtocolError(f"expected rows of {len(types)} elements")
        for value, wanted in zip(row, types, strict=True):
            if wanted is not object and type(value) is not wanted:
                raise ProtocolError(f"expected {wanted.__name__}, got {type(value).__name__}")
    return payload


def _check_error(error: Any) -> None:
    """See `error_map`."""
    if type(error) is not dict or type(error.get("type")) is not str:
        raise ProtocolError("a failure is an error map")
    if any(type(error.get(name, "")) is not str for name in _TEXTS):
        raise ProtocolError("message and traceback of a failure are texts")
    if type(error.get("retryable", True)) is not bool:
        raise ProtocolError("a failure can be tried again, or not")
    if not _is_amount(error.get("retry_after", 0)):
        raise ProtocolError("a failure is tried again after seconds")
    if type(error.get("details", {})) is not dict:
        raise ProtocolError("details of a failure are a map")


def _check_usage(usage: Any) -> None:
    """Counts that run and journal add up; what else is in it is told as it is."""
    if type(usage) is not dict or not all(type(name) is str for name in usage):
        raise ProtocolError("usage is a map or nil")
    if not _OURS.isdisjoint(usage):
        raise ProtocolError("usage says what a worker cannot know")
    for name, value in usage.items():
        if isinstance(value, (int, float)) and not _is_amount(value):
            raise ProtocolError(f"usage: {name[:40]} is no amount")
    for name in ("input_tokens", "output_tokens", "cost"):
        if not _is_amount(usage.get(name, 0)):
            raise ProtocolError(f"usage: {name} is a number")
    if type(usage.get("whole", b"")) is not bytes:
        raise ProtocolError("usage: a whole result is packed bytes")
    starts: Any = usage.get("server_starts", {})
    if not isinstance(starts, Mapping) or not all(
        type(name) is str and type(times) is int and _is_amount(times) for name, times in starts.items()
    ):
        raise ProtocolError("usage: starts of servers are counts by name")


def _is_amount(value: Any) -> bool:
    """Not NaN either. True is one, as it is one to add up."""
    return isinstance(value, (int, float)) and 0 <= value <= MOST_USED

"""An exception of an operation as the error map that crosses the border and is journaled."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from sage_actors.actors.confinement.violations import explain
from sage_actors.actors.workers.output import safe_text
from sage_actors.messages.codec import pack
from sage_actors.messages.errors import ResultError, SageError
from sage_actors.messages.wire import error_map

__all__ = ["describe_error"]

_MESSAGE_CHARS = 10_000
_TRACEBACK_CHARS = 20_000
_MOST_FRAMES = 1000  # whose texts are remembered
# Between a worker's loop and a user's function; a decorated one is called by its Operation.
_OWN = (
    "sage_actors.actors.workers.",
    "sage_actors.actors.operations.",
    "sage_actors.supervisor.definitions.",
)


def describe_error(
    error: BaseException, clean: Callable[[str], str] = str, *, runs_user_code: bool = True
) -> dict[str, Any]:
    """`error` with the traceback of the user's frames only. `clean` sees a text before it is cut: half a secret
    would not be known for one.

    runs_user_code: of an operation that has none of the user's frames, what this package refused has no traceback.
    An attribute `retryable` (bool), `retry_after` (seconds) or `details` (a map) on the exception is heeded. What the
    sandbox refused is told as a SandboxViolation, with its cause in the traceback.
    """
    violation = explain(error)
    if violation is not None:
        violation.__cause__ = error
        error = violation.with_traceback(error.__traceback__)
    has_traceback = runs_user_code or not isinstance(error, SageError)
    return error_map(
        type(error).__name__,
        _message(error, clean),
        traceback=_traceback(error, clean) if has_traceback else "",
        retryable=_retryable(error),
        retry_after=_retry_after(error),
        details=_details(error),
    )


def _message(error: BaseException, clean: Callable[[str], str]) -> str:
    try:
        text = (
            f"the operation called sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
        )
    except BaseException as second:  # noqa: BLE001 - user code: its __str__ may do anything
        text = f"(its text cannot be made: {type(second).__name__})"
    if len(text) > _MESSAGE_CHARS:
        text = clean(text[: 2 * _MESSAGE_CHARS])[:_MESSAGE_CHARS]
    return safe_text(text)


def _traceback(error: BaseException, clean: Callable[[str], str]) -> str:
    trace = error.__traceback__
    while trace is not None and _is_own(trace):
        trace = trace.tb_next
    if trace is None:
        return ""
    try:
        text = _formatted(error, trace)
    except BaseException:  # noqa: BLE001 - as above
        return ""
    if len(text) > _TRACEBACK_CHARS:
        text = "[cut]\n" + clean(text[-2 * _TRACEBACK_CHARS :])[-_TRACEBACK_CHARS:]
    return safe_text(text)


def _formatted(error: BaseException, trace: TracebackType) -> str:
    """As `traceback.format_exception` gives it."""
    told = traceback.TracebackException(type(error), error, trace)
    parts = [told]
    while parts:
        part = parts.pop()
        part.stack = _Frames(part.stack)
        parts += [each for each in (part.__cause__, part.__context__) if each is not None]
        parts += getattr(part, "exceptions", None) or ()
    return "".join(told.format())


class _Frames(traceback.StackSummary):
    """Frames whose text is made once: most of the cost of a traceback is finding what its carets should mark, and an
    operation that fails for many nodes fails in the same places."""

    _texts: ClassVar[dict[tuple[Any, ...], str]] = {}

    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **options: Any) -> str:
        place = (frame_summary.lineno, frame_summary.end_lineno, frame_summary.colno, frame_summary.end_colno)
        key = (frame_summary.filename, frame_summary.name, frame_summary.line, *place)
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) >= _MOST_FRAMES:
                self._texts.clear()
            text = self._texts[key] = super().format_frame_summary(frame_summary, **options)
        return text


def _is_own(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_OWN)


def _retryable(error: BaseException) -> bool:
    if isinstance(error, ImportError):
        return False
    said = _said(error, "retryable")
    return said if isinstance(said, bool) else True


def _retry_after(error: BaseException) -> float | None:
    said = _said(error, "retry_after")
    return float(said) if isinstance(said, (int, float)) and 0 <= said < 1e9 else None


def _details(error: BaseException) -> dict[str, Any] | None:
    said = _said(error, "details")
    if not isinstance(said, dict):
        return None
    try:
        pack(said)
    except ResultError:
        return None
    return said


def _said(error: BaseException, name: str) -> Any:
    try:
        return getattr(error, name, None)
    except BaseException:  # noqa: BLE001 - a property of user code may do anything
        return None

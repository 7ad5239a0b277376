"""What callers of the library may pass: a UsageError says what is wrong before anything begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from sage_actors.messages.definition import WorkflowSpec
from sage_actors.messages.errors import UsageError
from sage_actors.supervisor.definitions.workflow import Workflow

__all__ = ["check_amount", "check_whole", "refuse_others", "refuse_unspeakable"]


def refuse_unspeakable(*paths: str | Path) -> None:
    """UsageError for a path that workers and journals, which are told of it as text, could not name."""
    for each in paths:
        try:
            str(each).encode()
        except UnicodeEncodeError as cause:
            raise UsageError(
                f"the path {str(each)!r} is no Unicode; rename it, or use another --project"
            ) from cause


def refuse_others(flow: object, run_id: object, inputs: object) -> None:
    """UsageError for what `start` does not take."""
    if not isinstance(flow, (Workflow, WorkflowSpec)):
        raise UsageError(f"a run needs a Workflow, or what load(path) gives, not {flow!r:.80}")
    if run_id is not None and not isinstance(run_id, str):
        raise UsageError(f"run_id must be a text, not {run_id!r:.80}")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise UsageError(f"inputs must be a map of names to values, not {inputs!r:.80}")


def check_whole(**given: object) -> None:
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}")


def check_amount(name: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= value < math.inf):  # type: ignore[operator]
        raise UsageError(f"{name} must be a number that is not negative, not {value!r}")

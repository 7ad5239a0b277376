"""Questions to `inspect` that wait for their answers; several workers may answer one question."""

from __future__ import annotations

from typing import Any

__all__ = ["Inspections"]


class Inspections:
    """Collects one info for each call of a question."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[list[str], dict[str, dict[str, Any]]]] = {}

    def ask(self, token: int, calls: list[str]) -> None:
        self._open[token] = (calls, {})

    def answer(self, token: int, infos: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """All infos in the order of the calls, once the last has come."""
        if token not in self._open:
            return None
        calls, known = self._open[token]
        known.update({info["call"]: info for info in infos})
        if any(call not in known for call in calls):
            return None
        del self._open[token]
        return [known[call] for call in calls]


def killed_by_import(call: str, exitcode: int | None, reason: str) -> dict[str, Any]:
    """The info of a call whose import ended the process."""
    if reason == "timeout":
        end = "it did not end in time"
    elif exitcode is not None and exitcode < 0:
        end = f"it was killed by signal {-exitcode}"
    else:
        end = f"the process exited with code {exitcode}"
    error = f"importing it failed: {end}"
    return {
        "call": call,
        "ok": False,
        "error": error,
        "is_async": False,
        "accepts_context": False,
        "policy": None,
    }

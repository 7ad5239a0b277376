"""How patient a circuit breaker is with one endpoint, and how fast it lets callers in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sage_actors.messages.errors import DefinitionError, Problem

__all__ = ["BreakerPolicy"]

_WEEK_S: Final = 604_800.0
# field: (whole number only, lowest, highest, may be None)
_RANGES: Final[dict[str, tuple[bool, float, float, bool]]] = {
    "failures": (True, 1, 1_000_000, False),
    "open_s": (False, 0.001, _WEEK_S, False),
    "successes": (True, 1, 1_000_000, False),
    "max_concurrent": (True, 1, 1_000_000, True),
    "rate": (False, 0.000_001, 10_000, True),
    "burst": (True, 1, 1_000_000, False),
    "half_open_calls": (True, 1, 1_000_000, False),
    "retry_after_max_s": (False, 0, _WEEK_S, False),
}


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """The policy of one endpoint.

    failures: consecutive failures that open it, 1 to 1,000,000.
    open_s: seconds that it stays open, 0.001 to 604,800 (a week).
    successes: successes that close it again, 1 to 1,000,000.
    max_concurrent: calls in flight, 1 to 1,000,000; None is no limit.
    rate: calls per second, 0.000001 to 10,000; None is no limit.
    burst: calls that may go at once after a rest, 1 to 1,000,000; counts only with a rate.
    half_open_calls: calls in flight that try whether the endpoint is back, 1 to 1,000,000.
    retry_after_max_s: seconds, the longest pause that the other side may ask for, 0 to 604,800.

    Raises:
        DefinitionError: some values are of the wrong type or out of range; names all of them.
    """

    failures: int = 5
    open_s: float = 60.0
    successes: int = 2
    max_concurrent: int | None = None
    rate: float | None = None
    burst: int = 1
    half_open_calls: int = 1
    retry_after_max_s: float = 3_600.0

    def __post_init__(self) -> None:
        problems = _problems({one.name: getattr(self, one.name) for one in fields(self)}, "")
        if problems:
            raise DefinitionError(problems, source="the breaker policy")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, place: str = "") -> BreakerPolicy:
        """The policy that a configuration spells, defaults for what it leaves out.

        `place` is where it stands, for the messages: `endpoints.model-api`.

        Raises:
            DefinitionError: unknown fields, wrong types, values out of range; names all of them.

        >>> BreakerPolicy.from_dict({"open_s": 5, "rate": 0.5}).rate
        0.5
        """
        problems = _problems(data, place)
        if problems:
            raise DefinitionError(problems, source="the breaker policy")
        return cls(**data)


def _problems(data: object, place: str) -> list[Problem]:
    if not isinstance(data, Mapping):
        return [Problem(place, f"expected fields of a breaker policy, not {data!r:.80}")]
    found = []
    for name, value in data.items():
        text = _problem(name, value)
        if text is not None:
            found.append(Problem(f"{place}.{name}" if place else str(name), *text))
    return found


def _problem(name: object, value: object) -> tuple[str, str] | None:
    """What is wrong with one field, and what to do; None if it is right."""
    if not isinstance(name, str) or name not in _RANGES:
        return "unknown field", f"known are: {', '.join(_RANGES)}"
    whole, low, high, optional = _RANGES[name]
    if value is None and optional:
        return None
    expected = f"a {'whole number' if whole else 'number'} from {low:,.10g} to {high:,.10g}"
    hint = f"give {expected}" + (", or null for no limit" if optional else "")
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return f"expected {expected}, not {value!r:.80}", hint
    if not low <= value <= high:  # NaN neither
        return f"{value!r:.80} is out of range", hint
    return None

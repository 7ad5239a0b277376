"""Policies: what is refused, and that everything wrong is said at once."""

from __future__ import annotations

import pytest

from sage_actors.actors.breaker.policy import BreakerPolicy
from sage_actors.messages.errors import DefinitionError


@pytest.mark.requirement("ORCH-005")
def test_the_defaults_are_five_failures_sixty_seconds_two_successes() -> None:
    policy = BreakerPolicy()
    assert (policy.failures, policy.open_s, policy.successes) == (5, 60.0, 2)
    assert (policy.max_concurrent, policy.rate) == (None, None)


def test_a_configuration_gives_what_it_says_and_defaults_for_the_rest() -> None:
    policy = BreakerPolicy.from_dict({"failures": 3, "open_s": 5, "max_concurrent": None, "rate": 0.5})
    assert policy == BreakerPolicy(failures=3, open_s=5, rate=0.5)


def test_all_problems_are_said_at_once_with_their_places() -> None:
    data = {
        "failures": 0,
        "open_s": "60",
        "succeses": 2,
        "rate": float("nan"),
        "burst": True,
        "successes": 1.5,
    }
    with pytest.raises(DefinitionError) as caught:
        BreakerPolicy.from_dict(data, place="endpoints.api")
    assert [problem.place for problem in caught.value.problems] == [
        f"endpoints.api.{name}" for name in ("failures", "open_s", "succeses", "rate", "burst", "successes")
    ]
    assert "give a whole number from 1 to 1,000,000" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failures", None),
        ("open_s", 0),
        ("open_s", 604_801),
        ("successes", -1),
        ("max_concurrent", 0),
        ("rate", 0),
        ("rate", float("inf")),
        ("rate", 10**400),
        ("burst", 0),
        ("half_open_calls", 0),
        ("retry_after_max_s", -0.1),
    ],
)
def test_values_out_of_range_are_refused_however_the_policy_is_made(name: str, value: object) -> None:
    with pytest.raises(DefinitionError, match=name):
        BreakerPolicy(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match=name):
        BreakerPolicy.from_dict({name: value})


@pytest.mark.parametrize("data", [None, [], "open_s", 5])
def test_what_is_no_mapping_is_refused(data: object) -> None:
    with pytest.raises(DefinitionError, match="expected fields"):
        BreakerPolicy.from_dict(data)  # type: ignore[arg-type]

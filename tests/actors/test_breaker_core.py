"""The breaker's decisions: transitions, queues, limits, changed clocks, and a model that it agrees with."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sage_actors.actors.breaker.core import (
    BreakerCore,
    BreakerPolicy,
    Command,
    Granted,
    Refused,
    State,
    Transition,
    Waiting,
)

pytestmark = pytest.mark.requirement("ORCH-005")

API = "api"
T0 = 1_700_000_000.0


def breaker(**policy: Any) -> BreakerCore:
    return BreakerCore({API: BreakerPolicy(**policy)}, BreakerPolicy())


def call(core: BreakerCore, ok: bool, now: float = T0, token: object = "one") -> list[Command]:
    """A whole call; what its report brings."""
    assert core.request(API, token, now)[-1] == Granted(token, API)
    return core.report(API, token, ok, now)


def opened(now: float = T0, **policy: Any) -> BreakerCore:
    core = breaker(**policy)
    for _ in range(policy.get("failures", 5)):
        call(core, False, now)
    assert state(core) == "open"
    return core


def state(core: BreakerCore, endpoint: str = API) -> State:
    return core.status()[endpoint].state


def granted(commands: Sequence[Command]) -> list[object]:
    return [each.token for each in commands if isinstance(each, Granted)]


# The state machine, one arrow after the other


def test_closed_opens_at_the_fifth_consecutive_failure() -> None:
    core = breaker()
    for _ in range(4):
        assert call(core, False) == []
    assert call(core, False) == [Transition(API, State.CLOSED, State.OPEN, T0 + 60, 5)]


def test_a_success_while_closed_starts_the_count_anew() -> None:
    core = breaker()
    for ok in [False] * 4 + [True] + [False] * 4:
        assert call(core, ok) == []
    assert state(core) == "closed"


def test_open_grants_nothing_and_says_until_when() -> None:
    core = opened()
    assert core.request(API, "w", T0 + 1) == [Waiting("w", API, "open", T0 + 60)]
    assert core.tick(math.nextafter(T0 + 60, 0)) == []


def test_open_becomes_half_open_when_its_time_has_passed() -> None:
    core = opened()
    assert core.next_wakeup() == T0 + 60
    assert core.tick(T0 + 60) == [Transition(API, State.OPEN, State.HALF_OPEN, 0.0, 5)]
    assert core.next_wakeup() is None


def test_a_request_after_the_open_time_needs_no_tick() -> None:
    core = opened()
    changed, grant = core.request(API, "probe", T0 + 60)
    assert changed == Transition(API, State.OPEN, State.HALF_OPEN, 0.0, 5)
    assert grant == Granted("probe", API)


def test_half_open_lets_one_call_try_at_a_time_oldest_first() -> None:
    core = opened(successes=3)
    for token in "abc":
        core.request(API, token, T0 + 1)
    assert granted(core.tick(T0 + 60)) == ["a"]
    assert core.request(API, "d", T0 + 61) == [Waiting("d", API, "open", None)]
    assert granted(core.report(API, "a", True, T0 + 62)) == ["b"]


def test_half_open_lets_as_many_try_as_its_policy_says() -> None:
    core = opened(half_open_calls=2)
    for token in "abc":
        core.request(API, token, T0 + 1)
    assert granted(core.tick(T0 + 60)) == ["a", "b"]


def test_half_open_closes_after_two_successes() -> None:
    core = opened()
    core.tick(T0 + 60)
    assert call(core, True, T0 + 60) == []
    assert call(core, True, T0 + 61) == [Transition(API, State.HALF_OPEN, State.CLOSED, 0.0, 0)]
    for _ in range(4):
        assert call(core, False, T0 + 62) == []  # and counts from nought


def test_one_failure_in_half_open_opens_again_for_the_whole_time() -> None:
    core = opened()
    core.tick(T0 + 60)
    assert call(core, True, T0 + 61) == []
    assert call(core, False, T0 + 70) == [Transition(API, State.HALF_OPEN, State.OPEN, T0 + 130, 6)]
    core.tick(T0 + 130)
    assert call(core, True, T0 + 131) == []  # the success of the half-open time before does not count


def test_closing_lets_all_waiters_go() -> None:
    core = opened(successes=1)
    for token in "abc":
        core.request(API, token, T0 + 1)
    core.tick(T0 + 60)
    assert granted(core.report(API, "a", True, T0 + 61)) == ["b", "c"]


# Reports of another era


def test_a_success_granted_before_opening_does_not_close() -> None:
    core = breaker(successes=1)
    core.request(API, "early", T0)
    for _ in range(5):
        call(core, False)
    assert core.report(API, "early", True, T0 + 1) == []
    assert state(core) == "open"


def test_a_report_granted_before_opening_counts_neither_way_in_half_open() -> None:
    core = breaker(successes=1)
    for token in ("good", "bad"):
        core.request(API, token, T0)
    for _ in range(5):
        call(core, False)
    core.tick(T0 + 60)
    assert core.report(API, "good", True, T0 + 61) == []
    assert core.report(API, "bad", False, T0 + 61) == []
    assert state(core) == "half_open"


def test_late_failures_do_not_open_a_breaker_that_closed_since() -> None:
    core = breaker(failures=1, successes=1)
    late = range(10)
    for token in late:
        core.request(API, token, T0)
    call(core, False)
    core.tick(T0 + 60)
    call(core, True, T0 + 60)
    assert [core.report(API, token, False, T0 + 61) for token in late] == [[]] * 10
    assert state(core) == "closed"


def test_calls_still_out_from_before_count_against_concurrency_but_not_as_probes() -> None:
    core = breaker(max_concurrent=2)
    core.request(API, "old", T0)
    for _ in range(5):
        call(core, False)
    assert granted(core.request(API, "probe", T0 + 60)) == ["probe"]
    core.forget("probe", T0 + 61)
    assert granted(core.request(API, "next", T0 + 61)) == ["next"]


# Slots and queue


def test_a_full_endpoint_serves_waiters_in_the_order_they_came() -> None:
    core = breaker(max_concurrent=1)
    core.request(API, 0, T0)
    for token in range(1, 4):
        assert core.request(API, token, T0) == [Waiting(token, API, "concurrency", None)]
    assert [granted(core.report(API, token, True, T0)) for token in range(4)] == [[1], [2], [3], []]


def test_endpoints_do_not_disturb_each_other() -> None:
    core = opened()
    assert core.request("other", "x", T0) == [Granted("x", "other")]


def test_the_holder_of_a_slot_that_died_is_replaced_and_not_counted() -> None:
    core = breaker(max_concurrent=1, failures=1)
    core.request(API, "dead", T0)
    core.request(API, "next", T0)
    assert core.forget("dead", T0) == [Granted("next", API)]
    assert core.report(API, "dead", False, T0) == []  # late: it was forgotten
    assert state(core) == "closed"


def test_a_probe_that_died_lets_the_next_one_try() -> None:
    core = opened()
    core.request(API, "a", T0 + 60)
    core.request(API, "b", T0 + 60)
    assert core.forget("a", T0 + 61) == [Granted("b", API)]
    assert state(core) == "half_open"


def test_who_withdrew_is_not_granted() -> None:
    core = breaker(max_concurrent=1)
    for token in "abc":
        core.request(API, token, T0)
    assert core.withdraw("b", T0) == []
    assert core.report(API, "a", True, T0) == [Granted("c", API)]


def test_withdrawing_what_is_granted_meanwhile_frees_the_slot() -> None:
    core = breaker(max_concurrent=1)
    core.request(API, "a", T0)
    core.request(API, "b", T0)
    assert core.withdraw("a", T0) == [Granted("b", API)]


def test_each_reason_is_told_once_and_to_all_who_wait() -> None:
    core = breaker(max_concurrent=1, failures=1, successes=1)
    for token in "abc":
        core.request(API, token, T0)
    opening, *told = core.report(API, "a", False, T0)
    assert isinstance(opening, Transition)
    assert told == [Waiting("b", API, "open", T0 + 60), Waiting("c", API, "open", T0 + 60)]
    assert granted(core.tick(T0 + 60)) == ["b"]
    assert core.report(API, "b", False, T0 + 61) == [
        Transition(API, State.HALF_OPEN, State.OPEN, T0 + 121, 2)
    ]
    assert core.request(API, "new", T0 + 62) == [Waiting("new", API, "open", T0 + 121)]


def test_asking_twice_takes_one_place_and_one_slot() -> None:
    core = breaker(max_concurrent=1)
    assert core.request(API, "a", T0) == [Granted("a", API)]
    assert core.request(API, "a", T0) == [Granted("a", API)]
    core.request(API, "b", T0)
    assert core.request(API, "b", T0) == []
    assert (core.status()[API].in_use, core.status()[API].waiting) == (1, 1)


def test_a_token_in_use_for_another_endpoint_is_refused() -> None:
    core = breaker()
    core.request(API, "a", T0)
    (refusal,) = core.request("other", "a", T0)
    assert isinstance(refusal, Refused)
    assert "in use" in refusal.reason


def test_a_report_for_the_wrong_endpoint_blames_nobody_and_frees_the_slot() -> None:
    core = breaker(failures=1, max_concurrent=1)
    core.request(API, "a", T0)
    assert core.report("other", "a", False, T0) == []
    assert "other" not in core.status()
    assert (state(core), core.status()[API].in_use) == ("closed", 0)


def test_messages_about_unknown_or_waiting_tokens_do_nothing() -> None:
    core = breaker(max_concurrent=1)
    core.request(API, "a", T0)
    core.request(API, "w", T0)
    assert core.report(API, "nobody", False, T0) == []
    assert core.forget("nobody", T0) == []
    assert core.report(API, "w", False, T0) == []
    assert core.status()[API].waiting == 1


def test_refusing_all_empties_the_queues_and_leaves_calls_to_end() -> None:
    core = breaker(max_concurrent=1)
    for token in "abc":
        core.request(API, token, T0)
    assert core.refuse_all("closing") == [Refused("b", API, "closing"), Refused("c", API, "closing")]
    assert core.report(API, "a", True, T0) == []
    assert core.request(API, "b", T0) == [Granted("b", API)]


@pytest.mark.no_cover
def test_a_hundred_thousand_waiters_are_served_in_linear_time() -> None:
    core, count = breaker(max_concurrent=1), 100_000
    core.request(API, 0, T0)
    for token in range(1, count):
        core.request(API, token, T0)
    for token in range(1, count, 2):  # holes in the queue
        core.withdraw(token, T0)
    for token in range(0, count - 2, 2):
        assert core.report(API, token, True, T0) == [Granted(token + 2, API)]


def test_a_million_names_do_not_stay() -> None:
    core = opened()
    for number in range(20_000):
        core.request(f"host-{number}", number, T0)
        core.report(f"host-{number}", number, True, T0)
    assert len(core.status()) <= 1_001
    assert state(core) == "open"


def test_a_million_names_that_fail_do_not_stay_either() -> None:
    core = opened()
    core.request("held", "held", T0)
    for number in range(40_000):
        core.request(f"host-{number}", number, T0)
        core.report(f"host-{number}", number, False, T0)
    assert len(core.status()) <= 20_000
    assert core.status()["held"].in_use == 1
    assert state(core) == "open"  # it has a policy of its own
    assert core.report("host-39999", "late", False, T0) == []


# Rates


def test_a_rate_spaces_calls_after_the_burst() -> None:
    core = breaker(rate=2.0, burst=3)
    for token in range(3):
        assert granted(core.request(API, token, T0)) == [token]
    assert core.request(API, 3, T0) == [Waiting(3, API, "rate", T0 + 0.5)]
    assert core.request(API, 4, T0) == [Waiting(4, API, "rate", T0 + 1.0)]
    assert core.next_wakeup() == T0 + 0.5
    assert granted(core.tick(T0 + 0.5)) == [3]
    assert granted(core.tick(T0 + 1.0)) == [4]


def test_a_rest_fills_the_bucket_to_the_burst_and_no_further() -> None:
    core = breaker(rate=1.0, burst=2)
    for token in range(2):
        core.request(API, token, T0)
    for token in range(2, 6):
        core.request(API, token, T0 + 3600)
    assert core.status()[API].waiting == 2


def test_retry_after_holds_the_next_call_back() -> None:
    core = breaker()
    core.request(API, "a", T0)
    core.report(API, "a", False, T0, retry_after_s=30)
    assert core.request(API, "b", T0 + 1) == [Waiting("b", API, "rate", T0 + 30)]
    assert core.tick(T0 + 30) == [Granted("b", API)]


def test_retry_after_of_a_late_report_still_holds() -> None:
    core = breaker()
    core.request(API, "late", T0)
    for _ in range(5):
        call(core, False)
    core.report(API, "late", False, T0, retry_after_s=90)
    core.request(API, "probe", T0)
    assert granted(core.tick(T0 + 60)) == []
    assert granted(core.tick(T0 + 90)) == ["probe"]


@pytest.mark.parametrize("pause", [math.nan, -5.0, 0.0, None])
def test_a_retry_after_that_says_nothing_is_ignored(pause: float | None) -> None:
    core = breaker()
    core.request(API, "a", T0)
    core.report(API, "a", True, T0, retry_after_s=pause)
    assert granted(core.request(API, "b", T0)) == ["b"]


def test_retry_after_cannot_block_an_endpoint_for_ever() -> None:
    core = breaker(retry_after_max_s=100)
    core.request(API, "a", T0)
    core.report(API, "a", True, T0, retry_after_s=math.inf)
    assert core.request(API, "b", T0) == [Waiting("b", API, "rate", T0 + 100)]


# Clocks that change


def test_a_clock_set_back_does_not_lengthen_the_open_time() -> None:
    core = opened()
    core.tick(T0 + 40)
    core.tick(T0 - 86_400)
    assert core.next_wakeup() == pytest.approx(T0 - 86_400 + 20)
    assert state(core) == "open"
    core.tick(T0 - 86_400 + 20)
    assert state(core) == "half_open"


def test_a_clock_set_forward_ends_the_open_time() -> None:
    core = opened()
    core.tick(T0 + 86_400)
    assert state(core) == "half_open"


def test_a_clock_set_back_keeps_rates_and_pauses() -> None:
    core = breaker(rate=0.1)
    core.request(API, "a", T0)
    core.request(API, "b", T0)
    core.tick(T0 - 1000)
    assert core.next_wakeup() == pytest.approx(T0 - 990)
    assert granted(core.tick(T0 - 990)) == ["b"]


def test_a_clock_set_back_does_not_lengthen_a_pause_that_was_asked_for() -> None:
    core = breaker()
    core.request(API, "a", T0)
    core.report(API, "a", True, T0, retry_after_s=30)
    core.request(API, "b", T0)
    core.tick(T0 - 1000)
    assert granted(core.tick(T0 - 970)) == ["b"]


def test_a_known_change_of_the_clock_leaves_the_time_that_passed() -> None:
    core = opened()
    core.shift(-500.0)  # set back by 500 s, and 30 s passed
    core.tick(T0 - 500 + 30)
    assert core.next_wakeup() == T0 - 500 + 60


# Continuing


def test_an_open_breaker_of_a_journal_stays_open_until_its_time() -> None:
    core = breaker()
    assert core.restore(API, "open", T0 + 25, T0) == [Transition(API, State.CLOSED, State.OPEN, T0 + 25, 0)]
    assert core.request(API, "a", T0) == [Waiting("a", API, "open", T0 + 25)]
    assert granted(core.tick(T0 + 25)) == ["a"]
    assert state(core) == "half_open"


@pytest.mark.parametrize("until", [T0 + 1e9, math.inf, math.nan])
def test_a_restored_open_time_is_never_longer_than_the_policys(until: float) -> None:
    core = breaker()
    core.restore(API, "open", until, T0)
    assert core.next_wakeup() == T0 + 60


@pytest.mark.parametrize(("word", "until"), [("open", T0 - 1), ("half_open", 0.0)])
def test_what_opened_long_ago_is_tried_with_one_call(word: str, until: float) -> None:
    core = breaker()
    assert core.restore(API, word, until, T0) == [Transition(API, State.CLOSED, State.HALF_OPEN, 0.0, 0)]
    assert granted(core.request(API, "a", T0)) == ["a"]
    assert granted(core.request(API, "b", T0)) == []


def test_one_failure_opens_what_a_journal_left_half_open() -> None:
    core = breaker()
    core.restore(API, "half_open", 0.0, T0)
    assert call(core, False) == [Transition(API, State.HALF_OPEN, State.OPEN, T0 + 60, 1)]


def test_restoring_does_not_disturb_a_half_open_breaker() -> None:
    core = breaker()
    core.restore(API, "half_open", 0.0, T0)
    core.request(API, "probe", T0)
    assert core.restore(API, "half_open", 0.0, T0) == []
    assert core.restore(API, "open", T0 + 50, T0) == []
    assert granted(core.request(API, "second", T0)) == []


@pytest.mark.parametrize("word", ["closed", "a word of a later version"])
def test_restoring_closed_or_unknown_changes_nothing(word: str) -> None:
    core = breaker()
    assert core.restore(API, word, 0.0, T0) == []
    assert state(core) == "closed"


def test_what_this_process_saw_is_newer_than_a_journal() -> None:
    core = breaker()
    call(core, True)
    assert core.restore(API, "open", T0 + 50, T0) == []
    assert state(core) == "closed"


def test_of_two_journals_the_later_open_time_holds() -> None:
    core = breaker()
    for until in (T0 + 10, T0 + 40, T0 + 20):
        core.restore(API, "open", until, T0)
    core.restore(API, "half_open", 0.0, T0)
    assert core.next_wakeup() == T0 + 40


# Another policy meanwhile


def test_a_shorter_open_time_takes_effect_at_once() -> None:
    core = opened()
    core.configure(API, BreakerPolicy(open_s=5), T0 + 10)
    assert core.next_wakeup() == T0 + 15


def test_more_slots_serve_waiters_at_once() -> None:
    core = breaker(max_concurrent=1)
    for token in "abc":
        core.request(API, token, T0)
    assert granted(core.configure(API, BreakerPolicy(max_concurrent=3), T0)) == ["b", "c"]


def test_a_shorter_longest_pause_takes_effect_at_once() -> None:
    core = breaker()
    core.request(API, "a", T0)
    core.report(API, "a", True, T0, retry_after_s=3000)
    core.request(API, "b", T0)
    core.configure(API, BreakerPolicy(retry_after_max_s=10), T0)
    assert core.next_wakeup() == T0 + 10


def test_a_faster_rate_does_not_wait_for_the_slower_one() -> None:
    core = breaker(rate=0.001, burst=1)
    core.request(API, "a", T0)
    core.request(API, "b", T0)
    core.configure(API, BreakerPolicy(rate=1.0), T0)
    assert core.next_wakeup() == T0 + 1


class AgreesWithAModel(RuleBasedStateMachine):
    """Random calls, ends, deaths and clock changes against a model that keeps lists and the simplest rules.

    `real` is the time that passed, `now` what the wall clock says; the model knows only real time.
    """

    @initialize(
        policy=st.builds(
            BreakerPolicy,
            failures=st.integers(1, 3),
            open_s=st.sampled_from([1.0, 7.0]),
            successes=st.integers(1, 3),
            max_concurrent=st.none() | st.integers(1, 3),
            rate=st.none() | st.sampled_from([0.5, 2.0]),
            burst=st.integers(1, 3),
            half_open_calls=st.integers(1, 2),
        )
    )
    def begin(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.core = BreakerCore({}, policy)
        self.real, self.now = 0.0, T0
        self.state, self.run_of_failures, self.good, self.opened_at = "closed", 0, 0, 0.0
        self.era = 0
        self.queue: deque[int] = deque()
        self.held: dict[int, int] = {}
        self.grants: list[float] = []
        self.tokens = 0

    def see(self, commands: list[Command]) -> None:
        for each in commands:
            match each:
                case Granted(token, _):
                    self.saw_grant(token)
                case Transition(_, old, new, _, _):
                    self.saw_transition(old, new)
                case Waiting(token, _, reason, until):
                    assert token in self.queue
                    assert reason != "open" or self.state != "closed"
                    assert until is None or until > self.now
                case Refused():
                    raise AssertionError("nothing stops here")

    def saw_grant(self, token: object) -> None:
        assert self.queue.popleft() == token, "oldest first"
        assert self.state != "open"
        if self.state == "half_open":
            assert sum(era == self.era for era in self.held.values()) < self.policy.half_open_calls
        self.held[token] = self.era  # pyright: ignore[reportArgumentType]
        self.grants.append(self.real)

    def saw_transition(self, old: str, new: str) -> None:
        assert self.state == old
        if new == "half_open":
            assert self.real >= self.opened_at + self.policy.open_s - 1e-5
        if new == "open":
            assert old == "half_open" or self.run_of_failures >= self.policy.failures
            self.opened_at = self.real
        if new == "closed":
            assert self.good >= self.policy.successes
            self.run_of_failures = 0
        self.state, self.good = new, 0
        self.era += 1

    @rule()
    def request(self) -> None:
        self.tokens += 1
        self.queue.append(self.tokens)
        self.see(self.core.request(API, self.tokens, self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), ok=st.booleans())
    def report(self, data: st.DataObject, ok: bool) -> None:
        token = data.draw(st.sampled_from(sorted(self.held)))
        if self.held.pop(token) == self.era:
            self.run_of_failures = 0 if ok and self.state == "closed" else self.run_of_failures + (not ok)
            self.good += ok
        must_open = self.state == "closed" and self.run_of_failures >= self.policy.failures
        self.see(self.core.report(API, token, ok, self.now))
        assert not must_open or self.state == "open"

    @precondition(lambda self: self.held or self.queue)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted([*self.held, *self.queue])))
        if self.held.pop(token, None) is None:
            self.queue.remove(token)
        self.see(self.core.forget(token, self.now))

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0, 8.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)
        self.see(self.core.tick(self.now))

    @rule()
    def wait_for_the_wakeup(self) -> None:
        wakeup = self.core.next_wakeup()
        if wakeup is not None:
            self.pass_time(max(0.0, wakeup - self.now))
            self.see(self.core.tick(self.now))

    @rule(seconds=st.sampled_from([0.3, 5.0, 3600.0]))
    def set_the_clock_back(self, seconds: float) -> None:
        self.see(self.core.tick(self.now))
        self.now -= seconds
        self.see(self.core.tick(self.now))

    def pass_time(self, seconds: float) -> None:
        self.real += seconds
        self.now += seconds

    @invariant()
    def what_it_says_of_itself_is_so(self) -> None:
        if not self.tokens:
            return
        status = self.core.status()[API]
        assert (status.state, status.in_use, status.waiting) == (self.state, len(self.held), len(self.queue))
        assert (status.open_until > 0) == (self.state == "open")

    @invariant()
    def calls_in_flight_stay_within_the_limit(self) -> None:
        assert self.policy.max_concurrent is None or len(self.held) <= self.policy.max_concurrent

    @invariant()
    def no_window_holds_more_than_the_rate_and_the_burst(self) -> None:
        if self.policy.rate is None or not self.grants:
            return
        for back, begin in enumerate(reversed(self.grants), 1):  # windows that end with the newest grant
            window = self.grants[-1] - begin
            assert back <= self.policy.burst + self.policy.rate * window + 1e-4

    def teardown(self) -> None:
        """Nobody starves: when calls end well and time passes, every waiter is granted."""
        if not hasattr(self, "core"):
            return
        for _ in range(20 * (len(self.queue) + len(self.held) + self.policy.successes) + 20):
            for token in list(self.held):
                if self.held.pop(token) == self.era:
                    self.run_of_failures = 0 if self.state == "closed" else self.run_of_failures
                    self.good += 1
                self.see(self.core.report(API, token, True, self.now))
            self.wait_for_the_wakeup()
        assert not self.queue


TestAgreesWithAModel = AgreesWithAModel.TestCase
TestAgreesWithAModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

"""The policy against sentences a person reads, and against a plain model written another way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlops_pipelines.policy import Admit, Bucket, Hold, Pending, PendingTrigger, State, charge, format_moment
from mlops_pipelines.policy import decide as decide_together
from mlops_pipelines.spec import Budget, Policy

if TYPE_CHECKING:
    import random

NOW = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


def policy(**fields: Any) -> Policy:
    return Policy.model_validate(fields)


def trigger(n: int = 1, kind: str = "labels", *, urgent: bool = False, at: datetime = NOW) -> PendingTrigger:
    return PendingTrigger(n, kind, f"key-{n}", at, urgent)


def decide(pending: list[PendingTrigger], state: State, rules: Policy, now: datetime) -> Admit | Hold:
    return decide_together(Pending.of(pending), state, rules, now)


def held(decision: Admit | Hold) -> Hold:
    assert isinstance(decision, Hold), decision
    return decision


# --- sentences -------------------------------------------------------------------------------------


def test_nothing_pending_is_nothing_to_do() -> None:
    assert decide([], State(), policy(), NOW) == Hold(
        "nothing_pending", None, "nothing to do: no trigger is pending"
    )


def test_all_pending_triggers_fold_into_the_oldest() -> None:
    pending = [trigger(3, "drift"), trigger(1, at=NOW - DAY), trigger(2, "drift"), trigger(4)]
    admit = decide(pending, State(), policy(), NOW)
    assert admit == Admit(
        1,
        "admitted for a labels trigger of 2013-02-28 00:00 UTC, with 3 more folded in (2 drift, 1 labels)",
    )


def test_cooldown_names_its_end_and_the_retrain_before() -> None:
    state = State(last_retrain="flights-00002", last_finished_at=NOW)
    assert decide([trigger()], state, policy(cooldown="3d"), NOW + DAY) == Hold(
        "cooldown",
        NOW + 3 * DAY,
        "held until 2013-03-04 00:00 UTC: cooldown of 3d after retrain flights-00002",
    )
    assert isinstance(decide([trigger()], state, policy(cooldown="3d"), NOW + 3 * DAY), Admit)


def test_urgent_trigger_waits_for_everything_but_the_cooldown() -> None:
    cooling = State(last_retrain="p-00002", last_finished_at=NOW)
    urgent = [trigger(1), trigger(2, "manual", urgent=True)]
    assert isinstance(decide(urgent, cooling, policy(), NOW), Admit)
    for state, reason in (
        (replace(cooling, in_flight="p-00003"), "in_flight"),
        (replace(cooling, paused="ann: holidays"), "paused"),
        (replace(cooling, bucket=Bucket(Fraction(6), NOW)), "budget"),
        (replace(cooling, failures=3, last_failed="p-00002", last_failed_at=NOW), "breaker"),
        (replace(cooling, tried_by="p-00002"), "nothing_new"),
    ):
        assert held(decide(urgent, state, policy(), NOW)).reason == reason


def test_empty_budget_says_when_a_token_is_back() -> None:
    state = State(bucket=Bucket(Fraction(6), NOW))
    hold = held(decide([trigger()], state, policy(budget={"retrains": 6, "per": "30d"}), NOW + DAY))
    assert (hold.reason, hold.until) == ("budget", NOW + 5 * DAY)
    assert hold.sentence == "held until 2013-03-06 00:00 UTC: budget of 6 retrains per 30d is spent"


def test_budget_whose_token_takes_no_whole_number_of_seconds_rounds_the_moment_up() -> None:
    state = State(bucket=Bucket(Fraction(7), NOW))
    hold = held(decide([trigger()], state, policy(budget={"retrains": 7, "per": "1d"}), NOW))
    assert hold.until == NOW + timedelta(microseconds=12_342_857_143)
    assert "2013-03-01 03:25:43 UTC" in hold.sentence
    assert isinstance(
        decide([trigger()], state, policy(budget={"retrains": 7, "per": "1d"}), hold.until), Admit
    )


def test_smaller_budget_takes_effect_without_old_debt() -> None:
    spent = State(bucket=Bucket(Fraction(6), NOW))
    hold = held(decide([trigger()], spent, policy(budget={"retrains": 1, "per": "1d"}), NOW))
    assert hold.until == NOW + DAY


def test_breaker_doubles_and_then_lets_one_trial_through() -> None:
    rules = policy(cooldown="0s", breaker={"after": 3, "backoff": "1d"})
    for failures, days in ((3, 1), (4, 2), (5, 4), (8, 32)):
        state = State(failures=failures, last_failed=f"p-0000{failures}", last_failed_at=NOW)
        hold = held(decide([trigger()], state, rules, NOW + days * DAY - SECOND))
        assert (hold.reason, hold.until) == ("breaker", NOW + days * DAY)
        trial = decide([trigger()], state, rules, NOW + days * DAY)
        assert isinstance(trial, Admit)
        assert trial.sentence.endswith("as the breaker's one trial")
    assert hold.sentence == (
        "held until 2013-04-02 00:00 UTC: breaker open after 8 failed or rejected retrains in a row, "
        "the last p-00008; then one trial"
    )


def test_two_failures_do_not_open_a_breaker_of_three() -> None:
    state = State(failures=2, last_failed="p-00002", last_failed_at=NOW)
    assert isinstance(decide([trigger()], state, policy(), NOW), Admit)


def test_breaker_that_doubled_a_thousand_times_stays_open() -> None:
    state = State(failures=1000, last_failed="p-01000", last_failed_at=NOW)
    assert held(decide([trigger()], state, policy(), NOW)).until == datetime.max.replace(tzinfo=UTC)


def test_the_hold_that_ends_last_is_named() -> None:
    state = State(
        last_retrain="p-00003",
        last_finished_at=NOW,
        failures=3,
        last_failed="p-00003",
        last_failed_at=NOW,
        bucket=Bucket(Fraction(6), NOW),
    )
    for cooldown, backoff, per, reason in (
        ("3d", "1d", "6d", "cooldown"),
        ("1d", "3d", "6d", "breaker"),
        ("1d", "2d", "18d", "budget"),
    ):
        rules = policy(cooldown=cooldown, breaker={"backoff": backoff}, budget={"retrains": 6, "per": per})
        hold = held(decide([trigger()], state, rules, NOW))
        assert (hold.reason, hold.until) == (reason, NOW + 3 * DAY)


def test_same_training_set_is_not_tried_twice() -> None:
    hold = held(decide([trigger()], State(tried_by="p-00002"), policy(), NOW))
    assert (hold.reason, hold.until) == ("nothing_new", None)
    assert hold.sentence == "held: no new data since retrain p-00002, which tried the same training set"


def test_lost_retrain_goes_before_cooldown_budget_and_breaker() -> None:
    state = State(
        lost="p-00003",
        last_finished_at=NOW,
        last_retrain="p-00002",
        bucket=Bucket(Fraction(6), NOW),
        failures=9,
        last_failed="p-00002",
        last_failed_at=NOW,
        tried_by="p-00002",
    )
    sentence = "retrain p-00003 lost its run and is taken up again"
    for pending in ([], [trigger()]):
        assert decide(pending, state, policy(), NOW) == Admit(None, sentence, takes_up="p-00003")


def test_pause_and_observe_hold_a_lost_retrain_too() -> None:
    state = State(lost="p-00003")
    assert held(decide([], replace(state, paused="ann: holidays"), policy(), NOW)).reason == "paused"
    assert held(decide([], state, policy(mode="observe"), NOW)).reason == "observe"


def test_observe_says_what_act_would_do() -> None:
    assert held(decide([trigger()], State(), policy(mode="observe"), NOW)).sentence == (
        "held: policy.mode is observe, so nothing starts; in mode act: "
        "admitted for a labels trigger of 2013-03-01 00:00 UTC"
    )


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOW, "2013-03-01 00:00 UTC"),
        (NOW + SECOND, "2013-03-01 00:00:01 UTC"),
        (NOW + timedelta(microseconds=1), "2013-03-01 00:00:01 UTC"),
        (NOW + timedelta(seconds=59, microseconds=1), "2013-03-01 00:01 UTC"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31 23:59:59 UTC"),
    ],
)
def test_moments_are_written_to_the_second_and_never_too_early(moment: datetime, text: str) -> None:
    assert format_moment(moment) == text


@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        ("22:00-06:00", NOW + timedelta(hours=23), NOW + timedelta(hours=30)),
        ("22:00-06:00", NOW + timedelta(hours=5, minutes=59), NOW + timedelta(hours=6)),
        ("09:00-17:00", NOW + timedelta(hours=9), NOW + timedelta(hours=17)),
    ],
)
def test_quiet_hours_hold_until_they_end(hours: str, now: datetime, until: datetime) -> None:
    hold = held(decide([trigger(urgent=True)], State(), policy(quiet_hours=hours), now))
    assert (hold.reason, hold.until) == ("quiet_hours", until)
    assert "quiet hours from" in hold.sentence
    assert isinstance(decide([trigger()], State(), policy(quiet_hours=hours), until), Admit)


def test_what_ends_in_quiet_hours_is_held_to_their_end_and_says_both() -> None:
    state = State(last_retrain="flights-00002", last_finished_at=NOW)
    hold = held(decide([trigger()], state, policy(cooldown="23h", quiet_hours="22:00-06:00"), NOW))
    assert (hold.reason, hold.until) == ("quiet_hours", NOW + timedelta(hours=30))
    assert "cooldown of 23h after retrain flights-00002" in hold.sentence


def test_a_lost_retrain_is_taken_up_in_quiet_hours() -> None:
    lost = decide([], State(lost="p-00009"), policy(quiet_hours="22:00-06:00"), NOW)
    assert isinstance(lost, Admit)


# --- properties ------------------------------------------------------------------------------------

durations = st.builds("{}{}".format, st.integers(1, 40), st.sampled_from(["s", "m", "h", "d"])) | st.just(
    "0s"
)
positive_durations = st.builds("{}{}".format, st.integers(1, 40), st.sampled_from(["s", "m", "h", "d"]))
moments = st.integers(-(10**12), 10**12).map(lambda us: NOW + timedelta(microseconds=us))
policies = st.builds(
    policy,
    mode=st.sampled_from(["act", "act", "act", "observe"]),
    cooldown=durations,
    budget=st.fixed_dictionaries({"retrains": st.integers(1, 9), "per": positive_durations}),
    breaker=st.fixed_dictionaries({"after": st.integers(1, 4), "backoff": positive_durations}),
    quiet_hours=st.none() | st.sampled_from(["22:00-06:00", "00:00-00:01", "09:30-17:00", "12:01-12:00"]),
)
pending_lists = st.lists(
    st.builds(
        PendingTrigger,
        id=st.integers(1, 10**6),
        kind=st.sampled_from(["labels", "drift", "manual"]),
        key=st.uuids().map(str),
        created_at=moments,
        urgent=st.booleans(),
    ),
    max_size=5,
    unique_by=(lambda t: t.id, lambda t: t.key),
)


@st.composite
def states(draw: st.DrawFn) -> State:
    failures = draw(st.integers(0, 7))
    finished_at = draw(moments)
    ever = failures > 0 or draw(st.booleans())
    unfinished = draw(st.sampled_from([None, None, None, "in_flight", "lost"]))
    return State(
        paused=draw(st.sampled_from([None, None, None, "ann: holidays"])),
        in_flight="p-00009" if unfinished == "in_flight" else None,
        lost="p-00009" if unfinished == "lost" else None,
        last_retrain="p-00008" if ever else None,
        last_finished_at=finished_at if ever else None,
        bucket=Bucket(draw(st.fractions(0, 9, max_denominator=1000)), draw(moments)) if ever else Bucket(),
        failures=failures,
        last_failed="p-00008" if failures else None,
        last_failed_at=finished_at if failures else None,
        tried_by=draw(st.sampled_from([None, None, "p-00007"])),
    )


def expected_reason(pending: list[PendingTrigger], state: State, rules: Policy, now: datetime) -> str | None:
    """Which hold applies, None for an admission: the same rules, told as a table of yes and no."""
    waits = expected_waits(pending, state, rules, now)
    # A moment is a whole microsecond: waits that round up to the same one end together.
    longest = max(waits.values(), default=None)
    table = [
        (not pending and not (state.in_flight or state.lost), "nothing_pending"),
        (state.paused is not None, "paused"),
        (rules.mode == "observe", "observe"),
        (state.in_flight is not None, "in_flight"),
        (state.lost is not None, None),
        (is_quiet(now + timedelta(microseconds=longest or 0), rules), "quiet_hours"),
        (longest is not None, "/".join(reason for reason, wait in waits.items() if wait == longest)),
        (state.tried_by is not None, "nothing_new"),
        (True, None),
    ]
    return next(reason for applies, reason in table if applies)


def is_quiet(moment: datetime, rules: Policy) -> bool:
    """Whether a moment lies in the quiet hours, by walking through them minute by minute."""
    if rules.quiet_hours is None:
        return False
    minute, end = (60 * one.hour + one.minute for one in rules.quiet_hours)
    while minute != end:
        if 60 * moment.hour + moment.minute == minute:
            return True
        minute = (minute + 1) % (24 * 60)
    return False


def expected_waits(
    pending: list[PendingTrigger], state: State, rules: Policy, now: datetime
) -> dict[str, int]:
    """Microseconds that each of the timed holds still lasts."""
    waits: dict[str, Fraction] = {}
    if state.failures >= rules.breaker.after and state.last_failed_at:
        wait = exact_seconds(rules.breaker.backoff)
        for _ in range(state.failures - rules.breaker.after):
            wait += wait
        waits["breaker"] = wait - exact_seconds(now - state.last_failed_at)
    if state.bucket.as_of:
        per_token = exact_seconds(rules.budget.per) / rules.budget.retrains
        tokens = max(rules.budget.retrains - state.bucket.spent, Fraction(0))
        if tokens < 1:
            waits["budget"] = (1 - tokens) * per_token - exact_seconds(now - state.bucket.as_of)
    if state.last_finished_at and not any(t.urgent for t in pending):
        waits["cooldown"] = exact_seconds(rules.cooldown) - exact_seconds(now - state.last_finished_at)
    return {reason: -int(-wait * 10**6 // 1) for reason, wait in waits.items() if wait > 0}


def exact_seconds(duration: timedelta) -> Fraction:
    return Fraction(duration // timedelta(microseconds=1), 10**6)


@pytest.mark.proof
@given(pending_lists, states(), policies, moments)
def test_decision_is_the_plain_models(
    pending: list[PendingTrigger], state: State, rules: Policy, now: datetime
) -> None:
    decision = decide(pending, state, rules, now)
    expected = expected_reason(pending, state, rules, now)
    if expected is None:
        assert isinstance(decision, Admit)
        oldest = min(pending, key=lambda t: (t.created_at, t.kind, t.key), default=None)
        assert decision.serves == (None if state.lost or oldest is None else oldest.id)
        assert decision.takes_up == state.lost
    else:
        assert held(decision).reason in expected.split("/")


waiting_states = states().map(
    lambda state: replace(
        state, paused=None, in_flight=None, lost=None, last_retrain="p-00008", last_finished_at=NOW
    )
)


@pytest.mark.proof
@given(pending_lists, waiting_states, policies, moments)
def test_a_hold_ends_at_the_moment_it_names_and_not_before(
    pending: list[PendingTrigger], state: State, rules: Policy, now: datetime
) -> None:
    pending, rules = [*pending, trigger()], rules.model_copy(update={"mode": "act"})
    decision = decide(pending, state, rules, now)
    assume(isinstance(decision, Hold) and decision.until is not None)
    hold = held(decision)
    assert hold.until is not None
    assert hold.until > now
    assert held(decide(pending, state, rules, hold.until - timedelta(microseconds=1))).reason == hold.reason
    then = decide(pending, state, rules, hold.until)
    assert isinstance(then, Admit) or then.reason == "nothing_new"


@pytest.mark.proof
@given(pending_lists, states(), policies, moments, st.randoms(use_true_random=False))
def test_order_of_the_pending_triggers_does_not_matter(
    pending: list[PendingTrigger], state: State, rules: Policy, now: datetime, shuffle: random.Random
) -> None:
    shuffled = list(pending)
    shuffle.shuffle(shuffled)
    assert decide(pending, state, rules, now) == decide(shuffled, state, rules, now)


@dataclass
class LeakyBucket:
    """The budget told the other way round: tokens that drip in, counted in whole parts of one."""

    budget: Budget
    level: int = 0
    last: datetime | None = None

    def __post_init__(self) -> None:
        self.token = self.budget.per // timedelta(microseconds=1)
        self.level = self.full = self.budget.retrains * self.token

    def take(self, now: datetime) -> bool:
        if self.last is not None:
            drip = (now - self.last) // timedelta(microseconds=1) * self.budget.retrains
            self.level = min(self.full, self.level + drip)
        self.last = now
        if self.level < self.token:
            return False
        self.level -= self.token
        return True


@pytest.mark.proof
@given(
    st.builds(Budget, retrains=st.integers(1, 7), per=positive_durations),
    st.lists(st.integers(0, 3 * 10**11), min_size=1, max_size=60),
)
def test_admissions_are_those_of_a_leaky_bucket_and_bounded_in_every_window(
    budget: Budget, gaps: list[int]
) -> None:
    rules = policy(cooldown="0s").model_copy(update={"budget": budget})
    state, model, admitted, now = State(), LeakyBucket(budget), [], NOW
    for gap in gaps:
        now += timedelta(microseconds=gap)
        admit = isinstance(decide([trigger()], state, rules, now), Admit)
        assert admit == model.take(now)
        if admit:
            admitted.append(now)
            state = replace(state, bucket=charge(state.bucket, budget, now))
    for i, start in enumerate(admitted):
        for j, end in enumerate(admitted[i:], start=i):
            window = exact_seconds(end - start)
            assert j - i + 1 <= budget.retrains + window * budget.retrains / exact_seconds(budget.per)


def test_a_charge_after_the_budget_shrank_carries_no_old_debt() -> None:
    budget = Budget.model_validate({"retrains": 1, "per": "1d"})
    assert charge(Bucket(Fraction(6), NOW), budget, NOW + DAY) == Bucket(Fraction(1), NOW + DAY)


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    budget = Budget.model_validate({"retrains": 2, "per": "2d"})
    bucket = charge(charge(Bucket(), budget, NOW), budget, NOW - DAY)
    assert bucket == Bucket(Fraction(2), NOW)

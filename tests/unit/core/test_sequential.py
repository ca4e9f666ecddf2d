"""Evidence over many nights: its formula, its error over a year, its budget, and what may never help."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from perennial.domain import sequential
from perennial.domain.sequential import EvidenceState, Stake, e_value, log_e_values, next_state
from perennial.spec.parts import FalsePromotions

POLICY = FalsePromotions(budget=0.05, period_days=90)
START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def units_of(gains: Any, first: int = 0) -> list[tuple[str, float]]:
    return [(f"day-{first + at:04d}", float(gain)) for at, gain in enumerate(gains)]


def state_after(previous: EvidenceState | None = None, **given: Any) -> EvidenceState:
    values: dict[str, Any] = {
        "champion": "a" * 64,
        "reign": 7,
        "metric": "roc_auc",
        "limit": 0.0,
        "unit": "UTC day",
        "policy": POLICY,
        "as_of": START,
        "units": units_of(np.random.default_rng(0).normal(0.5, 1, 14)),
    }
    return next_state(previous, **{**values, **given})


def without_autocorrelation(gains: np.ndarray) -> float:
    """The e-value of all units as independent ones: the lag-1 sum that makes the correction vanish."""
    squares = ((gains - gains.mean()) ** 2).sum()
    return math.exp(float(log_e_values(len(gains), gains.mean(), squares, -1e9)))


@pytest.mark.parametrize("size", [10, 14, 60])
@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.4, 0.9])
def test_independent_units_give_the_ratio_of_noncentral_t_densities(size: int, mean: float) -> None:
    gains = np.random.default_rng(size).normal(mean, 1, size)
    t = math.sqrt(size) * gains.mean() / gains.std(ddof=1)
    scale = sequential.PRIOR_SCALE

    def weighted(effect: float) -> float:
        return float(stats.nct.pdf(t, size - 1, effect * math.sqrt(size)) * stats.halfnorm.pdf(effect, scale=scale))

    mixture, _ = integrate.quad(weighted, 0, 8 * scale, limit=200)
    assert without_autocorrelation(gains) == pytest.approx(mixture / stats.t.pdf(t, size - 1), rel=1e-6)


def test_equal_models_of_normal_days_reach_the_threshold_no_more_often_than_the_level() -> None:
    runs, nights, level = 4000, 200, 0.05
    gains = np.random.default_rng(1).normal(size=(runs, nights))
    highest = np.full(runs, -np.inf)
    for n in range(10, nights + 1):
        seen = gains[:, :n]
        mean = seen.mean(axis=1)
        squares = ((seen - mean[:, None]) ** 2).sum(axis=1)
        highest = np.maximum(highest, log_e_values(n, mean, squares, -1e9))
    reached = float((highest >= math.log(1 / level)).mean())
    assert reached <= level + 3 * math.sqrt(level * (1 - level) / runs)
    assert reached > 0.2 * level  # a bound that is far from reached would test nothing


def test_neighbouring_days_alike_weaken_the_evidence() -> None:
    trend = np.repeat([1.5, -0.4, 1.2, 0.1, 1.6, -0.2, 1.4, 0.2], 7)
    mixed = np.random.default_rng(3).permutation(trend)
    assert e_value(trend.tolist()) < e_value(mixed.tolist()) / 2


def test_a_gain_after_a_long_equal_reign_is_seen_through_the_parts_that_begin_later() -> None:
    rng = np.random.default_rng(4)
    gains = np.concatenate([rng.normal(0, 1, 140), rng.normal(0.9, 1, 42)])
    squares, lagged = (
        ((gains - gains.mean()) ** 2).sum(),
        ((gains - gains.mean())[1:] * (gains - gains.mean())[:-1]).sum(),
    )
    whole = math.exp(float(log_e_values(len(gains), gains.mean(), squares, lagged)))
    assert e_value(gains.tolist()) > 10 * whole


def test_parts_that_all_say_nothing_weigh_one_together() -> None:
    for count in (1, 2, 9, 40):
        assert float(sequential.mixed(np.zeros(count))) == pytest.approx(0.0, abs=1e-12)
    assert float(sequential.mixed(np.full(1, math.log(11.0)))) == pytest.approx(math.log(0.8 * 11 + 0.2))


@pytest.mark.parametrize("factor", [1e-300, 1e-6, 1e6, 1e300])
def test_other_units_of_the_metric_leave_the_evidence_as_it_is(factor: float) -> None:
    gains = np.random.default_rng(5).normal(0.4, 1, 30)
    assert e_value((gains * factor).tolist()) == pytest.approx(e_value(gains.tolist()), rel=1e-9)


def test_a_constant_gain_at_the_limit_is_no_evidence() -> None:
    assert e_value([0.0] * 30) == pytest.approx(1.0)
    assert state_after(limit=0.002, units=units_of([0.002] * 30)).e_value == pytest.approx(1.0)


def test_the_same_loss_every_day_speaks_against_the_challenger() -> None:
    assert 0 <= e_value([-0.01] * 30) < 0.3
    assert e_value([0.01] * 30) > 1e6


def test_fewer_units_than_needed_give_no_evidence() -> None:
    few = state_after(units=units_of([0.5, 0.6] * 4))
    assert few.e_value == 1.0
    assert len(few.units) == 8


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40), st.floats(-1e300, 1e300))
def test_any_numbers_give_an_e_value_that_is_a_number(gains: list[float], limit: float) -> None:
    state = state_after(units=units_of(gains), limit=limit)
    assert math.isfinite(state.e_value)
    assert state.e_value >= 0
    if not all(math.isfinite(gain) for gain in gains):
        assert (state.e_value, state.units) == (0.0, ())
    assert EvidenceState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_unit_that_is_not_finite_gives_no_evidence_tonight_and_changes_nothing_later(bad: float) -> None:
    before = state_after(units=units_of([0.1, 0.2] * 10))
    tonight = state_after(before, as_of=START + DAY, units=[*units_of([0.3] * 5, 20), ("odd", bad)])
    assert tonight.e_value == 0.0
    assert tonight.units == before.units
    assert state_after(tonight, as_of=START + 2 * DAY, units=[]).e_value == before.e_value


@pytest.mark.parametrize("limit", [math.nan, math.inf])
def test_a_limit_that_is_not_finite_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        state_after(limit=limit)


def test_units_seen_before_are_ignored_even_with_other_gains() -> None:
    before = state_after()
    again = state_after(before, as_of=START + DAY, units=[*units_of([99.0] * 14), ("new", 0.1), ("new", 99.0)])
    assert again.units == (*before.units, ("new", 0.1))
    assert again.stakes == (replace(before.stakes[0], until=START + DAY),)
    assert state_after(before) == before


CHANGES: list[dict[str, Any]] = [
    {"champion": "b" * 64},
    {"reign": 8},
    {"metric": "log_loss"},
    {"limit": 0.002},
    {"unit": "service_date"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_hypothesis_begins_anew_with_a_stake_of_what_is_left(change: dict[str, Any]) -> None:
    before = state_after()
    later = START + 10 * DAY
    after = state_after(before, as_of=later, units=units_of([0.1] * 3), **change)
    assert len(after.units) == 3
    assert after.stakes == (before.stakes[0], Stake(since=later, until=later, level=after.level))
    assert after.level == pytest.approx((0.05 - before.level) * sequential.STAKE_SHARE)
    assert after.threshold == pytest.approx(1 / after.level)


def test_twin_of_a_version_taken_back_begins_with_the_evidence_of_nobody() -> None:
    """Promoted against champion a, rolled back to a: the evidence that promoted it must not promote its twin."""
    strong = state_after(units=units_of([0.9, 1.1] * 20))
    assert strong.e_value > strong.threshold
    back = state_after(strong, reign=9, as_of=START + DAY, units=units_of([1.0], 40))
    assert back.units == (("day-0040", 1.0),)
    assert back.e_value == 1.0
    assert back.threshold > strong.threshold


def test_a_stake_whose_last_night_is_more_than_a_period_ago_gives_its_part_back_also_within_a_reign() -> None:
    first = state_after(state_after(), as_of=START + 3 * DAY)
    second = state_after(first, champion="b", as_of=START + 5 * DAY)
    assert second.level == pytest.approx((0.05 - first.level) * sequential.STAKE_SHARE)
    on_the_edge = state_after(second, champion="b", as_of=START + 93 * DAY)
    past_it = state_after(second, champion="b", as_of=START + 93 * DAY + timedelta(seconds=1))
    assert on_the_edge.level == second.level
    assert past_it.level == first.level
    assert [stake.level for stake in past_it.stakes] == [first.level, first.level]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(-400, 400), st.booleans()), min_size=1, max_size=40))
def test_parts_of_the_budget_within_any_period_never_exceed_it(steps: list[tuple[int, bool]]) -> None:
    """However the runs' as_of jump, years ahead and back, and champions change."""
    as_of, champion, state = START, 0, None
    nights: list[tuple[Any, int, float]] = []
    for days, change in steps:
        as_of += days * DAY
        champion += change
        state = state_after(state, champion=str(champion), as_of=as_of, units=[])
        nights.append((as_of, champion, state.level))
        assert 0 <= state.level <= state.stakes[-1].level
    for begin, _, _ in nights:
        within: dict[int, float] = {}
        for at, who, level in nights:
            if begin <= at <= begin + 90 * DAY:
                within[who] = max(level, within.get(who, 0.0))
        assert math.fsum(within.values()) <= POLICY.budget
    assert state is not None
    assert len(state.stakes) == len({who for _, who, _ in nights})


def test_a_run_years_ahead_and_back_leaves_what_was_spent_before_it_spent() -> None:
    first = state_after()
    ahead = state_after(first, champion="b", as_of=START + 3000 * DAY)
    assert ahead.level == first.level  # years later, nothing of the first one's counts
    back = state_after(ahead, champion="c", as_of=START + 10 * DAY)
    assert back.level == pytest.approx(max(0.05 - first.level - ahead.level, 0.0) * sequential.STAKE_SHARE)
    assert back.stakes[:2] == (first.stakes[0], ahead.stakes[1])


def test_a_replay_of_the_past_has_no_more_than_what_was_left_then_and_costs_the_present_nothing() -> None:
    first = state_after(as_of=START)
    second = state_after(first, champion="b", as_of=START + 100 * DAY)
    assert second.level == first.level
    replay = state_after(second, champion="b", as_of=START + 10 * DAY)
    assert replay.level == pytest.approx((0.05 - first.level) * sequential.STAKE_SHARE)
    assert replay.stakes[1] == Stake(since=START + 10 * DAY, until=START + 100 * DAY, level=second.level)
    assert state_after(replay, champion="b", as_of=START + 101 * DAY).level == second.level


def test_evidence_that_is_lost_leaves_nothing_until_its_period_is_over() -> None:
    lost = sequential.after_loss(START)
    for days, level in ((-200, 0.0), (0, 0.0), (90, 0.0), (90.01, 0.05 * sequential.STAKE_SHARE)):
        tonight = state_after(lost, as_of=START + days * DAY)
        assert tonight.level == pytest.approx(level)
        assert len(tonight.units) == 14
    assert EvidenceState.from_dict(json.loads(json.dumps(lost.to_dict()))) == lost


def test_another_budget_in_the_spec_holds_from_that_night_on() -> None:
    before = state_after()
    cut = state_after(before, as_of=START + DAY, policy=FalsePromotions(budget=0.01, period_days=90))
    assert cut.level == pytest.approx(0.01 * sequential.STAKE_SHARE)
    assert cut.stakes[-1].level == before.level  # what it may have used already
    raised = state_after(cut, as_of=START + 2 * DAY, policy=FalsePromotions(budget=0.5, period_days=90))
    assert raised.level == raised.stakes[-1].level == pytest.approx(0.5 * sequential.STAKE_SHARE)


def test_an_exhausted_budget_asks_for_infinite_evidence() -> None:
    state = state_after()
    spent = replace(state, stakes=(Stake(since=START, until=START + DAY, level=0.6), *state.stakes))
    after = state_after(spent, champion="b", as_of=START + 2 * DAY)
    assert after.level == 0.0
    assert after.threshold == math.inf
    assert after.e_value < after.threshold
    assert EvidenceState.from_dict(json.loads(json.dumps(after.to_dict()))) == after


def test_through_json_the_state_is_the_same_to_the_last_bit() -> None:
    state = state_after(state_after(), champion="b", as_of=START + timedelta(days=3, microseconds=7), limit=0.1 + 0.2)
    assert EvidenceState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


STAKE = {"since": START.isoformat(), "until": START.isoformat(), "level": 0.02}
DAMAGES = [
    ({"champion": None}, "champion is None"),
    ({"metric": 3}, "metric is 3"),
    ({"limit": "0.1"}, "limit is '0.1'"),
    ({"limit": math.nan}, "limit is nan"),
    ({"e_value": math.inf}, "e_value is inf"),
    ({"e_value": -1.0}, "less than 0"),
    ({"e_value": True}, "e_value is True"),
    ({"units": None}, "NoneType"),
    ({"units": [["a", 1.0], ["a", 2.0]]}, "twice"),
    ({"units": [["a", math.nan]]}, "a is nan"),
    ({"units": [["a"]]}, "unpack"),
    ({"stakes": []}, "no stake"),
    ({"stakes": [{**STAKE, "since": "2013-03-01"}]}, "no time zone"),
    ({"stakes": [{**STAKE, "since": "today"}]}, "today"),
    ({"stakes": [{**STAKE, "until": None}]}, "until is None"),
    ({"stakes": [{**STAKE, "level": 1.5}]}, r"not in \[0, 1\]"),
    ({"stakes": [{**STAKE, "level": math.nan}]}, "level of a stake is nan"),
    ({"stakes": [{"since": START.isoformat(), "level": 0.02}]}, "until"),
    ({"stakes": [None]}, "NoneType"),
    ({"level": -0.1}, r"level is -0.1, which is not in \[0, 1\]"),
    ({"reign": 1.5}, "reign is 1.5"),
    ({"reign": True}, "reign is True"),
    ({"reign": -1}, "reign is -1"),
    ({"unit": None}, "unit is None"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_a_damaged_state_is_refused_with_what_is_wrong(damage: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EvidenceState.from_dict({**state_after().to_dict(), **damage})


@pytest.mark.parametrize(
    "name", ["champion", "reign", "metric", "limit", "unit", "units", "stakes", "level", "e_value"]
)
def test_a_state_without_one_of_its_fields_is_refused_by_name(name: str) -> None:
    values = state_after().to_dict()
    del values[name]
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        EvidenceState.from_dict(values)


@pytest.mark.parametrize("other", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(other: Any) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        EvidenceState.from_dict(other)


def test_overlapping_holdouts_use_each_day_once_with_its_first_challenger() -> None:
    state = None
    for night in range(5):
        state = state_after(state, as_of=START + night * DAY, units=units_of([float(night)] * 14, first=night))
    assert state is not None
    labels = [label for label, _ in state.units]
    assert labels == [f"day-{at:04d}" for at in range(18)]
    assert [gain for _, gain in state.units] == [*itertools.repeat(0.0, 14), 1.0, 2.0, 3.0, 4.0]

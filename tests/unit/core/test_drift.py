"""What is said of a column: how far, which way, how sure, and whether that is beyond its limit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from perennial.domain.counting import (
    build_category_profile,
    build_number_profile,
    count_categories,
    count_numbers,
)
from perennial.domain.drift import ColumnDrift, compare, least_effect, least_missing_change, rarely_exceeded
from perennial.domain.profile import FURTHEST, CategoryProfile, ColumnCounts, ColumnProfile, NumberProfile
from perennial.spec.monitoring import DriftRules

RULES = DriftRules()
TEXTS = ("AA", "B6", "UA")


def _normal(rows: int, seed: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, spread, rows)


def _temp(**given: Any) -> NumberProfile:
    return replace(build_number_profile("temp", _normal(20_000, 0)), **given)


def _carrier() -> CategoryProfile:
    return build_category_profile("carrier", np.repeat([0, 1, 2], [5000, 3000, 2000]), TEXTS)


def _carriers(*counts: int) -> ColumnCounts:
    texts = (*TEXTS, "XX")[: len(counts)]
    return count_categories(_carrier(), np.repeat(np.arange(len(counts)), counts), texts)


def _one(profile: ColumnProfile, counts: ColumnCounts, rules: DriftRules = RULES) -> ColumnDrift:
    (found,) = compare([profile], {profile.column: counts}, rules)
    return found


def _numbers(values: np.ndarray, **given: Any) -> ColumnDrift:
    profile = _temp(**given)
    return _one(profile, count_numbers(profile, values))


def test_unchanged_column_has_not_drifted() -> None:
    found = _numbers(_normal(1000, 1))
    assert not found.drifted
    assert found.low == 0.0
    assert found.strength == 0.0
    assert found.says.startswith("no drift: 0.0")


def test_higher_mean_is_told_with_its_size_and_direction() -> None:
    found = _numbers(_normal(1000, 1, mean=1.8))
    assert found.drifted
    assert found.towards == "higher"
    assert found.shift == pytest.approx(1.8, abs=0.15)
    assert found.low is not None
    assert found.low < found.distance < found.high  # type: ignore[operator]
    assert found.says == f"higher by {found.effect:.2f} spreads ({found.low:.2f} to {found.high:.2f}), limit 0.10"


@pytest.mark.parametrize("mean", [-25.0, -6.0, 6.0, 25.0])
def test_values_beyond_every_one_of_the_reference_are_as_far_away_as_they_are(mean: float) -> None:
    values = _normal(1000, 1, mean=mean)
    found = _numbers(values)
    assert found.unseen_share > 0.9
    assert found.shift == pytest.approx(mean, rel=0.02)
    assert found.effect == pytest.approx(abs(mean), rel=0.02)
    assert found.towards == ("higher" if mean > 0 else "lower")


@pytest.mark.parametrize("absurd", [1000.0, -9999.0, 1e9, 1e300])
def test_one_absurd_value_hides_no_shift_and_is_none(absurd: float) -> None:
    found = _numbers(np.append(_normal(999, 1, mean=0.5), absurd))
    assert found.drifted
    assert found.towards == "higher"
    assert not _numbers(np.append(_normal(999, 1), absurd)).drifted


@pytest.mark.parametrize("mean", [-1e6, 1e6])
def test_values_of_another_unit_are_taken_as_thirty_spreads_away(mean: float) -> None:
    found = _numbers(_normal(1000, 1, mean=mean))
    assert found.effect == pytest.approx(FURTHEST, rel=0.1)
    assert found.drifted


@pytest.mark.parametrize("absurd", [1e6, -1e12])
def test_one_absurd_value_of_the_training_hides_no_shift(absurd: float) -> None:
    profile = build_number_profile("temp", np.append(_normal(20_000, 0), absurd))
    found = _one(profile, count_numbers(profile, _normal(1000, 1, mean=1.0)))
    assert found.drifted
    assert found.effect == pytest.approx(1.0, abs=0.15)


def test_rare_level_that_becomes_frequent_is_as_far_as_it_is() -> None:
    profile = build_number_profile("stops", np.repeat([0.0, 1.0, 9.0], [15_000, 4_990, 10]))
    found = _one(profile, count_numbers(profile, np.repeat([0.0, 9.0], [750, 250])))
    assert found.effect == pytest.approx(0.25 * 8 / profile.spread, rel=0.01)


@pytest.mark.parametrize("values", [_normal(5000, 0), np.repeat([0.1, 0.7, 1.3], 500), np.full(500, 0.1)])
@pytest.mark.parametrize("single_first", [True, False])
def test_numbers_that_went_through_32_bits_are_the_same(values: np.ndarray, single_first: bool) -> None:
    trained, served = values, values.astype(np.float32).astype(np.float64)
    if single_first:
        trained, served = served, trained
    profile = build_number_profile("x", trained)
    counts = count_numbers(profile, served)
    assert tuple(counts.counts.tolist()) == profile.counts
    assert counts.unseen == 0
    assert _one(profile, counts).effect == pytest.approx(0.0, abs=1e-6)


def test_texts_among_numbers_do_not_move_those_beyond_the_range() -> None:
    profile = _temp()
    counts = count_numbers(profile, _normal(1000, 1, mean=6.0))
    texts = replace(counts, counts=counts.counts + np.eye(len(counts.counts), dtype=int)[-1] * 500)
    texts = replace(texts, unseen=counts.unseen + 500, unreadable=500)
    found = _one(profile, texts)
    assert found.effect is not None
    assert 4 < found.effect < 6.1


def test_lower_mean_has_a_negative_shift() -> None:
    found = _numbers(_normal(1000, 1, mean=-0.5))
    assert (found.towards, found.drifted) == ("lower", True)
    assert found.shift == pytest.approx(-0.5, abs=0.1)


def test_wider_spread_is_drift_both_ways() -> None:
    found = _numbers(_normal(2000, 1, spread=2.0))
    assert (found.towards, found.drifted) == ("otherwise", True)
    assert abs(found.shift or 0.0) < 0.1
    assert found.says.startswith("differently spread by 0.")


def test_tiny_change_of_very_many_rows_is_significant_but_no_drift() -> None:
    found = _numbers(_normal(500_000, 1, mean=0.05))
    assert found.q_value is not None
    assert found.q_value < 0.01
    assert not found.drifted


def test_large_change_of_very_few_rows_is_no_drift() -> None:
    found = _numbers(_normal(8, 3, mean=0.4))
    assert found.effect is not None
    assert found.effect > RULES.min_effect
    assert not found.drifted


def test_column_that_varies_by_itself_has_the_higher_limit() -> None:
    values = _normal(1000, 1, mean=0.8)
    assert _numbers(values).drifted
    found = _numbers(values, varies_by=0.9)
    assert found.limit == 0.9
    assert not found.drifted


def test_rule_above_what_the_column_varies_by_is_the_limit() -> None:
    profile = _temp(varies_by=0.2)
    rules = DriftRules(min_effect=0.5)
    assert _one(profile, count_numbers(profile, _normal(1000, 1)), rules).limit == 0.5


def test_category_that_grows_is_named() -> None:
    found = _one(_carrier(), _carriers(300, 550, 150))
    assert found.drifted
    assert (found.towards, found.distance) == ("B6", None)
    assert found.effect == found.total_variation == pytest.approx(0.25)
    assert found.shift == pytest.approx(0.25)
    assert found.says.startswith("more B6: 25.0 % of the values (")


def test_categories_never_seen_are_called_other() -> None:
    found = _one(_carrier(), _carriers(250, 150, 100, 500))
    assert (found.towards, found.unseen_share) == ("other", 0.5)


def test_values_missing_far_more_often_are_drift() -> None:
    found = _numbers(np.where(np.arange(1000) % 5 < 2, np.nan, _normal(1000, 1)))
    assert found.drifted
    assert (found.missing_share, found.missing_change) == (0.4, pytest.approx(0.4))
    assert 0.35 < found.missing_low < 0.4
    assert found.says == "missing in 40.0 % of the rows instead of 0.0 %, limit of the change 5.0 %"


def test_missing_values_within_their_limit_leave_the_words_to_the_others() -> None:
    found = _numbers(np.where(np.arange(1000) % 25 == 0, np.nan, _normal(1000, 1)))
    assert found.missing_low > 0
    assert found.says.startswith("no drift: ")


def test_missing_share_that_varies_by_itself_has_the_higher_limit() -> None:
    values = np.where(np.arange(1000) % 5 < 2, np.nan, _normal(1000, 1))
    found = _numbers(values, missing_varies_by=0.5)
    assert (found.missing_limit, found.drifted) == (0.5, False)


def test_window_without_a_value_is_judged_by_what_is_missing() -> None:
    found = _numbers(np.full(1000, np.nan))
    assert found.drifted
    assert found.effect is found.low is found.psi is found.shift is None
    assert found.towards == ""


def test_reference_without_a_value_compares_nothing() -> None:
    profile = build_number_profile("temp", np.full(100, np.nan))
    found = _one(profile, count_numbers(profile, np.full(50, np.nan)))
    assert (found.effect, found.drifted, found.says) == (None, False, "no values to compare")


def test_window_without_rows_has_not_drifted() -> None:
    found = _numbers(np.empty(0))
    assert (found.rows, found.p_value, found.q_value, found.drifted) == (0, None, None, False)


def test_constant_that_takes_another_value_has_the_share_as_its_effect() -> None:
    profile = build_number_profile("flag", np.ones(5000))
    found = _one(profile, count_numbers(profile, np.repeat([1.0, 0.0], [600, 400])))
    assert found.drifted
    assert (found.effect, found.distance) == (pytest.approx(0.4), None)
    assert found.says.startswith("no longer constant: 40.0 % of the values")


def test_infinite_and_absurd_values_leave_every_figure_finite() -> None:
    values = np.concatenate([_normal(900, 1), np.full(50, np.inf), np.full(50, 1e300)])
    text = json.dumps(asdict(_numbers(values)))
    assert "Infinity" not in text
    assert "NaN" not in text


def test_false_discoveries_are_controlled_among_the_columns() -> None:
    profiles = [build_number_profile(f"c{place}", _normal(5000, place)) for place in range(20)]
    counts = {each.column: count_numbers(each, _normal(500, 100 + at)) for at, each in enumerate(profiles)}
    counts["c3"] = count_numbers(profiles[3], _normal(500, 7, mean=1.0))
    found = compare(profiles, counts, RULES)
    assert [each.column for each in found] == [f"c{place}" for place in range(20)]
    assert [each.column for each in found if each.drifted] == ["c3"]
    assert all(each.q_value >= each.p_value for each in found)  # type: ignore[operator]


def test_counts_of_a_column_that_are_not_there_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"column temp: the window has no counts of it; it has those of \['wind'\]"):
        compare([_temp()], {"wind": _carriers(1)}, RULES)


def test_counts_by_another_profile_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"column carrier: the counts have shape \(40,\), and the profile 4 bins"):
        compare([_carrier()], {"carrier": count_numbers(_temp(), _normal(10, 0))}, RULES)


def test_least_effect_and_least_missing_change_are_the_lower_limits_of_the_comparison() -> None:
    profile = _temp()
    counts = count_numbers(profile, np.where(np.arange(500) % 3, _normal(500, 1, mean=1.0), np.nan))
    found = _one(profile, counts)
    assert least_effect(profile, counts) == found.low != 0.0
    assert least_missing_change(profile, counts) == found.missing_low != 0.0
    assert least_effect(profile, count_numbers(profile, np.empty(0))) is None


def test_few_stretches_make_no_limit() -> None:
    assert rarely_exceeded([1.0] * 4) == 0.0
    assert rarely_exceeded([1.0] * 5) > 2.0


def test_more_stretches_of_the_same_make_a_narrower_limit() -> None:
    limits = [rarely_exceeded(np.abs(_normal(rows, 5)).tolist()) / 2.33 for rows in (16, 400, 10_000)]
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == pytest.approx(1.04, abs=0.05)


def test_one_odd_stretch_in_a_hundred_hardly_counts() -> None:
    usual = np.abs(_normal(100, 5)).tolist()
    assert rarely_exceeded([*usual, 1000.0]) < 2 * rarely_exceeded(usual)

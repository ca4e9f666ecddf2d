"""Mistakes of who sends are found, and changes of the world are not taken for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from perennial.domain.counting import build_category_profile, build_number_profile, count_categories, count_numbers
from perennial.domain.profile import ColumnCounts, ColumnProfile
from perennial.domain.skew import ColumnSkew, compare_served

WINTER = build_number_profile("temp", np.random.default_rng(0).uniform(10, 60, 5000))
GUSTS = build_number_profile("gust", np.where(np.arange(5000) % 5 < 4, np.nan, 20.0 + np.arange(5000) % 7))
CARRIER = build_category_profile("carrier", np.repeat([0, 1], [600, 400]), ("AA", "UA"))


def _one(profile: ColumnProfile, counts: ColumnCounts) -> ColumnSkew:
    (found,) = compare_served([profile], {profile.column: counts})
    return found


def _temp(values: np.ndarray) -> ColumnSkew:
    return _one(WINTER, count_numbers(WINTER, values))


def _carriers(*texts: str) -> ColumnSkew:
    return _one(CARRIER, count_categories(CARRIER, np.arange(len(texts)), texts))


def test_values_as_in_training_are_no_finding() -> None:
    found = _temp(np.random.default_rng(1).uniform(10, 60, 500))
    assert (found.finding, found.skewed, found.says) == (None, False, "as in training")
    assert found.strength < 1


def test_column_that_is_never_sent_is_found() -> None:
    found = _temp(np.full(500, np.nan))
    assert (found.finding, found.share, found.rows) == ("never_sent", 1.0, 500)
    assert found.strength > 1
    assert found.says == "never sent, in training it is missing in 0.0 % of the rows"


def test_column_that_training_mostly_lacked_may_be_lacking() -> None:
    profile = replace(GUSTS, missing_varies_by=0.2)
    assert not _one(profile, count_numbers(profile, np.full(500, np.nan))).skewed


@pytest.mark.parametrize("lacking", [0.0, 0.5, 0.85, 0.95])
def test_column_as_often_missing_as_in_training_is_calm(lacking: float) -> None:
    rows = np.arange(5000)
    profile = build_number_profile("gust", np.where(rows % 100 < 100 * lacking, np.nan, 20.0 + rows % 7))
    found = _one(profile, count_numbers(profile, np.where(rows % 100 < 100 * lacking, np.nan, 20.0 + rows % 7)))
    assert found.strength < 0.2


def test_column_that_training_never_had_may_be_lacking() -> None:
    profile = build_number_profile("none", np.full(100, np.nan))
    assert not _one(profile, count_numbers(profile, np.full(500, np.nan))).skewed


@pytest.mark.parametrize(("gone", "finding"), [(150, "missing"), (90, None)])
def test_values_missing_far_more_often_are_found(gone: int, finding: str | None) -> None:
    found = _temp(np.concatenate([np.full(gone, np.nan), np.full(500 - gone, 30.0)]))
    assert found.finding == finding
    assert found.limit == pytest.approx(0.2)


def test_warmer_summer_is_no_mistake() -> None:
    assert _temp(np.random.default_rng(1).uniform(65, 100, 500)).finding is None


def test_another_unit_is_found() -> None:
    found = _temp(np.random.default_rng(1).uniform(290, 310, 500))
    assert (found.finding, found.share) == ("other_unit", 1.0)
    assert found.says == "100.0 % of the values are outside the range of training, on average by more than its width"


def test_one_absurd_value_is_no_other_unit() -> None:
    assert _temp(np.append(np.full(499, 30.0), 1e12)).finding is None


def test_texts_in_a_numbers_place_are_found() -> None:
    found = _temp(np.concatenate([np.full(30, np.inf), np.full(470, 30.0)]))
    assert (found.finding, found.share) == ("other_type", 0.06)
    assert found.says == "6.0 % of the values are no finite numbers"


def test_categories_that_training_has_not_seen_are_found() -> None:
    found = _carriers(*["AA"] * 100, *["AAL"] * 100)
    assert (found.finding, found.share, found.kind) == ("unseen", 0.5, "category")


def test_rare_new_category_is_no_finding() -> None:
    assert not _carriers(*["AA"] * 490, *["ZZ"] * 10).skewed


def test_new_categories_are_no_finding_where_training_left_some_out() -> None:
    profile = replace(CARRIER, other=50)
    counts = count_categories(profile, np.zeros(200, dtype=np.intp), ("ZZ",))
    assert not _one(profile, counts).skewed


def test_window_without_rows_says_nothing() -> None:
    found = _temp(np.empty(0))
    assert (found.finding, found.rows, found.low, found.high, found.strength) == (None, 0, 0.0, 1.0, 0.0)


def test_handful_of_rows_is_not_enough() -> None:
    assert not _temp(np.array([np.nan, 30.0])).skewed


def test_columns_keep_their_order() -> None:
    counts = {each.column: count_numbers(each, np.full(10, 30.0)) for each in (WINTER, GUSTS)}
    assert [each.column for each in compare_served([GUSTS, WINTER], counts)] == ["gust", "temp"]

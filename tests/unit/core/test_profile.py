"""Profiles of columns, and counting other rows as they say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.counting import (
    BINS,
    MAX_LEVELS,
    MAX_TEXT,
    Floats,
    add,
    build_category_profile,
    build_number_profile,
    category_text,
    count_categories,
    count_numbers,
    no_counts,
    rows_by_part,
)
from perennial.domain.fingerprint import canonical_json
from perennial.domain.latencies import Latencies
from perennial.domain.profile import Calibration, HoldoutProfile, MetricValue, NumberProfile, Profile, SliceProfile

NAN, INF = math.nan, math.inf
numbers = st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 2.0]), max_size=200)


def array(*values: float) -> Floats:
    return np.array(values, dtype=np.float64)


def test_many_values_fill_bins_evenly() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    profile = build_number_profile("x", values)
    assert len(profile.counts) == BINS
    assert set(profile.counts) == {10_000 // BINS}
    assert profile.mean == pytest.approx(values.mean())
    assert profile.spread == pytest.approx(values.std(), rel=0.005)
    assert (profile.lowest, profile.highest) == (values.min(), values.max())
    assert all(low < mean < high for low, mean, high in zip(profile.edges, profile.means[1:-1], profile.edges[1:]))  # noqa: B905


def test_few_different_values_have_a_bin_each() -> None:
    profile = build_number_profile("hour", array(3, 1, 2, 3, 3, NAN))
    assert profile.edges == (1.5, 2.5)
    assert profile.counts == (1, 1, 3)
    assert profile.means == (1.0, 2.0, 3.0)
    assert profile.missing == 1


def test_value_of_more_than_one_bin_is_split_by_no_edge() -> None:
    values = np.concatenate([np.zeros(900), np.arange(1, 101)])
    profile = build_number_profile("rain", values, bins=20)
    assert profile.edges[0] > 0
    assert profile.counts[0] >= 900
    assert min(profile.counts) > 0


def test_spread_is_not_that_of_a_few_absurd_values() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    values[:5] = 1e6
    profile = build_number_profile("x", values)
    assert profile.spread == pytest.approx(1.0, rel=0.02)
    assert profile.highest == 1e6
    assert max(profile.means) < 10


def test_column_that_varies_in_its_tails_alone_keeps_them() -> None:
    profile = build_number_profile("alarm", np.repeat([0.0, 1.0], [9_995, 5]))
    assert profile.spread == pytest.approx(math.sqrt(0.0005), rel=0.01)
    assert profile.counts == (9_995, 5)


@pytest.mark.parametrize("start", [1.0, 0.1, 5e-324, -1e300])
def test_neighbours_without_a_number_in_between_have_a_bin_each(start: float) -> None:
    after = float(np.nextafter(start, math.inf))
    last = start + 10 * abs(start)
    profile = build_number_profile("x", array(start, after, last, last))
    assert profile.counts == (1, 1, 2)


def test_constant_but_for_rounding_is_a_constant() -> None:
    profile = build_number_profile("c", array(0.1, float(np.float32(0.1)), 0.1))
    assert (profile.edges, profile.counts, profile.spread) == ((), (3,), 0.0)


def test_constant_has_one_bin_and_no_spread() -> None:
    profile = build_number_profile("c", np.full(7, 0.1))
    assert (profile.edges, profile.counts, profile.spread, profile.mean) == ((), (7,), 0.0, 0.1)
    counts = count_numbers(profile, array(0.1, 0.2, NAN))
    assert (counts.counts.tolist(), counts.unseen, counts.missing) == ([2], 1, 1)


def test_column_without_values_finds_everything_unseen() -> None:
    profile = build_number_profile("x", array(NAN, NAN))
    assert (profile.counts, profile.missing) == ((0,), 2)
    assert math.isnan(profile.mean)
    assert count_numbers(profile, array(1.0, NAN)).unseen == 1


def test_infinite_values_count_in_the_outer_bins_and_are_unreadable() -> None:
    profile = build_number_profile("x", array(*range(100)))
    counts = count_numbers(profile, array(INF, -INF, 50.0, 100.0))
    assert (counts.counts[0], counts.counts[-1]) == (1, 2)
    assert (counts.unseen, counts.unreadable, counts.total) == (3, 2, 150.0)


@given(numbers, numbers)
def test_every_row_is_counted_once_in_the_bin_that_holds_it(reference: list[float], given: list[float]) -> None:
    with np.errstate(all="ignore"):  # sums of the largest floats
        profile = build_number_profile("x", array(*reference))
        counts = count_numbers(profile, array(*given))
    values = array(*given)
    present = values[~np.isnan(values)]
    bins = np.searchsorted(profile.edges, present, side="right")
    assert counts.counts.tolist() == np.bincount(bins, minlength=len(profile.counts)).tolist()
    assert counts.missing == len(values) - len(present)
    assert counts.unreadable == np.count_nonzero(np.isinf(present))


@given(numbers)
def test_reference_counted_again_is_its_own_profile(reference: list[float]) -> None:
    values = array(*reference)
    with np.errstate(all="ignore"):
        profile = build_number_profile("x", values, bins=5)
        counts = count_numbers(profile, values)
    assert tuple(counts.counts.tolist()) == profile.counts
    assert counts.missing == profile.missing
    assert counts.unseen == counts.unreadable


def test_long_columns_are_counted_as_short_ones() -> None:
    values = np.random.default_rng(1).normal(size=200_000)
    profile = build_number_profile("x", values[:1_000])
    whole, parts = count_numbers(profile, values), no_counts(profile)
    for start in range(0, len(values), 30_000):
        parts = add(parts, count_numbers(profile, values[start : start + 30_000]))
    assert whole.counts.tolist() == parts.counts.tolist()
    assert whole.total == pytest.approx(parts.total)
    assert whole.unseen == parts.unseen > 0


def test_categories_are_named_most_frequent_first_and_the_rest_is_other() -> None:
    texts = [f"level-{place:03d}" for place in range(MAX_LEVELS + 5)]
    codes = np.concatenate([np.arange(len(texts)), [7, 7, 3, -1]])
    profile = build_category_profile("c", codes, texts)
    assert profile.levels[:3] == ("level-007", "level-003", "level-000")
    assert profile.counts[:3] == (3, 2, 1)
    assert (profile.other, profile.missing) == (5, 1)


def test_new_category_is_unseen_only_if_the_reference_has_no_others() -> None:
    small = build_category_profile("c", np.array([0, 0, 1]), ["a", "b"])
    counts = count_categories(small, np.array([0, 1, 2, -1]), ["b", "zebra", "a"])
    assert (counts.counts.tolist(), counts.unseen, counts.missing) == ([1, 1, 1], 1, 1)
    large = build_category_profile("c", np.arange(MAX_LEVELS + 1), [str(place) for place in range(MAX_LEVELS + 1)])
    assert count_categories(large, np.array([0]), ["zebra"]).unseen == 0


def test_one_text_under_two_codes_is_one_level() -> None:
    profile = build_category_profile("c", np.array([0, 1, 1]), ["7", "7"])
    assert (profile.levels, profile.counts) == (("7",), (3,))


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (False, "false"), (7, "7"), (7.0, "7"), (7.5, "7.5"), ("x" * 999, "x" * MAX_TEXT)],
)
def test_value_has_one_text_whatever_carries_it(value: object, text: str) -> None:
    assert category_text(value) == text


def test_rows_go_to_their_parts() -> None:
    parts = rows_by_part(np.array([2, -1, 0, 2, 0]), 4)
    assert [rows.tolist() for rows in parts] == [[2, 4], [], [0, 3], []]


def test_counts_of_other_bins_are_not_added() -> None:
    few, many = (build_number_profile("x", array(*range(number))) for number in (3, 9))
    with pytest.raises(ValueError, match="of 3 and of 9 bins"):
        add(no_counts(few), no_counts(many))


def profile_of(columns: tuple[Any, ...]) -> Profile:
    inside = SliceProfile(column="c", level="a", rows=2, columns=columns[:1])
    return Profile(model="toy", fingerprint="f" * 64, rows=4, columns=columns, slices=(inside,))


def test_profile_comes_back_from_json_as_it_was() -> None:
    columns = (
        build_category_profile("c", np.array([0, 0, 1, -1]), ["a", "b"]),
        build_number_profile("x", array(1, 2, 3, NAN)),
    )
    profile = profile_of(columns)
    assert Profile.from_dict(json.loads(canonical_json(profile.to_dict()))) == profile


def test_column_without_values_comes_back_with_nan() -> None:
    profile = profile_of((build_number_profile("x", array(NAN)),))
    back = Profile.from_dict(json.loads(canonical_json(profile.to_dict()))).columns[0]
    assert isinstance(back, NumberProfile)
    assert all(math.isnan(value) for value in (back.mean, back.lowest, back.highest, *back.means))


def test_holdout_profile_comes_back_with_classes_of_their_type() -> None:
    profile = HoldoutProfile(
        model="toy",
        fingerprint="f",
        rows=3,
        holdout_sha256="0" * 64,
        scores=(build_number_profile("score", array(0.1, 0.2)),),
        performance=(MetricValue(metric="roc_auc", value=0.7, low=None, high=None),),
        confidence=0.9,
        calibration=(Calibration(scores=(0.1, 0.9), frequencies=(0.2, 0.8)),),
        classes=(False, True),
    )
    back = HoldoutProfile.from_dict(json.loads(canonical_json(profile.to_dict())))
    assert back == profile
    assert [type(name) for name in back.classes] == [bool, bool]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"edges": [1.0, 1.0]}, "edges must increase"),
        ({"counts": [1, 2]}, "expected 3 counts"),
        ({"counts": [1, -2, 3]}, "counts of 0 or more"),
        ({"means": [1.0]}, "1 means of 3 bins"),
        ({"spread": "wide"}, "spread"),
    ],
)
def test_number_profile_that_fits_nothing_is_refused(change: dict[str, Any], what: str) -> None:
    values = profile_of((build_number_profile("x", array(1, 2, 3)),)).to_dict()
    values["columns"][0].update(change)
    with pytest.raises(ValueError, match=what):
        Profile.from_dict(values)


def test_quantile_of_latencies_is_within_a_hundredth() -> None:
    latencies = np.random.default_rng(2).lognormal(1, 1, 20_000)
    halves = Latencies(), Latencies()
    for half, values in zip(halves, np.split(latencies, 2), strict=True):
        half.add(values)
    both = halves[0] + halves[1]
    for share in (0.0, 0.5, 0.95, 1.0):
        expected = np.quantile(latencies, share, method="inverted_cdf")
        assert both.quantile(share) == pytest.approx(expected, rel=0.0101)


def test_latencies_beyond_the_scale_count_at_its_ends() -> None:
    latencies = Latencies()
    assert latencies.quantile(0.5) is None
    latencies.add(array(0.0, -1.0, NAN, 1e12))
    assert latencies.quantile(0.5) == pytest.approx(0.01, rel=0.02)
    assert latencies.quantile(1.0) == pytest.approx(0.01 * 1.02**999.5)

"""Distances of counted samples against scipy's of the values, and the intervals against repeated samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, chi2_contingency, wasserstein_distance

from perennial.domain.distances import (
    Counts,
    Floats,
    Pair,
    distance,
    interval,
    least_change,
    same_distribution,
    stability_index,
    wilson,
)

PLACES = np.array([-2.0, -0.5, 0.1, 0.4, 3.0])
SOME = arrays(np.int64, 5, elements=st.integers(0, 1000)).filter(lambda counts: counts.sum() > 0)


def _pair(current: list[int] | Counts, reference: list[int] | Counts, places: Floats | None = PLACES) -> Pair:
    return Pair(np.asarray(current), np.asarray(reference), places)


@given(SOME, SOME)
def test_distance_of_numbers_is_wasserstein_of_the_values(current: Counts, reference: Counts) -> None:
    expected = wasserstein_distance(PLACES, PLACES, current, reference)
    assert distance(_pair(current, reference)) == pytest.approx(expected, abs=1e-9)


@given(SOME, SOME)
def test_distance_of_categories_is_the_largest_difference_of_any_event(current: Counts, reference: Counts) -> None:
    shares, theirs = current / current.sum(), reference / reference.sum()
    events = np.array([[place >> cell & 1 for cell in range(5)] for place in range(32)])
    assert distance(_pair(current, reference, None)) == pytest.approx(float((events @ (shares - theirs)).max()))


@given(SOME, SOME, st.booleans())
def test_interval_holds_the_estimate_and_is_never_negative(current: Counts, reference: Counts, numbers: bool) -> None:
    pair = _pair(current, reference, PLACES if numbers else None)
    low, high = interval(pair)
    assert 0 <= low <= distance(pair) + 1e-12
    assert distance(pair) <= high
    assert numbers or high <= 1.0


@pytest.mark.parametrize("numbers", [True, False])
@pytest.mark.parametrize("shares", [(0.2, 0.2, 0.2, 0.2, 0.2), (0.3, 0.2, 0.2, 0.2, 0.1), (0.05, 0.05, 0.1, 0.1, 0.7)])
def test_repeated_samples_rarely_leave_the_truth_outside(shares: tuple[float, ...], numbers: bool) -> None:
    generator, places = np.random.default_rng(0), PLACES if numbers else None
    truth = distance(_pair(np.rint(np.array(shares) * 100).astype(int), [20] * 5, places))
    below = above = 0
    for _ in range(1000):
        pair = _pair(generator.multinomial(400, shares), generator.multinomial(900, [0.2] * 5), places)
        low, high = interval(pair)
        below, above = below + (high < truth), above + (low > truth)
    assert below <= 40  # 2.5 % are 25, and 40 is three standard deviations more
    assert above <= 40


def test_more_rows_bring_the_lower_end_up_to_a_distance_that_is_there() -> None:
    few, many = (interval(_pair([10 * n, 20 * n, 20 * n, 20 * n, 30 * n], [20 * n] * 5))[0] for n in (1, 1000))
    assert few == 0.0
    assert many > 0.95 * distance(_pair([10, 20, 20, 20, 30], [20] * 5))


def test_a_sample_all_in_one_cell_has_an_interval_all_the_same() -> None:
    low, high = interval(_pair([0, 0, 0, 0, 3], [1000] * 5))
    assert low < distance(_pair([0, 0, 0, 0, 3], [1000] * 5)) < high


def test_stability_index_of_a_known_pair_is_the_sum() -> None:
    p, q = np.array([300.5, 700.5]) / 1001, np.array([500.5, 500.5]) / 1001
    expected = float(((p - q) * np.log(p / q)).sum())
    assert stability_index(_pair([300, 700], [500, 500], None)) == pytest.approx(expected)


def test_stability_index_of_an_empty_cell_is_finite() -> None:
    assert 0 < stability_index(_pair([0, 100], [50, 50], None)) < 10


def test_same_distribution_is_the_chi_square_test() -> None:
    current, reference = np.array([30, 40, 30]), np.array([400, 300, 300])
    assert same_distribution(current, reference) == pytest.approx(chi2_contingency([current, reference]).pvalue)


def test_cells_with_few_expected_rows_are_tested_together() -> None:
    current, reference = np.array([50, 50, 1, 0, 1]), np.array([500, 500, 3, 9, 2])
    expected = chi2_contingency([[50, 50, 2], [500, 500, 14]], correction=False).pvalue
    assert same_distribution(current, reference) == pytest.approx(expected)


def test_p_values_of_the_same_distribution_are_below_a_level_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    shares = generator.dirichlet(np.ones(12))
    p_values = np.array(
        [same_distribution(generator.multinomial(600, shares), generator.multinomial(5000, shares)) for _ in range(500)]
    )
    assert 0.02 < (p_values < 0.05).mean() < 0.08


@pytest.mark.parametrize("same", [[7, 0, 0], [0, 0, 0]])
def test_one_cell_alone_says_nothing(same: list[int]) -> None:
    assert same_distribution(np.array(same), np.array([9, 0, 0])) == 1.0


@pytest.mark.parametrize(
    ("current", "reference", "expected"),
    [((56, 70), (48, 80), 0.0524), ((9, 10), (3, 10), 0.1705), ((6, 7), (2, 7), 0.0582), ((5, 56), (0, 29), 0.0)],
)
def test_least_change_is_that_of_newcombes_table(
    current: tuple[int, int], reference: tuple[int, int], expected: float
) -> None:
    """Newcombe 1998, table II, method 10."""
    assert least_change(current, reference) == pytest.approx(expected, abs=5e-5)
    assert least_change(reference, current) == pytest.approx(expected, abs=5e-5)


def test_least_change_without_rows_is_none() -> None:
    assert least_change((0, 0), (3, 10)) == least_change((3, 10), (0, 0)) == 0.0


@given(st.integers(1, 10_000).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_wilson_is_scipys(share: tuple[int, int]) -> None:
    expected = binomtest(*share).proportion_ci(0.95, method="wilson")
    assert wilson(*share) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_rows_is_anything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)

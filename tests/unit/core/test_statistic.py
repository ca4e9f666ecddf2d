"""p-values that invert their intervals, against SciPy where a test of the same name exists."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from perennial.domain.bootstrap import paired_bootstrap
from perennial.domain.intervals import cluster_interval, cluster_intervals, student_intervals
from perennial.domain.statistic import LEAST_P, Statistic, no_interval


def _bootstrapped(seed: int, clusters: int, replicates: int = 300) -> Statistic:
    """A skewed mean over few clusters."""
    generator = np.random.default_rng(seed)
    values = generator.exponential(size=clusters) - 0.7
    drawn = values[generator.integers(0, clusters, (replicates, clusters))].mean(axis=1)
    jackknife = np.array([np.delete(values, i).mean() for i in range(clusters)])
    estimate = float(values.mean())
    return Statistic(value=estimate, intervals=cluster_intervals(drawn, estimate, jackknife, clusters=clusters))


def _student(value: float = 0.3, error: float = 0.2, degrees: float = 9.0, **bounds: float) -> Statistic:
    return Statistic(value=value, intervals=student_intervals(value, error, degrees), **bounds)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    clusters=st.integers(2, 30),
    alpha=st.floats(1e-6, 0.499),
    limit=st.floats(-1.5, 1.5),
)
def test_p_value_is_below_alpha_exactly_when_the_interval_clears_the_limit(
    seed: int, clusters: int, alpha: float, limit: float
) -> None:
    statistic = _bootstrapped(seed, clusters)
    ends = statistic.interval(1 - 2 * alpha)
    above, below = statistic.p_above(limit), statistic.p_below(limit)
    assert ends is not None
    assert above is not None
    assert below is not None
    assume(min(abs(above - alpha), abs(below - alpha)) > 1e-9)  # the resolution of p
    assert (above < alpha) == (ends.low > limit)
    assert (below < alpha) == (ends.high < limit)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), clusters=st.integers(2, 30))
def test_interval_only_grows_with_its_confidence(seed: int, clusters: int) -> None:
    statistic = _bootstrapped(seed, clusters)
    found = [statistic.interval(confidence) for confidence in (0.0, 0.5, 0.8, 0.9, 0.99, 0.999999)]
    ends = [end for end in found if end is not None]
    assert len(ends) == 6
    assert all(outer.low <= inner.low and inner.high <= outer.high for inner, outer in pairwise(ends))


@given(value=st.floats(-2, 2), error=st.floats(0.01, 2), limit=st.floats(-2, 2), degrees=st.floats(1, 200))
def test_p_value_of_a_t_interval_equals_scipys(value: float, error: float, limit: float, degrees: float) -> None:
    expected = float(stats.t.sf((value - limit) / error, degrees))
    found = _student(value, error, degrees).p_above(limit)
    if expected >= 0.5:
        assert found in (1.0, pytest.approx(0.5))
    else:
        assert found == pytest.approx(max(expected, LEAST_P), rel=1e-5)
    assert _student(-value, error, degrees).p_below(-limit) == found


def test_p_value_of_infinite_degrees_is_the_normal_one() -> None:
    assert _student(0.3, 0.2, math.inf).p_above(0.0) == pytest.approx(float(stats.norm.sf(1.5)))


def test_p_value_beyond_all_replicates_is_the_jackknifes() -> None:
    """500 replicates cannot tell 1e-4 from 1e-5; the t part can, and decides alone once all of them clear the limit."""
    values = np.array([1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98, 1.0, 1.03, 0.97, 1.01, 0.99])
    drawn = values[np.random.default_rng(0).integers(0, 12, (500, 12))].mean(axis=1)
    jackknife = np.array([np.delete(values, i).mean() for i in range(12)])
    statistic = Statistic(value=1.0, intervals=cluster_intervals(drawn, 1.0, jackknife, clusters=12))
    limit = 0.9
    assert drawn.min() > limit
    expected = stats.ttest_1samp(values, limit, alternative="greater").pvalue
    assert expected < 1 / 500
    assert statistic.p_above(limit) == pytest.approx(expected, rel=1e-6)


def test_nothing_is_known_without_an_interval() -> None:
    for statistic in (
        Statistic(value=1.0, intervals=no_interval),
        Statistic(value=math.nan, intervals=student_intervals(0.0, 1.0, 5.0)),
        _student(1.0, math.nan),
    ):
        assert statistic.p_above(0.0) is None
        assert statistic.p_below(0.0) is None
        assert (statistic.estimate(0.9).low, statistic.estimate(0.9).high) == (None, None)
    assert Statistic(value=math.nan, intervals=no_interval).estimate(0.9).value is None


def test_a_value_without_spread_is_certain() -> None:
    certain = _student(0.0, 0.0)
    assert certain.interval(0.99) == (0.0, 0.0)
    assert certain.p_above(-0.01) == LEAST_P
    assert certain.p_above(0.0) == 1.0
    assert certain.p_below(0.0) == 1.0


def test_interval_and_p_value_know_the_range() -> None:
    shown = _student(0.9, 0.2, least=0.0, largest=1.0)
    assert shown.interval(0.99) is not None
    assert shown.estimate(0.99).high == 1.0
    assert shown.p_below(1.01) == LEAST_P


def test_cluster_interval_of_one_confidence_is_that_of_all() -> None:
    generator = np.random.default_rng(0)
    drawn, jackknife = generator.normal(size=400), 0.2 * generator.normal(size=9)
    whole = cluster_intervals(drawn, 0.1, jackknife, clusters=9)
    for confidence in (0.0, 0.5, 0.9):
        assert cluster_interval(drawn, 0.1, jackknife, confidence=confidence, clusters=9) == whole(confidence)


def test_paired_bootstraps_p_value_agrees_with_its_estimate() -> None:
    generator = np.random.default_rng(1)
    codes = np.repeat(np.arange(14), 30)
    labels = generator.random(420)
    pair = paired_bootstrap(
        ["mae"], labels, labels + 0.1 * generator.normal(size=420), labels + 0.2, codes, replicates=500, seed=3
    )["mae"]
    assert pair.difference is not None
    p = pair.difference.p_below(0.0)
    assert p is not None
    assert p < 0.05
    high = pair.comparison("mae", 0.9).difference
    assert high is not None
    assert high.high is not None
    assert high.high < 0

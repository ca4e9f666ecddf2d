"""DeLong against its definition and SciPy's Brunner-Munzel test; means of losses against SciPy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.weightstats import DescrStatsW

from perennial.domain.bootstrap import paired_bootstrap
from perennial.domain.closed_forms import CLOSED_FORMS, closed_form, placements
from perennial.domain.comparison import compare, pseudo_values
from perennial.domain.metric_names import METRICS
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import Codes
from perennial.domain.statistic import Statistic


def _rows(seed: int, n: int = 200, decimals: int = 2) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.4).astype(float)
    labels[:4] = (0, 1, 0, 1)
    both = generator.random(n)
    scores = [np.round(np.clip(0.25 * labels + 0.4 * both + 0.35 * generator.random(n), 0, 1), decimals) for _ in "ab"]
    return labels, scores[0], scores[1]


def naive_delong(labels: Floats, *models: Floats) -> tuple[Floats, Floats]:
    """Areas and their covariance from the definition, pair by pair: O(m * n)."""
    tens, ones = [], []
    for scores in models:
        pos, neg = scores[labels == 1], scores[labels == 0]
        kernel = (pos[:, None] > neg[None, :]) + 0.5 * (pos[:, None] == neg[None, :])
        tens.append(kernel.mean(axis=1))
        ones.append(kernel.mean(axis=0))
    m, n = len(tens[0]), len(ones[0])
    covariance = np.atleast_2d(np.cov(tens)) / m + np.atleast_2d(np.cov(ones)) / n
    return np.array([values.mean() for values in tens]), covariance


def _error(statistic: Statistic) -> float:
    """Standard error, read off an interval so narrow that the t and the normal quantile agree."""
    ends = statistic.interval(1e-6)
    assert ends is not None
    return float((ends.high - ends.low) / 2 / stats.norm.ppf(0.5 + 0.5e-6))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(6, 80), decimals=st.integers(0, 3))
def test_placements_are_the_shares_of_pairs_won(seed: int, n: int, decimals: int) -> None:
    labels, scores, _ = _rows(seed, n, decimals)
    pos, neg = scores[labels == 1], scores[labels == 0]
    kernel = (pos[:, None] > neg[None, :]) + 0.5 * (pos[:, None] == neg[None, :])
    found = placements(labels, scores)
    assert found.positives == pytest.approx(kernel.mean(axis=1))
    assert found.negatives == pytest.approx(kernel.mean(axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_delong_equals_the_naive_definition(seed: int) -> None:
    labels, a, b = _rows(seed, 600)
    areas, covariance = naive_delong(labels, a, b)
    pair = closed_form("roc_auc", labels, a, b)
    assert pair.champion is not None
    assert pair.difference is not None
    assert pair.challenger.value == pytest.approx(areas[0])
    assert pair.champion.value == pytest.approx(areas[1])
    assert pair.challenger.value == pytest.approx(roc_auc_score(labels, a))
    spread = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert _error(pair.challenger) == pytest.approx(math.sqrt(covariance[0, 0]), rel=0.01)
    assert _error(pair.difference) == pytest.approx(math.sqrt(spread), rel=0.01)
    expected = pair.difference.value + stats.norm.ppf([0.05, 0.95]) * math.sqrt(spread)
    assert pair.difference.interval(0.9) == pytest.approx(tuple(expected), abs=0.01 * math.sqrt(spread))


def test_interval_of_one_area_inverts_scipys_brunner_munzel_test() -> None:
    """Few rows, where the degrees of freedom matter."""
    labels, scores, _ = _rows(3, 30)
    assert 10 <= labels.sum() <= 15
    found = closed_form("roc_auc", labels, scores, None).challenger.p_above(0.5)
    expected = stats.brunnermunzel(scores[labels == 0], scores[labels == 1], alternative="less", distribution="t")
    assert found == pytest.approx(expected.pvalue, rel=1e-6)


def test_separated_classes_have_an_area_of_one_without_spread() -> None:
    labels = np.repeat([0.0, 1.0], 12)
    estimate = closed_form("roc_auc", labels, np.linspace(0, 1, 24), None).challenger.estimate(0.9)
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("positives", "known"), [(1, False), (9, False), (10, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_area_of_too_few_rows_of_a_class_has_no_interval(positives: int, known: bool, turned: bool) -> None:
    labels = (np.arange(200) >= 200 - positives).astype(float)
    scores = np.linspace(0, 1, 200)
    pair = closed_form("roc_auc", 1 - labels if turned else labels, scores, np.full(200, 0.5))
    assert pair.difference is not None
    assert pair.difference.value == (-0.5 if turned else 0.5)
    assert (pair.difference.interval(0.9) is not None) is known
    assert (pair.difference.p_above(0.0) is not None) is known
    assert (pair.why_no_interval is None) is known


@pytest.mark.parametrize("name", ["brier", "log_loss", "mae", "accuracy"])
def test_means_of_losses_equal_statsmodels_and_paired_t(name: str) -> None:
    labels, a, b = _rows(7)
    a, b = np.clip(a, 0.01, 0.99), np.clip(b, 0.01, 0.99)
    truth = {
        "brier": lambda p: (p - labels) ** 2,
        "mae": lambda p: abs(p - labels),
        "log_loss": lambda p: -np.log(np.where(labels == 1, p, 1 - p)),
        "accuracy": lambda p: ((p > 0.5) == (labels == 1)).astype(float),
    }[name]
    pair = closed_form(name, labels, a, b)
    assert pair.difference is not None
    assert pair.challenger.value == pytest.approx(metric(name, labels, a))
    assert pair.challenger.interval(0.9) == pytest.approx(DescrStatsW(truth(a)).tconfint_mean(0.1))
    assert pair.difference.interval(0.9) == pytest.approx(DescrStatsW(truth(a) - truth(b)).tconfint_mean(0.1))
    expected = stats.ttest_rel(truth(a), truth(b), alternative="greater").pvalue
    found = pair.difference.p_above(0.0)
    assert found == pytest.approx(expected if expected < 0.5 else 1.0)


def test_multiclass_losses_are_means_too() -> None:
    generator = np.random.default_rng(3)
    labels, scores = generator.integers(0, 3, 90).astype(float), generator.dirichlet(np.ones(3), 90)
    losses = -np.log(scores[np.arange(90), labels.astype(int)])
    assert closed_form("log_loss", labels, scores, None).challenger.interval(0.9) == pytest.approx(
        DescrStatsW(losses).tconfint_mean(0.1)
    )


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
def test_identical_models_differ_by_exactly_nothing(name: str) -> None:
    labels, a, _ = _rows(1)
    gap = closed_form(name, labels, a, a.copy()).difference
    assert gap is not None
    assert (gap.value, gap.interval(0.9)) == (0.0, (0.0, 0.0))


def test_losses_that_differ_by_rounding_differ_by_exactly_nothing() -> None:
    labels = np.random.default_rng(0).random(400)
    gap = closed_form("mae", labels, labels + 1.0, labels - 1.0).difference
    assert gap is not None
    assert (gap.value, gap.interval(0.9)) == (0.0, (0.0, 0.0))


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_scores_that_are_not_finite_leave_nothing(name: str, broken: float) -> None:
    labels, a, b = _rows(1)
    a[3] = broken
    pair = closed_form(name, labels, a, b)
    assert pair.champion is not None
    assert pair.difference is not None
    assert math.isnan(pair.challenger.value)
    assert pair.champion.interval(0.9) is not None
    assert pair.difference.estimate(0.9).value is None
    assert pair.difference.p_above(0.0) is None


def test_one_class_and_no_rows_leave_nothing() -> None:
    for labels in (np.ones(5), np.empty(0)):
        scores = np.linspace(0, 1, len(labels))
        assert closed_form("roc_auc", labels, scores, None).challenger.estimate(0.9).value is None
    assert closed_form("brier", np.empty(0), np.empty(0), None).challenger.estimate(0.9).value is None


@pytest.mark.parametrize("name", ["roc_auc", "brier"])
def test_closed_forms_agree_with_the_bootstrap_of_rows(name: str) -> None:
    labels, a, b = _rows(11, 800)
    closed = closed_form(name, labels, a, b).difference
    drawn = paired_bootstrap([name], labels, a, b, np.arange(800), replicates=4000, seed=1)[name].difference
    assert closed is not None
    assert drawn is not None
    mine, theirs = closed.interval(0.9), drawn.interval(0.9)
    assert mine is not None
    assert theirs is not None
    width = mine.high - mine.low
    assert mine == pytest.approx(theirs, abs=0.06 * width)


def test_independent_rows_are_compared_by_closed_forms_where_there_are_any() -> None:
    labels, a, b = _rows(2)
    found = compare(["average_precision", "roc_auc", "brier"], labels, a, b, None, replicates=300, seed=4)
    assert list(found) == ["average_precision", "roc_auc", "brier"]
    assert [pair.replicates for pair in found.values()] == [300, 0, 0]
    assert found["roc_auc"].comparison("roc_auc", 0.9) == closed_form("roc_auc", labels, a, b).comparison(
        "roc_auc", 0.9
    )
    drawn = paired_bootstrap(["average_precision"], labels, a, b, np.arange(200), replicates=300, seed=4)
    assert found["average_precision"].comparison("", 0.9) == drawn["average_precision"].comparison("", 0.9)


def test_clustered_rows_are_compared_by_the_bootstrap_alone() -> None:
    labels, a, b = _rows(2)
    found = compare(["roc_auc", "brier"], labels, a, b, np.arange(200) % 10, replicates=300, seed=4)
    assert [pair.replicates for pair in found.values()] == [300, 300]


@pytest.mark.parametrize("name", sorted(METRICS))
def test_pseudo_values_equal_those_of_a_plain_loop(name: str) -> None:
    labels, a, b = _rows(5, 120)
    units: Codes = np.minimum(np.arange(120) % 11, 8)  # the last one is three times as large
    whole = metric(name, labels, a) - metric(name, labels, b)
    expected = []
    for unit in range(9):
        rest = units != unit
        without = metric(name, labels[rest], a[rest]) - metric(name, labels[rest], b[rest])
        times = 120 / (120 - rest.sum())
        expected.append(times * whole - (times - 1) * without)
    assert pseudo_values(name, labels, a, b, units) == pytest.approx(np.array(expected), abs=1e-12)


def test_pseudo_values_of_a_mean_are_the_units_own_means_however_unequal_they_are() -> None:
    labels, a, b = _rows(5, 120)
    units: Codes = np.repeat(np.arange(4), [1, 9, 40, 70])
    gain = abs(labels - a) - abs(labels - b)
    means = [gain[units == unit].mean() for unit in range(4)]
    assert pseudo_values("mae", labels, a, b, units) == pytest.approx(means)


def test_a_small_unit_speaks_for_its_own_rows_and_not_for_the_whole_holdout() -> None:
    """The beginning of a day: challenger much better on the days before, much worse on its few rows."""
    rng = np.random.default_rng(1)
    units: Codes = np.repeat(np.arange(14), [*([400] * 13), 20])
    labels = (rng.random(len(units)) < 0.5).astype(float)
    better = labels + rng.normal(0, 1, len(units))
    worse = rng.normal(0, 1, len(units))
    small = units == 13
    values = pseudo_values("roc_auc", labels, np.where(small, worse, better), np.where(small, better, worse), units)
    assert values[:13].min() > 0.1
    assert values[13] < -0.05


def test_pseudo_values_are_undefined_where_a_unit_holds_all_of_a_class() -> None:
    labels, units = np.array([1.0, 1, 0, 0, 0, 0]), np.array([0, 0, 1, 1, 2, 2])
    scores = np.array([0.9, 0.4, 0.3, 0.6, 0.1, 0.2])
    values = pseudo_values("roc_auc", labels, scores, scores**2, units)
    assert np.isnan(values).tolist() == [True, False, False]
    assert np.isnan(pseudo_values("roc_auc", labels, scores, scores, np.zeros(6, dtype=np.intp))).all()

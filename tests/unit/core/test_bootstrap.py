"""The fast resampling against the plain definition, the intervals against SciPy, and every degenerate case."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import bootstrap as scipy_bootstrap

from perennial.domain import resampling
from perennial.domain.bootstrap import JACKKNIFE_GROUPS, cluster_draws, leave_out_weights, paired_bootstrap, resample
from perennial.domain.evaluation import MetricComparison
from perennial.domain.intervals import acceleration, bca_ends, cluster_interval, jackknife_error
from perennial.domain.metric_names import METRICS
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import Codes, concordance, resampled


def _rows(seed: int, n: int, clusters: int, decimals: int = 2) -> tuple[Floats, Floats, Codes]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.4).astype(float)
    scores = np.round(np.clip(0.3 * labels + generator.random(n) * 0.7, 0, 1), decimals)
    codes = np.unique(generator.integers(0, clusters, n), return_inverse=True)[1]
    return labels, scores, codes


class Result(NamedTuple):
    """With the intervals of one confidence, so that two can be compared."""

    comparison: MetricComparison
    replicates: int
    undefined: int


def _run(
    labels: Floats,
    a: Floats,
    b: Floats | None,
    codes: Codes,
    name: str = "roc_auc",
    *,
    confidence: float = 0.9,
    replicates: int = 400,
    seed: int = 1,
) -> Result:
    pair = paired_bootstrap([name], labels, a, b, codes, replicates=replicates, seed=seed)[name]
    return Result(pair.comparison(name, confidence), pair.replicates, pair.undefined)


@pytest.mark.parametrize("few", [True, False], ids=["matrices", "sorted rows"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 60), clusters=st.integers(1, 40), decimals=st.integers(0, 3))
def test_resampled_metric_equals_metric_with_each_clusters_weight(
    few: bool, seed: int, n: int, clusters: int, decimals: int
) -> None:
    labels, scores, codes = _rows(seed, n, clusters, decimals)
    count = int(codes.max()) + 1
    weights = np.vstack([cluster_draws(count, 4, np.random.default_rng(seed)), leave_out_weights(count)])
    with pytest.MonkeyPatch.context() as patch:
        if not few:
            patch.setattr(resampling, "FEW_CLUSTERS", 0)
            patch.setattr(resampling, "MAX_COUNTS", 0)
        patch.setattr(resampling, "BLOCK_ELEMENTS", 64)
        for name in METRICS:
            fast = resampled(name, labels, scores, codes, count)(weights)
            plain = [metric(name, labels, scores, row[codes]) for row in weights]
            assert fast == pytest.approx(np.array(plain), nan_ok=True, rel=1e-9, abs=1e-9), name


def test_resampled_multiclass_metric_equals_metric_with_each_clusters_weight() -> None:
    generator = np.random.default_rng(3)
    labels, codes = generator.integers(0, 3, 50).astype(float), np.arange(50) % 7
    scores = generator.dirichlet(np.ones(3), 50)
    weights = cluster_draws(7, 20, generator)
    for name in ("log_loss", "accuracy"):
        plain = [metric(name, labels, scores, row[codes]) for row in weights]
        assert resampled(name, labels, scores, codes, 7)(weights) == pytest.approx(np.array(plain))


def test_concordance_counts_pairs_by_cluster() -> None:
    labels, scores, codes = _rows(5, 40, 4, 1)
    won, positives, negatives = concordance(labels, scores, codes, 4)
    expected = np.zeros((4, 4))
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            expected[codes[i], codes[j]] += (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
    assert (won == expected).all()
    assert positives.sum() + negatives.sum() == 40


@pytest.mark.parametrize("statistic", ["mean", "skewed"])
def test_bca_with_normal_quantiles_equals_scipys(statistic: str) -> None:
    """The same replicates, unclustered rows: only the formula is compared."""
    generator = np.random.default_rng(0)
    data = generator.normal(size=40) if statistic == "mean" else generator.lognormal(size=40)
    found = scipy_bootstrap((data,), np.mean, n_resamples=3000, method="BCa", confidence_level=0.9, rng=generator)
    jackknife = np.array([np.delete(data, i).mean() for i in range(len(data))])
    ends = bca_ends(found.bootstrap_distribution, float(data.mean()), jackknife, float(ndtri(0.05)))
    assert ends == pytest.approx(tuple(found.confidence_interval), rel=1e-9)


def test_whole_bootstrap_of_unclustered_rows_agrees_with_scipys() -> None:
    """Each row its own cluster; 400 of them, so that the widening for few clusters is small."""
    generator = np.random.default_rng(4)
    labels = generator.normal(size=400)
    losses = generator.lognormal(size=400)
    expected = scipy_bootstrap((losses,), np.mean, n_resamples=4000, method="BCa", confidence_level=0.9, rng=7)
    result = _run(labels, labels + losses, None, np.arange(400), "mae", replicates=4000).comparison.challenger
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert result.value == pytest.approx(losses.mean())
    assert result.low == pytest.approx(expected.confidence_interval.low, abs=0.06 * width)
    assert result.high == pytest.approx(expected.confidence_interval.high, abs=0.06 * width)


def test_jackknife_error_of_a_mean_is_its_standard_error() -> None:
    data = np.random.default_rng(1).normal(size=30)
    jackknife = np.array([np.delete(data, i).mean() for i in range(30)])
    assert jackknife_error(jackknife) == pytest.approx(data.std(ddof=1) / math.sqrt(30))
    assert acceleration(np.full(5, 2.0)) == 0.0


def test_interval_of_five_clusters_is_at_least_as_wide_as_students() -> None:
    generator = np.random.default_rng(8)
    labels, codes = np.zeros(50), np.repeat(np.arange(5), 10)
    losses = 1 + 0.1 * generator.random(5)[codes]
    means = np.array([losses[codes == k].mean() for k in range(5)])
    reach = 2.1318 * means.std(ddof=1) / math.sqrt(5)
    result = _run(labels, losses, None, codes, "mae", replicates=2000).comparison.challenger
    assert result.low is not None
    assert result.high is not None
    assert result.low <= means.mean() - reach + 1e-4
    assert result.high >= means.mean() + reach - 1e-4


@pytest.mark.parametrize("bias", [-1, 1])
def test_all_replicates_on_one_side_of_the_estimate_gives_the_outermost_ends(bias: int) -> None:
    replicates = np.linspace(1, 2, 50)
    ends = bca_ends(replicates, 1.5 + bias, np.array([1.0, 1.2, 0.9]), -1.6)
    assert ends == (1.0, 2.0)


def test_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    labels, scores, codes = _rows(0, 300, 12)
    assert _run(labels, scores, None, codes) == _run(labels, scores, None, codes)
    assert _run(labels, scores, None, codes) != _run(labels, scores, None, codes, seed=2)


def test_draws_do_not_depend_on_which_metrics_are_asked_for() -> None:
    labels, scores, codes = _rows(0, 300, 12)
    many = paired_bootstrap(["brier", "roc_auc"], labels, scores, None, codes, replicates=300, seed=5)
    alone = paired_bootstrap(["roc_auc"], labels, scores, None, codes, replicates=300, seed=5)
    assert many["roc_auc"].comparison("roc_auc", 0.9) == alone["roc_auc"].comparison("roc_auc", 0.9)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "brier", "log_loss", "accuracy", "r2"])
def test_identical_models_differ_by_exactly_nothing(name: str) -> None:
    labels, scores, codes = _rows(2, 300, 12)
    gap = _run(labels, scores, scores.copy(), codes, name).comparison.difference
    assert gap is not None
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_losses_that_differ_by_rounding_differ_by_exactly_nothing() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(400)
    gap = _run(labels, labels + 1.0, labels - 1.0, np.arange(400) % 8, "mae").comparison.difference
    assert gap is not None
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_constant_predictions_have_an_auc_of_one_half_without_spread() -> None:
    labels, scores, codes = _rows(2, 300, 12)
    estimate = _run(labels, np.full(300, 0.2), scores, codes).comparison.challenger
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)


def test_one_cluster_gives_a_value_and_no_interval() -> None:
    labels, scores, _ = _rows(2, 100, 1)
    comparison = _run(labels, scores, 1 - scores, np.zeros(100, dtype=np.intp)).comparison
    assert comparison.difference is not None
    assert comparison.difference.value is not None
    assert comparison.difference.low is None
    assert comparison.difference.high is None


def test_no_rows_give_nothing() -> None:
    empty = np.empty(0)
    comparison = _run(empty, empty, empty, np.empty(0, dtype=np.intp)).comparison
    assert comparison.challenger.value is None
    assert comparison.difference is not None
    assert comparison.difference.low is None


def test_scores_that_are_not_finite_leave_the_difference_undefined_too() -> None:
    labels, scores, codes = _rows(2, 300, 12)
    broken = scores.copy()
    broken[7] = math.nan
    comparison = _run(labels, broken, scores, codes).comparison
    assert comparison.champion is not None
    assert comparison.champion.low is not None
    assert comparison.challenger.value is None
    assert comparison.difference is not None
    assert (comparison.difference.value, comparison.difference.low) == (None, None)


def test_too_many_undefined_replicates_leave_no_interval() -> None:
    """All positives are in one cluster of ten: a third of the replicates lack it."""
    codes = np.repeat(np.arange(10), 20)
    labels = (codes == 3).astype(float)
    labels[::2] = 0
    scores = np.random.default_rng(0).random(200)
    result = _run(labels, scores, scores**2, codes)
    assert result.undefined > 0.2 * result.replicates
    assert result.comparison.challenger.value is not None
    assert result.comparison.challenger.low is None
    assert result.comparison.difference is not None
    assert result.comparison.difference.low is None


def test_few_undefined_replicates_are_counted_and_the_rest_used() -> None:
    """Positives in five clusters of ten: one replicate in a thousand has none of them."""
    codes = np.repeat(np.arange(10), 20)
    labels = ((codes < 5) & (np.arange(200) % 4 == 0)).astype(float)
    scores = np.random.default_rng(0).random(200)
    result = _run(labels, scores, None, codes, replicates=5000)
    assert 0 < result.undefined < 50
    assert result.comparison.challenger.low is not None


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
@pytest.mark.parametrize(("rows", "known"), [(1, False), (9, False), (10, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_too_few_rows_of_a_class_leave_no_interval_and_say_how_many_are_needed(
    name: str, rows: int, known: bool, turned: bool
) -> None:
    """Ranked first by the challenger: every replicate says the same, and would look like certainty."""
    codes = np.arange(600) % 30
    labels = (np.arange(600) < rows).astype(float)
    labels = 1 - labels if turned else labels
    scores = np.where(labels == 1, 0.9, 0.1)
    pair = paired_bootstrap([name], labels, scores, 1 - scores, codes, replicates=400, seed=1)[name]
    assert math.isfinite(pair.challenger.value)
    for statistic in (pair.challenger, pair.champion, pair.difference):
        assert statistic is not None
        assert (statistic.interval(0.9) is not None) is known
        assert (statistic.p_above(-0.5) is not None) is known
    title = "negative" if turned else "positive"
    more = "1 more is needed" if rows == 9 else "9 more are needed"
    noun = "row" if rows == 1 else "rows"
    expected = f"{rows} {noun} of the {title} class, and an interval of {name} takes at least 10: {more}"
    assert pair.why_no_interval == (None if known else expected)


@pytest.mark.parametrize(("clusters", "held", "known"), [(40, 4, False), (40, 5, True), (3, 2, False), (3, 3, True)])
def test_class_in_too_few_clusters_leaves_no_interval(clusters: int, held: int, known: bool) -> None:
    codes = np.arange(1200) % clusters
    labels = ((codes < held) & (np.arange(1200) // clusters % 2 == 0)).astype(float)
    scores = np.random.default_rng(0).random(1200)
    pair = paired_bootstrap(["roc_auc"], labels, scores, None, codes, replicates=400, seed=1)["roc_auc"]
    assert (pair.why_no_interval is None) is known
    if not known:
        assert pair.challenger.interval(0.9) is None
        least = min(5, clusters)
        assert pair.why_no_interval == (
            f"rows of the positive class in {held} clusters, and an interval of roc_auc takes at least {least}: "
            f"1 more is needed"
        )


def test_means_of_losses_need_no_class_in_particular() -> None:
    codes, labels = np.arange(600) % 30, (np.arange(600) < 2).astype(float)
    scores = np.random.default_rng(0).random(600)
    pair = paired_bootstrap(["brier"], labels, scores, None, codes, replicates=400, seed=1)["brier"]
    assert pair.why_no_interval is None
    assert pair.challenger.interval(0.9) is not None


def test_intervals_stay_within_the_metrics_range() -> None:
    labels, codes = np.tile([0.0, 1.0], 100), np.repeat(np.arange(5), 40)
    scores = np.where(labels == 1, 0.9, 0.1)
    scores[:3] = 0.95
    estimate = _run(labels, scores, None, codes).comparison.challenger
    assert estimate.high is not None
    assert estimate.value is not None
    assert estimate.value < estimate.high <= 1.0


def test_confidence_of_zero_gives_one_point() -> None:
    labels, scores, codes = _rows(0, 300, 12)
    estimate = _run(labels, scores, None, codes, confidence=0.0).comparison.challenger
    assert estimate.low == pytest.approx(estimate.high, abs=0.01)


def test_jackknife_leaves_out_groups_when_clusters_are_many() -> None:
    without = leave_out_weights(1000)
    assert without.shape == (JACKKNIFE_GROUPS, 1000)
    assert (without.sum(axis=0) == JACKKNIFE_GROUPS - 1).all()
    assert (leave_out_weights(3) == 1 - np.eye(3)).all()


def test_undefined_jackknife_value_leaves_no_interval() -> None:
    assert cluster_interval(np.arange(9.0), 4.0, np.array([1.0, math.nan]), confidence=0.9, clusters=2) is None


def test_draws_are_of_whole_clusters_with_replacement() -> None:
    drawn = cluster_draws(6, 500, np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 6).all()
    assert drawn.mean() == pytest.approx(1.0)
    assert drawn.var() == pytest.approx(5 / 6, rel=0.1)


def test_blocks_of_clusters_left_out_make_up_all_of_them() -> None:
    whole = leave_out_weights(450)
    assert (np.vstack([leave_out_weights(450, start, start + 64) for start in range(0, 200, 64)]) == whole).all()


def test_resampling_in_small_blocks_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the block, the result is not changed by it."""
    labels, scores, codes = _rows(3, 900, 300)
    count = int(codes.max()) + 1
    function = resampled("brier", labels, scores, codes, count)
    whole = resample([function], count, replicates=50, seed=1)[0]
    monkeypatch.setattr("perennial.domain.bootstrap.BLOCK_ELEMENTS", 1000)
    drawn, without = resample([function], count, replicates=50, seed=1)[0]
    assert without == pytest.approx(whole[1])
    assert drawn == pytest.approx(whole[0])

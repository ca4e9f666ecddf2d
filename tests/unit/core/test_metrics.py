"""Metrics against scikit-learn, over ties, constants, weights and tiny n; NaN where a metric is undefined."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from perennial.domain.metric_names import METRICS
from perennial.domain.metrics import PROBABILITY_EPSILON, Floats, metric

CLOSE = {"rel": 1e-9, "abs": 1e-9}
Rows = tuple[Floats, Floats, Floats]


@st.composite
def binary_rows(draw: st.DrawFn) -> Rows:
    """Few distinct scores make ties; whole weights make zeros; both ends of [0, 1] occur."""
    n = draw(st.integers(1, 25))
    score = st.sampled_from([0.0, 1e-17, 0.1, 0.25, 0.5, 0.5000000001, 0.9, 1.0])
    weight = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0.01, 100))
    labels, scores, weights = (
        draw(st.lists(x, min_size=n, max_size=n)) for x in (st.sampled_from([0.0, 1.0]), score, weight)
    )
    return np.array(labels), np.array(scores), np.array(weights)


@st.composite
def regression_rows(draw: st.DrawFn) -> Rows:
    n = draw(st.integers(2, 25))
    value = st.one_of(st.sampled_from([-3.0, 0.0, 1.0]), st.floats(-1e3, 1e3))
    labels, scores = (draw(st.lists(value, min_size=n, max_size=n)) for _ in range(2))
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=n, max_size=n))
    return np.array(labels), np.array(scores), np.array(weights)


def _both_classes(rows: Rows) -> bool:
    labels, _, weights = rows
    return len(set(labels[weights > 0])) == 2


@settings(max_examples=150, deadline=None)
@given(binary_rows())
def test_binary_metrics_with_weights_and_ties_equal_scikit_learns(rows: Rows) -> None:
    labels, scores, weights = rows
    assume(weights.sum() > 0)
    there = weights > 0
    y, s, w = labels[there], scores[there], weights[there]
    assert metric("brier", labels, scores, weights) == pytest.approx(
        sk.brier_score_loss(y, s, sample_weight=w, pos_label=1), **CLOSE
    )
    assert metric("log_loss", labels, scores, weights) == pytest.approx(
        sk.log_loss(y, s, sample_weight=w, labels=[0, 1]), **CLOSE
    )
    assert metric("accuracy", labels, scores, weights) == pytest.approx(
        sk.accuracy_score(y, s > 0.5, sample_weight=w), **CLOSE
    )
    if _both_classes(rows):
        assert metric("roc_auc", labels, scores, weights) == pytest.approx(
            sk.roc_auc_score(y, s, sample_weight=w), **CLOSE
        )
        assert metric("average_precision", labels, scores, weights) == pytest.approx(
            sk.average_precision_score(y, s, sample_weight=w), **CLOSE
        )
    else:
        assert math.isnan(metric("roc_auc", labels, scores, weights))
        assert math.isnan(metric("average_precision", labels, scores, weights))


@settings(max_examples=100, deadline=None)
@given(regression_rows())
def test_regression_metrics_with_weights_equal_scikit_learns(rows: Rows) -> None:
    labels, scores, weights = rows
    assume(weights.sum() > 0)
    assert metric("mae", labels, scores, weights) == pytest.approx(
        sk.mean_absolute_error(labels, scores, sample_weight=weights), **CLOSE
    )
    assert metric("rmse", labels, scores, weights) == pytest.approx(
        sk.root_mean_squared_error(labels, scores, sample_weight=weights), **CLOSE
    )
    there = weights > 0
    if np.ptp(labels[there]) > 1e-3:
        expected = sk.r2_score(labels[there], scores[there], sample_weight=weights[there])
        assert metric("r2", labels, scores, weights) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    elif np.ptp(labels[there]) == 0:
        assert math.isnan(metric("r2", labels, scores, weights))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(2, 5))
def test_multiclass_metrics_with_weights_equal_scikit_learns(seed: int, n: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, k, n).astype(float)
    scores = generator.integers(0, 4, (n, k)) + 1e-9
    scores = scores / scores.sum(axis=1, keepdims=True)
    weights = generator.integers(1, 4, n).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = sk.log_loss(labels, scores, sample_weight=weights, labels=list(range(k)))
    assert metric("log_loss", labels, scores, weights) == pytest.approx(loss, **CLOSE)
    hits = sk.accuracy_score(labels, scores.argmax(axis=1), sample_weight=weights)
    assert metric("accuracy", labels, scores, weights) == pytest.approx(hits, **CLOSE)


@settings(max_examples=60, deadline=None)
@given(binary_rows(), st.sampled_from(["roc_auc", "average_precision", "brier", "log_loss", "accuracy", "mae", "rmse"]))
def test_whole_weight_counts_like_that_many_rows(rows: Rows, name: str) -> None:
    labels, scores, weights = rows
    times = np.minimum(np.round(weights), 5).astype(int)
    repeated = metric(name, np.repeat(labels, times), np.repeat(scores, times))
    assert metric(name, labels, scores, times.astype(float)) == pytest.approx(repeated, nan_ok=True, **CLOSE)


@pytest.mark.parametrize("name", METRICS)
def test_no_rows_gives_nan(name: str) -> None:
    assert math.isnan(metric(name, [], []))
    assert math.isnan(metric(name, [1.0, 0.0], [0.5, 0.5], [0.0, 0.0]))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_score_or_label_that_is_not_finite_gives_nan(name: str, bad: float) -> None:
    labels, scores = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.9, 0.4, 0.6])
    assert math.isfinite(metric(name, labels, scores))
    assert math.isnan(metric(name, labels, np.array([0.1, bad, 0.4, 0.6])))
    assert math.isnan(metric(name, np.array([0.0, bad, 0.0, 1.0]), scores))


@pytest.mark.parametrize("name", ["brier", "log_loss", "accuracy"])
def test_score_outside_0_and_1_is_no_probability_and_gives_nan(name: str) -> None:
    assert math.isnan(metric(name, [0.0, 1.0], [0.2, 7.0]))


def test_class_probabilities_that_do_not_sum_to_1_give_nan() -> None:
    assert math.isnan(metric("log_loss", [0.0, 1.0], np.ones((2, 2))))


def test_label_that_is_no_class_gives_nan() -> None:
    assert math.isnan(metric("roc_auc", [0.0, 1.0, 2.0], [0.1, 0.2, 0.3]))
    assert math.isnan(metric("accuracy", [0.0, 2.0], np.full((2, 2), 0.5)))


def test_constant_scores_rank_nothing() -> None:
    assert metric("roc_auc", [0.0, 1.0, 1.0], [0.3, 0.3, 0.3]) == 0.5
    assert metric("average_precision", [0.0, 1.0, 1.0], [0.3, 0.3, 0.3]) == pytest.approx(2 / 3)


def test_certain_and_wrong_costs_what_the_clipping_allows() -> None:
    assert metric("log_loss", [1.0], [0.0]) == pytest.approx(-math.log(PROBABILITY_EPSILON))


def test_binary_tie_at_one_half_is_class_0_as_argmax_has_it() -> None:
    assert metric("accuracy", [0.0], [0.5]) == metric("accuracy", [0.0], np.array([[0.5, 0.5]])) == 1.0


def test_constant_labels_far_from_zero_leave_r2_undefined() -> None:
    assert math.isnan(metric("r2", np.full(1000, 1e6 + 0.1), np.linspace(0, 1, 1000)))


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [math.nan, 1.0], [1.0]])
def test_impossible_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        metric("mae", [1.0, 2.0], [1.0, 2.0], weights)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        metric("roc_auc", [1.0, 0.0], np.ones((2, 2)))

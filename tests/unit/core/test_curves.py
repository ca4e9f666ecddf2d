"""ROC points lie on scikit-learn's curve; calibration groups hold all rows, and no tie is torn apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from perennial.domain.curves import CALIBRATION_GROUPS, MAX_ROC_POINTS, calibration_curve, roc_curve
from perennial.domain.metrics import Floats


def _rows(seed: int, n: int, decimals: int) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 0.4).astype(float)
    labels[:2] = (0, 1)
    return labels, np.round(np.clip(0.4 * labels + generator.random(n) * 0.6, 0, 1), decimals)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 800), decimals=st.integers(0, 6))
def test_roc_points_are_points_of_scikit_learns_curve(seed: int, n: int, decimals: int) -> None:
    labels, scores = _rows(seed, n, decimals)
    curve = roc_curve(labels, scores)
    x, y, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert len(curve) == min(len(x), len(curve)) <= MAX_ROC_POINTS
    assert curve[0] == (0.0, 0.0)
    assert curve[-1] == (1.0, 1.0)
    assert list(curve) == sorted(curve)
    whole = {(round(a, 9), round(b, 9)) for a, b in zip(x, y, strict=True)}
    assert {(round(a, 9), round(b, 9)) for a, b in curve} <= whole
    if len(x) <= MAX_ROC_POINTS:
        assert len(curve) == len(x)


def test_thinned_roc_curve_keeps_its_area() -> None:
    labels, scores = _rows(1, 5000, 9)
    x, y = zip(*roc_curve(labels, scores), strict=True)
    assert len(x) > 90
    assert metrics.auc(x, y) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-3)


def test_constant_score_has_the_diagonal() -> None:
    assert roc_curve(np.array([0.0, 1, 1]), np.full(3, 0.5)) == ((0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize(("labels", "scores"), [([1, 1], [0.1, 0.2]), ([0, 1], [0.1, math.nan]), ([], [])])
def test_undefined_roc_curve_is_empty(labels: list[float], scores: list[float]) -> None:
    assert roc_curve(np.array(labels, dtype=float), np.array(scores, dtype=float)) == ()


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 300), decimals=st.integers(0, 6))
def test_calibration_groups_hold_every_row_once_and_keep_ties_together(seed: int, n: int, decimals: int) -> None:
    labels, scores = _rows(seed, n, decimals)
    curve = calibration_curve(labels, scores)
    assert 1 <= len(curve) <= CALIBRATION_GROUPS
    assert sum(rows for _, _, rows in curve) == n
    assert [mean for mean, _, _ in curve] == sorted(mean for mean, _, _ in curve)
    assert sum(mean * rows for mean, _, rows in curve) == pytest.approx(scores.sum())
    assert sum(share * rows for _, share, rows in curve) == pytest.approx(labels.sum())
    ends = np.cumsum([rows for _, _, rows in curve])[:-1]
    ordered = np.sort(scores)
    assert all(ordered[end - 1] < ordered[end] for end in ends)


def test_calibration_groups_of_different_scores_have_equal_size() -> None:
    labels, scores = _rows(3, 250, 12)
    curve = calibration_curve(labels, scores)
    assert [rows for _, _, rows in curve] == [25] * 10
    tenth = np.argsort(scores)[:25]
    assert curve[0][:2] == pytest.approx((scores[tenth].mean(), labels[tenth].mean()))


def test_calibration_of_what_is_no_probability_is_empty() -> None:
    assert calibration_curve(np.array([0.0, 1.0]), np.array([0.5, 7.0])) == ()

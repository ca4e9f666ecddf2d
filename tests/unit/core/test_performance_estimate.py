"""Performance without labels: right where scores are calibrated, and shaped as the metrics want it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.domain.metrics import metric
from perennial.domain.performance_estimate import calibrated, estimate_performance
from perennial.domain.performance_watch import judge_performance, performance_limit
from perennial.domain.profile import Calibration, MetricValue

AS_IT_IS = Calibration(scores=(0.0, 1.0), frequencies=(0.0, 1.0))
BINARY = ("roc_auc", "average_precision", "brier", "log_loss", "accuracy")


@pytest.mark.parametrize("name", BINARY)
def test_estimate_of_calibrated_scores_is_near_the_truth_and_its_interval_holds_it(name: str) -> None:
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(20):
        scores = rng.beta(2, 3, size=1500)
        truth = metric(name, (rng.random(1500) < scores).astype(float), scores)
        found = estimate_performance(name, scores, [AS_IT_IS], seed=seed)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.value == pytest.approx(truth, abs=0.08)
        held += found.low <= truth <= found.high
    # The truth varies as the labels do, the interval's centre as the rows: 95 % of the one, less of both.
    assert held >= 16


def test_overconfident_scores_are_estimated_by_what_they_came_to_on_the_holdout() -> None:
    rng = np.random.default_rng(4)
    chances = rng.uniform(0.3, 0.7, size=4000)
    scores = np.clip((chances - 0.5) * 2.5 + 0.5, 0, 1)  # 0.3 is said to be 0, and 0.7 to be 1
    labels = (rng.random(4000) < chances).astype(float)
    mapped = Calibration(scores=(0.0, 1.0), frequencies=(0.3, 0.7))
    found = estimate_performance("brier", scores, [mapped], seed=1)
    naive = estimate_performance("brier", scores, [AS_IT_IS], seed=1)
    assert found is not None
    assert naive is not None
    truth = metric("brier", labels, scores)
    assert found.value == pytest.approx(truth, abs=0.01)
    assert naive.value < truth - 0.05


@pytest.mark.parametrize("name", ["accuracy", "log_loss"])
def test_estimate_of_several_classes_is_near_the_truth(name: str) -> None:
    rng = np.random.default_rng(5)
    scores = rng.dirichlet([2.0, 1.0, 1.0], size=3000)
    labels = np.array([rng.choice(3, p=row) for row in scores], dtype=float)
    found = estimate_performance(name, scores, [AS_IT_IS] * 3, seed=1)
    assert found is not None
    assert found.value == pytest.approx(metric(name, labels, scores), abs=0.03)


def test_several_classes_are_scaled_to_sum_to_one_and_a_row_of_nothing_keeps_its_own() -> None:
    halved = Calibration(scores=(0.0, 1.0), frequencies=(0.0, 0.5))
    never = Calibration(scores=(0.0, 1.0), frequencies=(0.0, 0.0))
    scores = np.array([[0.6, 0.4], [0.0, 1.0]])
    np.testing.assert_allclose(calibrated(scores, [halved, halved]), scores)
    np.testing.assert_allclose(calibrated(scores, [halved, never]), [[1.0, 0.0], [0.0, 1.0]])


def test_estimate_of_nothing_or_of_one_class_is_none() -> None:
    assert estimate_performance("roc_auc", np.empty(0), [AS_IT_IS], seed=1) is None
    never = Calibration(scores=(0.0, 1.0), frequencies=(0.0, 0.0))
    assert estimate_performance("roc_auc", np.array([0.2, 0.4]), [never], seed=1) is None


def test_calibrations_that_do_not_fit_the_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="3 columns of scores take as many calibrations, there are 1"):
        estimate_performance("accuracy", np.full((4, 3), 1 / 3), [AS_IT_IS], seed=1)


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(0, 1), min_size=2, max_size=40),
    knots=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
)
def test_whatever_the_scores_an_estimate_is_within_its_interval_and_range(
    scores: list[float], knots: list[tuple[float, float]]
) -> None:
    places, frequencies = (tuple(sorted(column)) for column in zip(*knots, strict=True))
    mapped = Calibration(scores=places, frequencies=frequencies)
    found = estimate_performance("accuracy", np.array(scores), [mapped], seed=1)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


HOLDOUT = MetricValue(metric="roc_auc", value=0.80, low=0.78, high=0.82)


@pytest.mark.parametrize(
    ("holdout", "window", "max_loss", "beyond"),
    [
        (HOLDOUT, (0.74, 0.70, 0.77), 0.0, True),
        (HOLDOUT, (0.74, 0.70, 0.79), 0.0, False),
        (HOLDOUT, (0.74, 0.70, 0.77), 0.02, False),
        (HOLDOUT, (0.95, 0.94, 0.96), 0.0, False),
        (MetricValue(metric="roc_auc", value=0.8, low=None, high=None), (0.74, 0.70, 0.79), 0.0, True),
        (MetricValue(metric="roc_auc", value=0.8, low=0.78, high=0.82, varies_by=0.05), (0.7, 0.66, 0.76), 0.0, False),
        (MetricValue(metric="roc_auc", value=0.8, low=0.78, high=0.82, varies_by=0.05), (0.7, 0.66, 0.74), 0.0, True),
        (MetricValue(metric="log_loss", value=0.40, low=0.38, high=0.42), (0.5, 0.45, 0.55), 0.0, True),
        (MetricValue(metric="log_loss", value=0.40, low=0.38, high=0.42), (0.3, 0.25, 0.35), 0.0, False),
    ],
)
def test_window_is_beyond_if_all_of_its_interval_is_worse_than_the_limit(
    holdout: MetricValue, window: tuple[float, float, float], max_loss: float, beyond: bool
) -> None:
    verdict = judge_performance(holdout, *window, max_loss=max_loss)
    assert verdict.beyond is beyond
    assert (verdict.strength > 1) is beyond
    assert ("worse than the limit" in verdict.says.replace("not shown to be worse", "")) is beyond


def test_window_without_an_interval_is_never_beyond() -> None:
    verdict = judge_performance(HOLDOUT, 0.1, None, None, max_loss=0.0)
    assert (verdict.beyond, verdict.strength) == (False, 0.0)


def test_loss_where_none_is_allowed_has_a_strength_that_json_can_carry() -> None:
    exact = MetricValue(metric="accuracy", value=1.0, low=1.0, high=1.0)
    verdict = judge_performance(exact, 0.9, 0.8, 0.95, max_loss=0.0)
    assert verdict.beyond
    assert np.isfinite(verdict.strength)
    assert performance_limit(exact, 0.0) == 1.0

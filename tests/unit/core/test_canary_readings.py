"""What the guardrails watch: distances, ratios and losses, against hand-made and independent figures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perennial.domain.canary import GUARDRAILS
from perennial.domain.canary_readings import Served, distance, readings

RNG = np.random.default_rng(7)
BINARY = "binary_classification"


def served(**changes: Any) -> Served:
    given = {
        "failed": np.zeros(4, bool),
        "latency_ms": np.array([1.0, 2.0, 3.0, 4.0]),
        "scores": np.array([0.1, 0.2, 0.3, 0.4]),
    }
    return Served(**{**given, **changes})


def test_readings_have_every_guardrail_with_its_samples() -> None:
    challenger = served(failed=np.array([True, False, False]), latency_ms=np.array([2.0, 4.0, 6.0]))
    found = readings(BINARY, "roc_auc", served(), challenger)
    assert set(found) == set(GUARDRAILS)
    assert (found["error_rate"].value, found["error_rate"].samples) == (pytest.approx(1 / 3), 3)
    # linear interpolation between the order statistics: 5.8 and 3.85
    assert found["latency_p95_ratio"].value == pytest.approx(5.8 / 3.85)
    assert found["latency_p95_ratio"].samples == 3
    assert (found["prediction_distance"].value, found["prediction_distance"].samples) == (0, 4)
    assert found["performance_loss"].samples == 0
    assert math.isnan(found["performance_loss"].value or 0)


def test_distance_of_shifted_probabilities_is_the_shift() -> None:
    scores = RNG.uniform(0, 0.8, 500)
    assert distance(BINARY, scores, RNG.permutation(scores) + 0.2) == pytest.approx(0.2)


def test_distance_equals_the_mean_gap_of_sorted_samples() -> None:
    """For samples of one size, the definition in one dimension."""
    a, b = RNG.uniform(0, 1, 400), RNG.beta(2, 5, 400)
    assert distance(BINARY, a, b) == pytest.approx(np.abs(np.sort(a) - np.sort(b)).mean())


def test_distance_of_a_regression_is_in_standard_deviations_of_the_champion() -> None:
    scores = RNG.normal(100, 20, 1000)
    assert distance("regression", scores, scores + 10) == pytest.approx(10 / scores.std())
    assert distance("regression", scores * 1e6, (scores + 10) * 1e6) == pytest.approx(10 / scores.std())


def test_distance_of_several_classes_is_that_of_the_one_furthest_apart() -> None:
    champion = np.tile([0.5, 0.3, 0.2], (50, 1))
    challenger = np.tile([0.2, 0.4, 0.4], (60, 1))
    assert distance("multiclass_classification", champion, challenger) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("task", "champion", "challenger"),
    [
        (BINARY, [0.1, math.nan], [0.1, 0.2]),
        (BINARY, [0.1, 0.2], [0.1, math.inf]),
        (BINARY, [], [0.1]),
        (BINARY, [0.1], []),
        (BINARY, [0.1, 0.2], [0.1, 1.2]),
        (BINARY, [-0.1, 0.2], [0.1, 0.2]),
        (BINARY, [0.1, 0.2], [[0.1, 0.9]]),
        ("multiclass_classification", [[0.5, 0.5]], [[0.2, 0.3, 0.5]]),
        ("multiclass_classification", [[0.5, 0.5]], [[0.5, 0.6]]),
        ("regression", [3.0, 3.0], [3.0, 4.0]),
    ],
)
def test_distance_that_means_nothing_is_nan(task: Any, champion: Any, challenger: Any) -> None:
    assert math.isnan(distance(task, np.asarray(champion, float), np.asarray(challenger, float)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_distance_of_probabilities_is_symmetric_and_within_0_and_1(a: list[float], b: list[float]) -> None:
    one, other = (distance(BINARY, np.array(x), np.array(y)) for x, y in ((a, b), (b, a)))
    assert one == pytest.approx(other)
    assert -1e-12 <= one <= 1 + 1e-12


@pytest.mark.parametrize(
    ("primary", "task", "better", "worse"),
    [
        ("roc_auc", BINARY, [0.1, 0.2, 0.8, 0.9], [0.1, 0.85, 0.8, 0.9]),
        ("log_loss", BINARY, [0.1, 0.2, 0.8, 0.9], [0.5, 0.5, 0.5, 0.5]),
        ("rmse", "regression", [0, 0, 1, 1], [3, 3, 3, 3]),
    ],
)
def test_loss_is_positive_for_the_worse_model_whichever_way_the_metric_points(
    primary: str, task: Any, better: list[float], worse: list[float]
) -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    good, bad = (served(labels=labels, labelled_scores=np.array(scores, float)) for scores in (better, worse))
    loss = readings(task, primary, good, bad)["performance_loss"]
    gain = readings(task, primary, bad, good)["performance_loss"]
    assert loss.value is not None
    assert gain.value is not None
    assert loss.value > 0 > gain.value
    assert loss.value == pytest.approx(-gain.value)
    assert loss.samples == 4


def test_figures_that_cannot_be_computed_are_nan_and_never_in_order() -> None:
    one_class = served(labels=np.ones(4), labelled_scores=np.full(4, 0.5))
    odd = served(latency_ms=np.array([1.0, math.nan]), labels=np.ones(4), labelled_scores=np.full(4, 0.5))
    found = readings(BINARY, "roc_auc", one_class, odd)
    for name in ("latency_p95_ratio", "performance_loss"):
        assert math.isnan(found[name].value or 0), name
    still = served(latency_ms=np.zeros(4))
    assert math.isnan(readings(BINARY, "roc_auc", still, served())["latency_p95_ratio"].value or 0)


def test_comparison_has_as_many_samples_as_the_smaller_side() -> None:
    few = served(latency_ms=np.ones(2), scores=np.full(3, 0.5), labels=np.array([0.0, 1.0]))
    few = replace(few, labelled_scores=np.array([0.2, 0.8]))
    many = served(labels=np.array([0.0, 1.0, 1.0]), labelled_scores=np.array([0.2, 0.8, 0.9]))
    for champion, challenger in ((few, many), (many, few)):
        found = readings(BINARY, "roc_auc", champion, challenger)
        counts = [found[name].samples for name in ("latency_p95_ratio", "prediction_distance", "performance_loss")]
        assert counts == [2, 3, 2]


@pytest.mark.parametrize(
    ("task", "champion", "challenger", "samples"),
    [
        (BINARY, [0.1, math.nan, 0.3], [0.1, 0.2, 0.3], 2),
        (BINARY, [math.nan, math.nan], [0.1, 0.2], 0),
        (BINARY, [0.1, 1.2], [0.1, 0.2], 1),
        ("multiclass_classification", [[0.5, 0.5], [math.nan, 0.5]], [[0.5, 0.5], [0.4, 0.6]], 1),
        ("multiclass_classification", [[0.5, 0.5]], [[0.2, 0.3, 0.5]], 0),
        ("regression", [3.0, 3.0], [3.0, 4.0], 0),
        ("regression", [3.0, math.inf, 5.0], [3.0, 4.0, 5.0], 2),
    ],
)
def test_champion_that_predicts_nothing_usable_is_a_want_of_samples_and_no_fault_of_the_challenger(
    task: Any, champion: Any, challenger: Any, samples: int
) -> None:
    theirs, mine = (served(scores=np.asarray(scores, float)) for scores in (champion, challenger))
    primary = "rmse" if task == "regression" else "accuracy"
    found = readings(task, primary, theirs, mine)["prediction_distance"]
    assert found.samples == samples
    assert samples == 0 or math.isfinite(found.value or 0)


@pytest.mark.parametrize("bad", [math.nan, 1.2])
def test_challenger_that_predicts_nothing_usable_is_at_fault(bad: float) -> None:
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    well = served(labels=labels, labelled_scores=np.array([0.1, 0.8, 0.2, 0.7]))
    odd = replace(well, scores=np.array([0.1, 0.2, 0.3, bad]), labelled_scores=np.array([0.1, 0.8, 0.2, bad]))
    found = readings(BINARY, "log_loss", well, odd)
    for name in ("prediction_distance", "performance_loss"):
        assert (math.isnan(found[name].value or 0), found[name].samples) == (True, 4), name


def test_performance_that_the_labels_do_not_tell_yet_is_a_want_of_samples() -> None:
    one_class = served(labels=np.zeros(4), labelled_scores=np.array([0.1, 0.2, 0.3, 0.4]))
    both = replace(one_class, labels=np.array([0.0, 1.0, 0.0, 1.0]))
    for champion, challenger in ((one_class, one_class), (one_class, both), (both, one_class)):
        assert readings(BINARY, "roc_auc", champion, challenger)["performance_loss"].samples == 0


def test_label_that_the_champion_could_not_be_measured_by_is_left_out() -> None:
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    mine = served(labels=labels, labelled_scores=np.array([0.1, 0.8, 0.2, 0.7]))
    theirs = replace(mine, labelled_scores=np.array([0.1, 0.8, math.nan, 0.7]))
    found = readings(BINARY, "roc_auc", theirs, mine)["performance_loss"]
    assert (found.value, found.samples) == (0, 3)

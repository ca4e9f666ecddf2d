"""How well a classifier does, estimated before the labels come: confidence-based performance estimation (CBPE).

A calibrated probability says how often such rows turn out positive. So each row counts as a positive with weight p and
as a negative with weight 1 - p, and the metric of these weighted rows is what it is expected to be on the labels:
exactly so for means over rows (brier, log_loss, accuracy), to the first order for ratios (roc_auc, average_precision).
CBPE is described in Kivimäki et al. 2025, "Performance Estimation in Binary Classification Using Calibrated Confidence"
(arXiv:2505.05295), and compared with others in Białek et al. 2025, "Estimating Model Performance Under Covariate Shift
Without Labels" (NeurIPS; arXiv:2401.08348).

It sees a change of the inputs. It cannot see that the same inputs have come to mean something else (concept change):
only labels tell that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perennial.domain.metrics import Floats, metric
from perennial.domain.profile import Calibration

REPLICATES: Final = 200
_TAILS: Final = (0.025, 0.975)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceEstimate:
    """A metric as it is expected, with its 95 % interval; None where the interval cannot be computed."""

    metric: str
    value: float
    low: float | None
    high: float | None
    rows: int


def estimate_performance(
    name: str, scores: Floats, calibration: Sequence[Calibration], *, seed: int | Sequence[int]
) -> PerformanceEstimate | None:
    """The metric `name` that these scores can be expected to have; None if it is undefined.

    The interval holds what a sample of as many rows, with labels drawn by the calibrated probabilities, would vary by
    (a parametric bootstrap, Efron & Tibshirani 1993, section 6.5). It knows nothing of a calibration that has come to
    be wrong.

    Args:
        name: of a metric of classification.
        scores: (n,) of a binary classification, (n, k) of several classes, as in `perennial.domain.metrics`; finite.
        calibration: one for `scores`, or one a class (one against the rest), in the columns' order.
        seed: of the bootstrap.

    Raises:
        ValueError: not as many calibrations as columns.
    """
    columns = 1 if scores.ndim == 1 else scores.shape[1]
    if len(calibration) != columns:
        raise ValueError(f"{name}: {columns} columns of scores take as many calibrations, there are {len(calibration)}")
    if len(scores) == 0:
        return None
    if scores.ndim == 1:
        scores = np.sort(scores)  # metrics of the order then sort what is sorted, which is quick
    chances = calibrated(scores, calibration)
    value = _expected(name, scores, chances)
    if not np.isfinite(value):
        return None
    drawn = _replicates(name, scores, chances, np.random.default_rng(seed))
    low, high = np.quantile(drawn, _TAILS) if len(drawn) >= REPLICATES // 2 else (None, None)
    return PerformanceEstimate(
        metric=name,
        value=value,
        low=None if low is None else min(float(low), value),
        high=None if high is None else max(float(high), value),
        rows=len(scores),
    )


def calibrated(scores: Floats, calibration: Sequence[Calibration]) -> Floats:
    """(n, k) probabilities of the classes, rows summing to 1; of a binary classification k is 2.

    Of several classes each is calibrated against the rest, and the k together are scaled to sum to 1 (Zadrozny & Elkan
    2002, KDD, 694-699); a row whose every class gets 0 keeps the model's own probabilities.
    """
    if scores.ndim == 1:
        positive = _mapped(scores, calibration[0])
        return np.column_stack([1 - positive, positive])
    mapped = np.column_stack([_mapped(column, each) for column, each in zip(scores.T, calibration, strict=True)])
    total = mapped.sum(axis=1, keepdims=True)
    whole: Floats = np.where(total > 0, mapped / np.where(total > 0, total, 1.0), scores)
    return whole


def _mapped(scores: Floats, calibration: Calibration) -> Floats:
    found: Floats = np.clip(np.interp(scores, calibration.scores, calibration.frequencies), 0.0, 1.0)
    return found


def _expected(name: str, scores: Floats, chances: Floats) -> float:
    """Every row once for each class, weighted by the class's probability."""
    rows, classes = chances.shape
    labels = np.repeat(np.arange(classes, dtype=np.float64), rows)
    copies = np.concatenate([scores] * classes)
    return metric(name, labels, copies, chances.T.reshape(-1))


def _replicates(name: str, scores: Floats, chances: Floats, generator: np.random.Generator) -> Floats:
    """Values of the metric in samples with labels drawn; those in which it is undefined are left out."""
    upto = chances.cumsum(axis=1)[:, :-1]
    found = np.empty(REPLICATES)
    for at in range(REPLICATES):
        rows = np.sort(generator.integers(0, len(scores), size=len(scores)))
        labels = (generator.random((len(scores), 1)) >= upto[rows]).sum(axis=1)
        found[at] = metric(name, labels, scores[rows])
    return found[np.isfinite(found)]

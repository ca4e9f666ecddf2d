"""Intervals without a bootstrap, where rows are independent of each other: the area under the ROC curve, and means.

Rows that share a day or a customer are not independent; for those there is `perennial.domain.bootstrap`.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from perennial.domain.bootstrap import ROUNDING, value_range
from perennial.domain.class_support import MIN_CLASS_ROWS, too_little_of_a_class
from perennial.domain.intervals import student_intervals
from perennial.domain.metrics import Floats, row_moments, usable
from perennial.domain.statistic import Paired, Statistic, no_interval

CLOSED_FORMS: Final = frozenset({"roc_auc", "brier", "log_loss", "mae", "accuracy"})
"""Metrics that `closed_form` knows. The others (average_precision, rmse, r2) are no means, nor means of pairs."""


class Placements(NamedTuple):
    """Of each positive the share of negatives that it scores above, of each negative the share of positives above it.

    Ties count one half. Either's mean is the area under the ROC curve.
    """

    positives: Floats
    """(m,)"""
    negatives: Floats
    """(n,)"""


def closed_form(name: str, labels: Floats, challenger: Floats, champion: Floats | None) -> Paired:
    """The metric `name` of `CLOSED_FORMS` for both models, and their paired difference, challenger minus champion.

    Args:
        name: of the metric.
        labels: (n,), see `perennial.domain.metrics`; rows independent of each other.
        challenger: its scores, (n,) or (n, classes).
        champion: its scores, the same shape; None if there is no champion.
    """
    least, largest = value_range(name)
    models = [challenger] if champion is None else [challenger, champion]
    measure = _auc if name == "roc_auc" else _mean_loss
    parts = [measure(name, labels, scores) for scores in models]
    difference = None
    if len(parts) == 2:
        difference = _statistic(_less(*parts), least - largest, largest - least)
    statistics = [_statistic(part, least, largest) for part in parts]
    return Paired(
        challenger=statistics[0],
        champion=statistics[1] if champion is not None else None,
        difference=difference,
        why_no_interval=too_little_of_a_class(name, labels, None),
    )


def placements(labels: Floats, scores: Floats) -> Placements:
    """Placement values in O(n log n), as Sun & Xu 2014, IEEE Signal Processing Letters 21:1389-1393, get them by ranks.

    Args:
        labels: (n,) of 0 and 1, both present.
        scores: (n,), finite.
    """
    order = np.argsort(scores, kind="stable")
    positive = labels[order] == 1
    pos, neg = scores[order[positive]], scores[order[~positive]]
    below = np.searchsorted(neg, pos, side="left") + np.searchsorted(neg, pos, side="right")
    above = 2 * len(pos) - np.searchsorted(pos, neg, side="left") - np.searchsorted(pos, neg, side="right")
    placed = np.empty(len(labels))
    placed[order[positive]] = below / (2 * len(neg))
    placed[order[~positive]] = above / (2 * len(pos))
    # In the order that the rows were given in, so that two models' values pair up.
    return Placements(placed[labels == 1], placed[labels != 1])


def _auc(name: str, labels: Floats, scores: Floats) -> tuple[Floats, ...] | None:
    """Two samples whose means are both the area: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837-845."""
    if not usable(name, labels, scores) or len(np.unique(labels)) < 2:
        return None
    return placements(labels, scores)


def _mean_loss(name: str, labels: Floats, scores: Floats) -> tuple[Floats, ...] | None:
    """One sample, each row's loss, whose mean is the metric."""
    return (row_moments(name, labels, scores)[:, 1],) if usable(name, labels, scores) else None


def _less(mine: tuple[Floats, ...] | None, theirs: tuple[Floats, ...] | None) -> tuple[Floats, ...] | None:
    """Differences row by row; what is rounding becomes exactly 0."""
    if mine is None or theirs is None:
        return None

    def less(a: Floats, b: Floats) -> Floats:
        difference: Floats = a - b
        difference[np.abs(difference) <= ROUNDING * np.maximum(np.abs(a), np.abs(b))] = 0.0
        return difference

    return tuple(less(a, b) for a, b in zip(mine, theirs, strict=True))


def _statistic(samples: tuple[Floats, ...] | None, least: float, largest: float) -> Statistic:
    """Mean of independent samples that share it; its variance is the sum of theirs.

    With one sample this is the (paired) t interval. With two, DeLong's variance, and degrees of freedom as Brunner &
    Munzel 2000, Biometrical Journal 42:17-25, give them (Satterthwaite): DeLong's normal interval in large samples, and
    a wider one where one class has few rows. No interval with fewer than `MIN_CLASS_ROWS` of a class, or a single loss.
    """
    if samples is None:
        return Statistic(value=math.nan, intervals=no_interval)
    value = float(samples[0].mean())
    if min(len(sample) for sample in samples) < (2 if len(samples) == 1 else MIN_CLASS_ROWS):
        return Statistic(value=value, intervals=no_interval)
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in samples]
    variance = sum(parts)
    spread = sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True))
    degrees = variance**2 / spread if spread > 0 else math.inf
    intervals = student_intervals(value, math.sqrt(variance), degrees)
    return Statistic(value=value, intervals=intervals, least=least, largest=largest)

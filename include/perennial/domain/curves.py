"""Curves that show how a binary classifier's scores behave: ROC and calibration."""

from __future__ import annotations

from typing import Final

import numpy as np

from perennial.domain.metrics import Floats, rank, usable

MAX_ROC_POINTS: Final = 101
CALIBRATION_GROUPS: Final = 10


def roc_curve(labels: Floats, scores: Floats) -> tuple[tuple[float, float], ...]:
    """(false positive rate, true positive rate) from (0, 0) to (1, 1), at most `MAX_ROC_POINTS` points of the curve.

    Both rates are of the rows that score at least a threshold (Fawcett 2006, Pattern Recognition Letters 27:861-874).
    Of more points those are kept that lie evenly along the way. Empty where it is undefined: a single class, or a score
    that is not finite.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), higher for class 1.
    """
    if not usable("roc_auc", labels, scores) or len(np.unique(labels)) < 2:
        return ()
    ranking = rank(scores, descending=True)
    true = np.concatenate([[0.0], np.cumsum(labels[ranking.order])[ranking.last]])
    false = np.concatenate([[0.0], np.cumsum(1 - labels[ranking.order])[ranking.last]])
    x, y = false / false[-1], true / true[-1]
    if len(x) > MAX_ROC_POINTS:
        kept = np.unique(np.searchsorted(x + y, np.linspace(0, 2, MAX_ROC_POINTS)).clip(max=len(x) - 1))
        x, y = x[kept], y[kept]
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


def calibration_curve(labels: Floats, scores: Floats) -> tuple[tuple[float, float, int], ...]:
    """(mean predicted probability, share of positives, rows) of up to 10 groups of about equal size, low to high.

    Rows with the same score stay together, so that groups may differ in size (deciles of risk: Hosmer & Lemeshow 1980,
    Communications in Statistics A9:1043-1069). Empty if the scores are no probabilities.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), probabilities of class 1.
    """
    if not usable("brier", labels, scores):
        return ()
    ranking = rank(scores)
    wanted = np.arange(1, CALIBRATION_GROUPS + 1) * len(labels) / CALIBRATION_GROUPS
    ends = np.unique(ranking.last[np.searchsorted(ranking.last + 1, wanted).clip(max=len(ranking.last) - 1)]) + 1
    groups = np.split(ranking.order, ends[:-1])
    return tuple((float(scores[rows].mean()), float(labels[rows].mean()), len(rows)) for rows in groups)

"""Metrics of a holdout, with row weights. A metric that is not defined for its input is NaN, never a guess.

Shapes, for n rows and k classes:

* binary_classification: labels (n,) of 0 and 1; scores (n,), the probability of class 1.
* multiclass_classification: labels (n,) of class positions 0..k-1; scores (n, k), each row's probabilities.
* regression: labels (n,); scores (n,), the predictions.

Weights (n,) are finite and not negative; None stands for 1 each. A row of weight 0 is as good as absent. Any label
or score that is not finite makes the metric NaN: a model that cannot score every row is not better on the rest.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perennial.domain.metric_names import METRICS

Floats = NDArray[np.float64]

PROBABILITY_EPSILON: Final = float(np.finfo(np.float64).eps)
"""log_loss clips probabilities to [eps, 1 - eps], as scikit-learn does: one row costs at most 36.04 nats."""
SUM_TOLERANCE: Final = 1e-3
"""Class probabilities of a row sum to 1 within this (float32 models included)."""
_FLAT: Final = 1e-12
"""r2: labels whose variance is this small a share of their mean square (after centring) count as constant."""

RANK_METRICS: Final = frozenset({"roc_auc", "average_precision"})
"""Metrics of the order of scores. All others are functions of sums over rows: see `row_moments`."""


class Ranking(NamedTuple):
    """Rows sorted by score, and where each group of tied scores ends."""

    order: NDArray[np.intp]
    """(n,): positions of the rows, scores from low to high (or high to low)."""
    last: NDArray[np.intp]
    """(g,): position within `order` of the last row of each of the g groups of equal scores."""


def metric(name: str, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The metric `name` of `METRICS`; NaN where it is undefined. See the module for shapes.

    Raises:
        KeyError: there is no metric of this name.
        ValueError: shapes that do not fit together, or a weight that is negative or not finite.
    """
    _ = METRICS[name]
    y, s = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check_shapes(name, y, s, w)
    there = w > 0
    y, s, w = y[there], s[there], w[there]
    if not usable(name, y, s):
        return float("nan")
    if name == "roc_auc":
        return roc_auc(y, s, w)
    if name == "average_precision":
        return average_precision(y, s, w)
    centre = float(w @ y / w.sum()) if name == "r2" else 0.0
    return float(from_moments(name, w @ row_moments(name, y, s, centre)))


def usable(name: str, labels: Floats, scores: Floats) -> bool:
    """Whether the metric can be computed at all: some rows, all finite, and probabilities where it needs them.

    brier, log_loss and accuracy read scores as probabilities; a score of 7 would look splendid once clipped.
    """
    if len(labels) == 0 or not (np.isfinite(labels).all() and np.isfinite(scores).all()):
        return False
    if scores.ndim == 2:
        whole = np.abs(scores.sum(axis=1) - 1.0) <= SUM_TOLERANCE
        return bool(whole.all() and (scores >= 0).all() and ((labels >= 0) & (labels < scores.shape[1])).all())
    if METRICS[name].tasks == frozenset({"regression"}):
        return True
    if not np.isin(labels, (0.0, 1.0)).all():
        return False
    return name in RANK_METRICS or bool(((scores >= 0) & (scores <= 1)).all())


def rank(scores: Floats, *, descending: bool = False) -> Ranking:
    """Sort rows by score and find the groups of exactly equal scores. `scores`: (n,), n >= 1, finite."""
    order = np.argsort(-scores if descending else scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return Ranking(order, last)


def roc_auc(labels: Floats, scores: Floats, weights: Floats) -> float:
    """Area under the ROC curve, in [0, 1], higher is better; NaN with one class only.

    The weighted share of (positive, negative) pairs in which the positive scores higher, ties counting one half:
    the Mann-Whitney statistic (Hanley & McNeil 1982, Radiology 143:29-36). Weights multiply, w_i * w_j, a pair.
    """
    ranking = rank(scores)
    positive = (weights * labels)[ranking.order]
    negative = (weights * (1 - labels))[ranking.order]
    pos, neg = (np.diff(np.cumsum(part)[ranking.last], prepend=0.0) for part in (positive, negative))
    total = positive.sum() * negative.sum()
    if total <= 0:
        return float("nan")
    below = np.cumsum(neg) - neg
    return float(min(1.0, pos @ (below + 0.5 * neg) / total))


def average_precision(labels: Floats, scores: Floats, weights: Floats) -> float:
    """Average precision, in [0, 1], higher is better; NaN with one class only.

    Sum over distinct scores, from high to low, of (recall gained) * (precision there), without interpolation, as
    `sklearn.metrics.average_precision_score` defines it (Manning, Raghavan & Schütze 2008, section 8.4).
    """
    ranking = rank(scores, descending=True)
    ordered = weights[ranking.order]
    true = np.cumsum(ordered * labels[ranking.order])[ranking.last]
    taken = np.cumsum(ordered)[ranking.last]
    if true[-1] <= 0 or true[-1] >= taken[-1]:
        return float("nan")
    gained = np.diff(true, prepend=0.0)
    return float(gained @ (true / taken) / true[-1])


def row_moments(name: str, labels: Floats, scores: Floats, centre: float = 0.0) -> Floats:
    """What a row adds to the sums that the metric is a function of: (n, m), the first column all 1.

    * brier: squared error of the probability (Brier 1950, Monthly Weather Review 78:1-3).
    * log_loss: -ln of the probability given to the true class, in nats (Good 1952, JRSS B 14:107-114).
    * accuracy: 1 for the right class: the largest probability, the first of equals; binary: class 1 above 0.5.
    * mae, rmse: absolute and squared error, in the label's unit (squared for rmse's sum).
    * r2: squared error, label and squared label, both less `centre`, which should be near the labels' mean.
    """
    one = np.ones(len(labels))
    if name == "r2":
        y = labels - centre
        return np.column_stack([one, (labels - scores) ** 2, y, y**2])
    if name == "mae":
        return np.column_stack([one, np.abs(labels - scores)])
    if name in ("brier", "rmse"):
        return np.column_stack([one, (labels - scores) ** 2])
    if name == "accuracy":
        given = scores.argmax(axis=1) if scores.ndim == 2 else scores > 0.5
        return np.column_stack([one, given == labels])
    if name == "log_loss":
        if scores.ndim == 2:
            true = scores[np.arange(len(labels)), labels.astype(np.intp)]
        else:
            true = np.where(labels == 1, scores, 1 - scores)
        return np.column_stack([one, -np.log(np.clip(true, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON))])
    raise KeyError(f"{name} is not a function of sums over rows")


def from_moments(name: str, sums: Floats) -> Any:
    """The metric from (weighted) sums of `row_moments`: (..., m) gives (...). NaN where the weights sum to 0.

    r2 is 1 - SSE/SST (Draper & Smith 1998, section 1.3); NaN when the labels are constant, where scikit-learn
    returns 0 or 1.
    """
    weight = sums[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "r2":
            squares = sums[..., 3]
            total = squares - sums[..., 2] ** 2 / weight
            total = np.where(total > _FLAT * squares, total, np.nan)
            return np.where(weight > 0, 1 - sums[..., 1] / total, np.nan)
        mean = np.where(weight > 0, sums[..., 1] / weight, np.nan)
    return np.sqrt(mean) if name == "rmse" else mean


def _check_shapes(name: str, labels: Floats, scores: Floats, weights: Floats) -> None:
    matrix = METRICS[name].tasks >= {"multiclass_classification"} and scores.ndim == 2
    if labels.ndim != 1 or len(scores) != len(labels) or (scores.ndim != 1 and not matrix):
        raise ValueError(f"{name}: labels {labels.shape} and scores {scores.shape} do not fit together")
    if weights.shape != labels.shape or not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError(f"{name}: weights must be {labels.shape}, finite and not negative; got {weights.shape}")

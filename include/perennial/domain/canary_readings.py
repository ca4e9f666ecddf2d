"""What the guardrails of a canary watch, computed from what the two models did.

A figure that cannot be computed is NaN, never a guess: the controller rolls back on it. Where that is for want of
something to compare with, and not the challenger's fault, it has as many samples fewer, down to none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.canary import Reading
from perennial.domain.metric_names import Task
from perennial.domain.metrics import SUM_TOLERANCE, metric
from perennial.domain.rules.outcome import direction

Floats = NDArray[np.float64]
QUANTILE: Final = 0.95


def _none() -> Floats:
    return np.empty(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What one model did within a stretch of time. Scores are shaped as in `perennial.domain.metrics`."""

    failed: NDArray[np.bool_]
    """(requests,): whether it could not score."""
    latency_ms: Floats
    """(requests,)."""
    scores: Floats
    """(rows,) or (rows, k), of all rows that it scored."""
    labels: Floats = field(default_factory=_none)
    """(m,), of those rows whose label has come."""
    labelled_scores: Floats = field(default_factory=_none)
    """(m,) or (m, k), of the same rows."""


def readings(task: Task, primary: str, champion: Served, challenger: Served) -> dict[str, Reading]:
    """A reading for each name of `perennial.domain.canary.GUARDRAILS`.

    Args:
        task: the spec's.
        primary: the metric that `performance_loss` is about.
        champion: over a stretch that began before the canary, so that there is something to compare with at 100 %.
        challenger: since the step began; its labels since the canary began.
    """
    return {
        "error_rate": Reading(value=_mean(challenger.failed), samples=len(challenger.failed)),
        "latency_p95_ratio": Reading(
            value=_ratio(challenger.latency_ms, champion.latency_ms),
            samples=min(len(challenger.latency_ms), len(champion.latency_ms)),
        ),
        "prediction_distance": _distance_read(task, champion.scores, challenger.scores),
        "performance_loss": _loss_read(task, primary, champion, challenger),
    }


def _distance_read(task: Task, champion: Floats, challenger: Floats) -> Reading:
    """What the champion predicted and is no prediction is left out: it is nothing to compare with."""
    theirs = champion[_are_scores(task, champion)]
    value, samples = distance(task, theirs, challenger), min(len(theirs), len(challenger))
    if math.isnan(value) and _are_scores(task, challenger).all():
        samples = 0  # the champion says the same of everybody, or knows other classes
    return Reading(value=value, samples=samples)


def _loss_read(task: Task, primary: str, champion: Served, challenger: Served) -> Reading:
    """As `_distance_read`."""
    told = _are_scores(task, champion.labelled_scores)
    theirs = replace(champion, labels=champion.labels[told], labelled_scores=champion.labelled_scores[told])
    value, samples = _loss(primary, theirs, challenger), min(len(theirs.labels), len(challenger.labels))
    if math.isnan(value) and _are_scores(task, challenger.labelled_scores).all():
        samples = 0  # nothing can be said from these labels, such as if they are all of one class
    return Reading(value=value, samples=samples)


def distance(task: Task, champion: Floats, challenger: Floats) -> float:
    """First Wasserstein distance of two samples of scores, (n,) and (m,), or (n, k) and (m, k); 0: the same.

    The least mean amount by which scores have to be moved to turn one sample into the other (Vallender 1974, Theory of
    Probability 18:784-786). Of probabilities in [0, 1], of several classes the largest of the k. Of a regression in
    standard deviations of the champion's scores, without an upper end. NaN where a sample is empty, holds what is not
    finite or no probability, or where the champion's scores do not vary and the challenger's are others.
    """
    from scipy.stats import wasserstein_distance

    columns = 1 if champion.ndim == 1 else champion.shape[1]
    if champion.shape[1:] != challenger.shape[1:] or 0 in (champion.size, challenger.size):
        return float("nan")
    if not all(_are_scores(task, scores).all() for scores in (champion, challenger)):
        return float("nan")
    pairs = zip(champion.reshape(-1, columns).T, challenger.reshape(-1, columns).T, strict=True)
    found = max(float(wasserstein_distance(theirs, mine)) for theirs, mine in pairs)
    if task != "regression" or found == 0:
        return found
    spread = float(champion.std())
    return found / spread if spread > 0 else float("nan")


def _are_scores(task: Task, scores: Floats) -> NDArray[np.bool_]:
    """(n,): whether each row is finite, and of a classification a probability, or several that sum to 1."""
    rows = scores.reshape(len(scores), 1 if scores.ndim == 1 else scores.shape[1])
    within = (rows >= 0) & (rows <= 1) if task != "regression" else np.isfinite(rows)
    whole = task == "regression" or scores.ndim == 1 or np.abs(rows.sum(axis=1) - 1.0) <= SUM_TOLERANCE
    return np.asarray(within.all(axis=1) & whole, dtype=np.bool_)


def _mean(failed: NDArray[np.bool_]) -> float:
    return float(failed.mean()) if len(failed) else float("nan")


def _ratio(challenger: Floats, champion: Floats) -> float:
    if 0 in (len(challenger), len(champion)):
        return float("nan")
    mine, theirs = (float(np.quantile(latencies, QUANTILE)) for latencies in (challenger, champion))
    return mine / theirs if theirs > 0 else float("nan")


def _loss(primary: str, champion: Served, challenger: Served) -> float:
    theirs, mine = (metric(primary, served.labels, served.labelled_scores) for served in (champion, challenger))
    return direction(primary) * (theirs - mine)

"""What the guardrails of a canary watch, computed from what the two models did.

A figure that cannot be computed is NaN, never a guess: the controller rolls back on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
        "prediction_distance": Reading(
            value=distance(task, champion.scores, challenger.scores),
            samples=min(len(champion.scores), len(challenger.scores)),
        ),
        "performance_loss": Reading(
            value=_loss(primary, champion, challenger), samples=min(len(champion.labels), len(challenger.labels))
        ),
    }


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
    for scores in (champion, challenger):
        if not np.isfinite(scores).all() or (task != "regression" and not _are_probabilities(scores)):
            return float("nan")
    pairs = zip(champion.reshape(-1, columns).T, challenger.reshape(-1, columns).T, strict=True)
    found = max(float(wasserstein_distance(theirs, mine)) for theirs, mine in pairs)
    if task != "regression" or found == 0:
        return found
    spread = float(champion.std())
    return found / spread if spread > 0 else float("nan")


def _are_probabilities(scores: Floats) -> bool:
    whole = scores.ndim == 1 or bool((np.abs(scores.sum(axis=1) - 1.0) <= SUM_TOLERANCE).all())
    return whole and bool(((scores >= 0) & (scores <= 1)).all())


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

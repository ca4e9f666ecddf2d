"""Paired cluster bootstrap: how sure one can be of a metric, and of the difference between two models' metrics.

Rows of one cluster (a day, a customer) share what happened to them, so whole clusters are drawn with replacement, the
same ones for both models: what makes a day hard for one makes it hard for the other, and cancels in the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from perennial.domain.evaluation import MetricComparison, MetricEstimate
from perennial.domain.intervals import cluster_interval
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import BLOCK_ELEMENTS, Codes, Resampled, resampled

MAX_UNDEFINED_SHARE: Final = 0.01
"""Replicates in which a metric is undefined (a single class drawn). Above this share there is no interval: what is left
would be a sample of the convenient replicates only."""
JACKKNIFE_GROUPS: Final = 200
"""With more clusters than this, the jackknife leaves out groups of them."""
_ROUNDING: Final = 1e-12
"""Differences smaller than this share of the metrics are rounding, and count as none."""
_LEAST: Final = {"r2": -math.inf}
_LARGEST: Final = {"log_loss": math.inf, "mae": math.inf, "rmse": math.inf}
"""Ends of a metric's range where they are not 0 and 1; an interval does not reach past them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapResult:
    """One metric of both models with its intervals, and how many replicates could not be used."""

    comparison: MetricComparison
    replicates: int
    undefined: int
    """Replicates in which the metric of the challenger, or of the champion, is undefined."""


@dataclass(frozen=True, slots=True)
class _Resampling:
    """A statistic on the data, in bootstrap replicates, and with parts of the data left out."""

    estimate: float
    replicates: Floats
    jackknife: Floats

    def minus(self, other: _Resampling, scale: float) -> _Resampling:
        """The paired difference; rounding noise, relative to `scale`, becomes exactly 0."""

        def difference(mine: Floats, theirs: Floats) -> Floats:
            gap = mine - theirs
            gap[np.abs(gap) <= _ROUNDING * scale] = 0.0
            return gap

        return _Resampling(
            float(difference(np.array([self.estimate]), np.array([other.estimate]))[0]),
            difference(self.replicates, other.replicates),
            difference(self.jackknife, other.jackknife),
        )


def paired_bootstrap(
    metrics: Sequence[str],
    labels: Floats,
    challenger: Floats,
    champion: Floats | None,
    clusters: Codes,
    *,
    replicates: int,
    confidence: float,
    seed: int | Sequence[int],
) -> dict[str, BootstrapResult]:
    """Both models' metrics and their differences (challenger minus champion), with two-sided intervals.

    Args:
        metrics: names of `METRICS`.
        labels: (n,), see `perennial.domain.metrics`.
        challenger: its scores, (n,) or (n, classes).
        champion: its scores, the same shape; None if there is no champion.
        clusters: (n,), each row's cluster as 0..k-1, every number in use.
        replicates: how many times k clusters are drawn.
        confidence: two-sided, in [0, 1).
        seed: of numpy's default generator. All metrics and both models see the same draws.

    Returns:
        By metric. A value that is undefined is None; so are an interval's ends where there are fewer than two
        clusters, where more than `MAX_UNDEFINED_SHARE` of the replicates are undefined, or where leaving out one
        cluster makes the metric undefined.
    """
    count = int(clusters.max()) + 1 if len(clusters) else 0
    models = [challenger] if champion is None else [challenger, champion]
    functions = [[resampled(name, labels, scores, clusters, count) for scores in models] for name in metrics]
    flat = [function for pair in functions for function in pair]
    drawn = iter(_evaluate(flat, count, replicates, seed))
    results = {}
    for name in metrics:
        parts = [_Resampling(metric(name, labels, scores), *next(drawn)) for scores in models]
        results[name] = _compare(name, parts, confidence, count)
    return results


def leave_out_weights(count: int) -> Floats:
    """(j, count) weights that leave out one cluster, or one of `JACKKNIFE_GROUPS` groups, at a time."""
    groups = min(count, JACKKNIFE_GROUPS)
    group = np.arange(count) * groups // max(count, 1)
    left_out: Floats = (group[None, :] != np.arange(groups)[:, None]).astype(np.float64)
    return left_out


def cluster_draws(count: int, replicates: int, generator: np.random.Generator) -> Floats:
    """(replicates, count): how often each cluster comes up when `count` are drawn with replacement."""
    drawn = generator.integers(0, count, size=(replicates, count))
    flat = (drawn + np.arange(replicates)[:, None] * count).ravel()
    return np.bincount(flat, minlength=replicates * count).reshape(replicates, count).astype(np.float64)


def _evaluate(
    functions: Sequence[Resampled], count: int, replicates: int, seed: int | Sequence[int]
) -> list[tuple[Floats, Floats]]:
    """Of each function the values in all replicates, and with each cluster left out."""
    if count < 2:
        return [(np.empty(0), np.empty(0)) for _ in functions]
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // count)
    parts: list[list[Floats]] = [[] for _ in functions]
    for start in range(0, replicates, block):
        weights = cluster_draws(count, min(block, replicates - start), generator)
        for values, function in zip(parts, functions, strict=True):
            values.append(function(weights))
    without = leave_out_weights(count)
    return [(np.concatenate(values), function(without)) for values, function in zip(parts, functions, strict=True)]


def _compare(name: str, parts: list[_Resampling], confidence: float, count: int) -> BootstrapResult:
    challenger = parts[0]
    least, largest = _LEAST.get(name, 0.0), _LARGEST.get(name, 1.0)
    estimates = [_estimate(part, confidence, count, least, largest) for part in parts]
    difference = None
    undefined = ~np.isfinite(challenger.replicates)
    if len(parts) == 2:
        champion = parts[1]
        scale = max(abs(challenger.estimate), abs(champion.estimate), 1.0 if name == "r2" else 0.0)
        gap = challenger.minus(champion, scale)
        difference = _estimate(gap, confidence, count, least - largest, largest - least)
        undefined = ~np.isfinite(gap.replicates)
    comparison = MetricComparison(
        metric=name,
        challenger=estimates[0],
        champion=estimates[1] if len(parts) == 2 else None,
        difference=difference,
    )
    return BootstrapResult(comparison=comparison, replicates=len(challenger.replicates), undefined=int(undefined.sum()))


def _estimate(part: _Resampling, confidence: float, count: int, least: float, largest: float) -> MetricEstimate:
    if not math.isfinite(part.estimate):
        return MetricEstimate(value=None, low=None, high=None)
    fine = part.replicates[np.isfinite(part.replicates)]
    ends = None
    if len(part.replicates) - len(fine) <= MAX_UNDEFINED_SHARE * len(part.replicates):
        ends = cluster_interval(fine, part.estimate, part.jackknife, confidence=confidence, clusters=count)
    if ends is None:
        return MetricEstimate(value=part.estimate, low=None, high=None)
    return MetricEstimate(value=part.estimate, low=max(ends.low, least), high=min(ends.high, largest))

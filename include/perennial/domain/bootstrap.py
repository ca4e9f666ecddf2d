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

from perennial.domain.class_support import too_little_of_a_class
from perennial.domain.intervals import cluster_intervals
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import BLOCK_ELEMENTS, Codes, Resampled, resampled
from perennial.domain.statistic import Intervals, Paired, Statistic, no_interval

MAX_UNDEFINED_SHARE: Final = 0.01
"""Replicates in which a metric is undefined (a single class drawn). Above this share there is no interval: what is left
would be a sample of the convenient replicates only."""
JACKKNIFE_GROUPS: Final = 200
"""With more clusters than this, the jackknife leaves out groups of them."""
ROUNDING: Final = 1e-12
"""Differences smaller than this share of the metrics are rounding, and count as none."""
_LEAST: Final = {"r2": -math.inf}
_LARGEST: Final = {"log_loss": math.inf, "mae": math.inf, "rmse": math.inf}
"""Ends of a metric's range where they are not 0 and 1; an interval does not reach past them."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """A statistic on the data, in bootstrap replicates, and with parts of the data left out."""

    estimate: float
    replicates: Floats
    jackknife: Floats

    def minus(self, other: Resampling, scale: float) -> Resampling:
        """The paired difference; rounding noise, relative to `scale`, becomes exactly 0."""

        def difference(mine: Floats, theirs: Floats) -> Floats:
            gap = mine - theirs
            gap[np.abs(gap) <= ROUNDING * scale] = 0.0
            return gap

        return Resampling(
            float(difference(np.array([self.estimate]), np.array([other.estimate]))[0]),
            difference(self.replicates, other.replicates),
            difference(self.jackknife, other.jackknife),
        )

    def statistic(self, clusters: int, least: float, largest: float, *, supported: bool = True) -> Statistic:
        """With intervals, if the data supports any and at most `MAX_UNDEFINED_SHARE` of the replicates lack a value."""
        fine = self.replicates[np.isfinite(self.replicates)]
        intervals: Intervals = no_interval
        if supported and len(self.replicates) - len(fine) <= MAX_UNDEFINED_SHARE * len(self.replicates):
            intervals = cluster_intervals(fine, self.estimate, self.jackknife, clusters=clusters)
        return Statistic(value=self.estimate, intervals=intervals, least=least, largest=largest)


def paired_bootstrap(
    metrics: Sequence[str],
    labels: Floats,
    challenger: Floats,
    champion: Floats | None,
    clusters: Codes,
    *,
    replicates: int,
    seed: int | Sequence[int],
) -> dict[str, Paired]:
    """Both models' metrics and their differences (challenger minus champion), with intervals.

    Args:
        metrics: names of `METRICS`.
        labels: (n,), see `perennial.domain.metrics`.
        challenger: its scores, (n,) or (n, classes).
        champion: its scores, the same shape; None if there is no champion.
        clusters: (n,), each row's cluster as 0..k-1, every number in use.
        replicates: how many times k clusters are drawn.
        seed: of numpy's default generator. All metrics and both models see the same draws.

    Returns:
        By metric. There are no intervals where there are fewer than two clusters, where a class is too rare
        (`perennial.domain.class_support`), where more than `MAX_UNDEFINED_SHARE` of the replicates are undefined, or
        where leaving out one cluster makes the metric undefined.
    """
    count = int(clusters.max()) + 1 if len(clusters) else 0
    models = [challenger] if champion is None else [challenger, champion]
    functions = [resampled(name, labels, scores, clusters, count) for name in metrics for scores in models]
    drawn = iter(resample(functions, count, replicates=replicates, seed=seed))
    results = {}
    for name in metrics:
        parts = [Resampling(metric(name, labels, scores), *next(drawn)) for scores in models]
        results[name] = _paired(name, parts, count, too_little_of_a_class(name, labels, clusters))
    return results


def resample(
    functions: Sequence[Resampled], count: int, *, replicates: int, seed: int | Sequence[int]
) -> list[tuple[Floats, Floats]]:
    """Of each function of cluster weights the values in all replicates, and with each cluster left out.

    The same draws for all functions, a block at a time: memory stays flat however many clusters there are.
    """
    if count < 2:
        return [(np.empty(0), np.empty(0)) for _ in functions]
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_ELEMENTS // count)
    drawn: list[list[Floats]] = [[] for _ in functions]
    without: list[list[Floats]] = [[] for _ in functions]

    def note(weights: Floats, values: list[list[Floats]]) -> None:
        for of_one, function in zip(values, functions, strict=True):
            of_one.append(function(weights))

    for start in range(0, replicates, block):
        note(cluster_draws(count, min(block, replicates - start), generator), drawn)
    for start in range(0, min(count, JACKKNIFE_GROUPS), block):
        note(leave_out_weights(count, start, start + block), without)
    return [(np.concatenate(d), np.concatenate(w)) for d, w in zip(drawn, without, strict=True)]


def leave_out_weights(count: int, start: int = 0, stop: int | None = None) -> Floats:
    """(j, count) weights that leave out one cluster, or one of `JACKKNIFE_GROUPS` groups, at a time.

    Of the j sets of weights only those from `start` up to `stop`, if given.
    """
    groups = min(count, JACKKNIFE_GROUPS)
    group = np.arange(count) * groups // max(count, 1)
    wanted = np.arange(groups)[start:stop]
    left_out: Floats = (group[None, :] != wanted[:, None]).astype(np.float64)
    return left_out


def cluster_draws(count: int, replicates: int, generator: np.random.Generator) -> Floats:
    """(replicates, count): how often each cluster comes up when `count` are drawn with replacement."""
    drawn = generator.integers(0, count, size=(replicates, count))
    flat = (drawn + np.arange(replicates)[:, None] * count).ravel()
    return np.bincount(flat, minlength=replicates * count).reshape(replicates, count).astype(np.float64)


def value_range(name: str) -> tuple[float, float]:
    """Least and largest value that the metric can have."""
    return _LEAST.get(name, 0.0), _LARGEST.get(name, 1.0)


def _paired(name: str, parts: list[Resampling], count: int, why_no_interval: str | None) -> Paired:
    least, largest = value_range(name)
    challenger, supported = parts[0], why_no_interval is None
    statistics = [part.statistic(count, least, largest, supported=supported) for part in parts]
    difference = None
    undefined = ~np.isfinite(challenger.replicates)
    if len(parts) == 2:
        champion = parts[1]
        scale = max(abs(challenger.estimate), abs(champion.estimate), 1.0 if name == "r2" else 0.0)
        gap = challenger.minus(champion, scale)
        difference = gap.statistic(count, least - largest, largest - least, supported=supported)
        undefined = ~np.isfinite(gap.replicates)
    return Paired(
        challenger=statistics[0],
        champion=statistics[1] if len(parts) == 2 else None,
        difference=difference,
        replicates=len(challenger.replicates),
        undefined=int(undefined.sum()),
        why_no_interval=why_no_interval,
    )

"""Both models' metrics and their difference, each by the method that fits how the rows hang together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perennial.domain.bootstrap import paired_bootstrap
from perennial.domain.closed_forms import CLOSED_FORMS, closed_form
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import BLOCK_ELEMENTS, Codes, resampled
from perennial.domain.statistic import Paired


def compare(
    metrics: Sequence[str],
    labels: Floats,
    challenger: Floats,
    champion: Floats | None,
    clusters: Codes | None,
    *,
    replicates: int,
    seed: int | Sequence[int],
) -> dict[str, Paired]:
    """By metric, in the order given: both models and the difference, challenger minus champion.

    Args:
        metrics: names of `METRICS`.
        labels: (n,), see `perennial.domain.metrics`.
        challenger: its scores, (n,) or (n, classes).
        champion: its scores, the same shape; None if there is no champion.
        clusters: (n,), each row's cluster as 0..k-1, every number in use: a bootstrap of clusters. None: the rows are
            independent; closed forms where there are any, a bootstrap of rows for the rest.
        replicates: of the bootstrap.
        seed: of the bootstrap.
    """
    closed = CLOSED_FORMS.intersection(metrics) if clusters is None else frozenset()
    found = {name: closed_form(name, labels, challenger, champion) for name in closed}
    drawn = [name for name in metrics if name not in closed]
    if drawn:
        codes = np.arange(len(labels)) if clusters is None else clusters
        found |= paired_bootstrap(drawn, labels, challenger, champion, codes, replicates=replicates, seed=seed)
    return {name: found[name] for name in metrics}


def pseudo_values(name: str, labels: Floats, challenger: Floats, champion: Floats, units: Codes) -> Floats:
    """(k,) jackknife pseudo-values of the metric's difference, challenger minus champion, by independent unit.

    What each unit by itself says of the difference, whatever its share of the rows: see `jackknife_values`.

    Args:
        name: of the metric.
        labels: (n,), see `perennial.domain.metrics`.
        challenger: its scores, (n,) or (n, classes).
        champion: its scores, the same shape.
        units: (n,), each row's unit as 0..k-1, every number in use.

    Returns:
        NaN for a unit without which the metric is undefined, and for all if it is undefined on the whole, or k < 2.
    """
    count = int(units.max()) + 1 if len(units) else 0
    if count < 2:
        return np.full(count, np.nan)
    mine, theirs = (resampled(name, labels, scores, units, count) for scores in (challenger, champion))
    without = np.empty(count)
    block = max(1, BLOCK_ELEMENTS // count)
    for start in range(0, count, block):
        left_out = np.arange(start, min(start + block, count))
        weights = np.ones((len(left_out), count))
        weights[np.arange(len(left_out)), left_out] = 0.0
        without[left_out] = mine(weights) - theirs(weights)
    difference = metric(name, labels, challenger) - metric(name, labels, champion)
    return jackknife_values(np.float64(difference), without, np.bincount(units) / len(units))


def jackknife_values(whole: NDArray[np.float64] | np.float64, without: Floats, share: Floats) -> Floats:
    """Pseudo-values of the delete-m_j jackknife, for units of unequal size.

    h * whole - (h - 1) * without, with h = 1 / share (Busing, Meijer & van der Leeden 1999, Statistics and Computing
    9:3-8; of equal units: Tukey 1958, Ann. Math. Statist. 29:614). Of a mean they are the units' own means. With the
    number of units in place of h, a unit of few rows would tell what the whole holdout tells, and over many nights the
    same rows would be counted again and again.

    Args:
        whole: (..., 1) or a number: the statistic of all units.
        without: (..., k), the statistic without each of them.
        share: (k,) or (..., k), each one's share of the rows, in (0, 1].
    """
    values: Floats = whole / share - (1 / share - 1) * without
    return values

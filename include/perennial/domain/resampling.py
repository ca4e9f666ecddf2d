"""Metrics of many re-weightings of clusters at once: what makes a bootstrap of 2,000 replicates cheap.

A cluster bootstrap never looks at rows one by one: a replicate is a weight a cluster. So rows are boiled down once,
and each replicate costs what its clusters cost:

* sums over rows (brier, log_loss, accuracy, mae, rmse, r2) become sums over clusters: weights @ sums;
* roc_auc with few clusters is the quadratic form w'Mw / (w'p * w'n), where M[i, j] counts the concordant pairs of a
  positive in cluster i and a negative in cluster j (ties one half), p and n the positives and negatives a cluster;
* average_precision with few clusters needs only, at each distinct score of a positive, the positives and the rows at or
  above it, a cluster: weights @ counts;
* with many clusters both fall back to weighted cumulative sums over the sorted rows, a block of replicates at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.metrics import RANK_METRICS, Floats, from_moments, rank, row_moments, usable

FEW_CLUSTERS: Final = 1000
"""Up to here the matrices over clusters are less work than cumulative sums over rows (measured)."""
MAX_COUNTS: Final = 2**23
"""Largest (distinct scores of positives) x (clusters) for which average_precision keeps counts (64 MiB of float64)."""
BLOCK_ELEMENTS: Final = 2**19
"""Elements of a temporary array (4 MiB of float64): memory stays flat, and BLAS still has enough to chew on."""

Codes = NDArray[np.intp]
Resampled = Callable[[Floats], Floats]
"""(b, k) weights of k clusters, a row a replicate, to the (b,) values of the metric; NaN where undefined."""


def resampled(name: str, labels: Floats, scores: Floats, clusters: Codes, count: int) -> Resampled:
    """The metric as a function of cluster weights.

    Args:
        name: of `METRICS`.
        labels: (n,), see `perennial.domain.metrics`.
        scores: (n,) or (n, classes).
        clusters: (n,), each row's cluster, 0..count-1.
        count: number of clusters.
    """
    if not usable(name, labels, scores):
        return lambda weights: np.full(len(weights), np.nan)
    if name not in RANK_METRICS:
        return _from_sums(name, labels, scores, clusters, count)
    if name == "roc_auc":
        if count <= FEW_CLUSTERS:
            return _auc_by_pairs(labels, scores, clusters, count)
        return _in_blocks(_auc_by_rows(labels, scores, clusters), len(labels))
    if count * np.unique(scores[labels == 1]).size <= MAX_COUNTS:
        return _precision_by_counts(labels, scores, clusters, count)
    return _in_blocks(_precision_by_rows(labels, scores, clusters), len(labels))


def cluster_sums(values: Floats, clusters: Codes, count: int) -> Floats:
    """Sums of (n, m) values by cluster: (count, m)."""
    return np.column_stack([np.bincount(clusters, column, minlength=count) for column in values.T])


def _from_sums(name: str, labels: Floats, scores: Floats, clusters: Codes, count: int) -> Resampled:
    sums = cluster_sums(row_moments(name, labels, scores, float(labels.mean())), clusters, count)
    return lambda weights: np.asarray(from_moments(name, weights @ sums))


def _auc_by_pairs(labels: Floats, scores: Floats, clusters: Codes, count: int) -> Resampled:
    concordant, positives, negatives = concordance(labels, scores, clusters, count)

    def values(weights: Floats) -> Floats:
        pairs = (weights @ positives) * (weights @ negatives)
        won = ((weights @ concordant) * weights).sum(axis=1)
        return _ratio(won, pairs)

    return values


def concordance(labels: Floats, scores: Floats, clusters: Codes, count: int) -> tuple[Floats, Floats, Floats]:
    """Counts of pairs by cluster, and of positives and negatives: (count, count), (count,), (count,).

    Element [i, j] of the first: pairs of a positive in cluster i and a negative in cluster j in which the positive
    scores higher, plus half of those that tie. Work: (distinct scores of positives) * count**2.
    """
    ranking = rank(scores)
    group = np.empty(len(labels), dtype=np.intp)
    group[ranking.order] = np.searchsorted(ranking.last, np.arange(len(labels)))
    positive = labels == 1
    wanted, column = np.unique(group[positive], return_inverse=True)
    won = np.zeros((count, count))
    block = max(1, BLOCK_ELEMENTS // count)
    below = np.zeros(count)
    pos_cluster, neg_cluster, neg_group = clusters[positive], clusters[~positive], group[~positive]
    # A negative belongs to the first wanted group that is not below it; the ones past the last never lose.
    slot = np.searchsorted(wanted, neg_group)
    tied = np.zeros(len(slot), dtype=bool)
    inside = slot < len(wanted)
    tied[inside] = wanted[slot[inside]] == neg_group[inside]
    for start in range(0, len(wanted), block):
        width = min(block, len(wanted) - start)
        pos = _counts(column, pos_cluster, start, width, count)
        under = _counts(slot[~tied], neg_cluster[~tied], start, width, count)
        level = _counts(slot[tied], neg_cluster[tied], start, width, count)
        reached = np.cumsum(under + level, axis=0) + below
        won += pos.T @ (reached - 0.5 * level)
        below = reached[-1]
    positives = np.bincount(pos_cluster, minlength=count).astype(np.float64)
    negatives = np.bincount(neg_cluster, minlength=count).astype(np.float64)
    return won, positives, negatives


def _counts(slots: Codes, clusters: Codes, start: int, width: int, count: int) -> Floats:
    """How many rows fall in each slot of [start, start + width) and cluster: (width, count)."""
    here = (slots >= start) & (slots < start + width)
    flat = np.bincount((slots[here] - start) * count + clusters[here], minlength=width * count)
    return flat.reshape(width, count).astype(np.float64)


def _precision_by_counts(labels: Floats, scores: Floats, clusters: Codes, count: int) -> Resampled:
    ranking = rank(scores, descending=True)
    ordered, positive = clusters[ranking.order], labels[ranking.order] == 1
    group = np.searchsorted(ranking.last, np.arange(len(labels)))
    wanted = np.unique(group[positive])
    slot = np.searchsorted(wanted, group)
    width = len(wanted)
    gained = _counts(slot[positive], ordered[positive], 0, width, count)
    taken = np.cumsum(_counts(slot, ordered, 0, width, count), axis=0)
    true = np.cumsum(gained, axis=0)
    rows = np.bincount(clusters, minlength=count).astype(np.float64)

    def values(weights: Floats) -> Floats:
        return _precision(weights @ gained.T, weights @ true.T, weights @ taken.T, weights @ rows)

    return _in_blocks(values, max(width, 1))


def _auc_by_rows(labels: Floats, scores: Floats, clusters: Codes) -> Resampled:
    ranking = rank(scores)
    ordered, y = clusters[ranking.order], labels[ranking.order]

    def values(weights: Floats) -> Floats:
        drawn = weights[:, ordered]
        pos = np.diff(np.cumsum(drawn * y, axis=1)[:, ranking.last], axis=1, prepend=0.0)
        reached = np.cumsum(drawn * (1 - y), axis=1)[:, ranking.last]
        neg = np.diff(reached, axis=1, prepend=0.0)
        won = (pos * (reached - 0.5 * neg)).sum(axis=1)
        return _ratio(won, pos.sum(axis=1) * reached[:, -1])

    return values


def _precision_by_rows(labels: Floats, scores: Floats, clusters: Codes) -> Resampled:
    ranking = rank(scores, descending=True)
    ordered, y = clusters[ranking.order], labels[ranking.order]

    def values(weights: Floats) -> Floats:
        drawn = weights[:, ordered]
        true = np.cumsum(drawn * y, axis=1)[:, ranking.last]
        taken = np.cumsum(drawn, axis=1)[:, ranking.last]
        return _precision(np.diff(true, axis=1, prepend=0.0), true, taken, taken[:, -1])

    return values


def _precision(gained: Floats, true: Floats, taken: Floats, rows: Floats) -> Floats:
    """Average precision of each replicate from (b, g) counts at g scores, high to low, and (b,) rows in all."""
    positives = true[:, -1] if true.shape[1] else np.zeros(len(rows))
    precision = np.divide(true, taken, out=np.zeros_like(true), where=taken > 0)
    area = np.einsum("bg,bg->b", gained, precision)
    return _ratio(np.where(positives < rows, area, np.nan), positives)


def _ratio(above: Floats, below: Floats) -> Floats:
    result = np.full(len(above), np.nan)
    np.divide(above, below, out=result, where=below > 0)
    return result


def _in_blocks(values: Resampled, width: int) -> Resampled:
    """The same function, a few replicates at a time, so that temporaries of (b, width) stay small."""
    block = max(1, BLOCK_ELEMENTS // width)

    def blocked(weights: Floats) -> Floats:
        parts = [values(weights[start : start + block]) for start in range(0, len(weights), block)]
        return np.concatenate(parts) if parts else np.empty(0)

    return blocked

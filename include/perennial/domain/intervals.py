"""Confidence intervals from a bootstrap distribution and a jackknife, for a number of clusters that may be small.

With 14 days in a holdout, the plain percentile interval is too short: it lacks the factor sqrt(k/(k-1)), the t
quantile, and any correction of bias and skewness (Cameron, Gelbach & Miller 2008, Rev. Econ. Stat. 90:414-427; Field &
Welsh 2007, JRSS B 69:369-390). Each end here is the outer of two:

* BCa (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 14.3) with the normal quantile widened for k
  clusters to sqrt(k/(k-1)) * t(k-1), as Hesterberg 2015, The American Statistician 69:371-386, section 5.3, does for
  percentiles: it follows skewness;
* estimate +- t(k-1) * jackknife standard error over clusters (MacKinnon, Nielsen & Webb 2023, J. Appl. Econometrics
  38:671-694, "CV3"): it holds with five clusters or fewer, where a bootstrap has few distinct replicates.

Measured one-sided errors: `bench/interval_coverage.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from perennial.domain.metrics import Floats


class Ends(NamedTuple):
    """Lower and upper end."""

    low: float
    high: float


def cluster_interval(
    replicates: Floats, estimate: float, jackknife: Floats, *, confidence: float, clusters: int
) -> Ends | None:
    """Two-sided interval of `confidence` for a statistic of `clusters` independent clusters.

    Args:
        replicates: (b,) values of the statistic in bootstrap replicates, finite.
        estimate: its value on the data.
        jackknife: (j,) values with one cluster (or one of j groups of clusters) left out.
        confidence: in [0, 1); 0 gives the (bias-corrected) median at both ends.
        clusters: how many were drawn from.

    Returns:
        None if nothing can be said: fewer than two clusters, or a jackknife value that is undefined.
    """
    from scipy.special import stdtrit

    if clusters < 2 or len(jackknife) < 2 or len(replicates) == 0:
        return None
    if not (np.isfinite(jackknife).all() and math.isfinite(estimate)):
        return None
    replicates, jackknife = _snapped(replicates, estimate), _snapped(jackknife, estimate)
    if np.ptp(replicates) == 0 and np.ptp(jackknife) == 0:
        return Ends(estimate, estimate)
    tail = (1 - confidence) / 2
    widened = math.sqrt(clusters / (clusters - 1)) * float(stdtrit(clusters - 1, tail))
    skewed = bca_ends(replicates, estimate, jackknife, widened)
    reach = -float(stdtrit(len(jackknife) - 1, tail)) * jackknife_error(jackknife)
    return Ends(min(skewed.low, estimate - reach), max(skewed.high, estimate + reach))


def bca_ends(replicates: Floats, estimate: float, jackknife: Floats, normal_quantile: float) -> Ends:
    """The bias-corrected and accelerated interval: lower tail at `normal_quantile` (<= 0), upper tail at minus it.

    Where the correction breaks down (all replicates on one side of the estimate, or an acceleration so strong that its
    denominator reaches 0), the end is the outermost replicate.
    """
    from scipy.special import ndtr, ndtri

    below = (np.count_nonzero(replicates < estimate) + np.count_nonzero(replicates <= estimate)) / 2
    bias = float(ndtri(below / len(replicates)))
    skew = acceleration(jackknife)

    def level(quantile: float, outermost: float) -> float:
        shifted = bias + quantile
        if not math.isfinite(shifted) or 1 - skew * shifted <= 0:
            return outermost
        return float(ndtr(bias + shifted / (1 - skew * shifted)))

    levels = [level(normal_quantile, 0.0), level(-normal_quantile, 1.0)]
    low, high = np.quantile(replicates, levels)
    return Ends(float(low), float(high))


def acceleration(jackknife: Floats) -> float:
    """Efron & Tibshirani 1993, equation 14.15: one sixth of the skewness of the jackknife values, over sqrt(j).

    Leaving out one of j groups of clusters in place of one cluster leaves its expectation as it is.
    """
    away = jackknife.mean() - jackknife
    spread = float((away**2).sum())
    return 0.0 if spread == 0 else float((away**3).sum()) / (6 * spread**1.5)


def jackknife_error(jackknife: Floats) -> float:
    """Standard error: sqrt((j-1)/j * sum of squared deviations) (Efron & Tibshirani 1993, equation 11.5)."""
    count = len(jackknife)
    return math.sqrt((count - 1) / count * float(((jackknife - jackknife.mean()) ** 2).sum()))


def _snapped(values: Floats, estimate: float) -> Floats:
    """Values that differ from the estimate by rounding only are the estimate: ties must count as ties."""
    return np.where(np.isclose(values, estimate, rtol=1e-12, atol=0.0), estimate, values)

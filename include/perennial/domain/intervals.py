"""Confidence intervals from a bootstrap distribution and a jackknife, for a number of clusters that may be small.

With 14 days in a holdout, the plain percentile interval is too short: it lacks the factor sqrt(k/(k-1)), the t
quantile, and any correction of bias and skewness (Cameron, Gelbach & Miller 2008, Rev. Econ. Stat. 90:414-427; Field &
Welsh 2007, JRSS B 69:369-390). Each end here is the outer of two:

* BCa (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 14.3) with the normal quantile widened for k
  clusters to sqrt(k/(k-1)) * t(k-1), as Hesterberg 2015, The American Statistician 69:371-386, section 5.3, does for
  percentiles: it follows skewness;
* estimate +- t(k-1) * jackknife standard error over clusters, about the mean of the jackknife values (the third
  cluster-robust variance estimator in its jackknife form, called CV3J by MacKinnon, Nielsen & Webb 2023, J. Appl.
  Econometrics 38:671-694): it holds with five clusters or fewer, where a bootstrap has few distinct replicates.

Measured one-sided errors: `bench/interval_coverage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """The interval of one confidence: see `cluster_intervals`."""
    return cluster_intervals(replicates, estimate, jackknife, clusters=clusters)(confidence)


def cluster_intervals(
    replicates: Floats, estimate: float, jackknife: Floats, *, clusters: int
) -> Callable[[float], Ends | None]:
    """Two-sided intervals of any confidence for a statistic of `clusters` independent clusters.

    Args:
        replicates: (b,) values of the statistic in bootstrap replicates, finite.
        estimate: its value on the data.
        jackknife: (j,) values with one cluster (or one of j groups of clusters) left out.
        clusters: how many were drawn from.

    Returns:
        A function of the confidence, in [0, 1); 0 gives the (bias-corrected) median at both ends. The ends move
        outwards, or stay, as the confidence grows. It gives None, at every confidence, if nothing can be said: fewer
        than two clusters, or a jackknife value that is undefined.
    """
    from scipy.special import stdtrit

    if clusters < 2 or len(jackknife) < 2 or len(replicates) == 0:
        return lambda _: None
    if not (np.isfinite(jackknife).all() and math.isfinite(estimate)):
        return lambda _: None
    ordered, jackknife = np.sort(_snapped(replicates, estimate)), _snapped(jackknife, estimate)
    if ordered[0] == ordered[-1] and np.ptp(jackknife) == 0:
        return lambda _: Ends(estimate, estimate)
    bias, skew = median_bias(ordered, estimate), acceleration(jackknife)
    error = jackknife_error(jackknife)

    def ends(confidence: float) -> Ends:
        tail = (1 - confidence) / 2
        widened = math.sqrt(clusters / (clusters - 1)) * float(stdtrit(clusters - 1, tail))
        skewed = _bca_ends(ordered, bias, skew, widened)
        reach = -float(stdtrit(len(jackknife) - 1, tail)) * error
        return Ends(min(skewed.low, estimate - reach), max(skewed.high, estimate + reach))

    return ends


def student_intervals(estimate: float, error: float, degrees: float) -> Callable[[float], Ends | None]:
    """Two-sided intervals of any confidence: estimate +- t(degrees) * error; None if the error is undefined.

    Args:
        estimate: the statistic's value.
        error: its standard error, >= 0; NaN if undefined.
        degrees: of freedom, > 0; need not be whole, and infinity gives the normal interval.
    """
    from scipy.special import ndtri, stdtrit

    def ends(confidence: float) -> Ends | None:
        if not (math.isfinite(estimate) and math.isfinite(error)):
            return None
        if error == 0:
            return Ends(estimate, estimate)
        tail = (1 - confidence) / 2
        quantile = float(stdtrit(degrees, tail)) if math.isfinite(degrees) else float(ndtri(tail))
        return Ends(estimate + quantile * error, estimate - quantile * error)

    return ends


def bca_ends(replicates: Floats, estimate: float, jackknife: Floats, normal_quantile: float) -> Ends:
    """The bias-corrected and accelerated interval: lower tail at `normal_quantile` (<= 0), upper tail at minus it.

    Where the correction breaks down (all replicates on one side of the estimate, or an acceleration so strong that its
    denominator reaches 0), the end is the outermost replicate.
    """
    return _bca_ends(np.sort(replicates), median_bias(replicates, estimate), acceleration(jackknife), normal_quantile)


def _bca_ends(ordered: Floats, bias: float, skew: float, normal_quantile: float) -> Ends:
    from scipy.special import ndtr

    def level(quantile: float, outermost: float) -> float:
        shifted = bias + quantile
        if not math.isfinite(shifted) or 1 - skew * shifted <= 0:
            return outermost
        return float(ndtr(bias + shifted / (1 - skew * shifted)))

    return Ends(_quantile(ordered, level(normal_quantile, 0.0)), _quantile(ordered, level(-normal_quantile, 1.0)))


def _quantile(ordered: Floats, level: float) -> float:
    """Linear between order statistics, as `numpy.quantile` has it, without its half millisecond of preparations."""
    place = level * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    first, second = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return first + (place - below) * (second - first)


def median_bias(replicates: Floats, estimate: float) -> float:
    """Normal quantile of the share of replicates below the estimate, ties counting one half; may be infinite.

    Efron & Tibshirani 1993, equation 14.14.
    """
    from scipy.special import ndtri

    below = (np.count_nonzero(replicates < estimate) + np.count_nonzero(replicates <= estimate)) / 2
    return float(ndtri(below / len(replicates)))


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

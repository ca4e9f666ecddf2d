"""Distances between two distributions that are given as counts by cell, with what chance adds to them.

The distance is a norm of the difference D of the two distributions: of numbers the first Wasserstein distance, the sum
of |F - G| * gap between the bins' means (Vallender 1974, Theory of Probability 18:784-786); of categories the total
variation, half the sum of |p - q|.

The interval is the same for both. With rows taken as independent, the estimate is N(D + E), where N is the norm and E
is about normal with mean 0. N(D + E) has a median m with N(D) <= m <= N(D) + mean N(E) (symmetry of E and the triangle
inequality; the median of a convex function of a normal vector is at most its mean, Kwapien 1994, Proc. AMS
122:1239-1243), and is beyond m by z * s, to either side, with at most the probability of a normal tail beyond z (Borell
1975, Inventiones Mathematicae 30:207-216). s is the largest standard deviation of any linear functional in the norm's
dual ball: of Wasserstein the values' own, of total variation that of a coin from -1/2 to 1/2. Hence

    low = estimate - mean N(E) - z * s,    high = estimate + z * s

The lower end is too low rather than too high, most so where the distributions are about the same: it takes away what
the distance of two finite samples is even when nothing has changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
LEAST_EXPECTED: Final = 5.0
"""Rows that a cell must have on average for the chi-square distribution to hold (Cochran 1954, Biometrics 10:417)."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples over the same cells, neither of them empty."""

    current: Counts
    """(cells,) rows."""
    reference: Counts
    """(cells,) rows."""
    places: Floats | None
    """(cells,) where each cell lies, increasing: the norm is Wasserstein's, in their unit. None: total variation."""

    @property
    def change(self) -> Floats:
        """(cells,) of the shares; sums to 0."""
        found: Floats = self.current / self.current.sum() - self.reference / self.reference.sum()
        return found


def distance(pair: Pair) -> float:
    """The norm: 0 for the same distribution."""
    change, weights = _difference(pair)
    return float(np.abs(change) @ weights)


def _difference(pair: Pair) -> tuple[Floats, Floats]:
    """What the norm is the weighted sum of amounts of, and the weights: by gap of Wasserstein, by cell otherwise."""
    if pair.places is None:
        return pair.change, np.full(len(pair.current), 0.5)
    return np.cumsum(pair.change)[:-1], np.diff(pair.places)


def interval(pair: Pair) -> tuple[float, float]:
    """Ends of a 95 % confidence interval of `distance`, within its range: see the module's text."""
    _, weights = _difference(pair)
    variances, largest = np.zeros(len(weights)), 0.0
    for mine, others in ((pair.current, pair.reference), (pair.reference, pair.current)):
        rows = mine.sum()
        # One more row, shared out as the other side is: a cell that a sample lacks is not known to have no variance.
        shares = (mine + others / others.sum()) / (rows + 1)
        events = shares if pair.places is None else np.cumsum(shares)[:-1]
        variances += np.maximum(events * (1 - events), 0) / rows
        largest += _widest_variance(shares, pair.places) / rows
    by_chance = math.sqrt(2 / math.pi) * float(np.sqrt(variances) @ weights)
    reach = _quantile() * math.sqrt(largest)
    estimate = distance(pair)
    most = 1.0 if pair.places is None else math.inf
    return max(0.0, estimate - by_chance - reach), min(most, estimate + reach)


def _widest_variance(shares: Floats, places: Floats | None) -> float:
    """Of one row's value under any function of the dual ball: 1-Lipschitz ones, or those from -1/2 to 1/2."""
    return 0.25 if places is None else float(shares @ (places - shares @ places) ** 2)


def stability_index(pair: Pair) -> float:
    """Population stability index: sum (p - q) ln(p / q), half a row added to each cell so that none is empty."""
    cells = len(pair.current)
    mine, theirs = ((counts + 0.5) / (counts.sum() + 0.5 * cells) for counts in (pair.current, pair.reference))
    return float((mine - theirs) @ np.log(mine / theirs))


def same_distribution(current: Counts, reference: Counts) -> float:
    """The p value of the chi-square test that both samples, (cells,) rows each, come from one distribution.

    Cells with fewer than `LEAST_EXPECTED` expected rows in the smaller sample are taken together. 1.0 if one is left.
    """
    from scipy.special import chdtrc

    table = np.stack([current, reference]).astype(np.float64)
    shares = table.sum(axis=1) / table.sum()
    few = table.sum(axis=0) * shares.min() < LEAST_EXPECTED
    table = np.column_stack([table[:, ~few], table[:, few].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = np.outer(shares, table.sum(axis=0))
    statistic = float(((table - expected) ** 2 / expected).sum())
    # scipy's `chi2_contingency` gives the same, and takes most of a monitor's time for its checks of arguments.
    return float(chdtrc(table.shape[1] - 1, statistic))


def least_change(current: tuple[int, int], reference: tuple[int, int]) -> float:
    """Lower 95 % confidence limit of the amount by which a share has changed, 0 or more; each side (rows with, rows).

    Newcombe's hybrid score interval (1998, Statistics in Medicine 17:873-890, method 10). 0.0 if a side has no rows.
    """
    if 0 in (current[1], reference[1]):
        return 0.0
    p, q = (found / rows for found, rows in (current, reference))
    mine, theirs = (wilson(*side) for side in (current, reference))
    low = p - q - math.hypot(p - mine[0], theirs[1] - q)
    high = p - q + math.hypot(mine[1] - p, q - theirs[0])
    return max(0.0, low, -high)


def wilson(found: int, rows: int) -> tuple[float, float]:
    """Ends of the 95 % confidence interval of a share (Wilson 1927, JASA 22:209-212); (0, 1) of no rows."""
    if rows == 0:
        return 0.0, 1.0
    share, z = found / rows, _quantile()
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    reach = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _quantile() -> float:
    """Of the standard normal distribution, for both ends of an interval."""
    from scipy.special import ndtri

    return float(ndtri((1 + CONFIDENCE) / 2))

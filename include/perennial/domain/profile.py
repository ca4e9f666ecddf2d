"""What a model's data looked like: counts by bins and by categories, small enough to keep with every model.

A profile is made once, of the training rows, and of the scores on the holdout. What serves later is counted into the
same bins, so that no training data is needed to compare, and parts of a window can be counted apart and added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberProfile:
    """A column of numbers."""

    column: str
    edges: tuple[float, ...]
    """Inner edges of the bins, strictly increasing, b - 1 of them for b bins: quantiles of the reference, so that bins
    hold about the same number of rows. Bin i is [edges[i-1], edges[i]); the outer ones have no end."""
    counts: tuple[int, ...]
    """Reference rows by bin, b of them."""
    missing: int
    """Null or NaN."""
    mean: float
    """Of the finite values, as are the three below; NaN if there is none."""
    spread: float
    """The unit of distances: the standard deviation; 0 for a constant."""
    lowest: float
    highest: float
    means: tuple[float, ...]
    """Of the reference's values in each bin; the bin's edge where it is empty."""
    varies_by: float = 0.0
    """What the column's effect is of a stretch of the reference against all of it, as long as a monitoring window: the
    95th percentile. 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryProfile:
    """A column of texts or booleans, or of anything else as text."""

    column: str
    levels: tuple[str, ...]
    """The most frequent ones, most frequent first."""
    counts: tuple[int, ...]
    """Reference rows by level."""
    other: int
    """Rows of all other levels."""
    missing: int
    varies_by: float = 0.0
    """As a number's."""


ColumnProfile = NumberProfile | CategoryProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnCounts:
    """A stretch of rows, counted as one `ColumnProfile` says."""

    counts: NDArray[np.int64]
    """Numbers: (b,) by bin. Categories: (k + 1,) by level, the last one of all that the profile does not name."""
    missing: int
    total: float = 0.0
    """Numbers: sum of the finite values."""
    unseen: int = 0
    """Rows that have no like in the reference: numbers outside [lowest, highest], infinite ones among them, or texts
    where there should be numbers; categories outside `levels` when the reference has no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The features of a training."""

    model: str
    fingerprint: str
    """Of the training."""
    rows: int
    columns: tuple[ColumnProfile, ...]
    slices: tuple[SliceProfile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceProfile:
    """The features of a training's rows that share one value."""

    column: str
    level: str
    rows: int
    columns: tuple[ColumnProfile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutProfile:
    """How a model scored on the holdout that it was judged on."""

    model: str
    fingerprint: str
    rows: int
    holdout_sha256: str
    scores: tuple[NumberProfile, ...]
    """Of the predictions: of a regression one, `prediction`; of a binary classification one, the probability of the
    second class, `score`; of several classes one each, named as the class."""
    performance: tuple[MetricValue, ...]
    calibration: tuple[Calibration, ...] = ()
    """From scores to frequencies, one for each of `scores`; empty for a regression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A metric with its 95 % confidence interval; low and high are None where there is none."""

    metric: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A monotone function by its knots; linear in between, constant outside."""

    scores: tuple[float, ...]
    frequencies: tuple[float, ...]

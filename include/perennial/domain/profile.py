"""What a model's data looked like: counts by bins and by categories, small enough to keep with every model.

A profile is made once, of the training rows, and of the scores on the holdout. What serves later is counted into the
same bins, so that no training data is needed to compare, and parts of a window can be counted apart and added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, TypeAdapter

from perennial.domain.json_values import finite

FURTHEST: Final = 30.0
"""Spreads: values further out, such as 1e308 or -9999, are taken as this far out when distances are computed. A few of
them would make the interval so wide that nothing else of their column could be seen."""

MaybeNan = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""JSON has no NaN: null stands for it in the store."""


class _Stored:
    """Base: to and from the JSON object that lies in the store."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; null for what is not finite."""
        return dict(finite(asdict(self)))  # type: ignore[call-overload]  # its heirs are dataclasses

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: fields are missing, of another type, or do not fit together.
        """
        found: Self = TypeAdapter(cls).validate_python(dict(values))
        return found


def _check_counts(column: str, counts: Sequence[int], length: int) -> None:
    if len(counts) != length or min(counts, default=0) < 0:
        raise ValueError(f"{column}: expected {length} counts of 0 or more, got {list(counts)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberProfile:
    """A column of numbers."""

    column: str
    edges: tuple[float, ...]
    """Inner edges of the bins, strictly increasing, b - 1 of them for b bins: halfway between neighbouring values of
    the reference, at its quantiles, so that bins hold about the same number of rows. Bin i is [edges[i-1], edges[i]);
    the outer ones have no end."""
    counts: tuple[int, ...]
    """Reference rows by bin, b of them."""
    missing: int
    """Null or NaN."""
    mean: MaybeNan
    """Of the finite values, as are the three below; NaN if there is none."""
    spread: float
    """The unit of distances: the standard deviation, of 100 values and more winsorised (the 0.1 % at either end pulled
    in to the next value); 0 for a constant, and where there is no value."""
    lowest: MaybeNan
    highest: MaybeNan
    means: tuple[MaybeNan, ...]
    """Of the reference's finite values in each bin, the furthest pulled in (`FURTHEST`); NaN if there is none."""
    varies_by: float = 0.0
    """What `perennial.domain.drift.least_effect` rarely is above for a stretch of the reference as long as a monitoring
    window: see `rarely_exceeded` there. 0: not known."""
    missing_varies_by: float = 0.0
    """The same with `least_missing_change`."""

    def __post_init__(self) -> None:
        _check_counts(self.column, self.counts, len(self.edges) + 1)
        if len(self.means) != len(self.counts):
            raise ValueError(f"{self.column}: {len(self.means)} means of {len(self.counts)} bins")
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError(f"{self.column}: edges must increase, got {list(self.edges)}")


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
    missing_varies_by: float = 0.0
    """As a number's."""

    def __post_init__(self) -> None:
        _check_counts(self.column, self.counts, len(self.levels))


ColumnProfile = NumberProfile | CategoryProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnCounts:
    """A stretch of rows, counted as one `ColumnProfile` says."""

    counts: NDArray[np.int64]
    """Rows that are not missing. Numbers: (b,) by bin, texts among them in the last one. Categories: (k + 1,) by level,
    the last one of all that the profile does not name."""
    missing: int
    total: float = 0.0
    """Numbers: sum of the finite values."""
    unseen: int = 0
    """Rows that have no like in the reference: numbers outside [lowest, highest] by more than the rounding of 32 bits,
    infinite ones among them, or texts where there should be numbers; categories outside `levels` when the reference has
    no others."""
    unreadable: int = 0
    """Numbers: infinite ones and texts, which are part of `unseen`. Categories: 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(_Stored):
    """The features of a training."""

    model: str
    fingerprint: str
    """Of the training."""
    rows: int
    columns: tuple[ColumnProfile, ...]
    slices: tuple[SliceProfile, ...] = ()
    stretch_s: float | None = None
    """Seconds: `varies_by` is of stretches as long as that, or longer where they had too few rows. None: not known."""
    slice_columns: tuple[str, ...] | None = None
    """What slices were asked for, also those without a level that had rows enough. None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceProfile:
    """The features of a training's rows that share one value."""

    column: str
    level: str
    rows: int
    columns: tuple[ColumnProfile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutProfile(_Stored):
    """How a model scored on the holdout that it was judged on."""

    model: str
    fingerprint: str
    rows: int
    holdout_sha256: str
    scores: tuple[NumberProfile, ...]
    """Of the predictions: of a regression one, `prediction`; of a binary classification one, the probability of the
    second class, `score`; of several classes one each, named as the class."""
    performance: tuple[MetricValue, ...]
    """The evaluation's own figures."""
    confidence: float
    """Of their intervals, two-sided, in (0, 1)."""
    calibration: tuple[Calibration, ...] = ()
    """From scores to frequencies, one for each of `scores`; empty for a regression."""
    stretch_s: float | None = None
    """As a training's."""
    classes: tuple[str | int | float | bool, ...] = ()
    """What the model's labels are called, in the order of its probabilities; empty for a regression."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A metric with its confidence interval; low and high are None where there is none."""

    metric: str
    value: float
    low: float | None
    high: float | None
    varies_by: float = 0.0
    """By how much stretches of the holdout as long as a monitoring window are surely worse than the whole: the better
    end of their own 95 % interval, as `perennial.domain.drift.rarely_exceeded` sums up. Of the primary metric; 0: not
    known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A monotone function by its knots; linear in between, constant outside."""

    scores: tuple[float, ...]
    frequencies: tuple[float, ...]

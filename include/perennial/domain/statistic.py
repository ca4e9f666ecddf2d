"""A value and how sure one can be of it: intervals of any confidence, and the p-values that agree with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from perennial.domain.evaluation import MetricComparison, MetricEstimate
from perennial.domain.intervals import Ends

LEAST_P: Final = 1e-9
"""No p-value is smaller: quantiles further out are not worth their digits."""
_HALVINGS: Final = 50
"""Of ln p between ln 1e-9 and ln 0.5: p is found to a relative 2e-14, less than rounding."""

Intervals = Callable[[float], Ends | None]
"""Two-sided confidence, in [0, 1), to the interval; None, at every confidence, if there is none."""


def no_interval(confidence: float) -> None:  # noqa: ARG001 - an `Intervals`
    """The `Intervals` of a value that nothing can be said about."""
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A value with its intervals."""

    value: float
    """NaN if it is undefined; then it has no interval either."""
    intervals: Intervals
    least: float = -math.inf
    largest: float = math.inf
    """Range of possible values; an interval does not reach past it."""

    def interval(self, confidence: float) -> Ends | None:
        """Two-sided, within the range; None if there is none."""
        ends = self.intervals(confidence) if math.isfinite(self.value) else None
        return None if ends is None else Ends(max(ends.low, self.least), min(ends.high, self.largest))

    def estimate(self, confidence: float) -> MetricEstimate:
        """The value and its interval, None for what is undefined."""
        value = self.value if math.isfinite(self.value) else None
        ends = self.interval(confidence)
        return MetricEstimate(
            value=value, low=None if ends is None else ends.low, high=None if ends is None else ends.high
        )

    def p_above(self, limit: float) -> float | None:
        """One-sided p-value of "the true value is at most `limit`": small means shown to be above.

        The smallest error level alpha at which the lower end of the interval (of two-sided confidence 1 - 2 * alpha) is
        above the limit, so that p < alpha exactly when that end clears the limit (Casella & Berger 2002, Statistical
        Inference, theorem 9.2.2: a test and its interval invert each other).

        In [`LEAST_P`, 0.5], or 1.0 for anything above one half; None without an interval. A bootstrap of b replicates
        cannot tell levels below about 1/b apart: once every replicate clears the limit, an interval of
        `perennial.domain.intervals` hangs on its jackknife part alone, and so does p.
        """
        return self._smallest_level(lambda ends: ends.low > limit)

    def p_below(self, limit: float) -> float | None:
        """One-sided p-value of "the true value is at least `limit`": small means shown to be below. See `p_above`."""
        return self._smallest_level(lambda ends: ends.high < limit)

    def _smallest_level(self, clears: Callable[[Ends], bool]) -> float | None:
        def clears_at(level: float) -> bool:
            ends = self.interval(1 - 2 * level)
            return ends is not None and clears(ends)

        if self.interval(0.0) is None:
            return None
        if not clears_at(0.5):
            return 1.0
        if clears_at(LEAST_P):
            return LEAST_P
        fails, holds = math.log(LEAST_P), math.log(0.5)
        for _ in range(_HALVINGS):
            middle = (fails + holds) / 2
            if clears_at(math.exp(middle)):
                holds = middle
            else:
                fails = middle
        return math.exp(holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """One metric of both models, and their difference, challenger minus champion."""

    challenger: Statistic
    champion: Statistic | None
    difference: Statistic | None
    """None without a champion."""
    replicates: int = 0
    """Of the bootstrap; 0 where a closed form served."""
    undefined: int = 0
    """Replicates in which the metric of the challenger, or of the champion, is undefined."""
    why_no_interval: str | None = None
    """See `perennial.domain.class_support`."""

    def comparison(self, name: str, confidence: float) -> MetricComparison:
        """The metric `name` with two-sided intervals of `confidence`."""
        return MetricComparison(
            metric=name,
            challenger=self.challenger.estimate(confidence),
            champion=None if self.champion is None else self.champion.estimate(confidence),
            difference=None if self.difference is None else self.difference.estimate(confidence),
            why_no_interval=self.why_no_interval,
        )

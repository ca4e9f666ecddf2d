"""Simulated nights of retraining: what each of the last 14 days says of tonight's challenger against the champion.

Not a benchmark; `gate_error.py` uses it. The figures are those of the flights (measured: docs/adr/0008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.comparison import jackknife_values

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

DAYS: Final = 14
"""Of a holdout."""
NIGHTLY_SD: Final = 0.0115
"""Standard deviation over days of the AUC difference's pseudo-values, champion and challenger trained a night apart."""
OLDEST: Final = 30
"""Nights apart from which on two models differ no more than that: the spread grows with the root of the nights."""
PERSISTENCE: Final = 0.966
"""Correlation of what one day says of tonight's and of tomorrow's challenger."""
SPREAD_AUTOCORRELATION: Final = 0.4
"""Of a day's own spread (a storm lasts), like that of the share of late flights."""
WITHIN: Final = 1.155
"""Standard deviation of the difference between two parts of a day, a whole day's being 1: halves correlate 0.5."""
ROW_SHARE: Final = 0.13
"""Share of a day's variance that comes from its rows, and grows as they get fewer (DeLong's over that by days)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """How noisy days are, and what challengers are worth."""

    autocorrelation: float = 0.2
    """Of neighbouring days' gains."""
    volatility: float = 0.4
    """Standard deviation of the logarithm of a day's spread: the tails. 0.4: kurtosis 2.7; 0.8: 35."""
    sd: float | None = None
    """A day's standard deviation whatever the champion's age; None for the one that grows with it."""
    gain: float = 0.0
    """True gain of each challenger from night `from_night` on; 0 before."""
    from_night: int = 1
    part: float = 1.0
    """How much of its newest day the holdout holds; of its oldest one it holds the rest."""
    sizes: tuple[float, ...] = ()
    """Relative number of rows of the days of a week; empty: all alike."""


class Nights:
    """Many independent model histories, night by night."""

    def __init__(self, world: World, count: int, seed: int) -> None:
        self.world = world
        self.count = count
        self.generator = np.random.default_rng(seed)
        self.night = 0
        self.age = np.zeros(count)
        """Nights since the champion was made."""
        self.length = DAYS if world.part == 1 else DAYS + 1
        self.noise = self._days(world.autocorrelation)
        self.spread = self._days(SPREAD_AUTOCORRELATION)
        self.within = self._days(0.0)

    def next(self) -> Floats:
        """(count, days) what each day by itself says of tonight's challengers, oldest first; see `share`."""
        self.night += 1
        self.age += 1
        if self.night > 1:
            kept = np.sqrt(1 - PERSISTENCE**2) * self._days(self.world.autocorrelation)[:, 1:]
            self.noise = self._shifted(PERSISTENCE * self.noise[:, 1:] + kept, self.world.autocorrelation)
            self.spread = self._shifted(self.spread[:, 1:], SPREAD_AUTOCORRELATION)
            kept = np.sqrt(1 - PERSISTENCE**2) * self._days(0.0)[:, 1:]
            self.within = self._shifted(PERSISTENCE * self.within[:, 1:] + kept, 0.0)
        volatility, part = self.world.volatility, self.world.part
        noise = self.noise.copy()
        if part < 1:  # the later part of the oldest day, the earlier one of the newest
            noise[:, 0] -= part * WITHIN * self.within[:, 0]
            noise[:, -1] += (1 - part) * WITHIN * self.within[:, -1]
        shape = noise * np.exp(volatility * self.spread - volatility**2)  # of mean square 1
        gain = self.world.gain if self.night >= self.world.from_night else 0.0
        return gain + self.sd()[:, None] * shape * np.sqrt(1 - ROW_SHARE + ROW_SHARE / self._sizes())

    def share(self) -> Floats:
        """(days,) each day's share of tonight's rows."""
        rows = self._sizes()
        if self.world.part < 1:
            rows[0] *= 1 - self.world.part
            rows[-1] *= self.world.part
        return rows / rows.sum()

    def pseudo_values(self, days: Floats) -> Floats:
        """(count, units) of the days that are over, by the product's formula."""
        share = self.share()
        whole = (days @ share)[:, None]
        values = jackknife_values(whole, (whole - days * share) / (1 - share), share)
        return values if self.world.part == 1 else values[:, :-1]

    def _sizes(self) -> Floats:
        """(days,) rows of whole days, relative to their mean."""
        if not self.world.sizes:
            return np.ones(self.length)
        week = np.array(self.world.sizes) / np.mean(self.world.sizes)
        return week[(self.night + np.arange(self.length)) % len(week)]

    def sd(self) -> Floats:
        """(count,) standard deviation over days."""
        if self.world.sd is not None:
            return np.full(self.count, self.world.sd)
        return NIGHTLY_SD * np.sqrt(np.minimum(self.age, OLDEST))

    def row_error(self) -> Floats:
        """(count,) standard error of the gain if rows were independent (DeLong on the flights: 0.0011 to 0.0037)."""
        return 0.00105 * (self.sd() / NIGHTLY_SD) ** 0.72

    def promote(self, which: Flags) -> None:
        """Tonight's challenger is champion from now on; against it the days say something new."""
        self.age[which] = 0
        fresh = self._days(self.world.autocorrelation)
        self.noise[which] = fresh[which]
        self.within[which] = self._days(0.0)[which]

    def _days(self, autocorrelation: float) -> Floats:
        drawn = self.generator.normal(size=(self.count, self.length))
        for day in range(1, self.length):
            drawn[:, day] = autocorrelation * drawn[:, day - 1] + np.sqrt(1 - autocorrelation**2) * drawn[:, day]
        return drawn

    def _shifted(self, older: Floats, autocorrelation: float) -> Floats:
        drawn = self.generator.normal(size=self.count)
        newest = autocorrelation * older[:, -1] + np.sqrt(1 - autocorrelation**2) * drawn
        return np.column_stack([older, newest])

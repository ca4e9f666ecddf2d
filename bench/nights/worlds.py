"""Simulated nights of retraining: what each of the last 14 days says of tonight's challenger against the champion.

Not a benchmark; `gate_error.py` uses it. The figures are those of the flights (measured: docs/adr/0008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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


class Nights:
    """Many independent model histories, night by night."""

    def __init__(self, world: World, count: int, seed: int) -> None:
        self.world = world
        self.count = count
        self.generator = np.random.default_rng(seed)
        self.night = 0
        self.age = np.zeros(count)
        """Nights since the champion was made."""
        self.noise = self._days(world.autocorrelation)
        self.spread = self._days(SPREAD_AUTOCORRELATION)

    def next(self) -> Floats:
        """(count, 14) pseudo-values of tonight's challengers, oldest day first; their means are the measured gains."""
        self.night += 1
        self.age += 1
        if self.night > 1:
            kept = np.sqrt(1 - PERSISTENCE**2) * self._days(self.world.autocorrelation)[:, 1:]
            self.noise = self._shifted(PERSISTENCE * self.noise[:, 1:] + kept, self.world.autocorrelation)
            self.spread = self._shifted(self.spread[:, 1:], SPREAD_AUTOCORRELATION)
        volatility = self.world.volatility
        shape = self.noise * np.exp(volatility * self.spread - volatility**2)  # of mean square 1
        gain = self.world.gain if self.night >= self.world.from_night else 0.0
        return gain + self.sd()[:, None] * shape

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

    def _days(self, autocorrelation: float) -> Floats:
        drawn = self.generator.normal(size=(self.count, DAYS))
        for day in range(1, DAYS):
            drawn[:, day] = autocorrelation * drawn[:, day - 1] + np.sqrt(1 - autocorrelation**2) * drawn[:, day]
        return drawn

    def _shifted(self, older: Floats, autocorrelation: float) -> Floats:
        drawn = self.generator.normal(size=self.count)
        newest = autocorrelation * older[:, -1] + np.sqrt(1 - autocorrelation**2) * drawn
        return np.column_stack([older, newest])

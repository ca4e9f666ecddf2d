"""Streams of rows whose changes are known, window by window, for `drift_quality.py`.

Each number's world is a latent normal value with an offset that depends on the window, and a function that makes it a
column as columns are: skewed, whole, mostly zero, partly missing. Labels hang on the latent values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

NUMBERS: Final = ("normal", "skewed", "whole", "often_zero", "bounded", "gaps", "heavy", "flag")
LEVELS: Final = {"few": 5, "many": 40}
WEIGHTS: Final = np.array([0.9, 0.7, 0.5, -0.4, 0, 0, 0, 0])
"""Of the latent values, for the logarithm of the label's odds."""
BASE: Final = -1.2
"""Of those odds where all latent values are 0: 29 % positives over all rows."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One window."""

    numbers: Mapping[str, Floats]
    categories: Mapping[str, Codes]
    scores: Floats
    """Probabilities of a model that was right before anything changed."""
    labels: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is different from window `at` on; it has its full size after `over` windows."""

    kind: str
    """`shift` and `spread` of the first number, `missing` of `gaps`, `mix` of `few`, `prior`, `concept`."""
    size: float
    """Of `shift` standard deviations, of `spread` the factor less 1, of `missing` and `mix` shares, of `prior` the
    share of positives that is added, of `concept` the part of the weights that turns around."""
    at: int = 0
    over: int = 1

    def now(self, window: int) -> float:
        """Its size in this window."""
        return self.size * min(1.0, max(0, window - self.at + 1) / self.over)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is normal."""

    rows: int = 1000
    """Of a window."""
    day: int = 1
    """Windows of a day; if there are several, offsets follow a sine with an amplitude of one spread."""
    week: float = 0.0
    """Spreads by which weekends differ."""
    persistence: float = 0.0
    """Correlation of neighbouring windows' offsets."""
    weather: float = 0.0
    """Standard deviation of those, in spreads."""


class Stream:
    """Windows in their order, from 0."""

    def __init__(self, world: World, seed: int, change: Change | None = None) -> None:
        self.world, self.change, self.window = world, change, 0
        self.random = np.random.default_rng(seed)
        self.offsets = world.weather * self.random.normal(size=len(NUMBERS) + len(LEVELS))

    def next(self) -> Rows:
        """The next window's rows."""
        offsets = self._offsets()
        numbers = len(NUMBERS)
        latent = self.random.normal(size=(self._rows(), numbers)) + offsets[:numbers]
        latent[:, 0] = latent[:, 0] * (1 + self._size("spread")) + self._size("shift")
        labels = self._labels(latent)
        latent, labels = self._by_prior(latent, labels)
        categories = {
            name: self._levels(name, levels, offset, len(latent))
            for (name, levels), offset in zip(LEVELS.items(), offsets[numbers:], strict=True)
        }
        scores = 1 / (1 + np.exp(-BASE - latent @ WEIGHTS))
        rows = Rows(self._columns(latent), categories, scores, labels)
        self.window += 1
        return rows

    def _size(self, kind: str) -> float:
        return self.change.now(self.window) if self.change is not None and self.change.kind == kind else 0.0

    def _rows(self) -> int:
        return self.world.rows * (3 if self._size("prior") else 1)

    def _offsets(self) -> Floats:
        world, kept = self.world, self.world.persistence
        noise = self.random.normal(size=len(self.offsets))
        self.offsets = kept * self.offsets + world.weather * np.sqrt(1 - kept**2) * noise
        day, hour = divmod(self.window, world.day)
        phase = np.sin(2 * np.pi * hour / world.day + np.arange(len(self.offsets))) if world.day > 1 else 0.0
        return np.asarray(self.offsets + phase + world.week * (day % 7 >= 5))

    def _labels(self, latent: Floats) -> Floats:
        weights = WEIGHTS.copy()
        weights[:2] *= 1 - 2 * self._size("concept")
        return (self.random.random(len(latent)) < 1 / (1 + np.exp(-BASE - latent @ weights))).astype(np.float64)

    def _by_prior(self, latent: Floats, labels: Floats) -> tuple[Floats, Floats]:
        """Rows drawn so that there are more positives, each class's own rows being what they were."""
        more = self._size("prior")
        if not more:
            return latent, labels
        share = labels.mean() + more
        chances = np.where(labels == 1, share / labels.sum(), (1 - share) / (1 - labels).sum())
        rows = self.random.choice(len(latent), size=self.world.rows, p=chances)
        return latent[rows], labels[rows]

    def _levels(self, name: str, levels: int, offset: float, rows: int) -> Codes:
        """Frequencies fall as in a harmonic series; an offset moves weight to the second half of the levels."""
        places = np.arange(levels)
        shares = 1 / (1 + places) * np.exp(0.5 * offset * (places >= levels // 2))
        shares /= shares.sum()
        if name == "few":
            shares = shares * (1 - self._size("mix"))
            shares[-1] += self._size("mix")
        return self.random.choice(levels, size=rows, p=shares)

    def _columns(self, latent: Floats) -> dict[str, Floats]:
        columns = dict(zip(NUMBERS, latent.T, strict=True))
        gone = self.random.random(len(latent)) < 0.2 + self._size("missing")
        return columns | {
            "skewed": np.exp(columns["skewed"]),
            "whole": np.round(3 * columns["whole"]),
            "often_zero": np.maximum(0.0, columns["often_zero"] - 1),
            "bounded": 1 / (1 + np.exp(-columns["bounded"])),
            "gaps": np.where(gone, np.nan, columns["gaps"]),
            "heavy": np.sinh(columns["heavy"]),
            "flag": (columns["flag"] > 1).astype(np.float64),
        }

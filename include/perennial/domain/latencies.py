"""Latencies counted by size, so that any number of them takes the same room and parts can be added up."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_LEAST_MS: Final = 0.01
_STEP: Final = 1.02
_BINS: Final = 1_000
"""Up to `_LEAST_MS * _STEP ** _BINS`, about an hour."""


class Latencies:
    """A histogram whose bins are 2 % wide, from 0.01 ms to an hour; what lies beyond counts in the outer ones."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_BINS, dtype=np.int64)

    def add(self, latency_ms: NDArray[np.float64]) -> None:
        """Count (n,) latencies; NaN ones are none."""
        known = latency_ms[~np.isnan(latency_ms)]
        with np.errstate(divide="ignore"):
            places = np.log(np.maximum(known, 0) / _LEAST_MS) / np.log(_STEP)
        self._counts += np.bincount(np.clip(places, 0, _BINS - 1).astype(np.intp), minlength=_BINS)

    def __add__(self, other: Latencies) -> Latencies:
        both = Latencies()
        both._counts = self._counts + other._counts
        return both

    def quantile(self, share: float) -> float | None:
        """Latency in ms that this share, in [0, 1], is not above: 1 % off at most; None if there are none."""
        whole = int(self._counts.sum())
        if not whole:
            return None
        place = np.searchsorted(np.cumsum(self._counts), max(1.0, np.ceil(share * whole)))
        return float(_LEAST_MS * _STEP ** (place + 0.5))

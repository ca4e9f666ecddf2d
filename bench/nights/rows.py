"""The nights of `nights.worlds`, simulated row by row and judged by the product's own code, beside each other.

Not a benchmark; `gate_error.py` uses it. Flights' figures: 900 rows a day, 24 % positive with a day-to-day standard
deviation of 0.15, AUC 0.70, logits of champion and challenger (two weeks apart) correlated 0.90.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from scipy.special import expit

from nights.worlds import DAYS, Flags, Floats, Nights, World
from perennial.domain.comparison import compare, pseudo_values
from perennial.domain.sequential import e_value

ROWS_A_DAY: Final = 900
SEPARATION: Final = 0.742
"""Distance of the classes' mean scores in standard deviations: an area of Phi(0.742 / sqrt(2)) = 0.70."""
SHARED: Final = 0.9
"""Share of the scores' variance that both models have in common."""
DAY_EFFECT: Final = 0.17
"""Standard deviation over days of the difference in separation: gives the day spread of models 14 nights apart."""
NIGHTS_APART: Final = 14
E_VALUE: Final = 4.0


def compare_with_rows(nights: int, clears: Callable[[Floats], Flags]) -> dict[str, dict[str, float]]:
    """What both simulations say of single nights between equal models; prints it side by side.

    Args:
        nights: how many are simulated row by row.
        clears: for (n, 14) pseudo-values, whether the interval over days lies above 0.
    """
    found = {"rows": _row_by_row(nights, np.random.default_rng(3)), "days": _day_by_day(20 * nights, clears)}
    print(f"\nNights between equal models, {NIGHTS_APART} nights apart: row by row ({nights} nights), and by days")
    for name, value in found["rows"].items():
        print(f"{name:54}{value:10.4f}{found['days'][name]:10.4f}")
    return found


def _summary(days: Floats, row_error: Floats, cleared: Flags) -> dict[str, float]:
    mean, error = days.mean(axis=1), days.std(axis=1, ddof=1) / np.sqrt(DAYS)
    studentised = mean / error
    found = {
        "standard deviation over days, median": float(np.median(days.std(axis=1, ddof=1))),
        "standard deviation of a night's gain": float(mean.std()),
        "standard error with independent rows, median": float(np.median(row_error)),
        "share of nights with a higher score": float((mean > 0).mean()),
        "share cleared, rows taken as independent": float((mean - 1.6449 * row_error > 0).mean()),
        "share cleared, interval over days": float(cleared.mean()),
        "standard deviation of gain / its error": float(studentised.std()),
        f"share of e-values of at least {E_VALUE:g}": float(np.mean([e_value(row) >= E_VALUE for row in days])),
    }
    return {name: round(value, 4) for name, value in found.items()}


def _row_by_row(nights: int, generator: np.random.Generator) -> dict[str, float]:
    days, errors, lows = np.empty((nights, DAYS)), np.empty(nights), np.empty(nights)
    effects = Nights(World(sd=1.0), nights, 4).next()  # the same autocorrelation and tails
    rates = Nights(World(sd=1.0, volatility=0.0, autocorrelation=0.4), nights, 5).next()
    day = np.repeat(np.arange(DAYS), ROWS_A_DAY)
    for night in range(nights):
        labels = (generator.random(len(day)) < expit(-1.35 + 0.85 * rates[night])[day]).astype(float)
        mine, theirs = _scores(labels, DAY_EFFECT * effects[night][day], generator)
        days[night] = pseudo_values("roc_auc", labels, mine, theirs, day)
        clustered = compare(["roc_auc"], labels, mine, theirs, day, replicates=1000, seed=night)["roc_auc"].difference
        alone = compare(["roc_auc"], labels, mine, theirs, None, replicates=0, seed=0)["roc_auc"].difference
        ends, row_ends = (None if found is None else found.interval(0.9) for found in (clustered, alone))
        if ends is None or row_ends is None:
            raise RuntimeError(f"night {night} has no interval")
        lows[night], errors[night] = ends.low, (row_ends.high - row_ends.low) / 2 / 1.6449
    return _summary(days, errors, lows > 0)


def _scores(labels: Floats, effect: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Equal on average by symmetry: what one separates better on a day, the other separates worse."""
    shared = np.sqrt(SHARED) * generator.normal(size=len(labels))
    own = np.sqrt(1 - SHARED) * generator.normal(size=(2, len(labels)))
    mine = labels * (SEPARATION + effect / 2) + shared + own[0]
    theirs = labels * (SEPARATION - effect / 2) + shared + own[1]
    return mine, theirs


def _day_by_day(nights: int, clears: Callable[[Floats], Flags]) -> dict[str, float]:
    history = Nights(World(), nights, 6)
    history.age += NIGHTS_APART - 1
    days = history.next()
    return _summary(days, history.row_error(), clears(days))

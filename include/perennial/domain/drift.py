"""How far a window's values are from the reference profile: by column, with direction and interval.

Everything is computed from counts by bin or level, so no window is ever held in memory; `perennial.domain.distances`
has the formulas. Effect and interval come first, significance second: of a million rows, everything is significant.

That the rows of one window share a day, a weather, a campaign, is not in the interval. It is what `varies_by` of a
profile is for: like is compared with like, a window's lower limit with those of stretches of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

import numpy as np

from perennial.domain.distances import (
    Counts,
    Floats,
    Pair,
    distance,
    interval,
    least_change,
    same_distribution,
    stability_index,
)
from perennial.domain.profile import FURTHEST, CategoryProfile, ColumnCounts, ColumnProfile, NumberProfile
from perennial.domain.wording import number

OTHER: Final = "other"
MIN_STRETCHES: Final = 5
_QUANTILE: Final = 0.98
_HEADROOM: Final = 4.0


class DriftLimits(Protocol):
    """Of `perennial.spec.monitoring.DriftRules`."""

    @property
    def min_effect(self) -> float:
        """Spreads of numbers, share of categories."""

    @property
    def min_missing_change(self) -> float:
        """Share."""

    @property
    def false_discovery_rate(self) -> float:
        """In (0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift:
    """One column of one window against the reference. Figures are None where a side has no values to compare."""

    column: str
    kind: Literal["number", "category"]
    rows: int
    """Of the window, missing values included."""
    effect: float | None
    """Numbers: first Wasserstein distance in spreads of the reference (of a constant reference: the share of other
    values). Categories: total variation, in [0, 1]. 0: the same. Values beyond the reference's range lie where
    their sum says, all to the side that it speaks for, `FURTHEST` spreads away at most: `unseen_share` tells how many
    there are."""
    low: float | None
    high: float | None
    """95 % confidence interval of the effect, both samples' errors in it."""
    limit: float
    """That `low` has to be above: the larger of the rule and what the column varies by itself."""
    distance: float | None
    """Numbers: first Wasserstein distance in spreads; None of categories and of a constant reference."""
    total_variation: float | None
    """Of bins or levels, in [0, 1]."""
    psi: float | None
    """Population stability index of bins or levels; for reading, nothing is decided by it."""
    shift: float | None
    """Numbers: the mean's change in spreads, signed, from the bins' means; its amount is at most the effect.
    Categories: change of the share of `towards`."""
    towards: str
    """`higher`, `lower`, or `otherwise` (moved both ways); of categories the level that grew most, "other" for all
    that the reference does not name; empty where nothing is to compare."""
    missing_share: float
    """Of the window, in [0, 1]."""
    missing_change: float
    """Against the reference, signed."""
    missing_low: float
    """Lower 95 % confidence limit of its amount; 0 or more."""
    missing_limit: float
    """That `missing_low` has to be above."""
    unseen_share: float
    """Of the values that are there, those with no like in the reference, in [0, 1]."""
    p_value: float | None
    """Of the same distribution, missing values as a class of their own, rows taken as independent (chi-square)."""
    q_value: float | None
    """Smallest false discovery rate among the window's columns at which the column counts as changed."""
    drifted: bool
    """Beyond one of the two limits, and significant."""
    strength: float
    """The larger of low / limit and missing_low / missing_limit: above 1 beyond a limit."""
    says: str
    """A phrase that follows the column's name: `higher by 1.80 spreads (1.71 to 1.89), limit 0.10`."""


def compare(
    columns: Sequence[ColumnProfile], counts: Mapping[str, ColumnCounts], rules: DriftLimits
) -> tuple[ColumnDrift, ...]:
    """The columns, in their order. False discoveries are controlled among them (Benjamini & Hochberg 1995).

    Raises:
        ValueError: counts of a column are not there, or not as many as the profile has bins or levels.
    """
    from scipy.stats import false_discovery_control

    found = [counts_of(column, counts) for column in columns]
    p_values = [_p_value(column, counted) for column, counted in zip(columns, found, strict=True)]
    tested = [p for p in p_values if p is not None]
    q_values = iter(false_discovery_control(tested).tolist() if tested else ())
    return tuple(
        _judged(column, counted, rules, p, None if p is None else next(q_values))
        for column, counted, p in zip(columns, found, p_values, strict=True)
    )


def least_effect(profile: ColumnProfile, counts: ColumnCounts) -> float | None:
    """`ColumnDrift.low` alone; None where a side has no values."""
    pair = _pair(profile, counts)
    return None if pair is None else interval(pair)[0]


def least_missing_change(profile: ColumnProfile, counts: ColumnCounts) -> float:
    """`ColumnDrift.missing_low` alone."""
    return least_change(*missing_of(profile, counts))


def rarely_exceeded(values: Sequence[float]) -> float:
    """What stretches of a reference make a limit of: their 98th percentile, times 1 + 4 / sqrt(how many there are).

    A new window would exceed a plain percentile as often as that says, in each of many columns, and a percentile of few
    stretches is itself uncertain. So there is headroom, more where there are few; with 60 stretches whose effects are
    about normal the limit is 3.2 standard deviations. The one odd stretch in fifty counts for little, unlike with the
    maximum. What it does to false alerts: `bench/drift_quality.py`.

    Args:
        values: `least_effect` or `least_missing_change` of each stretch: what a window's are compared with.

    Returns:
        0.0 if there are fewer than `MIN_STRETCHES`, which do not tell.
    """
    if len(values) < MIN_STRETCHES:
        return 0.0
    return float(np.quantile(values, _QUANTILE)) * (1 + _HEADROOM / math.sqrt(len(values)))


def missing_of(profile: ColumnProfile, counts: ColumnCounts) -> tuple[tuple[int, int], tuple[int, int]]:
    """(missing, rows) of the window and of the reference."""
    return (
        (counts.missing, int(counts.counts.sum()) + counts.missing),
        (profile.missing, int(_reference(profile).sum()) + profile.missing),
    )


def counts_of(profile: ColumnProfile, counts: Mapping[str, ColumnCounts]) -> ColumnCounts:
    """The column's. Raises ValueError: they are not there, or not as many as the profile has bins or levels."""
    found = counts.get(profile.column)
    if found is None:
        raise ValueError(f"column {profile.column}: the window has no counts of it; it has those of {sorted(counts)}")
    cells = len(_reference(profile))
    if found.counts.shape != (cells,):
        raise ValueError(
            f"column {profile.column}: the counts have shape {found.counts.shape}, and the profile {cells} bins or "
            "levels; count a window by the profile that it is compared with"
        )
    return found


def _reference(profile: ColumnProfile) -> Counts:
    others = (profile.other,) if isinstance(profile, CategoryProfile) else ()
    return np.asarray((*profile.counts, *others), dtype=np.int64)


def _pair(profile: ColumnProfile, counts: ColumnCounts) -> Pair | None:
    """None where a side has no values. A constant has no unit of distance: its value, and all others."""
    current, reference = counts.counts, _reference(profile)
    values, total = int(current.sum()), int(reference.sum())
    if 0 in (values, total):
        return None
    if isinstance(profile, CategoryProfile):
        return Pair(current, reference, None)
    if not profile.spread > 0:
        return Pair(np.array([values - counts.unseen, counts.unseen]), np.array([total, 0]), None)
    current, reference, means = _with_unseen(profile, counts, reference)
    return Pair(current, reference, means / profile.spread)


def _with_unseen(profile: NumberProfile, counts: ColumnCounts, reference: Counts) -> tuple[Counts, Counts, Floats]:
    """Both sides' counts and their places, with a cell more for values beyond the reference's range.

    The outer bins have no end, so their own means say nothing of a summer that is warmer than any day of the training.
    """
    current, means = counts.counts.copy(), np.asarray(profile.means, dtype=np.float64)
    beyond = counts.unseen - counts.unreadable
    readable = current.copy()
    readable[-1] -= counts.unreadable  # they are counted there, and have no place
    excess = counts.total - float(readable @ means)
    higher = excess > 0
    side = -1 if higher else 0
    moved = min(beyond, int(readable[side]))
    if moved <= 0 or not math.isfinite(excess):
        return current, reference, means
    way = 1.0 if higher else -1.0
    end_of_range = profile.highest if higher else profile.lowest
    away = max(abs(excess) / moved, abs(end_of_range - means[side]))
    place = means[side] + way * min(away, FURTHEST * profile.spread)
    current[side] -= moved
    end = len(means) if higher else 0
    return np.insert(current, end, moved), np.insert(reference, end, 0), np.insert(means, end, place)


def _p_value(profile: ColumnProfile, counts: ColumnCounts) -> float | None:
    """None where a side has no rows."""
    (missing, rows), (before, reference_rows) = missing_of(profile, counts)
    if 0 in (rows, reference_rows):
        return None
    pair = _pair(profile, counts)
    mine = [rows - missing] if pair is None else pair.current
    theirs = [reference_rows - before] if pair is None else pair.reference
    return same_distribution(np.array([*mine, missing]), np.array([*theirs, before]))


def _judged(
    profile: ColumnProfile, counts: ColumnCounts, rules: DriftLimits, p_value: float | None, q_value: float | None
) -> ColumnDrift:
    pair, (window, reference) = _pair(profile, counts), missing_of(profile, counts)
    low, high = (None, None) if pair is None else interval(pair)
    limit, missing_limit = _limits(profile, rules)
    missing_low = least_change(window, reference)
    strength = max((low or 0.0) / limit, missing_low / missing_limit)
    shift, towards = (None, "") if pair is None else _direction(profile, pair)
    found = ColumnDrift(
        column=profile.column,
        kind="number" if isinstance(profile, NumberProfile) else "category",
        rows=window[1],
        effect=None if pair is None else distance(pair),
        low=low,
        high=high,
        limit=limit,
        distance=None if pair is None or pair.places is None else distance(pair),
        total_variation=None if pair is None else float(0.5 * np.abs(pair.change).sum()),
        psi=None if pair is None else stability_index(pair),
        shift=shift,
        towards=towards,
        missing_share=_share(window),
        missing_change=_share(window) - _share(reference) if window[1] and reference[1] else 0.0,
        missing_low=missing_low,
        missing_limit=missing_limit,
        unseen_share=_share((counts.unseen, window[1] - window[0])),
        p_value=p_value,
        q_value=q_value,
        drifted=strength > 1 and q_value is not None and q_value <= rules.false_discovery_rate,
        strength=strength,
        says="",
    )
    return replace(found, says=_words(found))


def _share(part: tuple[int, int]) -> float:
    return part[0] / part[1] if part[1] else 0.0


def _limits(profile: ColumnProfile, rules: DriftLimits) -> tuple[float, float]:
    """Of the effect, and of the change of the missing share."""
    return max(rules.min_effect, profile.varies_by), max(rules.min_missing_change, profile.missing_varies_by)


def _direction(profile: ColumnProfile, pair: Pair) -> tuple[float | None, str]:
    """`shift` and `towards`."""
    if isinstance(profile, CategoryProfile):
        most = int(np.argmax(pair.change))
        return float(pair.change[most]), profile.levels[most] if most < len(profile.levels) else OTHER
    if pair.places is None:
        return None, "otherwise"
    shift = float(pair.change @ pair.places)
    one_way = abs(shift) >= 0.5 * distance(pair)
    return shift, ("higher" if shift > 0 else "lower") if one_way else "otherwise"


def _words(found: ColumnDrift) -> str:
    """Of the missing ones if those are beyond their limit, and further than the values; else of the values."""
    of_missing, of_values = found.missing_low / found.missing_limit, (found.low or 0.0) / found.limit
    if of_missing > max(1.0, of_values):
        before = found.missing_share - found.missing_change
        return (
            f"missing in {_percent(found.missing_share)} of the rows instead of {_percent(before)}, "
            f"limit of the change {_percent(found.missing_limit)}"
        )
    if found.effect is None or found.low is None or found.high is None:
        return "no values to compare"
    write, unit = (_percent, " of the values") if found.distance is None else (_spreads, " spreads")
    size = f"{write(found.effect)}{unit} ({write(found.low)} to {write(found.high)}), limit {write(found.limit)}"
    return f"{_change_word(found)} {size}" if found.drifted else f"no drift: {size}"


def _change_word(found: ColumnDrift) -> str:
    if found.kind == "category":
        return f"more {found.towards}:"
    if found.distance is None:
        return "no longer constant:"
    return "differently spread by" if found.towards == "otherwise" else f"{found.towards} by"


def _percent(share: float) -> str:
    return f"{number(100 * share, 1)} %"


def _spreads(value: float) -> str:
    return number(value, 2)

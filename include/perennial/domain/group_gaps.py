"""How far apart a metric is between groups, for both models, and whether the gap has grown beyond chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perennial.domain.bootstrap import Resampling, resample, value_range
from perennial.domain.class_support import too_little_of_a_class
from perennial.domain.metrics import Floats, metric
from perennial.domain.resampling import Codes, resampled
from perennial.domain.statistic import Statistic

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGaps:
    """A metric by group and model, and the gaps: the largest less the smallest of the groups' values."""

    challenger: Mapping[str, float]
    """By group; NaN for a group without rows, or in which the metric is undefined."""
    champion: Mapping[str, float] | None
    challenger_gap: Statistic
    """NaN if any group's value is: leaving a group out would only make the gap smaller."""
    champion_gap: Statistic | None
    increase: Statistic | None
    """Challenger's gap minus the champion's, on the same draws."""
    why_no_interval: str | None
    """Which group has too little of a class for intervals of the gaps, see `perennial.domain.class_support`."""


def group_gaps(
    name: str,
    groups: Mapping[str, Positions],
    labels: Floats,
    challenger: Floats,
    champion: Floats | None,
    clusters: Codes | None,
    *,
    replicates: int,
    seed: int,
) -> GroupGaps:
    """Gaps with intervals: whole clusters are drawn, the same ones for all groups and both models.

    A gap is never negative and a little too large by chance alone, the more so the smaller the groups; that bias is
    shared by both models and mostly cancels in the increase.

    Args:
        name: of the metric.
        groups: positions (0-based) of each group's rows; no row in two groups.
        labels: (n,), see `perennial.domain.metrics`.
        challenger: its scores, (n,) or (n, classes).
        champion: its scores, the same shape; None if there is no champion.
        clusters: (n,), each row's cluster as 0..k-1, every number in use; None: every row is one of its own.
        replicates: how many times the clusters are drawn.
        seed: of the draws.
    """
    codes, count = _codes_within(groups, np.arange(len(labels)) if clusters is None else clusters)
    models = [challenger] if champion is None else [challenger, champion]
    functions = [
        resampled(name, labels[rows], scores[rows], codes[group], count)
        for scores in models
        for group, rows in groups.items()
    ]
    drawn = iter(resample(functions, count, replicates=replicates, seed=seed))
    scarce = {
        group: too_little_of_a_class(name, labels[rows], None if clusters is None else clusters[rows])
        for group, rows in groups.items()
    }
    why_no_interval = next((f"{group} has {why}" for group, why in scarce.items() if why is not None), None)
    values, parts = [], []
    for scores in models:
        of_model = {group: metric(name, labels[rows], scores[rows]) for group, rows in groups.items()}
        replicated, without = zip(*(next(drawn) for _ in groups), strict=True)
        parts.append(
            Resampling(
                float(np.ptp(list(of_model.values()))),
                np.ptp(np.stack(replicated), axis=0),
                np.ptp(np.stack(without), axis=0),
            )
        )
        values.append(of_model)
    return _gaps(name, values, parts, count, why_no_interval)


def _codes_within(groups: Mapping[str, Positions], clusters: Codes) -> tuple[dict[str, Codes], int]:
    """Cluster codes of each group's rows, and how many clusters there are: those without such rows play no part."""
    used, codes = np.unique(clusters[np.concatenate(list(groups.values()))], return_inverse=True)
    ends = np.cumsum([len(rows) for rows in groups.values()])
    return dict(zip(groups, np.split(codes, ends[:-1]), strict=True)), len(used)


def _gaps(
    name: str, values: list[dict[str, float]], parts: list[Resampling], count: int, why_no_interval: str | None
) -> GroupGaps:
    least, largest = value_range(name)
    width, supported = largest - least, why_no_interval is None
    gaps = [part.statistic(count, 0.0, width, supported=supported) for part in parts]
    alone = len(parts) == 1
    increase = None
    if not alone:
        scale = max(abs(value) for of_model in values for value in of_model.values())
        increase = parts[0].minus(parts[1], scale).statistic(count, -width, width, supported=supported)
    return GroupGaps(
        challenger=values[0],
        champion=None if alone else values[1],
        challenger_gap=gaps[0],
        champion_gap=None if alone else gaps[1],
        increase=increase,
        why_no_interval=why_no_interval,
    )

"""Evidence by independent unit of time: what the gate adds up over many nights.

A unit is a value of `gate.cluster_by` where the column's values are stretches of time (days, weeks), else a UTC day.
The newest one is left out until it is over: its rows so far would stand for all of it, and the rest would never count.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from perennial.domain.comparison import pseudo_values
from perennial.domain.evaluation import UTC_DAY
from perennial.spec.model import ModelSpec
from perennial.stages.scoring import Scores
from perennial.stages.slices import MISSING_VALUE, Coded, coded

if TYPE_CHECKING:
    import pandas as pd

_DAY: Final = timedelta(days=1)
_MIDNIGHT: Final = re.compile(r"^(\d{4})-?(\d{2})-?(\d{2})(?:[ T]00:00(?::00(?:\.0+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?$")
_IN_PLACE: Final = 0.9
"""Least share of rows that lie between the middles of the clusters before and after theirs; the others are mistakes."""
_LEAST_SHARE: Final = 0.2
"""A unit with fewer rows than this share of the median unit's is left out: the window's start cut it off, or its rows
are strays. It would be almost nothing but noise."""

Units = tuple[tuple[str, float], ...]


def units_of(
    spec: ModelSpec, frame: pd.DataFrame, scores: Scores, clusters: Coded | None, end: datetime
) -> tuple[str, Units | None]:
    """What a unit is, and (label, pseudo-value) of each unit that counts, by label.

    None in place of the units: there is no champion, or a value is undefined.

    Args:
        spec: the model's.
        frame: the holdout.
        scores: of its rows.
        clusters: the column `gate.cluster_by`, if there is one.
        end: of the holdout window.
    """
    import pandas as pd

    times = pd.to_datetime(frame[spec.data.time_column], utc=True).reset_index(drop=True)
    column = spec.gate.cluster_by
    if column is not None and clusters is not None and _are_stretches_of_time(clusters, times):
        kind, units, is_over = column, _dated(clusters), _is_over(clusters, times, end)
    else:
        kind, units, is_over = UTC_DAY, _days(times), end >= times.max().floor("D") + _DAY
    if scores.champion is None:
        return kind, None
    values = pseudo_values(spec.evaluation.primary, scores.labels, scores.challenger, scores.champion, units.codes)
    counts = np.bincount(units.codes)
    used: NDArray[np.bool_] = counts >= _LEAST_SHARE * np.median(counts)
    used[_by_time(units, times)[-1]] &= is_over
    used &= np.array([text != MISSING_VALUE for text in units.texts])
    if not np.isfinite(values[used]).all():
        return kind, None
    return kind, tuple((units.texts[at], float(values[at])) for at in np.flatnonzero(used))


def _days(times: pd.Series) -> Coded:
    """Each row's UTC day, such as `2013-03-01`."""
    return _dated(coded(times.dt.floor("D")))


def _dated(clusters: Coded) -> Coded:
    """Days written alike, whether the column holds texts, dates, times or numbers: none may come back as another."""
    texts = tuple(_MIDNIGHT.sub(r"\1-\2-\3", text) for text in clusters.texts)
    return clusters if len(set(texts)) < len(texts) else Coded(codes=clusters.codes, texts=texts)


def _are_stretches_of_time(clusters: Coded, times: pd.Series) -> bool:
    """Whether one cluster follows the other, each a day or longer: customers, shops and hours do not."""
    days = (times.max().floor("D") - times.min().floor("D")) / _DAY + 1
    if len(clusters.texts) > days + 1:  # days by another clock touch one UTC day more
        return False
    middles = times.groupby(clusters.codes).median().iloc[_by_time(clusters, times)].reset_index(drop=True)
    place = np.argsort(_by_time(clusters, times))[clusters.codes]
    before, after = (middles.shift(step).iloc[place].reset_index(drop=True) for step in (1, -1))
    in_place = (before.isna() | (times > before)) & (after.isna() | (times < after))
    return bool(in_place.mean() >= _IN_PLACE)


def _is_over(clusters: Coded, times: pd.Series, end: datetime) -> bool:
    """Whether the newest cluster has lasted up to `end` as long as the longest of the others, from its first row on.

    The oldest one says nothing of that: the window's start may have cut it off.
    """
    by_cluster, order = times.groupby(clusters.codes), _by_time(clusters, times)
    first = by_cluster.min()
    lasted = (by_cluster.max() - first)[order[1:-1]]
    return bool(len(lasted) > 0 and end - first[order[-1]] >= lasted.max())


def _by_time(units: Coded, times: pd.Series) -> NDArray[np.intp]:
    """(k,) units from old to new, by their median row."""
    return np.argsort(times.groupby(units.codes).median().to_numpy(), kind="stable")

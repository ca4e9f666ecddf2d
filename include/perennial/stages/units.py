"""Evidence by independent unit of time: what the gate adds up over many nights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from perennial.domain.comparison import pseudo_values
from perennial.spec.model import ModelSpec
from perennial.stages.scoring import Scores
from perennial.stages.slices import Coded, coded

if TYPE_CHECKING:
    import pandas as pd

MAX_CLUSTERS: Final = 200
"""With more clusters they are customers or the like, not stretches of time: then the unit is the UTC day."""


def units_of(
    spec: ModelSpec, frame: pd.DataFrame, scores: Scores, clusters: Coded | None
) -> tuple[tuple[str, float], ...] | None:
    """(label, pseudo-value) of each unit, by label; None without a champion, or if any value is undefined.

    Args:
        spec: the model's.
        frame: the holdout.
        scores: of its rows.
        clusters: the column `gate.cluster_by`, if there is one.
    """
    if scores.champion is None:
        return None
    units = clusters
    if units is None or len(units.texts) > MAX_CLUSTERS:
        units = _days(frame[spec.data.time_column])
    values = pseudo_values(spec.evaluation.primary, scores.labels, scores.challenger, scores.champion, units.codes)
    if not np.isfinite(values).all():
        return None
    return tuple(zip(units.texts, values.tolist(), strict=True))


def _days(times: pd.Series) -> Coded:
    """Each row's UTC day, such as `2013-03-01`."""
    import pandas as pd

    found = coded(pd.to_datetime(times, utc=True).dt.floor("D"))
    return Coded(codes=found.codes, texts=tuple(text[:10] for text in found.texts))

"""Whether each class occurs often enough for the interval of a metric of the order of scores."""

from __future__ import annotations

from typing import Final

import numpy as np

from perennial.domain.metrics import RANK_METRICS, Floats
from perennial.domain.resampling import Codes
from perennial.domain.wording import counted, more_needed

MIN_CLASS_ROWS: Final = 10
"""With fewer rows of one class there is no interval: Brunner & Munzel 2000 found their approximation fit from 10 on,
and two positives that a model happens to rank first would look like certainty in a bootstrap, too."""
MIN_CLASS_CLUSTERS: Final = 5
"""Clusters, or all of them if there are fewer, that have to hold rows of each class: those that hold none say nothing,
and an interval's degrees of freedom would count them (Carter, Schnepel & Steigerwald 2017, Rev. Econ. Stat.
99:698-709, on the effective number of clusters). Five is also what `gate.min_clusters` asks for unless told."""


def too_little_of_a_class(name: str, labels: Floats, clusters: Codes | None) -> str | None:
    """Why the metric `name` gets no interval, as a sentence; None if the classes are no obstacle.

    Args:
        name: of `METRICS`; those that are functions of sums over rows need no class in particular.
        labels: (n,) of 0 and 1; what is neither makes the metric undefined in any case.
        clusters: (n,), each row's cluster; None: rows are independent.
    """
    if name not in RANK_METRICS:
        return None
    asked = f"an interval of {name} takes at least"
    for value, title in ((1, "positive"), (0, "negative")):
        of_class = labels == value
        rows = int(of_class.sum())
        if rows < MIN_CLASS_ROWS:
            return (
                f"{counted(rows, 'row')} of the {title} class, and {asked} {MIN_CLASS_ROWS}: "
                f"{more_needed(MIN_CLASS_ROWS - rows)}"
            )
        if clusters is None:
            continue
        least = min(MIN_CLASS_CLUSTERS, len(np.unique(clusters)))
        held = len(np.unique(clusters[of_class]))
        if held < least:
            return (
                f"rows of the {title} class in {counted(held, 'cluster')}, and {asked} {least}: "
                f"{more_needed(least - held)}"
            )
    return None

"""What evaluate measures within parts of the holdout: slices, and the fairness rules' groups.

The rows of one slice column's values add up to the holdout, so that a column costs about as much as the primary metric
on the whole, and some milliseconds a value (2 with 14 clusters, 100 with 500 in each); `MAX_SLICE_VALUES` bounds those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from perennial.domain.comparison import compare
from perennial.domain.evaluation import FairnessResult, GroupValues, MetricEstimate, SliceResult
from perennial.domain.fingerprint import finite_or_none
from perennial.domain.group_gaps import Positions, group_gaps
from perennial.domain.metric_names import METRICS
from perennial.domain.metrics import metric
from perennial.domain.resampling import Codes
from perennial.domain.statistic import Statistic
from perennial.spec.model import ModelSpec
from perennial.spec.parts import FairnessRule
from perennial.stages.scoring import Scores

if TYPE_CHECKING:
    import pandas as pd

MISSING_VALUE: Final = "(missing)"
MAX_SLICE_VALUES: Final = 200
"""Values of one slice column that are measured: those with the most rows, and all that are required."""
MIN_INTERVAL_ROWS: Final = 100
"""Without `gate.slices`, a slice with fewer rows is shown without an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """A column as text: each row's value as a position in `texts`."""

    codes: Codes
    """(n,), every number in use."""
    texts: tuple[str, ...]
    """In their order; `MISSING_VALUE` for what is missing."""

    def rows_by_text(self) -> dict[str, Positions]:
        """Positions (0-based, ascending) of each value's rows."""
        order = np.argsort(self.codes, kind="stable")
        ends = np.cumsum(np.bincount(self.codes, minlength=len(self.texts)))
        return dict(zip(self.texts, np.split(order, ends[:-1]), strict=True))


@dataclass(slots=True)
class Slices:
    """What was measured, what should be said about it, and what forbids a promotion."""

    results: list[SliceResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)


def coded(column: pd.Series) -> Coded:
    """The column's values as text. A whole number reads the same as integer and as float: `7`, not `7.0`."""
    import pandas as pd

    raw, values = pd.factorize(column.array)
    listed = np.asarray(values, dtype=object).tolist()
    whole = all(isinstance(value, float) and value.is_integer() for value in listed)
    texts = [str(int(value) if whole else value) for value in listed] + [MISSING_VALUE] * bool((raw < 0).any())
    names, position = np.unique(np.array(texts, dtype=str), return_inverse=True)
    return Coded(codes=position[raw], texts=tuple(names.tolist()))  # missing: code -1, the last text


def measure_slices(
    spec: ModelSpec, frame: pd.DataFrame, scores: Scores, clusters: Codes | None, *, confidence: float, seed: int
) -> Slices:
    """The primary metric by slice: largest first, then required values that do not occur.

    Args:
        spec: the model's.
        frame: the holdout.
        scores: of its rows.
        clusters: (n,), as in `perennial.domain.comparison.compare`; within a slice only its own are drawn.
        confidence: two-sided.
        seed: of the draws.
    """
    found = Slices()
    rules = spec.gate.slices
    least = MIN_INTERVAL_ROWS if rules is None else rules.min_rows
    for column in spec.evaluation.slices:
        required = () if rules is None else rules.required.get(column, ())
        rows_by_value = coded(frame[column]).rows_by_text()
        by_size = sorted(rows_by_value, key=lambda value: (-len(rows_by_value[value]), value))
        shown = [value for place, value in enumerate(by_size) if place < MAX_SLICE_VALUES or value in required]
        if len(shown) < len(by_size):
            found.notes.append(
                f"Of {len(by_size):,} values of {column}, the {len(shown)} with the most rows are shown."
            )
        unjudged = sum(len(rows_by_value[value]) >= least for value in by_size if value not in shown)
        if rules is not None and unjudged:
            found.defects.append(
                f"{column} has {len(shown) + unjudged:,} values with at least {least:,} rows, more than the "
                f"{MAX_SLICE_VALUES} that can be judged: raise gate.slices.min_rows."
            )
        for value in shown:
            rows, judged = rows_by_value[value], len(rows_by_value[value]) >= least or value in required
            within = _within(clusters, rows)
            found.results.append(
                _slice(spec, column, value, scores.of(rows), within, confidence, seed)
                if judged
                else _small_slice(spec, column, value, scores.of(rows))
            )
        found.results += [
            SliceResult(column=column, value=value, rows=0, challenger=None, champion=None)
            for value in required
            if value not in rows_by_value
        ]
    return found


def measure_fairness(
    spec: ModelSpec, frame: pd.DataFrame, scores: Scores, clusters: Codes | None, *, confidence: float, seed: int
) -> Iterator[FairnessResult]:
    """One result for each of `gate.fairness`; see `measure_slices`."""
    for rule in spec.gate.fairness:
        rows = coded(frame[rule.column]).rows_by_text()
        groups = {group: rows.get(group, np.empty(0, dtype=np.intp)) for group in rule.groups}
        yield _fairness(spec, rule, groups, scores, clusters, confidence, seed)


def _slice(
    spec: ModelSpec, column: str, value: str, scores: Scores, clusters: Codes | None, confidence: float, seed: int
) -> SliceResult:
    name, rules = spec.evaluation.primary, spec.gate.slices
    pair = compare(
        [name],
        scores.labels,
        scores.challenger,
        scores.champion,
        clusters,
        replicates=spec.gate.replicates,
        seed=seed,
    )[name]
    gap, mine = pair.difference, pair.challenger.estimate(confidence)
    p_safe, p_harm = (None, None) if gap is None or rules is None else _p_values(name, gap, rules.margin)
    return SliceResult(
        column=column,
        value=value,
        rows=len(scores.labels),
        challenger=mine.value,
        champion=None if pair.champion is None else finite_or_none(pair.champion.value),
        challenger_low=mine.low,
        challenger_high=mine.high,
        difference=None if gap is None else gap.estimate(confidence),
        p_safe=p_safe,
        p_harm=p_harm,
        why_no_interval=pair.why_no_interval,
    )


def _p_values(name: str, gap: Statistic, margin: float) -> tuple[float | None, float | None]:
    """Of "worse by the margin or more", and of "worse by less"."""
    if METRICS[name].higher_is_better:
        return gap.p_above(-margin), gap.p_below(-margin)
    return gap.p_below(margin), gap.p_above(margin)


def _small_slice(spec: ModelSpec, column: str, value: str, scores: Scores) -> SliceResult:
    name = spec.evaluation.primary
    mine = metric(name, scores.labels, scores.challenger)
    theirs = math.nan if scores.champion is None else metric(name, scores.labels, scores.champion)
    return SliceResult(
        column=column,
        value=value,
        rows=len(scores.labels),
        challenger=finite_or_none(mine),
        champion=finite_or_none(theirs),
        difference=None
        if scores.champion is None
        else MetricEstimate(value=finite_or_none(mine - theirs), low=None, high=None),
    )


def _fairness(
    spec: ModelSpec,
    rule: FairnessRule,
    groups: dict[str, Positions],
    scores: Scores,
    clusters: Codes | None,
    confidence: float,
    seed: int,
) -> FairnessResult:
    name = rule.metric or spec.evaluation.primary
    gaps = group_gaps(
        name,
        groups,
        scores.labels,
        scores.challenger,
        scores.champion,
        clusters,
        replicates=spec.gate.replicates,
        seed=seed,
    )
    return FairnessResult(
        column=rule.column,
        metric=name,
        groups=tuple(
            GroupValues(
                group=group,
                rows=len(rows),
                challenger=finite_or_none(gaps.challenger[group]),
                champion=None if gaps.champion is None else finite_or_none(gaps.champion[group]),
            )
            for group, rows in groups.items()
        ),
        challenger_gap=gaps.challenger_gap.estimate(confidence),
        champion_gap=None if gaps.champion_gap is None else gaps.champion_gap.estimate(confidence),
        increase=None if gaps.increase is None else gaps.increase.estimate(confidence),
        why_no_interval=gaps.why_no_interval,
    )


def _within(clusters: Codes | None, rows: Positions) -> Codes | None:
    """Cluster codes of some rows, every number in use."""
    return None if clusters is None else np.unique(clusters[rows], return_inverse=True)[1]

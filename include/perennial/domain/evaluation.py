"""What evaluate measured: the gate's only input beside the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

UTC_DAY: Final = "UTC day"
"""`EvaluationResult.unit` where no column tells the stretches of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricEstimate:
    """A value with the ends of its interval. None stands for what could not be computed (NaN)."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One metric on the holdout, for both models, and the paired difference challenger minus champion."""

    metric: str
    challenger: MetricEstimate
    champion: MetricEstimate | None
    difference: MetricEstimate | None
    """In the metric's own unit and sign. None when there is no champion."""
    why_no_interval: str | None = None
    """What the holdout has too little of for an interval, to be read after "has"; None: it has enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceResult:
    """The primary metric within one value of one slice column."""

    column: str
    value: str
    rows: int
    challenger: float | None
    champion: float | None
    challenger_low: float | None = None
    challenger_high: float | None = None
    """Interval of the challenger's own value."""
    difference: MetricEstimate | None = None
    """Challenger minus champion. None without a champion, and without an interval where the slice is too small."""
    p_safe: float | None = None
    """One-sided p-value of "worse by `gate.slices.margin` or more": small means shown not to be. None: not computed."""
    p_harm: float | None = None
    """One-sided p-value of "worse by less than the margin": small means shown to be worse than that."""
    why_no_interval: str | None = None
    """As in `MetricComparison`, of this slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValues:
    """A metric within one group."""

    group: str
    rows: int
    challenger: float | None
    champion: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessResult:
    """What one `FairnessRule` found: the gap is the largest less the smallest of the groups' values."""

    column: str
    metric: str
    groups: tuple[GroupValues, ...]
    """In the rule's order, also those without rows."""
    challenger_gap: MetricEstimate
    champion_gap: MetricEstimate | None
    increase: MetricEstimate | None
    """Challenger's gap minus the champion's, paired. None without a champion."""
    why_no_interval: str | None = None
    """As in `MetricComparison`, of the first group that has too little; with the group's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model costs to serve. None: not measured."""

    latency_p95_ms: float | None
    """95th percentile of predicting one row, in this process, while both models took turns."""
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """How a binary classifier's scores behave on the holdout."""

    roc: tuple[tuple[float, float], ...]
    """(false positive rate, true positive rate), from (0, 0) to (1, 1), at most 101 points."""
    calibration: tuple[tuple[float, float, int], ...]
    """(mean predicted probability, share of positives, rows) of up to 10 groups of equal size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Champion and challenger on one holdout."""

    model: str
    champion_version: str | None
    rows: int
    clusters: int
    """Values of `gate.cluster_by`; without that column rows are independent, and this is the number of rows."""
    confidence: float
    """Two-sided confidence of every interval here: 2 * gate.rule.confidence - 1, so that its one-sided end has
    the rule's confidence."""
    comparisons: Mapping[str, MetricComparison]
    """By metric name."""
    slices: tuple[SliceResult, ...]
    holdout: tuple[str, str]
    """Start and end of the holdout window, ISO 8601."""
    holdout_sha256: str
    challenger: Mapping[str, Any]
    """`ModelRef.to_dict()`."""
    champion: Mapping[str, Any] | None
    """`ModelRef.to_dict()` of the champion."""
    defects: tuple[str, ...] = ()
    """What is wrong with the challenger itself, a sentence each (scores that are not finite, one score for every row).
    Any of them forbids a promotion, whatever the numbers say."""
    notes: tuple[str, ...] = ()
    """What else a person should know, a sentence each (labels missing, replicates undefined)."""
    units: tuple[tuple[str, float], ...] | None = None
    """Evidence by independent unit of time: its label and the jackknife pseudo-value of the primary metric's
    difference, challenger minus champion: what the unit alone says of it. By label; those that are not over are left
    out. None without a champion, or where they cannot be computed. See `perennial.domain.sequential`."""
    unit: str = UTC_DAY
    """What a unit is: `UTC_DAY`, or the cluster column whose values are stretches of time."""
    fairness: tuple[FairnessResult, ...] = ()
    """In the order of `gate.fairness`."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """By `challenger` and `champion`; empty if the gate has no cost rules."""
    curves: Mapping[str, Curves] = field(default_factory=dict)
    """By `challenger` and `champion`; binary classification only."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict` through JSON."""
        comparisons = {
            name: MetricComparison(
                metric=given["metric"],
                challenger=MetricEstimate(**given["challenger"]),
                champion=_estimate(given["champion"]),
                difference=_estimate(given["difference"]),
                why_no_interval=given.get("why_no_interval"),
            )
            for name, given in values["comparisons"].items()
        }
        slices = tuple(
            SliceResult(**{**given, "difference": _estimate(given.get("difference"))}) for given in values["slices"]
        )
        units = values.get("units")
        start, end = values["holdout"]
        texts = {name: tuple(values.get(name, ())) for name in ("defects", "notes")}
        return cls(
            **{
                **values,
                **texts,
                "comparisons": comparisons,
                "slices": slices,
                "holdout": (start, end),
                "units": None if units is None else tuple((str(label), float(value)) for label, value in units),
                "fairness": tuple(_fairness(given) for given in values.get("fairness", ())),
                "costs": {who: Cost(**given) for who, given in values.get("costs", {}).items()},
                "curves": {who: _curves(given) for who, given in values.get("curves", {}).items()},
            }
        )


def _estimate(given: Mapping[str, Any] | None) -> MetricEstimate | None:
    return None if given is None else MetricEstimate(**given)


def _fairness(given: Mapping[str, Any]) -> FairnessResult:
    return FairnessResult(
        column=given["column"],
        metric=given["metric"],
        groups=tuple(GroupValues(**group) for group in given["groups"]),
        challenger_gap=MetricEstimate(**given["challenger_gap"]),
        champion_gap=_estimate(given["champion_gap"]),
        increase=_estimate(given["increase"]),
        why_no_interval=given.get("why_no_interval"),
    )


def _curves(given: Mapping[str, Any]) -> Curves:
    return Curves(
        roc=tuple((float(x), float(y)) for x, y in given["roc"]),
        calibration=tuple((float(p), float(share), int(rows)) for p, share, rows in given["calibration"]),
    )

"""What evaluate measured: the gate's only input beside the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceResult:
    """The primary metric within one value of one slice column."""

    column: str
    value: str
    rows: int
    challenger: float | None
    champion: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Champion and challenger on one holdout."""

    model: str
    champion_version: str | None
    rows: int
    clusters: int
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of `dataclasses.asdict` through JSON."""

        def estimate(given: Mapping[str, Any] | None) -> MetricEstimate | None:
            return None if given is None else MetricEstimate(**given)

        comparisons = {
            name: MetricComparison(
                metric=given["metric"],
                challenger=MetricEstimate(**given["challenger"]),
                champion=estimate(given["champion"]),
                difference=estimate(given["difference"]),
            )
            for name, given in values["comparisons"].items()
        }
        slices = tuple(SliceResult(**given) for given in values["slices"])
        start, end = values["holdout"]
        texts = {name: tuple(values.get(name, ())) for name in ("defects", "notes")}
        return cls(**{**values, "comparisons": comparisons, "slices": slices, "holdout": (start, end), **texts})

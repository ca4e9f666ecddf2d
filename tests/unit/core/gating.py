"""Evaluations and histories by hand, for the tests of the gate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from perennial.domain.evaluation import (
    Cost,
    EvaluationResult,
    FairnessResult,
    GroupValues,
    MetricComparison,
    MetricEstimate,
    SliceResult,
)
from perennial.domain.gate import Decision, RuleOutcome, decide
from perennial.domain.gate_history import GateHistory, Reign
from perennial.domain.metric_names import METRICS
from perennial.spec.parts import Gate

NOW = datetime(2013, 7, 1, 2, tzinfo=UTC)
DAY = timedelta(days=1)
SUPERIORITY = {"kind": "superiority", "min_effect": 0.002, "confidence": 0.95}
NON_INFERIORITY = {"kind": "non_inferiority", "margin": 0.01, "confidence": 0.95}
COST = {"max_latency_p95_ms": 50, "max_latency_ratio": 2, "max_size_mib": 10, "max_size_ratio": 3}
FAIRNESS = [{"column": "region", "groups": ["north", "south"], "max_gap": 0.1, "max_increase": 0.05}]
SLICES = {"margin": 0.03, "floor": 0.5, "min_rows": 100, "required": {"origin": ["JFK"]}}


def gate(rule: dict[str, Any] = SUPERIORITY, **given: Any) -> Gate:
    return Gate.model_validate({"rule": rule, "cluster_by": "service_date", "floors": {}, **given})


def estimate(value: float | None, low: float | None = None, high: float | None = None) -> MetricEstimate:
    return MetricEstimate(value=value, low=low, high=high)


def comparison(
    metric: str = "roc_auc",
    gap: tuple[float | None, float | None, float | None] = (0.036, 0.025, 0.048),
    base: float = 0.676,
) -> MetricComparison:
    return MetricComparison(
        metric=metric,
        challenger=estimate(base + (gap[0] or 0.0), 0.69, 0.73),
        champion=estimate(base, 0.66, 0.69),
        difference=estimate(*gap),
    )


def evaluation(found: MetricComparison | None = None, **given: Any) -> EvaluationResult:
    """A challenger that is better; its training data ends 20 days after the champion's."""
    found = found or comparison()
    values: dict[str, Any] = {
        "model": "flights_delay",
        "champion_version": "3",
        "rows": 12_345,
        "clusters": 14,
        "confidence": 0.9,
        "comparisons": {found.metric: found},
        "slices": (),
        "holdout": ("2013-03-01T00:00:00Z", "2013-03-15T00:00:00Z"),
        "holdout_sha256": "h",
        "challenger": {"digest": "new", "training_end": "2013-02-28T00:00:00Z"},
        "champion": {"digest": "old", "training_end": "2013-02-08T00:00:00Z"},
    }
    return EvaluationResult(**{**values, **given})


def alone(value: float | None = 0.7, **given: Any) -> EvaluationResult:
    """An evaluation without a champion."""
    found = MetricComparison(metric="roc_auc", challenger=estimate(value, 0.6, 0.8), champion=None, difference=None)
    return evaluation(found, champion_version=None, champion=None, **given)


def history(*reigns: Reign, **given: Any) -> GateHistory:
    return GateHistory(**{"as_of": NOW, "reigns": reigns, **given})


def reign(version: str | None, days_ago: float, how: str = "promotion") -> Reign:
    return Reign(version=version, since=NOW - days_ago * DAY, how=how)


def part(
    value: str = "JFK",
    gap: float | None = 0.03,
    *,
    column: str = "origin",
    rows: int = 500,
    p_safe: float | None = 0.0001,
    p_harm: float | None = 0.9999,
    base: float = 0.7,
) -> SliceResult:
    return SliceResult(
        column=column,
        value=value,
        rows=rows,
        challenger=None if gap is None else base + gap,
        champion=base,
        challenger_low=0.65,
        challenger_high=0.75,
        difference=None if gap is None else estimate(gap, gap - 0.02, gap + 0.02),
        p_safe=p_safe,
        p_harm=p_harm,
    )


def groups(
    gap: float | None = 0.05,
    before: float = 0.04,
    reach: float = 0.02,
    *,
    metric: str = "roc_auc",
    names: tuple[str, str] = ("north", "south"),
    rows: tuple[int, int] = (400, 300),
) -> FairnessResult:
    values = [0.7, None if gap is None else 0.7 + gap]
    increase = None if gap is None else estimate(gap - before, gap - before - reach, gap - before + reach)
    return FairnessResult(
        column="region",
        metric=metric,
        groups=tuple(
            GroupValues(group=name, rows=count, challenger=value, champion=0.7)
            for name, count, value in zip(names, rows, values, strict=True)
        ),
        challenger_gap=estimate(gap, gap, gap),
        champion_gap=estimate(before, before, before),
        increase=increase,
    )


def costs(latency: float | None = 10.0, size: int | None = 2**20, **champion: Any) -> dict[str, Cost]:
    theirs = {"latency_p95_ms": 8.0, "size_bytes": 2**20, **champion}
    return {"challenger": Cost(latency_p95_ms=latency, size_bytes=size), "champion": Cost(**theirs)}


def units(gain: float = 0.04, count: int = 20, metric: str = "roc_auc", spread: float = 0.01) -> tuple[Any, ...]:
    """Daily gains around `gain` in the metric's better direction."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    days = [(NOW - (count - n) * DAY).date().isoformat() for n in range(count)]
    return tuple((day, sign * (gain + (spread if n % 2 else -spread))) for n, day in enumerate(days))


def everything() -> Gate:
    """A gate with every kind of rule."""
    return gate(
        floors={"roc_auc": 0.55},
        false_promotions={"budget": 0.05, "period_days": 90},
        slices=SLICES,
        fairness=FAIRNESS,
        cost=COST,
        min_tenure="3d",
        max_promotions_per_week=2,
    )


def in_order(**given: Any) -> EvaluationResult:
    """An evaluation that `everything` promotes."""
    values: dict[str, Any] = {
        "slices": (part("JFK"), part("EWR"), part("LGA", rows=20, p_safe=None, p_harm=None)),
        "fairness": (groups(),),
        "costs": costs(),
        "units": units(),
    }
    return evaluation(**{**values, **given})


def past() -> GateHistory:
    """A history that `everything` promotes with."""
    return history(reign("2", 40), reign("3", 20))


def judge(
    given: EvaluationResult,
    policy: Gate | None = None,
    primary: str = "roc_auc",
    before: GateHistory | None = None,
    **how: Any,
) -> Decision:
    return decide(policy or gate(), given, primary=primary, history=before or history(), **how)


def rule(decision: Decision, name: str) -> RuleOutcome:
    """The only rule of this name."""
    (found,) = [outcome for outcome in decision.rules if outcome.name == name]
    return found


def aged(given: EvaluationResult, days: float | None) -> EvaluationResult:
    """The champion's training data ends that many days before the challenger's; None: it is not said."""
    end = None if days is None else (datetime(2013, 2, 28, tzinfo=UTC) - days * DAY).isoformat()
    return replace(given, champion={"digest": "old", **({} if end is None else {"training_end": end})})

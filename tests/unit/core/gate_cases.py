"""Cases for the properties of the gate: one that deserves it, all the ways to wreck it, and any mix of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from perennial.domain.evaluation import EvaluationResult, MetricComparison
from perennial.domain.gate import Decision, decide
from perennial.domain.gate_history import GateHistory, LostEvidence
from perennial.domain.metric_names import METRICS
from perennial.spec.parts import Gate
from tests.unit.core.gating import (
    COST,
    FAIRNESS,
    NOW,
    SLICES,
    comparison,
    costs,
    estimate,
    evaluation,
    gate,
    groups,
    history,
    part,
    reign,
    units,
)

PRIMARIES = st.sampled_from(["roc_auc", "log_loss", "rmse", "r2"])


@dataclass(frozen=True)
class Case:
    """Everything that `decide` is asked with."""

    gate: Gate
    evaluation: EvaluationResult
    primary: str
    history: GateHistory
    columns: tuple[str, ...] = ("origin",)

    def decide(self) -> Decision:
        return decide(
            self.gate, self.evaluation, primary=self.primary, history=self.history, slice_columns=self.columns
        )


OPTIONS: dict[str, Any] = {
    "false_promotions": {"budget": 0.05, "period_days": 90},
    "slices": {**SLICES, "floor": None},
    "fairness": FAIRNESS,
    "cost": COST,
    "min_tenure": "3d",
    "max_promotions_per_week": 2,
}


@st.composite
def good_cases(draw: st.DrawFn, everything_asked: bool = False) -> Case:
    """A challenger that deserves it, by any policy, in any metric."""
    primary = draw(PRIMARIES)
    sign = 1 if METRICS[primary].higher_is_better else -1
    rule = draw(
        st.sampled_from(
            [
                {"kind": "superiority", "min_effect": 0.0},
                {"kind": "superiority", "min_effect": 0.002, "confidence": 0.9},
                {"kind": "non_inferiority", "margin": 0.01},
                {"kind": "non_inferiority", "margin": 0.01, "refresh_after_days": 7},
                {"kind": "non_inferiority", "margin": 0.01, "refresh_after_days": 90},
            ]
        )
    )
    asked = set(OPTIONS) if everything_asked else draw(st.sets(st.sampled_from(sorted(OPTIONS))))
    policy = gate(
        rule,
        floors={primary: -sign * 9.0},
        cluster_by=draw(st.sampled_from(["service_date", None])),
        **{name: OPTIONS[name] for name in asked},
    )
    gain, reach = draw(st.floats(0.03, 0.5)), draw(st.floats(0, 0.02))
    base = draw(st.floats(0.1, 0.9))
    measured = evaluation(
        comparison(primary, (sign * gain, sign * gain - reach, sign * gain + reach), base),
        confidence=2 * policy.rule.confidence - 1,
        slices=(part("JFK", sign * 0.02), part("EWR", 0.0), part("LGA", rows=9, p_safe=None, p_harm=None)),
        fairness=(groups(metric=primary),),
        costs=costs(),
        units=units(gain, draw(st.integers(15, 40)), primary),
    )
    return Case(policy, measured, primary, history(reign("2", 40), reign("3", draw(st.integers(3, 30)))))


def _wreck(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: replace(case, evaluation=replace(case.evaluation, **changes))


def _wreck_primary(**changes: Any) -> Callable[[Case], Case]:
    def wreck(case: Case) -> Case:
        found = replace(case.evaluation.comparisons[case.primary], **changes)
        return replace(
            case, evaluation=replace(case.evaluation, comparisons={**case.evaluation.comparisons, case.primary: found})
        )

    return wreck


def _wreck_part(field: str, odd: Any) -> Callable[[Case], Case]:
    def wreck(case: Case) -> Case:
        first, *others = case.evaluation.slices
        return replace(case, evaluation=replace(case.evaluation, slices=(replace(first, **{field: odd}), *others)))

    return wreck


def _wreck_fairness(field: str, odd: Any) -> Callable[[Case], Case]:
    def wreck(case: Case) -> Case:
        (found,) = case.evaluation.fairness
        return replace(case, evaluation=replace(case.evaluation, fairness=(replace(found, **{field: odd}),)))

    return wreck


def _wreck_past(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: replace(case, history=replace(case.history, **changes))


def _turned(case: Case) -> Case:
    """The figures say the opposite: a worse challenger."""
    found = case.evaluation.comparisons[case.primary]
    assert found.champion is not None
    assert found.difference is not None
    swapped = MetricComparison(
        metric=found.metric,
        challenger=found.champion,
        champion=found.challenger,
        difference=estimate(-found.difference.value, -found.difference.high, -found.difference.low),  # type: ignore[operator]
    )
    return replace(case, evaluation=replace(case.evaluation, comparisons={case.primary: swapped}))


def _wide(case: Case) -> Case:
    """The same gain, and it may be chance."""
    gap = case.evaluation.comparisons[case.primary].difference
    assert gap is not None
    assert gap.value is not None
    return _wreck_primary(difference=estimate(gap.value, gap.value - 9, gap.value + 9))(case)


NOT_NUMBERS = (None, math.nan, math.inf, -math.inf)
LOST = LostEvidence(uri="s3://b/d", sha256="x", as_of=NOW, problem="Gone.")
WRECKS: list[Callable[[Case], Case]] = [
    _turned,
    _wide,
    _wreck(rows=0),
    _wreck(rows=99),
    _wreck(rows=-5),
    _wreck(confidence=0.5),
    _wreck(confidence=math.nan),
    _wreck(champion_version=None),
    _wreck(champion=None),
    _wreck(champion={}),
    _wreck(challenger={}),
    _wreck(challenger={"digest": "old", "training_end": "2013-02-28T00:00:00Z"}),
    _wreck(defects=("The challenger gives all rows the same score.",)),
    _wreck(comparisons={}),
    _wreck(comparisons={"mae": comparison("mae")}),
    _wreck_primary(metric="mae"),
    _wreck_primary(champion=None),
    _wreck_primary(difference=None),
    _wreck_primary(difference=estimate(0.3)),
    _wreck_primary(difference=estimate(9.0, 8.0, 10.0)),
    _wreck_primary(difference=estimate(-9.0, -10.0, -8.0)),
    *(_wreck_primary(challenger=estimate(odd)) for odd in NOT_NUMBERS),
    *(_wreck_primary(champion=estimate(odd)) for odd in NOT_NUMBERS),
    *(_wreck_primary(difference=estimate(odd, odd, odd)) for odd in NOT_NUMBERS),
    _wreck(slices=()),
    _wreck(slices=(part("EWR"), part("LGA"))),
    _wreck(slices=(part("JFK"), part("JFK"))),
    _wreck(slices=(part("JFK", rows=99), part("EWR", rows=0))),
    _wreck(slices=(part("JFK", column="carrier"),)),
    *(_wreck_part(name, odd) for name in ("challenger", "champion", "p_safe", "p_harm") for odd in NOT_NUMBERS),
    _wreck_part("difference", None),
    _wreck_part("rows", 0),
    _wreck(fairness=()),
    _wreck_fairness("column", "carrier"),
    _wreck_fairness("groups", ()),
    _wreck_fairness("champion_gap", None),
    _wreck_fairness("increase", None),
    *(_wreck_fairness("challenger_gap", estimate(odd)) for odd in NOT_NUMBERS),
    *(_wreck_fairness("increase", estimate(0.0, odd, odd)) for odd in NOT_NUMBERS),
    _wreck(costs={}),
    *(_wreck(costs=costs(odd)) for odd in NOT_NUMBERS),
    _wreck(costs=costs(size=None)),
    _wreck(costs=costs(latency_p95_ms=None)),
    _wreck(costs=costs(latency_p95_ms=0.0)),
    _wreck(units=None),
    _wreck(units=()),
    *(_wreck(units=(*units(), ("z", odd))) for odd in NOT_NUMBERS if odd is not None),
    _wreck(units=units(count=1)),
    lambda case: _wreck(units=units(-0.05, metric=case.primary))(case),
    _wreck_past(quarantined={"new": "It was taken back."}),
    _wreck_past(damage=("Entry 7 is missing.",)),
    _wreck_past(lost=LOST),
    _wreck_past(reigns=()),
    _wreck_past(reigns=(reign("4", 9),)),
    _wreck_past(reigns=(reign("3", 1),)),
    _wreck_past(reigns=(reign("3", -9),)),
    _wreck_past(reigns=(reign("1", 3.2), reign("2", 3.1), reign("3", 3))),
]
"""Each alone must keep a gate that asks for everything from promoting."""


@st.composite
def any_cases(draw: st.DrawFn) -> Case:
    """Mostly in order, with up to two wrecks, a policy that may not care, and at times no champion at all."""
    case = draw(good_cases())
    for wreck in draw(st.lists(st.sampled_from(WRECKS), max_size=2)):
        try:
            case = wreck(case)
        except (KeyError, ValueError, AssertionError, TypeError):
            continue
    if draw(st.integers(0, 5)) == 0:
        bare = {
            name: replace(found, champion=None, difference=None) for name, found in case.evaluation.comparisons.items()
        }
        case = replace(
            case, evaluation=replace(case.evaluation, comparisons=bare, champion=None, champion_version=None)
        )
    if draw(st.integers(0, 5)) == 0:
        case = replace(case, gate=case.gate.model_copy(update={"floors": {}}))
    return case

"""No combination of missing, broken or contradictory facts promotes; and what is in order does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perennial.domain.evaluation import EvaluationResult, MetricComparison
from perennial.domain.gate import Decision, Outcome, decide
from perennial.domain.gate_history import GateHistory, LostEvidence
from perennial.domain.metric_names import METRICS
from perennial.domain.references import Verdict
from perennial.spec.parts import Gate
from tests.unit.core.gating import (
    COST,
    FAIRNESS,
    NOW,
    SLICES,
    alone,
    comparison,
    costs,
    estimate,
    evaluation,
    everything,
    gate,
    groups,
    history,
    in_order,
    judge,
    part,
    past,
    reign,
    units,
)

PRIMARIES = st.sampled_from(["roc_auc", "log_loss", "rmse", "r2"])
ODD = st.sampled_from([None, math.nan, math.inf, -math.inf])


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


@settings(max_examples=200, deadline=None)
@given(good_cases())
def test_what_is_in_order_is_promoted(case: Case) -> None:
    """Without this, the tests below could not fail."""
    assert case.decide().verdict is Verdict.PROMOTE


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


@settings(max_examples=300, deadline=None)
@given(good_cases(everything_asked=True), st.lists(st.sampled_from(WRECKS), min_size=1, max_size=3))
def test_one_thing_wrong_or_several_never_promote(case: Case, wrecks: list[Callable[[Case], Case]]) -> None:
    wrong = case
    for wreck in wrecks:
        try:
            wrong = wreck(wrong)
        except (KeyError, ValueError, AssertionError, TypeError):  # an earlier one has taken away what it would wreck
            assume(wrong is not case)
    assume(_wrecked(case, wrong))
    decision = wrong.decide()
    assert decision.verdict is not Verdict.PROMOTE
    assert decision.reasons


def _wrecked(case: Case, wrong: Case) -> bool:
    """Two turns make no wrong."""
    return (case.evaluation, case.history) != (wrong.evaluation, wrong.history)


@pytest.mark.parametrize("wreck", range(len(WRECKS)))
def test_each_wreck_alone_keeps_the_strictest_gate_from_promoting(wreck: int) -> None:
    case = Case(everything(), in_order(), "roc_auc", past())
    assert case.decide().verdict is Verdict.PROMOTE
    assert WRECKS[wreck](case).decide().verdict is not Verdict.PROMOTE


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


def _real(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


@settings(max_examples=500, deadline=None)
@given(any_cases())
def test_promotion_always_rests_on_complete_finite_evidence(case: Case) -> None:
    decision = case.decide()
    assert decision.reasons
    if decision.verdict is not Verdict.PROMOTE:
        return
    measured, asked = case.evaluation, case.gate
    assert all(found.verdict is Outcome.PASS for found in decision.rules)
    assert measured.rows >= asked.min_rows
    assert asked.cluster_by is None or measured.clusters >= asked.min_clusters
    assert not measured.defects
    assert measured.challenger["digest"] not in case.history.quarantined
    assert not case.history.damage
    assert all(_real(found.challenger.value) for found in measured.comparisons.values())
    if measured.champion is None:
        assert asked.floors
        return
    found = measured.comparisons[case.primary]
    assert found.champion is not None
    assert found.difference is not None
    assert _real(found.champion.value, found.difference.value, found.difference.low, found.difference.high)
    assert measured.confidence == pytest.approx(2 * asked.rule.confidence - 1)
    worst = found.difference.low if METRICS[case.primary].higher_is_better else -(found.difference.high or 0.0)
    assert worst is not None
    assert worst > (asked.rule.min_effect if asked.rule.kind == "superiority" else -asked.rule.margin)
    if asked.false_promotions is not None:
        assert decision.evidence is not None
        assert decision.evidence.e_value >= decision.evidence.threshold
    if asked.slices is not None:
        assert any(slice_.column == "origin" and slice_.rows >= asked.slices.min_rows for slice_ in measured.slices)


Path = tuple[Any, ...]


def _numbers(value: Any, path: Path = ()) -> list[Path]:
    """Where in a structure of dataclasses, mappings and tuples there is a number."""
    if isinstance(value, float):
        return [path]
    if is_dataclass(value):
        inner = [(field.name, getattr(value, field.name)) for field in fields(value)]
    elif isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, tuple):
        inner = list(enumerate(value))
    else:
        return []
    return [found for name, child in inner for found in _numbers(child, (*path, name))]


def _put(value: Any, path: Path, odd: Any) -> Any:
    if not path:
        return odd
    name, rest = path[0], path[1:]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: _put(getattr(value, name), rest, odd)})
    if isinstance(value, dict):
        return {**value, name: _put(value[name], rest, odd)}
    return tuple(_put(child, rest, odd) if place == name else child for place, child in enumerate(value))


@settings(max_examples=500, deadline=None)
@given(any_cases(), st.data(), ODD)
def test_losing_a_figure_never_turns_another_verdict_into_a_promotion(
    case: Case, data: st.DataObject, odd: Any
) -> None:
    paths = _numbers(case.evaluation)
    assume(paths)
    path = data.draw(st.sampled_from(paths))
    assume(odd is not None or path[0] not in ("confidence", "units"))  # their types have no None
    less = replace(case, evaluation=_put(case.evaluation, path, odd))
    if less.decide().verdict is Verdict.PROMOTE:
        assert case.decide().verdict is Verdict.PROMOTE


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1), good_cases())
def test_turning_a_metric_round_gives_the_mirrored_verdict(a: float, b: float, reach: float, case: Case) -> None:
    """roc_auc (higher is better) against the same figures negated as log_loss (lower is better)."""
    policy, gap = case.gate.model_copy(update={"floors": {}, "fairness": (), "slices": None}), a - b
    pairs = {
        "roc_auc": (a, b, estimate(gap, gap - reach, gap + reach), 1),
        "log_loss": (-a, -b, estimate(-gap, -gap - reach, -gap + reach), -1),
    }
    found = {}
    for name, (mine, theirs, difference, sign) in pairs.items():
        compared = MetricComparison(
            metric=name, challenger=estimate(mine), champion=estimate(theirs), difference=difference
        )
        gains = tuple((label, sign * value) for label, value in units(gap))
        level = 2 * policy.rule.confidence - 1
        given_ = replace(case.evaluation, comparisons={name: compared}, units=gains, confidence=level)
        found[name] = decide(policy, given_, primary=name, history=case.history)
    assert found["roc_auc"].verdict is found["log_loss"].verdict
    one, other = (decision.evidence for decision in found.values())
    assert (one and one.e_value) == (other and other.e_value)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1, 2), st.sampled_from([0, 1, 99, 100]), st.integers(0, 6))
def test_first_champion_is_promoted_by_floors_and_rows_only(value: float, rows: int, clusters: int) -> None:
    policy = gate(floors={"roc_auc": 0.55}, false_promotions=OPTIONS["false_promotions"])
    verdict = judge(alone(value, rows=rows, clusters=clusters), policy).verdict
    assert (verdict is Verdict.PROMOTE) == (value >= 0.55 and rows >= 100 and clusters >= 5)
    assert judge(alone(value, rows=rows, clusters=clusters)).verdict is Verdict.INCONCLUSIVE  # an empty policy


@settings(max_examples=100, deadline=None)
@given(st.timedeltas(timedelta(days=-9), timedelta(days=9)))
def test_tenure_is_long_enough_or_not_promoted(elapsed: timedelta) -> None:
    before = history(replace(reign("3", 0), since=NOW - elapsed))
    verdict = judge(evaluation(), gate(min_tenure="3d"), before=before).verdict
    assert (verdict is Verdict.PROMOTE) == (elapsed >= timedelta(days=3))

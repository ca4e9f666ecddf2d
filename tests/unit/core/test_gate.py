"""The gate: what each verdict needs, and that nothing missing, broken or contradictory ever promotes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perennial.domain.evaluation import EvaluationResult, MetricComparison, MetricEstimate
from perennial.domain.gate import Decision, Outcome, decide
from perennial.domain.metric_names import METRICS
from perennial.domain.references import Verdict
from perennial.spec.parts import Gate

SUPERIORITY = {"kind": "superiority", "min_effect": 0.002, "confidence": 0.95}
NON_INFERIORITY = {"kind": "non_inferiority", "margin": 0.01, "confidence": 0.95}


def _gate(rule: dict[str, Any] = SUPERIORITY, **given: Any) -> Gate:
    return Gate.model_validate({"rule": rule, "cluster_by": "service_date", "floors": {}, **given})


def _estimate(value: float | None, low: float | None = None, high: float | None = None) -> MetricEstimate:
    return MetricEstimate(value=value, low=low, high=high)


def _comparison(
    metric: str = "roc_auc",
    gap: tuple[float | None, float | None, float | None] = (0.036, 0.025, 0.048),
    base: float = 0.676,
) -> MetricComparison:
    return MetricComparison(
        metric=metric,
        challenger=_estimate(base + (gap[0] or 0.0), 0.69, 0.73),
        champion=_estimate(base, 0.66, 0.69),
        difference=_estimate(*gap),
    )


def _evaluation(comparison: MetricComparison | None = None, **given: Any) -> EvaluationResult:
    found = comparison or _comparison()
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
        "challenger": {"digest": "new"},
        "champion": {"digest": "old"},
    }
    return EvaluationResult(**{**values, **given})


def _alone(value: float | None = 0.7, **given: Any) -> EvaluationResult:
    """An evaluation without a champion."""
    found = MetricComparison(metric="roc_auc", challenger=_estimate(value, 0.6, 0.8), champion=None, difference=None)
    return _evaluation(found, champion_version=None, champion=None, **given)


def _decide(evaluation: EvaluationResult, gate: Gate | None = None, primary: str = "roc_auc") -> Decision:
    return decide(gate or _gate(), evaluation, primary=primary)


def test_interval_above_the_effect_asked_for_promotes_with_the_numbers() -> None:
    decision = _decide(_evaluation())
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reasons == (
        "Challenger's roc_auc is 0.712, the champion's 0.676: +0.036 [0.025, 0.048] at 95 % one-sided confidence; "
        "more than the 0.002 asked for.",
    )


def test_interval_that_spans_the_effect_asked_for_is_inconclusive() -> None:
    decision = _decide(_evaluation(_comparison(gap=(0.007, -0.015, 0.030))))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "may be more than the 0.002 asked for or not" in decision.reasons[0]


def test_interval_below_the_effect_asked_for_rejects() -> None:
    decision = _decide(_evaluation(_comparison(gap=(-0.015, -0.035, -0.002))))
    assert decision.verdict is Verdict.REJECT
    assert "-0.015 [-0.035, -0.002]" in decision.reasons[0]


def test_lower_end_exactly_at_the_effect_asked_for_does_not_promote() -> None:
    assert _decide(_evaluation(_comparison(gap=(0.01, 0.002, 0.02)))).verdict is Verdict.INCONCLUSIVE


def test_numbers_that_round_to_the_limit_are_written_so_that_they_differ() -> None:
    decision = _decide(_evaluation(_comparison(gap=(0.0121, 0.00201, 0.0222))))
    assert decision.verdict is Verdict.PROMOTE
    assert "[0.00201, " in decision.reasons[0]


def test_identical_models_are_rejected_by_superiority_and_pass_non_inferiority() -> None:
    same = _evaluation(_comparison(gap=(0.0, 0.0, 0.0)))
    assert _decide(same, _gate({"kind": "superiority"})).verdict is Verdict.REJECT
    assert _decide(same, _gate(NON_INFERIORITY)).verdict is Verdict.PROMOTE


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((0.0, -0.009, 0.009), Verdict.PROMOTE),
        ((-0.005, -0.015, 0.005), Verdict.INCONCLUSIVE),
        ((-0.005, -0.010, 0.005), Verdict.INCONCLUSIVE),
        ((-0.03, -0.04, -0.02), Verdict.REJECT),
        ((-0.03, -0.04, -0.01), Verdict.REJECT),
    ],
)
def test_non_inferiority_tolerates_less_than_the_margin(gap: tuple[float, float, float], verdict: Verdict) -> None:
    assert _decide(_evaluation(_comparison(gap=gap)), _gate(NON_INFERIORITY)).verdict is verdict


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((-0.02, -0.03, -0.01), Verdict.PROMOTE),
        ((-0.02, -0.03, -0.002), Verdict.INCONCLUSIVE),
        ((-0.02, -0.03, 0.01), Verdict.INCONCLUSIVE),
        ((0.02, 0.01, 0.03), Verdict.REJECT),
        ((0.0, -0.002, 0.002), Verdict.REJECT),
    ],
)
def test_where_lower_is_better_a_decrease_counts_as_gain(gap: tuple[float, float, float], verdict: Verdict) -> None:
    decision = _decide(_evaluation(_comparison("log_loss", gap, base=0.5)), primary="log_loss")
    assert decision.verdict is verdict
    assert decision.rules[-1].threshold == -0.002
    if verdict is Verdict.PROMOTE:
        assert decision.reasons[0].endswith("lower by more than the 0.002 asked for.")


def test_too_few_rows_is_inconclusive_whatever_else_and_says_how_many_are_missing() -> None:
    decision = _decide(_evaluation(rows=99), _gate(floors={"roc_auc": 0.9}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons[0] == "The holdout has 99 rows; 1 more are needed to reach the 100 asked for."


def test_too_few_clusters_is_inconclusive() -> None:
    decision = _decide(_evaluation(clusters=1))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons[0].startswith("The holdout has 1 cluster of service_date; 4 more are needed")


def test_missed_floor_rejects_even_a_better_challenger() -> None:
    decision = _decide(_evaluation(), _gate(floors={"roc_auc": 0.75}))
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons == ("Challenger's roc_auc is 0.712; the floor asks for at least 0.75, which it misses.",)


def test_floor_where_lower_is_better_is_a_ceiling() -> None:
    brier = _comparison("brier", (-0.02, -0.03, -0.01), base=0.2)
    for limit, verdict in ((0.17, Verdict.REJECT), (0.181, Verdict.PROMOTE), (0.2, Verdict.PROMOTE)):
        assert _decide(_evaluation(brier), _gate(floors={"brier": limit}), "brier").verdict is verdict


def test_floor_met_exactly_is_reached() -> None:
    assert _decide(_alone(0.55), _gate(floors={"roc_auc": 0.55})).verdict is Verdict.PROMOTE


def test_no_champion_is_judged_by_floors_alone() -> None:
    assert _decide(_alone(0.7), _gate(floors={"roc_auc": 0.55})).verdict is Verdict.PROMOTE
    assert _decide(_alone(0.5), _gate(floors={"roc_auc": 0.55})).verdict is Verdict.REJECT
    assert _decide(_alone(None), _gate(floors={"roc_auc": 0.55})).verdict is Verdict.INCONCLUSIVE


def test_no_champion_and_no_floors_is_an_empty_policy_and_inconclusive() -> None:
    decision = _decide(_alone())
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "empty policy" in decision.reasons[0]


def test_defect_of_the_challenger_rejects_whatever_the_numbers_say() -> None:
    decision = _decide(_evaluation(defects=("The challenger gives all 99 rows the same score.",)))
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons == ("The challenger gives all 99 rows the same score.",)


def test_secondary_metric_without_a_value_for_the_challenger_is_inconclusive() -> None:
    lost = MetricComparison(
        metric="brier", challenger=_estimate(None), champion=_estimate(0.2), difference=_estimate(None)
    )
    evaluation = _evaluation(comparisons={"roc_auc": _comparison(), "brier": lost})
    decision = _decide(evaluation)
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == ("brier could not be computed for the challenger.",)


def test_interval_of_another_confidence_is_inconclusive() -> None:
    decision = _decide(_evaluation(confidence=0.8))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "needs 0.9" in decision.reasons[0]


def test_metric_that_was_not_measured_is_inconclusive() -> None:
    assert _decide(_evaluation(), primary="brier").verdict is Verdict.INCONCLUSIVE
    assert _decide(_evaluation(comparisons={})).verdict is Verdict.INCONCLUSIVE
    assert _decide(_evaluation(), _gate(floors={"brier": 0.3})).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("change", [{"champion_version": None}, {"champion": None}])
def test_traces_of_an_unnamed_champion_are_inconclusive_even_with_floors(change: dict[str, None]) -> None:
    assert _decide(_evaluation(**change), _gate(floors={"roc_auc": 0.5})).verdict is Verdict.INCONCLUSIVE


def test_champion_named_but_not_compared_is_inconclusive() -> None:
    bare = MetricComparison(metric="roc_auc", challenger=_estimate(0.9, 0.8, 0.95), champion=None, difference=None)
    assert _decide(_evaluation(bare), _gate(floors={"roc_auc": 0.5})).verdict is Verdict.INCONCLUSIVE


def test_difference_that_is_not_of_the_two_values_is_inconclusive() -> None:
    wrong = replace(_comparison(), challenger=_estimate(0.5, 0.4, 0.6))
    assert _decide(_evaluation(wrong)).verdict is Verdict.INCONCLUSIVE


def test_reversed_interval_is_inconclusive() -> None:
    assert _decide(_evaluation(_comparison(gap=(0.036, 0.048, 0.025)))).verdict is Verdict.INCONCLUSIVE


def test_rules_carry_numbers_for_machines() -> None:
    rule = _decide(_evaluation()).rules[-1]
    assert (rule.name, rule.metric, rule.threshold, rule.n) == ("superiority", "roc_auc", 0.002, 12_345)
    assert (rule.estimate, rule.low, rule.high, rule.verdict) == (0.036, 0.025, 0.048, Outcome.PASS)


@pytest.mark.parametrize("odd", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["challenger", "champion", "value", "low", "high", "secondary"])
@pytest.mark.parametrize("metric", ["roc_auc", "rmse"])
def test_any_needed_value_that_is_missing_or_not_finite_is_inconclusive(
    metric: str, where: str, odd: float | None
) -> None:
    gap = (0.036, 0.025, 0.048) if metric == "roc_auc" else (-0.036, -0.048, -0.025)
    good = _comparison(metric, gap)
    assert good.champion is not None
    assert good.difference is not None
    broken = {
        "challenger": replace(good, challenger=_estimate(odd)),
        "champion": replace(good, champion=_estimate(odd)),
        "secondary": good,
    }.get(where) or replace(good, difference=replace(good.difference, **{where: odd}))
    secondary = _comparison("brier")
    if where == "secondary":
        secondary = replace(secondary, challenger=_estimate(odd))
    evaluation = _evaluation(comparisons={metric: broken, "brier": secondary})
    assert _decide(evaluation, primary=metric).verdict is Verdict.INCONCLUSIVE
    assert _decide(_evaluation(comparisons={metric: good}), primary=metric).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("change", [{"champion_version": None}, {"champion": None}])
def test_one_trace_of_a_champion_is_enough_for_floors_not_to_promote(change: dict[str, None]) -> None:
    bare = MetricComparison(metric="roc_auc", challenger=_estimate(0.9, 0.8, 0.95), champion=None, difference=None)
    decision = _decide(_evaluation(bare, **change), _gate(floors={"roc_auc": 0.5}))
    assert decision.verdict is Verdict.INCONCLUSIVE


ODD = st.sampled_from([None, math.nan, math.inf, -math.inf])
NUMBER = st.one_of(ODD, st.floats(-2, 2), st.sampled_from([0.0, 0.002, -0.002, 0.01, -0.01, 0.5]))
ESTIMATE = st.builds(_estimate, NUMBER, NUMBER, NUMBER)
NAMES = st.sampled_from(["roc_auc", "log_loss", "rmse", "r2"])
RULES = st.one_of(
    st.builds(
        lambda e, c: {"kind": "superiority", "min_effect": e, "confidence": c},
        st.sampled_from([0.0, 0.002, 0.5]),
        st.sampled_from([0.5, 0.95]),
    ),
    st.builds(
        lambda m, c: {"kind": "non_inferiority", "margin": m, "confidence": c},
        st.sampled_from([0.01, 0.5]),
        st.sampled_from([0.5, 0.95]),
    ),
)


@st.composite
def comparisons(draw: st.DrawFn, name: str) -> MetricComparison:
    """Consistent and clearly better, in the metric's own direction; or no better; or, at times, anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return MetricComparison(
            metric=draw(st.sampled_from([name, "mae"])),
            challenger=draw(ESTIMATE),
            champion=draw(st.none() | ESTIMATE),
            difference=draw(st.none() | ESTIMATE),
        )
    gain = draw(st.sampled_from([0.6, 0.6, 0.6, 0.003, 0.0, -0.3])) * (1 if METRICS[name].higher_is_better else -1)
    reach, base = draw(st.sampled_from([0.0, 0.05, 0.1, 0.7])), draw(st.floats(0.1, 0.9))
    return MetricComparison(
        metric=name,
        challenger=_estimate(base + gain),
        champion=_estimate(base),
        difference=_estimate(gain, gain - reach, gain + reach),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Gate, EvaluationResult, str]:
    """A challenger that mostly deserves it, with up to two things wrong."""
    primary = draw(NAMES)
    names = draw(st.sets(NAMES, max_size=2)) | {primary}
    generous = st.sampled_from(sorted(names)).flatmap(
        lambda name: st.just({name: -9.0 if METRICS[name].higher_is_better else 9.0})
    )
    gate = _gate(
        draw(RULES), floors=draw(generous | st.just({}) | st.dictionaries(NAMES, st.floats(-1, 1), max_size=2))
    )
    evaluation = _evaluation(
        confidence=2 * gate.rule.confidence - 1, comparisons={name: draw(comparisons(name)) for name in sorted(names)}
    )
    changes: list[dict[str, Any]] = [
        {"rows": 0},
        {"rows": 99},
        {"clusters": 1},
        {"clusters": 4},
        {"confidence": 0.8},
        {"confidence": math.nan},
        {"champion_version": None},
        {"champion": None},
        {"champion_version": None, "champion": None},
        {"defects": ("broken",)},
        {"comparisons": {}},
        {"comparisons": {name: found for name, found in evaluation.comparisons.items() if name != primary}},
    ]
    for change in draw(st.lists(st.sampled_from(changes), max_size=2)):
        evaluation = replace(evaluation, **change)
    if draw(st.integers(0, 4)) == 0:
        alone = {name: replace(found, champion=None, difference=None) for name, found in evaluation.comparisons.items()}
        evaluation = replace(evaluation, comparisons=alone)
    return gate, evaluation, primary


def _real(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


@settings(max_examples=400, deadline=None)
@given(cases())
def test_promotion_always_rests_on_complete_finite_evidence(case: tuple[Gate, EvaluationResult, str]) -> None:
    gate, evaluation, primary = case
    decision = decide(gate, evaluation, primary=primary)
    assert decision.reasons
    if decision.verdict is not Verdict.PROMOTE:
        return
    assert evaluation.rows >= gate.min_rows
    assert evaluation.clusters >= gate.min_clusters
    assert not evaluation.defects
    assert all(_real(found.challenger.value) for found in evaluation.comparisons.values())
    for name, limit in gate.floors.items():
        value = evaluation.comparisons[name].challenger.value
        assert value is not None
        assert value >= limit if METRICS[name].higher_is_better else value <= limit
    traces = [found for found in evaluation.comparisons.values() if found.champion or found.difference]
    if evaluation.champion_version is None and evaluation.champion is None and not traces:
        assert gate.floors
        return
    found = evaluation.comparisons[primary]
    assert found.metric == primary
    assert found.champion is not None
    assert found.difference is not None
    assert all(map(_real, (found.champion.value, found.difference.value, found.difference.low, found.difference.high)))
    assert evaluation.confidence == pytest.approx(2 * gate.rule.confidence - 1)
    worst = found.difference.low if METRICS[primary].higher_is_better else -(found.difference.high or 0.0)
    limit = gate.rule.min_effect if gate.rule.kind == "superiority" else -gate.rule.margin
    assert worst is not None
    assert worst > limit


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1), RULES)
def test_turning_a_metric_round_gives_the_same_verdict(a: float, b: float, reach: float, rule: dict[str, Any]) -> None:
    """roc_auc (higher is better) against the same figures negated as log_loss (lower is better)."""
    gate = _gate(rule)
    gap = a - b
    up = MetricComparison(
        metric="roc_auc",
        challenger=_estimate(a),
        champion=_estimate(b),
        difference=_estimate(gap, gap - reach, gap + reach),
    )
    down = MetricComparison(
        metric="log_loss",
        challenger=_estimate(-a),
        champion=_estimate(-b),
        difference=_estimate(-gap, -gap - reach, -gap + reach),
    )
    level = 2 * gate.rule.confidence - 1
    one = decide(gate, _evaluation(up, confidence=level), primary="roc_auc")
    other = decide(gate, _evaluation(down, confidence=level), primary="log_loss")
    assert one.verdict is other.verdict


@pytest.mark.parametrize(
    "rule", [{"kind": "non_inferiority", "margin": 0.01}, {"kind": "superiority", "min_effect": 0.0}]
)
def test_champion_is_never_promoted_over_itself(rule: dict[str, Any]) -> None:
    same = _evaluation(_comparison(gap=(0.0, 0.0, 0.0)), challenger={"digest": "old"})
    decision = _decide(same, _gate(rule=rule))
    assert decision.verdict is Verdict.REJECT
    assert any("the champion itself" in reason for reason in decision.reasons)

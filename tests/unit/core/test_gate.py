"""The gate's comparison with the champion, its floors, and what each verdict needs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from perennial.domain.evaluation import MetricComparison
from perennial.domain.gate import Outcome
from perennial.domain.gate_history import Reign
from perennial.domain.references import Verdict
from tests.unit.core.gating import (
    NON_INFERIORITY,
    aged,
    alone,
    comparison,
    estimate,
    evaluation,
    everything,
    gate,
    history,
    in_order,
    judge,
    past,
    reign,
    rule,
)


def test_interval_above_the_effect_asked_for_promotes_with_the_numbers() -> None:
    decision = judge(evaluation())
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reasons == (
        "Challenger's roc_auc is 0.712, the champion's 0.676: +0.036, 90 % interval (each end one-sided at 95 %) "
        "[0.025, 0.048]; more than the 0.002 asked for.",
    )


def test_interval_that_spans_the_effect_asked_for_is_inconclusive() -> None:
    decision = judge(evaluation(comparison(gap=(0.007, -0.015, 0.030))))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "may be more than the 0.002 asked for or not" in decision.reasons[0]


def test_interval_below_the_effect_asked_for_rejects() -> None:
    decision = judge(evaluation(comparison(gap=(-0.015, -0.035, -0.002))))
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons[0].endswith("[-0.035, -0.002]; worse, beyond chance (higher is better).")


def test_interval_below_the_effect_and_above_zero_is_not_called_worse() -> None:
    decision = judge(evaluation(comparison(gap=(0.001, 0.0005, 0.0015))))
    assert decision.verdict is Verdict.REJECT
    assert "not more than the 0.002 asked for" in decision.reasons[0]
    assert "worse" not in decision.reasons[0]


@pytest.mark.parametrize(
    ("gap", "meaning"),
    [
        ((-0.005, -0.008, -0.002), "worse, beyond chance, but by less than the 0.01 tolerated (higher is better)."),
        ((-0.005, -0.008, 0.0), "any loss is smaller than the 0.01 tolerated."),
        ((-0.03, -0.04, -0.02), "worse, beyond chance, by at least the 0.01 tolerated (higher is better)."),
    ],
)
def test_non_inferiority_says_plainly_that_a_model_is_worse(gap: tuple[float, float, float], meaning: str) -> None:
    assert judge(evaluation(comparison(gap=gap)), gate(NON_INFERIORITY)).reasons[0].endswith(meaning)


def test_lower_end_exactly_at_the_effect_asked_for_does_not_promote() -> None:
    assert judge(evaluation(comparison(gap=(0.01, 0.002, 0.02)))).verdict is Verdict.INCONCLUSIVE


def test_numbers_that_round_to_the_limit_are_written_so_that_they_differ() -> None:
    decision = judge(evaluation(comparison(gap=(0.0121, 0.00201, 0.0222))))
    assert decision.verdict is Verdict.PROMOTE
    assert "[0.00201, " in decision.reasons[0]


def test_identical_models_are_rejected_by_superiority_and_pass_non_inferiority() -> None:
    same = evaluation(comparison(gap=(0.0, 0.0, 0.0)))
    assert judge(same, gate({"kind": "superiority"})).verdict is Verdict.REJECT
    assert judge(same, gate(NON_INFERIORITY)).verdict is Verdict.PROMOTE


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
    assert judge(evaluation(comparison(gap=gap)), gate(NON_INFERIORITY)).verdict is verdict


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
    decision = judge(evaluation(comparison("log_loss", gap, base=0.5)), primary="log_loss")
    assert decision.verdict is verdict
    assert decision.rules[-1].threshold == -0.002
    if verdict is Verdict.PROMOTE:
        assert decision.reasons[0].endswith("lower by more than the 0.002 asked for.")


def test_too_few_rows_is_inconclusive_whatever_else_and_says_how_many_are_missing() -> None:
    decision = judge(evaluation(rows=99), gate(floors={"roc_auc": 0.9}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons[0] == "The holdout has 99 rows; 1 more is needed to reach the 100 asked for."


def test_too_few_clusters_is_inconclusive() -> None:
    decision = judge(evaluation(clusters=1))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons[0].startswith("The holdout has 1 cluster of service_date; 4 more are needed")


def test_missed_floor_rejects_even_a_better_challenger() -> None:
    decision = judge(evaluation(), gate(floors={"roc_auc": 0.75}))
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons == ("Challenger's roc_auc is 0.712; the floor asks for at least 0.75, which it misses.",)


def test_floor_where_lower_is_better_is_a_ceiling() -> None:
    brier = comparison("brier", (-0.02, -0.03, -0.01), base=0.2)
    for limit, verdict in ((0.17, Verdict.REJECT), (0.181, Verdict.PROMOTE), (0.2, Verdict.PROMOTE)):
        assert judge(evaluation(brier), gate(floors={"brier": limit}), "brier").verdict is verdict


def test_floor_met_exactly_is_reached() -> None:
    assert judge(alone(0.55), gate(floors={"roc_auc": 0.55})).verdict is Verdict.PROMOTE


def test_no_champion_is_judged_by_floors_alone() -> None:
    assert judge(alone(0.7), gate(floors={"roc_auc": 0.55})).verdict is Verdict.PROMOTE
    assert judge(alone(0.5), gate(floors={"roc_auc": 0.55})).verdict is Verdict.REJECT
    assert judge(alone(None), gate(floors={"roc_auc": 0.55})).verdict is Verdict.INCONCLUSIVE


def test_no_champion_and_no_floors_is_an_empty_policy_and_inconclusive() -> None:
    decision = judge(alone())
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "empty policy" in decision.reasons[0]


@pytest.mark.parametrize(
    "reigns",
    [
        (reign("1", 30), reign(None, 1, "outside")),  # the alias was taken off, and the ledger knows it
        (reign("1", 30),),  # nobody has looked since; or it was promoted meanwhile
        (reign("3", 30), reign("1", 20, "rollback"), reign(None, 1, "outside")),
    ],
)
def test_lost_champion_is_no_first_champion_and_the_way_back_is_told(reigns: tuple[Reign, ...]) -> None:
    decision = judge(alone(0.9), gate(floors={"roc_auc": 0.55}), before=history(*reigns))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "version 1 has been one" in decision.reasons[0]
    assert "`perennial rollback flights_delay --to 1`" in decision.reasons[0]
    assert "approval.break_glass" in decision.reasons[0]


def test_model_that_was_found_without_a_champion_may_get_its_first() -> None:
    decision = judge(alone(0.9), gate(floors={"roc_auc": 0.55}), before=history(reign(None, 3, "outside")))
    assert decision.verdict is Verdict.PROMOTE


FEW = "6 rows of the positive class, and an interval of roc_auc takes at least 10: 4 more are needed"


def test_too_few_rows_of_a_class_are_inconclusive_with_their_count() -> None:
    few = replace(comparison(gap=(0.036, None, None)), why_no_interval=FEW)
    decision = judge(evaluation(few))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (f"The holdout has {FEW}; so the two models cannot be compared.",)


@pytest.mark.parametrize("value", [0.9, 0.1, None])
def test_floor_decides_nothing_on_too_few_rows_of_a_class(value: float | None) -> None:
    bare = MetricComparison(
        metric="roc_auc", challenger=estimate(value), champion=None, difference=None, why_no_interval=FEW
    )
    decision = judge(evaluation(bare, champion=None, champion_version=None), gate(floors={"roc_auc": 0.55}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert any(FEW in reason for reason in decision.reasons)


def test_defect_of_the_challenger_rejects_whatever_the_numbers_say() -> None:
    decision = judge(evaluation(defects=("The challenger gives all 99 rows the same score.",)))
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons == ("The challenger gives all 99 rows the same score.",)


def test_secondary_metric_without_a_value_for_the_challenger_is_inconclusive() -> None:
    lost = MetricComparison(
        metric="brier", challenger=estimate(None), champion=estimate(0.2), difference=estimate(None)
    )
    decision = judge(evaluation(comparisons={"roc_auc": comparison(), "brier": lost}))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == ("brier could not be computed for the challenger.",)


def test_interval_of_another_confidence_is_inconclusive() -> None:
    decision = judge(evaluation(confidence=0.8))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "needs 0.9" in decision.reasons[0]


def test_metric_that_was_not_measured_is_inconclusive() -> None:
    assert judge(evaluation(), primary="brier").verdict is Verdict.INCONCLUSIVE
    assert judge(evaluation(comparisons={})).verdict is Verdict.INCONCLUSIVE
    assert judge(evaluation(), gate(floors={"brier": 0.3})).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("change", [{"champion_version": None}, {"champion": None}])
def test_traces_of_an_unnamed_champion_are_inconclusive_even_with_floors(change: dict[str, None]) -> None:
    assert judge(evaluation(**change), gate(floors={"roc_auc": 0.5})).verdict is Verdict.INCONCLUSIVE


def test_champion_named_but_not_compared_is_inconclusive() -> None:
    bare = MetricComparison(metric="roc_auc", challenger=estimate(0.9, 0.8, 0.95), champion=None, difference=None)
    assert judge(evaluation(bare), gate(floors={"roc_auc": 0.5})).verdict is Verdict.INCONCLUSIVE


def test_difference_that_is_not_of_the_two_values_is_inconclusive() -> None:
    wrong = replace(comparison(), challenger=estimate(0.5, 0.4, 0.6))
    assert judge(evaluation(wrong)).verdict is Verdict.INCONCLUSIVE


def test_reversed_interval_is_inconclusive() -> None:
    assert judge(evaluation(comparison(gap=(0.036, 0.048, 0.025)))).verdict is Verdict.INCONCLUSIVE


def test_rules_carry_numbers_for_machines() -> None:
    found = judge(evaluation()).rules[-1]
    assert (found.name, found.metric, found.threshold, found.n) == ("superiority", "roc_auc", 0.002, 12_345)
    assert (found.estimate, found.low, found.high, found.verdict) == (0.036, 0.025, 0.048, Outcome.PASS)


@pytest.mark.parametrize("odd", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["challenger", "champion", "value", "low", "high", "secondary"])
@pytest.mark.parametrize("metric", ["roc_auc", "rmse"])
def test_any_needed_value_that_is_missing_or_not_finite_is_inconclusive(
    metric: str, where: str, odd: float | None
) -> None:
    gap = (0.036, 0.025, 0.048) if metric == "roc_auc" else (-0.036, -0.048, -0.025)
    good = comparison(metric, gap)
    assert good.champion is not None
    assert good.difference is not None
    broken = {
        "challenger": replace(good, challenger=estimate(odd)),
        "champion": replace(good, champion=estimate(odd)),
        "secondary": good,
    }.get(where) or replace(good, difference=replace(good.difference, **{where: odd}))
    secondary = comparison("brier")
    if where == "secondary":
        secondary = replace(secondary, challenger=estimate(odd))
    lacking = evaluation(comparisons={metric: broken, "brier": secondary})
    assert judge(lacking, primary=metric).verdict is Verdict.INCONCLUSIVE
    assert judge(evaluation(comparisons={metric: good}), primary=metric).verdict is Verdict.PROMOTE


@pytest.mark.parametrize("change", [{"champion_version": None}, {"champion": None}])
def test_one_trace_of_a_champion_is_enough_for_floors_not_to_promote(change: dict[str, None]) -> None:
    bare = MetricComparison(metric="roc_auc", challenger=estimate(0.9, 0.8, 0.95), champion=None, difference=None)
    decision = judge(evaluation(bare, **change), gate(floors={"roc_auc": 0.5}))
    assert decision.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    "asked", [{"kind": "non_inferiority", "margin": 0.01}, {"kind": "superiority", "min_effect": 0.0}]
)
def test_champion_is_never_promoted_over_itself(asked: dict[str, Any]) -> None:
    same = evaluation(comparison(gap=(0.0, 0.0, 0.0)), challenger={"digest": "old"})
    decision = judge(same, gate(asked))
    assert decision.verdict is Verdict.REJECT
    assert any("the champion itself" in reason for reason in decision.reasons)


def test_without_cluster_by_no_cluster_is_counted() -> None:
    decision = judge(evaluation(clusters=1), gate(cluster_by=None))
    assert decision.verdict is Verdict.PROMOTE
    assert "clusters" not in [found.name for found in decision.rules]


@pytest.mark.parametrize(
    ("days", "name", "verdict", "why"),
    [
        (
            20,
            "non_inferiority",
            Verdict.PROMOTE,
            "ends 20d before the challenger's, and refresh_after_days asks for 7d",
        ),
        (7, "non_inferiority", Verdict.PROMOTE, "not being worse is enough"),
        (6.99, "superiority", Verdict.INCONCLUSIVE, "ends 6d 23h before the challenger's"),
        (0, "superiority", Verdict.INCONCLUSIVE, "only a better model replaces it"),
        (-2, "superiority", Verdict.INCONCLUSIVE, "ends 2d after the challenger's"),
        (None, "non_inferiority", Verdict.INCONCLUSIVE, "does not say until when"),
    ],
)
def test_equal_challenger_replaces_an_old_champion_only(
    days: float | None, name: str, verdict: Verdict, why: str
) -> None:
    equal = aged(evaluation(comparison(gap=(0.001, -0.008, 0.009))), days)
    decision = judge(equal, gate({**NON_INFERIORITY, "refresh_after_days": 7}))
    assert decision.verdict is verdict
    assert why in rule(decision, name).sentence


def test_better_challenger_replaces_a_young_champion_too() -> None:
    decision = judge(aged(evaluation(), 1), gate({**NON_INFERIORITY, "refresh_after_days": 7}))
    assert decision.verdict is Verdict.PROMOTE
    assert rule(decision, "superiority").threshold == 0


@pytest.mark.parametrize("end", [None, "", "yesterday", 3, "2013-02-30"])
def test_training_times_that_cannot_be_read_are_inconclusive(end: Any) -> None:
    broken = evaluation(champion={"digest": "old", "training_end": end})
    assert judge(broken, gate(NON_INFERIORITY)).verdict is Verdict.INCONCLUSIVE
    assert judge(broken).verdict is Verdict.PROMOTE  # superiority does not ask


def test_inconclusive_says_how_long_a_holdout_might_settle_it() -> None:
    decision = judge(evaluation(comparison(gap=(0.022, -0.018, 0.062)), rows=10_000))
    # half-width 0.04, distance to the limit 0.02: four times the data
    assert "a holdout of about 56 days (40,000 rows) has even odds of settling it" in decision.reasons[0]


def test_difference_at_the_limit_says_that_more_data_does_not_help() -> None:
    decision = judge(evaluation(comparison(gap=(0.003, -0.018, 0.024))))
    assert "a holdout of 100 times the size would still leave it open" in decision.reasons[0]


@pytest.mark.parametrize("window", [("", ""), ("2013-03-15T00:00:00Z", "2013-03-01T00:00:00Z")])
def test_holdout_without_a_length_is_told_in_rows(window: tuple[str, str]) -> None:
    given = evaluation(comparison(gap=(0.022, -0.018, 0.062)), rows=10_000, holdout=window)
    assert "a holdout of about 40,000 rows has even odds" in judge(given).reasons[0]


def test_model_that_was_taken_back_is_rejected_however_good() -> None:
    taken_back = history(quarantined={"new": "Version 5 was rolled back on 2013-06-01 by ada: it scored nulls."})
    decision = judge(evaluation(), before=taken_back)
    assert decision.verdict is Verdict.REJECT
    assert decision.reasons == ("Version 5 was rolled back on 2013-06-01 by ada: it scored nulls.",)


def test_challenger_without_a_digest_is_inconclusive() -> None:
    assert judge(evaluation(challenger={})).verdict is Verdict.INCONCLUSIVE


def test_damaged_past_is_inconclusive_and_says_so() -> None:
    decision = judge(evaluation(), before=history(damage=("Entry 7 of the ledger is missing.",)))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == ("Entry 7 of the ledger is missing.",)


def test_promotion_names_everything_it_rests_on_the_comparison_first() -> None:
    decision = judge(in_order(), everything(), before=past(), slice_columns=("origin",))
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reasons[0].startswith("Challenger's roc_auc is 0.712")
    for said in ("floor asks for", "2 of 2 slices", "gate.fairness", "gate.cost", "min_tenure", "false_promotions"):
        assert any(said in reason for reason in decision.reasons), said

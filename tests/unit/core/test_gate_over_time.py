"""The gate's rules on the past: tenure, promotions a week, evidence over many nights."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from perennial.domain.evaluation import EvaluationResult
from perennial.domain.gate import Decision, Outcome
from perennial.domain.gate_history import GateHistory, LostEvidence
from perennial.domain.references import Verdict
from perennial.domain.rules.over_time import enough_evidence
from perennial.domain.sequential import EvidenceState
from tests.unit.core.gating import (
    DAY,
    NON_INFERIORITY,
    NOW,
    aged,
    alone,
    comparison,
    evaluation,
    gate,
    history,
    judge,
    reign,
    rule,
    units,
)

POLICY = {"budget": 0.05, "period_days": 90}
LOST = LostEvidence(uri="s3://b/d.json", sha256="x", as_of=NOW - DAY, problem="It cannot be read from s3://b/d.json.")


def _tenure(before: GateHistory, given: EvaluationResult | None = None) -> Decision:
    return judge(given or evaluation(), gate(floors={"roc_auc": 0.55}, min_tenure="3d"), before=before)


def test_champion_that_stayed_long_enough_may_go() -> None:
    decision = _tenure(history(reign("2", 9), reign("3", 3)))
    assert decision.verdict is Verdict.PROMOTE
    found = rule(decision, "tenure")
    assert (found.threshold, found.estimate) == (3 * 86_400, 3 * 86_400)


def test_young_champion_stays_and_the_page_says_until_when() -> None:
    decision = _tenure(history(reign("2", 9), reign("3", 1.125, "rollback")))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (
        "The champion has been in production for 1d 3h of the 3d that gate.min_tenure asks for; "
        "from 2013-07-02 23:00 UTC on.",
    )


@pytest.mark.parametrize(
    "before",
    [
        history(),
        history(reign("2", 9)),
        history(reign("3", 20), reign("4", 10)),
        history(reign("3", 20), reign(None, 10)),
        history(reign("3", -20)),
    ],
)
def test_reign_that_is_not_on_record_or_in_the_future_is_not_long_enough(before: GateHistory) -> None:
    assert _tenure(before).verdict is Verdict.INCONCLUSIVE


def test_first_champion_has_no_tenure_to_wait_for() -> None:
    assert _tenure(history(), alone()).verdict is Verdict.PROMOTE


@pytest.mark.parametrize(
    ("ago", "verdict"),
    [
        ((20.0, 6.0), Verdict.PROMOTE),
        ((7.0, 6.0), Verdict.PROMOTE),
        ((6.9, 6.0), Verdict.INCONCLUSIVE),
        ((6.9, -1.0), Verdict.INCONCLUSIVE),
        ((6.9, 6.0, 5.0), Verdict.INCONCLUSIVE),
    ],
)
def test_promotions_of_seven_days_are_counted(ago: tuple[float, ...], verdict: Verdict) -> None:
    before = history(*(reign("3", days) for days in ago))
    assert judge(evaluation(), gate(max_promotions_per_week=2), before=before).verdict is verdict


def test_too_many_promotions_say_when_the_next_one_may_be() -> None:
    before = history(reign("1", 6.5), reign("2", 6), reign("3", 5.5))
    decision = judge(evaluation(), gate(max_promotions_per_week=2), before=before)
    assert decision.reasons == (
        "3 promotions within seven days; gate.max_promotions_per_week allows 2; the next one from "
        "2013-07-02 02:00 UTC on.",
    )
    then = replace(before, as_of=NOW + DAY)
    assert judge(evaluation(), gate(max_promotions_per_week=2), before=then).verdict is Verdict.PROMOTE


def test_rollbacks_and_moves_by_hand_are_no_promotions() -> None:
    before = history(reign("1", 3, "rollback"), reign("2", 2, "outside"), reign("3", 1))
    assert judge(evaluation(), gate(max_promotions_per_week=2), before=before).verdict is Verdict.PROMOTE


def _evidence(given: EvaluationResult, before: GateHistory | None = None, **policy: Any) -> Decision:
    return judge(given, gate(**{"floors": {"roc_auc": 0.55}, "false_promotions": POLICY, **policy}), before=before)


def _state(given: EvaluationResult | None = None) -> EvidenceState:
    state = _evidence(given or evaluation(units=units(0.01, spread=0.03))).evidence
    assert state is not None
    return state


def test_strong_evidence_promotes() -> None:
    decision = _evidence(evaluation(units=units(0.04, 20)))
    assert decision.verdict is Verdict.PROMOTE
    assert decision.evidence is not None
    found = rule(decision, "evidence")
    assert (found.n, found.estimate) == (20, decision.evidence.e_value)
    assert found.threshold == decision.evidence.threshold >= 20  # of a budget of 5 %
    assert found.sentence == (
        "Over 20 days against champion version 3 the evidence is more than 1,000,000; 33.3 is needed. This champion's "
        "challengers may use 3 % of the 5 % budget of false_promotions for any 90 days, which asks for 1/0.03 = 33.3."
    )


def test_weak_evidence_waits_for_more_and_says_how_much_there_is() -> None:
    decision = _evidence(evaluation(units=units(0.004, 20, spread=0.01), unit="visit_week"))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (
        "Over 20 clusters of visit_week against champion version 3 the evidence is 0.6 of the 33.3 needed, and each "
        "new cluster counts for or against the challengers. This champion's challengers may use 3 % of the 5 % budget "
        "of false_promotions for any 90 days, which asks for 1/0.03 = 33.3.",
    )


@pytest.mark.parametrize(
    ("e_value", "told"),
    [
        (33.31, "is 33.31 of the 33.33 needed"),
        (33.3333332, "is 33.3333332 of the 33.3333333 needed"),
        (math.nextafter(1 / 0.03, 0), "just misses the 33.3 needed"),
        (1 / 0.03, "is 33.3; 33.3 is needed"),
        (3.0, "is 3.0 of the 33.3 needed"),
        (0.0, "is 0.0 of the 33.3 needed"),
    ],
)
def test_evidence_that_is_not_enough_never_reads_as_if_it_were(e_value: float, told: str) -> None:
    state = replace(_state(), e_value=e_value)
    (found,) = enough_evidence(gate(false_promotions=POLICY), evaluation(), history(), state)
    assert f"the evidence {told}" in found.sentence
    assert (found.verdict is Outcome.PASS) == (e_value >= 1 / 0.03)


def test_part_of_the_budget_in_use_says_how_much_it_is_and_when_it_is_free() -> None:
    first = _state()
    before = history(reign("3", 1), evidence=replace(first, champion="another"))
    found = rule(_evidence(evaluation(units=units(0.004, spread=0.01)), before), "evidence")
    assert "may use 1.2 % of the 5 % budget of false_promotions for any 90 days" in found.sentence
    assert found.sentence.endswith("1/0.012 = 83.3; 3 % is in use, and free again after 2013-09-29 02:00 UTC.")


def test_evidence_of_earlier_nights_counts() -> None:
    days = units(0.03, 24, spread=0.02)
    earlier = _state(evaluation(units=days[:12]))
    alone_tonight = _evidence(evaluation(units=days[12:]))
    together = _evidence(evaluation(units=days[12:]), history(evidence=earlier))
    assert together.evidence is not None
    assert alone_tonight.evidence is not None
    assert len(together.evidence.units) == 24
    assert together.evidence.e_value > alone_tonight.evidence.e_value


def test_where_lower_is_better_a_decrease_is_evidence() -> None:
    for gain, verdict in ((0.04, Verdict.PROMOTE), (-0.04, Verdict.INCONCLUSIVE)):
        given = evaluation(comparison("log_loss", (-0.02, -0.03, -0.01), base=0.5), units=units(gain, 20, "log_loss"))
        assert judge(given, gate(false_promotions=POLICY), "log_loss").verdict is verdict


def test_hypothesis_is_that_of_the_rule_that_applies() -> None:
    policy = {"rule": {**NON_INFERIORITY, "refresh_after_days": 7}}
    old, young = (_evidence(aged(evaluation(units=units()), days), **policy).evidence for days in (20, 2))
    assert old is not None
    assert young is not None
    assert (old.limit, young.limit, _state().limit) == (-0.01, 0.0, 0.002)


def test_units_out_of_order_are_sorted_by_label() -> None:
    state = _evidence(evaluation(units=units()[::-1])).evidence
    assert state is not None
    assert [label for label, _ in state.units] == sorted(label for label, _ in units())


def test_first_champion_needs_no_evidence_and_keeps_what_is_on_record() -> None:
    before = history(evidence=_state())
    decision = _evidence(alone(), before)
    assert decision.verdict is Verdict.PROMOTE
    assert decision.evidence == before.evidence


def test_rejected_night_still_adds_its_evidence() -> None:
    decision = _evidence(evaluation(units=units()), floors={"roc_auc": 0.99})
    assert decision.verdict is Verdict.REJECT
    assert decision.evidence is not None
    assert len(decision.evidence.units) == 20


def _broken(**given: Any) -> EvaluationResult:
    return evaluation(**{"units": units(), **given})


@pytest.mark.parametrize(
    "given",
    [
        _broken(units=None),
        _broken(units=()),
        _broken(units=(*units(), ("2013-07-02", math.nan))),
        _broken(units=(*units(), ("2013-07-02", math.inf))),
        _broken(units=(*units(), units()[0])),
        _broken(rows=3),
        _broken(clusters=3),
        _broken(defects=("One score for all rows.",)),
        _broken(confidence=0.8),
        _broken(comparisons={}),
        _broken(champion_version=None),
        _broken(champion={"training_end": "2013-02-08"}),
        _broken(challenger={"digest": "old"}),
        _broken(comparisons={"roc_auc": replace(comparison(), difference=None)}),
    ],
)
def test_unsound_night_adds_no_evidence_and_promotes_nothing(given: EvaluationResult) -> None:
    before = history(evidence=_state())
    decision = _evidence(given, before)
    assert decision.verdict is not Verdict.PROMOTE
    assert rule(decision, "evidence").verdict is Outcome.UNDECIDED
    assert decision.evidence == before.evidence


def test_lost_evidence_gives_no_fresh_budget_and_tells_the_way_out() -> None:
    decision = _evidence(evaluation(units=units()), history(lost=LOST))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.evidence is None
    assert decision.reasons == (
        "It cannot be read from s3://b/d.json. How much of the budget of false_promotions is in use is therefore "
        "unknown. Bring the object back from the bucket's earlier versions or its backup; if it is gone, it is too old "
        "to matter from 2013-09-28 02:00 UTC on.",
    )
    assert judge(evaluation(), before=history(lost=LOST)).verdict is Verdict.PROMOTE  # nothing asks for evidence


def test_budget_that_is_used_up_promotes_nothing() -> None:
    state = _state()
    spent = replace(state, stakes=(replace(state.stakes[-1], level=0.05),))
    decision = _evidence(evaluation(units=units()), history(evidence=replace(spent, champion="another")))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert decision.reasons == (
        "Over 20 days against champion version 3 the evidence is more than 1,000,000, and no evidence is enough at "
        "present. Of the 5 % budget of false_promotions for any 90 days, 5 % is in use, and free again after "
        "2013-09-29 02:00 UTC.",
    )


def test_overridden_night_is_judged_as_ever_and_adds_nothing_to_the_evidence() -> None:
    """What was measured under broken glass may be unfair."""
    before = history(evidence=_state(), is_overridden=True)
    decision = _evidence(evaluation(units=units(0.04, 24)), before)
    assert rule(decision, "evidence").n == 24
    assert decision.evidence == before.evidence
    assert _evidence(evaluation(units=units()), history(is_overridden=True)).evidence is None


def test_champion_put_back_is_judged_anew_by_its_new_reign() -> None:
    """Evidence that promoted a version, which was taken back, does not promote its twin."""
    strong = _state(evaluation(units=units(0.04, 20)))
    tonight = evaluation(units=units(0.04, 5))
    goes_on = _evidence(tonight, history(reign("3", 30), evidence=strong))
    assert goes_on.verdict is Verdict.PROMOTE
    back = (reign("3", 30), replace(reign("4", 2), sequence=11), replace(reign("3", 1, "rollback"), sequence=12))
    put_back = _evidence(tonight, history(*back, evidence=strong))
    assert put_back.verdict is Verdict.INCONCLUSIVE
    assert put_back.evidence is not None
    assert (put_back.evidence.reign, len(put_back.evidence.units)) == (12, 5)


def test_units_of_another_kind_begin_anew() -> None:
    found = _evidence(evaluation(units=units(), unit="visit_week"), history(evidence=_state())).evidence
    assert found is not None
    assert (found.unit, len(found.units), len(found.stakes)) == ("visit_week", 20, 2)


def test_evidence_carries_its_stakes_from_champion_to_champion() -> None:
    first = _state()
    later = history(evidence=replace(first, champion="another"))
    found = rule(_evidence(evaluation(units=units()), replace(later, as_of=NOW + timedelta(days=1))), "evidence")
    assert found.threshold is not None
    assert found.threshold > first.threshold  # a part of the budget is spent

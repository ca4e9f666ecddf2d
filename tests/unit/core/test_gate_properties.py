"""No combination of missing, broken or contradictory facts promotes; and what is in order does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perennial.domain.evaluation import MetricComparison
from perennial.domain.gate import Outcome, decide
from perennial.domain.metric_names import METRICS
from perennial.domain.references import Verdict
from tests.unit.core.gate_cases import OPTIONS, WRECKS, Case, any_cases, good_cases
from tests.unit.core.gating import (
    NOW,
    alone,
    estimate,
    evaluation,
    everything,
    gate,
    history,
    in_order,
    judge,
    past,
    reign,
    units,
)

ODD = st.sampled_from([None, math.nan, math.inf, -math.inf])


@settings(max_examples=200, deadline=None)
@given(good_cases())
def test_what_is_in_order_is_promoted(case: Case) -> None:
    """Without this, the tests below could not fail."""
    assert case.decide().verdict is Verdict.PROMOTE


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

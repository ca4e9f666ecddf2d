"""Calm, and a bounded error over many nights: tenure, promotions a week, accumulated evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from perennial.domain.evaluation import UTC_DAY, EvaluationResult
from perennial.domain.gate_history import GateHistory
from perennial.domain.rules.comparison import applied_rule, has_champion, is_champion_itself, why_not_comparable
from perennial.domain.rules.outcome import Outcome, RuleOutcome, direction
from perennial.domain.sequential import EvidenceState, in_use, next_state
from perennial.domain.wording import counted, digits_for, duration, moment, number, plain
from perennial.spec.parts import FalsePromotions, Gate

WEEK: Final = timedelta(days=7)
BEYOND: Final = 1e6
"""Evidence above it is not told in digits."""


def known_past(history: GateHistory) -> Iterator[RuleOutcome]:
    """A past that is damaged decides nothing: a version taken back might be missing from it."""
    for sentence in history.damage:
        yield RuleOutcome(name="history", verdict=Outcome.UNDECIDED, sentence=sentence)


def calm(gate: Gate, evaluation: EvaluationResult, history: GateHistory) -> Iterator[RuleOutcome]:
    """The champion has been there long enough, and there were not too many promotions lately."""
    if gate.min_tenure > timedelta(0):
        yield _tenure(gate.min_tenure, evaluation, history)
    if gate.max_promotions_per_week is not None:
        yield _promotions(gate.max_promotions_per_week, history)


def _tenure(asked: timedelta, evaluation: EvaluationResult, history: GateHistory) -> RuleOutcome:
    version, reign, elapsed = evaluation.champion_version, history.reigns[-1] if history.reigns else None, None
    verdict = Outcome.UNDECIDED
    if not has_champion(evaluation):
        verdict, sentence = Outcome.PASS, "There is no champion whose time gate.min_tenure could protect."
    elif reign is None or version is None or reign.version != version:
        sentence = (
            f"The ledger does not say since when version {version or 'unknown'} has been champion, so whether that is "
            f"the {duration(asked)} of gate.min_tenure is unknown. The next run that looks at the alias records it."
        )
    else:
        elapsed = history.as_of - reign.since
        said = f"The champion has been in production for {duration(elapsed)}"
        if elapsed >= asked:
            verdict, sentence = Outcome.PASS, f"{said}; gate.min_tenure asks for {duration(asked)}."
        else:
            from_then = moment(reign.since + asked)
            sentence = f"{said} of the {duration(asked)} that gate.min_tenure asks for; from {from_then} on."
    return RuleOutcome(
        name="tenure",
        threshold=asked.total_seconds(),
        estimate=None if elapsed is None else elapsed.total_seconds(),
        verdict=verdict,
        sentence=sentence,
    )


def _promotions(most: int, history: GateHistory) -> RuleOutcome:
    """Those of the seven days up to now; of a run that replays the past, later ones count too."""
    times = sorted(
        reign.since for reign in history.reigns if reign.how == "promotion" and reign.since > history.as_of - WEEK
    )
    said = f"{counted(len(times), 'promotion')} within seven days; gate.max_promotions_per_week allows {most}"
    if len(times) < most:
        verdict, sentence = Outcome.PASS, f"{said}."
    else:
        verdict, sentence = Outcome.UNDECIDED, f"{said}; the next one from {moment(times[-most] + WEEK)} on."
    return RuleOutcome(
        name="promotions_per_week",
        threshold=most,
        estimate=len(times),
        n=len(times),
        verdict=verdict,
        sentence=sentence,
    )


def evidence_state(
    gate: Gate, evaluation: EvaluationResult, history: GateHistory, *, primary: str, enough: bool
) -> EvidenceState | str:
    """The evidence with tonight's units in it, or a sentence that says why tonight adds nothing."""
    policy, units = gate.false_promotions, evaluation.units or ()
    applied = applied_rule(gate.rule, evaluation) if has_champion(evaluation) else ""
    digest = (evaluation.champion or {}).get("digest")
    comparable = why_not_comparable(gate, evaluation, primary) is None and isinstance(digest, str)
    numbers = all(math.isfinite(value) for _, value in units) and len({label for label, _ in units}) == len(units)
    obstacles = (
        (not has_champion(evaluation), "There is no champion that could be replaced by mistake."),
        (is_champion_itself(evaluation), "The challenger is the champion itself, which is no evidence."),
        (history.lost is not None, _lost(history, policy)),
        (not enough, "The holdout is too small, so it adds no evidence; its days count once there is enough of it."),
        (bool(evaluation.defects), "The challenger's scores are not usable, so tonight adds no evidence."),
        (not comparable, "The two models could not be compared, so tonight adds no evidence."),
        (not units, f"What each independent unit says of {primary} was not measured: there is no evidence to add."),
        (not numbers, f"What the units say of {primary} contradicts itself, so tonight adds no evidence."),
    )
    obstacle = next((sentence for holds, sentence in obstacles if holds), None)
    if policy is None or obstacle is not None or isinstance(applied, str):
        return obstacle or str(applied)
    sign = direction(primary)
    return next_state(
        history.evidence,
        champion=str(digest),
        reign=history.reign,
        metric=primary,
        limit=applied.limit,
        unit=evaluation.unit,
        policy=policy,
        as_of=history.as_of,
        units=sorted((label, sign * value) for label, value in units),
    )


def _lost(history: GateHistory, policy: FalsePromotions | None) -> str:
    if history.lost is None or policy is None:
        return ""
    until = moment(history.lost.as_of + timedelta(days=policy.period_days))
    return (
        f"{history.lost.problem} How much of the budget of false_promotions is in use is therefore unknown. Bring the "
        f"object back from the bucket's earlier versions or its backup; if it is gone, it is too old to matter from "
        f"{until} on."
    )


def enough_evidence(
    gate: Gate, evaluation: EvaluationResult, history: GateHistory, state: EvidenceState | str
) -> Iterator[RuleOutcome]:
    """Whether the evidence of all nights against this champion reaches what the budget asks for."""
    policy = gate.false_promotions
    if policy is None:
        return
    if isinstance(state, str):
        first = not has_champion(evaluation)
        yield RuleOutcome(name="evidence", verdict=Outcome.PASS if first else Outcome.UNDECIDED, sentence=state)
        return
    noun, where = ("day", "") if state.unit == UTC_DAY else ("cluster", f" of {state.unit}")
    over = f"Over {counted(len(state.units), noun)}{where} against champion version {evaluation.champion_version}"
    verdict = Outcome.UNDECIDED
    less, more = sorted((state.e_value, state.threshold))
    digits = digits_for([less], apart_from=more, least=1)
    shown, asked = (number(value, digits) for value in (state.e_value, state.threshold))
    if state.e_value > BEYOND and not state.e_value < state.threshold < math.inf:
        shown = f"more than {number(BEYOND, 0)}"
    if not math.isfinite(state.threshold):
        said = f"is {shown}, and no evidence is enough at present"
    elif state.threshold <= state.e_value < math.inf:
        verdict = Outcome.PASS
        said = f"is {shown}; {asked} is needed"
    else:
        said = "just misses the" if shown == asked else f"is {shown} of the"
        said += f" {asked} needed, and each new {noun} counts for or against the challengers"
    yield RuleOutcome(
        name="evidence",
        metric=state.metric,
        threshold=state.threshold,
        estimate=state.e_value,
        n=len(state.units),
        verdict=verdict,
        sentence=f"{over} the evidence {said}. {_budget(policy, state, history.as_of, asked)}",
    )


def _budget(policy: FalsePromotions, state: EvidenceState, as_of: datetime, asked: str) -> str:
    """Where the threshold comes from, and when there is more to spend."""
    used = in_use(state.stakes[:-1], policy, as_of)
    budget = f"{_percent(policy.budget)} budget of false_promotions for any {policy.period_days} days"
    free = ""
    if used:
        again = moment(max(stake.until for stake in used) + timedelta(days=policy.period_days))
        taken = min(math.fsum(stake.level for stake in used), policy.budget)
        free = f"{_percent(taken)} is in use, and free again after {again}"
    if state.level == 0:
        return f"Of the {budget}, {free}."
    level = plain(float(f"{state.level:.3g}"))
    return (
        f"This champion's challengers may use {_percent(state.level)} of the {budget}, which asks for "
        f"1/{level} = {asked}{'; ' if free else ''}{free}."
    )


def _percent(share: float) -> str:
    return f"{plain(float(f'{100 * share:.3g}'))} %"

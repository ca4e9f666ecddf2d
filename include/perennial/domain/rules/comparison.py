"""The challenger's value against the gate's floors, and its gain over the champion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from perennial.domain.evaluation import EvaluationResult, MetricComparison, MetricEstimate
from perennial.domain.gate_history import GateHistory
from perennial.domain.metric_names import METRICS
from perennial.domain.rows_needed import rows_needed
from perennial.domain.rules.outcome import Outcome, RuleOutcome, all_finite, direction, finite, same
from perennial.domain.times import parse_time
from perennial.domain.wording import digits_for, duration, interval_name, number, plain
from perennial.spec.parts import Gate, NonInferiority, Superiority

SAME_CONFIDENCE: Final = 1e-9
UNKNOWN: Final = MetricEstimate(value=None, low=None, high=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRule:
    """Which rule compares the two models, and why it is that one where the champion's age decides."""

    rule: Superiority | NonInferiority
    why: str = ""

    @property
    def limit(self) -> float:
        """What the gain, in the better direction, has to exceed."""
        return _limit(self.rule)


def floors(gate: Gate, evaluation: EvaluationResult, primary: str) -> Iterator[RuleOutcome]:
    """The primary metric's floor first."""
    for name, limit in sorted(gate.floors.items(), key=lambda floor: (floor[0] != primary, floor[0])):
        found = evaluation.comparisons.get(name)
        if found is None or found.metric != name:
            found = None
        estimate = UNKNOWN if found is None else found.challenger
        verdict, sentence = _floor(name, limit, estimate.value)
        if found is not None and found.why_no_interval is not None:
            verdict = Outcome.UNDECIDED
            sentence = f"The holdout has {found.why_no_interval}; the floor of {name} is not judged."
        yield RuleOutcome(
            name="floor",
            metric=name,
            threshold=limit,
            estimate=estimate.value,
            low=estimate.low,
            high=estimate.high,
            n=evaluation.rows,
            verdict=verdict,
            sentence=sentence,
        )


def _floor(name: str, limit: float, value: float | None) -> tuple[Outcome, str]:
    if name not in METRICS or value is None or not all_finite(value, limit):
        return Outcome.UNDECIDED, f"Challenger's {name} is not available, so its floor cannot be checked."
    shown = number(value, digits_for([value], apart_from=limit))
    side = "at least" if METRICS[name].higher_is_better else "at most"
    if direction(name) * value >= direction(name) * limit:
        return Outcome.PASS, f"Challenger's {name} is {shown}; the floor asks for {side} {plain(limit)}."
    return Outcome.FAIL, f"Challenger's {name} is {shown}; the floor asks for {side} {plain(limit)}, which it misses."


def against_champion(gate: Gate, evaluation: EvaluationResult, primary: str, history: GateHistory) -> RuleOutcome:
    """Superiority or non-inferiority; without a champion, whether there never was one, and a policy at all."""
    if not has_champion(evaluation):
        return _without_champion(gate, evaluation, history)
    applied = applied_rule(gate.rule, evaluation)
    comparison = evaluation.comparisons.get(primary)
    gap = (comparison.difference if comparison is not None else None) or UNKNOWN
    obstacle = why_not_comparable(gate, evaluation, primary)
    rule, limit = (gate.rule, None) if isinstance(applied, str) else (applied.rule, direction(primary) * applied.limit)
    if is_champion_itself(evaluation):
        verdict, sentence = Outcome.FAIL, "The challenger is the champion itself, the same bytes: nothing to promote."
    elif obstacle is not None or isinstance(applied, str):
        verdict, sentence = Outcome.UNDECIDED, obstacle or str(applied)
    else:
        verdict, sentence = _judge_gap(applied, evaluation, primary)
    return RuleOutcome(
        name=rule.kind,
        metric=primary,
        threshold=limit,
        estimate=gap.value,
        low=gap.low,
        high=gap.high,
        n=evaluation.rows,
        verdict=verdict,
        sentence=sentence,
    )


def _without_champion(gate: Gate, evaluation: EvaluationResult, history: GateHistory) -> RuleOutcome:
    earlier = [reign.version for reign in history.reigns if reign.version is not None]
    if earlier:
        verdict = Outcome.UNDECIDED
        sentence = (
            f"No champion was found to compare with, though version {earlier[-1]} has been one, and floors alone judge "
            f"a model's first champion only. If there is none now, put one back with `perennial rollback "
            f"{evaluation.model} --to {earlier[-1]}` (or another version) and start a new run, with `force` if no "
            f"newer data has landed; or let somebody whom the spec names in approval.break_glass promote the "
            f"challenger without the comparison."
        )
    elif gate.floors:
        verdict, sentence = Outcome.PASS, "There is no champion to compare with, so the gate's floors alone decide."
    else:
        verdict = Outcome.UNDECIDED
        sentence = (
            "There is no champion to compare with, and the gate has no floors: an empty policy never promotes. "
            "Add a floor to gate.floors in the spec."
        )
    return RuleOutcome(name="policy", n=evaluation.rows, verdict=verdict, sentence=sentence)


def has_champion(evaluation: EvaluationResult) -> bool:
    """Any trace of a champion counts: where there is one, floors alone must not promote."""
    return (
        evaluation.champion_version is not None
        or evaluation.champion is not None
        or any(found.champion is not None or found.difference is not None for found in evaluation.comparisons.values())
    )


def is_champion_itself(evaluation: EvaluationResult) -> bool:
    """Whether both are the same bytes."""
    champion = evaluation.champion or {}
    return champion.get("digest") is not None and champion.get("digest") == evaluation.challenger.get("digest")


def applied_rule(rule: Superiority | NonInferiority, evaluation: EvaluationResult) -> AppliedRule | str:
    """The rule that the champion's age makes apply, or a sentence that says why that cannot be told."""
    if isinstance(rule, Superiority):
        return AppliedRule(rule=rule)
    challenger, champion = (_training_end(model) for model in (evaluation.challenger, evaluation.champion or {}))
    if challenger is None or champion is None:
        return (
            "The evaluation does not say until when both models' training data goes, so whether the champion is old "
            "enough for non-inferiority is unknown."
        )
    age, asked = challenger - champion, timedelta(days=rule.refresh_after_days)
    side = "before" if age >= timedelta(0) else "after"
    days = f" The champion's training data ends {duration(abs(age))} {side} the challenger's"
    if age >= asked:
        why = f"{days}, and refresh_after_days asks for {duration(asked)}: not being worse is enough."
        return AppliedRule(rule=rule, why=why if asked else "")
    why = f"{days}, and refresh_after_days asks for {duration(asked)} before: only a better model replaces it."
    better = Superiority(kind="superiority", min_effect=0.0, confidence=rule.confidence)
    return AppliedRule(rule=better, why=why)


def _training_end(model: Mapping[str, Any]) -> datetime | None:
    try:
        return parse_time(model["training_end"])
    except (KeyError, TypeError, ValueError):
        return None


def why_not_comparable(gate: Gate, evaluation: EvaluationResult, primary: str) -> str | None:
    """Why the difference cannot be judged, or None if it can."""
    found = evaluation.comparisons.get(primary)
    if primary not in METRICS or found is None or found.metric != primary:
        return f"{primary} was not measured, so challenger and champion cannot be compared."
    if evaluation.champion_version is None or evaluation.champion is None or found.champion is None:
        return f"The evaluation does not say which champion its {primary} was compared with."
    problem = confidence_problem(gate, evaluation)
    if problem is None and found.why_no_interval is not None:
        problem = f"The holdout has {found.why_no_interval}; so the two models cannot be compared."
    if problem is not None:
        return problem
    for who, value in (("challenger", found.challenger.value), ("champion", found.champion.value)):
        if not finite(value):
            return f"{primary} could not be computed for the {who}, so the two cannot be compared."
    gap = found.difference or UNKNOWN
    if not all_finite(gap.value, gap.low, gap.high, _limit(gate.rule)):
        return f"The difference in {primary} has no interval, so nothing tells it from chance."
    return None if _consistent(found) else f"The figures of {primary} contradict each other; nothing rests on them."


def confidence_problem(gate: Gate, evaluation: EvaluationResult) -> str | None:
    """A sentence if the intervals are not those of the gate's rule."""
    asked = 2 * gate.rule.confidence - 1
    if abs(evaluation.confidence - asked) <= SAME_CONFIDENCE:
        return None
    return (
        f"The intervals have two-sided confidence {plain(round(evaluation.confidence, 9))}, the gate's rule needs "
        f"{plain(round(asked, 9))}: the evaluation was made for another policy. Start a new run."
    )


def _consistent(found: MetricComparison) -> bool:
    """The difference is that of the two values, and its interval's ends are in order."""
    a, b, gap = found.challenger.value, (found.champion or UNKNOWN).value, found.difference or UNKNOWN
    if a is None or b is None or gap.value is None or gap.low is None or gap.high is None:
        return False
    return same(a - b, gap.value) and gap.low <= gap.high


def _judge_gap(applied: AppliedRule, evaluation: EvaluationResult, primary: str) -> tuple[Outcome, str]:
    """One-sided: the end of the interval on the worse side has to clear the limit, and so has the estimate."""
    found = evaluation.comparisons[primary]
    gap, champion, sign, limit = (
        found.difference or UNKNOWN,
        found.champion or UNKNOWN,
        direction(primary),
        applied.limit,
    )
    if gap.value is None or gap.low is None or gap.high is None:
        raise ValueError("a difference without its interval is not judged")
    gain, (worst, best) = sign * gap.value, sorted((sign * gap.low, sign * gap.high))
    verdict, needed = Outcome.UNDECIDED, ""
    if worst > limit and gain > limit:
        verdict = Outcome.PASS
    elif best <= limit:
        verdict = Outcome.FAIL
    else:
        more = rows_needed(gain, worst, best, limit=limit, rows=evaluation.rows, days=holdout_days(evaluation))
        needed = "" if more is None else f" {more.sentence()}"
    digits = digits_for([gap.value, gap.low, gap.high], apart_from=sign * limit)
    said = (
        f"Challenger's {primary} is {number(found.challenger.value, digits)}, "
        f"the champion's {number(champion.value, digits)}: {number(gap.value, digits, sign=True)}, "
        f"{interval_name(applied.rule.confidence)} [{number(gap.low, digits)}, {number(gap.high, digits)}]; "
        f"{_meaning(applied.rule, verdict, sign, is_worse=best < 0)}{applied.why}{needed}"
    )
    return verdict, said


def holdout_days(evaluation: EvaluationResult) -> float | None:
    """Length of the holdout window; None if it cannot be told."""
    try:
        start, end = (parse_time(text) for text in evaluation.holdout)
    except (TypeError, ValueError):
        return None
    return (end - start) / timedelta(days=1)


def _meaning(rule: Superiority | NonInferiority, verdict: Outcome, sign: int, *, is_worse: bool) -> str:
    """What the figures say; `is_worse`: all of the interval is on the worse side of 0."""
    better = "higher" if sign > 0 else "lower"
    if isinstance(rule, NonInferiority):
        margin = plain(rule.margin)
        return {
            Outcome.PASS: f"worse, beyond chance, but by less than the {margin} tolerated ({better} is better)."
            if is_worse
            else f"any loss is smaller than the {margin} tolerated.",
            Outcome.FAIL: f"worse, beyond chance, by at least the {margin} tolerated ({better} is better).",
            Outcome.UNDECIDED: f"the loss may be smaller or larger than the {margin} tolerated ({better} is better).",
        }[verdict]
    if is_worse:
        return f"worse, beyond chance ({better} is better)."
    if rule.min_effect == 0:
        return {
            Outcome.PASS: f"{better}, beyond chance.",
            Outcome.FAIL: f"no improvement ({better} is better).",
            Outcome.UNDECIDED: f"this may be chance ({better} is better).",
        }[verdict]
    asked, lead = f"the {plain(rule.min_effect)} asked for", "" if sign > 0 else "lower by "
    return {
        Outcome.PASS: f"{lead}more than {asked}.",
        Outcome.FAIL: f"not {lead}more than {asked} ({better} is better).",
        Outcome.UNDECIDED: f"the true difference may be {lead}more than {asked} or not ({better} is better).",
    }[verdict]


def _limit(rule: Superiority | NonInferiority) -> float:
    return rule.min_effect if isinstance(rule, Superiority) else -rule.margin

"""The gate: whether a challenger may replace the champion. Pure, and it fails closed (invariant 4).

A rule passes only on evidence; whatever is missing, not finite or contradictory leaves it undecided, and an undecided
rule never promotes. All comparisons are written so that a NaN makes them false, and false never leads to PASS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from perennial.domain.evaluation import EvaluationResult, MetricComparison, MetricEstimate
from perennial.domain.metric_names import METRICS
from perennial.domain.references import Verdict
from perennial.domain.wording import counted, digits_for, number, plain
from perennial.spec.parts import Gate, NonInferiority, Superiority

SAME_CONFIDENCE: Final = 1e-9
SAME_VALUE: Final = 1e-9
_UNKNOWN: Final = MetricEstimate(value=None, low=None, high=None)


class Outcome(StrEnum):
    """What one rule came to."""

    PASS = "PASS"  # noqa: S105 - not a password
    FAIL = "FAIL"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOutcome:
    """One rule, what it asked for, what was found, and what that means."""

    name: str
    """`rows`, `clusters`, `scores`, `measured`, `floor`, `superiority`, `non_inferiority` or `policy`."""
    metric: str | None = None
    threshold: float | None = None
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    """`threshold`, `estimate`, `low` and `high` are in the metric's own unit and sign; for superiority and
    non_inferiority they are of the difference, challenger minus champion."""
    n: int | None = None
    """Rows (for the rule `clusters`: clusters) that the outcome rests on."""
    verdict: Outcome
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict, the sentences that explain it, and every rule that was looked at."""

    verdict: Verdict
    reasons: tuple[str, ...]
    rules: tuple[RuleOutcome, ...]


def decide(gate: Gate, evaluation: EvaluationResult, *, primary: str) -> Decision:
    """Judge the challenger.

    Too few rows or clusters: INCONCLUSIVE, whatever else. Else, a rule that fails: REJECT. Else, one that is undecided:
    INCONCLUSIVE. PROMOTE if all pass, and at least one of them is a floor or a comparison with the champion.

    Args:
        gate: the spec's policy.
        evaluation: what was measured, its intervals with two-sided confidence 2 * gate.rule.confidence - 1.
        primary: the metric that the rule compares.
    """
    enough = tuple(_enough(gate, evaluation))
    rules = (
        *enough,
        *_sound(evaluation),
        *_floors(gate, evaluation, primary),
        *_against_champion(gate, evaluation, primary),
    )
    verdict = _verdict(enough, rules)
    compared, floors, alone = ([r for r in rules if r.name == name] for name in (gate.rule.kind, "floor", "policy"))
    deciding = {
        Verdict.PROMOTE: [*compared, *floors, *alone],
        Verdict.REJECT: [rule for rule in rules if rule.verdict is Outcome.FAIL],
        Verdict.INCONCLUSIVE: [rule for rule in rules if rule.verdict is not Outcome.PASS],
    }[verdict]
    return Decision(verdict=verdict, reasons=tuple(rule.sentence for rule in deciding), rules=rules)


def _verdict(enough: tuple[RuleOutcome, ...], rules: tuple[RuleOutcome, ...]) -> Verdict:
    if any(rule.verdict is not Outcome.PASS for rule in enough):
        return Verdict.INCONCLUSIVE
    if any(rule.verdict is Outcome.FAIL for rule in rules):
        return Verdict.REJECT
    if all(rule.verdict is Outcome.PASS for rule in rules):
        return Verdict.PROMOTE
    return Verdict.INCONCLUSIVE


def _enough(gate: Gate, evaluation: EvaluationResult) -> Iterator[RuleOutcome]:
    for name, found, least in (
        ("rows", evaluation.rows, gate.min_rows),
        ("clusters", evaluation.clusters, gate.min_clusters),
    ):
        what = counted(found, "row") if name == "rows" else f"{counted(found, 'cluster')} of {gate.cluster_by}"
        if found >= least:
            verdict, sentence = Outcome.PASS, f"The holdout has {what}; at least {least:,} are asked for."
        else:
            verdict = Outcome.UNDECIDED
            sentence = f"The holdout has {what}; {least - found:,} more are needed to reach the {least:,} asked for."
        yield RuleOutcome(name=name, threshold=least, estimate=found, n=found, verdict=verdict, sentence=sentence)


def _sound(evaluation: EvaluationResult) -> Iterator[RuleOutcome]:
    """The challenger itself is in order, and every metric of the spec has a value for it."""
    for defect in evaluation.defects:
        yield RuleOutcome(name="scores", n=evaluation.rows, verdict=Outcome.FAIL, sentence=defect)
    if not evaluation.defects:
        sentence = "The challenger's scores are finite, and not all the same."
        yield RuleOutcome(name="scores", n=evaluation.rows, verdict=Outcome.PASS, sentence=sentence)
    without = [name for name, found in evaluation.comparisons.items() if not _finite(found.challenger.value)]
    if without or not evaluation.comparisons:
        sentence = f"{', '.join(without) or 'No metric'} could not be computed for the challenger."
        if not evaluation.comparisons:
            sentence = "No metric was measured."
        yield RuleOutcome(name="measured", n=evaluation.rows, verdict=Outcome.UNDECIDED, sentence=sentence)


def _floors(gate: Gate, evaluation: EvaluationResult, primary: str) -> Iterator[RuleOutcome]:
    for name, limit in sorted(gate.floors.items(), key=lambda floor: (floor[0] != primary, floor[0])):
        found = evaluation.comparisons.get(name)
        estimate = found.challenger if found is not None and found.metric == name else _UNKNOWN
        verdict, sentence = _floor(name, limit, estimate.value)
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
    info = METRICS.get(name)
    if info is None or value is None or not _finite(value, limit):
        return Outcome.UNDECIDED, f"Challenger's {name} is not available, so its floor cannot be checked."
    shown = number(value, digits_for([value], apart_from=limit))
    side = "at least" if info.higher_is_better else "at most"
    if value >= limit if info.higher_is_better else value <= limit:
        return Outcome.PASS, f"Challenger's {name} is {shown}; the floor asks for {side} {plain(limit)}."
    return Outcome.FAIL, f"Challenger's {name} is {shown}; the floor asks for {side} {plain(limit)}, which it misses."


def _against_champion(gate: Gate, evaluation: EvaluationResult, primary: str) -> Iterator[RuleOutcome]:
    if not _has_champion(evaluation):
        yield _without_champion(gate, evaluation)
        return
    comparison = evaluation.comparisons.get(primary)
    gap = comparison.difference if comparison is not None else None
    obstacle = _obstacle(gate, evaluation, primary)
    if _is_champion_itself(evaluation):
        verdict, sentence = Outcome.FAIL, "The challenger is the champion itself, the same bytes: nothing to promote."
    elif obstacle:
        verdict, sentence = Outcome.UNDECIDED, obstacle
    else:
        verdict, sentence = _judge_gap(gate.rule, evaluation, primary)
    yield RuleOutcome(
        name=gate.rule.kind,
        metric=primary,
        threshold=_direction(primary) * _limit(gate.rule),
        estimate=gap.value if gap is not None else None,
        low=gap.low if gap is not None else None,
        high=gap.high if gap is not None else None,
        n=evaluation.rows,
        verdict=verdict,
        sentence=sentence,
    )


def _without_champion(gate: Gate, evaluation: EvaluationResult) -> RuleOutcome:
    if gate.floors:
        verdict, sentence = Outcome.PASS, "There is no champion to compare with, so the gate's floors alone decide."
    else:
        verdict = Outcome.UNDECIDED
        sentence = (
            "There is no champion to compare with, and the gate has no floors: an empty policy never promotes. "
            "Add a floor to gate.floors in the spec."
        )
    return RuleOutcome(name="policy", n=evaluation.rows, verdict=verdict, sentence=sentence)


def _has_champion(evaluation: EvaluationResult) -> bool:
    """Any trace of a champion counts: where there is one, floors alone must not promote."""
    return (
        evaluation.champion_version is not None
        or evaluation.champion is not None
        or any(found.champion is not None or found.difference is not None for found in evaluation.comparisons.values())
    )


def _is_champion_itself(evaluation: EvaluationResult) -> bool:
    champion = evaluation.champion or {}
    return champion.get("digest") is not None and champion.get("digest") == evaluation.challenger.get("digest")


def _obstacle(gate: Gate, evaluation: EvaluationResult, primary: str) -> str | None:
    """Why the difference cannot be judged, or None if it can."""
    found = evaluation.comparisons.get(primary)
    if primary not in METRICS or found is None or found.metric != primary:
        return f"{primary} was not measured, so challenger and champion cannot be compared."
    if evaluation.champion_version is None or evaluation.champion is None or found.champion is None:
        return f"The evaluation does not say which champion its {primary} was compared with."
    asked = 2 * gate.rule.confidence - 1
    if not abs(evaluation.confidence - asked) <= SAME_CONFIDENCE:
        return (
            f"The intervals have two-sided confidence {plain(round(evaluation.confidence, 9))}, the gate's rule needs "
            f"{plain(round(asked, 9))}: the evaluation was made for another policy. Start a new run."
        )
    for who, value in (("challenger", found.challenger.value), ("champion", found.champion.value)):
        if not _finite(value):
            return f"{primary} could not be computed for the {who}, so the two cannot be compared."
    gap = found.difference or _UNKNOWN
    if not _finite(gap.value, gap.low, gap.high, _limit(gate.rule)):
        return f"The difference in {primary} has no interval, so nothing tells it from chance."
    return None if _consistent(found) else f"The figures of {primary} contradict each other; nothing rests on them."


def _consistent(found: MetricComparison) -> bool:
    """The difference is that of the two values, and its interval's ends are in order."""
    a, b, gap = found.challenger.value, (found.champion or _UNKNOWN).value, found.difference or _UNKNOWN
    if a is None or b is None or gap.value is None or gap.low is None or gap.high is None:
        return False
    return abs(a - b - gap.value) <= SAME_VALUE * max(abs(a), abs(b), 1.0) and gap.low <= gap.high


def _judge_gap(rule: Superiority | NonInferiority, evaluation: EvaluationResult, primary: str) -> tuple[Outcome, str]:
    """One-sided: the end of the interval on the worse side has to clear the limit, and so has the estimate."""
    found = evaluation.comparisons[primary]
    gap, champion, sign = found.difference or _UNKNOWN, found.champion or _UNKNOWN, _direction(primary)
    ends = [end for end in (gap.low, gap.high) if end is not None]
    worst, best = min(sign * end for end in ends), max(sign * end for end in ends)
    limit = _limit(rule)
    verdict = Outcome.UNDECIDED
    if gap.value is not None and worst > limit and sign * gap.value > limit:
        verdict = Outcome.PASS
    elif best <= limit:
        verdict = Outcome.FAIL
    digits = digits_for([gap.value, gap.low, gap.high], apart_from=sign * limit)
    said = (
        f"Challenger's {primary} is {number(found.challenger.value, digits)}, "
        f"the champion's {number(champion.value, digits)}: {number(gap.value, digits, sign=True)} "
        f"[{number(gap.low, digits)}, {number(gap.high, digits)}] at {plain(round(100 * rule.confidence, 9))} % "
        f"one-sided confidence; {_meaning(rule, verdict, sign)}"
    )
    return verdict, said


def _meaning(rule: Superiority | NonInferiority, verdict: Outcome, sign: int) -> str:
    better = "higher" if sign > 0 else "lower"
    if isinstance(rule, NonInferiority):
        margin = plain(rule.margin)
        return {
            Outcome.PASS: f"any loss is smaller than the {margin} tolerated.",
            Outcome.FAIL: f"a loss of at least the {margin} tolerated ({better} is better).",
            Outcome.UNDECIDED: f"the loss may be smaller or larger than the {margin} tolerated ({better} is better).",
        }[verdict]
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
    """What the gain, in the better direction, has to exceed."""
    return rule.min_effect if isinstance(rule, Superiority) else -rule.margin


def _direction(name: str) -> int:
    """1 where a higher value is better, -1 where a lower one is."""
    info = METRICS.get(name)
    return 1 if info is None or info.higher_is_better else -1


def _finite(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)

"""How far apart a metric is between named groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perennial.domain.evaluation import EvaluationResult, FairnessResult, MetricEstimate
from perennial.domain.rules.comparison import UNKNOWN, confidence_problem, has_champion
from perennial.domain.rules.outcome import Outcome, RuleOutcome, all_finite, finite, same
from perennial.domain.wording import counted, digits_for, interval_name, more_needed, number, plain
from perennial.spec.parts import FairnessRule, Gate


def judge_fairness(gate: Gate, evaluation: EvaluationResult, *, primary: str) -> Iterator[RuleOutcome]:
    """For each of `gate.fairness`: the gap against `max_gap`, its growth against `max_increase`."""
    for place, rule in enumerate(gate.fairness):
        metric = rule.metric or primary
        result = evaluation.fairness[place] if place < len(evaluation.fairness) else None
        problem = _problem(rule, metric, result)
        rows = None if result is None else sum(group.rows for group in result.groups)
        for name, limit in (("fairness_gap", rule.max_gap), ("fairness_increase", rule.max_increase)):
            if limit is None:
                continue
            estimate = UNKNOWN
            if problem is not None or result is None:
                verdict, sentence = problem or (Outcome.UNDECIDED, "")
            elif name == "fairness_gap":
                estimate = result.challenger_gap
                verdict, sentence = _gap(result, limit)
            else:
                estimate = result.increase or UNKNOWN
                verdict, sentence = _increase(gate, evaluation, result, limit)
            yield RuleOutcome(
                name=name,
                metric=metric,
                subject=rule.column,
                threshold=limit,
                estimate=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n=rows,
                verdict=verdict,
                sentence=sentence,
            )


def _problem(rule: FairnessRule, metric: str, result: FairnessResult | None) -> tuple[Outcome, str] | None:
    """Why the groups cannot be compared, or None if they can."""
    asked = f"{metric} between {_listed(rule.groups)} of {rule.column}"
    if result is None:
        return Outcome.UNDECIDED, f"The gap in {asked} was not measured."
    if (result.column, result.metric, tuple(group.group for group in result.groups)) != (
        rule.column,
        metric,
        rule.groups,
    ):
        return Outcome.UNDECIDED, f"The evaluation measured something else than the gap in {asked}. Start a new run."
    too_few = _too_few(rule, asked, result)
    if too_few is not None:
        return too_few
    values = [group.challenger for group in result.groups]
    there = [value for value in values if value is not None and finite(value)]
    gap = result.challenger_gap.value
    if len(there) < len(values) or gap is None or not finite(gap):
        return Outcome.UNDECIDED, f"The challenger's gap in {asked} could not be computed."
    if not same(max(there) - min(there), gap):
        return Outcome.UNDECIDED, f"The figures of the gap in {asked} contradict each other; nothing rests on them."
    return None


def _too_few(rule: FairnessRule, asked: str, result: FairnessResult) -> tuple[Outcome, str] | None:
    """Which group is too small to be judged."""
    empty = [group.group for group in result.groups if group.rows == 0]
    if empty:
        return (
            Outcome.FAIL,
            f"{_listed(empty)} of {rule.column} has no rows in the holdout; a group without rows fails.",
        )
    small = [group for group in result.groups if not group.rows >= rule.min_rows]
    if small:
        counts = ", ".join(
            f"{group.group} has {counted(group.rows, 'row')}, {more_needed(rule.min_rows - group.rows)}"
            for group in small
        )
        said = f"The gap in {asked} is not judged: min_rows asks for {rule.min_rows:,} rows of each group; {counts}."
        return Outcome.UNDECIDED, said
    if result.why_no_interval is not None:
        return Outcome.UNDECIDED, f"The gap in {asked} is not judged: {result.why_no_interval}."
    return None


def _gap(result: FairnessResult, limit: float) -> tuple[Outcome, str]:
    gap = result.challenger_gap.value
    if gap is None:
        raise ValueError("a gap that was not computed is not judged")
    digits = digits_for([gap], apart_from=limit)
    groups = ", ".join(f"{group.group} {number(group.challenger, digits)}" for group in result.groups)
    said = (
        f"Challenger's {result.metric} by {result.column} ({groups}) is {number(gap, digits)} apart; "
        f"gate.fairness allows {plain(limit)}"
    )
    verdict, end = (Outcome.PASS, "") if gap <= limit else (Outcome.FAIL, ", which it exceeds")
    return verdict, f"{said}{end} (max_gap is compared with the estimate, not with its interval)."


def _increase(gate: Gate, evaluation: EvaluationResult, result: FairnessResult, limit: float) -> tuple[Outcome, str]:
    what = f"The gap in {result.metric} by {result.column}"
    if not has_champion(evaluation):
        return Outcome.PASS, f"{what} has no champion's to compare with, so max_increase does not apply."
    problem = confidence_problem(gate, evaluation)
    if problem is not None:
        return Outcome.UNDECIDED, problem
    before, grown = result.champion_gap or UNKNOWN, result.increase or UNKNOWN
    if not all_finite(before.value, grown.value, grown.low, grown.high):
        return Outcome.UNDECIDED, f"{what} has no champion's with an interval to compare with."
    return _judge_increase(
        result.challenger_gap, before, grown, limit=limit, what=what, interval=interval_name(gate.rule.confidence)
    )


def _judge_increase(
    now: MetricEstimate, before: MetricEstimate, grown: MetricEstimate, *, limit: float, what: str, interval: str
) -> tuple[Outcome, str]:
    if now.value is None or before.value is None or grown.value is None or grown.low is None or grown.high is None:
        raise ValueError("an increase that was not computed is not judged")
    if not same(now.value - before.value, grown.value) or not grown.low <= grown.high:
        return Outcome.UNDECIDED, f"{what}: the figures contradict each other; nothing rests on them."
    digits = digits_for([grown.value, grown.low, grown.high], apart_from=limit)
    said = (
        f"{what} is {number(now.value, digits)}, the champion's {number(before.value, digits)}: "
        f"{number(grown.value, digits, sign=True)}, {interval} [{number(grown.low, digits)}, "
        f"{number(grown.high, digits)}]"
    )
    if grown.high <= limit and grown.value <= limit:
        return Outcome.PASS, f"{said}; at most the {plain(limit)} of max_increase."
    if grown.low > limit:
        return Outcome.FAIL, f"{said}; more than the {plain(limit)} of max_increase, beyond chance."
    return Outcome.UNDECIDED, f"{said}; more than the {plain(limit)} of max_increase is not ruled out."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""The primary metric within each value of each slice column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from perennial.domain.evaluation import EvaluationResult, SliceResult
from perennial.domain.metric_names import METRICS
from perennial.domain.multiplicity import holm
from perennial.domain.rows_needed import rows_needed
from perennial.domain.rules.comparison import UNKNOWN, has_champion, holdout_days
from perennial.domain.rules.outcome import SLICES, Outcome, RuleOutcome, all_finite, direction, finite, same
from perennial.domain.wording import counted, digits_for, more_needed, number, plain
from perennial.spec.parts import Gate, SliceRules

Key = tuple[str, str]
"""Column and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePolicy:
    """What is asked of each slice."""

    rules: SliceRules
    metric: str
    alpha: float

    @property
    def sign(self) -> int:
        """1 where a higher value is better, -1 where a lower one is."""
        return direction(self.metric)


def judge_slices(
    gate: Gate, evaluation: EvaluationResult, *, primary: str, columns: Iterable[str]
) -> Iterator[RuleOutcome]:
    """One outcome for each judged slice and what is asked of it, one that sums up those that pass, one for each
    column with nothing to judge.

    Args:
        gate: the policy.
        evaluation: what was measured.
        primary: the metric.
        columns: the spec's slice columns; each needs a judged slice.
    """
    if gate.slices is None:
        return
    policy = SlicePolicy(rules=gate.slices, metric=primary, alpha=1 - gate.rule.confidence)
    found = {(part.column, part.value): part for part in evaluation.slices}
    if len(found) != len(evaluation.slices):
        sentence = "The evaluation holds a slice twice; nothing rests on such figures."
        yield RuleOutcome(name="slice", metric=primary, verdict=Outcome.UNDECIDED, sentence=sentence)
        return
    judged = [part for part in evaluation.slices if part.rows >= policy.rules.min_rows]
    named = dict.fromkeys((*columns, *policy.rules.required, *(part.column for part in evaluation.slices)))
    yield from _missing(policy, found, judged, list(named))
    outcomes = [
        *(_against_champion(policy, evaluation, judged) if has_champion(evaluation) else ()),
        *(_floors(policy, judged) if policy.rules.floor is not None else ()),
    ]
    yield from outcomes
    bad = {outcome.subject for outcome in outcomes if outcome.verdict is not Outcome.PASS}
    passed = [part for part in judged if _title(part) not in bad]
    if passed:
        yield _summary(policy, evaluation, passed, judged)


def _missing(
    policy: SlicePolicy, found: dict[Key, SliceResult], judged: Sequence[SliceResult], columns: Sequence[str]
) -> Iterator[RuleOutcome]:
    least = policy.rules.min_rows
    for column, values in policy.rules.required.items():
        for value in values:
            rows = found[column, value].rows if (column, value) in found else 0
            if rows >= least:
                continue
            verdict = Outcome.UNDECIDED if rows > 0 else Outcome.FAIL
            has = f"has {counted(rows, 'row')}" if rows > 0 else "has no row in the holdout"
            sentence = f"{column} = {value}, which gate.slices requires, {has}; {more_needed(least - rows)}."
            yield RuleOutcome(
                name="slice",
                group=SLICES,
                metric=policy.metric,
                subject=f"{column} = {value}",
                n=rows,
                verdict=verdict,
                sentence=sentence,
            )
    for column in columns:
        if not any(part.column == column for part in judged):
            sentence = f"No value of {column} has the {least:,} rows of gate.slices.min_rows; a missing slice fails."
            yield RuleOutcome(
                name="slice", metric=policy.metric, subject=column, n=0, verdict=Outcome.FAIL, sentence=sentence
            )
    if not columns:
        sentence = "The evaluation has no slices, and gate.slices asks for them; a missing slice fails."
        yield RuleOutcome(name="slice", metric=policy.metric, n=0, verdict=Outcome.FAIL, sentence=sentence)


def _against_champion(
    policy: SlicePolicy, evaluation: EvaluationResult, judged: Sequence[SliceResult]
) -> Iterator[RuleOutcome]:
    """Holm over all judged slices; one without a usable p-value counts among them, with no evidence."""
    safe = holm({_title(part): _p_value(part.p_safe) for part in judged})
    harm = holm({_title(part): _p_value(part.p_harm) for part in judged})
    for part in judged:
        title, gap = _title(part), part.difference or UNKNOWN
        verdict, said = Outcome.UNDECIDED, _too_little(part)
        if part.why_no_interval is None:
            verdict, said = _gap_verdict(policy, part, safe[title], harm[title])
        if verdict is Outcome.UNDECIDED:
            said += _needed(policy, part, holdout_days(evaluation))
        raw, adjusted = (part.p_harm, harm) if verdict is Outcome.FAIL else (part.p_safe, safe)
        usable = not _p_problem(raw)
        yield RuleOutcome(
            name="slice",
            group=SLICES,
            metric=policy.metric,
            subject=title,
            threshold=-policy.sign * policy.rules.margin,
            estimate=gap.value,
            low=gap.low,
            high=gap.high,
            n=part.rows,
            p=raw if usable else None,
            p_adjusted=adjusted[title] if usable else None,
            p_limit=policy.alpha,
            tests=len(judged),
            verdict=verdict,
            sentence=said,
        )


def _gap_verdict(policy: SlicePolicy, part: SliceResult, safe: float, harm: float) -> tuple[Outcome, str]:
    title, metric, gap = _title(part), policy.metric, (part.difference or UNKNOWN).value
    a, b = part.challenger, part.champion
    if metric not in METRICS or a is None or b is None or gap is None or not all_finite(a, b, gap):
        return Outcome.UNDECIDED, f"In {title}, {metric} could not be computed for both models."
    if _p_problem(part.p_safe) or _p_problem(part.p_harm):
        return Outcome.UNDECIDED, f"In {title}, nothing tells the difference in {metric} from chance."
    gain, margin = policy.sign * gap, policy.rules.margin
    is_safe, is_harmed = safe <= policy.alpha, harm <= policy.alpha
    if not same(a - b, gap) or (is_safe and (is_harmed or gain <= -margin)) or (is_harmed and gain > -margin):
        return Outcome.UNDECIDED, f"In {title}, the figures of {metric} contradict each other."
    digits = digits_for([gap], apart_from=-policy.sign * margin)
    said = (
        f"In {title} ({counted(part.rows, 'row')}), challenger's {metric} is {number(a, digits)}, the champion's "
        f"{number(b, digits)}: {number(gap, digits, sign=True)}"
    )
    if is_safe:
        return Outcome.PASS, f"{said}; a loss of the {plain(margin)} of gate.slices.margin is ruled out."
    if is_harmed:
        return Outcome.FAIL, f"{said}; worse by more than the {plain(margin)} of gate.slices.margin, beyond chance."
    return Outcome.UNDECIDED, f"{said}; a loss of the {plain(margin)} of gate.slices.margin is not ruled out."


def _too_little(part: SliceResult) -> str:
    return (
        f"{_title(part)} ({counted(part.rows, 'row')}) has {part.why_no_interval}. Use a longer holdout, or raise "
        f"gate.slices.min_rows so that it is shown and not judged."
    )


def _needed(policy: SlicePolicy, part: SliceResult, days: float | None) -> str:
    """By the interval before Holm's correction: with it, it takes more."""
    gap = part.difference or UNKNOWN
    if gap.value is None or gap.low is None or gap.high is None:
        return ""
    low, high = sorted((policy.sign * gap.low, policy.sign * gap.high))
    if not all_finite(low, high):
        return ""
    more = rows_needed(policy.sign * gap.value, low, high, limit=-policy.rules.margin, rows=part.rows, days=days)
    return "" if more is None else f" {more.sentence(' of this slice')}"


def _floors(policy: SlicePolicy, judged: Sequence[SliceResult]) -> Iterator[RuleOutcome]:
    floor = policy.rules.floor
    side = "at least" if policy.sign > 0 else "at most"
    for part in judged:
        value = part.challenger
        if part.why_no_interval is not None:
            verdict, sentence = Outcome.UNDECIDED, _too_little(part)
        elif floor is None or value is None or policy.metric not in METRICS or not all_finite(value, floor):
            verdict = Outcome.UNDECIDED
            sentence = (
                f"In {_title(part)}, challenger's {policy.metric} is not available, so its floor cannot be checked."
            )
        else:
            verdict = Outcome.PASS if policy.sign * value >= policy.sign * floor else Outcome.FAIL
            shown = number(value, digits_for([value], apart_from=floor))
            sentence = (
                f"In {_title(part)} ({counted(part.rows, 'row')}), challenger's {policy.metric} is {shown}; "
                f"gate.slices.floor asks for {side} {plain(floor)}."
            )
        yield RuleOutcome(
            name="slice_floor",
            group=SLICES,
            metric=policy.metric,
            subject=_title(part),
            threshold=floor,
            estimate=value,
            low=part.challenger_low,
            high=part.challenger_high,
            n=part.rows,
            verdict=verdict,
            sentence=sentence,
        )


def _summary(
    policy: SlicePolicy, evaluation: EvaluationResult, passed: Sequence[SliceResult], judged: Sequence[SliceResult]
) -> RuleOutcome:
    """Of those that pass, with the one that came closest to not passing."""
    asked, corrected = [], ""
    if has_champion(evaluation):
        asked.append(f"not to be worse by {plain(policy.rules.margin)} or more than the champion")
        corrected = f", after Holm's correction for {len(judged):,} slices" if len(judged) > 1 else ""
    if policy.rules.floor is not None:
        asked.append(f"to keep the floor of {plain(policy.rules.floor)}")
    what = f"{len(passed):,} of {counted(len(judged), 'slice')}"
    shown = f"shown {' and '.join(asked)} in {policy.metric}" if asked else "there, with enough rows"
    small = len(evaluation.slices) - len(judged)
    left = f" {counted(small, 'slice')} with fewer than {policy.rules.min_rows:,} rows not judged." if small else ""
    gaps = [part.difference for part in passed if part.difference is not None and finite(part.difference.value)]
    worst = min(gaps, key=lambda gap: policy.sign * (gap.value or 0.0), default=UNKNOWN)
    return RuleOutcome(
        name="slices",
        metric=policy.metric,
        threshold=-policy.sign * policy.rules.margin if has_champion(evaluation) else policy.rules.floor,
        estimate=worst.value,
        low=worst.low,
        high=worst.high,
        n=len(passed),
        verdict=Outcome.PASS,
        sentence=f"{what} {shown}{corrected}.{left}",
    )


def _title(part: SliceResult) -> str:
    return f"{part.column} = {part.value}"


def _p_problem(p: float | None) -> bool:
    return p is None or not 0 <= p <= 1


def _p_value(p: float | None) -> float:
    return 1.0 if p is None or _p_problem(p) else p

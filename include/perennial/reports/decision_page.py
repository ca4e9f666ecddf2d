"""The page that tells why a model was promoted, or not. Self-contained: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perennial.domain.evaluation import EvaluationResult, MetricComparison, MetricEstimate, SliceResult
from perennial.domain.gate import Decision, Outcome, RuleOutcome
from perennial.domain.metric_names import METRICS
from perennial.domain.references import EvaluationRef, Verdict
from perennial.domain.run_request import RunRequest
from perennial.domain.wording import digits_for, number, plain
from perennial.reports.interval_plot import IntervalPlot, Line, interval_plot
from perennial.reports.page import render
from perennial.spec.model import ModelSpec

SHOWN_SLICES: Final = 25
"""Values of a slice column on the page, those with the most rows; the evaluation has more."""
TONES: Final = {
    Verdict.PROMOTE: "ok",
    Verdict.REJECT: "bad",
    Verdict.INCONCLUSIVE: "neutral",
    Outcome.PASS: "ok",
    Outcome.FAIL: "bad",
    Outcome.UNDECIDED: "neutral",
}
_MEANINGS: Final = {
    Verdict.PROMOTE: "The challenger is to take over from champion version {0}.",
    Verdict.REJECT: "Champion version {0} stays.",
    Verdict.INCONCLUSIVE: "The evidence does not decide, so champion version {0} stays.",
}
_FIRST_MEANINGS: Final = {
    Verdict.PROMOTE: "There was no champion; the challenger is to become the first.",
    Verdict.REJECT: "There is no champion, and the challenger does not become the first.",
    Verdict.INCONCLUSIVE: "The evidence does not decide, so there is still no champion.",
}
_RULES: Final = {
    "rows": "enough rows",
    "clusters": "enough clusters",
    "scores": "usable scores",
    "measured": "every metric measured",
    "floor": "floor",
    "superiority": "better than the champion",
    "non_inferiority": "not worse than the champion",
    "policy": "something to judge by",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """One rule as the table shows it."""

    name: str
    metric: str
    asked: str
    found: str
    interval: str
    n: str
    verdict: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric as the table shows it: texts of value and interval, and the drawing."""

    name: str
    better: str
    primary: bool
    challenger: tuple[str, str]
    champion: tuple[str, str] | None
    difference: tuple[str, str] | None
    plot: IntervalPlot | None
    reading: str
    """What the drawing shows, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One slice value."""

    value: str
    rows: int
    challenger: str
    champion: str
    difference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceTable:
    """One slice column."""

    column: str
    rows: tuple[SliceRow, ...]
    left_out: int


def decision_page(
    spec: ModelSpec,
    request: RunRequest,
    *,
    reference: EvaluationRef,
    evaluation: EvaluationResult,
    decision: Decision,
    run_url: str | None,
) -> bytes:
    """HTML, UTF-8; the same inputs give the same bytes."""
    meanings = _MEANINGS if evaluation.champion_version is not None else _FIRST_MEANINGS
    return render(
        "decision.html.j2",
        spec=spec,
        request=request,
        reference=reference,
        evaluation=evaluation,
        decision=decision,
        meaning=meanings[decision.verdict].format(evaluation.champion_version),
        tone=TONES[decision.verdict],
        rules=[_rule_row(rule) for rule in decision.rules],
        metrics=[_metric_row(spec, evaluation, decision, name) for name in _ordered(spec, evaluation)],
        slices=_slice_tables(spec, evaluation),
        one_sided=f"{plain(round(100 * spec.gate.rule.confidence, 9))} %",
        two_sided=f"{plain(round(100 * evaluation.confidence, 9))} %",
        run_url=run_url,
        linked=run_url is not None and run_url.startswith(("https://", "http://")),
    )


def _ordered(spec: ModelSpec, evaluation: EvaluationResult) -> list[str]:
    """The spec's order; JSON does not keep it."""
    return [name for name in spec.evaluation.all_metrics if name in evaluation.comparisons]


def _rule_row(rule: RuleOutcome) -> RuleRow:
    gap = rule.name in ("superiority", "non_inferiority")
    limit = rule.threshold
    asked = found = interval = ""
    if limit is not None and rule.metric is None:
        asked, found = f"at least {int(limit):,}", f"{int(rule.estimate or 0):,}"
    elif limit is not None and rule.metric is not None:
        higher = METRICS[rule.metric].higher_is_better
        digits = digits_for([rule.estimate, rule.low, rule.high] if gap else [rule.estimate], apart_from=limit)
        signed = f"{'+' if limit > 0 else ''}{plain(limit)}".replace("-", "\N{MINUS SIGN}")
        words = ("more than" if higher else "less than") if gap else ("at least" if higher else "at most")
        asked = f"{words} {signed if gap else plain(limit)}"
        found = number(rule.estimate, digits, sign=gap)
        interval = _ends(rule.low, rule.high, digits) if gap else ""
    return RuleRow(
        name=_RULES.get(rule.name, rule.name),
        metric=rule.metric or "",
        asked=asked,
        found=found,
        interval=interval,
        n="" if rule.n is None or rule.name in ("rows", "clusters") else f"{rule.n:,}",
        verdict=rule.verdict.value,
        tone=TONES[rule.verdict],
    )


def _metric_row(spec: ModelSpec, evaluation: EvaluationResult, decision: Decision, name: str) -> MetricRow:
    found = evaluation.comparisons[name]
    info = METRICS[name]
    gap = found.difference
    digits = digits_for([gap.low, gap.value, gap.high]) if gap is not None else _digits(found.challenger)
    digits = max(digits, 3 if abs(found.challenger.value or 0) < 100 else 1)
    drawn = gap if gap is not None else found.challenger
    lines = _lines(spec, decision, found)
    plot = interval_plot(
        drawn.value,
        drawn.low,
        drawn.high,
        lines=lines,
        higher_is_better=info.higher_is_better,
        tone=_tone(drawn, info.higher_is_better) if gap is not None else "neutral",
    )
    return MetricRow(
        name=name,
        better="higher is better" if info.higher_is_better else "lower is better",
        primary=name == spec.evaluation.primary,
        challenger=_texts(found.challenger, digits),
        champion=None if found.champion is None else _texts(found.champion, digits),
        difference=None if gap is None else _texts(gap, digits, sign=True),
        plot=plot if lines else None,
        reading=_reading(drawn, info.higher_is_better) if gap is not None else "",
    )


def _lines(spec: ModelSpec, decision: Decision, found: MetricComparison) -> list[Line]:
    limits = [
        rule.threshold
        for rule in decision.rules
        if rule.metric == found.metric
        and rule.threshold is not None
        and (rule.name == spec.gate.rule.kind if found.difference is not None else rule.name == "floor")
    ]
    zero = [Line(at=0.0, kind="zero")] if found.difference is not None else []
    return [*zero, *(Line(at=limit, kind="limit") for limit in limits)]


def _tone(gap: MetricEstimate, higher_is_better: bool) -> str:
    """Better or worse than the champion beyond chance; neutral where the interval includes 0."""
    if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return "neutral"
    return "ok" if (gap.low > 0) == higher_is_better else "bad"


def _reading(gap: MetricEstimate, higher_is_better: bool) -> str:
    return {"ok": "better", "bad": "worse", "neutral": "may be chance"}[_tone(gap, higher_is_better)]


def _digits(estimate: MetricEstimate) -> int:
    return digits_for([estimate.low, estimate.value, estimate.high])


def _texts(estimate: MetricEstimate, digits: int, *, sign: bool = False) -> tuple[str, str]:
    return number(estimate.value, digits, sign=sign), _ends(estimate.low, estimate.high, digits)


def _ends(low: float | None, high: float | None, digits: int) -> str:
    return "no interval" if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def _slice_tables(spec: ModelSpec, evaluation: EvaluationResult) -> list[SliceTable]:
    tables = []
    for column in spec.evaluation.slices:
        found = [part for part in evaluation.slices if part.column == column]
        rows = tuple(_slice_row(part) for part in found[:SHOWN_SLICES])
        tables.append(SliceTable(column=column, rows=rows, left_out=max(0, len(found) - SHOWN_SLICES)))
    return tables


def _slice_row(part: SliceResult) -> SliceRow:
    digits = 3 if abs(part.challenger or 0) < 100 else 1
    gap = None if part.challenger is None or part.champion is None else part.challenger - part.champion
    return SliceRow(
        value=part.value,
        rows=part.rows,
        challenger=_cell(part.challenger, digits),
        champion=_cell(part.champion, digits),
        difference=_cell(gap, digits, sign=True),
    )


def _cell(value: float | None, digits: int, *, sign: bool = False) -> str:
    return "\N{EN DASH}" if value is None else number(value, digits, sign=sign)

"""The page that tells why a model was promoted, or not. Self-contained: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from perennial.addresses import version_address
from perennial.domain.evaluation import Cost, EvaluationResult, MetricComparison, MetricEstimate
from perennial.domain.gate import Decision, Outcome
from perennial.domain.gate_history import GateHistory
from perennial.domain.metric_names import METRICS
from perennial.domain.references import EvaluationRef, Verdict
from perennial.domain.rules.outcome import SLICES, RuleOutcome
from perennial.domain.run_request import RunRequest
from perennial.domain.wording import counted, digits_for, duration
from perennial.reports.curve_plot import FRAME, CurvePlot, calibration_plot, roc_plot
from perennial.reports.estimate_words import estimate_words, interval_words
from perennial.reports.interval_plot import IntervalPlot, Line, interval_plot
from perennial.reports.next_steps import next_steps
from perennial.reports.page import MISSING, render, size, when
from perennial.reports.rule_words import RuleRow, rule_row
from perennial.reports.slice_tables import group_table, slice_outcomes, slice_tables
from perennial.spec.model import ModelSpec

TONES: Final = {Verdict.PROMOTE: "ok", Verdict.REJECT: "bad", Verdict.INCONCLUSIVE: "neutral"}
_URGENCY: Final = {Outcome.FAIL: 0, Outcome.UNDECIDED: 1, Outcome.PASS: 2}
"""What stands in the way comes first in the table."""
_COMPARISONS: Final = ("superiority", "non_inferiority")
SHOWN_OBSTACLES: Final = 5
"""Slices that did not pass with a row of their own among the rules; all of them are in the slices' section."""
WEEK: Final = timedelta(days=7)
_HOW: Final = {
    "promotion": "by a promotion",
    "rollback": "by a rollback",
    "outside": "moved outside Perennial",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric as the table shows it: texts of value and interval, and the drawing."""

    name: str
    better: str
    primary: bool
    challenger: tuple[str, str]
    champion: tuple[str, str]
    difference: tuple[str, str] | None
    plot: IntervalPlot | None
    reading: str
    """What the drawing shows, in a word."""
    label: str
    """All of it in words, for those who don't see the drawing."""
    note: str
    """Why there is no interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """One cost: what, both models' and how many times the champion's."""

    name: str
    challenger: str
    champion: str
    ratio: str


def decision_page(
    spec: ModelSpec,
    request: RunRequest,
    *,
    reference: EvaluationRef,
    evaluation: EvaluationResult,
    decision: Decision,
    run_url: str | None,
    history: GateHistory | None = None,
    gate_verdict: Verdict | None = None,
    policy: str | None = None,
) -> bytes:
    """HTML, UTF-8; the same inputs give the same bytes.

    Args:
        spec: the model's.
        request: the run's; with `break_glass`, the page opens with it.
        reference: to the stored evaluation.
        evaluation: what was measured.
        decision: the verdict to tell, already overridden if the glass was broken.
        run_url: where a person looks at the training; a link only if it is a web address.
        history: the past, for the facts about the champion; None: not told.
        gate_verdict: the gate's own, where `request.break_glass` is set; None: not known.
        policy: `policy_digest` of the spec and its suite; None: not told.
    """
    is_overridden = bool(request.break_glass) and decision.verdict is Verdict.PROMOTE
    return render(
        "decision.html.j2",
        spec=spec,
        request=request,
        reference=reference,
        evaluation=evaluation,
        decision=decision,
        is_overridden=is_overridden,
        gate_verdict=gate_verdict,
        # Of an override, the card tells the first reason.
        leading=() if is_overridden else decision.reasons[:1],
        meaning=_meaning(evaluation, decision),
        steps=next_steps(spec, request, evaluation=evaluation, decision=decision, history=history),
        tone=TONES[decision.verdict],
        rules=_rule_rows(decision),
        obstacles_left_out=max(0, len(_slice_obstacles(decision)) - SHOWN_OBSTACLES),
        judged_slices=len(slice_outcomes(decision)),
        tested=_tested(decision),
        evidence_rule=next((rule for rule in decision.rules if rule.name == "evidence"), None),
        metrics=[_metric_row(spec, evaluation, decision, name) for name in _ordered(spec, evaluation)],
        slices=slice_tables(spec, evaluation, decision),
        fairness=[group_table(found) for found in evaluation.fairness],
        costs=_cost_rows(evaluation),
        plots=_curve_plots(evaluation),
        frame=FRAME,
        past=_past(evaluation, history),
        interval=interval_words(evaluation),
        policy=policy,
        run_url=run_url,
        linked=run_url is not None and run_url.startswith(("https://", "http://")),
        champion_url=_champion_url(spec, evaluation, run_url),
    )


def _meaning(evaluation: EvaluationResult, decision: Decision) -> str:
    """What happens to production, in one sentence."""
    meanings = _MEANINGS if evaluation.champion_version is not None else _FIRST_MEANINGS
    return meanings[decision.verdict].format(evaluation.champion_version)


def _rule_rows(decision: Decision) -> list[RuleRow]:
    """What stands in the way first; of the slices, only those that do, and not all of many."""
    shown = _slice_obstacles(decision)[:SHOWN_OBSTACLES]
    rules = [rule for rule in decision.rules if rule.group != SLICES or any(rule is other for other in shown)]
    rules.sort(key=lambda rule: _URGENCY[rule.verdict])
    return [rule_row(rule, told=decision.reasons) for rule in rules]


def _slice_obstacles(decision: Decision) -> list[RuleOutcome]:
    found = [rule for rule in decision.rules if rule.group == SLICES and rule.verdict is not Outcome.PASS]
    return sorted(found, key=lambda rule: _URGENCY[rule.verdict])


def _tested(decision: Decision) -> RuleOutcome | None:
    """Any slice that was tested: all have the same level and the same number of tests."""
    return next((rule for rule in decision.rules if rule.tests is not None and rule.p_limit is not None), None)


def _champion_url(spec: ModelSpec, evaluation: EvaluationResult, run_url: str | None) -> str:
    """Page of the champion's version, in the MLflow that `run_url` is a page of; empty if that is not known."""
    base, page, _ = (run_url or "").partition("/#/experiments/")
    version = evaluation.champion_version
    return version_address(spec.name, version, mlflow_url=base) if page and version is not None else ""


def _past(evaluation: EvaluationResult, history: GateHistory | None) -> list[str]:
    """Sentences about the champion's time in production, as far as the ledger knows."""
    if history is None or not history.reigns:
        return []
    reign = history.reigns[-1]
    said = []
    if reign.version is not None and reign.version == evaluation.champion_version:
        since = f"version {reign.version} since {when(reign.since)}"
        said.append(
            f"{since}, {duration(history.as_of - reign.since)} before this run, {_HOW.get(reign.how, reign.how)}"
        )
    week = [reign for reign in history.reigns if reign.how == "promotion" and reign.since > history.as_of - WEEK]
    said.append(f"{counted(len(week), 'promotion')} within the seven days before")
    return said


def _cost_rows(evaluation: EvaluationResult) -> list[CostRow]:
    mine, theirs = (evaluation.costs.get(who) for who in ("challenger", "champion"))
    if mine is None and theirs is None:
        return []

    def row(name: str, of: Callable[[Cost], float | None], show: Callable[[float], str]) -> CostRow:
        a, b = (None if cost is None else of(cost) for cost in (mine, theirs))
        ratio = f"{a / b:.2f}\N{MULTIPLICATION SIGN}" if a is not None and b else MISSING
        challenger, champion = (MISSING if value is None else show(value) for value in (a, b))
        return CostRow(name=name, challenger=challenger, champion=champion, ratio=ratio)

    return [
        row("predicting one row, 95th percentile", lambda cost: cost.latency_p95_ms, lambda ms: f"{ms:.3g} ms"),
        row("size of all files", lambda cost: cost.size_bytes, lambda size_bytes: size(int(size_bytes))),
    ]


def _curve_plots(evaluation: EvaluationResult) -> list[CurvePlot]:
    found = evaluation.comparisons.get("roc_auc")
    areas = {} if found is None else {"challenger": found.challenger.value}
    if found is not None and found.champion is not None:
        areas["champion"] = found.champion.value
    plots = (roc_plot(evaluation.curves, areas), calibration_plot(evaluation.curves))
    return [plot for plot in plots if plot is not None]


def _ordered(spec: ModelSpec, evaluation: EvaluationResult) -> list[str]:
    """The spec's order; JSON does not keep it."""
    return [name for name in spec.evaluation.all_metrics if name in evaluation.comparisons]


def _metric_row(spec: ModelSpec, evaluation: EvaluationResult, decision: Decision, name: str) -> MetricRow:
    found = evaluation.comparisons[name]
    info = METRICS[name]
    gap = found.difference
    digits = digits_for([gap.low, gap.value, gap.high]) if gap is not None else _digits(found.challenger)
    digits = max(digits, 3 if abs(found.challenger.value or 0) < 100 else 1)
    drawn = gap if gap is not None else found.challenger
    lines = _lines(decision, found)
    shown = estimate_words(drawn, digits=digits, sign=gap is not None)
    reading = _reading(drawn, info.higher_is_better) if gap is not None else ""
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
        challenger=estimate_words(found.challenger, digits=digits),
        champion=estimate_words(found.champion, digits=digits),
        difference=None if gap is None else estimate_words(gap, digits=digits, sign=True),
        plot=plot if lines else None,
        reading=reading,
        label=" ".join(filter(None, [f"{name}:", *shown, f"({reading})" if reading else ""])),
        note="" if found.why_no_interval is None else f"The holdout has {found.why_no_interval}.",
    )


def _lines(decision: Decision, found: MetricComparison) -> list[Line]:
    limits = [
        rule.threshold
        for rule in decision.rules
        if rule.metric == found.metric
        and rule.threshold is not None
        and (rule.name in _COMPARISONS if found.difference is not None else rule.name == "floor")
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

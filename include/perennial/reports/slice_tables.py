"""Parts of the data on the decision page: slices with their differences, groups with their gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perennial.domain.evaluation import EvaluationResult, FairnessResult, MetricEstimate, SliceResult
from perennial.domain.gate import Decision, Outcome
from perennial.domain.metric_names import METRICS
from perennial.domain.wording import digits_for, number
from perennial.reports.interval_plot import IntervalPlot, Line, interval_plot
from perennial.reports.rule_words import TONES, ends
from perennial.spec.model import ModelSpec

SHOWN_SLICES: Final = 25
"""Values of a slice column on the page: those that did not pass, then those with the most rows."""
MISSING: Final = "\N{EN DASH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One slice value."""

    value: str
    rows: int
    challenger: str
    champion: str
    difference: str
    interval: str
    verdict: str
    """Of the gate: an `Outcome`'s value, `not judged`, or empty where the gate judges no slices."""
    tone: str
    plot: IntervalPlot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceTable:
    """One slice column; its drawings share one scale."""

    column: str
    rows: tuple[SliceRow, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """One fairness rule: each group's values, and the gaps."""

    title: str
    groups: tuple[tuple[str, int, str, str], ...]
    """Name, rows, challenger's and champion's value."""
    challenger_gap: tuple[str, str]
    """Value and interval."""
    champion_gap: tuple[str, str]
    increase: tuple[str, str]


def slice_tables(spec: ModelSpec, evaluation: EvaluationResult, decision: Decision) -> list[SliceTable]:
    """One table for each slice column of the spec, in its order."""
    tables = []
    outcomes = _outcomes(decision)
    for column in spec.evaluation.slices:
        found = [part for part in evaluation.slices if part.column == column]
        # sorted() is stable: within each of the two groups the evaluation's order, most rows first, is kept.
        found = sorted(found, key=lambda part: _title(part) not in outcomes)
        shown = found[:SHOWN_SLICES]
        reach = _reach(spec, shown)
        rows = tuple(_slice_row(spec, part, outcomes, decision, reach) for part in shown)
        tables.append(SliceTable(column=column, rows=rows, left_out=len(found) - len(shown)))
    return tables


def group_table(found: FairnessResult) -> GroupTable:
    """Texts of one fairness rule's result."""
    values = [value for group in found.groups for value in (group.challenger, group.champion)]
    digits = digits_for(values)
    return GroupTable(
        title=f"{found.metric} by {found.column}",
        groups=tuple(
            (group.group, group.rows, _cell(group.challenger, digits), _cell(group.champion, digits))
            for group in found.groups
        ),
        challenger_gap=_texts(found.challenger_gap),
        champion_gap=_texts(found.champion_gap),
        increase=_texts(found.increase, sign=True),
    )


def _outcomes(decision: Decision) -> dict[str, Outcome]:
    """The worst outcome of each slice that did not pass, by its title."""
    bad = [r for r in decision.rules if r.name in ("slice", "slice_floor") and r.verdict is not Outcome.PASS]
    found = {rule.subject: rule.verdict for rule in bad if rule.subject is not None}
    return found | {rule.subject: Outcome.FAIL for rule in bad if rule.subject and rule.verdict is Outcome.FAIL}


def _slice_row(
    spec: ModelSpec, part: SliceResult, outcomes: dict[str, Outcome], decision: Decision, reach: float
) -> SliceRow:
    gap = part.difference
    if gap is None and part.challenger is not None and part.champion is not None:
        gap = MetricEstimate(value=part.challenger - part.champion, low=None, high=None)
    digits = 3 if abs(part.challenger or 0) < 100 else 1
    if gap is not None:
        digits = max(digits, digits_for([gap.low, gap.value, gap.high]))
    outcome = _outcome(spec, part, outcomes, decision)
    return SliceRow(
        value=part.value,
        rows=part.rows,
        challenger=_cell(part.challenger, digits),
        champion=_cell(part.champion, digits),
        difference=_cell(None if gap is None else gap.value, digits, sign=True),
        interval="" if gap is None or gap.low is None else ends(gap.low, gap.high, digits),
        verdict=str(outcome),
        tone=TONES[outcome] if isinstance(outcome, Outcome) else "",
        plot=None if gap is None else _plot(spec, gap, reach),
    )


def _outcome(spec: ModelSpec, part: SliceResult, outcomes: dict[str, Outcome], decision: Decision) -> Outcome | str:
    """The gate names each slice that did not pass, and sums up the others."""
    rules = spec.gate.slices
    if rules is None:
        return ""
    if _title(part) in outcomes:
        return outcomes[_title(part)]
    if part.rows < rules.min_rows:
        return "not judged"
    summed_up = any(rule.name == "slices" and rule.verdict is Outcome.PASS for rule in decision.rules)
    return Outcome.PASS if summed_up else "not judged"


def _reach(spec: ModelSpec, parts: Sequence[SliceResult]) -> float:
    found = [end for part in parts if part.difference for end in (part.difference.low, part.difference.high)]
    margin = 0.0 if spec.gate.slices is None else spec.gate.slices.margin
    return max([margin, *(abs(end) for end in found if end is not None and math.isfinite(end))])


def _plot(spec: ModelSpec, gap: MetricEstimate, reach: float) -> IntervalPlot | None:
    higher = METRICS[spec.evaluation.primary].higher_is_better
    lines = [Line(at=0.0, kind="zero")]
    if spec.gate.slices is not None:
        lines.append(Line(at=-spec.gate.slices.margin if higher else spec.gate.slices.margin, kind="limit"))
    tone = "neutral"
    if gap.low is not None and gap.high is not None and not gap.low <= 0 <= gap.high:
        tone = "ok" if (gap.low > 0) == higher else "bad"
    return interval_plot(gap.value, gap.low, gap.high, lines=lines, higher_is_better=higher, tone=tone, reach=reach)


def _title(part: SliceResult) -> str:
    return f"{part.column} = {part.value}"


def _texts(estimate: MetricEstimate | None, *, sign: bool = False) -> tuple[str, str]:
    if estimate is None:
        return MISSING, ""
    digits = digits_for([estimate.low, estimate.value, estimate.high])
    return number(estimate.value, digits, sign=sign), ends(estimate.low, estimate.high, digits)


def _cell(value: float | None, digits: int, *, sign: bool = False) -> str:
    return MISSING if value is None else number(value, digits, sign=sign)

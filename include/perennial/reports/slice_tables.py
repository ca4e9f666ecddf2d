"""Parts of the data on the decision page: slices with their tests, groups with their gaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from perennial.domain.evaluation import EvaluationResult, FairnessResult, MetricEstimate, SliceResult
from perennial.domain.gate import Decision, Outcome, RuleOutcome
from perennial.domain.metric_names import METRICS
from perennial.domain.rules.outcome import SLICES
from perennial.domain.wording import digits_for, number
from perennial.reports.estimate_words import NO_INTERVAL, ends, estimate_words, p_value
from perennial.reports.interval_plot import IntervalPlot, Line, interval_plot
from perennial.reports.page import MISSING
from perennial.reports.rule_words import TONES
from perennial.spec.model import ModelSpec

SHOWN_SLICES: Final = 25
"""Values of a slice column on the page that the gate did not judge: those with the most rows."""
SHOWN_JUDGED: Final = 200
"""Judged ones, those that did not pass first: more would make a page that nobody reads."""
_WORST_FIRST: Final = (Outcome.FAIL, Outcome.UNDECIDED, Outcome.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One slice value."""

    value: str
    rows: int
    challenger: tuple[str, str]
    """Value and interval."""
    champion: str
    difference: tuple[str, str]
    verdict: str
    """Of the gate: an `Outcome`'s value, `not judged`, or empty where the gate judges no slices."""
    which: str
    """Which rule the verdict is of, where the slice has more than one."""
    tone: str
    p: str
    p_adjusted: str
    note: str
    """What the slice has too little of."""
    plot: IntervalPlot | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceTable:
    """One slice column; its drawings share one scale."""

    column: str
    rows: tuple[SliceRow, ...]
    left_out: int
    counts: str
    """How many of its slices came to what: `1 FAIL, 28 PASS, 3 not judged`."""
    is_open: bool
    """Whether to show it unasked: something did not pass, or it is short."""


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
    note: str
    """Which group has too little for an interval."""


def slice_tables(spec: ModelSpec, evaluation: EvaluationResult, decision: Decision) -> list[SliceTable]:
    """One table for each slice column of the spec, in its order."""
    rules = slice_outcomes(decision)
    return [_slice_table(spec, evaluation, column, rules) for column in spec.evaluation.slices]


def slice_outcomes(decision: Decision) -> dict[str, list[RuleOutcome]]:
    """The outcomes of each slice by its title (`origin = JFK`), the worst first."""
    found: dict[str, list[RuleOutcome]] = {}
    for rule in sorted(decision.rules, key=lambda rule: _WORST_FIRST.index(rule.verdict)):
        if rule.group == SLICES and rule.subject is not None:
            found.setdefault(rule.subject, []).append(rule)
    return found


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
        challenger_gap=estimate_words(found.challenger_gap),
        champion_gap=estimate_words(found.champion_gap),
        increase=estimate_words(found.increase, sign=True),
        note=found.why_no_interval or "",
    )


def _slice_table(
    spec: ModelSpec, evaluation: EvaluationResult, column: str, rules: Mapping[str, Sequence[RuleOutcome]]
) -> SliceTable:
    found = [part for part in evaluation.slices if part.column == column]
    judged = [part for part in found if _title(part) in rules]
    # sorted() is stable: among those of one outcome the evaluation's order, most rows first, is kept.
    judged.sort(key=lambda part: _WORST_FIRST.index(rules[_title(part)][0].verdict))
    others = [part for part in found if _title(part) not in rules]
    shown = [*judged[:SHOWN_JUDGED], *others[:SHOWN_SLICES]]
    reach = _reach(spec, shown)
    rows = tuple(_slice_row(spec, part, rules.get(_title(part), ()), reach) for part in shown)
    verdicts = [rules[_title(part)][0].verdict for part in judged]
    told = [(verdicts.count(outcome), outcome.value) for outcome in _WORST_FIRST]
    if spec.gate.slices is not None:
        told.append((len(others), "not judged"))
    return SliceTable(
        column=column,
        rows=rows,
        left_out=len(found) - len(shown),
        counts=", ".join(f"{count:,} {what}" for count, what in told if count) or f"{len(found):,}",
        is_open=len(rows) <= SHOWN_SLICES or any(verdict is not Outcome.PASS for verdict in verdicts),
    )


def _slice_row(spec: ModelSpec, part: SliceResult, rules: Sequence[RuleOutcome], reach: float) -> SliceRow:
    gap = part.difference
    if gap is None and part.challenger is not None and part.champion is not None:
        gap = MetricEstimate(value=part.challenger - part.champion, low=None, high=None)
    digits = 3 if abs(part.challenger or 0) < 100 else 1
    if gap is not None:
        digits = max(digits, digits_for([gap.low, gap.value, gap.high]))
    test = next((rule for rule in rules if rule.name == "slice"), None)
    return SliceRow(
        value=part.value,
        rows=part.rows,
        challenger=(_cell(part.challenger, digits), _ends(part.challenger_low, part.challenger_high, digits)),
        champion=_cell(part.champion, digits),
        difference=("", "")
        if gap is None
        else (_cell(gap.value, digits, sign=True), _ends(gap.low, gap.high, digits) or NO_INTERVAL),
        verdict=_verdict(spec, rules),
        which="floor" if test is not None and rules[0].name == "slice_floor" != test.name else "",
        tone=TONES[rules[0].verdict] if rules else "",
        p=p_value(None if test is None else test.p),
        p_adjusted=p_value(None if test is None else test.p_adjusted),
        note=part.why_no_interval or "",
        plot=None if gap is None else _plot(spec, gap, reach),
    )


def _verdict(spec: ModelSpec, rules: Sequence[RuleOutcome]) -> str:
    if spec.gate.slices is None:
        return ""
    return rules[0].verdict.value if rules else "not judged"


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


def _ends(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else ends(low, high, digits)


def _cell(value: float | None, digits: int, *, sign: bool = False) -> str:
    return MISSING if value is None else number(value, digits, sign=sign)

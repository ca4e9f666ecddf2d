"""The gate's rules as a table shows them: a name for people, what was asked for, what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from perennial.domain.gate import Outcome, RuleOutcome
from perennial.domain.metric_names import METRICS
from perennial.domain.wording import counted, digits_for, duration, number, plain
from perennial.reports.estimate_words import ends
from perennial.reports.page import MISSING

TONES: Final = {Outcome.PASS: "ok", Outcome.FAIL: "bad", Outcome.UNDECIDED: "neutral"}
NAMES: Final = {
    "rows": "enough rows",
    "clusters": "enough clusters",
    "scores": "usable scores",
    "measured": "every metric measured",
    "quarantine": "never taken back",
    "history": "past on record",
    "floor": "floor",
    "superiority": "better than the champion",
    "non_inferiority": "not worse than the champion",
    "refresh": "champion old enough for a refresh",
    "policy": "something to judge by",
    "evidence": "evidence over all nights",
    "slices": "no slice worse",
    "slice": "slice not worse",
    "slice_floor": "floor of a slice",
    "fairness_gap": "gap between groups",
    "fairness_increase": "growth of the gap",
    "latency": "time for one row (95th percentile)",
    "latency_ratio": "time for one row, against the champion",
    "size": "size of the model",
    "size_ratio": "size, against the champion",
    "tenure": "champion's time in production",
    "promotions_per_week": "promotions within seven days",
}
_COUNTS: Final = ("rows", "clusters")
_DIFFERENCES: Final = ("superiority", "non_inferiority", "slice")
_AT_MOST: Final = ("fairness_gap", "fairness_increase")
_COSTS: Final = {"latency": " ms", "latency_ratio": "\N{MULTIPLICATION SIGN}", "size": " MiB"}
_COSTS["size_ratio"] = _COSTS["latency_ratio"]
_NOUNS: Final = {"evidence": "unit", "slices": "slice"}
"""What `n` counts, where it is not rows."""
_IN_WORDS: Final = ("slices",)
"""Rules that sum up several comparisons: one figure would say too little."""
_WITHOUT_N: Final = (*_COUNTS, "promotions_per_week")
"""Rules whose `n` is what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRow:
    """One rule as the table shows it."""

    name: str
    metric: str
    subject: str
    asked: str
    found: str
    interval: str
    rests_on: str
    """How many rows, units or slices."""
    sentence: str
    """Where the figures don't say it all."""
    verdict: str
    tone: str


def rule_row(rule: RuleOutcome, *, told: Sequence[str] = ()) -> RuleRow:
    """Texts for one rule; one of a name that is not known here is shown with its bare figures.

    Args:
        rule: the outcome.
        told: sentences that stand elsewhere already; repeated only where there are no figures.
    """
    asked, found, interval = _figures(rule)
    return RuleRow(
        name=NAMES.get(rule.name, rule.name.replace("_", " ")),
        metric=rule.metric or "",
        subject=rule.subject or "",
        asked=asked,
        found=found,
        interval=interval,
        rests_on="" if rule.n is None or rule.name in _WITHOUT_N else counted(rule.n, _NOUNS.get(rule.name, "row")),
        sentence=rule.sentence if _needs_words(rule, asked, told) else "",
        verdict=rule.verdict.value,
        tone=TONES[rule.verdict],
    )


def _needs_words(rule: RuleOutcome, asked: str, told: Sequence[str]) -> bool:
    """Whether the figures don't say it all. What is open has a reason; the evidence has a section of its own."""
    if not asked or rule.estimate is None:
        return True
    return rule.verdict is Outcome.UNDECIDED and rule.name != "evidence" and rule.sentence not in told


def _figures(rule: RuleOutcome) -> tuple[str, str, str]:
    """What was asked for, what was found, and its interval; texts, empty where there are none."""
    limit = rule.threshold
    if limit is None or not math.isfinite(limit) or rule.name in _IN_WORDS:
        return "", "", ""
    if rule.name in _DIFFERENCES:
        return _difference(rule, limit)
    if rule.name in ("floor", "slice_floor"):
        words = "at least" if _higher_is_better(rule) else "at most"
        digits = digits_for([rule.estimate, rule.low, rule.high], apart_from=limit)
        return f"{words} {plain(limit)}", number(rule.estimate, digits), ends(rule.low, rule.high, digits)
    digits = digits_for([rule.estimate, rule.low, rule.high], apart_from=limit)
    if rule.name in _AT_MOST:
        return f"at most {plain(limit)}", number(rule.estimate, digits), ends(rule.low, rule.high, digits)
    told = _of_its_own(rule.name)
    if told is not None:
        words, show = told
        nothing = MISSING if rule.verdict is Outcome.PASS else "not available"  # without a champion, it need not be
        found = nothing if rule.estimate is None else show(rule.estimate)
        return f"{words} {show(limit)}", found, ""
    return plain(limit), number(rule.estimate, digits), ends(rule.low, rule.high, digits)


def _difference(rule: RuleOutcome, limit: float) -> tuple[str, str, str]:
    digits = digits_for([rule.estimate, rule.low, rule.high], apart_from=limit)
    asked = f"{'more' if _higher_is_better(rule) else 'less'} than {'+' if limit > 0 else ''}{plain(limit)}"
    return asked, number(rule.estimate, digits, sign=True), ends(rule.low, rule.high, digits)


def _of_its_own(name: str) -> tuple[str, Callable[[float], str]] | None:
    """How a rule with a unit of its own is told: the words before the limit, and how its figures are written."""
    if name in _COUNTS:
        return "at least", lambda value: f"{value:,.0f} {name}"
    if name in _COSTS:
        return "at most", lambda value: f"{value:.3g}{_COSTS[name]}"
    if name == "tenure":
        return "at least", lambda value: duration(timedelta(seconds=value))
    if name == "promotions_per_week":
        return "fewer than", lambda value: f"{value:.0f}"
    if name == "evidence":
        return (
            "at least",
            lambda value: number(value, 0 if value >= 100 else 1) if value < 1e6 else "more than 1,000,000",
        )
    return None


def _higher_is_better(rule: RuleOutcome) -> bool:
    return rule.metric not in METRICS or METRICS[rule.metric].higher_is_better

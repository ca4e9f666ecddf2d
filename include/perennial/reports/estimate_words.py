"""Estimates with their intervals as texts: the same digits and the same name of an interval on all pages."""

from __future__ import annotations

from perennial.domain.evaluation import EvaluationResult, MetricEstimate
from perennial.domain.wording import digits_for, interval_name, number
from perennial.reports.page import MISSING

NO_INTERVAL = "no interval"


def interval_words(evaluation: EvaluationResult) -> str:
    """What every interval of an evaluation is: `90 % interval (each end one-sided at 95 %)`."""
    return interval_name((1 + evaluation.confidence) / 2)


def ends(low: float | None, high: float | None, digits: int) -> str:
    """An interval's ends in brackets, or that there is none."""
    return NO_INTERVAL if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def estimate_words(found: MetricEstimate | None, *, digits: int | None = None, sign: bool = False) -> tuple[str, str]:
    """Value and interval; a dash and nothing where there is no estimate.

    Args:
        found: the estimate.
        digits: decimals; None: as many as it takes to tell value and ends apart.
        sign: with a plus before what is positive.
    """
    if found is None:
        return MISSING, ""
    shown = digits_for([found.low, found.value, found.high]) if digits is None else digits
    return number(found.value, shown, sign=sign), ends(found.low, found.high, shown)


def p_value(p: float | None) -> str:
    """A p-value with two significant digits; what is tiny as a bound, a dash for None."""
    if p is None:
        return MISSING
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"

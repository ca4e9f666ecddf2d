"""Reports of a monitoring window, as the monitor stores them, to be changed by a test where it needs to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from perennial.domain.times import format_time, parse_time

END = parse_time("2013-07-10T00:00:00Z")
DAY = timedelta(days=1)
SIGNALS = ("data_drift", "prediction_drift", "performance", "estimated_performance", "service", "skew")

Report = dict[str, Any]


def a_report(**given: Any) -> Report:
    """A window in which nothing is beyond its limits, the tenth of its history.

    Args:
        given: what is to be otherwise, by key of the report.
    """
    report: Report = {
        "format": 1,
        "model": "flights_delay",
        "window_start": format_time(END - DAY),
        "window_end": format_time(END),
        "looked_at": "2013-07-10T00:10:04Z",
        "rows": 900,
        "judged": True,
        "why_not": "",
        "skipped_windows": 0,
        "summary": "900 rows: all 6 signals within their limits.",
        "champion": "3",
        "reference": {
            "version": "3",
            "fingerprint": "f" * 64,
            "rows": 54_231,
            "training_start": "2013-02-14T05:00:00Z",
            "training_end": "2013-04-15T04:00:00Z",
            "holdout_rows": 12_184,
        },
        "versions": [{"version": "3", "role": "champion", "training": None, "requests": 880, "rows": 900}],
        "service": service(),
        "data_drift": {**judged(), "says": "None of 2 columns has drifted.", "not_compared": [], "columns": columns()},
        "slices": [],
        "prediction_drift": [
            {"version": "3", "role": "champion", "rows": 900, **judged(), "columns": [number("score")]}
        ],
        "skew": [skewed("temp", None), skewed("carrier", None)],
        "performance": performance(),
        "signals": [signal(name) for name in SIGNALS],
        "alerts": [],
        "closed": [],
        "states": {},
        "history": [look(END - DAY * back) for back in range(9, -1, -1)],
        "matured": [ripe(END - DAY * back) for back in range(9, -1, -1)],
        "promotions": [],
        "rules": {
            "min_rows": 500,
            "min_effect": 0.1,
            "min_missing_change": 0.05,
            "false_discovery_rate": 0.01,
            "close_after": 2,
            "close_below": 0.8,
            "outcome_delay_s": 86_400.0,
            "window_s": 86_400.0,
        },
    }
    return {**report, **given}


def judged(**given: Any) -> Report:
    return {"judged": True, "why_not": "", "beyond": False, "strength": 0.3, "says": "", **given}


def not_judged(why: str = "There are 12 rows, at least 500 are judged.") -> Report:
    return {"judged": False, "why_not": why, "beyond": False, "strength": 0.0, "says": why}


def service(**given: Any) -> Report:
    figures = {"requests": 880, "rows": 900, "errors": 3, "error_rate": 3 / 880, "error_kinds": {"ValueError": 3}}
    latencies = {"latency_p50_ms": 6.1, "latency_p95_ms": 18.4, "latency_p99_ms": 41.7}
    rules = {"max_error_rate": 0.01, "min_requests": 0}
    newest = {"newest": "2013-07-09T23:58:41Z", "unreadable": []}
    return {**judged(says="3 of 880 requests could not be scored."), **figures, **latencies, **rules, **newest, **given}


def signal(name: str, *, is_beyond: bool = False, is_open: bool = False, **given: Any) -> Report:
    look_now = "beyond" if is_beyond else "quiet"
    state = {"open": is_open, "since": format_time(END) if is_open else None, "recent": ["quiet", "quiet", look_now]}
    return {
        "signal": name,
        **judged(beyond=is_beyond, says=f"{name} says so."),
        **state,
        "windows": 2,
        "of": 3,
        **given,
    }


def signals(**changed: Report) -> list[Report]:
    """All of them, the named ones otherwise."""
    return [changed.get(name) or signal(name) for name in SIGNALS]


def an_alert(name: str, *, retrain: bool = True, opened_now: bool = True) -> Report:
    return {
        "alert_id": f"{name}:{format_time(END)}",
        "signal": name,
        "since": format_time(END),
        "opened_now": opened_now,
        "retrain": retrain,
        "summary": f"Alert of {name}.",
    }


def alarmed(name: str, *, retrain: bool = True, **given: Any) -> Report:
    """A window that opened an alert of one signal."""
    found = signals(**{name: signal(name, is_beyond=True, is_open=True)})
    return a_report(signals=found, alerts=[an_alert(name, retrain=retrain)], **given)


def look(end: datetime, **given: Any) -> Report:
    """One window of the history."""
    estimated = {"estimate": 0.705, "estimate_low": 0.69, "estimate_high": 0.72}
    signals = {"judged": True, "beyond": [], "opened": [], "closed": []}
    named = {"window_end": format_time(end), "version": "3", "rows": 900, "metric": "roc_auc"}
    return {**named, **signals, **estimated, **given}


def ripe(end: datetime, **given: Any) -> Report:
    """Realised performance of one window."""
    return {"window_end": format_time(end), "metric": "roc_auc", "value": 0.7, "low": 0.67, "high": 0.73, **given}


def performance(**given: Any) -> Report:
    holdout = {"value": 0.708, "low": 0.694, "high": 0.723, "rows": 12_184, "confidence": 0.9}
    mature = {"window_start": format_time(END - 2 * DAY), "window_end": format_time(END - DAY), "version": "3"}
    now = {"window_start": format_time(END - DAY), "window_end": format_time(END), "version": "3"}
    realised = {**judged(says="roc_auc is 0.700."), **mature, "rows": 890, "labelled": 870, "others": {}}
    estimated = {**judged(says="roc_auc is estimated at 0.705."), **now, "rows": 900}
    return {
        "metric": "roc_auc",
        "higher_is_better": True,
        "holdout": holdout,
        "limit": 0.694,
        "realised": {**realised, "value": 0.7, "low": 0.67, "high": 0.73},
        "estimated": {**estimated, "value": 0.705, "low": 0.69, "high": 0.72},
        **given,
    }


def unknown_performance(why: str = "No model has answered a request.") -> Report:
    nothing = {"value": None, "low": None, "high": None}
    given = performance()
    return performance(
        holdout={**nothing, "rows": None, "confidence": None},
        limit=None,
        realised={**given["realised"], **nothing, **not_judged(why), "version": None, "rows": 0, "labelled": 0},
        estimated={**given["estimated"], **nothing, **not_judged(why), "version": None, "rows": 0},
    )


def columns() -> list[Report]:
    return [number("temp"), category("carrier")]


def number(name: str, **given: Any) -> Report:
    bins = {
        "kind": "number",
        "edges": [10.0, 20.0, 30.0],
        "lowest": 0.0,
        "highest": 40.0,
        "reference": [25, 25, 25, 25],
        "current": [0, 10, 20, 70],
        "reference_missing": 0,
        "current_missing": 0,
    }
    return {**_compared(name), "kind": "number", "distance": 0.05, "towards": "higher", "bins": bins, **given}


def category(name: str, **given: Any) -> Report:
    bins = {
        "kind": "category",
        "levels": ["UA", "DL"],
        "reference": [60, 40, 0],
        "current": [55, 44, 1],
        "reference_missing": 0,
        "current_missing": 0,
    }
    return {**_compared(name), "kind": "category", "distance": None, "towards": "DL", "bins": bins, **given}


def drifted(column: Report, *, strength: float = 4.0) -> Report:
    effect = strength * column["limit"]
    figures = {"effect": effect, "low": effect, "high": 1.1 * effect, "strength": strength, "q_value": 1e-9}
    return {**column, **figures, "drifted": True, "says": f"moved by {effect:.2f}"}


def skewed(name: str, finding: str | None) -> Report:
    shares = {"share": 0.4, "low": 0.35, "high": 0.45, "reference_share": 0.0, "limit": 0.1, "strength": 3.5}
    says = "as in training" if finding is None else f"{finding} in 40 % of the rows"
    return {
        "column": name,
        "kind": "number",
        "rows": 900,
        "finding": finding,
        "skewed": bool(finding),
        **shares,
        "says": says,
    }


def _compared(name: str) -> Report:
    return {
        "column": name,
        "rows": 900,
        "effect": 0.05,
        "low": 0.03,
        "high": 0.07,
        "limit": 0.1,
        "total_variation": 0.05,
        "psi": 0.01,
        "shift": 0.05,
        "missing_share": 0.0,
        "missing_change": 0.0,
        "missing_low": 0.0,
        "missing_limit": 0.05,
        "unseen_share": 0.0,
        "p_value": 0.3,
        "q_value": 0.4,
        "drifted": False,
        "strength": 0.3,
        "says": "as in the reference",
    }

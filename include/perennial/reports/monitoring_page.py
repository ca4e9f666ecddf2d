"""The page of one monitoring window: what moved, how far, which way, what to do. Self-contained, without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from perennial.domain.metric_names import METRICS
from perennial.domain.times import parse_time
from perennial.domain.wording import counted, digits_for, duration, number
from perennial.reports import histogram_plot
from perennial.reports.estimate_words import ends, p_value
from perennial.reports.histogram_plot import Histogram, histogram
from perennial.reports.monitoring_steps import SIGNALS, listed, monitoring_steps
from perennial.reports.over_time_plot import over_time_plot
from perennial.reports.page import MISSING, percent, render
from perennial.spec.model import ModelSpec

LEAST_SHOWN: Final = 4
MOST_SHOWN: Final = 24
"""Columns that are seen at once: those that drifted, or the nearest to it; others open with a click."""
MOST_FOLDED: Final = 200
"""The report has all columns."""
MOST_DRAWN: Final = 48
BAR_WIDTH: Final = 120.0
_MOST_REACH: Final = 3.0
"""Multiples of the limit, at which drawings of effects end."""
_TOLD_CHANGE: Final = 0.005
"""Of the share of missing values; less is not worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectBar:
    """An effect with its interval against its limit: positions in px of `BAR_WIDTH`."""

    low: float
    high: float
    value: float
    limit: float
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRow:
    """One compared column as drawings and table show it."""

    name: str
    drifted: bool
    says: str
    effect: str
    interval: str
    limit: str
    unit: str
    bar: EffectBar | None
    psi: str
    missing: str
    missing_change: str
    missing_beyond: bool
    unseen: str
    q: str
    drawing: Histogram | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A set of columns, the worst first."""

    shown: list[ColumnRow]
    folded: list[ColumnRow]
    """What opens with a click."""
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRow:
    """One signal as the table shows it."""

    name: str
    badge: str
    tone: str
    """Empty: nothing to colour."""
    says: str
    since: str | None
    beyond: str
    """In how many of the judged windows that count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceRow:
    """One figure of the performance as the table shows it."""

    name: str
    period: tuple[str, str] | None
    rows: str
    value: str
    interval: str
    badge: str
    tone: str
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One value of a slice column, and what of the columns that drifted within it."""

    column: str
    level: str
    rows: int
    badge: str
    tone: str
    says: list[str]


def monitoring_page(spec: ModelSpec, report: Mapping[str, Any]) -> bytes:
    """Self-contained HTML, UTF-8; the same inputs give the same bytes.

    Args:
        spec: the model's.
        report: content of the window's `report.json`.
    """
    badge, tone = _badge(report)
    start, end = parse_time(report["window_start"]), parse_time(report["window_end"])
    return render(
        "monitoring.html.j2",
        spec=spec,
        report=report,
        badge=badge,
        tone=tone,
        lead=_lead(report),
        steps=monitoring_steps(spec, report),
        names=SIGNALS,
        signals=[_signal_row(signal) for signal in report["signals"]],
        over_time=over_time_plot(report, SIGNALS),
        before=_page_before(report),
        performance=_performance_rows(report),
        better="higher" if METRICS[report["performance"]["metric"]].higher_is_better else "lower",
        data=_comparison(report["data_drift"]["columns"]),
        predictions=[(found, _comparison(found["columns"])) for found in report["prediction_drift"]],
        slices=[_slice_row(found) for found in report["slices"]],
        skewed=[column for column in report["skew"] if column["skewed"]],
        length=duration(end - start),
        bar_width=BAR_WIDTH,
        plot=histogram_plot,
    )


def page_without_drawings(spec: ModelSpec, report: Mapping[str, Any], error: Exception) -> bytes:
    """The page of a window whose own one could not be made, and why: what it came to, in words. UTF-8."""
    ends = f"{report['window_start']} to {report['window_end']}"
    alerts = "".join(f"<li>{escape(str(alert['summary']))}</li>" for alert in report["alerts"])
    told = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(spec.name)}: monitoring</title>"
        f"<h1>{escape(spec.name)}: {escape(ends)}</h1><p>{escape(str(report['summary']))}</p>"
        f"<h2>Open alerts: {len(report['alerts'])}</h2><ul>{alerts}</ul>"
        f"<p>The page itself could not be drawn, which is an error of Perennial's: {escape(repr(error))}. Nothing of "
        f"what was found is lost: it is in report.json beside this page.</p></html>"
    )
    return told.encode()


def _badge(report: Mapping[str, Any]) -> tuple[str, str]:
    if report["alerts"]:
        return counted(len(report["alerts"]), "OPEN ALERT").upper(), "bad"
    if any(signal["beyond"] for signal in report["signals"]):
        return "BEYOND A LIMIT", "neutral"
    # The service alone may be judged, of few rows or without a reference; that is not what the page is opened for.
    return ("WITHIN LIMITS", "ok") if report["data_drift"]["judged"] else ("NOT JUDGED", "neutral")


def _lead(report: Mapping[str, Any]) -> str:
    """What is wrong, in a sentence or two; the signals' table has the figures."""
    found = [SIGNALS[signal["signal"]] for signal in report["signals"] if signal["beyond"]]
    new = [SIGNALS[alert["signal"]] for alert in report["alerts"] if alert["opened_now"]]
    told = [f"New alert: {listed(new)}."] if new else []
    if found:
        beyond = "is beyond its limit" if len(found) == 1 else "are beyond their limits"
        told.append(f"{listed(found).capitalize()} {beyond}.")
    elif not report["data_drift"]["judged"]:
        told.append(report["data_drift"]["why_not"])
    return " ".join(told) or report["summary"]


def _page_before(report: Mapping[str, Any]) -> str:
    """From this page to that of the window before, as both are served in Airflow; empty if there is none."""
    history = report["history"]
    if len(history) < 2:
        return ""
    return f"../{parse_time(history[-2]['window_end']):%Y%m%dT%H%M%SZ}/page.html"


def _signal_row(signal: Mapping[str, Any]) -> SignalRow:
    if signal["open"]:
        badge, tone = "ALERT", "bad"
    elif not signal["judged"]:
        badge, tone = "not judged", ""
    else:
        badge, tone = ("BEYOND", "neutral") if signal["beyond"] else ("WITHIN", "ok")
    judged = [look for look in signal["recent"] if look != "not_judged"][-signal["of"] :]
    return SignalRow(
        name=SIGNALS[signal["signal"]],
        badge=badge,
        tone=tone,
        says=signal["says"],
        since=signal["since"] if signal["open"] else None,
        beyond=f"{judged.count('beyond')} of {len(judged)}" if judged else MISSING,
    )


def _performance_rows(report: Mapping[str, Any]) -> list[PerformanceRow]:
    """On the holdout, realised, estimated; empty where nothing of it is known."""
    performance = report["performance"]
    kinds = {"on the holdout": "holdout", "realised": "realised", "estimated": "estimated"}
    found = [performance[key] for key in kinds.values()]
    values = [one[key] for one in found for key in ("value", "low", "high")]
    if all(value is None for value in values):
        return []
    digits = digits_for([*values, performance["limit"]])
    return [_performance_row(name, performance[key], digits) for name, key in kinds.items()]


def _performance_row(name: str, one: Mapping[str, Any], digits: int) -> PerformanceRow:
    badge, tone, says = "", "", ""
    if "judged" in one:  # the holdout is what the others are judged by
        badge, tone = ("BEYOND", "bad") if one["beyond"] else ("WITHIN", "ok")
        says = one["says"]
        if not one["judged"]:
            badge, tone, says = "not judged", "", one["why_not"]
    rows = MISSING if one["rows"] is None else f"{one['rows']:,}"
    return PerformanceRow(
        name=name,
        period=(one["window_start"], one["window_end"]) if "window_start" in one else None,
        rows=f"{one['labelled']:,} of {rows} labelled" if "labelled" in one else rows,
        value=MISSING if one["value"] is None else number(one["value"], digits),
        interval="" if one["value"] is None else ends(one["low"], one["high"], digits),
        badge=badge,
        tone=tone,
        says=says,
    )


def _comparison(columns: Sequence[Mapping[str, Any]]) -> Comparison:
    """Columns that drifted first, then by how near they are to their limit."""
    ordered = sorted(columns, key=lambda column: (not column["drifted"], -(column["strength"] or 0.0)))
    multiples = [column["high"] / column["limit"] for column in ordered if column["high"] is not None]
    reach = min(_MOST_REACH, max([2.0, *multiples]))
    rows = [_column_row(column, reach, draw=place < MOST_DRAWN) for place, column in enumerate(ordered)]
    shown = min(MOST_SHOWN, max(LEAST_SHOWN, sum(row.drifted for row in rows)))
    return Comparison(
        shown=rows[:shown],
        folded=rows[shown : shown + MOST_FOLDED],
        left_out=max(0, len(rows) - shown - MOST_FOLDED),
    )


def _column_row(column: Mapping[str, Any], reach: float, *, draw: bool) -> ColumnRow:
    digits = digits_for([column["low"]], apart_from=column["limit"], least=2)
    effect, change = column["effect"], column["missing_change"]
    return ColumnRow(
        name=column["column"],
        drifted=column["drifted"],
        says=column["says"],
        effect=MISSING if effect is None else number(effect, digits),
        interval="" if effect is None else ends(column["low"], column["high"], digits),
        limit=number(column["limit"], digits),
        unit="" if effect is None else "spreads" if column["distance"] is not None else "of the rows",
        bar=_bar(column, reach),
        psi=MISSING if column["psi"] is None else number(column["psi"], 2),
        missing=percent(column["missing_share"]),
        missing_change=f"{100 * change:+.1f} points" if abs(change) >= _TOLD_CHANGE else "",
        missing_beyond=column["missing_low"] > column["missing_limit"],
        unseen=percent(column["unseen_share"]) if column["unseen_share"] else MISSING,
        q=p_value(column["q_value"]),
        drawing=histogram(column["bins"]) if draw else None,
    )


def _bar(column: Mapping[str, Any], reach: float) -> EffectBar | None:
    if column["effect"] is None or column["low"] is None or column["high"] is None:
        return None
    low, value, high = (
        round(BAR_WIDTH * min(1.0, column[key] / column["limit"] / reach), 1) for key in ("low", "effect", "high")
    )
    tone = "bad" if column["low"] > column["limit"] else "ok"
    return EffectBar(low=low, high=high, value=value, limit=round(BAR_WIDTH / reach, 1), tone=tone)


def _slice_row(found: Mapping[str, Any]) -> SliceRow:
    drifted = [column for column in found["columns"] if column["drifted"]]
    if not found["judged"]:
        badge, tone = "not judged", ""
    else:
        badge, tone = ("DRIFTED", "bad") if found["beyond"] else ("WITHIN", "ok")
    return SliceRow(
        column=found["column"],
        level=found["level"],
        rows=found["rows"],
        badge=badge,
        tone=tone,
        says=[f"{column['column']}: {column['says']}" for column in drifted] or [found["why_not"]],
    )

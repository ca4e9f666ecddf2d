"""Puts the parts of a window's report together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from perennial.domain.json_values import finite
from perennial.domain.monitoring_report import (
    FORMAT,
    Folded,
    fold_signals,
    history_with,
    matured_with,
    summary_of,
)
from perennial.domain.times import Interval, format_time
from perennial.errors import IntegrityError
from perennial.spec.model import ModelSpec
from perennial.spec.monitoring import Monitoring
from perennial.stages.monitor_performance import Performance
from perennial.stages.monitor_window import ServedVersion, champion_of, data_drift, prediction_drift, service, skew


def window_report(
    spec: ModelSpec,
    monitoring: Monitoring,
    window: Interval,
    versions: Sequence[ServedVersion],
    performance: Performance,
    *,
    before: Mapping[str, Any] | None,
    moves: Sequence[Mapping[str, Any]],
    skipped: int,
    now: datetime,
) -> dict[str, Any]:
    """Everything that is known of a window, JSON-ready.

    Args:
        spec: the model's.
        monitoring: its part on monitoring.
        window: that is looked at.
        versions: that were asked, the one that answered most first.
        performance: of the champion.
        before: the report of the window before; None: there is none.
        moves: changes of the champion, with `at`.
        skipped: windows before this one that nobody looked at.
        now: when it is looked at.

    Raises:
        IntegrityError: the report before is none.
    """
    champion = champion_of(versions)
    drift, slices = data_drift(monitoring, window, champion)
    sections = {
        "data_drift": drift,
        "prediction_drift": prediction_drift(monitoring, window, versions, champion),
        "service": service(spec, monitoring, window, versions),
        "skew": skew(monitoring, window, champion),
    }
    findings = {name: section.finding for name, section in sections.items()}
    findings |= {"performance": performance.realised, "estimated_performance": performance.estimated}
    try:
        folded = fold_signals(findings, before, monitoring.alert)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{spec.name}: the report before the window {window} is none: {error!r}. Somebody changed it: put it back, "
            f"or delete it, and the alarms begin anew"
        ) from error
    entry = _entry(window, champion, performance, folded)
    report = {
        "format": FORMAT,
        "model": spec.name,
        "window_start": format_time(window.start),
        "window_end": format_time(window.end),
        "looked_at": format_time(now),
        "rows": entry["rows"],
        "judged": entry["judged"],
        "why_not": "" if entry["judged"] else drift.finding.why_not,
        "skipped_windows": skipped,
        "summary": summary_of(entry["rows"], folded.signals, folded.alerts),
        "champion": entry["version"],
        "reference": _reference(champion),
        "versions": [_version(served) for served in versions],
        **{name: section.content for name, section in sections.items()},
        "slices": slices,
        "performance": performance.content,
        "signals": list(folded.signals),
        "alerts": list(folded.alerts),
        "closed": list(folded.closed),
        "states": {signal: state.to_dict() for signal, state in folded.states.items()},
        "history": history_with(before, entry),
        "matured": matured_with(before, spec.evaluation.primary, performance.content["realised"]),
        "promotions": [dict(move) for move in moves if move["at"] <= format_time(window.end)],
        "rules": _rules(spec, monitoring),
    }
    return dict(finite(report))


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow gets of a report: finite figures by name, such as `data_drift/temp` (an effect)."""
    realised, estimated = (report["performance"][name] for name in ("realised", "estimated"))
    primary = report["performance"]["metric"]
    figures = {
        "rows": report["rows"],
        "alerts_open": len(report["alerts"]),
        **{f"strength/{signal['signal']}": signal["strength"] for signal in report["signals"] if signal["judged"]},
        **{f"data_drift/{_metric_name(each['column'])}": each["effect"] for each in report["data_drift"]["columns"]},
        **{
            f"prediction_drift/{_metric_name(each['column'])}": each["effect"]
            for served in report["prediction_drift"]
            for each in (served["columns"] if served["version"] == report["champion"] else ())
        },
        **{f"realised/{name}": each["value"] for name, each in realised["others"].items()},
        f"estimated/{primary}": estimated["value"],
        **{f"service/{name}": report["service"][name] for name in ("requests", "errors", "error_rate")},
        "service/latency_p95_ms": report["service"]["latency_p95_ms"],
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _metric_name(column: str) -> str:
    """What MLflow takes in a metric's name: letters, digits, `_-. `, at most 250 in all, and no path to elsewhere."""
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-. ") else "_" for letter in column)
    return name[:200] if name.strip(".") else name.replace(".", "_")


def _entry(
    window: Interval, champion: ServedVersion | None, performance: Performance, folded: Folded
) -> dict[str, Any]:
    """This window's, in the history."""
    estimated = performance.content["estimated"]
    return {
        "window_end": format_time(window.end),
        "version": None if champion is None else champion.counts.version,
        "rows": 0 if champion is None else champion.counts.rows,
        "judged": any(signal["judged"] for signal in folded.signals),
        "beyond": [signal["signal"] for signal in folded.signals if signal["beyond"]],
        "metric": performance.content["metric"],
        "estimate": estimated["value"],
        "estimate_low": estimated["low"],
        "estimate_high": estimated["high"],
        "opened": [alert["signal"] for alert in folded.alerts if alert["opened_now"]],
        "closed": [alert["signal"] for alert in folded.closed],
    }


def _reference(champion: ServedVersion | None) -> dict[str, Any] | None:
    if champion is None or champion.profile is None:
        return None
    training = champion.training
    return {
        "version": champion.counts.version,
        "fingerprint": champion.profile.fingerprint,
        "rows": champion.profile.rows,
        "training_start": None if training is None else format_time(training.start),
        "training_end": None if training is None else format_time(training.end),
        "holdout_rows": None if champion.holdout is None else champion.holdout.rows,
    }


def _version(served: ServedVersion) -> dict[str, Any]:
    counts, training = served.counts, None
    if served.training is not None:
        start, end = format_time(served.training.start), format_time(served.training.end)
        training = {"fingerprint": served.training.fingerprint, "start": start, "end": end}
    named = {"version": counts.version, "role": served.role, "training": training}
    return {**named, "requests": counts.requests, "rows": counts.rows}


def _rules(spec: ModelSpec, monitoring: Monitoring) -> dict[str, Any]:
    """What the report was judged by."""
    return {
        "min_rows": monitoring.min_rows,
        **monitoring.drift.model_dump(mode="json"),
        "close_after": monitoring.alert.close_after,
        "close_below": monitoring.alert.close_below,
        "outcome_delay_s": spec.outcome_delay.total_seconds(),
        "window_s": monitoring.window.total_seconds(),
    }

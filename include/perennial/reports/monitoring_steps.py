"""What a monitoring report means for people: what to do next, the most urgent first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from perennial.domain.times import parse_time
from perennial.domain.wording import counted, duration, moment
from perennial.spec.model import ModelSpec

SIGNALS: Final = {
    "data_drift": "data drift",
    "prediction_drift": "prediction drift",
    "performance": "realised performance",
    "estimated_performance": "estimated performance",
    "service": "service",
    "skew": "training-serving skew",
}
"""By name in a report, as people read them, in the order of the page."""
_URGENCY: Final = ("service", "skew", "performance", "estimated_performance", "prediction_drift", "data_drift")


def monitoring_steps(spec: ModelSpec, report: Mapping[str, Any]) -> list[str]:
    """Sentences, with commands and fields between backticks.

    Args:
        spec: the model's.
        report: content of the window's `report.json`.
    """
    told = [] if _judged(report, "data_drift") else [_not_judged(spec, report)]
    alerts = sorted(report["alerts"], key=lambda alert: _URGENCY.index(alert["signal"]))
    told += [step for alert in alerts if (step := _about(spec, report, alert["signal"]))]
    if any(alert["retrain"] for alert in alerts):
        told.append(_retraining(spec))
    told += _not_yet(report)
    told += [f"The alert of {SIGNALS[closed['signal']]} is over." for closed in report["closed"]]
    return told or ["Nothing has to be done."]


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)


def _not_judged(spec: ModelSpec, report: Mapping[str, Any]) -> str:
    if report["champion"] is None:
        return (
            f"No request of this window is in the prediction log. If there were some: does the log reach the store? "
            f"Metrics `perennial_serving_log_*` of the scoring service tell. Who serves: "
            f"`perennial champion {spec.name}`."
        )
    if report["reference"] is None:
        return (
            f"There is nothing to compare with: `perennial run {spec.name}` trains a model that keeps a profile; once "
            f"it is champion, windows are judged."
        )
    least = report["rules"]["min_rows"]
    return (
        f"{counted(report['rows'], 'row')} in the window, and `monitoring.min_rows` asks for {least:,}: drift was not "
        f"judged. If that is usual, a longer `monitoring.window` helps."
    )


def _about(spec: ModelSpec, report: Mapping[str, Any], signal: str) -> str:
    """Where to look for the cause of an open alert; empty where there is no more to say than the alert itself does."""
    if signal == "service":
        return (
            "Service: what failed is in the scoring service's log and in column `error` of the prediction log. A new "
            "training does not help."
        )
    if signal == "skew":
        return (
            f"Skew: repair what sends {_skewed(report)}, or the features of the training. A new training does not help."
        )
    if signal == "performance":
        return "" if _is_beyond(report, "data_drift") else _concept(report)
    if signal == "estimated_performance":
        return _estimate(spec, report)
    if signal == "data_drift" and _holds(report):
        return (
            "Values have moved, and the labels so far do not show that the model is worse for it. Whether a newly "
            "trained one is better, the gate decides."
        )
    return ""


def _skewed(report: Mapping[str, Any]) -> str:
    found = [f"`{column['column']}`" for column in report["skew"] if column["skewed"]]
    more = len(found) - 3
    return ", ".join(found[:3]) + (f" and {more} more" if more > 0 else "") or "the requests"


def _concept(report: Mapping[str, Any]) -> str:
    metric = report["performance"]["metric"]
    return (
        f"`{metric}` is worse though the columns are as in the training: what the label depends on has changed, or the "
        f"labels that come have."
    )


def _estimate(spec: ModelSpec, report: Mapping[str, Any]) -> str:
    known = parse_time(report["window_end"]) + spec.outcome_delay
    return f"The loss is an estimate, from scores alone. The window's labels are due at {moment(known)}."


def _holds(report: Mapping[str, Any]) -> bool:
    return _judged(report, "performance") and not _is_beyond(report, "performance")


def _is_beyond(report: Mapping[str, Any], signal: str) -> bool:
    return any(found["beyond"] for found in report["signals"] if found["signal"] == signal)


def _judged(report: Mapping[str, Any], signal: str) -> bool:
    return any(found["judged"] for found in report["signals"] if found["signal"] == signal)


def _retraining(spec: ModelSpec) -> str:
    if spec.triggers.on_drift is None:
        return (
            f"No run starts by itself, as `triggers.on_drift` is not set. `perennial run {spec.name}` trains and "
            f"judges a challenger."
        )
    return f"The alert asks for a run; `perennial alert {spec.name} --list` tells what became of it."


def _not_yet(report: Mapping[str, Any]) -> list[str]:
    """Signals that are beyond their limit without an alert."""
    found = [signal for signal in report["signals"] if signal["beyond"] and not signal["open"]]
    if not found:
        return []
    names = listed([SIGNALS[signal["signal"]] for signal in found])
    k, n = found[0]["windows"], found[0]["of"]
    length = duration(timedelta(seconds=report["rules"]["window_s"]))
    return [
        f"No alert yet of {names}: it takes the same thing beyond its limit in {k} of the newest {n} judged windows of "
        f"{length}."
    ]

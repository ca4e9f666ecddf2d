"""What findings come to: alarms, history, and alerts that fit what an alert may carry."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perennial.domain.alarm import WindowVerdict
from perennial.domain.alert import MAX_EVIDENCE_BYTES
from perennial.domain.fingerprint import canonical_json
from perennial.domain.monitoring_report import (
    HISTORY,
    SIGNALS,
    Finding,
    Folded,
    alerts_to_send,
    finite,
    fold_signals,
    history_with,
    summary_of,
)
from perennial.spec.monitoring import AlertRules

START = datetime(2026, 3, 2, tzinfo=UTC)
RULES = AlertRules(windows=2, of=3, close_after=2)


def _finding(
    signal: str, window: int, *beyond: str, enough: bool = True, version: str = "1", says: str = "It is so."
) -> Finding:
    verdict = WindowVerdict(
        signal=signal,
        end=START + timedelta(days=window),
        beyond=beyond,
        strength=2.0 if beyond else 0.1,
        enough=enough,
        version=version,
    )
    evidence = tuple({"name": name, "low": math.nan, "says": says} for name in beyond)
    return Finding(verdict=verdict, says=says, why_not="" if enough else "There are too few.", evidence=evidence)


def _findings(window: int, *beyond: str, **changes: Any) -> dict[str, Finding]:
    """Of data drift; all other signals are calm."""
    calm = {signal: _finding(signal, window) for signal in SIGNALS}
    return {**calm, "data_drift": _finding("data_drift", window, *beyond, **changes)}


def _report(folded: Folded) -> dict[str, Any]:
    """As much of one as the next window looks at."""
    return {
        "states": {signal: state.to_dict() for signal, state in folded.states.items()},
        "signals": list(folded.signals),
        "alerts": list(folded.alerts),
    }


def _after(*windows: dict[str, Finding]) -> Folded:
    before = None
    for findings in windows:
        folded = fold_signals(findings, before, RULES)
        before = _report(folded)
    return folded


def test_alert_opens_once_stays_and_is_told_when_it_closes() -> None:
    days = [_findings(1, "temp"), _findings(2, "temp"), _findings(3, "temp"), _findings(4), _findings(5)]
    opened = _after(*days[:2])
    (alert,) = opened.alerts
    assert (alert["opened_now"], alert["retrain"], alert["because"]) == (True, True, ["temp"])
    assert alert["alert_id"] == "data_drift:2026-03-04T00:00:00Z"
    assert alert["summary"] == "It is so. So it was in 2 of the last 3 windows."
    (still,) = _after(*days[:3]).alerts
    assert still == {**alert, "opened_now": False}
    ended = _after(*days)
    assert ended.alerts == ()
    assert ended.closed == ({**alert, "opened_now": False},)


def test_signal_tells_its_last_looks_the_passed_over_ones_among_them() -> None:
    folded = _after(_findings(1, "temp"), _findings(2, enough=False), _findings(3, "temp"))
    drift = folded.signals[0]
    assert drift["recent"] == ["beyond", "not_judged", "beyond"]
    assert (drift["open"], drift["since"]) == (True, "2026-03-05T00:00:00Z")
    assert folded.alerts[0]["summary"].endswith("So it was in 2 of the last 3 windows.")


def test_evidence_of_an_alert_is_what_raised_it_and_not_what_joined_today() -> None:
    folded = _after(_findings(1, "temp"), _findings(2, "wind", "temp"))
    assert [each["name"] for each in folded.alerts[0]["evidence"]] == ["temp"]
    assert folded.alerts[0]["evidence"][0]["low"] is None


def test_evidence_of_endless_foreign_text_is_cut_to_what_an_alert_carries() -> None:
    names = [str(number) + "\N{SNOWMAN}" * 5000 for number in range(30)]
    says = "\N{SNOWMAN}\n\x00" * 5000
    folded = _after(_findings(1, *names, says=says), _findings(2, *names, says=says))
    report = {
        **_report(folded),
        "model": "toy",
        "window_start": "2026-03-03T00:00:00Z",
        "window_end": "2026-03-04T00:00:00Z",
        "champion": "1",
    }
    ((alert, signal, retrain),) = alerts_to_send(report, report_uri="s3://bucket/report.json", page="s3://bucket/page")
    assert len(canonical_json(dict(alert.evidence))) <= MAX_EVIDENCE_BYTES
    assert alert.evidence["beyond"]
    assert (signal, retrain) == ("data_drift", True)
    assert len(alert.summary) <= 500


def test_states_that_are_none_are_an_error_that_says_so() -> None:
    before = _report(_after(_findings(1)))
    before["states"]["skew"] = {"signal": "skew"}
    with pytest.raises(ValueError, match="an alarm's state has the fields"):
        fold_signals(_findings(2), before, RULES)


def _entry(window: int) -> dict[str, Any]:
    end = f"window {window}"
    return {"window_end": end, "value": None, "low": None, "high": None}


def test_history_keeps_the_newest_and_files_what_matured_under_its_window() -> None:
    history: list[dict[str, Any]] = []
    for window in range(HISTORY + 5):
        before = {"history": history} if history else None
        matured = {"window_end": f"window {window - 2}", "value": float(window), "low": 0.0, "high": 1.0}
        history = history_with(before, _entry(window), matured)
    assert len(history) == HISTORY
    assert [entry["value"] for entry in history[-3:]] == [float(HISTORY + 4), None, None]
    assert history[0]["window_end"] == "window 5"
    assert history[0]["value"] == 7.0


def test_what_was_not_computed_again_does_not_wipe_out_what_was() -> None:
    first = history_with(None, _entry(1), {"window_end": "window 1", "value": 0.7, "low": 0.6, "high": 0.8})
    nothing = {"window_end": "window 1", "value": None, "low": None, "high": None}
    assert history_with({"history": first}, _entry(2), nothing)[0]["value"] == 0.7


@pytest.mark.parametrize(
    ("findings", "summary"),
    [
        (_findings(1), "70 rows, and nothing beyond its limit."),
        (
            _findings(1, enough=False),
            "70 rows, and nothing beyond its limit. Drift was not judged: there are too few.",
        ),
        (_findings(1, "temp", says="temp is up."), "1 of 6 signals is beyond its limit. temp is up."),
    ],
)
def test_summary_says_what_a_window_came_to(findings: dict[str, Finding], summary: str) -> None:
    folded = _after(findings)
    assert summary_of(70, folded.signals, folded.alerts) == summary


def test_summary_names_new_alerts_first() -> None:
    folded = _after(_findings(1, "temp"), _findings(2, "temp"))
    assert summary_of(70, folded.signals, folded.alerts).startswith("New alert: data drift. 1 of 6 signals is beyond")


def test_figures_that_json_cannot_carry_become_null() -> None:
    assert finite({"a": [math.nan, 1.0, (math.inf,)], 2: "x"}) == {"a": [None, 1.0, [None]], "2": "x"}

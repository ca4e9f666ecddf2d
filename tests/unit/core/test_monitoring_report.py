"""What findings come to: alarms, history, and alerts that fit what an alert may carry."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perennial.domain.alarm import WindowVerdict
from perennial.domain.alert import MAX_EVIDENCE_BYTES
from perennial.domain.fingerprint import canonical_json
from perennial.domain.json_values import finite
from perennial.domain.monitoring_report import (
    HISTORY,
    SIGNALS,
    Finding,
    Folded,
    alerts_to_send,
    fold_signals,
    history_with,
    matured_with,
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
    phrase = says[:1].lower() + says[1:].rstrip(".")
    evidence = tuple({"name": name, "low": math.nan, "says": phrase} for name in beyond)
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
    assert alert["summary"] == "It is so. So it was in 2 of the last 2 windows."
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
    assert folded.alerts[0]["summary"].endswith("So it was in 2 of the last 2 windows.")


def test_evidence_of_an_alert_is_what_raised_it_and_not_what_joined_today() -> None:
    folded = _after(_findings(1, "temp"), _findings(2, "wind", "temp"))
    assert [each["name"] for each in folded.alerts[0]["evidence"]] == ["temp"]
    assert folded.alerts[0]["evidence"][0]["low"] is None
    assert folded.alerts[0]["summary"] == "temp: it is so. So it was in 2 of the last 2 windows."


def test_windows_in_which_other_things_were_beyond_are_not_counted() -> None:
    folded = _after(_findings(1, "temp"), _findings(2, "wind"), _findings(3, "temp"))
    assert folded.alerts[0]["summary"].endswith("So it was in 2 of the last 3 windows.")


def test_windows_of_the_version_before_are_not_counted() -> None:
    days = [_findings(day, "temp", version=version) for day, version in ((1, "1"), (2, "2"), (3, "2"))]
    assert _after(*days).alerts[0]["summary"].endswith("So it was in 2 of the last 2 windows.")


def test_alert_while_one_is_open_takes_its_place_and_tells_what_is_new() -> None:
    folded = _after(
        _findings(1, "temp"), _findings(2, "temp"), _findings(3, "temp", "wind"), _findings(4, "temp", "wind")
    )
    (alert,) = folded.alerts
    assert (alert["opened_now"], alert["because"]) == (True, ["temp", "wind"])
    assert alert["alert_id"] == "data_drift:2026-03-06T00:00:00Z"
    assert alert["summary"] == "wind: it is so. So it was in 2 of the last 3 windows."
    assert [each["name"] for each in alert["evidence"]] == ["wind", "temp"]
    assert folded.closed == ()


def test_many_new_things_are_told_of_the_worst_three() -> None:
    days = [_findings(1, *"abcde"), _findings(2, *"abcde", "new")]
    summary = _after(*days).alerts[0]["summary"]
    told = "a: it is so. b: it is so. c: it is so. And 2 more."
    assert summary == f"{told} a was beyond its limit in 2 of the last 2 windows."


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


def test_history_keeps_the_newest() -> None:
    history: list[dict[str, Any]] = []
    for window in range(HISTORY + 5):
        history = history_with({"history": history} if history else None, {"window_end": f"window {window}"})
    assert [history[0], history[-1]] == [{"window_end": "window 5"}, {"window_end": f"window {HISTORY + 4}"}]
    assert len(history) == HISTORY


def _ripe(window: int, value: float | None) -> dict[str, Any]:
    return {"window_end": f"window {window}", "value": value, "low": 0.6, "high": 0.8}


def test_performances_of_windows_long_before_the_history_are_kept_with_their_metric() -> None:
    matured: list[dict[str, Any]] = []
    for window in range(HISTORY + 5):
        matured = matured_with({"matured": matured} if matured else None, "roc_auc", _ripe(window, 0.7))
    assert len(matured) == HISTORY
    assert matured[0] == {"metric": "roc_auc", **_ripe(5, 0.7)}


def test_what_was_not_computed_again_does_not_wipe_out_what_was() -> None:
    first = matured_with(None, "roc_auc", _ripe(1, 0.7))
    assert matured_with({"matured": first}, "roc_auc", _ripe(1, None)) == first
    assert matured_with({"matured": first}, "roc_auc", _ripe(1, 0.8)) == [{"metric": "roc_auc", **_ripe(1, 0.8)}]


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

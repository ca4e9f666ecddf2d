"""The chapter of the drift alert, on an Airflow and a webhook that a test writes the lines for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.demo import test_story
from tests.unit.demo.test_story import NOW, ROOT, Told, a_run

from perennial.addresses import monitor_dag_id, retrain_dag_id
from perennial.alert_ledger import AlertLedger, AlertRecord, AlertState
from perennial.domain.alert import Alert, Fate, Outcome
from perennial.domain.references import MonitoringRef
from perennial_demo import summer
from perennial_demo.airflow_api import DagRun
from perennial_demo.errors import DemoError
from perennial_demo.story import FLIGHTS
from perennial_demo.summer import AT_ONCE, LOOKS, Summer

told = test_story.told
"""The fixture."""

RUN = "drift__first__1a2b3c4d"
ALERT = Alert(
    model=FLIGHTS,
    alert_id="data_drift:2026-01-01T00:00:00Z",
    source="monitor",
    summary="temp is higher by 2.8 spreads",
    raised_at=NOW,
    received_at=NOW,
    sender="monitor",
)
STARTED = Outcome(fate=Fate.STARTED, reason="the first run for an alert", at=NOW, run_id=RUN)


class Airflow:
    """Looks of the monitor end as `on_look` says; runs of the retraining are `drift_runs`."""

    def __init__(self) -> None:
        self.looks = 0
        self.drift_runs: list[DagRun] = []
        self.on_look: Callable[[], None] = lambda: None

    def wait_for_dag(self, dag_id: str, *, timeout_s: float) -> None:
        assert dag_id == monitor_dag_id(FLIGHTS)

    def trigger(self, dag_id: str) -> DagRun:
        self.looks += 1
        return replace(a_run(f"look-{self.looks}", run_type="manual"), dag_id=dag_id)

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout_s: float) -> DagRun:
        self.on_look()
        return replace(a_run(run_id, run_type="manual"), dag_id=dag_id)

    def xcom(self, _dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        assert task_id == "observe"
        return MonitoringRef(
            uri=f"{ROOT}/monitoring/{FLIGHTS}/x/report.json",
            sha256="a" * 64,
            page_uri=f"{ROOT}/monitoring/{FLIGHTS}/x/page.html",
            window_start=NOW,
            window_end=NOW + timedelta(seconds=20),
            windows=1,
            rows=600,
            open_alerts=0,
            summary=f"what {run_id} saw",
        ).to_dict()

    def runs(self, dag_id: str) -> list[DagRun]:
        assert dag_id == retrain_dag_id(FLIGHTS)
        return self.drift_runs


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture
def season(told: Told, airflow: Airflow, monkeypatch: pytest.MonkeyPatch) -> Summer:
    monkeypatch.setattr(Summer, "_window_s", lambda _self: 0.0)
    stack: Any = told.teller.stack
    shown = SimpleNamespace(
        airflow=airflow,
        airflow_url="http://airflow",
        console=stack.console,
        environment={"PERENNIAL_WEBHOOK_KEY": "m:s"},
    )

    def wait(_model: str, run_id: str) -> DagRun:
        [run] = [run for run in airflow.drift_runs if run.run_id == run_id]
        return run

    return Summer(shown, told.teller.runtime, FLIGHTS, wait)  # type: ignore[arg-type]


def starts(told: Told, airflow: Airflow, *, at_look: int = 1, alert: Alert = ALERT) -> None:
    """The monitor raises its alert at that look, and a run is started for it."""

    def look() -> None:
        if airflow.looks == at_look:
            AlertLedger(told.store, ROOT).add(AlertRecord(alert=alert, state=AlertState.STARTING).answered(STARTED))
            airflow.drift_runs = [replace(a_run(RUN, run_type="manual"), conf={"alert": {"alert_id": alert.alert_id}})]

    airflow.on_look = look


def answers(monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome) -> list[Alert]:
    """The webhook's answers, the last one from then on; what it was sent."""
    sent: list[Alert] = []

    def send(alert: Alert, **_: Any) -> Outcome:
        sent.append(alert)
        return outcomes[min(len(sent), len(outcomes)) - 1]

    monkeypatch.setattr("perennial.alert_sender.send_alert", send)
    return sent


def test_alert_that_starts_a_run_is_told_and_sent_again_many_times(
    told: Told, airflow: Airflow, season: Summer, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(told, airflow, at_look=3)
    sent = answers(monkeypatch, STARTED)
    finished = season.tell()
    assert finished is not None
    assert finished.run_id == RUN
    assert airflow.looks == 3
    assert sent == [ALERT] * AT_ONCE
    for line in ("what look-1 saw", "what look-3 saw", "alert: temp is higher", f"alert {AT_ONCE} times at once"):
        assert line in told.output


def test_chapter_that_was_told_before_is_left_out(airflow: Airflow, season: Summer) -> None:
    airflow.drift_runs = [a_run(RUN)]
    assert season.tell() is None
    assert airflow.looks == 0


def test_monitor_that_raises_no_alert_ends_the_demo(airflow: Airflow, season: Summer) -> None:
    with pytest.raises(DemoError, match=f"no alert that started a run in {LOOKS} looks"):
        season.tell()
    assert airflow.looks == LOOKS


def test_alert_of_somebody_else_is_not_the_monitors(told: Told, airflow: Airflow, season: Summer) -> None:
    starts(told, airflow, alert=replace(ALERT, source="command"))
    with pytest.raises(DemoError, match="no alert"):
        season.tell()


def test_other_answer_to_the_same_alert_ends_the_demo(
    told: Told, airflow: Airflow, season: Summer, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(told, airflow)
    answers(monkeypatch, STARTED, replace(STARTED, run_id="drift__second"))
    with pytest.raises(DemoError, match="answered otherwise than at first"):
        season.tell()


def test_second_run_ends_the_demo(
    told: Told, airflow: Airflow, season: Summer, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts(told, airflow)
    answers(monkeypatch, STARTED)
    send = summer.Summer._same_alert_again

    def again(self: Summer, alert: Alert, first: Outcome) -> None:
        send(self, alert, first)
        airflow.drift_runs = [*airflow.drift_runs, a_run("drift__second")]

    monkeypatch.setattr(Summer, "_same_alert_again", again)
    with pytest.raises(DemoError, match="there are 2"):
        season.tell()


def test_alert_that_had_to_wait_is_answered_as_at_first(
    told: Told, airflow: Airflow, season: Summer, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = Outcome(fate=Fate.DEFERRED, reason="too soon", at=NOW, until=NOW)

    def look() -> None:
        waited = AlertRecord(alert=ALERT, state=AlertState.DEFERRED).answered(deferred).answered(STARTED)
        AlertLedger(told.store, ROOT).add(waited)
        airflow.drift_runs = [replace(a_run(RUN, run_type="manual"), conf={"alert": {"alert_id": ALERT.alert_id}})]

    airflow.on_look = look
    answers(monkeypatch, deferred)
    finished = season.tell()
    assert finished is not None
    assert finished.run_id == RUN

"""Alerts over HTTP to a real Airflow: many at once, the API server killed between any two steps, and late ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from perennial.addresses import monitor_dag_id
from perennial.alert_ledger import AlertLedger, AlertState
from perennial.alert_sender import SigningKey, send_alert, send_tick
from perennial.domain.alert import Alert, Fate, Outcome
from perennial.errors import NotAllowedError, WebhookUnavailableError
from perennial_demo import process
from perennial_demo.airflow_api import DagRun
from perennial_demo.environment import WEBHOOK_KEY
from tests.system.conftest import LENIENT, World

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("landed")]
AS_OF = datetime(2013, 2, 18, 3, tzinfo=UTC).isoformat()
API_SERVER = "airflow-api-server"
STEPS = ("alert_open", "alert_add", "alert_start", "alert_replace", "alert_close")
"""Of an alert that starts a run, in their order."""


@dataclass
class Alerted:
    """A model that takes alerts, and its webhook."""

    world: World
    model: str
    dag_id: str

    @property
    def key(self) -> SigningKey:
        return SigningKey.parse(self.world.stack.environment[WEBHOOK_KEY])

    @property
    def ledger(self) -> AlertLedger:
        return AlertLedger(self.world.runtime.store, self.world.runtime.root)

    def send(self, alert: Alert) -> Outcome:
        return send_alert(alert, airflow_url=self.world.stack.airflow_url, key=self.key, now=datetime.now(UTC))

    def tick(self) -> tuple[Outcome, ...]:
        return send_tick(self.model, airflow_url=self.world.stack.airflow_url, key=self.key, now=datetime.now(UTC))

    def runs(self) -> list[DagRun]:
        return [run for run in self.world.stack.airflow.runs(self.dag_id) if run.run_id.startswith("drift__")]

    def ended(self) -> DagRun:
        """The one run for alerts, when it is over."""
        (run,) = self.runs()
        finished = self.world.stack.airflow.wait_for_run(self.dag_id, run.run_id, timeout_s=120)
        assert finished.state == "success", self.world.log_of(self.dag_id, run.run_id)
        return finished

    def kill_after(self, step: str) -> None:
        (self.world.kills / f"{self.model}.{step}").touch()

    def was_killed_after(self, step: str) -> bool:
        return (self.world.kills / f"{self.model}.{step}.done").exists()


@pytest.fixture
def alerted(world: World) -> Iterator[Callable[..., Alerted]]:
    """Makes models; whatever a test did to the API server, it is up again afterwards."""

    def make(name: str, **policy: Any) -> Alerted:
        dag_id = world.add_twin(name, gate=LENIENT, triggers={"on_drift": {"cooldown": "0s", **policy}})
        return Alerted(world, name, dag_id)

    yield make
    world.stack.up()


def an_alert(model: str, alert_id: str = "a-1") -> Alert:
    now = datetime.now(UTC)
    return Alert(model=model, alert_id=alert_id, source="native", summary="bmi is up", raised_at=now, received_at=now)


def test_fifty_alerts_at_once_are_one_run_and_all_of_them_on_record(alerted: Callable[..., Alerted]) -> None:
    model = alerted("alerted_fifty_times")
    alerts = [an_alert(model.model, f"a-{number % 25}") for number in range(50)]  # each of them comes twice
    with ThreadPoolExecutor(len(alerts)) as pool:
        outcomes = list(pool.map(model.send, alerts))
    run = model.ended()
    assert {outcome.run_id for outcome in outcomes} == {run.run_id}
    answers = {alert.alert_id: outcome.fate for alert, outcome in zip(alerts, outcomes, strict=True)}
    assert Counter(answers.values()) == {Fate.STARTED: 1, Fate.COALESCED: 24}
    # Both deliveries of an alert had the same answer.
    assert [outcome.fate for outcome in outcomes] == [answers[alert.alert_id] for alert in alerts]
    records = model.ledger.list(model.model, 100)
    assert len(records) == 25
    assert {record.state for record in records} == {AlertState.ENDED}
    assert run.conf["alert"]["alert_id"] in answers
    assert "bmi is up" in (run.note or "")
    decision = next(entry for entry in model.world.runtime.ledger.entries(model.model) if entry.kind == "decision")
    assert (decision.request["trigger"], decision.request["reason"]) == ("drift", "bmi is up")


def test_alert_on_data_that_was_judged_already_is_refused_with_the_reason(alerted: Callable[..., Alerted]) -> None:
    model = alerted("alerted_in_vain")
    assert model.send(an_alert(model.model)).fate is Fate.STARTED
    model.ended()
    refused = model.send(an_alert(model.model, "a-2"))
    assert (refused.fate, refused.rule) == (Fate.REFUSED, "nothing_new")
    again = model.send(an_alert(model.model, "a-2"))
    assert again == refused
    shown = model.world.command.json("alert", model.model, "--list")
    assert [record["outcomes"][-1]["fate"] for record in shown] == ["refused", "started"]
    assert len(model.runs()) == 1


@pytest.mark.timeout(600)
def test_api_server_killed_after_each_step_of_an_alert_loses_and_doubles_nothing(
    alerted: Callable[..., Alerted],
) -> None:
    for place, step in enumerate(STEPS):
        model = alerted(f"killed_{step}")
        model.kill_after(step)
        alert = an_alert(model.model)
        with pytest.raises(WebhookUnavailableError):
            model.send(alert)
        assert model.was_killed_after(step)
        model.world.stack.up()
        # A sender tries again; where it does not, the next tick goes on with what was on record.
        told = model.send(alert) if place % 2 else next(iter(model.tick()), None) or model.send(alert)
        assert told.fate is Fate.STARTED, step
        run = model.ended()
        assert told.run_id == run.run_id
        assert run.conf["alert"]["alert_id"] == alert.alert_id
        assert model.send(replace(alert, raised_at=datetime.now(UTC))).run_id == run.run_id
        model.tick()
        (record,) = model.ledger.list(model.model)
        assert [outcome.fate for outcome in record.outcomes] == [Fate.STARTED]
        assert not model.ledger.opened(model.model)
        assert len(model.runs()) == 1


def test_deferred_alert_outlives_the_api_server_and_is_started_by_the_monitors_tick(
    alerted: Callable[..., Alerted],
) -> None:
    model = alerted("alerted_too_soon", cooldown="20s")
    # What somebody trains with other parameters leaves something to find.
    first = model.world.run(model.dag_id, as_of=AS_OF, params={"alpha": 3.0})
    assert first.state == "success", model.world.log_of(model.dag_id, first.run_id)
    deferred = model.send(an_alert(model.model))
    assert (deferred.fate, deferred.rule) == (Fate.DEFERRED, "cooldown")
    assert deferred.until is not None
    for member in process.marked(model.world.stack.home.root, {API_SERVER}):
        member.kill()
    model.world.stack.up()
    time.sleep(max(0.0, (deferred.until - datetime.now(UTC)).total_seconds()))
    ticked = model.world.run(monitor_dag_id(model.model))
    assert ticked.state == "success", model.world.log_of(monitor_dag_id(model.model), ticked.run_id)
    model.ended()
    (record,) = model.ledger.list(model.model)
    assert [outcome.fate for outcome in record.outcomes] == [Fate.DEFERRED, Fate.STARTED]


def test_wrong_key_is_told_nothing_and_changes_nothing(alerted: Callable[..., Alerted]) -> None:
    model = alerted("alerted_by_a_stranger")
    answers = []
    for name in (model.model, "no_such_model"):
        stranger = replace(model.key, secret="x" * 32)
        with pytest.raises(NotAllowedError) as raised:
            send_alert(an_alert(name), airflow_url=model.world.stack.airflow_url, key=stranger, now=datetime.now(UTC))
        answers.append(str(raised.value))
    assert answers[0] == answers[1]
    assert model.ledger.list(model.model) == []
    assert model.runs() == []

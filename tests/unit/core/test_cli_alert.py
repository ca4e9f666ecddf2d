"""`perennial alert`: what is sent, what a shell is told, and the list of what came before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perennial.alert_ledger import AlertLedger, AlertRecord, AlertState
from perennial.domain.alert import Alert, Fate, Outcome
from tests.unit.core.command import Shell, a_world, respec
from tests.unit.core.webhook_server import DEFERRED, REFUSED, SECRET, STARTED, Webhook, a_webhook
from tests.unit.core.world import World

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ALERT = Alert(
    model="toy",
    alert_id="data_drift:1",
    source="monitor",
    summary="temp is higher by 1.8 spreads",
    raised_at=AT,
    received_at=AT,
    sender="monitor",
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return a_world(tmp_path, monkeypatch)


@pytest.fixture
def webhook(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with a_webhook() as webhook:
        monkeypatch.setenv("PERENNIAL_AIRFLOW_URL", webhook.url)
        monkeypatch.setenv("PERENNIAL_WEBHOOK_KEY", f"monitor:{SECRET}")
        yield webhook


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_started_run_is_told_with_its_address_and_exits_0(webhook: Webhook, shell: Shell) -> None:
    code, out, err = shell("alert", "toy", "--reason", "the new terminal opened")
    assert (code, err) == (0, "")
    assert "started drift__1" in out
    assert f"{webhook.url}/dags/perennial__toy__retrain/runs/drift__1" in out
    [(_, body)] = webhook.received
    assert (body["source"], body["summary"]) == ("command", "the new terminal opened")


def test_two_commands_are_two_alerts_unless_an_id_is_given(webhook: Webhook, shell: Shell) -> None:
    for arguments in ([], [], ["--id", "mine"], ["--id", "mine"]):
        assert shell("alert", "toy", *arguments)[0] == 0
    ids = [body["id"] for _, body in webhook.received]
    assert len(set(ids[:2])) == 2
    assert ids[2:] == ["mine", "mine"]


def test_deferred_alert_says_until_when_and_exits_0(webhook: Webhook, shell: Shell) -> None:
    webhook.outcome = DEFERRED
    code, out, _ = shell("alert", "toy")
    assert code == 0
    assert "deferred until 2026-01-02 03:04 UTC" in out
    assert "cool-down" in out


def test_refused_alert_says_why_and_exits_1(webhook: Webhook, shell: Shell) -> None:
    webhook.status, webhook.outcome = 409, REFUSED
    code, out, _ = shell("alert", "toy")
    assert code == 1
    assert "refused" in out
    assert "the DAG is paused" in out


def test_json_has_id_key_and_outcome(webhook: Webhook, shell: Shell) -> None:
    code, told = shell.json("alert", "toy", "--id", "mine")
    assert code == 0
    assert (told["model"], told["id"], told["outcome"]) == ("toy", "mine", STARTED)
    assert told["key"] == replace(ALERT, alert_id="mine").key


def test_url_of_the_command_line_goes_before_the_setting(
    webhook: Webhook, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_AIRFLOW_URL", "http://127.0.0.1:1")
    assert shell("alert", "toy", "--url", webhook.url)[0] == 0


def test_missing_key_is_wrong_usage_and_nothing_is_sent(
    webhook: Webhook, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PERENNIAL_WEBHOOK_KEY")
    code, _, err = shell("alert", "toy")
    assert code == 2
    assert "PERENNIAL_WEBHOOK_KEY" in err
    assert webhook.received == []


def test_key_that_is_not_accepted_exits_1_with_what_to_compare(
    webhook: Webhook, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_WEBHOOK_KEY", "monitor:another secret")
    code, out, err = shell("alert", "toy")
    assert code == 1
    assert "perennial_webhook" in err
    assert "another secret" not in out + err


def test_airflow_that_is_not_there_exits_1_with_where_it_was_looked_for(
    webhook: Webhook, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNIAL_AIRFLOW_URL", "http://127.0.0.1:1")
    code, _, err = shell("alert", "toy")
    assert code == 1
    assert "Airflow is looked for at http://127.0.0.1:1 (PERENNIAL_AIRFLOW_URL, or --url)" in err


def test_reason_that_is_too_long_is_wrong_usage(webhook: Webhook, shell: Shell) -> None:
    code, _, err = shell("alert", "toy", "--reason", "x" * 501)
    assert code == 2
    assert "501" in err
    assert webhook.received == []


def record(alert: Alert, *outcomes: Outcome, state: AlertState = AlertState.ENDED) -> AlertRecord:
    return AlertRecord(alert=alert, state=state, outcomes=outcomes)


def test_list_tells_each_alert_with_what_became_of_it(world: World, shell: Shell) -> None:
    ledger = AlertLedger(world.store, world.runtime.root)
    waits = Outcome(fate=Fate.DEFERRED, reason="the last run ended at noon", at=AT, until=AT, rule="cooldown")
    starts = Outcome(fate=Fate.STARTED, reason="nothing spoke against it", at=AT, run_id="drift__1")
    ledger.add(record(ALERT, starts))
    ledger.add(record(replace(ALERT, alert_id="data_drift:2"), waits, state=AlertState.DEFERRED))
    ledger.add(record(replace(ALERT, alert_id="data_drift:3"), state=AlertState.STARTING))
    code, out, _ = shell("alert", "toy", "--list")
    assert code == 0
    for text in (
        "2026-01-02 03:04  started    monitor       monitor",
        "temp is higher by 1.8 spreads",
        "until 2026-01-02 03:04 UTC: the last run ended at noon",
        "Its run is being started",
        "drift__1",
    ):
        assert text in out
    code, told = shell.json("alert", "toy", "--list")
    assert {found["alert"]["alert_id"]: found["state"] for found in told} == {
        "data_drift:1": "ended",
        "data_drift:2": "deferred",
        "data_drift:3": "starting",
    }


def test_list_without_alerts_says_so(world: World, shell: Shell) -> None:
    assert shell("alert", "toy", "--list")[:2] == (0, "toy has had no alerts\n")


def test_list_of_an_unknown_model_is_wrong_usage(world: World, shell: Shell) -> None:
    assert shell("alert", "toi", "--list")[0] == 2


LOGGED = {"deployment": {"kind": "scoring_service"}}
SLACK = {"notify": [{"kind": "slack", "channel": "#ops"}]}


@pytest.mark.parametrize(
    ("monitoring", "triggers", "field"),
    [
        ({}, {}, "monitoring.notify"),
        (SLACK, {}, None),
        ({}, {"on_drift": {}}, None),
        ({"schedule": None}, {"on_drift": {}}, "monitoring.schedule"),
        ({**SLACK, "schedule": None}, {}, None),
    ],
)
def test_check_warns_of_alerts_that_nobody_hears_or_comes_back_to(
    world: World, shell: Shell, monitoring: dict[str, object], triggers: dict[str, object], field: str | None
) -> None:
    respec(world, **LOGGED, monitoring=monitoring, triggers=triggers)
    code, told = shell.json("check")
    assert code == 0
    assert [warning["field"] for warning in told["warnings"]] == ([field] if field else [])


@pytest.mark.parametrize(
    ("monitoring", "told"),
    [
        ({"window": "1m"}, "more than 48m pass between two looks, in which more than 48 windows of 1m end"),
        ({"window": "1h", "schedule": "0 6 * * 1-5"}, "more than 2d pass between two looks"),
        ({"window": "2h", "schedule": "0 6 * * 1-5"}, None),
        ({"window": "1m", "schedule": "*/30 * * * *"}, None),
        ({"window": "1m", "schedule": None}, None),
        ({"window": "1m", "reference_window": "7d"}, None),
    ],
)
def test_check_warns_of_windows_that_nobody_looks_at(
    world: World, shell: Shell, monitoring: dict[str, object], told: str | None
) -> None:
    pytest.importorskip("croniter", reason="croniter comes with Airflow")
    respec(world, **LOGGED, monitoring={**SLACK, **monitoring})
    warnings = shell.json("check")[1]["warnings"]
    assert [warning["field"] for warning in warnings] == ([] if told is None else ["monitoring.schedule"])
    assert all(warning["allowed"].startswith(str(told)) for warning in warnings)

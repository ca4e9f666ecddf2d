"""Perennial's own senders against Perennial's own webhook, over HTTP: each knows the other only by what is sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvicorn
from fastapi import FastAPI

from perennial.addresses import WEBHOOK_PREFIX
from perennial.alert_sender import SigningKey
from perennial.domain.alert import Alert, Fate
from perennial.errors import NotAllowedError, NotFoundError, WebhookRefusedError
from perennial.runtime import SystemClock
from perennial_airflow.hooks.webhook import WebhookHook
from tests.unit.airflow.test_hooks import connect
from tests.unit.airflow.test_queue_examples import example, hand_over
from tests.unit.airflow.webhook.gate import KEY, NEXT_KEY, Gate

pytestmark = pytest.mark.airflow
AT = datetime(2026, 1, 2, tzinfo=UTC)
ALERT = Alert(
    model="toy",
    alert_id="Drift: Überhitzung",
    source="monitor",
    summary="temp is higher by 1.8 spreads \N{EN DASH} worst",
    raised_at=AT,
    received_at=AT,
    evidence={"columns": [{"column": "temp", "effect": 1.8}]},
)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Where the hook looks for it, with the key that the hook has."""
    gate = Gate(tmp_path)
    gate.world = replace(gate.world, clock=SystemClock())
    api_server = FastAPI()
    api_server.mount(WEBHOOK_PREFIX, gate.app)
    with serving(api_server) as url:
        use(monkeypatch, url, KEY)
        yield gate


def use(monkeypatch: pytest.MonkeyPatch, url: str, key: SigningKey) -> None:
    connect(monkeypatch, "perennial_webhook", conn_type="generic", host=url, extra={"keys": {key.name: key.secret}})


def test_alert_starts_one_run_however_often_it_is_sent(gate: Gate) -> None:
    outcomes = [WebhookHook().send(ALERT) for _ in range(3)]
    assert [outcome.fate for outcome in outcomes] == [Fate.STARTED] * 3
    assert gate.run_ids() == [outcomes[0].run_id]
    [record] = gate.records()
    assert record.alert.restates(ALERT)
    assert (record.alert.source, record.alert.sender, record.alert.key) == ("monitor", KEY.name, ALERT.key)


def test_key_of_the_next_rotation_is_taken_too_and_another_is_not(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    url = WebhookHook().address
    use(monkeypatch, url, NEXT_KEY)
    assert WebhookHook().send(ALERT).fate is Fate.STARTED
    use(monkeypatch, url, SigningKey(name=KEY.name, secret="a secret of somebody else"))
    with pytest.raises(NotAllowedError):
        WebhookHook().send(replace(ALERT, alert_id="another"))
    assert len(gate.records()) == 1


def test_model_without_on_drift_is_an_outcome_and_an_unknown_one_an_error(gate: Gate) -> None:
    outcome = WebhookHook().send(replace(ALERT, model="other"))
    assert (outcome.fate, outcome.rule) == (Fate.REFUSED, "not_enabled")
    with pytest.raises(NotFoundError):
        WebhookHook().send(replace(ALERT, model="nobody"))


def test_same_id_for_something_else_is_refused(gate: Gate) -> None:
    WebhookHook().send(ALERT)
    with pytest.raises(WebhookRefusedError, match="409"):
        WebhookHook().send(replace(ALERT, summary="humid is lower"))


def test_tick_answers_a_model_with_nothing_to_do(gate: Gate) -> None:
    assert WebhookHook().tick("toy") == ()


@pytest.mark.parametrize("name", ["alerts_from_sqs", "alerts_from_kafka"])
def test_message_of_a_queue_is_received_once(gate: Gate, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    body = json.dumps({"model": "toy", "summary": "the feed's schema changed", "source": "queue"})
    message = {"Body": body, "MessageId": "6f7a", "ReceiptHandle": "r"}
    deleted: list[str] = []
    client = SimpleNamespace(delete_message=lambda **arguments: deleted.append(arguments["ReceiptHandle"]))
    monkeypatch.setattr("airflow.providers.amazon.aws.hooks.sqs.SqsHook.conn", client)
    payload = {"status": "success", "message_batch": [message]} if name == "alerts_from_sqs" else body
    event = SimpleNamespace(extra={"from_trigger": True, "payload": payload})
    hand_over(example(name), event, event)
    [record] = gate.records()
    assert (record.alert.source, record.alert.summary) == ("queue", "the feed's schema changed")
    assert gate.run_ids() == [record.newest.run_id if record.newest else None]
    assert deleted == (["r", "r"] if name == "alerts_from_sqs" else [])

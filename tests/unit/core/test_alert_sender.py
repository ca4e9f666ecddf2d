"""Messages to the webhook: what is signed, and what an answer means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from perennial.alert_sender import SigningKey, alert_body, send_alert, send_message, send_tick, signature
from perennial.domain.alert import Alert, Fate
from perennial.errors import (
    NotAllowedError,
    NotFoundError,
    RequestError,
    WebhookRefusedError,
    WebhookUnavailableError,
)
from perennial.stages.alerts import TICK_FOR
from tests.unit.core.webhook_server import DEFERRED, KEY, REFUSED, SECRET, STARTED, Webhook, a_webhook

ALERT = Alert(
    model="toy",
    alert_id="Überhitzung: 7",
    source="command",
    summary="temp is higher",
    raised_at=datetime(2026, 1, 1, tzinfo=UTC),
    received_at=datetime(2026, 1, 1, tzinfo=UTC),
    evidence={"columns": ["temp"]},
)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with a_webhook() as webhook:
        yield webhook


def send(webhook: Webhook, alert: Alert = ALERT, key: SigningKey = KEY, now: datetime | None = None) -> Any:
    return send_alert(alert, airflow_url=f"{webhook.url}/", key=key, now=now or datetime.now(UTC))


def test_published_example_of_standard_webhooks_gives_its_signature() -> None:
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secret_that_is_not_the_base64_it_says_is_refused_without_telling_it() -> None:
    with pytest.raises(RequestError, match="not base64") as refused:
        signature("whsec_!!", "m", "1", b"")
    assert "!!" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "monitor", "monitor:", ":S3cr3t"])
def test_key_without_name_or_secret_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(RequestError, match="name:secret") as refused:
        SigningKey.parse(text)
    assert "S3cr3t;" in str(refused.value)  # the example's, whatever was given
    assert repr(SigningKey.parse("a:hidden:too")) == "SigningKey(name='a')"


def test_alert_arrives_whole_and_its_outcome_comes_back(webhook: Webhook) -> None:
    outcome = send(webhook)
    assert (outcome.fate, outcome.run_id) == (Fate.STARTED, "drift__1")
    [(path, body)] = webhook.received
    assert path == "/perennial/v1/alerts"
    assert (
        body
        == json.loads(alert_body(ALERT))
        == {
            "model": "toy",
            "id": "Überhitzung: 7",
            "summary": "temp is higher",
            "raised_at": "2026-01-01T00:00:00Z",
            "source": "command",
            "evidence": {"columns": ["temp"]},
        }
    )


@pytest.mark.parametrize(
    ("status", "found"), [(409, REFUSED), (202, DEFERRED), (200, {**STARTED, "fate": "coalesced"})]
)
def test_outcome_is_returned_whatever_the_status(webhook: Webhook, status: int, found: dict[str, Any]) -> None:
    webhook.status, webhook.outcome = status, found
    assert send(webhook).to_dict() == found


def test_key_that_the_webhook_does_not_know_is_not_allowed_and_not_told(webhook: Webhook) -> None:
    with pytest.raises(NotAllowedError, match="key 'monitor'") as refused:
        send(webhook, key=SigningKey(name="monitor", secret="another secret"))
    assert "another secret" not in str(refused.value)
    assert webhook.received == []


def test_clock_that_is_an_hour_off_is_not_allowed(webhook: Webhook) -> None:
    with pytest.raises(NotAllowedError, match="clocks"):
        send(webhook, now=datetime.now(UTC) - timedelta(hours=1))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, WebhookUnavailableError),
        (500, WebhookUnavailableError),
        (503, WebhookUnavailableError),
        (403, NotAllowedError),
        (404, NotFoundError),
        (409, WebhookRefusedError),
        (413, WebhookRefusedError),
        (301, WebhookRefusedError),
    ],
)
def test_answer_without_an_outcome_is_an_error_of_its_kind(
    webhook: Webhook, status: int, expected: type[Exception]
) -> None:
    webhook.status = status
    with pytest.raises(expected, match=r"http://127\.0\.0\.1"):
        send(webhook)


def test_redirect_is_not_followed(webhook: Webhook) -> None:
    webhook.status, webhook.headers = 307, {"location": f"{webhook.url}/perennial/v1/alerts"}
    with pytest.raises(WebhookRefusedError):
        send(webhook)
    assert len(webhook.received) == 1


@pytest.mark.parametrize("raw", [b"<html>", b"[]", b'{"outcome": {"fate": "lost"}}', b'{"outcome": 3}'])
def test_answer_of_something_else_is_refused(webhook: Webhook, raw: bytes) -> None:
    webhook.raw = raw
    with pytest.raises(WebhookRefusedError, match="not as Perennial's webhook does"):
        send(webhook)


def test_nobody_at_the_address_is_worth_another_try() -> None:
    with a_webhook() as webhook:
        gone = webhook.url.replace("http://", "http://ada:hidden@")
    with pytest.raises(WebhookUnavailableError, match="did not answer") as unavailable:
        send_alert(ALERT, airflow_url=gone, key=KEY, now=datetime.now(UTC))
    assert "hidden" not in str(unavailable.value)
    assert SECRET not in str(unavailable.value)


def test_message_of_somebody_else_goes_as_it_is(webhook: Webhook) -> None:
    body = b'{"model": "toy",  "summary": "as a queue had it"}'
    outcome = send_message(body, message_id="m-1", airflow_url=webhook.url, key=KEY, now=datetime.now(UTC))
    assert outcome.fate is Fate.STARTED
    assert webhook.received == [("/perennial/v1/alerts", json.loads(body))]


def test_tick_returns_what_became_of_deferred_alerts(webhook: Webhook) -> None:
    webhook.due = [STARTED, DEFERRED]
    fates = [found.fate for found in send_tick("toy", airflow_url=webhook.url, key=KEY, now=datetime.now(UTC))]
    assert fates == [Fate.STARTED, Fate.DEFERRED]
    assert webhook.received == [("/perennial/v1/tick", {"model": "toy"})]


def test_tick_is_waited_for_longer_than_the_webhook_takes_up_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def hanging(_url: str, *, timeout: float, **_how: Any) -> None:
        waited.append(timeout)
        raise requests.ReadTimeout

    monkeypatch.setattr(requests, "post", hanging)
    with pytest.raises(WebhookUnavailableError, match="ReadTimeout"):
        send_tick("toy", airflow_url="http://127.0.0.1", key=KEY, now=datetime.now(UTC))
    assert waited[0] > 2 * TICK_FOR.total_seconds()

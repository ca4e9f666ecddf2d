"""Each sender's own form, from its documentation's example to what is on record."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from mlflow.entities.webhook import WebhookAction, WebhookEntity
from mlflow.webhooks.types import EVENT_TO_PAYLOAD_CLASS

from perennial.errors import StoreUnavailableError
from perennial_airflow.webhook import intake
from tests.unit.airflow.webhook.gate import BEARER, Gate, body_of, signed
from tests.unit.airflow.webhook.payloads import ALERTMANAGER, CLOUD_EVENT, GRAFANA, MLFLOW_TAG_SET

pytestmark = pytest.mark.airflow
Send = Callable[..., httpx.Response]


@pytest.fixture
def send(gate: Gate) -> Send:
    """Post to an adapter, with a token unless there are other headers."""

    def send(form: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return gate.client.post(f"/alerts/{form}", content=content, headers={**BEARER, **named})

    return send


def test_alertmanagers_firing_alert_is_recorded_and_the_resolved_one_is_not(gate: Gate, send: Send) -> None:
    answer = send("alertmanager", ALERTMANAGER)
    assert answer.status_code == 200
    firing, resolved = answer.json()["results"]
    [record] = gate.records()
    alert = record.alert
    assert firing["outcome"] == record.outcomes[0].to_dict()
    assert alert.alert_id == "1a30ba71cca2921f:2026-03-01T11:08:45.828123456Z"
    assert (alert.source, alert.sender) == ("alertmanager", "prometheus")
    assert alert.summary == "toy says yes twice as often"
    assert alert.raised_at.isoformat() == "2026-03-01T11:08:45.828123+00:00"
    assert alert.evidence["generatorURL"] == "http://prometheus.example.org:9090/graph?g0.expr=x"
    assert alert.evidence["labels"]["severity"] == "critical"
    assert (resolved["model"], resolved["outcome"]) == ("other", None)
    assert gate.records("other") == []
    assert len(gate.run_ids()) == 1


def test_alertmanagers_repeat_with_the_days_annotations_is_the_same_alert(gate: Gate, send: Send) -> None:
    first = send("alertmanager", ALERTMANAGER).json()["results"][0]
    later = copy.deepcopy(ALERTMANAGER)
    later["alerts"][0]["annotations"]["summary"] = "toy says yes three times as often"
    again = send("alertmanager", later)
    assert again.status_code == 200
    result = again.json()["results"][0]
    assert (result["outcome"], result["duplicate"]) == (first["outcome"], True)
    assert len(gate.records()) == len(gate.run_ids()) == 1


def test_alert_that_fires_anew_is_another_one(gate: Gate, send: Send) -> None:
    send("alertmanager", ALERTMANAGER)
    anew = copy.deepcopy(ALERTMANAGER)
    anew["alerts"][0]["startsAt"] = "2026-03-01T11:40:00Z"
    assert send("alertmanager", anew).json()["results"][0]["outcome"]["fate"] == "coalesced"
    assert len(gate.records()) == 2


def test_alert_without_a_model_keeps_no_other_from_being_recorded(gate: Gate, send: Send) -> None:
    body = copy.deepcopy(ALERTMANAGER)
    del body["alerts"][1]["labels"]["perennial_model"]
    body["alerts"][1]["status"] = "firing"
    answer = send("alertmanager", body)
    assert answer.status_code == 200
    assert "perennial_model" in answer.json()["results"][1]["message"]
    assert len(gate.records()) == 1


def test_model_whose_spec_is_broken_keeps_no_other_alert_from_being_recorded(gate: Gate, send: Send) -> None:
    body = copy.deepcopy(ALERTMANAGER)
    broken = copy.deepcopy(body["alerts"][0])
    broken["labels"]["perennial_model"] = "broken"
    answer = send("alertmanager", {**body, "alerts": [broken, body["alerts"][0]]})
    assert answer.status_code == 503
    assert "spec" in answer.json()["message"]
    assert len(gate.records()) == 1


def test_group_is_not_gone_on_with_for_ever_once_nothing_answers(
    gate: Gate, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, tried = [0.0], []

    def away(alert: Any, *_args: Any, **_kwargs: Any) -> Any:
        tried.append(alert)
        at[0] += intake.GO_ON_S
        raise StoreUnavailableError("away")

    monkeypatch.setattr(intake, "receive", away)
    monkeypatch.setattr(intake, "time", SimpleNamespace(monotonic=lambda: at[0]))
    assert send("alertmanager", {**ALERTMANAGER, "alerts": ALERTMANAGER["alerts"][:1] * 100}).status_code == 503
    assert len(tried) == 2


def test_passwords_in_addresses_are_in_no_record(gate: Gate, send: Send) -> None:
    event = {**CLOUD_EVENT, "source": "https://u:hush-hush@host/", "data": {"seen": ["https://u:hush-hush@host/x"]}}
    assert send("cloudevents", event, content_type=TestCloudEvents.STRUCTURED).status_code == 200
    body = body_of(summary="see http://u:hush-hush@h/x", evidence={"at": ["http://u:hush-hush@h/x"]})
    assert gate.client.post("/alerts", content=body, headers=signed(body)).status_code == 200
    kept = [record.alert.to_dict() for record in gate.records()]
    assert len(kept) == 2
    assert "hush-hush" not in json.dumps(kept)


@pytest.mark.parametrize(("name", "said"), [(None, "perennial_model"), ("nothing", "no such model")])
def test_message_of_which_nothing_can_be_used_is_422(gate: Gate, send: Send, name: str | None, said: str) -> None:
    body = {**ALERTMANAGER, "alerts": [copy.deepcopy(ALERTMANAGER["alerts"][0])]}
    body["alerts"][0]["labels"] = {"alertname": "x", **({"model": name} if name else {})}
    answer = send("alertmanager", body)
    assert answer.status_code == 422
    assert said in answer.json()["results"][0]["message"]


def test_more_alerts_than_can_be_recorded_in_time_are_refused_altogether(gate: Gate, send: Send) -> None:
    answer = send("alertmanager", {**ALERTMANAGER, "alerts": ALERTMANAGER["alerts"][:1] * 101})
    assert answer.status_code == 400
    assert "max_alerts" in answer.json()["message"]
    assert gate.records() == []


@pytest.mark.parametrize(
    "body",
    [[], {}, {"alerts": {}}, {"alerts": [1]}, {"alerts": [{"labels": {}}]}, {"alerts": [{"startsAt": "x"}]}, "x", None],
)
@pytest.mark.parametrize("form", ["alertmanager", "grafana"])
def test_what_is_no_notification_is_refused(send: Send, form: str, body: Any) -> None:
    assert send(form, body).status_code == 400


def test_grafanas_alert_is_recorded_with_its_values(gate: Gate, send: Send) -> None:
    answer = send("grafana", GRAFANA)
    assert answer.status_code == 200
    [record] = gate.records()
    assert (record.alert.source, record.alert.model) == ("grafana", "toy")
    assert record.alert.evidence["values"] == {"B": 44.23943737541908, "C": 1}
    assert record.alert.raised_at.isoformat() == "2026-03-01T10:51:03.157076+00:00"


class TestCloudEvents:
    STRUCTURED = "application/cloudevents+json; charset=utf-8"
    BINARY = {  # noqa: RUF012 - a test's constant
        "content_type": "application/json",
        "ce_specversion": "1.0",
        "ce_type": "com.example.drift",
        "ce_source": "/monitoring/eu",
        "ce_id": "A234-1234-1234",
        "ce_subject": "toy",
        "ce_time": "2026-03-01T11:31:00Z",
    }

    def test_structured_and_binary_event_are_the_same_alert(self, gate: Gate, send: Send) -> None:
        first = send("cloudevents", CLOUD_EVENT, content_type=self.STRUCTURED)
        again = send("cloudevents", CLOUD_EVENT["data"], **self.BINARY)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again.json()["results"][0]["duplicate"] is True
        [record] = gate.records()
        assert record.alert.alert_id == "/monitoring/eu:A234-1234-1234"
        assert record.alert.summary == "PSI of temp is 0.4"
        assert record.alert.evidence["data"] == {"message": "PSI of temp is 0.4", "psi": 0.4}

    def test_binary_attribute_is_percent_encoded_and_may_be_quoted(self, gate: Gate, send: Send) -> None:
        changes = {"ce_source": "/sensor%20%E2%82%AC", "ce_subject": '"toy"'}
        assert send("cloudevents", b"", **{**self.BINARY, **changes}).status_code == 200
        assert gate.records()[0].alert.alert_id == "/sensor €:A234-1234-1234"

    def test_signed_binary_event_is_refused_and_a_structured_one_taken(self, gate: Gate) -> None:
        body = json.dumps(CLOUD_EVENT).encode()
        binary = {name.replace("_", "-"): value for name, value in self.BINARY.items()}
        answer = gate.client.post("/alerts/cloudevents", content=body, headers={**signed(body), **binary})
        assert answer.status_code == 400
        assert "structured" in answer.json()["message"]
        headers = {**signed(body), "content-type": self.STRUCTURED}
        assert gate.client.post("/alerts/cloudevents", content=body, headers=headers).status_code == 200

    def test_batch_is_several_alerts(self, gate: Gate, send: Send) -> None:
        batch = [CLOUD_EVENT, {**CLOUD_EVENT, "id": "2", "data": {"perennial_model": "other"}}]
        answer = send("cloudevents", batch, content_type="application/cloudevents-batch+json")
        assert [result["model"] for result in answer.json()["results"]] == ["toy", "other"]
        assert len(gate.records()) == len(gate.records("other")) == 1

    @pytest.mark.parametrize(
        "data",
        [
            {"data_base64": base64.b64encode(b'{"model": "toy"}').decode()},
            {"data": {"model": "toy"}},
            {"perennialmodel": "toy"},
        ],
    )
    def test_model_may_be_named_in_the_data_or_an_extension(self, gate: Gate, send: Send, data: dict[str, Any]) -> None:
        event = {name: value for name, value in CLOUD_EVENT.items() if name not in ("data", "subject")}
        assert send("cloudevents", {**event, **data}, content_type=self.STRUCTURED).status_code == 200
        assert len(gate.records()) == 1

    @pytest.mark.parametrize(
        "change", [{"specversion": "0.3"}, {"id": ""}, {"source": None}, {"type": 1}, {"data_base64": "?"}]
    )
    def test_event_of_another_version_or_half_an_event_is_refused(self, send: Send, change: dict[str, Any]) -> None:
        assert send("cloudevents", {**CLOUD_EVENT, **change}, content_type=self.STRUCTURED).status_code == 400

    @pytest.mark.parametrize("headers", [{}, {"content_type": "application/json"}])
    def test_what_is_no_event_is_refused(self, send: Send, headers: dict[str, str]) -> None:
        assert send("cloudevents", CLOUD_EVENT, **headers).status_code == 400


class TestMlflow:
    def test_tag_on_a_version_is_an_alert_once_however_often_it_is_delivered(self, gate: Gate, send: Send) -> None:
        first = send("mlflow", MLFLOW_TAG_SET)
        again = send("mlflow", MLFLOW_TAG_SET)
        assert first.json()["results"][0]["outcome"] == again.json()["results"][0]["outcome"]
        [record] = gate.records()
        assert (record.alert.source, record.alert.summary) == ("mlflow", "the new sensors read higher")
        assert dict(record.alert.evidence)["version"] == "3"

    @pytest.mark.parametrize("event", EVENT_TO_PAYLOAD_CLASS, ids=lambda event: f"{event[0]}.{event[1]}")
    def test_every_other_event_is_taken_note_of_and_starts_nothing(
        self, gate: Gate, send: Send, event: tuple[WebhookEntity, WebhookAction]
    ) -> None:
        entity, action = event
        body = {
            "entity": entity.value,
            "action": action.value,
            "timestamp": "2026-03-01T11:59:00+00:00",
            "data": EVENT_TO_PAYLOAD_CLASS[event].example(),
        }
        answer = send("mlflow", body)
        assert answer.status_code == 200
        assert [result["outcome"] for result in answer.json()["results"]] == [None]
        assert gate.records() == gate.run_ids() == []

    @pytest.mark.parametrize("body", [[], {}, {"entity": "x", "action": "y"}, {"entity": 1, "action": 2, "data": {}}])
    def test_what_is_no_event_is_refused(self, send: Send, body: Any) -> None:
        assert send("mlflow", body).status_code == 400
